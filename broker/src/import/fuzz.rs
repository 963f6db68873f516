//! Fuzz target: the files of disk queues; `nsq-fuzz` says how it is run.
//!
//! What a naive reading of the files finds whole is owed after the import, by those who owed it before
//! and nobody else; and every file is set aside as it was.

use std::collections::BTreeMap;
use std::fs;

use super::world::{World, encode, records};

/// Those of the topic, of two of its channels, of a channel and of a topic that nobody knows.
const QUEUES: [&str; 5] = ["t", "t:a", "t:b", "t:gone", "u"];
const CHANNELS: [&str; 2] = ["a", "b"];
/// Data files of a queue have numbers below.
const NUMBERS: u8 = 4;
/// Most that one input is taken for.
const FILES_MAX: usize = 8;
/// So small that bodies exceed it.
const BODY_BYTES_MAX: usize = 300;
const RECORD_HEADER_LEN: usize = 26;

/// A file's name and contents.
type Files = BTreeMap<String, Vec<u8>>;
/// Timestamp and body.
type Message = (u64, Vec<u8>);

/// Files: the queue (1), which of its files (1), the length (2), the bytes.
pub(crate) fn run(input: &[u8]) {
    let flag = format!("--max-msg-size={BODY_BYTES_MAX}");
    let world = World::with_flags(&CHANNELS, &[&flag]);
    let files = files(input);
    for (name, bytes) in &files {
        fs::write(world.path(name), bytes).expect("a new file can be written");
    }
    world.import();
    for channel in CHANNELS {
        let mut expected = owed(&files, &format!("t:{channel}"));
        expected.extend(owed(&files, "t"));
        expected.sort();
        let mut found = world.owed(channel);
        found.sort();
        assert_eq!(found, expected, "channel {channel}");
    }
    assert!(world.aside().iter().eq(files.keys()), "nothing is deleted");
    for (name, bytes) in &files {
        let kept = fs::read(world.set_aside(name)).expect("it was just listed");
        assert_eq!(&kept, bytes, "{name}");
    }
}

fn files(mut rest: &[u8]) -> Files {
    let mut files = Files::new();
    while let Some((&[queue, kind, l0, l1], after)) = rest.split_first_chunk()
        && files.len() < FILES_MAX
    {
        let queue = QUEUES[usize::from(queue) % QUEUES.len()];
        let name = match kind {
            255 => meta_name(queue),
            254 => format!("{queue}.diskqueue.000000.dat.bad"),
            number => data_name(queue, (number % NUMBERS).into()),
        };
        let len = usize::from(u16::from_le_bytes([l0, l1])).min(after.len());
        let (bytes, after) = after.split_at(len);
        rest = after;
        files.insert(name, bytes.to_vec());
    }
    files
}

fn meta_name(queue: &str) -> String {
    format!("{queue}.diskqueue.meta.dat")
}

fn data_name(queue: &str, number: u64) -> String {
    format!("{queue}.diskqueue.{number:06}.dat")
}

/// What is whole in a queue, from its read position on.
fn owed(files: &Files, queue: &str) -> Vec<Message> {
    let meta = files.get(&meta_name(queue));
    let (first, offset) = meta.and_then(|meta| position(meta)).unwrap_or((0, 0));
    let mut found = Vec::new();
    for number in first..NUMBERS.into() {
        let start = if number == first { offset } else { 0 };
        let file = files.get(&data_name(queue, number));
        let mut rest = file.and_then(|file| file.get(usize::try_from(start).ok()?..));
        while let Some((message, after)) = rest.and_then(record) {
            found.push(message);
            rest = Some(after);
        }
    }
    found
}

/// The read position, if the line that holds it is whole: a part of a number is another number.
fn position(meta: &[u8]) -> Option<(u64, u64)> {
    let meta = String::from_utf8_lossy(meta);
    let [_, read, _, ..] = meta.split('\n').collect::<Vec<_>>()[..] else {
        return None;
    };
    let (file, offset) = read.split_once(',')?;
    Some((file.parse().ok()?, offset.parse().ok()?))
}

/// The record at the front, if it is whole, and what follows it.
fn record(bytes: &[u8]) -> Option<(Message, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let len = usize::try_from(i32::from_be_bytes(*len)).ok()?;
    let (record, rest) = rest.split_at_checked(len)?;
    let (header, body) = record.split_at_checked(RECORD_HEADER_LEN)?;
    let timestamp = u64::from_be_bytes(*header.first_chunk()?);
    (body.len() <= BODY_BYTES_MAX).then(|| ((timestamp, body.to_vec()), rest))
}

/// Queues as a Go nsqd leaves them: read to a position, copies in two channels, a torn end, files
/// without a metadata file, and one that is empty.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let file = |queue: u8, kind: u8, bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).expect("a few records");
        [&[queue, kind], &len.to_le_bytes()[..], bytes].concat()
    };
    let data = |numbers| -> Vec<u8> { records(numbers).iter().flat_map(encode).collect() };
    let (early, late) = (data(0..3), data(2..6));
    let meta = |number: u8, offset: usize| format!("3\n{number},{offset}\n1,0\n").into_bytes();
    let one = data(0..1).len();
    let copies = [
        file(1, 0, &early),
        file(1, 1, &late),
        file(1, 255, &meta(0, one)),
        file(2, 1, &late),
        file(2, 255, &meta(1, 0)),
        file(0, 0, &data(6..9)),
    ];
    vec![
        copies.concat(),
        file(0, 0, &early[..2 * one + 7]),
        [file(1, 0, &early), file(3, 2, &late), file(4, 0, &early)].concat(),
        [file(1, 255, &meta(3, 0)), file(1, 254, b"old")].concat(),
        [file(0, 0, &early), file(0, 255, &meta(0, one)[..5])].concat(),
    ]
}
