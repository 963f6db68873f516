//! The query of a request URL, by the rules of Go's `net/url`.
//!
//! A [`Query`] borrows the text and is checked once, when it is made; values are looked up in
//! place and decoded only when they hold an escape. Invariant: every pair decodes.

use std::borrow::Cow;

/// A query (or a form body) whose every key and value decodes.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    raw: &'a [u8],
}

/// The text holds a `;` or an escape that is not `%` and two hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedQuery;

impl<'a> Query<'a> {
    /// Checks the whole text, also the pairs that nobody will ask for.
    ///
    /// # Errors
    /// [`MalformedQuery`].
    pub fn parse(raw: &'a [u8]) -> Result<Self, MalformedQuery> {
        let well_formed = !raw.contains(&b';') && escapes_are_valid(raw);
        well_formed.then_some(Self { raw }).ok_or(MalformedQuery)
    }

    /// The first value of this name; empty when it was given without one.
    pub fn get(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        self.raw
            .split(|&byte| byte == b'&')
            .filter(|pair| !pair.is_empty())
            .find_map(|pair| {
                let equals = pair
                    .iter()
                    .position(|&byte| byte == b'=')
                    .unwrap_or(pair.len());
                let value = pair.get(equals + 1..).unwrap_or_default();
                (*unescape(&pair[..equals]) == *name.as_bytes()).then(|| unescape(value))
            })
    }

    /// A switch that is on unless it is plainly off: `false` or `0`.
    pub fn is_on(&self, name: &str) -> bool {
        !matches!(self.get(name).as_deref(), Some(b"false" | b"0"))
    }
}

/// Decodes the path of a URL; `None` where an escape is broken. A `+` stands for itself there.
pub fn decode_path(path: &str) -> Option<Cow<'_, [u8]>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path.as_bytes()));
    }
    escapes_are_valid(path.as_bytes()).then(|| Cow::Owned(decode(path.as_bytes(), false)))
}

/// Whether every `%` is followed by two hexadecimal digits.
fn escapes_are_valid(raw: &[u8]) -> bool {
    let is_hex = |at: usize| raw.get(at).is_some_and(u8::is_ascii_hexdigit);
    let mut percents = raw.iter().enumerate().filter(|&(_, &byte)| byte == b'%');
    percents.all(|(at, _)| is_hex(at + 1) && is_hex(at + 2))
}

fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    if raw.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        Cow::Owned(decode(raw, true))
    } else {
        Cow::Borrowed(raw)
    }
}

/// Replaces the escapes of a text that was found valid.
fn decode(raw: &[u8], plus_is_space: bool) -> Vec<u8> {
    let mut text = raw.to_vec();
    if plus_is_space {
        // Before the escapes: an escaped plus is a plus.
        for byte in text.iter_mut().filter(|byte| **byte == b'+') {
            *byte = b' ';
        }
    }
    percent_encoding::percent_decode(&text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(raw: &str, name: &str) -> Option<String> {
        let query = Query::parse(raw.as_bytes()).unwrap();
        query
            .get(name)
            .map(|value| String::from_utf8(value.into_owned()).unwrap())
    }

    #[test]
    fn first_value_wins() {
        assert_eq!(value("topic=a&topic=b", "topic").as_deref(), Some("a"));
        assert_eq!(value("topic&topic=b", "topic").as_deref(), Some(""));
    }

    #[test]
    fn empty_pairs_and_empty_names_are_skipped() {
        assert_eq!(value("&&=x&topic=t", "topic").as_deref(), Some("t"));
        assert_eq!(value("", "topic"), None);
        assert_eq!(value("topics=t", "topic"), None);
    }

    #[test]
    fn only_the_first_equals_sign_separates() {
        assert_eq!(value("a=b=c", "a").as_deref(), Some("b=c"));
    }

    #[test]
    fn escapes_are_decoded_in_names_and_values() {
        assert_eq!(
            value("t%6fpic=a%2Bb+c%20d", "topic").as_deref(),
            Some("a+b c d")
        );
        assert_eq!(value("a=%2525", "a").as_deref(), Some("%25"));
    }

    #[test]
    fn broken_escapes_and_semicolons_are_refused_anywhere() {
        for raw in ["%zz", "a=%", "a=%4", "a=1&b=%g0", "a=1;b=2", "a=1&;", "%é"] {
            assert_eq!(
                Query::parse(raw.as_bytes()).unwrap_err(),
                MalformedQuery,
                "{raw}"
            );
        }
    }

    #[test]
    fn switches_are_off_only_when_told_so() {
        for (raw, on) in [
            ("", true),
            ("x=1", true),
            ("x=0", false),
            ("x=false", false),
        ] {
            assert_eq!(
                Query::parse(raw.as_bytes()).unwrap().is_on("x"),
                on,
                "{raw}"
            );
        }
        assert!(Query::parse(b"x=FALSE").unwrap().is_on("x"));
        assert!(Query::parse(b"x").unwrap().is_on("x"));
    }

    #[test]
    fn plus_stays_in_paths() {
        assert_eq!(decode_path("/a+b%20c").unwrap().as_ref(), b"/a+b c");
        assert_eq!(decode_path("/%zz"), None);
    }
}
