//! Which endpoint a method and a path name. The rules are those of [`nsq_http::route`].

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Pub,
    Mpub,
    Ping,
    Info,
    Stats,
    Topic(Action),
    Channel(Action),
    ReadOption,
    ChangeOption,
    ProfileIndex,
    CommandLine,
    Symbols,
    CpuProfile,
    GoProfile,
    SetBlockRate,
    FreeMemory,
}

/// What can be done to a topic or a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Create,
    Delete,
    Empty,
    Pause,
    Unpause,
}

/// Publishing first: the table is searched from the top.
const PATHS: &[nsq_http::Path<Endpoint>] = &[
    ("/pub", &[("POST", Endpoint::Pub)]),
    ("/mpub", &[("POST", Endpoint::Mpub)]),
    // The names of NSQ before 0.2.29, which old tutorials still use.
    ("/put", &[("POST", Endpoint::Pub)]),
    ("/mput", &[("POST", Endpoint::Mpub)]),
    ("/ping", &[("GET", Endpoint::Ping)]),
    ("/info", &[("GET", Endpoint::Info)]),
    ("/stats", &[("GET", Endpoint::Stats)]),
    (
        "/topic/create",
        &[("POST", Endpoint::Topic(Action::Create))],
    ),
    (
        "/topic/delete",
        &[("POST", Endpoint::Topic(Action::Delete))],
    ),
    ("/topic/empty", &[("POST", Endpoint::Topic(Action::Empty))]),
    ("/topic/pause", &[("POST", Endpoint::Topic(Action::Pause))]),
    (
        "/topic/unpause",
        &[("POST", Endpoint::Topic(Action::Unpause))],
    ),
    (
        "/channel/create",
        &[("POST", Endpoint::Channel(Action::Create))],
    ),
    (
        "/channel/delete",
        &[("POST", Endpoint::Channel(Action::Delete))],
    ),
    (
        "/channel/empty",
        &[("POST", Endpoint::Channel(Action::Empty))],
    ),
    (
        "/channel/pause",
        &[("POST", Endpoint::Channel(Action::Pause))],
    ),
    (
        "/channel/unpause",
        &[("POST", Endpoint::Channel(Action::Unpause))],
    ),
    // The name of an option.
    (
        "/config/:",
        &[
            ("GET", Endpoint::ReadOption),
            ("PUT", Endpoint::ChangeOption),
        ],
    ),
    ("/debug/pprof/", &[("GET", Endpoint::ProfileIndex)]),
    ("/debug/pprof/cmdline", &[("GET", Endpoint::CommandLine)]),
    (
        "/debug/pprof/symbol",
        &[("GET", Endpoint::Symbols), ("POST", Endpoint::Symbols)],
    ),
    ("/debug/pprof/profile", &[("GET", Endpoint::CpuProfile)]),
    ("/debug/pprof/heap", &[("GET", Endpoint::GoProfile)]),
    ("/debug/pprof/goroutine", &[("GET", Endpoint::GoProfile)]),
    ("/debug/pprof/block", &[("GET", Endpoint::GoProfile)]),
    ("/debug/pprof/threadcreate", &[("GET", Endpoint::GoProfile)]),
    ("/debug/setblockrate", &[("PUT", Endpoint::SetBlockRate)]),
    ("/debug/freememory", &[("POST", Endpoint::FreeMemory)]),
];

/// What is to be done with a request.
pub(super) type Routed<'p> = nsq_http::Routed<'p, Endpoint>;

/// Routes a method and a decoded path.
pub(super) fn route<'p>(method: &str, path: &'p str) -> Routed<'p> {
    nsq_http::route(PATHS, method, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(endpoint: Endpoint) -> Routed<'static> {
        Routed::Endpoint {
            endpoint,
            parameter: "",
        }
    }

    #[test]
    fn exact_paths_are_served() {
        assert_eq!(route("POST", "/pub"), endpoint(Endpoint::Pub));
        assert_eq!(route("POST", "/mput"), endpoint(Endpoint::Mpub));
        assert_eq!(
            route("GET", "/debug/pprof/"),
            endpoint(Endpoint::ProfileIndex)
        );
        let option = Routed::Endpoint {
            endpoint: Endpoint::ChangeOption,
            parameter: "log_level",
        };
        assert_eq!(route("PUT", "/config/log_level"), option);
    }

    #[test]
    fn every_path_serves_every_method_of_its_row() {
        let fixed = PATHS.iter().filter(|(path, _)| !path.ends_with(':'));
        for (path, methods) in fixed {
            for (method, expected) in *methods {
                assert_eq!(route(method, path), endpoint(*expected), "{method} {path}");
            }
        }
    }

    #[test]
    fn near_misses_are_redirected() {
        for (method, path, target) in [
            ("GET", "/ping/", "/ping"),
            ("GET", "/PING", "/ping"),
            ("GET", "//ping", "/ping"),
            ("GET", "/a/../ping", "/ping"),
            ("GET", "/../../ping", "/ping"),
            ("GET", "/./ping/.", "/ping"),
            ("GET", "/debug/pprof", "/debug/pprof/"),
            ("GET", "/DEBUG//pprof", "/debug/pprof/"),
            ("POST", "/Topic/CREATE/", "/topic/create"),
            ("GET", "/CONFIG/Log_Level", "/config/Log_Level"),
            ("PUT", "/config/log_level/", "/config/log_level"),
        ] {
            assert_eq!(
                route(method, path),
                Routed::Redirect(target.to_owned()),
                "{path}"
            );
        }
    }

    #[test]
    fn redirects_stay_within_the_method() {
        for (method, path) in [
            ("POST", "/ping/"),
            ("HEAD", "/ping/"),
            ("OPTIONS", "/ping/"),
            ("GET", "/PUB"),
            ("GET", "/pub/"),
        ] {
            assert_eq!(route(method, path), Routed::NotFound, "{method} {path}");
        }
    }

    #[test]
    fn other_methods_get_the_sorted_list() {
        let refused = |allow: &str| Routed::MethodNotAllowed(allow.to_owned());
        assert_eq!(route("HEAD", "/ping"), refused("GET, OPTIONS"));
        assert_eq!(route("GET", "/debug/setblockrate"), refused("OPTIONS, PUT"));
        assert_eq!(route("POST", "/config/x"), refused("GET, OPTIONS, PUT"));
        assert_eq!(
            route("OPTIONS", "/debug/pprof/symbol"),
            Routed::Options("GET, OPTIONS, POST".to_owned())
        );
    }

    #[test]
    fn the_rest_is_not_found() {
        for path in [
            "/",
            "",
            "*",
            "/nope",
            "/config",
            "/config/",
            "/config/a/b",
            "/debug",
            "/é",
        ] {
            assert_eq!(route("GET", path), Routed::NotFound, "{path}");
        }
    }
}
