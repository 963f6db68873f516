//! `/debug/*`: what the reference offers to Go's profiler, as far as it makes sense here.
//!
//! Profiles of Go's runtime (heap, goroutines, …) do not exist; they answer 404 and say so.

use std::num::IntErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::body::RequestBody;
use super::query::Query;
use super::response::{self, Response};
use crate::gateway::Broker;

const INDEX: &str = "<html>
<head><title>/debug/pprof/</title></head>
<body>
/debug/pprof/
<p>This broker is not written in Go: of Go's profiles only these are here.</p>
<ul>
<li><a href='profile'>profile</a>: where CPU time goes, over <code>?seconds=30</code>; for
<code>go tool pprof</code></li>
<li><a href='cmdline'>cmdline</a>: the command line of this process</li>
<li><a href='symbol'>symbol</a>: names of program counters (none: profiles carry their own)</li>
</ul>
</body>
</html>
";

/// How long a profile takes if nobody says.
const PROFILE_SECONDS: u64 = 30;
/// Well within the time after which a silent connection is closed.
const PROFILE_SECONDS_MAX: u64 = 90;

/// What form bodies are read of.
const FORM_BYTES_MAX: u64 = 64 * 1024;

/// `GET /debug/pprof/`.
pub(super) fn index() -> Response {
    response::profiling_page(INDEX)
}

/// `GET /debug/pprof/cmdline`: the arguments, separated by zero bytes.
pub(super) fn command_line() -> Response {
    let arguments: Vec<Vec<u8>> = std::env::args_os().map(OsStringExt::into_vec).collect();
    response::profiling_text(StatusCode::OK, arguments.join(&0))
}

/// `/debug/pprof/symbol`: no symbols are served.
pub(super) fn symbols() -> Response {
    response::profiling_text(StatusCode::OK, "num_symbols: 0\n")
}

/// `GET /debug/pprof/profile`: as with Go, what is no positive number of seconds means the usual.
pub(super) async fn cpu_profile<B: Broker>(broker: &B, query: &str) -> Response {
    let seconds = Query::parse(query.as_bytes())
        .ok()
        .and_then(|pairs| {
            std::str::from_utf8(&pairs.get("seconds")?)
                .ok()?
                .parse()
                .ok()
        })
        .filter(|seconds| *seconds > 0)
        .unwrap_or(PROFILE_SECONDS);
    if seconds > PROFILE_SECONDS_MAX {
        let sentence = format!("A profile takes at most {PROFILE_SECONDS_MAX} seconds.\n");
        return response::profiling_text(StatusCode::BAD_REQUEST, sentence);
    }
    match broker.cpu_profile(Duration::from_secs(seconds)).await {
        Ok(profile) => response::profile(profile),
        Err(error) => {
            let text = format!("Could not enable CPU profiling: {error}\n");
            response::profiling_text(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

/// The profiles that only a Go program has.
pub(super) fn go_profile() -> Response {
    let sentence = "This profile belongs to Go's runtime; this broker is not written in Go.\n";
    response::profiling_text(StatusCode::NOT_FOUND, sentence)
}

/// `PUT /debug/setblockrate`: the rate is checked, and has no effect.
pub(super) async fn set_block_rate(
    query: &str,
    headers: &http::HeaderMap,
    body: &mut RequestBody,
) -> Response {
    let is_form = headers.get(CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes()
            .starts_with(b"application/x-www-form-urlencoded")
    });
    let form = if is_form {
        body.read(FORM_BYTES_MAX).await.unwrap_or_default()
    } else {
        Vec::new().into()
    };
    let rate = [&form[..], query.as_bytes()]
        .into_iter()
        .filter_map(|raw| Query::parse(raw).ok())
        .find_map(|pairs| pairs.get("rate"))
        .unwrap_or_default();
    let rate = String::from_utf8_lossy(&rate);
    match rate.parse::<i64>() {
        Ok(_) => response::empty(),
        Err(error) => {
            let is_overflow = matches!(
                error.kind(),
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow
            );
            let reason = if is_overflow {
                "value out of range"
            } else {
                "invalid syntax"
            };
            let text = format!("invalid block rate : strconv.Atoi: parsing {rate:?}: {reason}");
            response::plain(StatusCode::BAD_REQUEST, text)
        }
    }
}
