//! What can go wrong, in the words of the standard clients.

use nsq_proto::ErrorCode;

use crate::ConfigError;

/// An error frame: what an nsqd says of a command that it refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct NsqdError {
    /// The code, if it is one of the protocol's.
    pub code: Option<ErrorCode>,
    /// The whole text, code included.
    pub text: String,
}

impl NsqdError {
    pub(crate) fn new(data: &[u8]) -> Self {
        let text = String::from_utf8_lossy(data).into_owned();
        let word = text.split(' ').next().unwrap_or_default();
        Self {
            code: ErrorCode::parse(word),
            text,
        }
    }
}

/// Why a consumer or producer was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Values of the configuration that do not go together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Not a legal topic name.
    #[error("invalid topic name")]
    Topic,
    /// Not a legal channel name.
    #[error("invalid channel name")]
    Channel,
}

/// Why an address was not connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The network's answer, e.g. `dial tcp 127.0.0.1:4150: connect: connection refused`.
    #[error("{0}")]
    Dial(String),
    /// The nsqd refused, broke off or answered nonsense before the connection was usable.
    #[error("failed to IDENTIFY - {0}")]
    Identify(String),
    /// The nsqd wants AUTH and there is no `auth_secret`.
    #[error("Auth Required")]
    AuthRequired,
    /// The nsqd did not accept the secret.
    #[error("Error authenticating {0}")]
    Auth(String),
    /// The consumer already has a connection to this address, or is making one.
    #[error("already connected")]
    AlreadyConnected,
    /// The consumer or producer was stopped.
    #[error("stopped")]
    Stopped,
    /// Not an address of an nsqlookupd, e.g. `missing port`.
    #[error("{0}")]
    Address(String),
}

/// Why a publish failed. Only [`PublishError::Refused`] says that the message is not in NSQ: after
/// the others it may be, for its answer may be what was lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The connection could not be made; the next publish tries again.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection was lost before the answer came.
    #[error("not connected")]
    NotConnected,
    /// The producer was stopped.
    #[error("stopped")]
    Stopped,
    /// The nsqd, or this library in its words, refused the publish.
    #[error(transparent)]
    Refused(#[from] NsqdError),
}

/// Why a stop was not a clean one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// Messages were still unanswered when the time was over; their nsqds deliver them again.
    #[error("stopped with {in_flight} messages in flight")]
    InFlight {
        /// How many.
        in_flight: u64,
    },
}
