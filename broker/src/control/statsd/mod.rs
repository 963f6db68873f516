//! Pushing numbers to statsd over UDP (spec nsqd.md §6).
//!
//! One task. Its datagrams are spread over the interval less one second; when the broker stops, what
//! is left of them goes out at once.

mod lines;

use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::config::Statsd;
use crate::gateway::BrokerStats;
use crate::http;
use crate::shard::message::ShardMessage;
use crate::shard::stats::StatsPart;
use crate::shared::Shared;
use lines::{Counters, Lines};

/// Datagrams are spread over the interval less this.
const REST: Duration = Duration::from_secs(1);
/// Time for finding the daemon's address, and for a shard's numbers.
const STEP: Duration = Duration::from_secs(1);

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Pusher {
    pub(super) settings: Statsd,
    pub(super) shared: Arc<Shared>,
    /// Becomes `true` when the broker stops.
    pub(super) stopping: watch::Receiver<bool>,
}

impl Pusher {
    /// Pushes once an interval until the broker stops.
    pub(super) async fn run(mut self) {
        let interval = self.settings.interval;
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Counters::default();
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                _ = ticks.tick() => last = self.push(last).await,
                () = stopped(&mut stopping) => break,
            }
        }
        self.shared.logger.info(format_args!("STATSD: closing"));
    }

    /// One push; the counters that the next one is compared with.
    async fn push(&mut self, last: Counters) -> Counters {
        let address = &self.settings.address;
        let logger = &self.shared.logger;
        let Ok(Ok(socket)) = timeout(STEP, connect(address)).await else {
            logger.error(format_args!(
                "failed to create UDP socket to statsd({address})"
            ));
            return last;
        };
        let Some(stats) = self.gather().await else {
            logger.error(format_args!("STATSD: a shard did not answer in time"));
            return last;
        };
        logger.info(format_args!("STATSD: pushing stats to {address}"));
        let mut lines = Lines::new(&self.settings, &last);
        lines.broker(&stats);
        if self.settings.mem_stats {
            lines.memory(&http::memory());
        }
        let (lines, counters) = lines.finish();
        let datagram_bytes = usize::try_from(self.settings.udp_packet_size).unwrap_or(usize::MAX);
        let datagrams = lines::pack(&lines, datagram_bytes);
        self.send(&socket, &datagrams).await;
        counters
    }

    /// Sends with a pause after each, which the end of the broker cuts short.
    async fn send(&mut self, socket: &UdpSocket, datagrams: &[Vec<u8>]) {
        let count = u32::try_from(datagrams.len()).unwrap_or(u32::MAX).max(1);
        let pause = (self.settings.interval - REST) / count;
        for datagram in datagrams {
            if let Err(error) = socket.send(datagram).await {
                // Usually nobody listens there; the next one may arrive.
                let address = &self.settings.address;
                self.shared
                    .logger
                    .debug(format_args!("STATSD: sending to {address} - {error}"));
            }
            // Either way the next one is due.
            drop(timeout(pause, stopped(&mut self.stopping)).await);
        }
    }

    /// The numbers of all shards; `None` when one does not answer in time.
    async fn gather(&self) -> Option<BrokerStats> {
        let mut parts = Vec::new();
        for shard in 0..self.shared.shard_count() {
            let (sender, part) = oneshot::channel();
            let message = ShardMessage::Numbers(sender);
            let sent = timeout(STEP, self.shared.mailboxes.send(shard, message));
            sent.await.ok()?;
            parts.push(part);
        }
        let mut all = StatsPart::default();
        for part in parts {
            all.merge(*timeout(STEP, part).await.ok()?.ok()?);
        }
        Some(all.finish())
    }
}

/// A socket that sends to the daemon.
async fn connect(address: &str) -> std::io::Result<UdpSocket> {
    let mut last = None;
    for daemon in tokio::net::lookup_host(address).await? {
        let local = if daemon.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(local).await?;
        match socket.connect(daemon).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::NotFound.into()))
}

/// Resolves when the broker stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The sender goes only after the value is set.
    drop(stopping.wait_for(|stopping| *stopping).await);
}
