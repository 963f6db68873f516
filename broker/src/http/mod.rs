//! The HTTP door: nsqd's HTTP API over one connection.
//!
//! [`serve_connection`] runs as one local task per connection on a shard, and owns the stream; it
//! reaches topics only through [`Broker`]. hyper speaks HTTP/1.0 and 1.1 with keep-alive and
//! pipelining; requests of one connection are answered one after the other.
//!
//! - Nothing is buffered beyond the limit that applies to it: request heads, bodies of publishes
//!   and of options; other bodies are dropped as they arrive, up to a bound.
//! - A connection whose request was not read to its end is closed after the answer.
//! - Publishes are never written to the access log.
//!
//! Not here: listening, idle timeouts (the stream's), and what the numbers mean.

mod admin;
mod body;
mod config;
mod info;
mod linger;
mod pprof;
mod publish;
mod routes;
mod secure;
mod stats;
mod stats_json;
mod stats_text;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::{EXPECT, HOST};
use http::{Method, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use nsq_cli::format_duration;
use nsq_http::query::Query;
use nsq_http::{query, response};
use rustls::ServerConfig;

pub(crate) use self::stats::{Memory, memory};
#[cfg(test)]
pub(crate) use self::tests::fixture::busy as busy_stats;

use self::body::{BodyError, RequestBody};
use self::linger::LingeringStream;
use self::response::{ApiError, Response};
use self::routes::{Endpoint, Routed};
use self::secure::TlsStream;
use crate::gateway::Broker;

/// Longest request head, and most that is read from the socket at once.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most of an unwanted body that is read to keep the connection.
const UNWANTED_BODY_BYTES_MAX: u64 = 1 << 20;

/// Serves one HTTPS connection until it ends: the handshake, then the whole API.
pub async fn serve_tls<S, B>(
    stream: S,
    config: Arc<ServerConfig>,
    remote: String,
    broker: B,
    stop: impl Future<Output = ()>,
) where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    B: Broker,
{
    let mut stop = pin!(stop);
    let accepted = {
        let mut accepting = pin!(TlsStream::accept(stream, config, &broker));
        poll_fn(|cx| match stop.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => accepting.as_mut().poll(cx).map(Some),
        })
        .await
    };
    match accepted {
        None => {}
        Some(Ok(stream)) => serve_connection(stream, remote, broker, None, stop).await,
        Some(Err(error)) => broker.log_warning(format_args!(
            "http: TLS handshake error from {remote}: {error}"
        )),
    }
}

/// Serves one connection until it ends; `remote` is the peer's address for the access log. With
/// `https_only` every request is referred to HTTPS on that port. When `stop` resolves it ends after
/// the request under way.
///
/// The stream's `poll_shutdown` must close its write side only: what the peer still sends is read
/// after it, so that the last answer is not lost to a reset.
///
/// *Cancellation:* dropping the future drops the stream and whatever request is under way.
pub async fn serve_connection<S, B>(
    stream: S,
    remote: String,
    broker: B,
    https_only: Option<u16>,
    stop: impl Future<Output = ()>,
) where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    B: Broker,
{
    let has_unread_body = Rc::new(Cell::new(false));
    let stream = LingeringStream::new(stream, Rc::clone(&has_unread_body));
    let door = Door {
        broker,
        remote,
        https_only,
        has_unread_body,
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .title_case_headers(true)
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .header_read_timeout(None)
        .serve_connection(stream, service_fn(|request| door.serve(request)));
    let mut connection = pin!(connection);
    let mut stop = pin!(stop);
    let mut is_told = false;
    let ended = poll_fn(|cx| {
        if !is_told && stop.as_mut().poll(cx).is_ready() {
            is_told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    // An error is the peer's: what can be said about it has been said to the peer.
    drop(ended.await);
}

/// What the requests of one connection share.
struct Door<B> {
    broker: B,
    remote: String,
    /// TLS is required, and this connection has none: the port of HTTPS.
    https_only: Option<u16>,
    /// The last answer went out before the body of its request was read.
    has_unread_body: Rc<Cell<bool>>,
}

type Request = http::Request<Incoming>;

impl<B: Broker> Door<B> {
    /// One request, from its head to its answer.
    async fn serve(&self, request: Request) -> Result<Response, Infallible> {
        let start = self.broker.info().clock.now();
        let (head, incoming) = request.into_parts();
        let expects_continue = head
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let mut body = RequestBody::new(incoming, expects_continue);
        let (mut response, is_logged) = self.respond(&head, &mut body).await;
        if !self.finish_body(&mut body).await || self.broker.is_stopping() {
            response::close(&mut response);
        }
        if is_logged {
            let elapsed = self.broker.info().clock.now().0.saturating_sub(start.0);
            self.broker.log_access(format_args!(
                "{} {} {} ({}) {}",
                response.status().as_str(),
                head.method,
                head.uri.path_and_query().map_or("", |uri| uri.as_str()),
                self.remote,
                format_duration(i64::try_from(elapsed).unwrap_or(i64::MAX)),
            ));
        }
        Ok(response)
    }

    /// Routes; also says whether the request belongs in the access log.
    async fn respond(
        &self,
        head: &http::request::Parts,
        body: &mut RequestBody,
    ) -> (Response, bool) {
        if let Some(port) = self.https_only {
            return (secure::tls_required(port), false);
        }
        if head.version == Version::HTTP_11 && !head.headers.contains_key(HOST) {
            return (
                response::malformed("400 Bad Request: missing required Host header"),
                false,
            );
        }
        let path = head.uri.path();
        if path == "*" && head.method == Method::OPTIONS {
            return (Response::default(), false);
        }
        let Some(path) = query::decode_path(path) else {
            return (response::malformed("400 Bad Request"), false);
        };
        let path = std::str::from_utf8(&path).unwrap_or_default();
        match routes::route(head.method.as_str(), path) {
            Routed::Endpoint {
                endpoint,
                parameter,
            } => {
                let answer = self.call(endpoint, parameter, head, body).await;
                (
                    answer.unwrap_or_else(ApiError::into_response),
                    is_logged(endpoint),
                )
            }
            Routed::Redirect(path) => (
                response::redirect(&head.method, &response::location(&path, head.uri.query())),
                false,
            ),
            Routed::Options(allow) => (response::options(&allow), false),
            Routed::MethodNotAllowed(allow) => (response::method_not_allowed(&allow), true),
            Routed::NotFound => (ApiError::NOT_FOUND.into_response(), true),
        }
    }

    async fn call(
        &self,
        endpoint: Endpoint,
        option: &str,
        head: &http::request::Parts,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        let broker = &self.broker;
        let query = head.uri.query().unwrap_or_default();
        match endpoint {
            Endpoint::Pub => publish::publish_one(broker, query, body).await,
            Endpoint::Mpub => publish::publish_many(broker, query, body).await,
            Endpoint::Ping => Ok(self.ping()),
            Endpoint::Info => Ok(info::answer(broker.info())),
            Endpoint::Stats => {
                ignore(body).await?;
                stats::answer(broker, query, self.broker.info().clock.now()).await
            }
            Endpoint::Topic(action) => {
                ignore(body).await?;
                admin::change_topic(broker, action, query).await
            }
            Endpoint::Channel(action) => {
                ignore(body).await?;
                admin::change_channel(broker, action, query).await
            }
            Endpoint::ReadOption => config::read(broker, option),
            Endpoint::ChangeOption => config::change(broker, option, body).await,
            Endpoint::ProfileIndex => Ok(pprof::index()),
            Endpoint::CommandLine => Ok(pprof::command_line()),
            Endpoint::Symbols => Ok(pprof::symbols()),
            Endpoint::CpuProfile => Ok(pprof::cpu_profile(broker, query).await),
            Endpoint::GoProfile => Ok(pprof::go_profile()),
            Endpoint::SetBlockRate => Ok(pprof::set_block_rate(query, &head.headers, body).await),
            Endpoint::FreeMemory => {
                broker.free_memory();
                Ok(response::empty())
            }
        }
    }

    fn ping(&self) -> Response {
        let is_healthy = self.broker.health().is_none();
        let status = if is_healthy {
            StatusCode::OK
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        response::plain(status, stats::health(&self.broker).into_owned())
    }

    /// Reads what the endpoint left of the body; `false` where the connection cannot go on.
    async fn finish_body(&self, body: &mut RequestBody) -> bool {
        if body.is_drainable() {
            // Failure shows below: the body is not whole then.
            body.discard(UNWANTED_BODY_BYTES_MAX).await.ok();
        }
        self.has_unread_body.set(!body.is_whole());
        body.is_whole()
    }
}

/// Reads a body that has no meaning, so that nothing is done for a client that went away in the
/// middle. One that is far too long is left alone; the connection is closed after the answer.
async fn ignore(body: &mut RequestBody) -> Result<(), ApiError> {
    match body.discard(UNWANTED_BODY_BYTES_MAX).await {
        Ok(()) | Err(BodyError::TooBig) => Ok(()),
        Err(BodyError::Broken) => Err(ApiError::INVALID_REQUEST),
    }
}

/// Reads the parameters of a request.
fn parse_query<'a>(broker: &impl Broker, query: &'a str) -> Result<Query<'a>, ApiError> {
    Query::parse(query.as_bytes()).map_err(|error| {
        broker.log_error(format_args!("failed to parse request params - {error}"));
        ApiError::INVALID_REQUEST
    })
}

/// Publishes are too many, and profiling is not part of the API.
fn is_logged(endpoint: Endpoint) -> bool {
    !matches!(
        endpoint,
        Endpoint::Pub
            | Endpoint::Mpub
            | Endpoint::ProfileIndex
            | Endpoint::CommandLine
            | Endpoint::Symbols
            | Endpoint::CpuProfile
            | Endpoint::GoProfile
    )
}
