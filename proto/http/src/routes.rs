//! Which endpoint a method and a path name, and what is said when they name none.
//!
//! The rules are those of the router that the reference uses: an exact match wins; otherwise a
//! path that becomes one of *the same method* by adding or dropping a final slash, resolving `.`,
//! `..` and `//`, or changing case is redirected there; otherwise `OPTIONS` lists the methods,
//! another method is refused with that list, and the rest is not found.

/// The methods of one path.
pub type Methods<E> = &'static [(&'static str, E)];

/// A path and its methods. A path that ends in `/:` has a parameter there: one segment, not empty.
pub type Path<E> = (&'static str, Methods<E>);

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Routed<'p, E> {
    /// Call this endpoint.
    Endpoint {
        /// Which one.
        endpoint: E,
        /// The parameter of a path that has one, else empty.
        parameter: &'p str,
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

/// Routes a method and a decoded path. The table is searched from the top.
pub fn route<'p, E: Copy>(paths: &[Path<E>], method: &str, path: &'p str) -> Routed<'p, E> {
    let found = methods_of(paths, path);
    if let Some((methods, parameter)) = found
        && let Some(endpoint) = endpoint_of(methods, method)
    {
        return Routed::Endpoint {
            endpoint,
            parameter,
        };
    }
    if let Some(canonical) = canonical_path(paths, method, path) {
        return Routed::Redirect(canonical);
    }
    match found {
        Some((methods, _)) if method == "OPTIONS" => Routed::Options(allow_list(methods)),
        Some((methods, _)) => Routed::MethodNotAllowed(allow_list(methods)),
        None => Routed::NotFound,
    }
}

/// The methods of an exact path, and its parameter.
fn methods_of<'p, E>(paths: &[Path<E>], path: &'p str) -> Option<(Methods<E>, &'p str)> {
    paths.iter().find_map(|(known, methods)| {
        if let Some(prefix) = known.strip_suffix(':') {
            let parameter = path.strip_prefix(prefix)?;
            return is_segment(parameter).then_some((*methods, parameter));
        }
        (*known == path).then_some((*methods, ""))
    })
}

fn is_segment(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

fn endpoint_of<E: Copy>(methods: Methods<E>, method: &str) -> Option<E> {
    methods
        .iter()
        .find(|(name, _)| *name == method)
        .map(|(_, endpoint)| *endpoint)
}

/// `OPTIONS` is allowed everywhere; the list is sorted.
fn allow_list<E>(methods: Methods<E>) -> String {
    let mut names: Vec<&str> = methods.iter().map(|(name, _)| *name).collect();
    names.push("OPTIONS");
    names.sort_unstable();
    names.join(", ")
}

/// The path of this method that the client probably meant.
fn canonical_path<E: Copy>(paths: &[Path<E>], method: &str, path: &str) -> Option<String> {
    let serves = |candidate: &str| {
        methods_of(paths, candidate)
            .is_some_and(|(methods, _)| endpoint_of(methods, method).is_some())
    };
    let toggled = toggle_final_slash(path);
    if serves(&toggled) {
        return Some(toggled);
    }
    let clean = clean_path(path);
    let toggled = toggle_final_slash(&clean);
    [clean, toggled]
        .into_iter()
        .filter_map(|candidate| match_ignoring_case(paths, &candidate))
        .find(|candidate| serves(candidate))
}

fn toggle_final_slash(path: &str) -> String {
    path.strip_suffix('/')
        .map_or_else(|| format!("{path}/"), str::to_owned)
}

/// The known path that differs from this one at most in case. A parameter stays as it is.
fn match_ignoring_case<E>(paths: &[Path<E>], path: &str) -> Option<String> {
    paths.iter().find_map(|(known, _)| {
        if let Some(prefix) = known.strip_suffix(':') {
            let (start, parameter) = path.split_at_checked(prefix.len())?;
            let is_match = start.eq_ignore_ascii_case(prefix);
            return is_match.then(|| format!("{prefix}{parameter}"));
        }
        let is_match = known.eq_ignore_ascii_case(path);
        is_match.then(|| (*known).to_owned())
    })
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

    const PATHS: &[Path<u8>] = &[
        ("/ping", &[("GET", 1)]),
        ("/config/:", &[("GET", 2), ("PUT", 3)]),
        ("/debug", &[("GET", 4)]),
    ];

    #[test]
    fn exact_paths_are_served_with_their_parameter() {
        let served = |endpoint, parameter| Routed::Endpoint {
            endpoint,
            parameter,
        };
        assert_eq!(route(PATHS, "GET", "/ping"), served(1, ""));
        assert_eq!(route(PATHS, "PUT", "/config/a"), served(3, "a"));
        assert_eq!(route(PATHS, "GET", "/config/a/b"), Routed::NotFound);
        assert_eq!(route(PATHS, "GET", "/config/"), Routed::NotFound);
    }

    #[test]
    fn near_misses_are_redirected_within_the_method() {
        let to = |path: &str| Routed::Redirect(path.to_owned());
        assert_eq!(route(PATHS, "GET", "/debug/"), to("/debug"));
        assert_eq!(route(PATHS, "GET", "/a/..//PING"), to("/ping"));
        assert_eq!(route(PATHS, "PUT", "/CONFIG/Key/"), to("/config/Key"));
        assert_eq!(route(PATHS, "POST", "/ping/"), Routed::NotFound);
    }

    #[test]
    fn other_methods_get_the_sorted_list() {
        let allow = "GET, OPTIONS, PUT".to_owned();
        assert_eq!(
            route(PATHS, "POST", "/config/a"),
            Routed::MethodNotAllowed(allow.clone())
        );
        assert_eq!(route(PATHS, "OPTIONS", "/config/a"), Routed::Options(allow));
    }
}
