//! Why a connection ended.

use std::io;

use nsq_proto::FrameError;

/// The end of a connection, in the words of the Go clients' `IO error - …`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The peer closed it.
    #[error("EOF")]
    Eof,
    /// The system's error, or a deadline.
    #[error("{operation} tcp {endpoints}: {reason}")]
    Io {
        /// `read` or `write`.
        operation: &'static str,
        /// `local->remote`.
        endpoints: String,
        reason: String,
    },
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What came cannot be decompressed.
    #[error("decompression failed: {0}")]
    Codec(io::Error),
    /// A reply that nothing was waiting for.
    #[error("unexpected reply {0:?}")]
    Unexpected(String),
}

impl LinkError {
    pub(super) fn io(operation: &'static str, endpoints: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Eof;
        }
        let reason = match error.raw_os_error() {
            Some(_) => format!("{operation}: {}", nsq_cli::errno_text(error)),
            None => error.to_string(),
        };
        Self::Io {
            operation,
            endpoints: endpoints.to_owned(),
            reason,
        }
    }

    pub(super) fn timeout(operation: &'static str, endpoints: &str) -> Self {
        Self::Io {
            operation,
            endpoints: endpoints.to_owned(),
            reason: "i/o timeout".to_owned(),
        }
    }
}
