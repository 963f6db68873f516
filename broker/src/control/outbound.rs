//! Requests to other services over HTTP: nsqlookupd and the authorization servers.
//!
//! What is said of a failure never holds the URL, which may carry a secret (K34).

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url, tls};
use serde::Deserialize;

/// The form of replies that is asked for.
const ACCEPTED: &str = "application/vnd.nsq; version=1.0";
/// Connections that are kept for the next request, per host, and how long.
const IDLE_MAX: usize = 8;
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Bytes of an unwanted reply that are worth showing.
const SHOWN_BYTES_MAX: usize = 256;

/// What the flags say about requests.
#[derive(Debug, Clone)]
pub(crate) struct OutboundSettings {
    /// `--http-client-connect-timeout`; zero = none.
    pub(crate) connect_timeout: Duration,
    /// `--http-client-request-timeout`; zero = none.
    pub(crate) request_timeout: Duration,
    /// `--tls-root-ca-file`; the system's without it.
    pub(crate) root_ca_file: Option<PathBuf>,
    /// `--tls-min-version` as TLS numbers it.
    pub(crate) tls_min_version: u16,
    /// `--max-body-size`: bytes of a reply.
    pub(crate) reply_bytes_max: u64,
    /// Who we are.
    pub(crate) user_agent: String,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The URL cannot be used, or the client not be set up.
    #[error("{0}")]
    Setup(String),
    /// The request or its reply did not get through.
    #[error("{}", Chain(.0))]
    Transport(reqwest::Error),
    /// A reply other than 200.
    #[error("got response {status} {body:?}")]
    Status {
        /// With its words.
        status: StatusCode,
        /// How it begins.
        body: String,
    },
    /// The reply is too long.
    #[error("response body is greater than limit ({0})")]
    TooBig(u64),
}

impl From<reqwest::Error> for RequestError {
    fn from(error: reqwest::Error) -> Self {
        Self::Transport(error.without_url())
    }
}

/// An error with its causes.
struct Chain<'a>(&'a reqwest::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// A client; clones share its connections. It is set up with the first request, for loading the
/// system's certificates takes its time.
#[derive(Debug, Clone)]
pub(super) struct HttpClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: OutboundSettings,
    client: OnceLock<Result<Client, String>>,
}

impl HttpClient {
    pub(super) fn new(settings: OutboundSettings) -> Self {
        let client = OnceLock::new();
        Self(Arc::new(Inner { settings, client }))
    }

    /// The bound of one request; `None` = unbounded.
    pub(super) fn request_timeout(&self) -> Option<Duration> {
        some_time(self.0.settings.request_timeout)
    }

    /// The body of a GET.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub(super) async fn get(&self, url: &str) -> Result<Vec<u8>, RequestError> {
        self.request(url, |client, url| client.get(url)).await
    }

    /// The body of a POST of JSON.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub(super) async fn post(&self, url: &str, json: &[u8]) -> Result<Vec<u8>, RequestError> {
        let post = |client: &Client, url| {
            let post = client.post(url).header(CONTENT_TYPE, "application/json");
            post.body(json.to_vec())
        };
        self.request(url, post).await
    }

    async fn request(
        &self,
        url: &str,
        make: impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Vec<u8>, RequestError> {
        let setup = |error: String| RequestError::Setup(error);
        let client = self.client().map_err(setup)?;
        let mut url = Url::parse(url).map_err(|error| setup(error.to_string()))?;
        loop {
            let request = make(client, url.clone()).header(ACCEPT, ACCEPTED);
            let reply = request.send().await?;
            let status = reply.status();
            let body = self.read(reply).await?;
            if status == StatusCode::OK {
                return Ok(body);
            }
            // A service that wants TLS says where it can be had.
            match https_port(&body).filter(|_| status == StatusCode::FORBIDDEN) {
                Some(port) if url.scheme() == "http" => {
                    let moved = url
                        .set_scheme("https")
                        .and_then(|()| url.set_port(Some(port)).map_err(drop));
                    moved.map_err(|()| setup("there is no such https URL".to_owned()))?;
                }
                _ => {
                    let shown = &body[..body.len().min(SHOWN_BYTES_MAX)];
                    let body = String::from_utf8_lossy(shown).into_owned();
                    return Err(RequestError::Status { status, body });
                }
            }
        }
    }

    async fn read(&self, mut reply: Response) -> Result<Vec<u8>, RequestError> {
        let limit = self.0.settings.reply_bytes_max;
        let mut body = Vec::new();
        while let Some(chunk) = reply.chunk().await? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(RequestError::TooBig(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn client(&self) -> Result<&Client, String> {
        let made = self.0.client.get_or_init(|| build(&self.0.settings));
        made.as_ref().map_err(Clone::clone)
    }
}

fn some_time(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn build(settings: &OutboundSettings) -> Result<Client, String> {
    // It fails where it was done before.
    drop(rustls::crypto::ring::default_provider().install_default());
    let built = match &settings.root_ca_file {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|error| error.to_string())?;
            let roots = Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string())?;
            builder(settings).tls_certs_only(roots).build()
        }
        // Where the system has no certificates at all, plain HTTP still works.
        None => builder(settings)
            .build()
            .or_else(|_| builder(settings).tls_certs_only([]).build()),
    };
    built.map_err(|error| error.to_string())
}

fn builder(settings: &OutboundSettings) -> ClientBuilder {
    let min_version = if settings.tls_min_version > 0x0303 {
        tls::Version::TLS_1_3
    } else {
        tls::Version::TLS_1_2
    };
    let mut builder = Client::builder()
        .user_agent(&settings.user_agent)
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(IDLE_MAX)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tls_version_min(min_version);
    if let Some(limit) = some_time(settings.connect_timeout) {
        builder = builder.connect_timeout(limit);
    }
    if let Some(limit) = some_time(settings.request_timeout) {
        builder = builder.timeout(limit);
    }
    builder
}

/// Where a 403 says that TLS is.
fn https_port(body: &[u8]) -> Option<u16> {
    #[derive(Deserialize)]
    struct Forbidden {
        https_port: u16,
    }
    let forbidden: Forbidden = serde_json::from_slice(body).ok()?;
    Some(forbidden.https_port)
}
