//! Sending without the ring.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use socket2::SockRef;

/// The kernel's limit on parts of one message (`UIO_MAXIOV`).
const SLICES_MAX: usize = 1024;

/// Sends as much as the socket takes now, never blocks, never raises `SIGPIPE`.
///
/// Returns the number of bytes taken, which may end within a slice. Parts past the 1,024th are
/// left for the next call.
///
/// # Errors
/// `WouldBlock` if the socket's buffer is full: ask for
/// [`Ring::poll_writable`](super::Ring::poll_writable). Anything else means that the connection
/// is broken.
pub fn send_vectored(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let socket = SockRef::from(&fd);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    loop {
        let sent = match slices {
            [] => return Ok(0),
            [single] => socket.send_with_flags(single, flags),
            _ => socket.send_vectored_with_flags(&slices[..slices.len().min(SLICES_MAX)], flags),
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
