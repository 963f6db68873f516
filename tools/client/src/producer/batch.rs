//! Messages that are published together.

use bytes::BytesMut;
use nsq_proto::encode_entry;

/// The list of an MPUB, built body by body in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// As it goes over the wire, without the count.
    list: BytesMut,
    count: u32,
    /// Index of the first empty body.
    first_empty: Option<u32>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a copy of the body. A batch with an empty body in it is refused.
    ///
    /// # Panics
    /// When the body is not below 2 GiB: the limits of any nsqd are far lower.
    pub fn push(&mut self, body: &[u8]) {
        encode_entry(&mut self.list, body);
        if body.is_empty() {
            self.first_empty.get_or_insert(self.count);
        }
        self.count += 1;
    }

    /// Takes all bodies out; the room for them is kept.
    pub fn clear(&mut self) {
        self.list.clear();
        self.count = 0;
        self.first_empty = None;
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

    pub(super) fn list(&self) -> &[u8] {
        &self.list
    }

    pub(super) const fn first_empty(&self) -> Option<u32> {
        self.first_empty
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }
}

impl<B: AsRef<[u8]>> Extend<B> for Batch {
    fn extend<I: IntoIterator<Item = B>>(&mut self, bodies: I) {
        for body in bodies {
            self.push(body.as_ref());
        }
    }
}

impl<B: AsRef<[u8]>> FromIterator<B> for Batch {
    fn from_iter<I: IntoIterator<Item = B>>(bodies: I) -> Self {
        let mut batch = Self::new();
        batch.extend(bodies);
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_listed_with_their_sizes() {
        let mut batch: Batch = ["a", "bc"].into_iter().collect();
        assert_eq!((batch.len(), batch.bytes()), (2, 4 + 4 + 1 + 4 + 2));
        assert_eq!(batch.list(), b"\0\0\0\x01a\0\0\0\x02bc");
        batch.clear();
        assert!(batch.is_empty() && batch.bytes() == 4);
        batch.extend(["x", "", ""]);
        assert_eq!(batch.first_empty(), Some(1));
    }
}
