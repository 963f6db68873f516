//! What the tests share: a scripted nsqd, real brokers, log lines, conditions.

pub(crate) mod broker;
pub(crate) mod fake;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nsq_client::{Config, Consumer, Log, LogLevel};
use tokio::time::{interval, timeout};

use fake::{Fake, Peer};

/// Nothing in a test takes longer, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for it, not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("takes too long")
}

/// Waits until the condition holds, not for ever.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let mut ticks = interval(Duration::from_millis(2));
    let wait = async {
        while !condition() {
            ticks.tick().await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

pub(crate) fn config(options: &[(&str, &str)]) -> Config {
    let mut config = Config::new();
    for (key, value) in options {
        config.set(key, value).unwrap();
    }
    config
}

/// A consumer of channel `c` of topic `t`.
pub(crate) fn consumer(options: &[(&str, &str)]) -> Consumer {
    Consumer::builder("t", "c")
        .config(config(options))
        .build()
        .unwrap()
}

/// Connects to the fake and accepts its subscription.
pub(crate) async fn connect(consumer: &Consumer, nsqd: &Fake) -> Peer {
    let connecting = consumer.connect_to_nsqds([nsqd.address()]);
    let (connected, peer) = tokio::join!(soon(connecting), nsqd.accept_consumer());
    connected.unwrap();
    peer
}

/// Log lines as they come.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub(crate) fn log(&self) -> Log {
        let lines = self.clone();
        Log::new(LogLevel::Info, move |_, line| {
            lines.0.lock().unwrap().push(line.to_owned());
        })
    }

    pub(crate) fn contain(&self, text: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains(text))
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}
