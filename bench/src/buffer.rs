//! Bytes that have arrived and that nobody has looked at yet: filled behind, consumed in front.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
}

/// What a receive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// Bytes.
    Some,
    /// Nothing, for now.
    Nothing,
    /// The peer has closed.
    End,
}

impl Buffer {
    /// A buffer that holds at least `room` bytes.
    pub(crate) fn with_room(room: usize) -> Self {
        Self {
            buffer: vec![0; room],
            begin: 0,
            end: 0,
        }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    /// Drops bytes at the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.begin += count;
        debug_assert!(self.begin <= self.end, "nobody consumes what is not there");
        if self.begin == self.end {
            self.begin = 0;
            self.end = 0;
        }
    }

    /// Room for at least `least` more bytes behind those that are there; see [`Buffer::add`].
    pub(crate) fn space(&mut self, least: usize) -> &mut [u8] {
        self.make_room();
        if self.buffer.len() - self.end < least {
            self.buffer.resize(self.end + least, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes of the space have been written.
    pub(crate) fn add(&mut self, count: usize) {
        self.end += count;
        debug_assert!(
            self.end <= self.buffer.len(),
            "nobody adds what is not there"
        );
    }

    /// Appends.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.add(bytes.len());
    }

    /// The bytes, to be changed in place.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.begin..self.end]
    }

    /// Makes it hold at least `room` bytes.
    pub(crate) fn grow(&mut self, room: usize) {
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
    }

    /// Receives once.
    pub(crate) fn receive(&mut self, socket: &TcpStream, flags: MsgFlags) -> io::Result<Received> {
        self.make_room();
        match recv(socket.as_raw_fd(), &mut self.buffer[self.end..], flags) {
            Ok(0) => Ok(Received::End),
            Ok(count) => {
                self.end += count;
                Ok(Received::Some)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// The unread part goes to the front when little room is left behind it; it is the beginning of something,
    /// so short.
    fn make_room(&mut self) {
        if self.buffer.len() - self.end < self.buffer.len() / 2 && self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
        if self.buffer.len() == self.end {
            self.buffer.resize((self.buffer.len() * 2).max(4096), 0);
        }
    }
}
