//! One request with a message.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder};

use crate::cluster::escaped;
use crate::http;

/// The address of a GET, around the place of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GetAddress {
    /// As given, for status lines.
    text: String,
    before: String,
    after: String,
}

impl GetAddress {
    /// Splits at the only `%s`; `%%` is a percent sign, and so is any other `%`, so that escapes may
    /// stand in the address.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = vec![String::new()];
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let part = parts.last_mut().expect("there is one from the start");
            part.push_str(&rest[..at]);
            let skipped = match rest.as_bytes().get(at + 1) {
                Some(b's') => {
                    parts.push(String::new());
                    2
                }
                next => {
                    part.push('%');
                    1 + usize::from(next == Some(&b'%'))
                }
            };
            rest = &rest[at + skipped..];
        }
        let part = parts.last_mut().expect("there is one from the start");
        part.push_str(rest);
        let [before, after] = <[String; 2]>::try_from(parts).ok()?;
        Some(Self {
            text: text.to_owned(),
            before,
            after,
        })
    }

    fn url(&self, body: &[u8]) -> String {
        format!("{}{}{}", self.before, escaped(body), self.after)
    }
}

/// How messages are sent, and where to.
#[derive(Debug, Clone)]
pub(super) enum Verb {
    /// The message is part of the address.
    Get(Vec<GetAddress>),
    /// The message is the body.
    Post(Vec<String>),
}

/// Sends messages. Clones share their connections, which are kept open.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    http: Client,
    verb: Verb,
    headers: HeaderMap,
}

impl Sender {
    /// Sends with these headers; a timeout of zero is none.
    pub(super) fn new(
        verb: Verb,
        headers: HeaderMap,
        connect_timeout: Duration,
        request_timeout: Duration,
    ) -> Self {
        let builder = http::builder(connect_timeout, request_timeout).http1_title_case_headers();
        let http = builder.build().expect("the settings are legal");
        Self {
            http,
            verb,
            headers,
        }
    }

    /// The addresses as they were given.
    pub(super) fn addresses(&self) -> Vec<&str> {
        match &self.verb {
            Verb::Get(addresses) => addresses.iter().map(|get| get.text.as_str()).collect(),
            Verb::Post(addresses) => addresses.iter().map(String::as_str).collect(),
        }
    }

    /// Sends a message to the address of that index.
    ///
    /// # Errors
    /// Why it does not count as delivered.
    pub(super) async fn send(&self, index: usize, body: &Bytes) -> Result<(), String> {
        match &self.verb {
            Verb::Get(addresses) => {
                let url = addresses[index].url(body);
                self.request("Get", &url, self.http.get(&url)).await
            }
            Verb::Post(addresses) => {
                let url = &addresses[index];
                let request = self.http.post(url).body(body.clone());
                self.request("Post", url, request).await
            }
        }
    }

    async fn request(&self, verb: &str, url: &str, request: RequestBuilder) -> Result<(), String> {
        let failed = |error: reqwest::Error| http::error_text(verb, url, &error);
        let request = request.headers(self.headers.clone());
        let mut response = request.send().await.map_err(failed)?;
        // Read to the end, so that the connection can be used again.
        while response.chunk().await.map_err(failed)?.is_some() {}
        let status = response.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("got status code {}", status.as_u16()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_stands_where_the_address_says() {
        let rows = [
            ("http://a/?d=%s", "http://a/?d=x+y%26"),
            ("http://a/%20b?d=%s&e=1", "http://a/%20b?d=x+y%26&e=1"),
            ("http://a/%%20b?d=%s", "http://a/%20b?d=x+y%26"),
            ("http://a/%s%", "http://a/x+y%26%"),
        ];
        for (text, url) in rows {
            let address = GetAddress::parse(text).expect("fine");
            assert_eq!(address.url(b"x y&"), url);
        }
        for text in ["http://a/", "http://a/%s/%s", "http://a/%%s", "%"] {
            assert_eq!(GetAddress::parse(text), None, "{text}");
        }
    }
}
