//! HTTP requests: the client and its errors in the words of the Go programs.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use nsq_cli::errno_text;
use reqwest::{ClientBuilder, Error};

/// A client with those limits for connecting and for a whole request; zero is none.
pub(crate) fn builder(connect_timeout: Duration, request_timeout: Duration) -> ClientBuilder {
    // The process has one cryptography provider; a second installation says so and changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    // As in the reference: what is asked here is asked directly.
    let mut builder = ClientBuilder::new().no_proxy();
    if !connect_timeout.is_zero() {
        builder = builder.connect_timeout(connect_timeout);
    }
    if !request_timeout.is_zero() {
        builder = builder.timeout(request_timeout);
    }
    builder
}

/// `Get "URL": dial tcp HOST:PORT: connect: connection refused` and the like.
pub(crate) fn error_text(method: &str, url: &str, error: &Error) -> String {
    format!("{method} {url:?}: {}", reason(error))
}

fn reason(error: &Error) -> String {
    if error.is_timeout() {
        return "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into();
    }
    let mut cause = error.source();
    let mut deepest = error.to_string();
    while let Some(inner) = cause {
        if let Some(system) = inner.downcast_ref::<io::Error>()
            && system.raw_os_error().is_some()
        {
            let text = errno_text(system);
            return match (error.is_connect(), error.url().map(address)) {
                (true, Some(address)) => format!("dial tcp {address}: connect: {text}"),
                _ => text,
            };
        }
        deepest = inner.to_string();
        cause = inner.source();
    }
    deepest
}

fn address(url: &reqwest::Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_connections_are_told_as_go_tells_them() {
        // A port that was free a moment ago: nobody listens.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let url = format!("http://127.0.0.1:{port}/topics");
        let client = builder(Duration::from_secs(1), Duration::from_secs(5))
            .build()
            .unwrap();
        let error = crate::client::block_on(async { client.get(&url).send().await }).unwrap_err();
        assert_eq!(
            error_text("Get", &url, &error),
            format!("Get \"{url}\": dial tcp 127.0.0.1:{port}: connect: connection refused")
        );
    }
}
