//! Which channels of a new topic the nsqlookupds know (spec nsqd.md §5.3).

use std::collections::BTreeSet;
use std::time::Duration;

use nsq_cli::Logger;
use nsq_proto::{ChannelName, TopicName};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::peer::{FIRST_ATTEMPT_MAX, PeerInfo, PeerState};
use crate::control::outbound::HttpClient;

/// Longest time that a topic waits where `--http-client-request-timeout` sets no bound.
const UNBOUNDED_MAX: Duration = Duration::from_secs(60);
/// What Go's `url.QueryEscape` leaves as it is.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reply {
    channels: Option<Vec<String>>,
}

/// A question that is put to all peers at once.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) topic: TopicName,
    pub(super) peers: Vec<watch::Receiver<PeerState>>,
    pub(super) http: HttpClient,
    pub(super) logger: Logger,
}

impl Question {
    /// All channels that any peer names, within the bounds of the HTTP client: who has not
    /// answered by then is not waited for.
    pub(super) async fn answer(mut self, questions: &Semaphore) -> Vec<ChannelName> {
        if self.peers.is_empty() {
            return Vec::new();
        }
        let addresses = self.addresses().await;
        if addresses.is_empty() {
            self.logger.error(format_args!(
                "no available nsqlookupd to query for channels to pre-create for topic {}",
                self.topic
            ));
            return Vec::new();
        }
        let limit = self.http.request_timeout().unwrap_or(UNBOUNDED_MAX);
        let mut found = BTreeSet::new();
        let mut failures = Vec::new();
        let asked = async {
            let _turn = questions.acquire().await.expect("it is never closed");
            self.ask(addresses, &mut found, &mut failures).await;
        };
        if timeout(limit, asked).await.is_err() {
            failures.push("not all answered in time".to_owned());
        }
        if !failures.is_empty() {
            self.logger.warn(format_args!(
                "failed to query nsqlookupd for channels to pre-create for topic {} - {}",
                self.topic,
                failures.join("\n")
            ));
        }
        found.into_iter().collect()
    }

    /// `host:port` of every peer's HTTP door. A peer that is being connected to for the first time
    /// is waited for, so that a topic made right after the start misses no channel.
    async fn addresses(&mut self) -> BTreeSet<String> {
        let mut addresses = BTreeSet::new();
        let settled = async {
            for peer in &mut self.peers {
                // It fails for a peer that was removed meanwhile.
                drop(peer.wait_for(|state| *state != PeerState::Connecting).await);
            }
        };
        // Who is late is not asked.
        drop(timeout(FIRST_ATTEMPT_MAX, settled).await);
        for peer in &self.peers {
            if let PeerState::Known(info) = &*peer.borrow()
                && let Some(address) = http_address(info)
            {
                addresses.insert(address);
            }
        }
        addresses
    }

    async fn ask(
        &self,
        addresses: BTreeSet<String>,
        found: &mut BTreeSet<ChannelName>,
        failures: &mut Vec<String>,
    ) {
        let mut replies = JoinSet::new();
        for address in addresses {
            let topic = utf8_percent_encode(self.topic.as_str(), QUERY);
            let url = format!("http://{address}/channels?topic={topic}");
            self.logger
                .info(format_args!("CI: querying nsqlookupd {url}"));
            let http = self.http.clone();
            replies.spawn(async move {
                let body = http.get(&url).await.map_err(|error| error.to_string())?;
                serde_json::from_slice::<Reply>(&body).map_err(|error| error.to_string())
            });
        }
        while let Some(reply) = replies.join_next().await {
            match reply.expect("a panic ends the process") {
                Ok(reply) => found.extend(self.usable(reply.channels.unwrap_or_default())),
                Err(reason) => failures.push(reason),
            }
        }
    }

    /// Legal names (K29) of channels that outlive their consumers.
    fn usable(&self, names: Vec<String>) -> Vec<ChannelName> {
        let parse = |name: String| {
            let parsed = ChannelName::parse(name.as_bytes());
            if parsed.is_err() {
                let topic = &self.topic;
                self.logger.warn(format_args!(
                    "skipping creation of invalid channel {name:?} that nsqlookupd has for topic {topic}"
                ));
            }
            parsed.ok().filter(|name| !name.is_ephemeral())
        };
        names.into_iter().filter_map(parse).collect()
    }
}

fn http_address(info: &PeerInfo) -> Option<String> {
    let (host, port) = (&info.broadcast_address, info.http_port);
    match host.as_str() {
        "" => None,
        host if host.contains(':') => Some(format!("[{host}]:{port}")),
        host => Some(format!("{host}:{port}")),
    }
}
