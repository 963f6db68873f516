//! Encoding of what a client sends: the counterpart of [`decode`](crate::decode).
//!
//! Every function appends one command. Names and sizes are not checked here: the server does, and a
//! client that has to be sure asks [`is_word`] first.

use bytes::{BufMut, BytesMut};

/// What a connection begins with.
pub const MAGIC_V2: &[u8; 4] = b"  V2";

/// Bytes of a FIN command.
pub const FIN_LEN: usize = 21;

/// Whether `name` can stand in a command's line without ending its word: neither empty nor with a
/// space or line break in it. It may still be no legal name.
#[must_use]
pub fn is_word(name: &str) -> bool {
    let ends_word = |byte: u8| matches!(byte, b' ' | b'\n' | b'\r');
    !name.is_empty() && !name.bytes().any(ends_word)
}

/// Appends `NOP`, the answer to a heartbeat.
pub fn encode_nop(out: &mut BytesMut) {
    out.put_slice(b"NOP\n");
}

/// Appends `CLS`: no further messages, please.
pub fn encode_cls(out: &mut BytesMut) {
    out.put_slice(b"CLS\n");
}

/// Appends `IDENTIFY` with its JSON.
pub fn encode_identify(out: &mut BytesMut, json: &[u8]) {
    out.put_slice(b"IDENTIFY\n");
    put_body(out, json);
}

/// Appends `AUTH`.
pub fn encode_auth(out: &mut BytesMut, secret: &[u8]) {
    out.put_slice(b"AUTH\n");
    put_body(out, secret);
}

/// Appends `SUB`.
pub fn encode_sub(out: &mut BytesMut, topic: &str, channel: &str) {
    put_line(out, &[b"SUB", topic.as_bytes(), channel.as_bytes()]);
}

/// Appends `RDY`.
pub fn encode_rdy(out: &mut BytesMut, count: u32) {
    put_line(out, &[b"RDY", count.to_string().as_bytes()]);
}

/// Appends `FIN`. Hot path: one write of a known length.
pub fn encode_fin(out: &mut BytesMut, id: &[u8; 16]) {
    let mut line = *b"FIN 0123456789abcdef\n";
    line[4..20].copy_from_slice(id);
    out.put_slice(&line);
}

/// Appends `REQ`; the server bounds the delay.
pub fn encode_req(out: &mut BytesMut, id: &[u8; 16], delay_ms: u64) {
    put_line(out, &[b"REQ", id, delay_ms.to_string().as_bytes()]);
}

/// Appends `TOUCH`.
pub fn encode_touch(out: &mut BytesMut, id: &[u8; 16]) {
    put_line(out, &[b"TOUCH", id]);
}

/// Appends `PUB`.
///
/// # Panics
/// Like all that carry a body: when it is not below 2 GiB, since the limits are far lower.
pub fn encode_pub(out: &mut BytesMut, topic: &str, body: &[u8]) {
    put_line(out, &[b"PUB", topic.as_bytes()]);
    put_body(out, body);
}

/// Appends `DPUB`.
///
/// # Panics
/// As [`encode_pub`].
pub fn encode_dpub(out: &mut BytesMut, topic: &str, delay_ms: u64, body: &[u8]) {
    let delay = delay_ms.to_string();
    put_line(out, &[b"DPUB", topic.as_bytes(), delay.as_bytes()]);
    put_body(out, body);
}

/// Appends `MPUB` of `count` messages that were listed with [`encode_entry`].
///
/// # Panics
/// As [`encode_pub`], for the whole list.
pub fn encode_mpub(out: &mut BytesMut, topic: &str, count: u32, list: &[u8]) {
    put_line(out, &[b"MPUB", topic.as_bytes()]);
    out.reserve(8 + list.len());
    out.put_i32(size_of_body(4 + list.len()));
    out.put_u32(count);
    out.put_slice(list);
}

/// Appends a message to the list of an MPUB.
///
/// # Panics
/// As [`encode_pub`].
pub fn encode_entry(list: &mut BytesMut, body: &[u8]) {
    put_body(list, body);
}

fn put_line(out: &mut BytesMut, words: &[&[u8]]) {
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            out.put_u8(b' ');
        }
        out.put_slice(word);
    }
    out.put_u8(b'\n');
}

fn put_body(out: &mut BytesMut, body: &[u8]) {
    out.reserve(4 + body.len());
    out.put_i32(size_of_body(body.len()));
    out.put_slice(body);
}

fn size_of_body(len: usize) -> i32 {
    i32::try_from(len).expect("bodies are far below 2 GiB")
}
