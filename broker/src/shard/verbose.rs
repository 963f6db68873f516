//! What is logged at DEBUG: every command and every delivery, as the reference shows them.
//!
//! Off the hot path: with the level off, a command and a delivery cost one look at a flag of the
//! shard, which is set once a turn.

use nsq_cli::Level;
use nsq_proto::{MESSAGE_HEADER_LEN, MESSAGE_ID_OFFSET};

use super::publish::connection_mut;
use super::{Shard, SocketKey};

impl Shard {
    /// Looks whether the operators want to see everything.
    pub(super) fn settle_verbosity(&mut self) {
        self.is_verbose = self.shared.logger.enabled(Level::Debug);
    }

    /// The line of the command at the beginning of `data`.
    #[cold]
    pub(super) fn log_command(&mut self, key: SocketKey, data: &[u8]) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let Some(end) = data.iter().position(|byte| *byte == b'\n') else {
            return;
        };
        let line = data[..end].strip_suffix(b"\r").unwrap_or(&data[..end]);
        let (remote, line) = (&connection.remote, String::from_utf8_lossy(line));
        let logger = &self.shared.logger;
        logger.debug(format_args!("PROTOCOL(V2): [{remote}] [{line}]"));
    }

    /// The messages in `frames`, which are whole.
    #[cold]
    pub(super) fn log_messages(&mut self, key: SocketKey, mut frames: &[u8]) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        while let Some(size) = frames.first_chunk() {
            let len = size.len() + u32::from_be_bytes(*size) as usize;
            let (frame, rest) = frames.split_at(len);
            let id = String::from_utf8_lossy(&frame[MESSAGE_ID_OFFSET..MESSAGE_HEADER_LEN]);
            let body = String::from_utf8_lossy(&frame[MESSAGE_HEADER_LEN..]);
            let remote = &connection.remote;
            self.shared.logger.debug(format_args!(
                "PROTOCOL(V2): writing msg({id}) to client({remote}) - {body}"
            ));
            frames = rest;
        }
    }
}
