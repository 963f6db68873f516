//! The list of messages in an MPUB: `count(4) (size(4) body)*`.
//!
//! TCP (`MPUB`) and HTTP (binary `/mpub`) send the same list and share [`check_list`]. They differ in
//! what ends it: over TCP its length is declared before it and must be that of the list exactly
//! (spec K7: the Go daemon reads past it, and takes what is left over for commands); over HTTP it
//! is the request's body, and bytes after the last message are ignored.

use std::iter::FusedIterator;

use super::body::{FIELD_LEN, Missing};
use crate::{ErrorCode, Limits, ProtoError};

/// Least bytes that a message takes in a list: its size field and a body of one byte.
const ENTRY_BYTES_MIN: u64 = 5;

/// The bodies of an MPUB, already validated; iterates in order.
///
/// - `rest` holds exactly `count` entries, each with a size that is positive and within the limit.
#[derive(Debug, Clone)]
pub struct Bodies<'a> {
    count: u32,
    rest: &'a [u8],
}

impl Bodies<'_> {
    /// The bytes of the bodies that are still to come, without their size fields.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.rest.len() - self.len() * FIELD_LEN
    }
}

impl<'a> Iterator for Bodies<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (size, rest) = self.rest.split_first_chunk()?;
        let (body, rest) = rest.split_at(u32::from_be_bytes(*size) as usize);
        self.count -= 1;
        self.rest = rest;
        Some(body)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count as usize, Some(self.count as usize))
    }
}

impl ExactSizeIterator for Bodies<'_> {}

impl FusedIterator for Bodies<'_> {}

/// Decodes the body of a binary HTTP `/mpub`, which is an MPUB's list without its length before it.
/// Bytes after the last message are ignored, as HTTP publishers are used to.
///
/// # Errors
/// The error that the same list has as an MPUB: `E_BAD_BODY` for the count, `E_BAD_MESSAGE` for a
/// message or a list that ends early.
pub fn decode_bodies<'a>(body: &'a [u8], limits: &Limits) -> Result<Bodies<'a>, ProtoError> {
    match check_list(body, body.len(), Surplus::Ignore, limits)? {
        List::Whole(bodies) => Ok(bodies),
        // Never seen: a list of which all has arrived is whole or was refused above.
        List::Partial(missing) => Err(missing.error()),
    }
}

/// What may come after the last message of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surplus {
    Ignore,
    Reject,
}

/// As far as the list has arrived, it is sound.
pub(super) enum List<'a> {
    Whole(Bodies<'a>),
    Partial(Missing),
}

/// Checks a list that is to have `len` bytes and begins `input`, which may end before or after it.
///
/// An error does not wait for bytes that cannot change it.
pub(super) fn check_list<'a>(
    input: &'a [u8],
    len: usize,
    surplus: Surplus,
    limits: &Limits,
) -> Result<List<'a>, ProtoError> {
    let mut entries = Entries { input, len, at: 0 };
    let Some(count) = entries.field(Missing::MessageCount)? else {
        return Ok(List::Partial(Missing::MessageCount));
    };
    let count = check_count(count, limits)?;
    for index in 0..count {
        let Some(size) = entries.field(Missing::MessageSize(index))? else {
            return Ok(List::Partial(Missing::MessageSize(index)));
        };
        let size = check_message_size(size, index, limits)?;
        if !entries.skip(size, Missing::MessageBody)? {
            return Ok(List::Partial(Missing::MessageBody));
        }
    }
    if surplus == Surplus::Reject && entries.at < len {
        return Err(surplus_error(len, entries.at));
    }
    Ok(List::Whole(Bodies {
        count,
        rest: &input[FIELD_LEN..entries.at],
    }))
}

/// A position in the list.
struct Entries<'a> {
    input: &'a [u8],
    /// Bytes of the list in all.
    len: usize,
    /// Bytes read; beyond neither `len` nor the input.
    at: usize,
}

impl Entries<'_> {
    /// The number at the position, or `None` while it has not arrived.
    fn field(&mut self, missing: Missing) -> Result<Option<i32>, ProtoError> {
        let start = self.at;
        if !self.skip(FIELD_LEN, missing)? {
            return Ok(None);
        }
        Ok(self.input[start..]
            .first_chunk()
            .map(|field| i32::from_be_bytes(*field)))
    }

    /// Moves over `count` bytes and says whether they have arrived; if the list ends before them,
    /// they never will.
    fn skip(&mut self, count: usize, missing: Missing) -> Result<bool, ProtoError> {
        if count > self.len - self.at {
            return Err(missing.error());
        }
        let arrived = count <= self.input.len() - self.at;
        if arrived {
            self.at += count;
        }
        Ok(arrived)
    }
}

fn check_count(count: i32, limits: &Limits) -> Result<u32, ProtoError> {
    let count_max = limits.body_bytes_max.saturating_sub(FIELD_LEN as u64) / ENTRY_BYTES_MIN;
    u32::try_from(count)
        .ok()
        .filter(|count| (1..=count_max).contains(&u64::from(*count)))
        .ok_or_else(|| count_error(count))
}

fn check_message_size(size: i32, index: u32, limits: &Limits) -> Result<usize, ProtoError> {
    let max = limits.message_bytes_max;
    match usize::try_from(size) {
        Ok(len) if len > 0 && u64::from(size.cast_unsigned()) <= max => Ok(len),
        _ => Err(message_size_error(size, index, max)),
    }
}

#[cold]
fn count_error(count: i32) -> ProtoError {
    ProtoError::new(
        ErrorCode::BadBody,
        format!("MPUB invalid message count {count}"),
    )
}

#[cold]
fn message_size_error(size: i32, index: u32, max: u64) -> ProtoError {
    let detail = if size > 0 {
        format!("MPUB message too big {size} > {max}")
    } else {
        format!("MPUB invalid message({index}) body size {size}")
    };
    ProtoError::new(ErrorCode::BadMessage, detail)
}

#[cold]
fn surplus_error(declared: usize, used: usize) -> ProtoError {
    let detail = format!("MPUB body size {declared} does not match its messages ({used} bytes)");
    ProtoError::new(ErrorCode::BadBody, detail)
}
