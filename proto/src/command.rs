//! Decoding of what a client sends, in the exact validation order of spec nsqd.md §2.5.
//!
//! A command is a line (`VERB param param\n`, one `\r` before the `\n` is dropped, parameters are
//! split at every single space), and for some verbs a body: a signed big-endian length of four bytes,
//! then that many bytes. The decoder is a pure function of the received bytes and a few facts about
//! the connection: it owns nothing, keeps nothing between calls, and what it returns borrows from
//! the input.
//!
//! - The same bytes give the same command or error however they were cut on the way.
//! - An error is returned as soon as it is certain: a message that is too big is refused by its
//!   size, before its bytes are waited for.
//! - An MPUB is returned only when all of its messages are sound (spec K7, K28).
//!
//! Not here: authorization (but [`mpub_topic`], for when it comes first), whether AUTH is enabled, the parsing of IDENTIFY's JSON
//! ([`IdentifyRequest`](crate::IdentifyRequest)), and whether a message is in flight.
//!
//! Hot path: no allocation, formatting, await or atomic per message.

mod bodies;
mod body;
mod line;
mod parse;

use crate::{Limits, ProtoError};
use body::Missing;

pub use bodies::{Bodies, decode_bodies};
pub use line::LINE_BYTES_MAX;
pub use parse::{FIN_LINE_LEN, mpub_topic, plain_fins};

/// What the connection has been through (spec §2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Not subscribed.
    Init,
    /// After SUB.
    Subscribed,
    /// After CLS.
    Closing,
}

/// What the decoder must know of the connection to give the right error first.
#[derive(Debug, Clone, Copy)]
pub struct DecodeContext {
    /// See [`SessionState`].
    pub state: SessionState,
    /// The connection switched heartbeats off: no SUB.
    pub heartbeats_disabled: bool,
    /// TLS is required and not there: only IDENTIFY may pass.
    pub tls_missing: bool,
    /// Size limits.
    pub limits: Limits,
}

/// A complete, validated command, borrowed from the receive buffer.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the command's parameters")]
pub enum Command<'a> {
    /// Also stands for an RDY after CLS, which is ignored whatever its count.
    Nop,
    Identify {
        body: &'a [u8],
    },
    Auth {
        secret: &'a [u8],
    },
    Sub {
        topic: &'a str,
        channel: &'a str,
    },
    Rdy {
        count: u32,
    },
    Fin {
        id: [u8; 16],
    },
    /// Clamped to what a `u64` of milliseconds holds, not to the flag.
    Req {
        id: [u8; 16],
        delay_ms: u64,
    },
    Touch {
        id: [u8; 16],
    },
    Cls,
    Pub {
        topic: &'a str,
        body: &'a [u8],
    },
    Mpub {
        topic: &'a str,
        bodies: Bodies<'a>,
    },
    Dpub {
        topic: &'a str,
        delay_ms: u64,
        body: &'a [u8],
    },
}

/// What [`decode`] made of the buffer.
#[derive(Debug, Clone)]
pub enum Decoded<'a> {
    /// A whole command, and how many bytes it took.
    Command {
        /// The command.
        command: Command<'a>,
        /// Bytes to drop from the front.
        consumed: usize,
    },
    /// Not whole yet: do not call again before the buffer holds `needed` bytes in all.
    Incomplete {
        /// Bytes in all; greater than the length given.
        needed: usize,
    },
}

/// How far the input reaches: [`Decoded`] that also knows what was to come next.
enum Progress<'a> {
    Whole {
        command: Command<'a>,
        consumed: usize,
    },
    Partial {
        needed: usize,
        /// `None` inside the line.
        missing: Option<Missing>,
    },
}

/// Decodes the first command of `input`.
///
/// # Errors
/// A fatal error as soon as it is certain, also before the body has arrived.
pub fn decode<'a>(input: &'a [u8], context: &DecodeContext) -> Result<Decoded<'a>, ProtoError> {
    Ok(match parse::parse(input, context)? {
        Progress::Whole { command, consumed } => Decoded::Command { command, consumed },
        Progress::Partial { needed, .. } => Decoded::Incomplete { needed },
    })
}

/// What to tell a client that stopped in the middle of a command (end of stream or read deadline):
/// the error of the body that did not come, or nothing when it was between commands or inside a line.
#[must_use]
pub fn truncation_error(input: &[u8], context: &DecodeContext) -> Option<ProtoError> {
    match parse::parse(input, context) {
        Ok(Progress::Whole { .. }) => None,
        Ok(Progress::Partial { missing, .. }) => missing.map(Missing::error),
        Err(error) => Some(error),
    }
}
