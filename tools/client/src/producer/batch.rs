//! Messages that are published together.

use bytes::{BufMut, BytesMut};

/// The list of an MPUB, built body by body in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// `(size(4) body)*`.
    list: BytesMut,
    count: u32,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a copy of the body.
    ///
    /// # Panics
    /// When the body is not below 2 GiB: the limits of any nsqd are far lower.
    pub fn push(&mut self, body: &[u8]) {
        let size = i32::try_from(body.len()).expect("bodies are far below 2 GiB");
        self.list.reserve(4 + body.len());
        self.list.put_i32(size);
        self.list.put_slice(body);
        self.count += 1;
    }

    /// Bodies in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether it has no body.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that it takes on the wire, to be kept below the nsqd's `--max-body-size` (5 MiB by
    /// default).
    #[must_use]
    pub fn bytes(&self) -> usize {
        4 + self.list.len()
    }
}
