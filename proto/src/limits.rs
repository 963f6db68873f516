//! Size limits that the flags set.

/// Byte limits on what a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `--max-msg-size`: bytes per message body.
    pub message_bytes_max: u64,
    /// `--max-body-size`: bytes per command body.
    pub body_bytes_max: u64,
    /// `--max-rdy-count`.
    pub ready_count_max: u64,
    /// `--max-req-timeout` in milliseconds: the bound of DPUB (REQ is clamped by the core).
    pub defer_ms_max: u64,
}
