//! The task of a producer's connection.

use std::sync::Arc;

use nsq_proto::{ErrorCode, Frame};
use tokio::io::AsyncRead;

use super::port::Port;
use crate::link::{Dialer, Inbound, Link, LinkError, drive};
use crate::log::InstanceLog;
use crate::{ConnectError, NsqdError};

/// Closes the port whichever way the task ends.
struct Closing(Arc<Port>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Connects, and starts the task that serves the connection.
pub(super) async fn open(
    dialer: &Arc<Dialer>,
    address: &Arc<str>,
    log: &InstanceLog,
) -> Result<Arc<Port>, ConnectError> {
    log.info(format_args!("({address}) connecting to nsqd"));
    let link = Link::open(dialer, address, log)
        .await
        .inspect_err(|error| {
            log.error(format_args!(
                "({address}) error connecting to nsqd - {error}"
            ));
        })?;
    let port = Arc::new(Port::new());
    let closing = Closing(Arc::clone(&port));
    let (dialer, address, log) = (Arc::clone(dialer), Arc::clone(address), log.clone());
    tokio::spawn(async move { serve(link, &closing.0, (&dialer, &address, &log)).await });
    Ok(port)
}

async fn serve(mut link: Link, port: &Port, (dialer, address, log): (&Dialer, &str, &InstanceLog)) {
    let reading = read(&mut link.inbound, &mut link.source, port, log);
    let writing = link.outbound.run(&mut link.sink, &port.outbox);
    match drive(reading, writing, dialer.config.read_timeout).await {
        Ok(()) => {}
        Err(error) => log.error(format_args!("({address}) IO error - {error}")),
    }
    log.info(format_args!("({address}) clean close complete"));
}

/// Reads answers until the end; after the last command also the last answer is an end.
async fn read(
    inbound: &mut Inbound,
    source: &mut (impl AsyncRead + Unpin),
    port: &Port,
    log: &InstanceLog,
) -> Result<(), LinkError> {
    loop {
        while let Some(frame) = inbound.take_frame()? {
            let (answer, data) = match frame {
                Frame::Response(data) if &data[..] == b"_heartbeat_" => {
                    log.debug(format_args!("heartbeat received"));
                    port.answer_heartbeat();
                    continue;
                }
                Frame::Response(data) => (Ok(()), data),
                Frame::Error(data) => {
                    let refusal = NsqdError::new(&data);
                    if refusal.code.is_none_or(ErrorCode::is_fatal) {
                        // The nsqd is about to close: the next publish needs another connection.
                        port.retire();
                    }
                    (Err(refusal), data)
                }
                Frame::Message(delivery) => return Err(unexpected(&delivery.body)),
            };
            if !port.on_answer(answer) {
                return Err(unexpected(&data));
            }
        }
        inbound.fill(source).await?;
    }
}

fn unexpected(data: &[u8]) -> LinkError {
    LinkError::Unexpected(String::from_utf8_lossy(data).into_owned())
}
