//! One connection to an nsqlookupd: commands out, replies in (spec nsqd.md §5.1).
//!
//! Every write and every reply has [`STEP`] to be done. Commands are sent in batches, so that
//! ten thousand names do not cost ten thousand round trips.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::registry::NameChange;

/// Time for a write, for a reply, and for connecting.
pub(super) const STEP: Duration = Duration::from_secs(1);
/// Commands sent before their replies are read: with their replies they fit any socket's buffers.
pub(super) const BATCH: usize = 256;
/// Longest reply that is kept whole.
const REPLY_BYTES_MAX: u32 = 64 * 1024;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Session<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Begins the protocol and says who we are; the session and the reply.
    ///
    /// # Errors
    /// Of the connection, or when a step takes too long.
    pub(super) async fn identify(stream: S, identity: &[u8]) -> io::Result<(Self, Vec<u8>)> {
        let mut session = Self { stream };
        let mut hello = b"  V1IDENTIFY\n".to_vec();
        let length = u32::try_from(identity.len()).expect("a few names and numbers");
        hello.extend_from_slice(&length.to_be_bytes());
        hello.extend_from_slice(identity);
        session.write(&hello).await?;
        let reply = session.reply().await?;
        Ok((session, reply))
    }

    /// Sends registrations. What is replied does not matter, only that something is.
    ///
    /// # Errors
    /// As [`Self::identify`], with the command that was not answered.
    pub(super) async fn register<'a>(
        &mut self,
        changes: &'a [NameChange],
    ) -> Result<(), (&'a NameChange, io::Error)> {
        for batch in changes.chunks(BATCH) {
            let lines: String = batch.iter().map(|change| format!("{change}\n")).collect();
            let written = self.write(lines.as_bytes()).await;
            written.map_err(|error| (&batch[0], error))?;
            for change in batch {
                self.reply().await.map_err(|error| (change, error))?;
            }
        }
        Ok(())
    }

    /// Shows that we are alive.
    ///
    /// # Errors
    /// As [`Self::identify`].
    pub(super) async fn ping(&mut self) -> io::Result<()> {
        self.write(b"PING\n").await?;
        self.reply().await.map(drop)
    }

    /// Waits for the end of an idle connection: the peer speaks only when it is asked.
    /// Can be dropped at any time without loss.
    pub(super) async fn ended(&mut self) -> io::Error {
        match self.stream.read(&mut [0]).await {
            Ok(0) => eof(),
            Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "a reply that nobody asked for"),
            Err(error) => error,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        in_time(self.stream.write_all(bytes)).await
    }

    async fn reply(&mut self) -> io::Result<Vec<u8>> {
        in_time(async {
            let length = self.stream.read_u32().await?;
            if length > REPLY_BYTES_MAX {
                let text = format!(
                    "response body size ({length}) is greater than limit ({REPLY_BYTES_MAX})"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            let mut reply = vec![0; usize::try_from(length).expect("bounded above")];
            self.stream.read_exact(&mut reply).await?;
            Ok(reply)
        })
        .await
    }
}

/// A step, bounded.
pub(super) async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(STEP, step).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(eof()),
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")),
    }
}

fn eof() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "EOF")
}
