//! Go's `%q`: how names are shown in error texts (spec nsqd.md §2.5).
//!
//! Clients and log searches know the texts of the Go daemon, so the escapes are those of
//! `strconv.Quote`, not Rust's: `\xHH` for bytes that are not UTF-8, `\uHHHH` and `\UHHHHHHHH` for
//! what does not print.

use std::fmt::Write as _;

/// `bytes` in double quotes, escaped.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push_escaped(&mut quoted, character);
        }
        for byte in chunk.invalid() {
            push_formatted(&mut quoted, format_args!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

fn push_escaped(quoted: &mut String, character: char) {
    match character {
        '"' => quoted.push_str("\\\""),
        '\\' => quoted.push_str("\\\\"),
        '\x07' => quoted.push_str("\\a"),
        '\x08' => quoted.push_str("\\b"),
        '\x0c' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\x0b' => quoted.push_str("\\v"),
        ' '..='~' => quoted.push(character),
        '\0'..='\x1f' | '\x7f' => {
            push_formatted(quoted, format_args!("\\x{:02x}", u32::from(character)));
        }
        _ if is_printable(character) => quoted.push(character),
        '\u{80}'..='\u{ffff}' => {
            push_formatted(quoted, format_args!("\\u{:04x}", u32::from(character)));
        }
        _ => push_formatted(quoted, format_args!("\\U{:08x}", u32::from(character))),
    }
}

/// Whether a character beyond ASCII prints.
///
/// The standard library knows (`Debug` of a string escapes what does not print) but does not say so
/// in public. The leading letter is there because a combining mark is escaped at the start only.
fn is_printable(character: char) -> bool {
    let mut buffer = [0; 5];
    buffer[0] = b'a';
    let end = 1 + character.encode_utf8(&mut buffer[1..]).len();
    let pair = std::str::from_utf8(&buffer[..end]).expect("a letter and an encoded character");
    pair.escape_debug().nth(1) == Some(character)
}

fn push_formatted(quoted: &mut String, arguments: std::fmt::Arguments<'_>) {
    quoted
        .write_fmt(arguments)
        .expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn escapes_are_those_of_go() {
        let cases: [(&[u8], &str); 14] = [
            (b"", r#""""#),
            (b"a:b", r#""a:b""#),
            (b"a b~", r#""a b~""#),
            (b"q\"b\\s'", r#""q\"b\\s'""#),
            (b"\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
            (b"\x00\x1f\x7f", r#""\x00\x1f\x7f""#),
            (b"\xff\xc3", r#""\xff\xc3""#),
            (b"a\xe2\x82", r#""a\xe2\x82""#),
            ("ü日本🦀".as_bytes(), r#""ü日本🦀""#),
            ("e\u{301}\u{301}".as_bytes(), "\"e\u{301}\u{301}\""),
            ("\u{301}".as_bytes(), "\"\u{301}\""),
            (
                "\u{ad}\u{200b}\u{a0}\u{2028}\u{85}".as_bytes(),
                r#""\u00ad\u200b\u00a0\u2028\u0085""#,
            ),
            (
                "\u{e000}\u{feff}\u{fffd}".as_bytes(),
                "\"\\ue000\\ufeff\u{fffd}\"",
            ),
            (
                "\u{e0001}\u{10ffff}".as_bytes(),
                r#""\U000e0001\U0010ffff""#,
            ),
        ];
        for (input, expected) in cases {
            assert_eq!(quote(input), expected, "{input:?}");
        }
    }
}
