//! Listening on a unix socket (spec nsqd.md §1.8).
//!
//! The file appears with the rights that the umask leaves, and goes with [`SocketFile`]. One that a
//! killed process left behind is replaced (K25); one on which somebody listens, and anything that
//! is no socket, is left alone.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{BACKLOG, BoundAddress, Listeners, patiently};

/// The file of a socket that this process listens on; removed when this is dropped, unless
/// somebody has put another one in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // A file that cannot be removed is replaced by the next start.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Binds one socket to the path and shares it among `count` shards.
///
/// # Errors
/// The system's; `AddrInUse` also for a file that is no socket.
pub(crate) fn bind(path: &Path, count: usize) -> io::Result<Listeners> {
    let socket = patiently(|| match open(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            open(path)
        }
        other => other,
    })?;
    let file = SocketFile::new(path)?;
    let mut sockets = Vec::with_capacity(count);
    for _ in 1..count {
        sockets.push(socket.try_clone()?.into());
    }
    sockets.push(socket.into());
    Ok(Listeners {
        address: BoundAddress::Unix(path.to_owned()),
        sockets,
        file: Some(file),
    })
}

fn open(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A socket that nobody listens on.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A full backlog would make it wait: whoever has one is alive.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    is_socket && connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_connection_reaches_one_of_the_sockets_and_the_file_goes_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nsqd.sock");
        let listeners = bind(&path, 3).unwrap();
        assert_eq!(listeners.sockets.len(), 3);
        assert_eq!(listeners.address.to_string(), path.display().to_string());
        let mut client = UnixStream::connect(&path).unwrap();
        let Listeners {
            mut sockets, file, ..
        } = listeners;
        let accepting = UnixListener::from(sockets.pop().unwrap());
        let (mut accepted, _) = accepting.accept().unwrap();
        client.write_all(b"x").unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nsqd.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let listeners = bind(&path, 1).unwrap();
        let error = bind(&path, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "in use");
        drop(listeners);

        fs::write(&path, b"precious").unwrap();
        let error = bind(&path, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "no socket");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_successor_s_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nsqd.sock");
        let listeners = bind(&path, 1).unwrap();
        fs::remove_file(&path).unwrap();
        let successor = UnixListener::bind(&path).unwrap();
        drop(listeners);
        assert!(path.exists());
        drop(successor);
    }
}
