//! Addresses of other services without what may be secret in them.

/// The address with credentials and query, where it has them, made unreadable.
#[must_use]
pub fn redacted(address: &str) -> String {
    let (scheme, rest) = match address.find("://") {
        Some(at) => address.split_at(at + 3),
        None => ("", address),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((_, host)) => format!("xxxxx@{host}"),
        None => authority.to_owned(),
    };
    let path = match path.find(['?', '#']) {
        Some(at) => format!("{}?xxxxx", &path[..at]),
        None => path.to_owned(),
    };
    format!("{scheme}{authority}{path}")
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn only_secrets_are_taken_out() {
        for (address, shown) in [
            ("127.0.0.1:4181", "127.0.0.1:4181"),
            ("https://auth.example/a/b", "https://auth.example/a/b"),
            (
                "https://me:pw@auth.example/a",
                "https://xxxxx@auth.example/a",
            ),
            ("token@h:1", "xxxxx@h:1"),
            ("http://u:p@x@h?key=s#f", "http://xxxxx@h?xxxxx"),
            ("http://h/a?key=me@home", "http://h/a?xxxxx"),
        ] {
            assert_eq!(redacted(address), shown);
        }
    }
}
