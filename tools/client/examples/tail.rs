//! Prints the messages of a topic as they come: `tail TOPIC [NSQD_ADDRESS]`.
//!
//! Ctrl-C stops it politely: messages that were not printed go back to the nsqd.

use std::io::Write as _;

use nsq_client::{Config, Consumer, Log, LogLevel};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("usage: tail TOPIC [NSQD_ADDRESS]")?;
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:4150".to_owned());

    let mut config = Config::new();
    config.max_in_flight = 200;
    let consumer = Consumer::builder(&topic, "tail#ephemeral")
        .config(config)
        .log(Log::stderr(LogLevel::Info))
        .build()?;
    consumer.connect_to_nsqds([address]).await?;

    let mut messages = Vec::new();
    loop {
        tokio::select! {
            count = consumer.recv_many(&mut messages, 100) => if count == 0 { break },
            _ = tokio::signal::ctrl_c() => break,
        }
        let mut out = std::io::stdout().lock();
        for message in messages.drain(..) {
            out.write_all(message.body())?;
            out.write_all(b"\n")?;
            message.finish();
        }
        out.flush()?;
    }
    consumer.stop().await?;
    Ok(())
}
