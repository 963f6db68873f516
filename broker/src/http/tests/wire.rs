//! An in-memory connection to the door, driven by hand.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::fixture::FakeBroker;
use crate::http::serve_connection;

/// Polls without any change after which the door is taken to wait for the client or the broker.
const IDLE_POLLS: u32 = 8;

#[derive(Debug, Default)]
struct Wire {
    to_server: VecDeque<u8>,
    is_client_closed: bool,
    to_client: Vec<u8>,
    is_server_closed: bool,
    /// Bytes that a write takes; every other write then finds the stream full.
    write_max: Option<usize>,
    is_full: bool,
    read_bytes: usize,
}

/// The server's end.
struct ServerStream(Rc<RefCell<Wire>>);

impl Read for ServerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        if wire.to_server.is_empty() && !wire.is_client_closed {
            return Poll::Pending;
        }
        let count = wire.to_server.len().min(buffer.remaining());
        let bytes: Vec<u8> = wire.to_server.drain(..count).collect();
        wire.read_bytes += count;
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl Write for ServerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.borrow_mut();
        assert!(!wire.is_server_closed, "write after shutdown");
        if let Some(max) = wire.write_max {
            wire.is_full = !wire.is_full;
            if wire.is_full {
                return Poll::Pending;
            }
            let bytes = &bytes[..bytes.len().min(max)];
            wire.to_client.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        wire.to_client.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().is_server_closed = true;
        Poll::Ready(Ok(()))
    }
}

/// The client's end, with the door behind it.
pub(crate) struct Client {
    wire: Rc<RefCell<Wire>>,
    is_told: Rc<Cell<bool>>,
    door: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Client {
    pub(crate) fn connect(broker: &FakeBroker) -> Self {
        let wire = Rc::new(RefCell::new(Wire::default()));
        let stream = ServerStream(Rc::clone(&wire));
        let remote = "127.0.0.1:9".to_owned();
        let is_told = Rc::new(Cell::new(false));
        let told = Rc::clone(&is_told);
        let stop = std::future::poll_fn(move |_| match told.get() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        let door = Box::pin(serve_connection(stream, remote, broker.clone(), None, stop));
        Self {
            wire,
            is_told,
            door: Some(door),
        }
    }

    /// Tells the door that the connection is to end.
    pub(super) fn stop(&mut self) -> String {
        self.is_told.set(true);
        self.receive()
    }

    /// Lets the door write only a few bytes at a time.
    pub(super) fn read_slowly(&mut self) {
        self.wire.borrow_mut().write_max = Some(7);
    }

    /// Sends, and returns everything that comes back.
    pub(super) fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> String {
        String::from_utf8(self.exchange_bytes(bytes.as_ref())).expect("text")
    }

    /// The same, for answers that need not be text.
    pub(crate) fn exchange_bytes(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.wire.borrow_mut().to_server.extend(bytes);
        self.receive_bytes()
    }

    /// Closes this side.
    pub(crate) fn close(&mut self) {
        self.wire.borrow_mut().is_client_closed = true;
    }

    /// Sends and closes this side.
    pub(super) fn exchange_and_close(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.close();
        self.exchange(bytes)
    }

    /// Lets the door run until it waits, and returns what it wrote.
    pub(super) fn receive(&mut self) -> String {
        String::from_utf8(self.receive_bytes()).expect("text")
    }

    /// The same, for answers that need not be text.
    pub(crate) fn receive_bytes(&mut self) -> Vec<u8> {
        let mut idle = 0;
        while idle < IDLE_POLLS {
            let before = self.progress();
            let Some(door) = &mut self.door else { break };
            if door
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
            {
                self.door = None;
            }
            idle = if self.progress() == before {
                idle + 1
            } else {
                0
            };
        }
        std::mem::take(&mut self.wire.borrow_mut().to_client)
    }

    fn progress(&self) -> (usize, usize) {
        let wire = self.wire.borrow();
        (wire.read_bytes, wire.to_client.len())
    }

    /// The door has closed its side.
    pub(super) fn sees_end(&self) -> bool {
        self.wire.borrow().is_server_closed
    }

    /// The door is done with the connection.
    pub(crate) fn is_gone(&self) -> bool {
        self.door.is_none()
    }
}

/// One answer, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The first line, without the version.
    pub(super) status: String,
    /// Sorted; without `Date`, which must be there.
    pub(super) headers: Vec<String>,
    pub(super) body: String,
}

impl Answer {
    /// Takes the first answer off the text.
    pub(super) fn take(text: &mut String) -> Self {
        let (head, rest) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{text:?}"));
        let mut lines = head.split("\r\n").map(str::to_owned);
        let status = lines.next().expect("a status line");
        let status = status
            .strip_prefix("HTTP/1.1 ")
            .unwrap_or_else(|| panic!("{status}"));
        let (date, mut headers): (Vec<_>, Vec<_>) =
            lines.partition(|line| line.starts_with("Date: ") && line.ends_with(" GMT"));
        assert_eq!(date.len(), 1, "{head}");
        headers.sort_unstable();
        let length = headers
            .iter()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length
            .unwrap_or_else(|| panic!("{head}"))
            .parse::<usize>()
            .expect("a number");
        let status = status.to_owned();
        // An answer to HEAD announces a body that does not come.
        let (body, rest) = rest.split_at_checked(length).unwrap_or(("", rest));
        let body = body.to_owned();
        *text = rest.to_owned();
        Self {
            status,
            headers,
            body,
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter_map(|line| line.split_once(": "));
        values
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }
}

/// Sends one request on a connection of its own.
pub(super) fn ask(broker: &FakeBroker, method: &str, target: &str, body: &str) -> Answer {
    let mut client = Client::connect(broker);
    let length = body.len();
    let mut text = client.exchange(format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    let answer = Answer::take(&mut text);
    assert_eq!(text, "", "{method} {target}");
    assert_eq!(
        client.sees_end(),
        answer.header("Connection") == Some("close")
    );
    answer
}

/// Status and body of one request.
pub(super) fn outcome(broker: &FakeBroker, method: &str, target: &str, body: &str) -> String {
    let answer = ask(broker, method, target, body);
    format!("{} {}", answer.status, answer.body)
}

/// The outcome of a refusal.
pub(super) fn refusal(status: &str, code: &str) -> String {
    format!("{status} {{\"message\":\"{code}\"}}")
}
