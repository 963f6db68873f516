//! The floor of the machine: a server that receives the same bytes as a broker and does next to nothing.
//!
//! One thread, one epoll. It finds where commands end and answers `OK`; bodies are passed over unread. To
//! a subscriber it streams ready-made messages as fast as they are taken, without regard to answers or to
//! the ready count; or it relays what is published, which is the least that a broker without memory would
//! do. No broker on the same machine can be faster on one core.

use std::io::IoSlice;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::BytesMut;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::MsgFlags;
use nsq_proto::{LINE_BYTES_MAX, MESSAGE_HEADER_LEN, encode_message_header};

use crate::body::{STAMP_LEN, Stamp};
use crate::buffer::{Buffer, Received};
use crate::cli::FloorArgs;
use crate::link::send;
use crate::producer::wide;
use crate::wire::{FINISH_LEN, OK_FRAME, read_field};

const INPUT_BYTES: usize = 256 << 10;
const EVENTS_MAX: usize = 64;
/// How long a stop may go unnoticed.
const WAIT_MS: u16 = 20;
/// Messages streamed to one subscriber at a time.
const STREAM_BATCH: u64 = 512;
/// The listener's number among the descriptors.
const LISTENER: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub struct Floor {
    listener: TcpListener,
    epoll: Epoll,
    peers: Vec<Option<Peer>>,
    stream: BytesMut,
    args: FloorArgs,
    served: Served,
    until: Option<Instant>,
}

/// What the floor has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// PUB, DPUB and MPUB.
    pub publishes: u64,
    /// FIN.
    pub finishes: u64,
    /// Other commands.
    pub others: u64,
    /// Messages sent.
    pub messages: u64,
}

#[derive(Debug)]
struct Peer {
    socket: TcpStream,
    input: Buffer,
    /// Bytes of a body that are still to be passed over.
    skip: usize,
    output: Vec<u8>,
    sent: usize,
    topic: Option<String>,
    /// Whether RDY is above 0.
    ready: bool,
    /// Messages streamed so far.
    streamed: u64,
    writing: bool,
}

/// What the first bytes of an input are.
enum Scanned {
    /// A command of which these many bytes are here to be dropped; the rest of its body is to come.
    Command {
        verb: Verb,
        used: usize,
        skip: usize,
    },
    /// Not enough to say.
    Partial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Magic,
    Identify,
    Publish,
    PublishMany,
    Subscribe,
    Ready,
    Finish,
    Close,
    Other,
}

impl Floor {
    /// Listens.
    ///
    /// # Errors
    /// The address is taken.
    pub fn bind(args: &FloorArgs) -> Result<Self> {
        args.pin.map_or(Ok(()), crate::process::pin)?;
        let listener =
            TcpListener::bind(args.tcp).with_context(|| format!("listen on {}", args.tcp))?;
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Self {
            listener,
            epoll,
            peers: Vec::new(),
            stream: stream_template(args.size),
            args: args.clone(),
            served: Served::default(),
            until: args.duration.map(|time| Instant::now() + time),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until it is told to stop, or its time is over.
    ///
    /// # Errors
    /// The kernel refuses to watch a socket. What a client does wrong costs only its connection.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Served> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let timeout = if self.args.spin {
            EpollTimeout::ZERO
        } else {
            EpollTimeout::from(WAIT_MS)
        };
        while !stop.load(Ordering::Relaxed) && self.until.is_none_or(|until| Instant::now() < until)
        {
            let count = self.epoll.wait(&mut events, timeout)?;
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept()?,
                    data => self.serve(usize::try_from(data)?)?,
                }
            }
        }
        Ok(self.served)
    }

    fn accept(&mut self) -> Result<()> {
        while let Ok((socket, _)) = self.listener.accept() {
            socket.set_nodelay(true)?;
            let index = self
                .peers
                .iter()
                .position(Option::is_none)
                .unwrap_or(self.peers.len());
            self.epoll
                .add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, wide(index)))?;
            let peer = Some(Peer::new(socket));
            match self.peers.get_mut(index) {
                Some(free) => *free = peer,
                None => self.peers.push(peer),
            }
        }
        Ok(())
    }

    fn serve(&mut self, index: usize) -> Result<()> {
        let Some(mut peer) = self.peers[index].take() else {
            return Ok(());
        };
        let served = self
            .receive(&mut peer)
            .and_then(|()| self.send(&mut peer, index));
        // A connection that has failed is dropped, and with it leaves the epoll.
        if served.is_ok() {
            self.peers[index] = Some(peer);
        }
        Ok(())
    }

    fn receive(&mut self, peer: &mut Peer) -> Result<()> {
        match peer.input.receive(&peer.socket, MsgFlags::MSG_DONTWAIT)? {
            Received::End => Err(anyhow!("closed")),
            Received::Nothing => Ok(()),
            Received::Some => self.take(peer),
        }
    }

    fn take(&mut self, peer: &mut Peer) -> Result<()> {
        let mut used = 0;
        let input = std::mem::take(&mut peer.input);
        let bytes = input.bytes();
        loop {
            let passed = peer.skip.min(bytes.len() - used);
            used += passed;
            peer.skip -= passed;
            let Scanned::Command {
                verb,
                used: taken,
                skip,
            } = scan(&bytes[used..], self.args.relay)?
            else {
                break;
            };
            self.obey(peer, verb, &bytes[used..used + taken])?;
            used += taken;
            peer.skip = skip;
        }
        peer.input = input;
        peer.input.consume(used);
        Ok(())
    }

    fn obey(&mut self, peer: &mut Peer, verb: Verb, command: &[u8]) -> Result<()> {
        match verb {
            Verb::Publish | Verb::PublishMany => {
                self.served.publishes += 1;
                peer.output.extend_from_slice(&OK_FRAME);
                if self.args.relay {
                    self.relay(verb, command)?;
                }
                return Ok(());
            }
            Verb::Finish => self.served.finishes += 1,
            Verb::Identify => peer.output.extend_from_slice(&OK_FRAME),
            Verb::Subscribe => {
                peer.topic = word(command).map(str::to_owned);
                peer.output.extend_from_slice(&OK_FRAME);
            }
            Verb::Ready => peer.ready = word(command) != Some("0"),
            Verb::Close => {
                let mut frame = BytesMut::new();
                nsq_proto::encode_response(&mut frame, b"CLOSE_WAIT");
                peer.output.extend_from_slice(&frame);
                peer.ready = false;
            }
            Verb::Magic | Verb::Other => {}
        }
        self.served.others += u64::from(verb != Verb::Finish);
        Ok(())
    }

    /// Passes the bodies of a whole command on to every subscriber of its topic.
    fn relay(&mut self, verb: Verb, command: &[u8]) -> Result<()> {
        let (line, rest) = command.split_at(line_len(command).context("checked by the scan")?);
        let topic = word(line).unwrap_or_default();
        let mut list = rest
            .get(if verb == Verb::Publish { 0 } else { 8 }..)
            .unwrap_or_default();
        let mut frames = BytesMut::new();
        while let Some(len) = read_field(list) {
            let body = list.get(4..4 + len).context("sizes do not match")?;
            let id = message_id(self.served.messages);
            encode_message_header(&mut frames, body.len(), 0, 1, &id);
            frames.extend_from_slice(body);
            self.served.messages += 1;
            list = &list[4 + len..];
        }
        for (index, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer
                .as_mut()
                .filter(|peer| peer.topic.as_deref() == Some(topic))
            else {
                continue;
            };
            peer.output.extend_from_slice(&frames);
            peer.watch_room(&self.epoll, index, true)?;
        }
        Ok(())
    }

    fn send(&mut self, peer: &mut Peer, index: usize) -> Result<()> {
        self.refill(peer);
        let full = !peer.flush()?;
        let more = peer.ready && peer.topic.is_some() && peer.streamed < self.args.serve_messages;
        peer.watch_room(&self.epoll, index, full || more)
    }

    fn refill(&mut self, peer: &mut Peer) {
        let left = self.args.serve_messages - peer.streamed.min(self.args.serve_messages);
        if left == 0 || !peer.ready || peer.topic.is_none() || peer.sent < peer.output.len() {
            return;
        }
        let frame_len = MESSAGE_HEADER_LEN + self.args.size;
        let count = usize::try_from(left.min(STREAM_BATCH)).expect("a small number");
        let begin = peer.output.len();
        peer.output
            .extend_from_slice(&self.stream[..count * frame_len]);
        if self.args.size >= STAMP_LEN {
            for frame in peer.output[begin..].chunks_exact_mut(frame_len) {
                let stamp = Stamp {
                    stream: 0,
                    sequence: peer.streamed,
                    intended_ns: 0,
                };
                stamp.write(&mut frame[MESSAGE_HEADER_LEN..]);
                peer.streamed += 1;
            }
        } else {
            peer.streamed += wide(count);
        }
        self.served.messages += wide(count);
    }
}

impl Peer {
    fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            input: Buffer::with_room(INPUT_BYTES),
            skip: 0,
            output: Vec::new(),
            sent: 0,
            topic: None,
            ready: false,
            streamed: 0,
            writing: false,
        }
    }

    /// Whether everything has left.
    fn flush(&mut self) -> Result<bool> {
        while self.sent < self.output.len() {
            let sent = send(&self.socket, &[IoSlice::new(&self.output[self.sent..])])?;
            if sent == 0 {
                return Ok(false);
            }
            self.sent += sent;
        }
        self.output.clear();
        self.sent = 0;
        Ok(true)
    }

    fn watch_room(&mut self, epoll: &Epoll, index: usize, writing: bool) -> Result<()> {
        if writing != self.writing {
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, writing);
            epoll.modify(
                self.socket.as_fd(),
                &mut EpollEvent::new(flags, wide(index)),
            )?;
            self.writing = writing;
        }
        Ok(())
    }
}

/// Looks at the first command; with `whole`, publishes wait for all of their body.
fn scan(bytes: &[u8], whole: bool) -> Result<Scanned> {
    if bytes.starts_with(b"FIN ") && bytes.get(FINISH_LEN - 1) == Some(&b'\n') {
        return Ok(Scanned::Command {
            verb: Verb::Finish,
            used: FINISH_LEN,
            skip: 0,
        });
    }
    if bytes.starts_with(b"  V2") {
        return Ok(Scanned::Command {
            verb: Verb::Magic,
            used: 4,
            skip: 0,
        });
    }
    let Some(line) = line_len(bytes) else {
        ensure!(bytes.len() <= LINE_BYTES_MAX, "a line without end");
        return Ok(Scanned::Partial);
    };
    let verb = match &bytes[..bytes[..line - 1]
        .iter()
        .position(|b| *b == b' ')
        .unwrap_or(line - 1)]
    {
        b"PUB" | b"DPUB" => Verb::Publish,
        b"MPUB" => Verb::PublishMany,
        b"IDENTIFY" => Verb::Identify,
        b"SUB" => Verb::Subscribe,
        b"RDY" => Verb::Ready,
        b"CLS" => Verb::Close,
        _ => Verb::Other,
    };
    if !matches!(verb, Verb::Publish | Verb::PublishMany | Verb::Identify) {
        return Ok(Scanned::Command {
            verb,
            used: line,
            skip: 0,
        });
    }
    let Some(body) = read_field(&bytes[line..]) else {
        return Ok(Scanned::Partial);
    };
    let end = line + 4 + body;
    let used = end.min(bytes.len());
    if used < end && whole {
        return Ok(Scanned::Partial);
    }
    Ok(Scanned::Command {
        verb,
        used,
        skip: end - used,
    })
}

/// Length of the first line, newline included.
fn line_len(bytes: &[u8]) -> Option<usize> {
    bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .map(|at| at + 1)
}

/// The first parameter of a command.
fn word(command: &[u8]) -> Option<&str> {
    let line = command.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)
}

fn message_id(number: u64) -> [u8; 16] {
    let mut id = [b'0'; 16];
    for (digit, shift) in id.iter_mut().rev().zip((0..16).map(|nibble| nibble * 4)) {
        *digit = b"0123456789abcdef"[usize::try_from(number >> shift & 15).expect("a nibble")];
    }
    id
}

fn stream_template(body_len: usize) -> BytesMut {
    let mut stream = BytesMut::new();
    for number in 0..STREAM_BATCH {
        encode_message_header(&mut stream, body_len, 0, 1, &message_id(number));
        stream.resize(stream.len() + body_len, b'x');
    }
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(bytes: &[u8], whole: bool) -> Option<(Verb, usize, usize)> {
        match scan(bytes, whole).unwrap() {
            Scanned::Command { verb, used, skip } => Some((verb, used, skip)),
            Scanned::Partial => None,
        }
    }

    #[test]
    fn commands_are_told_apart_by_their_first_word() {
        assert_eq!(scanned(b"  V2IDENTIFY", false), Some((Verb::Magic, 4, 0)));
        assert_eq!(
            scanned(b"FIN 0123456789abcdef\nX", false),
            Some((Verb::Finish, 21, 0))
        );
        assert_eq!(scanned(b"RDY 5\nX", false), Some((Verb::Ready, 6, 0)));
        assert_eq!(
            scanned(b"PUB t\n\0\0\0\x02hiX", false),
            Some((Verb::Publish, 12, 0))
        );
        assert_eq!(scanned(b"MPUB t", false), None);
    }

    #[test]
    fn bodies_need_not_be_there_unless_they_are_relayed() {
        let cut = b"PUB t\n\0\0\0\x10hi";
        assert_eq!(scanned(cut, false), Some((Verb::Publish, 12, 14)));
        assert_eq!(scanned(cut, true), None);
        assert_eq!(scanned(&cut[..8], false), None, "the length must be there");
    }

    #[test]
    fn endless_lines_are_refused() {
        assert!(scan(&[b'x'; LINE_BYTES_MAX + 1], false).is_err());
    }

    #[test]
    fn ids_are_hexadecimal() {
        assert_eq!(&message_id(0x1f), b"000000000000001f");
    }
}
