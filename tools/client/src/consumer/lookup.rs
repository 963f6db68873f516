//! Asking nsqlookupds who has a topic.
//!
//! A round asks all of them at once and takes what any of them says, so one that is down or does not
//! know the topic yet hides nothing. Only when all fail the round is tried again, three times in all.

use std::error::Error as _;
use std::io;

use reqwest::header::{ACCEPT, AUTHORIZATION};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;

use crate::ConnectError;
use crate::link::Dialer;
use crate::log::InstanceLog;

/// Attempts of a round in which nobody answers.
const TRIES: u32 = 3;
/// Longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The address of a nsqlookupd as users write it, made the URL of its look-up of a topic.
///
/// # Errors
/// [`ConnectError::Address`].
pub(super) fn lookup_url(address: &str, topic: &str) -> Result<Url, ConnectError> {
    let full = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let failed = |reason: &str| ConnectError::Address(reason.to_owned());
    let mut url = Url::parse(&full).map_err(|error| failed(&format!("parse {full:?}: {error}")))?;
    if !has_port(&full) {
        return Err(failed("missing port"));
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(failed(&format!(
            "unsupported protocol scheme {:?}",
            url.scheme()
        )));
    }
    if matches!(url.path(), "" | "/") {
        url.set_path("/lookup");
    }
    url.query_pairs_mut().append_pair("topic", topic);
    Ok(url)
}

/// Whether a port is written, be it the scheme's own, which a parsed URL does not remember.
fn has_port(url: &str) -> bool {
    let authority = url.split("://").nth(1).unwrap_or_default();
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let after_host = host.rsplit(']').next().unwrap_or_default();
    matches!(after_host.rsplit_once(':'), Some((_, port)) if !port.is_empty())
}

/// Asks for the nsqds of a topic.
#[derive(Debug, Clone)]
pub(super) struct Lookup {
    client: Client,
    /// Sent to the nsqlookupds.
    secret: Option<String>,
    log: InstanceLog,
}

impl Lookup {
    /// # Errors
    /// Why TLS cannot be set up.
    pub(super) fn new(dialer: &Dialer, log: InstanceLog) -> Result<Self, ConnectError> {
        let config = &dialer.config;
        let tls = dialer.tls().map_err(ConnectError::Address)?;
        let limit = config.lookupd_poll_timeout;
        let mut builder = Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .no_proxy();
        if !limit.is_zero() {
            builder = builder.timeout(limit).connect_timeout(limit);
        }
        let client = builder
            .build()
            .map_err(|error| ConnectError::Address(error.to_string()))?;
        let wanted = config.lookupd_authorization;
        Ok(Self {
            client,
            secret: config.auth_secret.clone().filter(|_| wanted),
            log,
        })
    }

    /// Asks all of them for `host:port` of their nsqds, and logs what fails.
    pub(super) async fn round(self, urls: Vec<Url>) -> Vec<String> {
        for attempt in 1..=TRIES {
            if let Some(addresses) = self.ask_all(&urls).await {
                return addresses;
            }
            if attempt < TRIES {
                self.log.info(format_args!("retrying with next nsqlookupd"));
            }
        }
        Vec::new()
    }

    /// `None` when nobody answers.
    async fn ask_all(&self, urls: &[Url]) -> Option<Vec<String>> {
        let mut asked = tokio::task::JoinSet::new();
        for url in urls {
            self.log.info(format_args!("querying nsqlookupd {url}"));
            let (lookup, url) = (self.clone(), url.clone());
            asked.spawn(async move { (lookup.ask(url.clone()).await, url) });
        }
        let (mut answered, mut addresses) = (false, Vec::new());
        while let Some(answer) = asked.join_next().await {
            match answer.expect("look-ups do not panic and are not aborted") {
                (Ok(found), _) => {
                    answered = true;
                    addresses.extend(found);
                }
                (Err(error), url) => self
                    .log
                    .error(format_args!("error querying nsqlookupd ({url}) - {error}")),
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        answered.then_some(addresses)
    }

    async fn ask(&self, url: Url) -> Result<Vec<String>, String> {
        let mut request = self
            .client
            .get(url.clone())
            .header(ACCEPT, "application/vnd.nsq; version=1.0");
        if let Some(secret) = &self.secret {
            request = request.header(AUTHORIZATION, format!("Bearer {secret}"));
        }
        let failed =
            |error: reqwest::Error| format!("Get {:?}: {}", url.as_str(), cause(&error, &url));
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let bare = response
            .headers()
            .get("X-NSQ-Content-Type")
            .is_some_and(|value| value == "nsq; version=1.0");
        let body = read_body(response).await?;
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(&body);
            return Err(format!("got response {status} {text:?}"));
        }
        parse(&body, bare)
    }
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err("answer too long".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The reason at the bottom of the error, in Go's words where it is the network's.
fn cause(error: &reqwest::Error, url: &Url) -> String {
    if error.is_timeout() {
        return "context deadline exceeded".to_owned();
    }
    let mut last = error.source();
    while let Some(next) = last.and_then(std::error::Error::source) {
        last = Some(next);
    }
    let Some(root) = last else {
        return error.to_string();
    };
    match root.downcast_ref::<io::Error>() {
        Some(io_error) if error.is_connect() && io_error.raw_os_error().is_some() => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or_default();
            let reason = nsq_cli::errno_text(io_error);
            format!("dial tcp {host}:{port}: connect: {reason}")
        }
        _ => root.to_string(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    producers: Option<Vec<Producer>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Producer {
    broadcast_address: String,
    tcp_port: u16,
}

/// What nsqlookupds before 1.0 wrapped their answers in.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wrapped {
    data: Option<Answer>,
}

fn parse(body: &[u8], bare: bool) -> Result<Vec<String>, String> {
    let body = if body.is_empty() { b"{}" } else { body };
    let text = |error: serde_json::Error| error.to_string();
    let answer = if bare {
        serde_json::from_slice(body).map_err(text)?
    } else {
        let wrapped: Wrapped = serde_json::from_slice(body).map_err(text)?;
        wrapped.data.unwrap_or_default()
    };
    let producers = answer.producers.unwrap_or_default();
    Ok(producers.iter().map(Producer::address).collect())
}

impl Producer {
    fn address(&self) -> String {
        let (host, port) = (&self.broadcast_address, self.tcp_port);
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(address: &str) -> String {
        match lookup_url(address, "a topic") {
            Ok(url) => url.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn addresses_become_urls() {
        let table = [
            ("host:4161", "http://host:4161/lookup?topic=a+topic"),
            ("http://host:4161/", "http://host:4161/lookup?topic=a+topic"),
            ("https://host:443", "https://host/lookup?topic=a+topic"),
            ("http://h:1/x/y?k=v", "http://h:1/x/y?k=v&topic=a+topic"),
            ("[::1]:4161", "http://[::1]:4161/lookup?topic=a+topic"),
            ("host", "missing port"),
            ("http://host/lookup", "missing port"),
            ("https://[::1]", "missing port"),
            ("ftp://host:1", r#"unsupported protocol scheme "ftp""#),
        ];
        for (address, expected) in table {
            assert_eq!(url(address), expected, "{address}");
        }
    }

    #[test]
    fn answers_are_bare_or_wrapped() {
        let producers = r#"{"channels":[],"producers":[
            {"broadcast_address":"b","tcp_port":4150,"http_port":1},
            {"broadcast_address":"::1","tcp_port":1}]}"#;
        let expected = vec!["b:4150".to_owned(), "[::1]:1".to_owned()];
        assert_eq!(parse(producers.as_bytes(), true), Ok(expected.clone()));
        let wrapped = format!(r#"{{"status_code":200,"status_txt":"OK","data":{producers}}}"#);
        assert_eq!(parse(wrapped.as_bytes(), false), Ok(expected));
        for nothing in [
            "",
            "{}",
            r#"{"data":null}"#,
            r#"{"data":{"producers":null}}"#,
        ] {
            assert_eq!(
                parse(nothing.as_bytes(), false),
                Ok(Vec::new()),
                "{nothing}"
            );
        }
        assert!(parse(b"<html>", true).is_err());
    }
}
