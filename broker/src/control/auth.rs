//! Asking the authorization servers (spec nsqd.md §2.9).
//!
//! Every question is a task: a slow server delays only who asked it. Bounded: questions under way
//! by the bytes of their secrets ([`WAITING_BYTES_MAX`]), requests by server ([`REQUESTS_MAX`]),
//! and each request by the timeouts of the HTTP client. Of what is logged nothing is secret (K34).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::outbound::HttpClient;
use crate::config::{AuthMethod, redacted};
use crate::grants::{Grants, Patterns, Secret};
use crate::shard::message::{ShardId, ShardMessage};
use crate::shared::Shared;

/// Requests to one server at the same time; the others wait for their turn.
const REQUESTS_MAX: usize = 256;
/// Bytes of all questions that wait for an answer; one too many is answered with a failure.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A question without its secret.
const QUESTION_BYTES: usize = 1024;
/// What a form leaves as it is, but for the space.
const FORM: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b' ');

/// A connection wants to be let in, or its grants have expired.
#[derive(Debug)]
pub(crate) struct AuthRequest {
    /// Where the connection is; it does not move while it waits.
    pub(crate) shard: ShardId,
    /// Its tag there.
    pub(crate) connection: u64,
    /// What it shows.
    pub(crate) secret: Secret,
    /// Empty on a unix socket.
    pub(crate) remote_ip: String,
    /// For the log.
    pub(crate) remote: String,
    /// Whether it speaks TLS.
    pub(crate) is_tls: bool,
    /// Of its certificate; empty without one.
    pub(crate) common_name: String,
}

/// Whom to ask, and how.
#[derive(Debug)]
pub(crate) struct AuthSettings {
    /// `--auth-http-address`.
    pub(crate) addresses: Vec<String>,
    /// `--auth-http-request-method`.
    pub(crate) method: AuthMethod,
}

#[derive(Debug)]
struct Server {
    url: String,
    /// Without what may be secret in it.
    shown: String,
    requests: Semaphore,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Authorizer {
    shared: Arc<Shared>,
    servers: Vec<Server>,
    method: AuthMethod,
    http: HttpClient,
    patterns: Mutex<Patterns>,
    /// Where the next question begins.
    next: AtomicUsize,
    waiting: Arc<Semaphore>,
}

/// The body of a POST; the keys are sorted.
#[derive(Serialize)]
struct PostForm<'a> {
    common_name: [&'a str; 1],
    remote_ip: [&'a str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<[&'a str; 1]>,
    /// A secret that is no text, so that it arrives as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_hex: Option<[String; 1]>,
    tls: [&'a str; 1],
}

impl Authorizer {
    pub(super) fn new(shared: Arc<Shared>, settings: AuthSettings, http: HttpClient) -> Self {
        let server = |address: String| Server {
            shown: redacted(&address),
            url: if address.contains("://") {
                address
            } else {
                format!("http://{address}/auth")
            },
            requests: Semaphore::new(REQUESTS_MAX),
        };
        Self {
            shared,
            servers: settings.addresses.into_iter().map(server).collect(),
            method: settings.method,
            http,
            patterns: Mutex::default(),
            next: AtomicUsize::new(0),
            waiting: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
        }
    }

    /// Asks and tells the connection's shard, in a task of its own.
    pub(super) fn ask(self: &Arc<Self>, request: AuthRequest) {
        let bytes = u32::try_from(QUESTION_BYTES + request.secret.0.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.waiting).try_acquire_many_owned(bytes);
        let authorizer = Arc::clone(self);
        tokio::spawn(async move {
            let answer = match &room {
                Ok(_) => authorizer.query(&request).await,
                Err(_) => Err("too many authorizations are under way".to_owned()),
            };
            drop(room);
            authorizer.tell(&request, answer).await;
        });
    }

    async fn tell(&self, request: &AuthRequest, answer: Result<Grants, String>) {
        if let Err(reason) = &answer {
            self.shared.logger.warn(format_args!(
                "PROTOCOL(V2): [{}] AUTH failed {reason}",
                request.remote
            ));
        }
        let authorized = ShardMessage::Authorized {
            connection: request.connection,
            grants: answer.ok().map(Arc::new),
        };
        self.shared.mailboxes.send(request.shard, authorized).await;
    }

    /// One server after the other until one answers, beginning with another one every time.
    async fn query(&self, request: &AuthRequest) -> Result<Grants, String> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let mut failures = Vec::new();
        for offset in 0..self.servers.len() {
            let server = &self.servers[start.wrapping_add(offset) % self.servers.len()];
            match self.query_server(server, request).await {
                Ok(grants) => return Ok(grants),
                Err(reason) => failures.push(format!(
                    "failed to auth against {} - {reason}",
                    server.shown
                )),
            }
        }
        Err(failures.join("; "))
    }

    async fn query_server(&self, server: &Server, request: &AuthRequest) -> Result<Grants, String> {
        let _turn = server.requests.acquire().await.expect("it is never closed");
        let reply = match self.method {
            AuthMethod::Get => self.http.get(&get_url(&server.url, request)).await,
            AuthMethod::Post => self.http.post(&server.url, &post_body(request)).await,
        };
        let body = reply.map_err(|error| error.to_string())?;
        let mut patterns = self.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.shared.clock.now();
        Grants::parse(&body, now, &mut patterns).map_err(|error| error.to_string())
    }
}

fn tls_word(request: &AuthRequest) -> &'static str {
    if request.is_tls { "true" } else { "false" }
}

fn get_url(url: &str, request: &AuthRequest) -> String {
    let join = if url.contains('?') { '&' } else { '?' };
    let form = |bytes: &[u8]| percent_encode(bytes, FORM).to_string().replace(' ', "+");
    format!(
        "{url}{join}common_name={}&remote_ip={}&secret={}&tls={}",
        form(request.common_name.as_bytes()),
        form(request.remote_ip.as_bytes()),
        form(&request.secret.0),
        tls_word(request)
    )
}

fn post_body(request: &AuthRequest) -> Vec<u8> {
    let secret = std::str::from_utf8(&request.secret.0).ok();
    let form = PostForm {
        common_name: [&request.common_name],
        remote_ip: [&request.remote_ip],
        secret: secret.map(|secret| [secret]),
        secret_hex: secret.is_none().then(|| [hex(&request.secret.0)]),
        tls: [tls_word(request)],
    };
    serde_json::to_vec(&form).expect("strings are always JSON")
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(secret: &'static [u8]) -> AuthRequest {
        AuthRequest {
            shard: 0,
            connection: 0,
            secret: Secret(bytes::Bytes::from_static(secret)),
            remote_ip: "::1".to_owned(),
            remote: "[::1]:5".to_owned(),
            is_tls: true,
            common_name: "a b&c".to_owned(),
        }
    }

    #[test]
    fn a_get_is_a_form_with_sorted_keys() {
        assert_eq!(
            get_url("http://h/auth", &request(b"s \xff+%")),
            "http://h/auth?common_name=a+b%26c&remote_ip=%3A%3A1&secret=s+%FF%2B%25&tls=true"
        );
        let more = get_url("http://h/auth?x=1", &request(b"s"));
        assert!(more.starts_with("http://h/auth?x=1&common_name="), "{more}");
    }

    #[test]
    fn a_post_carries_every_secret_as_it_was_sent() {
        assert_eq!(
            post_body(&request(b"s\"x")),
            br#"{"common_name":["a b&c"],"remote_ip":["::1"],"secret":["s\"x"],"tls":["true"]}"#
        );
        assert_eq!(
            post_body(&request(b"\xff\x00")),
            br#"{"common_name":["a b&c"],"remote_ip":["::1"],"secret_hex":["ff00"],"tls":["true"]}"#
        );
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert!(!format!("{:?}", request(b"hunter2")).contains("hunter2"));
    }
}
