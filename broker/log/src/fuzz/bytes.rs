//! The two formats, without files.

use bytes::BytesMut;

use crate::checkpoint::{self, Contents, Floor, Hint, Sealed};
use crate::format::{
    self, ENTRY_LEN, FIXED_LEN, Header, IndexEntry, MAGIC, Parsed, crc32c, get_u32,
};

/// Makes the checksums of everything right that looks like a batch.
pub(super) fn repair_batches(bytes: &mut [u8]) {
    let mut at = 0;
    while at + FIXED_LEN <= bytes.len() {
        if bytes[at..at + 4] == MAGIC {
            repair_batch(&mut bytes[at..]);
        }
        at += usize::try_from(format::ALIGN).expect("8");
    }
}

fn repair_batch(batch: &mut [u8]) -> Option<()> {
    let header_len = usize::from(u16::from_le_bytes([batch[10], batch[11]]));
    let count = get_u32(batch, 28) as usize;
    let head_len = count.checked_mul(ENTRY_LEN)?.checked_add(header_len)?;
    if header_len < FIXED_LEN || head_len > batch.len() {
        return None;
    }
    let mut start = head_len;
    for entry in (header_len..head_len).step_by(ENTRY_LEN) {
        let end = start.checked_add(get_u32(batch, entry) as usize)?;
        let Some(frame) = batch.get(start..end) else {
            break;
        };
        let crc = crc32c(frame);
        batch[entry + 4..entry + 8].copy_from_slice(&crc.to_le_bytes());
        start = end;
    }
    let crc = crc32c(&batch[8..head_len]);
    batch[4..8].copy_from_slice(&crc.to_le_bytes());
    Some(())
}

/// Makes the checksums of the records right that follow each other from the front.
fn repair_journal(mut bytes: &mut [u8]) {
    while let Some(header) = bytes.get(..40) {
        let len = (get_u32(header, 12) as usize).saturating_add(40);
        if len > bytes.len() {
            return;
        }
        let (record, rest) = bytes.split_at_mut(len);
        let crc = crc32c(&record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes = rest;
    }
}

/// Whether to repair (1), then the bytes.
pub(super) fn batch(input: &[u8]) {
    let Some((&control, bytes)) = input.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if control & 1 == 1 {
        repair_batches(&mut bytes);
    }
    let parsed = format::parse(&bytes);
    for cut in 0..bytes.len().min(256) {
        match format::parse(&bytes[..cut]) {
            Parsed::Short(need) => assert!(need > cut),
            told @ (Parsed::Batch(_) | Parsed::Zero | Parsed::Unsupported | Parsed::Invalid) => {
                assert_eq!(told, parsed, "what is told early is told in the end");
            }
        }
    }
    match parsed {
        Parsed::Short(need) => assert!(need > bytes.len()),
        Parsed::Zero => assert!(bytes[..FIXED_LEN].iter().all(|&byte| byte == 0)),
        Parsed::Batch(header) => check_batch(&header, &bytes),
        Parsed::Unsupported | Parsed::Invalid => {}
    }
}

fn check_batch(header: &Header, bytes: &[u8]) {
    assert!(header.count > 0 && header.first < header.end());
    let Some(batch) = bytes.get(..header.total_len as usize) else {
        return;
    };
    let records: Vec<_> = header.records(batch).collect();
    assert_eq!(records.len(), header.count as usize);
    let head_len = header.header_len as usize + records.len() * ENTRY_LEN;
    let mut at = head_len;
    for &(start, end, _) in &records {
        assert_eq!(start, at);
        at = end;
    }
    assert_eq!(at, batch.len());

    // Written again by us, it says the same.
    let frames = &batch[head_len..];
    let ends: Vec<u32> = records
        .iter()
        .map(|&(_, end, _)| u32::try_from(end - head_len).expect("below the total length"))
        .collect();
    let mut again = BytesMut::new();
    format::encode_head(&mut again, header, frames, (&ends, &[]));
    again.extend_from_slice(frames);
    let Parsed::Batch(parsed) = format::parse(&again) else {
        panic!("our own batch");
    };
    let told = |header: &Header| (header.first, header.epoch, header.count, header.tag);
    assert_eq!(told(&parsed), told(header));
    assert_eq!(
        (parsed.due_ms, parsed.previous),
        (header.due_ms, header.previous)
    );
    let intact = |&(_, _, is_intact): &(usize, usize, bool)| is_intact;
    assert!(parsed.records(&again).all(|record| intact(&record)));
    if header.header_len == parsed.header_len && records.iter().all(intact) {
        assert_eq!(again.len(), batch.len());
    }
}

/// Batches of one and three records, with and without extensions.
pub(super) fn batch_seeds() -> Vec<Vec<u8>> {
    let header = |due_ms, previous| Header {
        header_len: 0,
        total_len: 0,
        first: 77,
        epoch: 3,
        count: 0,
        tag: 0xDEAD_BEEF,
        due_ms,
        previous,
    };
    let mut seeds = Vec::new();
    for header in [header(0, None), header(5, None), header(5, Some(9))] {
        for ends in [&[11][..], &[3, 6, 11]] {
            for control in [0, 1] {
                let mut head = BytesMut::new();
                format::encode_head(&mut head, &header, b"onetwothree", (ends, &[]));
                seeds.push([&[control], &head[..], b"onetwothree"].concat());
            }
        }
    }
    seeds
}

/// Whether to repair (1), then the bytes.
pub(super) fn journal(input: &[u8]) {
    let Some((&control, bytes)) = input.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if control & 1 == 1 {
        repair_journal(&mut bytes);
    }
    let folded = checkpoint::fold(&bytes);
    let valid = usize::try_from(folded.valid_len).expect("within the bytes");
    assert!(valid <= bytes.len());
    assert!(folded.entries.values().all(|value| !value.is_empty()));
    assert!(folded.epochs.is_sorted_by(|a, b| a.0 < b.0));
    // The torn tail says nothing.
    let cut = checkpoint::fold(&bytes[..valid]);
    assert_eq!(format!("{cut:?}"), format!("{folded:?}"));
    if valid > 0 {
        compact(&folded);
    }
}

/// A full record of all that is live says the same as what it replaces.
fn compact(folded: &checkpoint::Folded) {
    let contents = Contents {
        is_full: true,
        number: folded.number,
        epoch: folded.epoch,
        tag: folded.tag.expect("there is a record"),
        hint: folded.hint,
        floors: folded.floors.clone(),
        epochs: folded.epochs.clone(),
        sealed: folded.sealed.values().cloned().collect(),
        freed: folded.freed.iter().copied().collect(),
    };
    let entries: Vec<checkpoint::Entry> = folded.entries.clone().into_iter().collect();
    let record = checkpoint::encode(&contents, &entries);
    let again = checkpoint::fold(&record);
    assert_eq!(again.valid_len, record.len() as u64);
    assert_eq!(
        (again.number, again.epoch, again.tag),
        (folded.number, folded.epoch, folded.tag)
    );
    assert_eq!((again.hint, &again.epochs), (folded.hint, &folded.epochs));
    assert_eq!(
        (&again.floors, &again.freed),
        (&folded.floors, &folded.freed)
    );
    // What is freed is not live, and takes its name along.
    let mut sealed = folded.sealed.clone();
    sealed.retain(|name, _| !folded.freed.contains(name));
    assert_eq!(again.sealed, sealed);
    assert_eq!(again.entries, folded.entries);
}

/// A full record, and one that adds to it; as they are, cut, and with other checksums.
pub(super) fn journal_seeds() -> Vec<Vec<u8>> {
    let hint = Hint {
        segment: 0,
        segment_first: 0,
        offset: 64,
        sequence: 5,
        head: 6,
        durable: 4,
        epoch: 1,
    };
    let (name, first, end, used) = (0, 0, 5, 64);
    let floor = Floor {
        segment: 5,
        offset: 8,
        end,
        epoch: 2,
    };
    let record = |number, is_full| Contents {
        is_full,
        number,
        epoch: 2,
        tag: 9,
        hint: Some(hint),
        floors: vec![floor],
        epochs: vec![(0, 1), (5, 2)],
        sealed: vec![Sealed {
            name,
            first,
            end,
            used,
            index: vec![IndexEntry {
                sequence: 2,
                offset: 40,
            }],
        }],
        freed: vec![3],
    };
    let entries = [(b"channel".to_vec(), b"state".to_vec())];
    let removal = [(b"channel".to_vec(), Vec::new())];
    let journal = [
        checkpoint::encode(&record(1, true), &entries),
        checkpoint::encode(&record(2, false), &removal),
    ]
    .concat();
    let with_control = |control: u8, bytes: &[u8]| [&[control], bytes].concat();
    vec![
        with_control(0, &journal),
        with_control(1, &journal),
        with_control(0, &journal[..journal.len() - 9]),
    ]
}
