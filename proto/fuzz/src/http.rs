//! What the targets of the HTTP doors share.

/// Who begins like this speaks HTTP/2 and is hung up on, if it is seen at once; it has an empty line
/// in its middle, so that a part of it is a request that is refused.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The answer to a head that cannot be read, [without numbers](without_numbers).
pub const MALFORMED: &str =
    "HTTP/#.# # Bad Request\r\nConnection: close\r\nContent-Length: #\r\n\r\n";

/// Whether a stream is such that cuts make a difference.
#[must_use]
pub fn speaks_http2(stream: &[u8]) -> bool {
    stream.windows(PREFACE.len()).any(|part| part == PREFACE)
}

/// Answers over HTTP with every number as `#`, and without dates, whose words change too.
#[must_use]
pub fn without_numbers(text: &str) -> String {
    let lines = text.split_inclusive("\r\n");
    let lines = lines.filter(|line| !line.starts_with("Date: "));
    let mut out = String::new();
    for symbol in lines.flat_map(str::chars) {
        match symbol {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            symbol => out.push(symbol),
        }
    }
    // Fractions come and go.
    out.replace("#.#s", "#s")
}
