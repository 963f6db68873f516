//! The HTTP door: one task per connection.
//!
//! - Bodies of requests mean nothing; they are dropped as they arrive, for at most [`PATIENCE`].
//! - A request that was not read to its end is the last one of its connection.
//! - An answer may take long to send: it is made slice by slice as the peer takes it (`listing`),
//!   and given up when the peer takes nothing for [`PATIENCE`].

mod answer;
mod changes;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod listing;
mod routes;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nsq_cli::{VERSION, format_duration};
use nsq_http::{ApiError, Query, Routed, query, response, route};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

use self::answer::Answer;
use self::routes::{Endpoint, PATHS};
use crate::json;
use crate::listen::{Door, Visitor};
use crate::registry::Now;
use crate::service::{PATIENCE, Service};

/// Longest request head, and most that is read from the socket at once.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a connection may be silent between requests. Consumers ask once a minute.
const SILENCE: Duration = Duration::from_secs(120);
const TOO_SLOW: ApiError = ApiError {
    status: StatusCode::REQUEST_TIMEOUT,
    code: "REQUEST_TIMEOUT",
};

/// Serves until the process stops; then gives what is under way `farewell` to end.
pub(crate) async fn run(door: Door, service: Arc<Service>, farewell: Duration) {
    let mut connections = JoinSet::new();
    loop {
        let visitor = tokio::select! {
            visitor = door.next(&service.logger) => visitor,
            () = service.stopped() => break,
        };
        connections.spawn(serve_connection(visitor, Arc::clone(&service)));
        while connections.try_join_next().is_some() {}
    }
    drop(door);
    let ended = async { while connections.join_next().await.is_some() {} };
    timeout(farewell, ended).await.ok();
}

async fn serve_connection(visitor: Visitor, service: Arc<Service>) {
    let Visitor {
        stream,
        peer,
        place,
    } = visitor;
    talk(stream, peer.to_string(), service).await;
    drop(place);
}

/// The whole conversation.
async fn talk(stream: impl AsyncRead + AsyncWrite, peer: String, service: Arc<Service>) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(PATIENCE));
    let requests = Requests {
        service: Arc::clone(&service),
        peer,
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .title_case_headers(true)
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .header_read_timeout(SILENCE)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            service_fn(|request| requests.serve(request)),
        );
    let mut connection = pin!(connection);
    tokio::select! {
        // An error is the peer's: what can be said about it has been said to the peer.
        _ = connection.as_mut() => return,
        () = service.stopped() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}

/// What the requests of one connection share.
struct Requests {
    service: Arc<Service>,
    peer: String,
}

type Request = http::Request<Incoming>;

impl Requests {
    /// One request, from its head to the head of its answer.
    async fn serve(&self, request: Request) -> Result<http::Response<Answer>, Infallible> {
        let begun = self.service.now();
        let (head, body) = request.into_parts();
        let (answer, is_logged) = match self.respond(&head, body).await {
            Ok(routed) => routed,
            // The rest of the body stays unread.
            Err(error) => {
                let mut refusal = error.into_response();
                response::close(&mut refusal);
                (Answer::whole(refusal), true)
            }
        };
        if is_logged {
            self.log_access(&head, answer.status(), begun);
        }
        Ok(answer)
    }

    fn log_access(&self, head: &http::request::Parts, status: StatusCode, begun: Now) {
        self.service.logger.info(format_args!(
            "{} {} {} ({}) {}",
            status.as_str(),
            head.method,
            head.uri.path_and_query().map_or("", |uri| uri.as_str()),
            self.peer,
            format_duration(self.service.now().since(begun)),
        ));
    }

    /// Reads the body and routes; also says whether the request belongs in the access log.
    ///
    /// # Errors
    /// The body is not one.
    async fn respond(
        &self,
        head: &http::request::Parts,
        body: Incoming,
    ) -> Result<(http::Response<Answer>, bool), ApiError> {
        drop_body(body).await?;
        let unlogged = |refusal| Ok((Answer::whole(refusal), false));
        if head.version == Version::HTTP_11 && !head.headers.contains_key(HOST) {
            return unlogged(response::malformed(
                "400 Bad Request: missing required Host header",
            ));
        }
        let path = head.uri.path();
        if path == "*" && head.method == Method::OPTIONS {
            return unlogged(nsq_http::Response::default());
        }
        let Some(path) = query::decode_path(path) else {
            return unlogged(response::malformed("400 Bad Request"));
        };
        let path = std::str::from_utf8(&path).unwrap_or_default();
        Ok(match route(PATHS, head.method.as_str(), path) {
            Routed::Endpoint { endpoint, .. } => {
                let answer = self
                    .call(endpoint, head.uri.query().unwrap_or_default())
                    .await;
                let answer = answer.unwrap_or_else(|error| Answer::whole(error.into_response()));
                (answer, !endpoint.is_profiling())
            }
            Routed::Redirect(path) => {
                let location = response::location(&path, head.uri.query());
                return unlogged(response::redirect(&head.method, &location));
            }
            Routed::Options(allow) => return unlogged(response::options(&allow)),
            Routed::MethodNotAllowed(allow) => {
                (Answer::whole(response::method_not_allowed(&allow)), true)
            }
            Routed::NotFound => (Answer::whole(ApiError::NOT_FOUND.into_response()), true),
        })
    }

    async fn call(
        &self,
        endpoint: Endpoint,
        query: &str,
    ) -> Result<http::Response<Answer>, ApiError> {
        let service = &self.service;
        let whole = match endpoint {
            Endpoint::Ping => response::plain(StatusCode::OK, "OK"),
            Endpoint::Info => {
                let version = std::collections::BTreeMap::from([("version", VERSION)]);
                response::json(json::to_string(&version))
            }
            Endpoint::Topics => return Ok(listing::topics(service)),
            Endpoint::Channels => return listing::channels(service, &parse(query)?),
            Endpoint::Lookup => return listing::lookup(service, &parse(query)?),
            Endpoint::Nodes => return Ok(listing::nodes(service)),
            Endpoint::Debug => return Ok(listing::debug(service)),
            Endpoint::CreateTopic => changes::create_topic(service, &parse(query)?)?,
            Endpoint::DeleteTopic => changes::delete_topic(service, &parse(query)?).await?,
            Endpoint::CreateChannel => changes::create_channel(service, &parse(query)?)?,
            Endpoint::DeleteChannel => changes::delete_channel(service, &parse(query)?).await?,
            Endpoint::Tombstone => changes::tombstone(service, &parse(query)?).await?,
            Endpoint::Profiling(page) => page.answer(),
        };
        Ok(Answer::whole(whole))
    }
}

fn parse(query: &str) -> Result<Query<'_>, ApiError> {
    Query::parse(query.as_bytes()).map_err(|_| ApiError::INVALID_REQUEST)
}

/// Reads the body, which means nothing and is not kept, so that nothing is done for a client that
/// went away in the middle, and none is cut off that still sends.
async fn drop_body(mut body: Incoming) -> Result<(), ApiError> {
    let reading = async {
        while let Some(frame) = body.frame().await {
            frame.map_err(|_| ApiError::INVALID_REQUEST)?;
        }
        Ok(())
    };
    timeout(PATIENCE, reading).await.unwrap_or(Err(TOO_SLOW))
}
