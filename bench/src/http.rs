//! The little of HTTP that the set-up of a run needs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The broker's HTTP door.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http {
    address: SocketAddr,
}

#[derive(Deserialize)]
struct Stats {
    topics: Vec<TopicStats>,
}

#[derive(Deserialize)]
struct TopicStats {
    depth: u64,
    channels: Vec<ChannelStats>,
}

#[derive(Deserialize)]
struct ChannelStats {
    channel_name: String,
    depth: u64,
    in_flight_count: u64,
    deferred_count: u64,
}

impl Http {
    /// At an address; nothing is sent yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Creates a topic, or leaves it as it is.
    ///
    /// # Errors
    /// No answer, or a refusal; as below.
    pub(crate) fn create_topic(&self, topic: &str) -> Result<()> {
        self.request("POST", &format!("/topic/create?topic={}", escape(topic)))
            .map(drop)
    }

    /// Forgets what a topic itself holds.
    pub(crate) fn empty_topic(&self, topic: &str) -> Result<()> {
        self.request("POST", &format!("/topic/empty?topic={}", escape(topic)))
            .map(drop)
    }

    /// Removes a topic and its channels.
    pub(crate) fn delete_topic(&self, topic: &str) -> Result<()> {
        self.request("POST", &format!("/topic/delete?topic={}", escape(topic)))
            .map(drop)
    }

    /// Creates a channel, or leaves it as it is.
    pub(crate) fn create_channel(&self, topic: &str, channel: &str) -> Result<()> {
        self.on_channel("create", topic, channel)
    }

    /// Forgets what a channel holds.
    pub(crate) fn empty_channel(&self, topic: &str, channel: &str) -> Result<()> {
        self.on_channel("empty", topic, channel)
    }

    /// Messages that a topic has and messages that one of its channels still owes: waiting, under way or
    /// deferred. The reference hands a topic's messages to its channels behind the publisher's back.
    pub(crate) fn owed(&self, topic: &str, channel: &str) -> Result<(u64, u64)> {
        let body = self.request(
            "GET",
            &format!("/stats?format=json&topic={}", escape(topic)),
        )?;
        let stats: Stats = serde_json::from_str(&body).context("the broker's statistics")?;
        let channels = stats.topics.iter().flat_map(|topic| &topic.channels);
        let channels = channels.filter(|stats| stats.channel_name == channel);
        let owed = channels.map(|stats| stats.depth + stats.in_flight_count + stats.deferred_count);
        Ok((
            stats.topics.iter().map(|topic| topic.depth).sum(),
            owed.sum(),
        ))
    }

    fn on_channel(&self, verb: &str, topic: &str, channel: &str) -> Result<()> {
        let (topic, channel) = (escape(topic), escape(channel));
        let path = format!("/channel/{verb}?topic={topic}&channel={channel}");
        self.request("POST", &path).map(drop)
    }

    fn request(&self, method: &str, path: &str) -> Result<String> {
        let exchange = || -> Result<String> {
            let mut socket = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            // Version 1.0: the answer ends with the connection and is not cut into chunks.
            let head = format!(
                "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
                self.address
            );
            socket.write_all(head.as_bytes())?;
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer)?;
            body(&String::from_utf8_lossy(&answer))
        };
        exchange().with_context(|| format!("{method} http://{}{path}", self.address))
    }
}

/// The body of a successful answer.
fn body(answer: &str) -> Result<String> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| anyhow!("no HTTP answer"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "status {status}: {body}");
    Ok(body.to_owned())
}

/// Names need only this one escape.
fn escape(name: &str) -> String {
    name.replace('#', "%23")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_has_a_body() {
        assert_eq!(
            body("HTTP/1.0 200 OK\r\nA: b\r\n\r\nhello").unwrap(),
            "hello"
        );
        let refusal = body("HTTP/1.0 404 Not Found\r\n\r\n{\"message\":\"X\"}").unwrap_err();
        assert_eq!(refusal.to_string(), "status 404: {\"message\":\"X\"}");
        assert!(body("garbage").is_err());
    }
}
