//! An nsqd that does what a test says, command by command.

use bytes::{BufMut as _, BytesMut};
use nsq_proto::{encode_error, encode_message_header, encode_response};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::soon;

/// The reply to IDENTIFY unless a test has another.
const FEATURES: &str = r#"{"max_rdy_count":2500,"version":"1.3.0","tls_v1":false}"#;

pub(crate) struct Fake {
    listener: TcpListener,
}

impl Fake {
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// A connection on which nothing has been said.
    pub(crate) async fn accept_raw(&self) -> Peer {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        Peer::new(stream)
    }

    /// A connection after IDENTIFY.
    pub(crate) async fn accept(&self) -> Peer {
        let mut peer = self.accept_raw().await;
        peer.identify(FEATURES).await;
        peer
    }

    /// A connection after SUB.
    pub(crate) async fn accept_consumer(&self) -> Peer {
        let mut peer = self.accept().await;
        assert_eq!(peer.line().await, "SUB t c");
        peer.respond("OK").await;
        peer
    }
}

pub(crate) struct Peer {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

/// The id of the n-th message.
pub(crate) fn id(number: u64) -> String {
    format!("{number:016}")
}

/// A message frame.
pub(crate) fn message(out: &mut BytesMut, number: u64, attempts: u16, body: &[u8]) {
    let id = id(number);
    let id = id.as_bytes().try_into().unwrap();
    encode_message_header(out, body.len(), number, attempts, id);
    out.put_slice(body);
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::with_capacity(1 << 20, reader),
            writer,
        }
    }

    /// Reads magic and IDENTIFY, which it returns, and replies.
    pub(crate) async fn identify(&mut self, reply: &str) -> String {
        let mut magic = [0; 4];
        soon(self.reader.read_exact(&mut magic)).await.unwrap();
        assert_eq!(&magic, b"  V2");
        assert_eq!(self.line().await, "IDENTIFY");
        let identity = self.body().await;
        self.respond(reply).await;
        String::from_utf8(identity).unwrap()
    }

    /// The next line of a command; empty at the end of the stream.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.reader.read_line(&mut line)).await.unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    pub(crate) async fn expect(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.line().await, *line);
        }
    }

    /// The next body of a command.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        let size = soon(self.reader.read_u32()).await.unwrap();
        let mut body = vec![0; size as usize];
        soon(self.reader.read_exact(&mut body)).await.unwrap();
        body
    }

    /// What one read of the socket gives, when nothing was read ahead.
    pub(crate) async fn burst(&mut self) -> String {
        assert!(self.reader.buffer().is_empty());
        let bytes = soon(self.reader.fill_buf()).await.unwrap().to_vec();
        self.reader.consume(bytes.len());
        String::from_utf8(bytes).unwrap()
    }

    /// Reads to the end.
    pub(crate) async fn drain(&mut self) {
        soon(self.reader.read_to_end(&mut Vec::new()))
            .await
            .unwrap();
    }

    pub(crate) async fn is_at_end(&mut self) -> bool {
        soon(self.reader.fill_buf()).await.unwrap().is_empty()
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        soon(self.writer.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn respond(&mut self, text: &str) {
        let mut out = BytesMut::new();
        encode_response(&mut out, text.as_bytes());
        self.send(&out).await;
    }

    pub(crate) async fn refuse(&mut self, text: &str) {
        let mut out = BytesMut::new();
        encode_error(&mut out, text);
        self.send(&out).await;
    }

    /// Delivers messages with these numbers, their numbers as bodies, in one write.
    pub(crate) async fn deliver(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let mut out = BytesMut::new();
        for number in numbers {
            message(&mut out, number, 1, number.to_string().as_bytes());
        }
        self.send(&out).await;
    }

    pub(crate) async fn deliver_again(&mut self, number: u64, attempts: u16) {
        let mut out = BytesMut::new();
        message(&mut out, number, attempts, b"again");
        self.send(&out).await;
    }

    /// Both halves, for tests that use them at the same time.
    pub(crate) fn into_halves(self) -> (BufReader<OwnedReadHalf>, OwnedWriteHalf) {
        (self.reader, self.writer)
    }
}
