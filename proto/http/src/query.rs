//! The query of a request URL, by the rules of Go's `net/url`.
//!
//! A [`Query`] borrows the text and is checked once, when it is made; values are looked up in
//! place and decoded only when they hold an escape. Invariant: every pair decodes.

use std::borrow::Cow;
use std::fmt;

/// A query (or a form body) whose every key and value decodes.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    raw: &'a [u8],
}

/// Why a text is no query; shown in Go's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MalformedQuery {
    /// It holds a `;`.
    Semicolon,
    /// It holds this, which is not `%` and two hexadecimal digits.
    Escape(String),
}

impl fmt::Display for MalformedQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Semicolon => f.write_str("invalid semicolon separator in query"),
            Self::Escape(escape) => write!(f, "invalid URL escape {escape:?}"),
        }
    }
}

impl<'a> Query<'a> {
    /// Checks the whole text, also the pairs that nobody will ask for.
    ///
    /// # Errors
    /// [`MalformedQuery`].
    pub fn parse(raw: &'a [u8]) -> Result<Self, MalformedQuery> {
        if raw.contains(&b';') {
            return Err(MalformedQuery::Semicolon);
        }
        let mut parts = raw.split(|byte| matches!(byte, b'&' | b'='));
        match parts.find_map(broken_escape) {
            Some(escape) => Err(MalformedQuery::Escape(
                String::from_utf8_lossy(escape).into_owned(),
            )),
            None => Ok(Self { raw }),
        }
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
    let is_valid = broken_escape(path.as_bytes()).is_none();
    is_valid.then(|| Cow::Owned(decode(path.as_bytes(), false)))
}

/// The first `%` that is not followed by two hexadecimal digits, with what stands there instead.
fn broken_escape(raw: &[u8]) -> Option<&[u8]> {
    let mut escapes = raw
        .iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b'%')
        .map(|(at, _)| &raw[at..raw.len().min(at + 3)]);
    escapes.find(|escape| escape.len() < 3 || !escape[1..].iter().all(u8::is_ascii_hexdigit))
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
        let semicolon = "invalid semicolon separator in query";
        let table = [
            ("%zz", r#"invalid URL escape "%zz""#),
            ("%zzz=1", r#"invalid URL escape "%zz""#),
            ("a=%", r#"invalid URL escape "%""#),
            ("a=%4", r#"invalid URL escape "%4""#),
            ("a=%4&b=1", r#"invalid URL escape "%4""#),
            ("a=1&b=%g0", r#"invalid URL escape "%g0""#),
            ("%é", r#"invalid URL escape "%é""#),
            ("a=1;b=2", semicolon),
            ("a=%zz&;", semicolon),
        ];
        for (raw, text) in table {
            let error = Query::parse(raw.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), text, "{raw}");
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
