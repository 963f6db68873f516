//! The NSQ wire protocol as bytes and types: names, commands, frames, limits, errors.
//!
//! No I/O, no clock, no async. The words are those of `spec/nsqd.md` section 2.
#![forbid(unsafe_code)]

mod command;
mod delivery;
mod error;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod identify;
mod json;
mod limits;
mod name;
mod quote;
mod request;

pub use command::{
    Bodies, Command, DecodeContext, Decoded, FIN_LINE_LEN, LINE_BYTES_MAX, SessionState, decode,
    decode_bodies, mpub_topic, plain_fins, truncation_error,
};
pub use delivery::{Delivery, Frame, FrameError, REPLY_BYTES_MAX, decode_frame};
pub use error::{ErrorCode, ProtoError};
pub use frame::{
    FRAME_HEADER_LEN, FRAME_TYPE_ERROR, FRAME_TYPE_MESSAGE, FRAME_TYPE_RESPONSE,
    MESSAGE_ATTEMPTS_OFFSET, MESSAGE_HEADER_LEN, MESSAGE_ID_OFFSET, MESSAGE_TIMESTAMP_OFFSET,
    encode_error, encode_message_header, encode_response,
};
pub use identify::{
    ClientIdentity, IdentifyBody, IdentifyLimits, IdentifyReply, IdentifyRequest, ServerFeatures,
};
pub use json::json_text;
pub use limits::Limits;
pub use name::{ChannelName, NameError, TopicName};
pub use request::{
    FIN_LEN, MAGIC_V2, encode_auth, encode_cls, encode_dpub, encode_entry, encode_fin,
    encode_identify, encode_mpub, encode_nop, encode_pub, encode_rdy, encode_req, encode_sub,
    encode_touch, is_word,
};
