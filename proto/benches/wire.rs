//! What the wire costs: decoding each command, building each frame.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use bytes::BytesMut;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use nsq_proto::{
    Command, DecodeContext, Decoded, Limits, SessionState, decode, encode_error,
    encode_message_header, encode_response,
};

const ID: &[u8; 16] = b"000000100000000v";
const BODY: [u8; 200] = [b'x'; 200];

fn main() {
    divan::main();
}

fn sized(head: &[u8], body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    [head, &len, body].concat()
}

fn mpub(count: usize) -> Vec<u8> {
    let mut list = u32::try_from(count).unwrap().to_be_bytes().to_vec();
    for _ in 0..count {
        list.extend(sized(b"", &BODY));
    }
    sized(b"MPUB orders\n", &list)
}

fn line(verb: &str) -> Vec<u8> {
    format!("{verb} {}\n", str::from_utf8(ID).unwrap()).into_bytes()
}

/// One of each command, in the state in which it is allowed.
fn commands() -> Vec<(&'static str, SessionState, Vec<u8>)> {
    let identify = br#"{"client_id":"c","hostname":"h","feature_negotiation":true}"#;
    vec![
        (
            "IDENTIFY",
            SessionState::Init,
            sized(b"IDENTIFY\n", identify),
        ),
        ("AUTH", SessionState::Init, sized(b"AUTH\n", b"secret")),
        ("SUB", SessionState::Init, b"SUB orders billing\n".to_vec()),
        ("PUB", SessionState::Init, sized(b"PUB orders\n", &BODY)),
        (
            "DPUB",
            SessionState::Init,
            sized(b"DPUB orders 1000\n", &BODY),
        ),
        ("MPUB of 200", SessionState::Init, mpub(200)),
        ("RDY", SessionState::Subscribed, b"RDY 2500\n".to_vec()),
        ("FIN", SessionState::Subscribed, line("FIN")),
        (
            "REQ",
            SessionState::Subscribed,
            [&line("REQ")[..20], b" 1000\n"].concat(),
        ),
        ("TOUCH", SessionState::Subscribed, line("TOUCH")),
        ("CLS", SessionState::Subscribed, b"CLS\n".to_vec()),
        ("NOP", SessionState::Subscribed, b"NOP\n".to_vec()),
    ]
}

const NAMES: [&str; 12] = [
    "IDENTIFY",
    "AUTH",
    "SUB",
    "PUB",
    "DPUB",
    "MPUB of 200",
    "RDY",
    "FIN",
    "REQ",
    "TOUCH",
    "CLS",
    "NOP",
];

/// Bodies are looked at too: an MPUB's are walked one by one.
#[divan::bench(args = NAMES)]
fn decode_command(bencher: Bencher<'_, '_>, name: &str) {
    let commands = commands();
    let (_, state, bytes) = commands.iter().find(|command| command.0 == name).unwrap();
    let context = DecodeContext {
        state: *state,
        heartbeats_disabled: false,
        tls_missing: false,
        limits: Limits {
            message_bytes_max: 1 << 20,
            body_bytes_max: 5 << 20,
            ready_count_max: 2_500,
            defer_ms_max: 3_600_000,
        },
    };
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| {
            let decoded = decode(black_box(bytes), &context).unwrap();
            let Decoded::Command { command, consumed } = decoded else {
                panic!("a whole command");
            };
            assert_eq!(consumed, bytes.len());
            if let Command::Mpub { bodies, .. } = command {
                black_box(bodies.map(<[u8]>::len).sum::<usize>());
            }
        });
}

/// Into a buffer that has room.
#[divan::bench]
fn build_response(bencher: Bencher<'_, '_>) {
    let mut out = BytesMut::with_capacity(64);
    bencher.bench_local(|| {
        out.clear();
        encode_response(black_box(&mut out), b"OK");
    });
}

#[divan::bench]
fn build_error(bencher: Bencher<'_, '_>) {
    let mut out = BytesMut::with_capacity(256);
    bencher.bench_local(|| {
        out.clear();
        encode_error(
            black_box(&mut out),
            "E_FIN_FAILED FIN failed ID not in flight",
        );
    });
}

#[divan::bench]
fn build_message(bencher: Bencher<'_, '_>) {
    let mut out = BytesMut::with_capacity(512);
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        out.clear();
        encode_message_header(
            black_box(&mut out),
            BODY.len(),
            1_700_000_000_000_000_000,
            1,
            ID,
        );
        out.extend_from_slice(&BODY);
    });
}
