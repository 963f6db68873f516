//! The task of one connection: from dialing to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use nsq_proto::{Frame, encode_sub};
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::flow::ConnectionId;
use super::message::Message;
use super::port::Port;
use super::shared::Shared;
use super::supervisor::Command;
use crate::ConnectError;
use crate::link::{Inbound, Link, LinkError, drive};

/// From CLS to the end, at most.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the nsqd has to close a connection that was told that nothing more will come.
const LINGER: Duration = Duration::from_secs(1);
/// Room in the queue beyond twice what may be in flight, in messages.
const QUEUE_SLACK: usize = 16;

/// How the task ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It was never a connection.
    NotOpened(ConnectError),
    /// It was one. So many messages were unanswered when a close took too long.
    Closed { abandoned: u64 },
}

/// Closes the port whichever way the task ends, also when it is aborted.
struct Closing(Arc<Port>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.outbox.close(|_| ());
    }
}

/// Connects, subscribes and serves the connection. `cancel` ends it as long as it is not connected.
pub(super) async fn run(
    shared: Arc<Shared>,
    id: ConnectionId,
    address: Arc<str>,
    cancel: oneshot::Receiver<()>,
) -> Ended {
    let opened = tokio::select! {
        opened = Box::pin(Link::open(&shared.dialer, &address, &shared.log)) => opened,
        _ = cancel => Err(ConnectError::Stopped),
    };
    let mut link = match opened {
        Ok(link) => link,
        Err(error) => return Ended::NotOpened(error),
    };
    let port = Arc::new(Port::new(Arc::clone(&address), Arc::clone(&shared)));
    let closing = Closing(Arc::clone(&port));
    port.outbox
        .push(|entry| encode_sub(entry.commands, &shared.topic, &shared.channel));
    shared.tell(Command::Opened {
        id,
        port: Arc::clone(&port),
        ready_max: link.features.max_rdy_count,
    });
    let read = read(&mut link.inbound, &mut link.source, &port);
    let write = link.outbound.run(&mut link.sink, &port.outbox);
    let ended = tokio::select! {
        ended = drive(read, write, LINGER) => ended,
        () = close_deadline(&port) => {
            let abandoned = port.outbox.read(|flight| flight.in_flight);
            shared.log.warn(format_args!("({address}) closing with {abandoned} messages in flight"));
            return Ended::Closed { abandoned };
        }
    };
    match ended {
        Err(LinkError::Eof) if port.outbox.read(|flight| flight.drained) => {}
        Err(error) => shared
            .log
            .error(format_args!("({address}) IO error - {error}")),
        Ok(()) => {}
    }
    drop(closing);
    shared
        .log
        .info(format_args!("({address}) clean close complete"));
    Ended::Closed { abandoned: 0 }
}

async fn close_deadline(port: &Port) {
    port.closing.notified().await;
    sleep(CLOSE_TIMEOUT).await;
}

/// Reads until the end.
async fn read(
    inbound: &mut Inbound,
    source: &mut (impl AsyncRead + Unpin),
    port: &Arc<Port>,
) -> Result<(), LinkError> {
    let shared = &port.shared;
    let mut batch = Vec::new();
    loop {
        loop {
            match inbound.take_frame() {
                Ok(Some(Frame::Message(delivery))) => {
                    batch.push(Message::new(delivery, Arc::clone(port)));
                }
                Ok(Some(Frame::Response(data))) => {
                    // What came before it has to be counted before it.
                    hand_out(port, &mut batch);
                    on_response(port, &data);
                }
                Ok(Some(Frame::Error(data))) => shared.log.error(format_args!(
                    "({}) protocol error - {}",
                    port.address,
                    String::from_utf8_lossy(&data)
                )),
                Ok(None) => break,
                Err(error) => {
                    // Messages that cannot be answered any more are not failures.
                    port.outbox.close(|_| ());
                    return Err(error);
                }
            }
        }
        hand_out(port, &mut batch);
        let in_flight = shared.max_in_flight.load(Ordering::Relaxed) as usize;
        let room = in_flight.saturating_mul(2).saturating_add(QUEUE_SLACK);
        shared.queue.wait_for_room(room).await;
        inbound.fill(source).await?;
    }
}

/// Counts the messages, gives up those that were tried too often, and queues the others.
fn hand_out(port: &Port, batch: &mut Vec<Message>) {
    if batch.is_empty() {
        return;
    }
    port.on_received(batch.len() as u64);
    let attempts_max = port.shared.dialer.config.max_attempts;
    if attempts_max > 0 {
        for message in batch.extract_if(.., |message| message.attempts() > attempts_max) {
            give_up(&port.shared, message);
        }
    }
    port.shared.queue.push(batch);
}

fn give_up(shared: &Shared, message: Message) {
    let (id, attempts) = (message.id(), message.attempts());
    shared.log.warn(format_args!(
        "msg {id} attempted {attempts} times, giving up"
    ));
    if let Some(hook) = &shared.on_give_up {
        hook(&message);
    }
    shared.counters.given_up.fetch_add(1, Ordering::Relaxed);
    message.finish();
}

fn on_response(port: &Port, data: &Bytes) {
    let (address, log) = (&port.address, &port.shared.log);
    match &data[..] {
        b"_heartbeat_" => {
            log.debug(format_args!("({address}) heartbeat received"));
            port.answer_heartbeat();
        }
        b"CLOSE_WAIT" => {
            log.info(format_args!("({address}) received CLOSE_WAIT from nsqd"));
            port.on_drained();
            port.shared.tell(Command::Drained);
        }
        // The answer to SUB.
        _ => {}
    }
}
