//! JSON as Go's decoder reads it, where that differs from serde's.

use std::borrow::Cow;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Error, MapAccess};
use serde_json::value::RawValue;

/// Length of `\uXXXX`.
const ESCAPE_LEN: usize = 6;

/// The text of a body: in strings, what is not UTF-8 and halves of surrogate pairs become U+FFFD.
/// Outside of strings both stay errors.
pub(super) fn mended(body: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(body) {
        text if !text.contains("\\u") => text,
        text => without_lone_surrogates(&text).into(),
    }
}

fn without_lone_surrogates(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('\\') {
        let (before, escape) = rest.split_at(start);
        mended.push_str(before);
        let (kept, len) = match unit(escape) {
            Some(0xd800..=0xdbff) if is_second(&escape[ESCAPE_LEN..]) => {
                (&escape[..2 * ESCAPE_LEN], 2 * ESCAPE_LEN)
            }
            Some(0xd800..=0xdfff) => ("\u{fffd}", ESCAPE_LEN),
            Some(_) => (&escape[..ESCAPE_LEN], ESCAPE_LEN),
            None => {
                // The escaped character goes along: it may be a backslash.
                let len = escape.chars().take(2).map(char::len_utf8).sum();
                (&escape[..len], len)
            }
        };
        mended.push_str(kept);
        rest = &escape[len..];
    }
    mended + rest
}

/// The UTF-16 unit that an escape at the beginning of `text` stands for.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u16::from_str_radix(digits, 16).ok().filter(|_| all_hex)
}

fn is_second(text: &str) -> bool {
    matches!(unit(text), Some(0xdc00..=0xdfff))
}

/// Reads a value into its field. A `null` leaves the field as it is, so that it also does not undo
/// an earlier duplicate.
pub(super) fn read<'de, T, A>(field: &mut T, map: &mut A) -> Result<(), A::Error>
where
    T: Deserialize<'de>,
    A: MapAccess<'de>,
{
    if let Some(value) = map.next_value::<Option<T>>()? {
        *field = value;
    }
    Ok(())
}

/// The same for an integer, of which the digits are looked at: to serde `-0` is a fraction.
pub(super) fn read_integer<'de, T, A>(field: &mut T, map: &mut A) -> Result<(), A::Error>
where
    T: FromStr,
    A: MapAccess<'de>,
{
    let mut raw: Option<&RawValue> = None;
    read(&mut raw, map)?;
    if let Some(raw) = raw {
        let number = raw.get().parse();
        *field = number.map_err(|_| A::Error::custom("not an integer of the field's size"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::mended;

    #[test]
    fn only_halves_of_surrogate_pairs_are_replaced() {
        let cases = [
            (r#""a""#, r#""a""#),
            (r"\ud83d\ude00", r"\ud83d\ude00"),
            (r"\ud83d\ude0", "\u{fffd}\\ude0"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}\\ud83d\\ude00"),
            (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
            (r"\uD800\u0041", "\u{fffd}\\u0041"),
            (r"\\ud800", r"\\ud800"),
            (r"\\\ud800", "\\\\\u{fffd}"),
            (r"\u+d80", r"\u+d80"),
            (r"\uü\", r"\uü\"),
            ("\\ü\\ud800", "\\ü\u{fffd}"),
        ];
        for (body, expected) in cases {
            assert_eq!(mended(body.as_bytes()), expected, "{body}");
        }
        assert_eq!(mended(b"\xff\\u0041"), "\u{fffd}\\u0041");
    }
}
