//! Recovery: from the files of a directory to a log that can go on.
//!
//! 1. Read the journal: checkpoint entries, what is known of the segments, where to start scanning.
//! 2. Take the segments that the journal knows to be sealed; scan the others ([`crate::scan`]).
//! 3. Decide about the last batch, and where the log goes on.
//! 4. Write a record with the new epoch, so that the next recovery does not choose the same one.
//! 5. Remove what is left over: temporary files, freed files, segments without a batch.
//!
//! *The epoch* of a run is higher than every epoch that a batch on disk or a record of the journal
//! has. That record is with the kernel before recovery is over, so after the death of the
//! process no two runs share an epoch. Under `Always` it is also made durable before anything of
//! the new epoch is written (see [`crate::appender`]), so after a power failure no leftover of
//! an earlier run can be taken for the new run's.
//!
//! *What the journal says is believed.* Of the segments before its hint it knows each one, so another
//! file there is a leftover; and a sealed segment holds nothing beyond the end that it was sealed
//! with. So the next recovery, which need not scan what this one has sealed, finds the same.
//!
//! *Sequences* are not given out again if the journal has seen them written; those of a torn tail
//! are, under the new epoch.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::appender::{Appender, Gate};
use crate::checkpoint::{self, Contents, Floor, Folded, Hint, Sealed};
use crate::error::LogError;
use crate::format;
use crate::journal::{Journal, Restored};
use crate::log::{LogConfig, Opened, Recovered, new_tag};
use crate::scan::{self, Findings, NewerVersion, Scan, Scanned, Tail, Window};
use crate::segment::{self, Expectation, FileState, Segment, Segments};

/// The epoch of a log's first run, unless its caller chooses another.
const EPOCH_FIRST: u32 = 1;

/// Damaged ranges that get a warning of their own.
const DAMAGE_LINES_MAX: usize = 16;

/// What a directory holds.
struct Listing {
    /// Segment files: name and length.
    segments: BTreeMap<u64, u64>,
    temporary: Vec<PathBuf>,
    /// Named like segments and none.
    strange: Vec<String>,
}

impl Listing {
    /// `None` if there is no directory.
    fn read(dir: &Path) -> Result<Option<Self>, LogError> {
        let mut listing = Self {
            segments: BTreeMap::new(),
            temporary: Vec::new(),
            strange: Vec::new(),
        };
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(LogError::at("list", dir))?,
        };
        for entry in entries {
            let entry = entry.map_err(LogError::at("list", dir))?;
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str() else {
                continue;
            };
            if let Some(name) = segment::parse_file_name(file_name) {
                let metadata = entry
                    .metadata()
                    .map_err(LogError::at("stat", &entry.path()))?;
                if metadata.is_file() {
                    listing.segments.insert(name, metadata.len());
                } else {
                    listing.strange.push(file_name.to_owned());
                }
            } else if file_name.ends_with(".tmp") {
                listing.temporary.push(entry.path());
            }
        }
        Ok(Some(listing))
    }
}

/// A recovery on its way.
struct Recovery<'a> {
    dir: &'a Path,
    folded: Folded,
    findings: Findings,
    expectation: Expectation,
    is_past_hint: bool,
    segments: Segments,
    /// Segments that the scan found ended, for the journal.
    sealed: Vec<Sealed>,
    leftovers: Vec<PathBuf>,
    warnings: Vec<String>,
}

/// See the module documentation.
pub(crate) fn recover(dir: &Path, config: LogConfig) -> Result<(Opened, Recovered), LogError> {
    let Some(listing) = Listing::read(dir)? else {
        return Ok(absent(dir, config));
    };
    let (folded, journal_len) = load_journal(dir)?;
    let mut recovery = Recovery::new(dir, folded);
    if recovery.folded.valid_len < journal_len {
        let cut = journal_len - recovery.folded.valid_len;
        recovery.warnings.push(format!(
            "checkpoint journal: {cut} bytes at the end were cut"
        ));
    }
    let is_begun = listing.segments.keys().next().is_some_and(|&name| name > 0);
    if recovery.folded.valid_len == 0 && is_begun {
        recovery.warnings.push(
            "the checkpoint journal is gone: what was finished may be delivered again".to_owned(),
        );
    }
    let strange = listing.strange.iter();
    let strange = strange.map(|name| format!("{name} is not a file and was ignored"));
    recovery.warnings.extend(strange);
    recovery.leftovers.extend(listing.temporary);
    recovery.visit_segments(&listing.segments)?;
    recovery.finish_tail();
    recovery.seal_known_last();
    // Whatever there is to warn of can also have hidden the latest epoch.
    if !recovery.warnings.is_empty() {
        recovery.see_epochs_behind_end()?;
    }
    recovery.open(config)
}

fn absent(dir: &Path, config: LogConfig) -> (Opened, Recovered) {
    let opened = Opened {
        dir: dir.to_owned(),
        config,
        tag: new_tag(),
        epoch: EPOCH_FIRST,
        has_disk: false,
        segments: Segments::default(),
        appender: Appender::new(0, 0, Gate::Open),
        journal: Journal::new(),
    };
    (
        opened,
        Recovered {
            epoch: EPOCH_FIRST,
            ..Recovered::default()
        },
    )
}

fn load_journal(dir: &Path) -> Result<(Folded, u64), LogError> {
    let path = dir.join(checkpoint::FILE_NAME);
    match fs::read(&path) {
        Ok(bytes) => Ok((checkpoint::fold(&bytes), bytes.len() as u64)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok((Folded::default(), 0)),
        Err(error) => Err(LogError::at("read", &path)(error)),
    }
}

fn remove(path: &Path) -> Result<(), LogError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(LogError::at("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn open_window(dir: &Path, name: u64, len: u64) -> Result<Window, LogError> {
    let path = segment::path_of(dir, name);
    let file = File::open(&path).map_err(LogError::at("open", &path))?;
    Ok(Window::new(file, len))
}

impl<'a> Recovery<'a> {
    fn new(dir: &'a Path, folded: Folded) -> Self {
        let expectation = Expectation {
            tag: folded.tag,
            name: 0,
            next: 0,
            end: u64::MAX,
            epoch: 0,
        };
        let findings = Findings::new(folded.epoch);
        Self {
            dir,
            folded,
            findings,
            expectation,
            is_past_hint: false,
            segments: Segments::default(),
            sealed: Vec::new(),
            leftovers: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Takes or scans each segment, oldest first.
    fn visit_segments(&mut self, files: &BTreeMap<u64, u64>) -> Result<(), LogError> {
        let live: Vec<(u64, u64)> = files
            .iter()
            .map(|(&name, &len)| (name, len))
            .filter(|(name, _)| !self.folded.freed.contains(name))
            .collect();
        let freed = files.keys().filter(|name| self.folded.freed.contains(name));
        self.leftovers
            .extend(freed.map(|&name| segment::path_of(self.dir, name)));
        for (at, &(name, len)) in live.iter().enumerate() {
            if let Some(segment) = self.known_segment(name, len) {
                self.expectation.next = segment.end;
                self.seal_last();
                self.segments.list.push_back(segment);
            } else if self.is_unknown_before_hint(name) {
                self.warnings.push(format!(
                    "segment {name}: the checkpoint journal does not know it: removed"
                ));
                self.leftovers.push(segment::path_of(self.dir, name));
            } else {
                self.scan_segment(name, len, live.get(at + 1).copied())?;
            }
        }
        if let Some(hint) = self.folded.hint {
            self.pass_hint(&hint);
        }
        Ok(())
    }

    /// A segment that need not be looked at.
    fn known_segment(&self, name: u64, len: u64) -> Option<Segment> {
        let is_before_hint = self.folded.hint.is_some_and(|hint| name < hint.segment);
        let known = self
            .folded
            .sealed
            .get(&name)
            .filter(|known| known.used <= format::aligned(len))
            .filter(|known| known.first >= self.expectation.next)?;
        is_before_hint.then(|| Segment::restored(known, len))
    }

    /// A file that an earlier recovery was about to remove, or none of ours.
    fn is_unknown_before_hint(&self, name: u64) -> bool {
        let is_before_hint = self.folded.hint.is_some_and(|hint| name < hint.segment);
        is_before_hint && !self.folded.sealed.contains_key(&name)
    }

    /// From here on the hint bounds what is accepted.
    fn pass_hint(&mut self, hint: &Hint) {
        if !self.is_past_hint {
            self.is_past_hint = true;
            // What lies before the hint was written whole: it cannot be a torn tail.
            self.findings.settle();
            self.expectation.next = self.expectation.next.max(hint.sequence);
            self.expectation.epoch = self.expectation.epoch.max(hint.epoch);
        }
    }

    fn scan_segment(
        &mut self,
        name: u64,
        len: u64,
        after: Option<(u64, u64)>,
    ) -> Result<(), LogError> {
        let hint = self.folded.hint.filter(|hint| name >= hint.segment);
        if let Some(hint) = hint {
            self.pass_hint(&hint);
        }
        self.expectation.name = name;
        self.expectation.end = self.sealed_end(name);
        if self.segments.list.is_empty() {
            self.expectation.next = self.expectation.next.max(name);
        }
        let mut segment = Segment::new(name, len);
        segment.file = FileState::Closed;
        let start = hint
            .filter(|hint| name == hint.segment)
            .map_or(0, |hint| hint.offset);
        if let (Some(hint), 1..) = (hint, start) {
            let bound = self.segments.list.back().map_or(0, |before| before.end);
            segment.first = hint.segment_first.max(bound);
            segment.note(hint.sequence, start);
        }
        let sealed_end = self.folded.sealed.get(&name).map(|known| known.end);
        let floors = self
            .folded
            .floors
            .iter()
            .filter(|floor| floor.segment == name);
        let floor_end = floors.map(|floor| floor.end).max();
        let known_end = self.next_first(name, after)?.max(sealed_end).max(floor_end);
        let scanned = self.scan_file(&mut segment, start, known_end)?;
        if start == 0 {
            match scanned.first {
                Some(first) => segment.first = first,
                None => {
                    self.leftovers.push(segment::path_of(self.dir, name));
                    return Ok(());
                }
            }
        }
        segment.end = self.expectation.next;
        segment.used = scanned.used;
        segment.readable = scanned.used;
        self.seal_last();
        self.segments.list.push_back(segment);
        Ok(())
    }

    /// No batch of this segment ends above.
    fn sealed_end(&self, name: u64) -> u64 {
        let known = self.folded.sealed.get(&name);
        known.map_or(u64::MAX, |known| known.end)
    }

    /// Where the segment after this one starts, if it says that it follows this one.
    fn next_first(&self, name: u64, after: Option<(u64, u64)>) -> Result<Option<u64>, LogError> {
        let Some((after, after_len)) = after else {
            return Ok(None);
        };
        let mut window = open_window(self.dir, after, after_len)?;
        let expectation = Expectation {
            name: after,
            end: self.sealed_end(after),
            ..self.expectation
        };
        Ok(scan::peek_first(&mut window, &expectation, name))
    }

    fn scan_file(
        &mut self,
        segment: &mut Segment,
        start: u64,
        known_end: Option<u64>,
    ) -> Result<Scanned, LogError> {
        let name = segment.name;
        let sealed = self.folded.sealed.get(&name);
        let len = sealed.map_or(segment.len, |known| known.used.min(segment.len));
        let mut window = open_window(self.dir, name, len)?;
        let scan = Scan {
            window: &mut window,
            findings: &mut self.findings,
            expectation: &mut self.expectation,
            segment,
            floors: &self.folded.floors,
            before: self.segments.list.back().map(|before| before.name),
            known_end,
        };
        let scanned = scan.run(start).map_err(|NewerVersion| {
            let source = io::Error::new(ErrorKind::Unsupported, "written by a newer version");
            LogError::at("read", &segment::path_of(self.dir, name))(source)
        })?;
        if window.unreadable > 0 {
            let bytes = window.unreadable;
            self.warnings.push(format!(
                "segment {name}: the disk failed to give {bytes} bytes"
            ));
        }
        if scanned.has_torn_end {
            let used = scanned.used;
            self.warnings.push(format!(
                "segment {name}: a batch at offset {used} is torn or damaged and was cut"
            ));
        }
        Ok(scanned)
    }

    /// The last segment so far is not the last any more.
    fn seal_last(&mut self) {
        let Some(last) = self.segments.list.back_mut().filter(|last| !last.is_sealed) else {
            return;
        };
        last.is_sealed = true;
        self.sealed.push(last.sealed());
        self.segments.trim_indexes();
    }

    fn finish_tail(&mut self) {
        match self.findings.finish() {
            Tail::Whole => {}
            Tail::Torn => self
                .warnings
                .push("the last batch is torn: its missing messages count as damaged".to_owned()),
            Tail::Cut { offset, sequence } => {
                self.warnings
                    .push(format!("a torn batch at sequence {sequence} was cut"));
                self.cut(offset, sequence);
            }
        }
        let damaged = &self.findings.damaged;
        for (start, end) in damaged.iter().take(DAMAGE_LINES_MAX) {
            self.warnings
                .push(format!("messages {start}..{end} are damaged"));
        }
        if let Some(more) = damaged
            .len()
            .checked_sub(DAMAGE_LINES_MAX)
            .filter(|&more| more > 0)
        {
            self.warnings
                .push(format!("{more} more ranges are damaged"));
        }
    }

    /// The log ends at this place of its last segment.
    fn cut(&mut self, offset: u64, sequence: u64) {
        let hint_sequence = self.folded.hint.map_or(0, |hint| hint.sequence);
        self.expectation.next = sequence.max(hint_sequence);
        let last = self.segments.list.back_mut().expect("holds the last batch");
        last.used = offset;
        last.readable = offset;
        last.end = sequence;
        last.index.retain(|entry| entry.offset < offset);
        if offset == 0 {
            let emptied = self.segments.list.pop_back().expect("just seen");
            self.leftovers
                .push(segment::path_of(self.dir, emptied.name));
        }
    }

    /// A segment that the journal knows to be sealed stays so, though the ones after it are gone: what
    /// was appended to it would lie behind its known end.
    fn seal_known_last(&mut self) {
        let last = self.segments.list.back();
        if last.is_some_and(|last| self.folded.sealed.contains_key(&last.name)) {
            self.seal_last();
        }
    }

    /// Batches of a later run can stand behind the end, with nothing before them that leads there. The
    /// epoch of this run is to be higher than theirs as well: else what is appended now could lead
    /// there, and they would count as its own.
    fn see_epochs_behind_end(&mut self) -> Result<(), LogError> {
        let Some(last) = self.segments.list.back() else {
            return Ok(());
        };
        let mut window = open_window(self.dir, last.name, last.len)?;
        let epoch = scan::epoch_behind(&mut window, self.expectation.tag, last.used);
        self.findings.epoch_max = self.findings.epoch_max.max(epoch);
        Ok(())
    }

    /// Writes the record of this recovery and puts the log together.
    fn open(mut self, config: LogConfig) -> Result<(Opened, Recovered), LogError> {
        let head = self.expectation.next;
        let first = self
            .segments
            .list
            .front()
            .map_or(head, |segment| segment.first);
        let hint = self.folded.hint;
        let scan_start = hint.map_or(0, |hint| hint.sequence);
        let mut epochs = std::mem::take(&mut self.folded.epochs);
        epochs.retain(|&(start, _)| start < scan_start);
        epochs.append(&mut self.findings.epochs);
        epochs.sort_unstable();
        epochs.dedup_by_key(|&mut (_, epoch)| epoch);
        let epoch_found = self
            .findings
            .epoch_max
            .max(hint.map_or(0, |hint| hint.epoch));
        // A directory without any epoch may be all that is left of the first run.
        let epoch = epoch_found.max(EPOCH_FIRST) + 1;
        let tag = self.expectation.tag.unwrap_or_else(new_tag);
        let durable = hint.map_or(first, |hint| hint.durable).min(head);
        let was_clean =
            hint.is_some_and(|hint| hint.head == hint.sequence && hint.sequence == head);

        let contents = self.record(epoch, tag, &epochs);
        let journal_len = self.write_record(&contents)?;
        for path in &self.leftovers {
            remove(path)?;
        }
        let journal = Journal::restored(Restored {
            len: journal_len,
            live_bytes: self.folded.live_bytes(),
            number: contents.number,
            wants_full: !was_clean,
            epochs: epochs.clone(),
        });
        let opened = Opened {
            dir: self.dir.to_owned(),
            config,
            tag,
            epoch,
            has_disk: true,
            segments: self.segments,
            appender: Appender::new(head, durable, Gate::Shut),
            journal,
        };
        let begun = epochs.partition_point(|&(start, _)| start <= first);
        let recovered = Recovered {
            first,
            head,
            epochs: epochs.split_off(begun.saturating_sub(1)),
            epoch,
            deferred: self.findings.deferred,
            damaged: self.findings.damaged,
            checkpoint: self.folded.entries.into_iter().collect(),
            warnings: self.warnings,
        };
        Ok((opened, recovered))
    }

    /// The record of this recovery. It has no hint, since the caller's checkpoint does not cover
    /// yet what was found behind the last one; only the new epoch, and where that begins.
    fn record(&self, epoch: u32, tag: u64, epochs: &[(u64, u32)]) -> Contents {
        let last = self.segments.list.back();
        let floor = last.map(|last| Floor {
            segment: last.name,
            offset: last.used,
            end: last.end,
            epoch,
        });
        Contents {
            is_full: self.folded.valid_len == 0,
            number: self.folded.number + 1,
            epoch,
            tag,
            hint: None,
            floors: floor.into_iter().collect(),
            epochs: epochs.to_vec(),
            sealed: self.sealed.clone(),
            freed: Vec::new(),
        }
    }

    /// Appends the record to the journal, behind what is intact of it, or makes a journal of it.
    fn write_record(&self, contents: &Contents) -> Result<u64, LogError> {
        let path = self.dir.join(checkpoint::FILE_NAME);
        let bytes = checkpoint::encode(contents, &[]);
        let valid_len = self.folded.valid_len;
        if contents.is_full {
            replace_file(self.dir, &path, &bytes).map_err(LogError::at("write", &path))?;
        } else {
            // What is removed now will not help the next recovery to the same conclusions.
            let must_sync = !self.warnings.is_empty() || !self.leftovers.is_empty();
            append_file(&path, valid_len, &bytes, must_sync)
                .map_err(LogError::at("write", &path))?;
        }
        Ok(valid_len + bytes.len() as u64)
    }
}

fn replace_file(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("log.tmp");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(dir)?.sync_all()
}

/// Cuts the file to `len` bytes and appends.
fn append_file(path: &Path, len: u64, bytes: &[u8], must_sync: bool) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let is_cut = file.metadata()?.len() > len;
    if is_cut {
        file.set_len(len)?;
    }
    file.write_all_at(bytes, len)?;
    if is_cut || must_sync {
        file.sync_all()?;
    }
    Ok(())
}
