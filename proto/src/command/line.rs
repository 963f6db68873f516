//! The line of a command: where it ends, its words, and the numbers and ids among them.

use crate::ProtoError;

/// Longest line in bytes, `\n` included: the read buffer of the Go daemon.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// Length of the first line, `\n` included, or `None` while it has not all arrived.
pub(super) fn line_len(input: &[u8]) -> Result<Option<usize>, ProtoError> {
    let window = &input[..input.len().min(LINE_BYTES_MAX)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(newline) => Ok(Some(newline + 1)),
        None if window.len() == LINE_BYTES_MAX => Err(ProtoError::line_too_long(LINE_BYTES_MAX)),
        None => Ok(None),
    }
}

/// The words of a line: it yields what lies between single spaces, so two spaces in a row have an
/// empty word between them, and an empty line is one empty word.
#[derive(Clone)]
pub(super) struct Words<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Words<'a> {
    /// Of a line with its `\n`.
    pub(super) fn new(line: &'a [u8]) -> Self {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        Self {
            rest: Some(line.strip_suffix(b"\r").unwrap_or(line)),
        }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let Some(space) = rest.iter().position(|byte| *byte == b' ') else {
            self.rest = None;
            return Some(rest);
        };
        self.rest = Some(&rest[space + 1..]);
        Some(&rest[..space])
    }
}

/// The number that `word` spells: ASCII digits, no sign. `None` for anything else, for no digits
/// at all, and for what a `u64` cannot hold (the Go daemon takes it modulo 2^64, spec K8).
pub(super) fn parse_number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}
