//! Files, and pipes where short answers are the rule.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::thread;

use bytes::Bytes;

use super::super::INLINE_WRITE_BYTES_MAX;
use super::{Event, next_event, pattern, ring, shared, turn_until, urgent};

fn bytes(len: usize) -> Bytes {
    Bytes::from(pattern(len))
}

#[test]
fn two_parts_are_written_one_after_the_other() {
    let lengths = [
        (0, 0),
        (10, 0),
        (0, 10),
        (100, 300),
        (INLINE_WRITE_BYTES_MAX, 0),
        (INLINE_WRITE_BYTES_MAX, 1),
        (64, 1 << 20),
        (1 << 20, 0),
    ];
    let mut ring = ring();
    for (head, body) in lengths {
        let file = tempfile::tempfile().unwrap();
        let ours = shared(file.try_clone().unwrap());
        let whole = bytes(head + body);
        ring.write(urgent(
            9,
            ours,
            4096,
            [whole.slice(..head), whole.slice(head..)],
        ));
        let Event::Written(9, Ok(())) = next_event(&mut ring) else {
            panic!("{head} {body}")
        };
        let mut found = vec![0; head + body];
        file.read_exact_at(&mut found, 4096).unwrap();
        assert!(found == whole, "{head} {body}");
    }
}

#[test]
fn reads_end_at_the_end_of_the_file() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&pattern(300_000)).unwrap();
    let file = shared(file);
    let mut ring = ring();
    for (offset, len, expected) in [
        (0, 300_000, 300_000),
        (1000, 50, 50),
        (299_999, 100, 1),
        (300_000, 10, 0),
        (0, 0, 0),
    ] {
        ring.read(4, Rc::clone(&file), offset, len);
        let Event::Read(4, Ok(data)) = next_event(&mut ring) else {
            panic!("{offset} {len}")
        };
        let start = usize::try_from(offset).unwrap();
        assert!(
            data == pattern(300_000)[start..start + expected],
            "{offset} {len}"
        );
    }
}

#[test]
fn sync_succeeds_on_a_file_and_fails_on_a_pipe() {
    let mut ring = ring();
    ring.sync(1, shared(tempfile::tempfile().unwrap()));
    assert!(matches!(next_event(&mut ring), Event::Synced(1, Ok(()))));
    let (_reader, writer) = io::pipe().unwrap();
    ring.sync(2, shared(writer));
    assert!(matches!(next_event(&mut ring), Event::Synced(2, Err(_))));
}

#[test]
fn short_writes_are_continued() {
    let mut ring = ring();
    let (mut reader, writer) = io::pipe().unwrap();
    let whole = bytes(2 * INLINE_WRITE_BYTES_MAX);
    ring.write(urgent(
        1,
        shared(writer),
        0,
        [whole.slice(..5000), whole.slice(5000..)],
    ));
    let reader = thread::spawn(move || {
        let mut found = Vec::new();
        reader.read_to_end(&mut found).unwrap();
        found
    });
    assert!(matches!(next_event(&mut ring), Event::Written(1, Ok(()))));
    drop(ring);
    assert!(reader.join().unwrap() == whole);
}

#[test]
fn short_reads_are_continued() {
    let mut ring = ring();
    let (reader, mut writer) = io::pipe().unwrap();
    ring.read(1, shared(reader), 0, 1 << 20);
    let writer = thread::spawn(move || writer.write_all(&pattern(600_000)).unwrap());
    let Event::Read(1, Ok(data)) = next_event(&mut ring) else {
        panic!()
    };
    writer.join().unwrap();
    assert!(data == pattern(600_000));
}

#[test]
fn errors_are_handed_over_for_small_and_large_writes_and_for_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, b"content").unwrap();
    let read_only = shared(File::open(&path).unwrap());
    let write_only = shared(File::options().write(true).open(&path).unwrap());
    let mut ring = ring();
    for len in [1, INLINE_WRITE_BYTES_MAX + 1] {
        ring.write(urgent(
            1,
            Rc::clone(&read_only),
            0,
            [bytes(len), Bytes::new()],
        ));
        let Event::Written(1, Err(error)) = next_event(&mut ring) else {
            panic!()
        };
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        ring.write(urgent(
            1,
            Rc::clone(&write_only),
            u64::MAX,
            [bytes(len), Bytes::new()],
        ));
        let Event::Written(1, Err(error)) = next_event(&mut ring) else {
            panic!()
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    ring.read(2, Rc::clone(&read_only), u64::MAX, 10);
    let Event::Read(2, Err(error)) = next_event(&mut ring) else {
        panic!()
    };
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    ring.read(2, write_only, 0, 10);
    let Event::Read(2, Err(error)) = next_event(&mut ring) else {
        panic!()
    };
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    ring.read(2, read_only, 0, 7);
    assert!(matches!(next_event(&mut ring), Event::Read(2, Ok(data)) if data == b"content"[..]));
}

#[test]
fn full_submission_and_completion_queues_lose_nothing() {
    const COUNT: u64 = 1000;
    let mut ring = ring();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&pattern(64_000)).unwrap();
    let file = shared(file);
    for token in 0..COUNT {
        ring.read(token, Rc::clone(&file), token * 64, 64);
    }
    let events = turn_until(&mut ring, |events| events.len() >= 1000);
    let mut seen = vec![false; 1000];
    for event in events {
        let Event::Read(token, Ok(data)) = event else {
            panic!("{event:?}")
        };
        let token = usize::try_from(token).unwrap();
        assert!(data == pattern(64_000)[token * 64..token * 64 + 64]);
        assert!(!std::mem::replace(&mut seen[token], true), "{token} twice");
    }
    assert!(seen.iter().all(|seen| *seen));
    assert_eq!(Rc::strong_count(&file), 1);
}
