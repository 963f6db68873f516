//! Which endpoint a method and a path name, and what is said when they name none.
//!
//! The rules are those of the router that the reference uses: an exact match wins; otherwise a
//! path that becomes one of *the same method* by adding or dropping a final slash, resolving `.`,
//! `..` and `//`, or changing case is redirected there; otherwise `OPTIONS` lists the methods,
//! another method is refused with that list, and the rest is not found.

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

/// The methods of one path.
type Methods = &'static [(&'static str, Endpoint)];

/// Publishing first: the table is searched from the top.
const PATHS: &[(&str, Methods)] = &[
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

/// What follows it is the name of an option: not empty, and without a slash.
const OPTION_PREFIX: &str = "/config/";
const OPTION_METHODS: Methods = &[
    ("GET", Endpoint::ReadOption),
    ("PUT", Endpoint::ChangeOption),
];

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Routed<'p> {
    /// Call this endpoint; `option` is the last part of a `/config/` path, else empty.
    Endpoint {
        /// Which one.
        endpoint: Endpoint,
        /// Name of the option.
        option: &'p str,
    },
    /// The client meant this (decoded) path.
    Redirect(String),
    /// `OPTIONS` on a known path: the `Allow` list.
    Options(String),
    /// A known path with another method: the `Allow` list.
    MethodNotAllowed(String),
    /// Nothing is there.
    NotFound,
}

/// Routes a method and a decoded path.
pub(super) fn route<'p>(method: &str, path: &'p str) -> Routed<'p> {
    let found = methods_of(path);
    if let Some((methods, option)) = found
        && let Some(endpoint) = endpoint_of(methods, method)
    {
        return Routed::Endpoint { endpoint, option };
    }
    if let Some(canonical) = canonical_path(method, path) {
        return Routed::Redirect(canonical);
    }
    match found {
        Some((methods, _)) if method == "OPTIONS" => Routed::Options(allow_list(methods)),
        Some((methods, _)) => Routed::MethodNotAllowed(allow_list(methods)),
        None => Routed::NotFound,
    }
}

/// The methods of an exact path, and the option that it names.
fn methods_of(path: &str) -> Option<(Methods, &str)> {
    if let Some(option) = path.strip_prefix(OPTION_PREFIX) {
        return is_option(option).then_some((OPTION_METHODS, option));
    }
    PATHS
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, methods)| (*methods, ""))
}

fn is_option(name: &str) -> bool {
    !name.is_empty() && !name.contains('/')
}

fn endpoint_of(methods: Methods, method: &str) -> Option<Endpoint> {
    methods
        .iter()
        .find(|(name, _)| *name == method)
        .map(|(_, endpoint)| *endpoint)
}

/// `OPTIONS` is allowed everywhere; the list is sorted.
fn allow_list(methods: Methods) -> String {
    let mut names: Vec<&str> = methods.iter().map(|(name, _)| *name).collect();
    names.push("OPTIONS");
    names.sort_unstable();
    names.join(", ")
}

/// The path of this method that the client probably meant.
fn canonical_path(method: &str, path: &str) -> Option<String> {
    let serves = |candidate: &str| {
        methods_of(candidate).is_some_and(|(methods, _)| endpoint_of(methods, method).is_some())
    };
    let toggled = toggle_final_slash(path);
    if serves(&toggled) {
        return Some(toggled);
    }
    let clean = clean_path(path);
    let toggled = toggle_final_slash(&clean);
    [clean, toggled]
        .into_iter()
        .filter_map(|candidate| match_ignoring_case(&candidate))
        .find(|candidate| serves(candidate))
}

fn toggle_final_slash(path: &str) -> String {
    path.strip_suffix('/')
        .map_or_else(|| format!("{path}/"), str::to_owned)
}

/// The known path that differs from this one at most in case. The name of an option stays.
fn match_ignoring_case(path: &str) -> Option<String> {
    if let Some((prefix, option)) = path.split_at_checked(OPTION_PREFIX.len())
        && prefix.eq_ignore_ascii_case(OPTION_PREFIX)
    {
        return Some(format!("{OPTION_PREFIX}{option}"));
    }
    let known = PATHS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(path));
    known.map(|(known, _)| (*known).to_owned())
}

/// Resolves `.`, `..` and empty segments; a final slash stays. `..` stops at the root.
fn clean_path(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let ends_in_folder = path.ends_with('/') || path.ends_with("/.");
    let slash = if ends_in_folder && !kept.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{slash}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(endpoint: Endpoint) -> Routed<'static> {
        Routed::Endpoint {
            endpoint,
            option: "",
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
            option: "log_level",
        };
        assert_eq!(route("PUT", "/config/log_level"), option);
    }

    #[test]
    fn every_path_serves_every_method_of_its_row() {
        for (path, methods) in PATHS {
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
