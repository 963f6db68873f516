//! A connection to the broker: a blocking socket, used without blocking wherever the caller says so, the
//! layers over it if the load asks for some, and the bytes that have arrived.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendmsg};
use rustls::ClientConfig;

use crate::buffer::{Buffer, Received};
use crate::cli::TargetArgs;
use crate::layer::{self, Compression, Layers, Settled};
use crate::wire::{self, Frame};

/// Room for what arrives at once; larger frames make it grow.
const INPUT_BYTES: usize = 512 << 10;
/// A blocking receive gives up after this long, so that deadlines are seen.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(20);
/// How long a reply of the set-up may take.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// Where connections go, and through which layers.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    compression: Option<Compression>,
}

impl Door {
    /// As the command line says.
    ///
    /// # Errors
    /// The certificates to believe cannot be read, or there is no such cipher suite.
    pub(crate) fn new(target: &TargetArgs) -> Result<Self> {
        let config = |(suite, roots): (&String, _)| layer::client_config(suite, roots);
        let tls = target.tls.as_ref().zip(target.tls_root.as_deref());
        Ok(Self {
            address: target.tcp,
            tls: tls.map(config).transpose()?,
            compression: target.compression,
        })
    }

    /// What it adds to an IDENTIFY.
    fn ask(&self, json: &mut serde_json::Value) {
        if self.tls.is_none() && self.compression.is_none() {
            return;
        }
        json["feature_negotiation"] = true.into();
        json["tls_v1"] = self.tls.is_some().into();
        match self.compression {
            Some(Compression::Snappy) => json["snappy"] = true.into(),
            Some(Compression::Deflate(level)) => {
                json["deflate"] = true.into();
                json["deflate_level"] = level.into();
            }
            None => {}
        }
    }

    /// Refuses an answer to IDENTIFY that does not grant all that was asked for.
    fn check(&self, granted: &serde_json::Value) -> Result<()> {
        let is = |key: &str| granted[key] == true;
        let compression = match self.compression {
            None => true,
            Some(Compression::Snappy) => is("snappy"),
            Some(Compression::Deflate(level)) => is("deflate") && granted["deflate_level"] == level,
        };
        ensure!(
            compression && (self.tls.is_none() || is("tls_v1")),
            "the broker does not grant what was asked for: {granted}"
        );
        Ok(())
    }
}

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

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: TcpStream,
    layers: Option<Box<Layers>>,
    compression: Option<Compression>,
    /// What has arrived.
    pub(crate) input: Buffer,
}

impl Link {
    /// Connects, introduces itself, and puts the layers in place.
    ///
    /// # Errors
    /// No connection, or the broker refuses the wishes or the layers.
    pub(crate) fn connect(door: &Door, wishes: Wishes) -> Result<Self> {
        let address = door.address;
        let socket = TcpStream::connect(address)
            .with_context(|| format!("connect to the broker at {address}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(WAIT_MAX))?;
        let mut link = Self {
            socket,
            layers: None,
            compression: door.compression,
            input: Buffer::default(),
        };
        let mut json = wishes.to_json();
        door.ask(&mut json);
        let mut hello = wire::MAGIC.to_vec();
        wire::put_command(&mut hello, "IDENTIFY", json.to_string().as_bytes());
        link.send_all(&hello)?;
        if door.tls.is_none() && door.compression.is_none() {
            link.expect_ok().context("IDENTIFY")?;
        } else {
            link.upgrade(door)?;
        }
        Ok(link)
    }

    /// One layer after the other, each of which the broker confirms through it.
    fn upgrade(&mut self, door: &Door) -> Result<()> {
        let granted = self.response(|_| {}).context("IDENTIFY")?;
        let granted = serde_json::from_slice(&granted).context("the answer to IDENTIFY")?;
        door.check(&granted)?;
        let mut layers = Box::new(Layers::default());
        if let Some(config) = &door.tls {
            let config = Arc::clone(config);
            layers
                .begin_tls(config, door.address.ip(), (&self.socket, &mut self.input))
                .context("TLS")?;
            self.layers = Some(layers);
            self.expect_ok().context("TLS")?;
            layers = self.layers.take().expect("it was just put there");
        }
        if let Some(compression) = door.compression {
            layers.begin_compression(compression, &mut self.input)?;
            self.layers = Some(layers);
            return self.expect_ok().context("compression");
        }
        self.layers = Some(layers);
        Ok(())
    }

    /// What was agreed on with the broker; `None` without layers.
    pub(crate) fn settled(&self) -> Option<&Settled> {
        self.layers.as_ref().map(|layers| layers.settled())
    }

    /// The compression in place.
    pub(crate) fn compression(&self) -> Option<Compression> {
        self.compression
    }

    /// Makes room for a busy connection; idle ones stay small.
    pub(crate) fn expect_traffic(&mut self) {
        self.input.grow(INPUT_BYTES);
        if let Some(layers) = &mut self.layers {
            layers.expect_traffic(INPUT_BYTES);
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
        let received = match &mut self.layers {
            None => self.input.receive(&self.socket, flags).map_err(Into::into),
            Some(layers) => layers.receive(&self.socket, flags, &mut self.input),
        };
        match received.context("receive from the broker")? {
            Received::Some => Ok(true),
            Received::Nothing => Ok(false),
            Received::End => bail!("the broker has closed the connection"),
        }
    }

    /// Sends what fits without waiting; the count may be 0. Layers may keep some of what they took: see
    /// [`Link::has_unsent`].
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn send(&mut self, parts: &[io::IoSlice<'_>]) -> Result<usize> {
        let sent = match &mut self.layers {
            None => send(&self.socket, parts).map_err(Into::into),
            Some(layers) => layers.send(&self.socket, parts, false),
        };
        sent.context("send to the broker")
    }

    /// The same with parts that have gone through [`Compression::compress`], if there is a compression.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn send_compressed(&mut self, parts: &[io::IoSlice<'_>]) -> Result<usize> {
        match &mut self.layers {
            None => self.send(parts),
            Some(layers) => layers
                .send(&self.socket, parts, true)
                .context("send to the broker"),
        }
    }

    /// Whether something that was taken waits for room in the socket; sending anything, or nothing, goes on
    /// with it.
    pub(crate) fn has_unsent(&self) -> bool {
        self.layers
            .as_ref()
            .is_some_and(|layers| layers.has_unsent())
    }

    /// Sends everything, waiting as long as it takes.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn send_all(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.layers {
            None => io::Write::write_all(&mut self.socket, bytes).map_err(Into::into),
            Some(layers) => layers.send_all(&self.socket, bytes),
        }
        .context("send to the broker")
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
        on_message: impl FnMut(&wire::Delivery<'_>),
    ) -> Result<()> {
        let text = self.response(on_message)?;
        ensure!(text == want, "the broker answers {}", text.escape_ascii());
        Ok(())
    }

    /// Waits for any response.
    fn response(&mut self, mut on_message: impl FnMut(&wire::Delivery<'_>)) -> Result<Vec<u8>> {
        let deadline = Instant::now() + REPLY_TIMEOUT;
        loop {
            let mut beats = 0;
            while let Some((frame, used)) = wire::next_frame(self.input.bytes())? {
                let mut found = None;
                match frame {
                    Frame::Response(b"_heartbeat_") => beats += 1,
                    Frame::Response(text) => found = Some(text.to_vec()),
                    Frame::Error(text) => bail!("the broker answers {}", text.escape_ascii()),
                    Frame::Message(delivery) => on_message(&delivery),
                }
                self.input.consume(used);
                if let Some(text) = found {
                    return Ok(text);
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
