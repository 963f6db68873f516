//! Large writes and reads around the page cache, alone and beside buffered ones.

use std::fs::{self, File};
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;

use bytes::Bytes;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nsq_core::Now;
use tempfile::TempDir;

use super::super::direct::is_cached;
use super::super::{Ring, RingOptions, Write};
use super::{Event, SMALL, SegmentIo, next_event, pattern, shared, turn_until, urgent};
use crate::stage::{DATA_BYTES, SLOTS, redo, stages_dir};

const MIB: usize = 1024 * 1024;

/// A ring, and the folder of its stage.
struct Staged {
    ring: Ring,
    dir: TempDir,
}

impl Deref for Staged {
    type Target = Ring;

    fn deref(&self) -> &Ring {
        &self.ring
    }
}

impl DerefMut for Staged {
    fn deref_mut(&mut self) -> &mut Ring {
        &mut self.ring
    }
}

fn ring(segment_io: SegmentIo) -> Staged {
    let options = RingOptions {
        segment_io,
        ..SMALL
    };
    let mut ring = Ring::new(options).expect("tests need io_uring");
    let dir = tempfile::tempdir_in(build_dir()).unwrap();
    let path = stages_dir(dir.path()).join("0");
    ring.keep_writes_in(dir.path().to_owned(), path);
    Staged { ring, dir }
}

/// On a disk where `/tmp` may not be.
fn build_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.parent().unwrap().to_owned()
}

/// A file, and what it is to hold.
struct Model {
    file: Rc<OwnedFd>,
    bytes: Vec<u8>,
    /// Whether somebody waits for what is written.
    is_urgent: bool,
}

impl Model {
    /// A file of `len` zeros.
    fn new(len: usize) -> Self {
        Self::new_in(&build_dir(), len)
    }

    fn new_in(directory: &Path, len: usize) -> Self {
        let file = tempfile::tempfile_in(directory).unwrap();
        file.set_len(len as u64).unwrap();
        Self {
            file: shared(file),
            bytes: vec![0; len],
            is_urgent: true,
        }
    }

    /// Starts writing `range` in two parts.
    fn write(&mut self, ring: &mut Ring, token: u64, range: Range<usize>, seed: usize) {
        let data = Bytes::from(pattern(seed + range.len())).slice(seed..);
        let cut = range.len() / 7;
        let file = Rc::clone(&self.file);
        let parts = [data.slice(..cut), data.slice(cut..)];
        ring.write(Write {
            is_urgent: self.is_urgent,
            ..urgent(token, file, range.start as u64, parts)
        });
        let end = range.end.max(self.bytes.len());
        self.bytes.resize(end, 0);
        self.bytes[range].copy_from_slice(&data);
    }

    /// Reads `range` and compares, with the end of the file where it is.
    fn check(&self, ring: &mut Ring, range: Range<usize>) {
        let len = u32::try_from(range.len()).unwrap();
        ring.read(5, Rc::clone(&self.file), range.start as u64, len);
        let Event::Read(5, Ok(data)) = next_event(ring) else {
            panic!("{range:?}")
        };
        let end = range.end.min(self.bytes.len());
        let start = range.start.min(end);
        assert!(data == self.bytes[start..end], "{range:?}");
    }

    fn check_all(&self, ring: &mut Ring) {
        for start in (0..self.bytes.len()).step_by(MIB / 2) {
            self.check(ring, start..start + MIB / 2);
        }
    }

    /// Puts everything on disk and empties the page cache.
    fn evict(&self) {
        let copy = File::from(self.file.try_clone().unwrap());
        copy.sync_all().unwrap();
        posix_fadvise(&*self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }

    /// Whether direct transfers show on this file system: nothing stays in the page cache.
    fn shows_direct(&self) -> bool {
        self.evict();
        let shows = !is_cached(&self.file, 0, self.bytes.len());
        if !shows {
            println!("skipped: the page cache of this file system cannot be emptied or looked at");
        }
        shows
    }
}

fn written(ring: &mut Ring, count: usize) {
    let is_end = |event: &&Event| !matches!(event, Event::WriteAccepted(_));
    let events = turn_until(ring, |events| events.iter().filter(is_end).count() >= count);
    for event in events.iter().filter(is_end) {
        assert!(matches!(event, Event::Written(_, Ok(()))), "{event:?}");
    }
}

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 8).unwrap() % limit
    }

    /// Small, around the limits, or large; on a block or not.
    fn range(&mut self, within: usize) -> Range<usize> {
        let len = match self.below(4) {
            0 => 1 + self.below(9000),
            1 => 32 * 1024 - 2 + self.below(4),
            2 => (1 + self.below(160)) * 4096,
            _ => 65_536 + self.below(MIB),
        };
        let start = self.below(within);
        let start = if self.below(3) == 0 {
            start / 4096 * 4096
        } else {
            start
        };
        start..start + len
    }
}

#[test]
fn random_writes_and_reads_agree_with_a_model_whichever_way_they_take() {
    for seed in 1..=6 {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ seed);
        let mut model = Model::new(3 * MIB);
        let modes = [SegmentIo::Direct, SegmentIo::Buffered, SegmentIo::Auto];
        let mut rings = modes.map(ring);
        for step in 0..60 {
            let ring = &mut rings[numbers.below(3)];
            let range = numbers.range(3 * MIB);
            model.is_urgent = numbers.below(2) == 0;
            model.write(ring, 1, range, step);
            written(ring, 1);
            if numbers.below(5) == 0 {
                model.evict();
            }
            let reader = &mut rings[numbers.below(3)];
            model.check(reader, numbers.range(4 * MIB));
        }
        for ring in &mut rings {
            model.check_all(ring);
        }
        model.evict();
        model.check_all(&mut rings[0]);
    }
}

#[test]
fn neighbours_in_flight_together_keep_their_shared_blocks() {
    let mut numbers = Numbers(77);
    let mut model = Model::new(MIB);
    let mut ring = ring(SegmentIo::Direct);
    let mut at = 0;
    for _ in 0..12 {
        let count = 1 + numbers.below(6);
        for token in 0..count {
            let len = numbers.range(1).len();
            model.is_urgent = numbers.below(2) == 0;
            model.write(&mut ring, token as u64, at..at + len, token);
            at += len;
        }
        written(&mut ring, count);
        model.check(&mut ring, at.saturating_sub(MIB)..at);
    }
    model.check_all(&mut ring);
    model.evict();
    model.check_all(&mut ring);
}

#[test]
fn what_nobody_waits_for_is_accepted_at_once_and_written_by_itself() {
    let mut ring = ring(SegmentIo::Direct);
    let mut model = Model::new(0);
    model.is_urgent = false;
    for token in 0..3 {
        let at = model.bytes.len();
        model.write(&mut ring, token, at..at + 20_001, 3);
    }
    assert!(lent(&ring) > 0);
    // There is nothing else that could end a turn.
    let mut events = turn_until(&mut ring, |events| events.len() >= 6);
    let written = events.split_off(3);
    let is_accepted = |event: &Event| matches!(event, Event::WriteAccepted(_));
    assert!(events.iter().all(is_accepted), "{events:?}");
    assert!(!written.iter().any(is_accepted), "{written:?}");
    assert_eq!(lent(&ring), 0);
    model.check_all(&mut ring);
    model.evict();
    model.check_all(&mut ring);
}

#[test]
fn little_is_gathered_only_for_a_while() {
    let mut ring = ring(SegmentIo::Direct);
    let mut model = Model::new(0);
    model.is_urgent = false;
    let mut count = 0;
    while !ring.direct.is_slow(&model.file, Now(0)) {
        let at = model.bytes.len();
        model.write(&mut ring, 1, at..at + 5_001, 3);
        written(&mut ring, 1);
        count += 1;
        assert!(count < 20);
    }
    assert!(count >= 4, "each write is noted at most twice: {count}");
    let at = model.bytes.len();
    model.write(&mut ring, 1, at..at + 5_001, 3);
    assert_eq!(lent(&ring), 0, "buffered");
    model.write(&mut ring, 2, at + 5_001..at + 105_001, 3);
    assert_eq!(lent(&ring), 1, "large enough by itself");
    written(&mut ring, 2);
    model.check_all(&mut ring);
}

#[test]
fn of_many_files_to_which_little_comes_some_are_buffered_after_a_while() {
    let mut ring = ring(SegmentIo::Direct);
    let mut models = [0; 8].map(|_| Model::new(0));
    for round in 0..12 {
        for model in &mut models {
            model.is_urgent = false;
            let at = model.bytes.len();
            model.write(&mut ring, 1, at..at + 5_000, round);
        }
    }
    // Each made another one go before its time, until few enough were left.
    let is_slow = |model: &&Model| ring.direct.is_slow(&model.file, Now(0));
    assert!(models.iter().filter(is_slow).count() >= 2);
    written(&mut ring, 12 * 8);
    for model in &models {
        model.check_all(&mut ring);
        model.evict();
        model.check_all(&mut ring);
    }
}

#[test]
fn what_follows_while_the_device_is_busy_shares_slots() {
    let mut ring = ring(SegmentIo::Direct);
    let path = ring.dir.path().join("segment");
    fs::write(&path, []).unwrap();
    let options = File::options().read(true).write(true).open(&path).unwrap();
    let mut model = Model {
        file: shared(options),
        bytes: Vec::new(),
        is_urgent: true,
    };
    let mut at = 0;
    // Nothing is heard of the device meanwhile.
    for token in 0..20 {
        model.write(&mut ring, token, at..at + 65_537, 3);
        at += 65_537;
    }
    for token in 20..120 {
        model.write(&mut ring, token, at..at + 1_001, 3);
        at += 1_001;
    }
    // The first two at once, but for the block that they do not fill; the others together.
    assert_eq!(lent(&ring), 2 + (at - 2 * 65_536).div_ceil(DATA_BYTES));
    assert_eq!(redo(ring.dir.path()).unwrap().writes, lent(&ring));
    assert!(fs::read(&path).unwrap() == model.bytes, "they survive");
    written(&mut ring, 120);
    assert_eq!(lent(&ring), 0);
    assert!(fs::read(&path).unwrap() == model.bytes);
}

#[test]
fn a_few_bytes_between_writes_do_not_part_them() {
    let mut ring = ring(SegmentIo::Direct);
    let mut model = Model::new(0);
    let old = vec![0xff; 2 * MIB];
    File::from(model.file.try_clone().unwrap())
        .write_all_at(&old, 0)
        .unwrap();
    model.bytes = old;
    let mut at = 0;
    for token in 0..12 {
        let gap = usize::try_from(token).unwrap() % 8;
        model.bytes[at..at + gap].fill(0);
        at += gap;
        model.write(&mut ring, token, at..at + 99_999, 3);
        at += 99_999;
    }
    assert_eq!(lent(&ring), 2 + (at - 2 * 98_304).div_ceil(DATA_BYTES));
    // What is between these stays as it was.
    let far = at + 8;
    model.write(&mut ring, 12, far..far + 99_999, 3);
    written(&mut ring, 13);
    model.check_all(&mut ring);
    model.evict();
    model.check_all(&mut ring);
}

#[test]
fn a_block_that_nothing_follows_in_is_not_kept_waiting() {
    let mut model = Model::new(MIB);
    let mut ring = ring(SegmentIo::Direct);
    // The second part of a block comes while the first is on its way, and long after.
    for (token, range) in [(1, 0..70_000), (2, 70_000..140_000)] {
        model.write(&mut ring, token, range, 1);
    }
    assert_eq!(lent(&ring), 3, "two on their way, and the rest");
    written(&mut ring, 2);
    assert_eq!(lent(&ring), 0);
    model.write(&mut ring, 3, 140_000..210_000, 1);
    written(&mut ring, 1);
    model.check_all(&mut ring);
    model.evict();
    model.check_all(&mut ring);
}

#[test]
fn writers_that_take_turns_each_share_their_slots() {
    let mut ring = ring(SegmentIo::Direct);
    let mut models = [0; 3].map(|_| Model::new(0));
    for token in 0..30 {
        let model = &mut models[token % 3];
        let at = model.bytes.len();
        model.write(&mut ring, token as u64, at..at + 65_536, 3);
    }
    let slots = |blocks: usize| (blocks * 65_536).div_ceil(DATA_BYTES);
    // The first two writes went at once.
    assert_eq!(lent(&ring), 2 + slots(9) + slots(9) + slots(10));
    written(&mut ring, 30);
    assert_eq!(lent(&ring), 0);
    for model in &models {
        model.check_all(&mut ring);
    }
}

#[test]
fn only_so_many_files_keep_a_slot_waiting() {
    let mut ring = ring(SegmentIo::Direct);
    let mut models = [0; 10].map(|_| Model::new(0));
    for (token, model) in (0..).zip(&mut models) {
        model.write(&mut ring, token, 0..70_001, 3);
    }
    // The whole blocks of the first two went at once, and their rests when a seventh and an eighth
    // file came; the third and the fourth went when the last two did.
    assert_eq!(lent(&ring), 2 + 2 + 6);
    written(&mut ring, 10);
    for model in &models {
        model.check_all(&mut ring);
    }
}

#[test]
fn a_writer_that_pauses_is_not_kept_waiting_by_others() {
    let mut ring = ring(SegmentIo::Direct);
    let (mut pauses, mut goes_on) = (Model::new(0), Model::new(0));
    let mut events = Vec::new();
    // The device is never without something to do.
    for round in 0..500 {
        for token in [1, 2, 3] {
            let at = goes_on.bytes.len();
            goes_on.write(&mut ring, token, at..at + 300_000, 3);
        }
        if round == 1 {
            pauses.write(&mut ring, 777, 0..65_537, 3);
        }
        events.extend(turn_until(&mut ring, |events| !events.is_empty()));
        let is_answer = |event: &Event| matches!(event, Event::Written(777, Ok(())));
        if events.iter().any(is_answer) {
            return;
        }
    }
    panic!("not answered in 500 turns, with {} others", events.len());
}

#[test]
fn writers_of_several_files_do_not_mix() {
    for seed in 1..=4 {
        let mut numbers = Numbers(seed);
        let mut ring = ring(SegmentIo::Direct);
        let mut models = [0; 9].map(|_| Model::new(0));
        for _ in 0..20 {
            let count = 1 + numbers.below(8);
            let mut which = 0;
            for token in 0..count {
                if numbers.below(3) == 0 {
                    which = numbers.below(9);
                }
                let model = &mut models[which];
                let at = model.bytes.len();
                let len = numbers.range(1).len();
                model.is_urgent = numbers.below(2) == 0;
                model.write(&mut ring, token as u64, at..at + len, token);
            }
            written(&mut ring, count);
        }
        assert_eq!(lent(&ring), 0);
        for model in &models {
            model.check_all(&mut ring);
            model.evict();
            model.check_all(&mut ring);
        }
    }
}

#[test]
fn stale_pages_of_a_recycled_file_are_not_seen() {
    let mut model = Model::new(2 * MIB);
    let mut buffered = ring(SegmentIo::Buffered);
    let mut direct = ring(SegmentIo::Direct);
    for round in 0..3 {
        // Dirty pages, then clean ones.
        model.write(&mut buffered, 1, 0..2 * MIB, round);
        written(&mut buffered, 1);
        if round > 0 {
            let copy = File::from(model.file.try_clone().unwrap());
            copy.sync_all().unwrap();
        }
        model.write(&mut direct, 1, 5000..MIB + 5000, 100 + round);
        written(&mut direct, 1);
        model.check_all(&mut buffered);
        model.evict();
        model.check_all(&mut buffered);
    }
}

#[test]
fn direct_transfers_leave_the_page_cache_alone() {
    let mut model = Model::new(MIB);
    if !model.shows_direct() {
        return;
    }
    let mut ring = ring(SegmentIo::Direct);
    model.write(&mut ring, 1, 100..MIB - 100, 3);
    written(&mut ring, 1);
    assert!(!is_cached(&model.file, 0, MIB), "written directly");
    assert!(is_cached(&model.file, 0, 4096), "the edge is buffered");
    model.evict();
    model.check(&mut ring, 1000..MIB / 2);
    assert!(!is_cached(&model.file, 0, MIB), "read directly");
    model.write(&mut ring, 1, 8192..8192 + 30_000, 3);
    written(&mut ring, 1);
    assert!(is_cached(&model.file, 8192, 30_000), "small is buffered");
}

#[test]
fn direct_reads_end_at_the_end_of_the_file() {
    let len = MIB + 777;
    let mut model = Model::new(0);
    let mut ring = ring(SegmentIo::Direct);
    model.write(&mut ring, 1, 0..len, 1);
    written(&mut ring, 1);
    for start in [0, 1, len - 200_000, len - 65_536, len - 100, len, len + 9] {
        for wanted in [0, 70_000, 400_000, 2 * MIB] {
            model.evict();
            model.check(&mut ring, start..start + wanted);
        }
    }
}

#[test]
fn file_systems_and_files_without_direct_transfers_are_written_buffered() {
    let mut ring = ring(SegmentIo::Direct);
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        let mut model = Model::new_in(memory, MIB);
        model.write(&mut ring, 1, 10..MIB - 10, 1);
        written(&mut ring, 1);
        model.check_all(&mut ring);
    }
    // These two answer what a file system does that has no direct transfers.
    let refuses_writes = File::options().write(true).open("/proc/self/oom_score_adj");
    let refuses_reads = File::open("/proc/self/ns/uts").unwrap();
    let mut model = Model::new(MIB);
    ring.direct
        .pretend(&model.file, refuses_writes.unwrap().into());
    model.write(&mut ring, 1, 10..MIB - 10, 1);
    written(&mut ring, 1);
    assert!(
        ring.direct.get(&model.file).is_none(),
        "remembered for good"
    );
    model.check_all(&mut ring);
    let mut model = Model::new(MIB);
    model.write(&mut ring, 1, 0..MIB, 1);
    written(&mut ring, 1);
    let copy = model.file.try_clone().unwrap();
    let other = Model {
        file: Rc::new(copy),
        bytes: model.bytes,
        is_urgent: true,
    };
    other.evict();
    ring.direct.pretend(&other.file, refuses_reads.into());
    other.check_all(&mut ring);
    assert!(ring.direct.get(&other.file).is_none());
}

#[test]
fn pipes_are_never_opened_again() {
    let (reader, _writer) = io::pipe().unwrap();
    let reader = shared(reader);
    let mut ring = ring(SegmentIo::Direct);
    assert!(ring.direct.get(&reader).is_none());
    assert!(ring.direct.knows(&reader));
}

#[test]
fn direct_descriptors_have_the_access_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, pattern(MIB)).unwrap();
    let file = shared(File::open(&path).unwrap());
    let mut ring = ring(SegmentIo::Direct);
    ring.write(urgent(
        1,
        Rc::clone(&file),
        0,
        [Bytes::from(pattern(MIB)), Bytes::new()],
    ));
    let mut events = turn_until(&mut ring, |events| events.len() >= 2);
    let Some(Event::Written(1, Err(error))) = events.pop() else {
        panic!()
    };
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}

/// Descriptors of this process that are open on `path`.
fn open_on(path: &Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter_map(|link| fs::read_link(link.ok()?.path()).ok())
        .filter(|target| target == path)
        .count()
}

#[test]
fn direct_descriptors_are_closed_after_their_file() {
    let program = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let mut ring = ring(SegmentIo::Direct);
    let mut files = Vec::new();
    for name in 0..100 {
        let path = directory.path().join(name.to_string());
        let file = shared(
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .unwrap(),
        );
        ring.write(urgent(
            1,
            Rc::clone(&file),
            0,
            [Bytes::from(pattern(70_000)), Bytes::new()],
        ));
        written(&mut ring, 1);
        files.push((path, file));
    }
    let spare: usize = files.iter().map(|(path, _)| open_on(path) - 1).sum();
    assert!(spare <= 32 && ring.direct.len() <= 32, "{spare}");
    let paths: Vec<_> = files.into_iter().map(|(path, _)| path).collect();
    // A turn that has something to do, and therefore ends.
    ring.sync(1, shared(tempfile::tempfile().unwrap()));
    next_event(&mut ring);
    assert_eq!(ring.direct.len(), 0);
    assert!(paths.iter().all(|path| open_on(path) == 0));
}

#[test]
fn what_is_not_in_the_page_cache_is_read_around_it_however_it_was_written() {
    let mut model = Model::new(MIB);
    if !model.shows_direct() {
        return;
    }
    let mut ring = ring(SegmentIo::Buffered);
    model.write(&mut ring, 1, 0..MIB, 3);
    written(&mut ring, 1);
    model.check_all(&mut ring);
    assert!(is_cached(&model.file, 0, MIB), "written and read there");
    model.evict();
    model.check(&mut ring, 1000..MIB / 2);
    assert!(!is_cached(&model.file, 0, MIB), "read directly");
    model.check(&mut ring, 1000..2000);
    assert!(is_cached(&model.file, 0, 4096), "small reads are buffered");
}

#[test]
fn what_is_read_from_the_page_cache_brings_no_more_there() {
    let mut model = Model::new(0);
    let mut ring = ring(SegmentIo::Buffered);
    model.write(&mut ring, 1, 0..4 * MIB, 3);
    written(&mut ring, 1);
    if !model.shows_direct() {
        return;
    }
    // Two thirds of the first 96 KiB are there.
    let mut there = vec![0; 64 * 1024];
    let file = File::from(model.file.try_clone().unwrap());
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM).unwrap();
    file.read_exact_at(&mut there, 0).unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_NORMAL).unwrap();
    model.check(&mut ring, 0..96 * 1024);
    model.check(&mut ring, 96 * 1024..98 * 1024);
    assert!(is_cached(&model.file, 0, 98 * 1024), "read there");
    assert!(!is_cached(&model.file, 98 * 1024, MIB), "not read ahead");
}

#[test]
fn writes_that_find_no_room_are_buffered() {
    let mut model = Model::new(24 * MIB);
    let mut ring = ring(SegmentIo::Direct);
    for token in 0..60 {
        let start = token * 400_000;
        model.write(&mut ring, token as u64, start..start + 400_000, token);
    }
    assert!(lent(&ring) > SLOTS - 2, "no more fit in");
    written(&mut ring, 60);
    assert_eq!(lent(&ring), 0);
    model.check_all(&mut ring);
}

fn lent(ring: &Ring) -> usize {
    ring.stage.as_ref().unwrap().lent()
}

#[test]
fn a_write_is_accepted_before_it_is_written_and_a_failed_one_is_not() {
    let mut model = Model::new(MIB);
    let mut ring = ring(SegmentIo::Direct);
    model.write(&mut ring, 7, 100..MIB - 100, 1);
    let events = turn_until(&mut ring, |events| events.len() >= 2);
    assert!(
        matches!(
            events[..],
            [Event::WriteAccepted(7), Event::Written(7, Ok(()))]
        ),
        "{events:?}"
    );
    let read_only = shared(File::open(std::env::current_exe().unwrap()).unwrap());
    let data = Bytes::from(pattern(200_000));
    ring.write(urgent(8, read_only, 1, [Bytes::new(), data]));
    let event = next_event(&mut ring);
    assert!(matches!(event, Event::Written(8, Err(_))), "{event:?}");
}

#[test]
fn what_was_accepted_survives_that_the_kernel_was_never_asked() {
    let mut ring = ring(SegmentIo::Direct);
    let path = ring.dir.path().join("segment");
    fs::write(&path, vec![0; 4 * MIB]).unwrap();
    let options = File::options().read(true).write(true).open(&path).unwrap();
    let mut model = Model {
        file: shared(options),
        bytes: vec![0; 4 * MIB],
        is_urgent: true,
    };
    let mut at = 10;
    for token in 0..5 {
        model.write(&mut ring, token, at..at + 500_000, 3);
        at += 500_000;
    }
    assert!(fs::read(&path).unwrap() != model.bytes);
    let redone = redo(ring.dir.path()).unwrap();
    assert_eq!(redone.writes, 10, "each in two parts");
    assert!(fs::read(&path).unwrap() == model.bytes);
    written(&mut ring, 5);
    assert!(fs::read(&path).unwrap() == model.bytes);
}

#[test]
fn read_buffers_are_bounded_and_come_back_from_other_threads() {
    for mode in [SegmentIo::Direct, SegmentIo::Buffered] {
        let mut model = Model::new(MIB);
        let mut ring = ring(mode);
        model.write(&mut ring, 1, 0..MIB, 1);
        written(&mut ring, 1);
        model.evict();
        let all = ring.reading.available();
        let held: Vec<Bytes> = (0..all + 5)
            .map(|at| {
                ring.read(2, Rc::clone(&model.file), at as u64, 512 * 1024);
                let Event::Read(2, Ok(data)) = next_event(&mut ring) else {
                    panic!("{at}")
                };
                data
            })
            .collect();
        assert_eq!((ring.reading.made(), ring.reading.available()), (all, 0));
        for (at, data) in held.iter().enumerate() {
            assert!(*data == model.bytes[at..at + 512 * 1024], "{at}");
        }
        let part = held[0].slice(5..10);
        thread::spawn(move || drop(held)).join().unwrap();
        assert_eq!(
            ring.reading.available(),
            all - 1,
            "a slice keeps its buffer"
        );
        drop(part);
        assert_eq!(ring.reading.available(), all);
        drop(ring);
    }
}

#[test]
fn a_ring_is_dropped_with_direct_transfers_in_flight() {
    let mut model = Model::new(8 * MIB);
    let mut ring = ring(SegmentIo::Direct);
    for token in 0..20 {
        model.write(&mut ring, token, 0..300_000, 1);
        ring.read(token, Rc::clone(&model.file), 0, 300_000);
    }
    drop(ring);
    assert_eq!(Rc::strong_count(&model.file), 1);
}
