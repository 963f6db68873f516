//! What a client sends.

use bytes::BytesMut;
use nsq_fuzz::{pieces, unhex};

use crate::{
    Bodies, Command, DecodeContext, Decoded, LINE_BYTES_MAX, Limits, SessionState, TopicName,
    decode, decode_bodies, encode_auth, encode_cls, encode_dpub, encode_entry, encode_fin,
    encode_identify, encode_mpub, encode_nop, encode_pub, encode_rdy, encode_req, encode_sub,
    encode_touch, truncation_error,
};

/// What the limits do not allow to grow: the context's flags (1), the sizes of message and body (1),
/// the seed of the cuts (2), then the stream.
const CONTROL_LEN: usize = 4;
/// Longest stream that is also decoded byte by byte.
const EVERY_BYTE_MAX: usize = 2048;

/// A stream of commands, as a connection that follows them.
pub(super) fn stream(input: &[u8]) {
    let Some((&[flags, sizes, c0, c1], stream)) = input.split_first_chunk::<CONTROL_LEN>() else {
        return;
    };
    let context = context(flags, sizes);
    let whole = Session::fed([stream].into_iter(), context);
    let seed = u16::from_le_bytes([c0, c1]);
    assert_eq!(Session::fed(pieces(stream, seed), context), whole);
    if stream.len() <= EVERY_BYTE_MAX {
        assert_eq!(Session::fed(pieces(stream, 1), context), whole);
    }
    // A line that ends in such an id would be another line; no server gives one out.
    let is_plain = |command: &&Sent| !command.bytes.ends_with(b"\r\n");
    for command in whole.commands.iter().filter(is_plain) {
        // What was encoded again means the same.
        let state = command.state;
        let context = DecodeContext { state, ..context };
        let decoded = decode(&command.bytes, &context);
        let Ok(Decoded::Command {
            command: again,
            consumed,
        }) = decoded
        else {
            panic!("{decoded:?}");
        };
        assert_eq!(consumed, command.bytes.len());
        assert_eq!(encoded(&again), command.bytes);
    }
}

fn context(flags: u8, sizes: u8) -> DecodeContext {
    let message_bytes_max = 1_u64 << (sizes & 15);
    DecodeContext {
        state: match flags & 3 {
            0 | 3 => SessionState::Init,
            1 => SessionState::Subscribed,
            _ => SessionState::Closing,
        },
        heartbeats_disabled: flags & 4 != 0,
        tls_missing: flags & 8 != 0,
        limits: Limits {
            message_bytes_max,
            body_bytes_max: message_bytes_max * u64::from((sizes >> 4) + 1),
            ready_count_max: 2500,
            defer_ms_max: 3_600_000,
        },
    }
}

/// A command in its usual form, and the state that it was sent in.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    state: SessionState,
    bytes: BytesMut,
}

/// A connection: what it has decoded, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Session {
    commands: Vec<Sent>,
    /// The error that ended it: at once, or when it ended in the middle of a command. An MPUB that
    /// is wrong is told so by whatever part of it happens to be seen first.
    error: Option<String>,
    /// Bytes behind the last command.
    left: usize,
}

impl Session {
    fn fed<'a>(pieces: impl Iterator<Item = &'a [u8]>, mut context: DecodeContext) -> Self {
        let mut session = Self {
            commands: Vec::new(),
            error: None,
            left: 0,
        };
        let (mut buffer, mut start, mut needed) = (Vec::new(), 0, 0);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while buffer.len() - start >= needed && session.error.is_none() {
                match decode(&buffer[start..], &context) {
                    Ok(Decoded::Command { command, consumed }) => {
                        assert!((1..=buffer.len() - start).contains(&consumed));
                        check(&command, &context.limits);
                        let bytes = encoded(&command);
                        let state = context.state;
                        context.state = follow(&command, state);
                        session.commands.push(Sent { state, bytes });
                        (start, needed) = (start + consumed, 0);
                    }
                    Ok(Decoded::Incomplete { needed: more }) => {
                        assert!(more > buffer.len() - start && more <= most(&context.limits));
                        needed = more;
                    }
                    Err(error) => {
                        assert!(error.code.is_fatal());
                        session.error = Some(error.to_string());
                    }
                }
            }
        }
        session.left = buffer.len() - start;
        if session.error.is_none() {
            let rest = &buffer[start..];
            let told = truncation_error(rest, &context).map(|error| error.to_string());
            assert!(told.is_none() || rest.contains(&b'\n'));
            session.error = told;
        }
        session
    }
}

/// Bytes of the longest command.
fn most(limits: &Limits) -> usize {
    let body = limits.message_bytes_max.max(limits.body_bytes_max);
    LINE_BYTES_MAX + 4 + usize::try_from(body).expect("a few MiB")
}

fn follow(command: &Command<'_>, state: SessionState) -> SessionState {
    match command {
        Command::Sub { .. } => SessionState::Subscribed,
        Command::Cls => SessionState::Closing,
        Command::Nop
        | Command::Identify { .. }
        | Command::Auth { .. }
        | Command::Rdy { .. }
        | Command::Fin { .. }
        | Command::Req { .. }
        | Command::Touch { .. }
        | Command::Pub { .. }
        | Command::Mpub { .. }
        | Command::Dpub { .. } => state,
    }
}

/// What is accepted is within the limits.
fn check(command: &Command<'_>, limits: &Limits) {
    let fits = |len: usize, max: u64| len > 0 && len as u64 <= max;
    match command {
        Command::Identify { body } | Command::Auth { secret: body } => {
            assert!(fits(body.len(), limits.body_bytes_max));
        }
        Command::Sub { topic, channel } => {
            assert!(TopicName::is_valid(topic.as_bytes()));
            assert!(TopicName::is_valid(channel.as_bytes()));
        }
        Command::Rdy { count } => assert!(u64::from(*count) <= limits.ready_count_max),
        Command::Pub { topic, body } => {
            assert!(TopicName::is_valid(topic.as_bytes()));
            assert!(fits(body.len(), limits.message_bytes_max));
        }
        Command::Dpub {
            topic,
            delay_ms,
            body,
        } => {
            assert!(TopicName::is_valid(topic.as_bytes()));
            assert!(fits(body.len(), limits.message_bytes_max) && *delay_ms <= limits.defer_ms_max);
        }
        Command::Mpub { topic, bodies } => {
            assert!(TopicName::is_valid(topic.as_bytes()));
            check_bodies(bodies, limits);
        }
        Command::Nop | Command::Cls => {}
        Command::Fin { .. } | Command::Req { .. } | Command::Touch { .. } => {}
    }
}

fn check_bodies(bodies: &Bodies<'_>, limits: &Limits) {
    let (count, bytes) = (bodies.len(), bodies.total_bytes());
    let lens: Vec<usize> = bodies.clone().map(<[u8]>::len).collect();
    assert_eq!((lens.len(), lens.iter().sum()), (count, bytes));
    assert!(
        lens.iter()
            .all(|&len| len > 0 && len as u64 <= limits.message_bytes_max)
    );
}

/// The command as a client of ours would send it.
fn encoded(command: &Command<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    match command {
        Command::Nop => encode_nop(&mut out),
        Command::Identify { body } => encode_identify(&mut out, body),
        Command::Auth { secret } => encode_auth(&mut out, secret),
        Command::Sub { topic, channel } => encode_sub(&mut out, topic, channel),
        Command::Rdy { count } => encode_rdy(&mut out, *count),
        Command::Fin { id } => encode_fin(&mut out, id),
        Command::Req { id, delay_ms } => encode_req(&mut out, id, *delay_ms),
        Command::Touch { id } => encode_touch(&mut out, id),
        Command::Cls => encode_cls(&mut out),
        Command::Pub { topic, body } => encode_pub(&mut out, topic, body),
        Command::Dpub {
            topic,
            delay_ms,
            body,
        } => encode_dpub(&mut out, topic, *delay_ms, body),
        Command::Mpub { topic, bodies } => {
            let count = u32::try_from(bodies.len()).expect("read from 32 bits");
            encode_mpub(&mut out, topic, count, &listed(bodies));
        }
    }
    out
}

fn listed(bodies: &Bodies<'_>) -> BytesMut {
    let mut list = BytesMut::new();
    bodies
        .clone()
        .for_each(|body| encode_entry(&mut list, body));
    list
}

/// Every vector alone, and all of them one after the other.
pub(super) fn stream_seeds() -> Vec<Vec<u8>> {
    let text = include_str!("../../tests/vectors/commands.txt");
    let vectors = text.lines().filter(|line| !line.starts_with('#'));
    let mut commands: Vec<Vec<u8>> = vectors
        .filter_map(|line| line.split_once('|'))
        .map(|(hex, _)| unhex(hex))
        .collect();
    let list = b"\0\0\0\x02\0\0\0\x01a\0\0\0\x02bc";
    let mpub = [&b"MPUB t\n\0\0\0\x0f"[..], list].concat();
    commands.push(
        [
            &b"PUB t\n\0\0\0\x05hello"[..],
            b"DPUB t 15\n\0\0\0\x01\0",
            &mpub,
        ]
        .concat(),
    );
    let consumer = b"SUB t c\nRDY 5\nFIN 18a27a7b78269000\nREQ 18a27a7b78269000 9\nCLS\nRDY x\n";
    commands.push(consumer.to_vec());
    let init = commands
        .iter()
        .map(|command| [b"\0\x2a\x01\0", &command[..]].concat());
    let subscribed = commands
        .iter()
        .map(|command| [b"\x01\x2a\x05\0", &command[..]].concat());
    init.chain(subscribed).collect()
}

/// The list of a binary `/mpub`: the sizes of message and body (1), then the list.
pub(super) fn bodies(input: &[u8]) {
    let Some((&sizes, list)) = input.split_first() else {
        return;
    };
    let limits = context(0, sizes).limits;
    let Ok(bodies) = decode_bodies(list, &limits) else {
        return;
    };
    check_bodies(&bodies, &limits);
    let count = u32::try_from(bodies.len()).expect("read from 32 bits");
    let again = [&count.to_be_bytes()[..], &listed(&bodies)].concat();
    assert_eq!(again, list[..again.len()]);
    // Without what came behind it, an MPUB takes the same list.
    let mut command = BytesMut::new();
    encode_mpub(&mut command, "t", count, &listed(&bodies));
    let decoded = decode(&command, &context(0, sizes));
    if again.len() as u64 > limits.body_bytes_max {
        assert!(decoded.is_err());
        return;
    }
    match decoded {
        Ok(Decoded::Command {
            command: Command::Mpub { bodies: again, .. },
            ..
        }) => {
            assert!(again.eq(bodies));
        }
        other => panic!("{other:?}"),
    }
}

/// A list, one with something behind it, a broken one.
pub(super) fn bodies_seeds() -> Vec<Vec<u8>> {
    let list = b"\x2a\0\0\0\x02\0\0\0\x01a\0\0\0\x02bc";
    let longer = [&list[..], b"rest"].concat();
    vec![list.to_vec(), longer, list[..9].to_vec()]
}
