//! Which endpoint a method and a path name, by the rules of [`nsq_http::route`].

use std::os::unix::ffi::OsStringExt;

use http::StatusCode;
use nsq_http::{Path, Response, response};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Ping,
    Info,
    Topics,
    Channels,
    Lookup,
    Nodes,
    Debug,
    CreateTopic,
    DeleteTopic,
    CreateChannel,
    DeleteChannel,
    Tombstone,
    Profiling(Page),
}

impl Endpoint {
    /// Profiling is not part of the API, and not in the access log.
    pub(super) fn is_profiling(self) -> bool {
        matches!(self, Self::Profiling(_))
    }
}

/// What the reference offers to Go's profiler, as far as it makes sense here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Index,
    CommandLine,
    Symbols,
    CpuProfile,
    GoProfile,
}

/// Lookups first: the table is searched from the top.
pub(super) const PATHS: &[Path<Endpoint>] = &[
    ("/lookup", &[("GET", Endpoint::Lookup)]),
    ("/channels", &[("GET", Endpoint::Channels)]),
    ("/topics", &[("GET", Endpoint::Topics)]),
    ("/nodes", &[("GET", Endpoint::Nodes)]),
    ("/ping", &[("GET", Endpoint::Ping)]),
    ("/info", &[("GET", Endpoint::Info)]),
    ("/debug", &[("GET", Endpoint::Debug)]),
    ("/topic/create", &[("POST", Endpoint::CreateTopic)]),
    ("/topic/delete", &[("POST", Endpoint::DeleteTopic)]),
    ("/topic/tombstone", &[("POST", Endpoint::Tombstone)]),
    ("/channel/create", &[("POST", Endpoint::CreateChannel)]),
    ("/channel/delete", &[("POST", Endpoint::DeleteChannel)]),
    ("/debug/pprof", &[("GET", Endpoint::Profiling(Page::Index))]),
    (
        "/debug/pprof/cmdline",
        &[("GET", Endpoint::Profiling(Page::CommandLine))],
    ),
    (
        "/debug/pprof/symbol",
        &[
            ("GET", Endpoint::Profiling(Page::Symbols)),
            ("POST", Endpoint::Profiling(Page::Symbols)),
        ],
    ),
    (
        "/debug/pprof/profile",
        &[("GET", Endpoint::Profiling(Page::CpuProfile))],
    ),
    (
        "/debug/pprof/heap",
        &[("GET", Endpoint::Profiling(Page::GoProfile))],
    ),
    (
        "/debug/pprof/goroutine",
        &[("GET", Endpoint::Profiling(Page::GoProfile))],
    ),
    (
        "/debug/pprof/block",
        &[("GET", Endpoint::Profiling(Page::GoProfile))],
    ),
    (
        "/debug/pprof/threadcreate",
        &[("GET", Endpoint::Profiling(Page::GoProfile))],
    ),
];

const INDEX: &str = "<html>
<head><title>/debug/pprof/</title></head>
<body>
/debug/pprof/
<p>This program is not written in Go: of Go's profiles only these are here.</p>
<ul>
<li><a href='/debug/pprof/cmdline'>cmdline</a>: the command line of this process</li>
<li><a href='/debug/pprof/symbol'>symbol</a>: names of program counters (none)</li>
</ul>
</body>
</html>
";

impl Page {
    pub(super) fn answer(self) -> Response {
        match self {
            Self::Index => response::profiling_page(INDEX),
            Self::CommandLine => {
                let words: Vec<Vec<u8>> = std::env::args_os().map(OsStringExt::into_vec).collect();
                response::profiling_text(StatusCode::OK, words.join(&0))
            }
            Self::Symbols => response::profiling_text(StatusCode::OK, "num_symbols: 0\n"),
            Self::CpuProfile => response::profiling_text(
                StatusCode::NOT_IMPLEMENTED,
                "CPU profiles are not available from this build; use perf.\n",
            ),
            Self::GoProfile => response::profiling_text(
                StatusCode::NOT_FOUND,
                "This profile belongs to Go's runtime; this program is not written in Go.\n",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use nsq_http::{Routed, route};

    use super::*;

    #[test]
    fn the_profiler_has_no_final_slash_here() {
        let to = Routed::Redirect("/debug/pprof".to_owned());
        assert_eq!(route(PATHS, "GET", "/debug/pprof/"), to);
        assert_eq!(route(PATHS, "GET", "/debug/pprof/mutex"), Routed::NotFound);
    }

    #[test]
    fn removed_paths_are_gone() {
        for path in [
            "/create_topic",
            "/delete_topic",
            "/create_channel",
            "/delete_channel",
            "/tombstone_topic_producer",
        ] {
            for method in ["GET", "POST"] {
                assert_eq!(
                    route(PATHS, method, path),
                    Routed::NotFound,
                    "{method} {path}"
                );
            }
        }
    }
}
