//! The NSQ wire protocol as bytes and types: names, commands, frames, limits, errors.
//!
//! No I/O, no clock, no async. The words are those of `spec/nsqd.md` section 2.
#![forbid(unsafe_code)]

mod command;
mod error;
mod frame;
mod identify;
mod limits;
mod name;
mod quote;

pub use command::{
    Bodies, Command, DecodeContext, Decoded, LINE_BYTES_MAX, SessionState, decode, decode_bodies,
    truncation_error,
};
pub use error::{ErrorCode, ProtoError};
pub use frame::{
    FRAME_HEADER_LEN, FRAME_TYPE_ERROR, FRAME_TYPE_MESSAGE, FRAME_TYPE_RESPONSE,
    MESSAGE_ATTEMPTS_OFFSET, MESSAGE_HEADER_LEN, MESSAGE_ID_OFFSET, MESSAGE_TIMESTAMP_OFFSET,
    encode_error, encode_message_header, encode_response,
};
pub use identify::{IdentifyLimits, IdentifyReply, IdentifyRequest};
pub use limits::Limits;
pub use name::{ChannelName, NameError, TopicName};
