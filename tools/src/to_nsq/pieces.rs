//! Splitting input at a delimiter.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};

/// Bytes asked for in one read.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of the longest piece: half of what the protocol can express, more than any nsqd takes.
const PIECE_BYTES_MAX: usize = 1 << 30;

/// Input that was read and not yet handed out. Pieces are slices of it: nothing is copied.
#[derive(Debug)]
pub(super) struct Pieces {
    delimiter: u8,
    /// Without a delimiter.
    rest: BytesMut,
}

impl Pieces {
    /// Splits at that byte.
    pub(super) fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            rest: BytesMut::new(),
        }
    }

    /// Reads once and gives the pieces that are complete, without empty ones; `None` at the end of
    /// the input.
    ///
    /// # Errors
    /// Those of the reader; also a piece that grows without end.
    pub(super) fn read(&mut self, input: &mut impl Read) -> io::Result<Option<Vec<Bytes>>> {
        let known = self.rest.len();
        if known > PIECE_BYTES_MAX {
            return Err(io::Error::other(format!(
                "ERROR: a message of more than {PIECE_BYTES_MAX} bytes"
            )));
        }
        self.rest.resize(known + READ_BYTES, 0);
        let read = loop {
            match input.read(&mut self.rest[known..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.rest.truncate(known + read.as_ref().unwrap_or(&0));
        match read? {
            0 => Ok(None),
            _ => Ok(Some(self.split(known))),
        }
    }

    /// The pieces that are complete; the first `known` bytes have no delimiter.
    fn split(&mut self, known: usize) -> Vec<Bytes> {
        let Some(last) = memchr::memrchr(self.delimiter, &self.rest[known..]) else {
            return Vec::new();
        };
        let complete = self.rest.split_to(known + last + 1).freeze();
        let mut pieces = Vec::new();
        let mut begin = 0;
        for end in memchr::memchr_iter(self.delimiter, &complete) {
            if end > begin {
                pieces.push(complete.slice(begin..end));
            }
            begin = end + 1;
        }
        pieces
    }

    /// What stands behind the last delimiter. A newline at the very end is taken for the end of
    /// a line that somebody else wrote, and left out.
    pub(super) fn take_rest(&mut self) -> Option<Bytes> {
        if self.rest.last() == Some(&b'\n') {
            self.rest.truncate(self.rest.len() - 1);
        }
        let rest = self.rest.split().freeze();
        (!rest.is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands out at most `step` bytes at a time.
    struct Slow<'a> {
        input: &'a [u8],
        step: usize,
    }

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.step.min(buffer.len());
            self.input.read(&mut buffer[..length])
        }
    }

    fn pieces(delimiter: u8, input: &[u8], step: usize) -> Vec<Bytes> {
        let mut pieces = Pieces::new(delimiter);
        let mut reader = Slow { input, step };
        let mut all = Vec::new();
        while let Some(found) = pieces.read(&mut reader).unwrap() {
            all.extend(found);
        }
        all.extend(pieces.take_rest());
        all
    }

    #[test]
    fn delimiters_are_taken_away_where_they_are() {
        let rows: [(u8, &str, &[&str]); 9] = [
            (b'\n', "", &[]),
            (b'\n', "a\nb\n", &["a", "b"]),
            (b'\n', "a\nno newline", &["a", "no newline"]),
            (b'\n', "\n\na\r\n\n", &["a\r"]),
            (b',', "one,two,three\n", &["one", "two", "three"]),
            (b',', "one,two,", &["one", "two"]),
            (b',', "one,two,\n", &["one", "two"]),
            (b',', "o\nne,two\n\n", &["o\nne", "two\n"]),
            (0, "a\0b", &["a", "b"]),
        ];
        for (delimiter, input, expected) in rows {
            for step in [1, 3, READ_BYTES] {
                assert_eq!(
                    pieces(delimiter, input.as_bytes(), step),
                    expected,
                    "{input:?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_it_arrives(
            lines in proptest::collection::vec("[a-c]{0,5}", 0..20),
            step in 1_usize..10,
        ) {
            let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let expected: Vec<&String> = lines.iter().filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(pieces(b'\n', input.as_bytes(), step), expected);
        }
    }
}
