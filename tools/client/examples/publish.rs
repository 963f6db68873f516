//! Publishes the lines of its standard input, many at a time: `publish TOPIC [NSQD_ADDRESS]`.

use std::io::BufRead as _;

use nsq_client::{Batch, Config, Log, LogLevel, Producer};

/// Below the `--max-body-size` of any nsqd, and large enough that nothing waits.
const BATCH_BYTES: usize = 64 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments
        .next()
        .ok_or("usage: publish TOPIC [NSQD_ADDRESS]")?;
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:4150".to_owned());

    let producer = Producer::new(&address, &Config::new(), Log::stderr(LogLevel::Info))?;
    let mut receipts = Vec::new();
    let mut batch = Batch::new();
    for line in std::io::stdin().lock().lines() {
        batch.push(line?.as_bytes());
        if batch.bytes() >= BATCH_BYTES {
            receipts.push(producer.send_batch(&topic, &batch).await?);
            batch.clear();
        }
    }
    if !batch.is_empty() {
        receipts.push(producer.send_batch(&topic, &batch).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    producer.stop().await;
    Ok(())
}
