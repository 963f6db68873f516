//! A connection to an nsqd, from dialing to frames and commands: what consumers and producers share.
//!
//! ```text
//! socket ─ TLS ─ inflate ─ frames       dial and handshake once, then one task per connection that
//! socket ─ TLS ─ deflate ─ commands     reads and writes at the same time
//! ```
//!
//! Not here: what a frame means to a consumer or producer.

mod codec;
mod dial;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handshake;
mod inbound;
mod outbound;
mod outbox;
mod stream;
mod tls;

pub(crate) use dial::Dialer;
pub(crate) use error::LinkError;
pub(crate) use handshake::Link;
pub(crate) use inbound::Inbound;
pub(crate) use outbox::Outbox;

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// How long a peer that takes nothing more is listened to.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs both directions of a connection until it ends. When the writing side is done (all has been
/// sent and the peer told so), the reading side has `linger` to reach the end of the stream. When the
/// writing side fails, what the peer had to say before is still read: it may be the reason.
///
/// # Errors
/// What ended it, unless it was that end.
pub(crate) async fn drive(
    read: impl Future<Output = Result<(), LinkError>>,
    write: impl Future<Output = Result<(), LinkError>>,
    linger: Duration,
) -> Result<(), LinkError> {
    let mut read = pin!(read);
    let written = tokio::select! {
        ended = &mut read => return ended,
        written = write => written,
    };
    let linger = if written.is_ok() { linger } else { LAST_WORDS };
    let ended = timeout(linger, read).await;
    written?;
    match ended {
        Ok(Err(LinkError::Eof)) | Err(_) => Ok(()),
        Ok(ended) => ended,
    }
}
