//! Reading back: from a sequence to the frames from there on.
//!
//! A request finds its segment, starts at the last batch that the segment's index knows at or
//! below the wanted sequence, and walks from header to header until it holds the wanted batch
//! whole. Then it answers with every intact record that follows without a gap in what was read.
//!
//! - Only bytes below the written frontier are read, and those never change any more, so a read
//!   cannot see stale or half-written batches.
//! - Where there is no acceptable header, the request *searches*: batch starts are aligned, and
//!   a header is known by its magic, checksum, tag and sequence.
//! - Records that are passed over or damaged are never given out; the frames given lie in one
//!   buffer, which the consumers share.
//! - Every request is answered exactly once, unless the log is deleted first.
//! - A request for what follows, not for scattered messages, has a *plan* where the segment's index
//!   allows for one: it ends where a batch starts, so that nothing is read twice, and what is to be
//!   asked for next is known before there is an answer. Damage makes an answer end before its plan.

use std::io;

use bytes::Bytes;

use crate::disk::{Disk, Op, OpOutput, OpResult};
use crate::error::is_shortage;
use crate::format::{self, Header, Parsed};
use crate::log::{LogEvent, TopicLog};
use crate::ops::Kind;
use crate::segment::{Expectation, Search, Segment};

/// Up to so many messages count as scattered, as due deferrals and requeues are: what lies behind them
/// is hardly what is wanted next.
const SCATTERED_MAX: u32 = 16;
/// Bytes of a read for them: from the batch that the index knows to the wanted one, and some.
const SCATTERED_READ_BYTES: u32 = 16 * 1024;

/// What the answer to a read will hold, unless something in it is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The sequence after the last one.
    pub next: u64,
    /// Length of its buffer.
    pub bytes: usize,
}

/// A question on its way to its answer.
#[derive(Debug, Clone)]
pub(crate) struct ReadRequest {
    /// What was asked for.
    pub(crate) from: u64,
    /// How many are wanted.
    count: u32,
    /// Segment and offset where the first read is to end.
    until: Option<(u64, u64)>,
    /// Where to go on; `None` before the segment has been found.
    pub(crate) at: Option<Place>,
}

impl ReadRequest {
    pub(crate) const fn new(from: u64, count: u32) -> Self {
        Self {
            from,
            count,
            until: None,
            at: None,
        }
    }

    /// The same question, to be gone on with elsewhere.
    const fn moved(&self, place: Place) -> Self {
        Self {
            at: Some(place),
            ..*self
        }
    }
}

/// Where in a segment a request is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    /// Where the next read starts; aligned.
    offset: u64,
    /// No batch from here on starts below.
    next: u64,
    /// Bytes to read at least.
    need: u64,
    is_searching: bool,
}

/// What a look at the bytes led to.
enum Step {
    /// Read on.
    Read(Place),
    /// The wanted batch is whole: it starts at this offset of what was read.
    Found(usize, Header),
    /// The sequence is lost; the next that may be there.
    Lost(u64),
    /// The segment has no more batches.
    Exhausted,
}

/// Frames that can be given out.
#[derive(Debug, Default)]
struct Gathered {
    first: u64,
    spans: Vec<(u32, u32)>,
    next: u64,
}

/// The walk through one buffer.
struct Walk<'a> {
    data: &'a [u8],
    /// Where `data` starts in the file.
    base: u64,
    /// One past the last byte that may be looked at.
    limit: u64,
    /// Where the segment's sequences end. A batch beyond is not the segment's, however intact it is: it
    /// must not lead past what is there.
    end: u64,
    tag: u64,
    from: u64,
    /// First sequence and epoch, ascending.
    epochs: &'a [(u64, u32)],
}

impl Walk<'_> {
    /// Follows the batches from the start of the buffer. `note` is told of each.
    fn run(&self, place: Place, note: &mut dyn FnMut(u64, u64)) -> Step {
        let mut place = place;
        loop {
            let step = if place.is_searching {
                self.search(place)
            } else {
                self.walk(place, note)
            };
            match step {
                Step::Read(next) if next.offset + format::FIXED_LEN as u64 > self.limit => {
                    return Step::Exhausted;
                }
                Step::Read(next) if self.is_within(&next) => place = next,
                found @ (Step::Read(_) | Step::Found(..) | Step::Lost(_) | Step::Exhausted) => {
                    return found;
                }
            }
        }
    }

    fn is_within(&self, place: &Place) -> bool {
        place.offset + place.need <= self.base + self.data.len() as u64
    }

    fn walk(&self, place: Place, note: &mut dyn FnMut(u64, u64)) -> Step {
        let at = usize::try_from(place.offset - self.base).expect("inside the buffer");
        let left = self.limit - place.offset;
        let searching = Step::Read(Place {
            offset: place.offset + format::ALIGN,
            need: format::FIXED_LEN as u64,
            is_searching: true,
            ..place
        });
        let header = match format::parse(&self.data[at..]) {
            Parsed::Batch(header) => header,
            Parsed::Short(need) if need as u64 <= left && need as u64 > place.need => {
                return Step::Read(Place {
                    need: need as u64,
                    ..place
                });
            }
            Parsed::Short(_) | Parsed::Zero | Parsed::Unsupported | Parsed::Invalid => {
                return searching;
            }
        };
        let total = u64::from(header.total_len);
        let is_expected =
            self.expectation(&place).accepts(&header) && self.is_of_its_epoch(&header);
        if !is_expected || total > left {
            return searching;
        }
        note(header.first, place.offset);
        if header.first > self.from {
            return Step::Lost(header.first);
        }
        if header.end() > self.from {
            return if at as u64 + total <= self.data.len() as u64 {
                Step::Found(at, header)
            } else {
                Step::Read(Place {
                    need: total,
                    ..place
                })
            };
        }
        Step::Read(Place {
            offset: place.offset + header.stride(),
            next: header.end(),
            need: format::FIXED_LEN as u64,
            ..place
        })
    }

    fn search(&self, place: Place) -> Step {
        let at = usize::try_from(place.offset - self.base).expect("inside the buffer");
        let left = self.limit - place.offset;
        match self.expectation(&place).search(&self.data[at..], left) {
            Search::Found(ahead) => Step::Read(Place {
                offset: place.offset + ahead as u64,
                need: format::FIXED_LEN as u64,
                is_searching: false,
                ..place
            }),
            Search::More { at: ahead, need } => Step::Read(Place {
                offset: place.offset + ahead as u64,
                need: need as u64,
                ..place
            }),
        }
    }

    /// Whether the batch is what was written at its sequence last. After a power failure, what
    /// was written but not synced can have given way to what stood there before.
    fn is_of_its_epoch(&self, header: &Header) -> bool {
        let begun = self
            .epochs
            .partition_point(|&(start, _)| start <= header.first);
        begun
            .checked_sub(1)
            .is_none_or(|at| self.epochs[at].1 == header.epoch)
    }

    const fn expectation(&self, place: &Place) -> Expectation {
        Expectation {
            tag: Some(self.tag),
            name: place.segment,
            next: place.next,
            end: self.end,
            epoch: 0,
        }
    }

    /// Takes the intact records from `from` on, beginning with the batch at `at`, up to the first
    /// damaged one or the end of the whole batches in the buffer.
    fn gather(
        &self,
        mut at: usize,
        mut header: Header,
        note: &mut dyn FnMut(u64, u64),
    ) -> Gathered {
        let mut out = Gathered::default();
        loop {
            note(header.first, self.base + at as u64);
            if !gather_batch(&self.data[at..], at, &header, self.from, &mut out) {
                return out;
            }
            at += usize::try_from(header.stride()).expect("32 bits");
            let Some(rest) = self.data.get(at..) else {
                return out;
            };
            let Parsed::Batch(next) = format::parse(rest) else {
                return out;
            };
            let is_next = next.first == out.next
                && next.end() <= self.end
                && next.tag == self.tag
                && self.is_of_its_epoch(&next)
                && next.total_len as usize <= rest.len();
            if !is_next {
                return out;
            }
            header = next;
        }
    }
}

/// Takes one batch's records, which start `base` bytes into the buffer, from `from` on. Answers
/// whether more can follow without a gap.
fn gather_batch(bytes: &[u8], base: usize, header: &Header, from: u64, out: &mut Gathered) -> bool {
    let skipped = from.saturating_sub(header.first);
    let mut records = header.records(bytes);
    records.skip_unchecked(usize::try_from(skipped).expect("fewer than the batch holds"));
    let mut sequence = header.first + skipped;
    let mut has_gap = false;
    for (start, end, is_intact) in records {
        if is_intact && has_gap {
            break;
        }
        if is_intact {
            if out.spans.is_empty() {
                out.first = sequence;
            }
            let offset = |at: usize| u32::try_from(base + at).expect("reads are below 4 GiB");
            out.spans.push((offset(start), offset(end)));
        } else {
            has_gap = true;
        }
        sequence += 1;
    }
    out.next = sequence;
    !has_gap
}

impl TopicLog {
    /// Decides where the answer to a request will end.
    pub(crate) fn plan_read(&self, request: &mut ReadRequest) -> Option<Planned> {
        let from = request.from;
        if request.count <= SCATTERED_MAX || from >= self.appender.written {
            return None;
        }
        let segment = self.segments.covering(from)?;
        let start = segment.locate(from).offset;
        let end = segment.boundary(start + u64::from(self.config.read_bytes))?;
        if segment.first > from || end.sequence <= from {
            return None;
        }
        request.until = Some((segment.name, end.offset));
        Some(Planned {
            next: end.sequence,
            bytes: usize::try_from(end.offset - start).expect("at most a read-ahead"),
        })
    }

    /// Takes a request as far as it goes now.
    pub(crate) fn advance_read(&mut self, disk: &mut dyn Disk, mut request: ReadRequest) {
        let from = request.from;
        let place = match request.at {
            Some(place) => place,
            None if from >= self.appender.written => return self.reads.push(request),
            None => match self.segments.covering(from) {
                Some(segment) if segment.first <= from => first_place(segment, from),
                Some(after) => {
                    let next = after.first;
                    return self.answer_lost(from, next, "freed or lost before".to_owned());
                }
                None => {
                    let next = self.appender.written;
                    return self.answer_lost(from, next, "lost before".to_owned());
                }
            },
        };
        let Some(segment) = self.segments.get_mut(place.segment) else {
            // Freed since: look again.
            return self.advance_read(disk, ReadRequest::new(from, request.count));
        };
        let limit = segment.readable;
        request.at = Some(place);
        if place.offset >= limit {
            return self.finish_exhausted(from, place.segment);
        }
        let Some(file) = self.open_segment(disk, place.segment) else {
            return self.reads.push(request);
        };
        self.segments
            .get_mut(place.segment)
            .expect("just seen")
            .users += 1;
        let ahead = match (request.until, request.count) {
            (Some((name, end)), _) if name == place.segment && end > place.offset => {
                end - place.offset
            }
            (_, ..=SCATTERED_MAX) => self.config.read_bytes.min(SCATTERED_READ_BYTES).into(),
            _ => self.config.read_bytes.into(),
        };
        let wanted = ahead.max(place.need).min(limit - place.offset);
        let len = u32::try_from(wanted).expect("neither a batch nor a read-ahead reaches 4 GiB");
        let offset = place.offset;
        disk.submit(
            self.ops.insert(Kind::Read(request)),
            Op::Read { file, offset, len },
        );
    }

    /// A read finished.
    pub(crate) fn on_read(&mut self, disk: &mut dyn Disk, request: &ReadRequest, result: OpResult) {
        let place = request.at.expect("was submitted with one");
        let segment = self
            .segments
            .get_mut(place.segment)
            .expect("not freed while in use");
        segment.users -= 1;
        let limit = segment.readable;
        match result.and_then(OpOutput::into_data) {
            Ok(data) => self.on_data(disk, request, place, data),
            Err(error) if is_shortage(&error) => {
                self.is_held_back = true;
                self.reads.push(request.clone());
            }
            Err(_) => {
                // The medium does not give this stretch: what starts in it is lost, go on behind.
                let step = u64::from(self.config.read_bytes).max(format::ALIGN);
                let offset = format::aligned(place.offset + step);
                let need = format::FIXED_LEN as u64;
                let next = Place {
                    offset,
                    need,
                    is_searching: true,
                    ..place
                };
                if offset >= limit {
                    self.finish_exhausted(request.from, place.segment);
                } else {
                    self.advance_read(disk, request.moved(next));
                }
            }
        }
    }

    fn on_data(&mut self, disk: &mut dyn Disk, request: &ReadRequest, place: Place, data: Bytes) {
        let from = request.from;
        let tag = self.tag;
        let segment = self.segments.get_mut(place.segment).expect("just seen");
        let (limit, end) = (segment.readable, segment.end);
        let wanted = place.need.min(limit - place.offset);
        if (data.len() as u64) < wanted {
            // The file was cut behind our back.
            return self.finish_exhausted(from, place.segment);
        }
        let epochs = &self.journal.epochs;
        let walk = Walk {
            data: &data,
            base: place.offset,
            limit,
            end,
            tag,
            from,
            epochs,
        };
        let mut note = |sequence, offset| segment.note(sequence, offset);
        match walk.run(place, &mut note) {
            Step::Read(next) => {
                self.advance_read(disk, request.moved(next));
            }
            Step::Found(at, header) => {
                let gathered = walk.gather(at, header, &mut note);
                self.answer(from, data, gathered);
            }
            Step::Lost(next) => self.answer_lost(from, next, "no batch holds it".to_owned()),
            Step::Exhausted => self.finish_exhausted(from, place.segment),
        }
    }

    fn answer(&mut self, from: u64, bytes: Bytes, gathered: Gathered) {
        let Gathered { first, spans, next } = gathered;
        if spans.is_empty() {
            return self.answer_lost(from, next, "damaged record".to_owned());
        }
        assert_eq!(first, from, "frames are given from the wanted one on");
        self.outbox.push(LogEvent::Fetched {
            from,
            first,
            bytes,
            spans,
            next,
        });
    }

    /// No batch up to the end of the segment holds the sequence.
    fn finish_exhausted(&mut self, from: u64, name: u64) {
        let end = self.segments.get_mut(name).expect("just seen").end;
        let next = match self.segments.covering(end) {
            Some(after) => after.first.min(self.appender.written),
            None => self.appender.written,
        };
        let reason = format!("no readable batch up to the end of segment {name}");
        self.answer_lost(from, next.max(from + 1), reason);
    }

    fn answer_lost(&mut self, from: u64, next: u64, reason: String) {
        assert!(next > from, "an answer moves on");
        self.outbox
            .push(LogEvent::Unreadable { from, next, reason });
    }

    /// Answers the requests that wait for a file that cannot be opened.
    pub(crate) fn fail_reads_of(&mut self, name: u64, error: &io::Error) {
        let segment = self.segments.get_mut(name).expect("not freed while in use");
        let end = segment.end.min(self.appender.written);
        let reason = format!("open segment {name}: {error}");
        let is_there =
            |request: &mut ReadRequest| request.at.is_some_and(|place| place.segment == name);
        let failed: Vec<_> = self.reads.extract_if(.., is_there).collect();
        for request in failed {
            let next = end.max(request.from + 1);
            self.answer_lost(request.from, next, reason.clone());
        }
    }

    /// Tries the requests again that had to wait for a file or for their sequence to be written.
    pub(crate) fn resume_reads(&mut self, disk: &mut dyn Disk) {
        if self.reads.is_empty() || self.is_held_back {
            return;
        }
        for request in std::mem::take(&mut self.reads) {
            self.advance_read(disk, request);
        }
    }
}

fn first_place(segment: &Segment, from: u64) -> Place {
    let entry = segment.locate(from);
    Place {
        segment: segment.name,
        offset: entry.offset,
        next: entry.sequence,
        need: format::FIXED_LEN as u64,
        is_searching: false,
    }
}
