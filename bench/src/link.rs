//! A connection to the broker: a blocking socket, used without blocking wherever the caller says so, and
//! the bytes that have arrived on it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, sendmsg};

use crate::wire::{self, Frame};

/// Room for what arrives at once; larger frames make it grow.
const INPUT_BYTES: usize = 512 << 10;
/// A blocking receive gives up after this long, so that deadlines are seen.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(20);
/// How long a reply of the set-up may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// What a connection asks for in IDENTIFY; what is `None` is left to the broker.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wishes {
    /// Milliseconds that the broker may hold messages back to fill its output buffer.
    pub(crate) output_buffer_timeout_ms: Option<i64>,
    /// Bytes of that buffer.
    pub(crate) output_buffer_size: Option<i64>,
    /// Milliseconds after which an unanswered message comes again.
    pub(crate) msg_timeout_ms: Option<u64>,
}

/// Received bytes that nobody has looked at yet.
#[derive(Debug, Default)]
pub(crate) struct Input {
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

impl Input {
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

    /// The unread part goes to the front when little room is left behind it; it is a cut frame, so short.
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

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: TcpStream,
    /// What has arrived.
    pub(crate) input: Input,
}

impl Link {
    /// Connects and introduces itself.
    ///
    /// # Errors
    /// No connection, or the broker refuses the wishes.
    pub(crate) fn connect(address: SocketAddr, wishes: Wishes) -> Result<Self> {
        let socket = TcpStream::connect(address)
            .with_context(|| format!("connect to the broker at {address}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(WAIT_MAX))?;
        let mut link = Self {
            socket,
            input: Input::default(),
        };
        let mut hello = wire::MAGIC.to_vec();
        wire::put_command(
            &mut hello,
            "IDENTIFY",
            wishes.to_json().to_string().as_bytes(),
        );
        link.send_all(&hello)?;
        link.expect_ok().context("IDENTIFY")?;
        Ok(link)
    }

    /// Makes room for a busy connection; idle ones stay small.
    pub(crate) fn expect_traffic(&mut self) {
        if self.input.buffer.len() < INPUT_BYTES {
            self.input.buffer.resize(INPUT_BYTES, 0);
        }
    }

    /// Receives; waits for bytes if asked to, but not longer than [`WAIT_MAX`].
    ///
    /// # Errors
    /// The connection has failed, or the broker has closed it.
    pub(crate) fn receive(&mut self, wait: bool) -> Result<bool> {
        let flags = if wait {
            MsgFlags::empty()
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        match self
            .input
            .receive(&self.socket, flags)
            .context("receive from the broker")?
        {
            Received::Some => Ok(true),
            Received::Nothing => Ok(false),
            Received::End => bail!("the broker has closed the connection"),
        }
    }

    /// Sends what fits without waiting; the count may be 0.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn send(&mut self, parts: &[io::IoSlice<'_>]) -> Result<usize> {
        send(&self.socket, parts).context("send to the broker")
    }

    /// Sends everything, waiting as long as it takes.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn send_all(&mut self, bytes: &[u8]) -> Result<()> {
        io::Write::write_all(&mut self.socket, bytes).context("send to the broker")
    }

    /// Waits for one `OK`, passing over heartbeats.
    ///
    /// # Errors
    /// Another answer, or none in time.
    pub(crate) fn expect_ok(&mut self) -> Result<()> {
        self.expect_response(b"OK", |_| {})
    }

    /// Waits for a response, answering heartbeats and showing messages that come before it.
    ///
    /// # Errors
    /// Another answer, or none in time.
    pub(crate) fn expect_response(
        &mut self,
        want: &[u8],
        mut on_message: impl FnMut(&wire::Delivery<'_>),
    ) -> Result<()> {
        let deadline = Instant::now() + REPLY_TIMEOUT;
        loop {
            let mut beats = 0;
            while let Some((frame, used)) = wire::next_frame(self.input.bytes())? {
                let mut found = false;
                match frame {
                    Frame::Response(b"_heartbeat_") => beats += 1,
                    Frame::Response(text) => {
                        ensure!(text == want, "the broker answers {}", text.escape_ascii());
                        found = true;
                    }
                    Frame::Error(text) => bail!("the broker answers {}", text.escape_ascii()),
                    Frame::Message(delivery) => on_message(&delivery),
                }
                self.input.consume(used);
                if found {
                    return Ok(());
                }
            }
            if beats > 0 {
                self.send_all(&wire::NOP.repeat(beats))?;
            }
            ensure!(Instant::now() < deadline, "the broker does not answer");
            self.receive(true)?;
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends what fits without waiting.
pub(crate) fn send(socket: &TcpStream, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match sendmsg::<()>(socket.as_raw_fd(), parts, &[], flags, None) {
        Ok(count) => Ok(count),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

impl Wishes {
    fn to_json(self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "client_id": "nsq-bench",
            "user_agent": concat!("nsq-bench/", env!("CARGO_PKG_VERSION")),
        });
        if let Some(value) = self.output_buffer_timeout_ms {
            json["output_buffer_timeout"] = value.into();
        }
        if let Some(value) = self.output_buffer_size {
            json["output_buffer_size"] = value.into();
        }
        if let Some(value) = self.msg_timeout_ms {
            json["msg_timeout"] = value.into();
        }
        json
    }
}
