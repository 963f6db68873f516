//! The HTTP door, over a stream in memory.

use nsq_fuzz::http::{MALFORMED, speaks_http2, without_numbers};
use nsq_fuzz::pieces;

use crate::gateway::AdminRequest;
use crate::http::tests::fixture::{FakeBroker, Publish};
use crate::http::tests::wire::Client;

/// Longest stream that is taken: what is longer shows nothing new.
const STREAM_MAX: usize = 8 * 1024;

/// What a connection brought about.
#[derive(Debug)]
struct Outcome {
    /// Without numbers: some tell the time, or what memory is used.
    answers: String,
    published: Vec<Publish>,
    changes: Vec<AdminRequest>,
    is_gone: bool,
}

/// Whether the client closes its side at the end (1), the seed of the cuts (2), then the stream.
pub(super) fn run(input: &[u8]) {
    let Some((&[flags, c0, c1], stream)) = input.split_first_chunk() else {
        return;
    };
    let stream = &stream[..stream.len().min(STREAM_MAX)];
    let closes = flags & 1 == 1;
    if speaks_http2(stream) {
        return;
    }
    let whole = talk([stream].into_iter(), closes);
    let cut = talk(pieces(stream, u16::from_le_bytes([c0, c1])), closes);
    // A head that came in parts is looked at when it is whole, and this one is never.
    let is_judged_later = whole.answers.strip_suffix(MALFORMED) == Some(&cut.answers);
    if !is_judged_later {
        assert_eq!(cut.answers, whole.answers, "cuts change what is answered");
        assert_eq!(cut.is_gone, whole.is_gone);
    }
    assert_eq!(
        cut.published, whole.published,
        "cuts change what is published"
    );
    assert_eq!(cut.changes, whole.changes, "cuts change what is done");
    assert!(whole.answers.is_empty() || whole.answers.starts_with("HTTP/#.# # "));
}

fn talk<'a>(pieces: impl Iterator<Item = &'a [u8]>, closes: bool) -> Outcome {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    let mut text = Vec::new();
    for piece in pieces {
        text.extend(client.exchange_bytes(piece));
    }
    if closes {
        client.close();
        text.extend(client.receive_bytes());
        assert!(client.is_gone(), "a door that nobody stands at stays open");
    }
    Outcome {
        answers: without_numbers(&String::from_utf8_lossy(&text)),
        published: broker.0.published.take(),
        changes: broker.0.changes.take(),
        is_gone: client.is_gone(),
    }
}

/// The requests of the transcripts, as they stand there, and what only bytes can say.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let transcripts = [
        include_str!("../../../scripts/tests/transcripts/http_admin.txt"),
        include_str!("../../../scripts/tests/transcripts/http_config.txt"),
        include_str!("../../../scripts/tests/transcripts/http_publish.txt"),
        include_str!("../../../scripts/tests/transcripts/http_routes.txt"),
        include_str!("../../../scripts/tests/transcripts/http_stats.txt"),
    ];
    let mut requests = Vec::new();
    for line in transcripts.iter().flat_map(|text| text.lines()) {
        if let Some(request) = line.strip_prefix("> ")
            && let [method, target, ..] = request.split(' ').collect::<Vec<_>>()[..]
        {
            requests.push(format!(
                "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na\nb"
            ));
        }
    }
    // Every eighth says what its neighbours say; many in a row are a pipeline.
    let mut seeds: Vec<String> = requests.iter().step_by(8).cloned().collect();
    seeds.push(requests[..6].concat());
    let head = "POST /mpub?topic=t&binary=true HTTP/1.1\r\nHost: x\r\n";
    let list = "\0\0\0\x02\0\0\0\x01a\0\0\0\x02bc";
    seeds.push(format!("{head}Content-Length: 15\r\n\r\n{list}"));
    seeds.push(format!(
        "{head}Transfer-Encoding: chunked\r\n\r\nf\r\n{list}\r\n0\r\n\r\n"
    ));
    let head = "POST /pub?topic=t HTTP/1.1\r\nHost: x\r\n";
    seeds.push(format!(
        "{head}Content-Length: 1\r\nExpect: 100-continue\r\n\r\na"
    ));
    seeds.push(format!("{head}Content-Length: 99\r\n\r\na"));
    seeds.push("GET /ping HTTP/1.0\r\n\r\n".to_owned());
    seeds.push("GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned());
    let with_control = |seed: &String| [b"\x01\x03\0", seed.as_bytes()].concat();
    seeds.iter().map(with_control).collect()
}
