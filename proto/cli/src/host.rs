//! What this machine is called, and what follows from it.

use md5::{Digest, Md5};

/// Number of node ids: ids carry ten bits of it.
const NODE_IDS: u32 = 1024;

/// The operating system's host name; `localhost` if it has none that is text.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// The node id of a host that was not given one: CRC-32 of the raw MD5 of its name, below 1024.
#[must_use]
pub fn default_node_id(hostname: &str) -> u16 {
    let id = crc32fast::hash(&Md5::digest(hostname.as_bytes())) % NODE_IDS;
    u16::try_from(id).expect("below NODE_IDS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_id_follows_from_hostname() {
        assert_eq!(default_node_id("vm"), 617);
        assert!(!hostname().is_empty());
    }
}
