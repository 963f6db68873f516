//! What nsqds and nsqlookupds tell over HTTP about topics and channels.
//!
//! Everybody is asked at once. Who does not answer is reported next to what the others say: only
//! when nobody answers there is nothing to go on with.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use reqwest::header::ACCEPT;
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::http;

/// Asks.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    http: reqwest::Client,
}

/// Answers, and why others are missing.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    /// By address, in the order asked.
    pub(crate) found: Vec<(String, T)>,
    /// One text per failure.
    pub(crate) failures: Vec<String>,
}

/// Nobody answered.
#[derive(Debug, thiserror::Error)]
#[error("failed to query any {kind}: {}", .failures.join("\n"))]
pub(crate) struct NoAnswer {
    /// `nsqd` or `nsqlookupd`.
    kind: &'static str,
    failures: Vec<String>,
}

impl<T> Answers<T> {
    /// Something to go on with.
    fn or_none(self, kind: &'static str) -> Result<Self, NoAnswer> {
        if self.found.is_empty() {
            Err(NoAnswer {
                kind,
                failures: self.failures,
            })
        } else {
            Ok(self)
        }
    }
}

#[derive(Debug, Deserialize)]
struct TopicNames {
    #[serde(default)]
    topics: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Producers {
    #[serde(default)]
    producers: Option<Vec<Producer>>,
}

#[derive(Debug, Deserialize)]
struct Producer {
    broadcast_address: String,
    http_port: u16,
}

/// `/stats` of an nsqd.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct NodeStats {
    #[serde(default)]
    topics: Option<Vec<TopicStats>>,
}

#[derive(Debug, Deserialize)]
struct TopicStats {
    topic_name: String,
    #[serde(default)]
    channels: Option<Vec<ChannelStats>>,
}

/// One channel in `/stats`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ChannelStats {
    pub(crate) channel_name: String,
    pub(crate) depth: i64,
    pub(crate) backend_depth: i64,
    pub(crate) in_flight_count: i64,
    pub(crate) deferred_count: i64,
    pub(crate) requeue_count: i64,
    pub(crate) timeout_count: i64,
    pub(crate) message_count: i64,
    pub(crate) client_count: i64,
}

impl NodeStats {
    fn topic(&self, name: &str) -> Option<&TopicStats> {
        let topics = self.topics.as_deref().unwrap_or_default();
        topics.iter().find(|topic| topic.topic_name == name)
    }

    /// The channel, if this nsqd has it.
    pub(crate) fn channel(&self, topic: &str, channel: &str) -> Option<&ChannelStats> {
        let channels = self.topic(topic)?.channels.as_deref().unwrap_or_default();
        channels.iter().find(|found| found.channel_name == channel)
    }
}

impl Cluster {
    /// Asks with those limits.
    pub(crate) fn new(connect_timeout: Duration, request_timeout: Duration) -> Self {
        let http = http::builder(connect_timeout, request_timeout)
            .build()
            .expect("the settings are legal");
        Self { http }
    }

    /// All topics that these nsqlookupds know, in order.
    pub(crate) async fn topics(
        &self,
        lookupds: &[String],
    ) -> Result<(BTreeSet<String>, Vec<String>), NoAnswer> {
        let ask = |address: &str| {
            let url = format!("{}/topics", base(address));
            self.clone().get::<TopicNames>(url)
        };
        let answers = collect(lookupds, ask).await.or_none("nsqlookupd")?;
        let names = answers.found.into_iter();
        let names = names.flat_map(|(_, answer)| answer.topics.unwrap_or_default());
        Ok((names.collect(), answers.failures))
    }

    /// The HTTP addresses of the nsqds that have a topic, as these nsqlookupds know them.
    pub(crate) async fn producers(
        &self,
        topic: &str,
        lookupds: &[String],
    ) -> Result<(Vec<String>, Vec<String>), NoAnswer> {
        let ask = |address: &str| {
            let url = format!("{}/lookup?topic={}", base(address), escaped(topic));
            self.clone().get::<Producers>(url)
        };
        let answers = collect(lookupds, ask).await.or_none("nsqlookupd")?;
        let mut addresses: Vec<String> = Vec::new();
        let producers = answers.found.into_iter();
        for producer in producers.flat_map(|(_, answer)| answer.producers.unwrap_or_default()) {
            let address = host_port(&producer.broadcast_address, producer.http_port);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok((addresses, answers.failures))
    }

    /// Those of the nsqds that have a topic.
    pub(crate) async fn holders(
        &self,
        topic: &str,
        nsqds: &[String],
    ) -> Result<(Vec<String>, Vec<String>), NoAnswer> {
        let answers = self.node_stats(topic, None, nsqds).await?;
        let holders = answers.found.into_iter();
        let holders = holders.filter(|(_, stats)| stats.topic(topic).is_some());
        Ok((
            holders.map(|(address, _)| address).collect(),
            answers.failures,
        ))
    }

    /// `/stats` of these nsqds about a topic, or about one channel of it.
    pub(crate) async fn node_stats(
        &self,
        topic: &str,
        channel: Option<&str>,
        nsqds: &[String],
    ) -> Result<Answers<NodeStats>, NoAnswer> {
        let ask = |address: &str| {
            let (base, topic) = (base(address), escaped(topic));
            let channel = channel.map_or_else(String::new, |channel| {
                format!("&channel={}", escaped(channel))
            });
            let query = format!("format=json&topic={topic}{channel}&include_clients=false");
            self.clone()
                .get::<NodeStats>(format!("{base}/stats?{query}"))
        };
        collect(nsqds, ask).await.or_none("nsqd")
    }

    /// The answer of one who requires TLS is asked for again where it says, as in the reference.
    async fn get<T: DeserializeOwned>(self, mut url: String) -> Result<T, String> {
        let (mut status, mut body) = self.ask(&url).await?;
        if status == StatusCode::FORBIDDEN && !url.starts_with("https:") {
            url = https(&url, &body)?;
            (status, body) = self.ask(&url).await?;
        }
        if status != StatusCode::OK {
            let body = String::from_utf8_lossy(&body);
            return Err(format!("got response {status} {body:?}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("{url}: {error}"))
    }

    async fn ask(&self, url: &str) -> Result<(StatusCode, Bytes), String> {
        let failed = |error: reqwest::Error| http::error_text("Get", url, &error);
        let request = self.http.get(url);
        let request = request.header(ACCEPT, "application/vnd.nsq; version=1.0");
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let body = response.bytes().await.map_err(failed)?;
        Ok((status, body))
    }
}

/// Asks all addresses at once.
async fn collect<T: Send + 'static, F>(addresses: &[String], ask: impl Fn(&str) -> F) -> Answers<T>
where
    F: Future<Output = Result<T, String>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for (index, address) in addresses.iter().enumerate() {
        let answer = ask(address);
        asked.spawn(async move { (index, answer.await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for (index, answer) in answers {
        match answer {
            Ok(answer) => found.push((addresses[index].clone(), answer)),
            Err(failure) => failures.push(failure),
        }
    }
    Answers { found, failures }
}

/// `host:port` as a URL; what is one already stays.
fn base(address: &str) -> String {
    let address = address.trim_end_matches('/');
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    }
}

/// Where a 403 sends a request: `{"message": "TLS_REQUIRED", "https_port": 4152}`.
fn https(url: &str, body: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct TlsRequired {
        https_port: u16,
    }
    let text = || String::from_utf8_lossy(body);
    let refused = |_| format!("got response {} {:?}", StatusCode::FORBIDDEN, text());
    let required: TlsRequired = serde_json::from_slice(body).map_err(refused)?;
    let mut url = Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
    let changed = url.set_scheme("https");
    changed
        .and_then(|()| url.set_port(Some(required.https_port)))
        .map_err(|()| format!("{url}: it has no host"))?;
    Ok(url.into())
}

/// An IPv6 address needs brackets.
fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// What Go leaves as it is in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The value of a query parameter, as Go writes it: a space is `+`.
pub(crate) fn escaped(value: impl AsRef<[u8]>) -> String {
    let escaped = percent_encode(value.as_ref(), QUERY).to_string();
    escaped.replace("%20", "+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped_as_go_does() {
        let cases: [(&[u8], &str); 3] = [
            (b"a b&c/d", "a+b%26c%2Fd"),
            (b"t#ephemeral~-_.", "t%23ephemeral~-_."),
            (b"\xff\n\"", "%FF%0A%22"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(escaped(bytes), expected);
        }
    }

    #[test]
    fn addresses_become_urls() {
        assert_eq!(base("a:1"), "http://a:1");
        assert_eq!(base("https://a:1/"), "https://a:1");
        assert_eq!(host_port("::1", 4151), "[::1]:4151");
        assert_eq!(host_port("vm", 4151), "vm:4151");
    }

    #[test]
    fn who_requires_tls_is_asked_where_it_says() {
        let body = br#"{"message": "TLS_REQUIRED", "https_port": 4152}"#;
        let moved = https("http://[::1]:4151/stats?topic=a+b%26c", body);
        let expected = "https://[::1]:4152/stats?topic=a+b%26c";
        assert_eq!(moved, Ok(expected.to_owned()));
        let refused = https("http://a:1/topics", b"no entry").unwrap_err();
        assert_eq!(refused, r#"got response 403 Forbidden "no entry""#);
    }

    #[test]
    fn stats_without_topics_or_channels_are_understood() {
        for text in [
            "{}",
            r#"{"topics":null}"#,
            r#"{"topics":[{"topic_name":"t"}]}"#,
        ] {
            let stats: NodeStats = serde_json::from_str(text).expect("valid");
            assert_eq!(stats.channel("t", "c"), None, "{text}");
        }
        let text =
            r#"{"topics":[{"topic_name":"t","channels":[{"channel_name":"c","depth":3,"x":1}]}]}"#;
        let stats: NodeStats = serde_json::from_str(text).expect("valid");
        assert_eq!(
            stats.channel("t", "c").map(|channel| channel.depth),
            Some(3)
        );
        assert_eq!(stats.channel("u", "c"), None);
    }
}
