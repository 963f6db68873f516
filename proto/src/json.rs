//! JSON as Go's decoder reads it, where that is more than JSON.

use std::borrow::Cow;

/// The text of a JSON document in which every string can be read.
///
/// Go puts U+FFFD for what is no text inside of strings: bytes that are not UTF-8, and escaped
/// halves of a surrogate pair without the other half. Outside of strings such a document stays an
/// error.
#[must_use]
pub fn json_text(document: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(document);
    let has_surrogates = ["\\ud", "\\uD"].iter().any(|escape| text.contains(escape));
    if !has_surrogates {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest: &str = &text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (len, is_readable) = match (escaped_unit(rest), rest.get(6..).and_then(escaped_unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (12, true),
            (Some(0xD800..=0xDFFF), _) => (6, false),
            // The character behind the backslash is not looked at: it may be another one.
            _ => (1 + rest[1..].chars().next().map_or(0, char::len_utf8), true),
        };
        out.push_str(if is_readable { &rest[..len] } else { "\\ufffd" });
        rest = &rest[len..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The number in `\uXXXX` at the start of `text`.
fn escaped_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_as_go_reads_them() {
        let read = |document: &[u8]| serde_json::from_str::<String>(&json_text(document)).ok();
        for (document, expected) in [
            (&br#""a\ud83d\ude00b""#[..], Some("a\u{1f600}b")),
            (br#""\ud800""#, Some("\u{fffd}")),
            (br#""\uD800\ud800\udc00""#, Some("\u{fffd}\u{10000}")),
            (br#""\udc00\ud800x""#, Some("\u{fffd}\u{fffd}x")),
            (br#""\\ud800""#, Some("\\ud800")),
            (br#""\ud800\n\ud8""#, None),
            (b"\"\xff\\ud800\"", Some("\u{fffd}\u{fffd}")),
            (b"\\ud800", None),
            (b"\"\\ud800\\", None),
            (b"\"\\ud800\\\xff\"", None),
        ] {
            let shown = document.escape_ascii();
            assert_eq!(read(document).as_deref(), expected, "{shown}");
        }
    }
}
