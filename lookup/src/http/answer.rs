//! The body of an answer: whole, or made slice by slice as the peer takes it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use nsq_http::response;

use crate::registry::{Progress, Registry};
use crate::service::Service;

/// Bytes after which a slice ends; it is longer by one entry at most.
const SLICE_BYTES: usize = 128 * 1024;
/// Entries after which a slice ends, be they shown or not.
const SLICE_ENTRIES: usize = 1024;

/// A list that can be written in slices. It keeps where it was by name, not by position, so that
/// what comes and goes in between moves nothing.
pub(super) trait Listing: Send {
    /// Writes the next slice.
    fn write(&mut self, registry: &Registry, slice: &mut Slice) -> Progress;
}

/// Where a slice is written.
#[derive(Debug, Default)]
pub(super) struct Slice {
    text: Vec<u8>,
    entries: usize,
}

impl Slice {
    /// Counts an entry; false when the slice is full and the entry belongs in the next one.
    pub(super) fn admit(&mut self) -> bool {
        self.admit_as(1)
    }

    /// The same for one that takes as long as several.
    pub(super) fn admit_as(&mut self, entries: usize) -> bool {
        self.entries += entries;
        self.entries <= SLICE_ENTRIES && self.text.len() < SLICE_BYTES
    }

    pub(super) fn push(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }
}

/// See the module documentation.
pub(super) enum Answer {
    /// All of it.
    Whole(Full<Bytes>),
    /// The next slice, and what comes after it.
    Sliced(Sliced),
}

pub(super) struct Sliced {
    service: Arc<Service>,
    listing: Box<dyn Listing>,
    ready: Option<Bytes>,
    progress: Progress,
    /// The last slice has been taken, and nobody had a turn since.
    is_due_to_yield: bool,
}

impl Answer {
    /// An answer that is there.
    pub(super) fn whole(response: nsq_http::Response) -> http::Response<Self> {
        response.map(Self::Whole)
    }

    /// 200 with a list as JSON. What fits into one slice has a length, more comes in chunks.
    pub(super) fn listing(
        service: &Arc<Service>,
        mut listing: Box<dyn Listing>,
    ) -> http::Response<Self> {
        let (first, progress) = write_slice(service, &mut *listing);
        if progress == Progress::Done {
            return Self::whole(response::json(first));
        }
        let sliced = Sliced {
            service: Arc::clone(service),
            listing,
            ready: Some(first),
            progress,
            is_due_to_yield: false,
        };
        response::json(Bytes::new()).map(|_| Self::Sliced(sliced))
    }
}

fn write_slice(service: &Service, listing: &mut dyn Listing) -> (Bytes, Progress) {
    let mut slice = Slice {
        text: Vec::with_capacity(SLICE_BYTES / 8),
        entries: 0,
    };
    let progress = service
        .directory
        .read(|registry| listing.write(registry, &mut slice));
    (slice.text.into(), progress)
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let sliced = match self.get_mut() {
            Self::Whole(body) => return Pin::new(body).poll_frame(context),
            Self::Sliced(sliced) => sliced,
        };
        if sliced.ready.is_none() && sliced.progress == Progress::More {
            // A peer that takes slices as fast as they come is not to keep others waiting.
            if std::mem::take(&mut sliced.is_due_to_yield) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let (text, progress) = write_slice(&sliced.service, &mut *sliced.listing);
            (sliced.ready, sliced.progress) = (Some(text), progress);
        }
        sliced.is_due_to_yield = true;
        Poll::Ready(sliced.ready.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Sliced(sliced) => sliced.ready.is_none() && sliced.progress == Progress::Done,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Sliced(_) => SizeHint::default(),
        }
    }
}
