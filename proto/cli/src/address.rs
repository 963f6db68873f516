//! Where to listen: `host:port` is TCP, anything with a `/` is a unix socket, all else a mistake.
//!
//! The reference takes every text that is not `host:port` for a socket path, so that a forgotten
//! port listens nowhere. A path therefore has to look like one here.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address, empty for all interfaces, and a port, 0 for any free one.
    #[expect(missing_docs, reason = "described by the variant")]
    Tcp { host: String, port: u16 },
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No port, and no `/` either.
    #[error("address {0}: missing port in address (the path of a unix socket needs a \"/\")")]
    MissingPort(String),
    /// An IPv6 address without brackets.
    #[error("address {0}: too many colons in address")]
    TooManyColons(String),
    /// An opening bracket without its closing one.
    #[error("address {0}: missing ']' in address")]
    MissingBracket(String),
    /// The port is no number up to 65535.
    #[error("address {0}: invalid port")]
    InvalidPort(String),
    /// A socket path where only TCP is possible.
    #[error("address {0}: must be host:port")]
    NotTcp(String),
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains('/') {
            return Ok(Self::Unix(PathBuf::from(text)));
        }
        let error = |kind: fn(String) -> AddressError| kind(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest
                    .split_once(']')
                    .ok_or_else(|| error(AddressError::MissingBracket))?;
                let port = rest.strip_prefix(':');
                (host, port.ok_or_else(|| error(AddressError::MissingPort))?)
            }
            None => text
                .rsplit_once(':')
                .ok_or_else(|| error(AddressError::MissingPort))?,
        };
        if !text.starts_with('[') && host.contains(':') {
            return Err(error(AddressError::TooManyColons));
        }
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse() {
            Ok(port) if digits => Ok(Self::Tcp {
                host: host.to_owned(),
                port,
            }),
            _ => Err(error(AddressError::InvalidPort)),
        }
    }
}

impl Address {
    /// Parses an address that must be TCP.
    ///
    /// # Errors
    /// [`AddressError`], also for a socket path.
    pub fn parse_tcp(text: &str) -> Result<Self, AddressError> {
        match text.parse()? {
            Self::Unix(_) => Err(AddressError::NotTcp(text.to_owned())),
            address @ Self::Tcp { .. } => Ok(address),
        }
    }

    /// The socket address to bind, for TCP: an empty host is all interfaces of both IP versions,
    /// a name is looked up (blocking) and its IPv4 addresses are preferred. `None` for unix.
    ///
    /// # Errors
    /// The system's, when the name cannot be resolved.
    pub fn resolve(&self) -> io::Result<Option<SocketAddr>> {
        let Self::Tcp { host, port } = self else {
            return Ok(None);
        };
        if host.is_empty() {
            return Ok(Some(SocketAddr::new(
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                *port,
            )));
        }
        let found: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs()?.collect();
        let chosen = found
            .iter()
            .find(|address| address.is_ipv4())
            .or_else(|| found.first());
        match chosen {
            Some(address) => Ok(Some(*address)),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no address for {host}"),
            )),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn host_and_port_are_tcp() {
        let cases = [
            ("0.0.0.0:4150", tcp("0.0.0.0", 4150)),
            (":4150", tcp("", 4150)),
            ("localhost:0", tcp("localhost", 0)),
            ("[::1]:4150", tcp("::1", 4150)),
            ("[::]:65535", tcp("::", 65535)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected.clone()));
            assert_eq!(Address::parse_tcp(text), Ok(expected.clone()));
            assert_eq!(expected.to_string(), text);
        }
    }

    #[test]
    fn a_slash_makes_a_socket_path() {
        for text in ["/run/nsqd.sock", "./nsqd.sock", "/run/nsqd:4150"] {
            let address: Address = text.parse().expect("a path");
            assert_eq!(address, Address::Unix(PathBuf::from(text)));
            assert_eq!(address.to_string(), text);
            assert_eq!(address.resolve().expect("no lookup"), None);
            assert_eq!(
                Address::parse_tcp(text),
                Err(AddressError::NotTcp(text.into()))
            );
        }
    }

    #[test]
    fn everything_else_is_a_mistake() {
        use AddressError::{InvalidPort, MissingBracket, MissingPort, TooManyColons};
        let cases = [
            ("", MissingPort as fn(String) -> AddressError),
            ("127.0.0.1", MissingPort),
            ("nsqd.sock", MissingPort),
            ("[::1]", MissingPort),
            ("::1:4150", TooManyColons),
            ("[::1:4150", MissingBracket),
            ("host:", InvalidPort),
            ("host:65536", InvalidPort),
            ("host:+80", InvalidPort),
            ("host:http", InvalidPort),
        ];
        for (text, kind) in cases {
            assert_eq!(
                text.parse::<Address>(),
                Err(kind(text.to_owned())),
                "{text:?}"
            );
        }
    }

    #[test]
    fn hosts_resolve_to_what_is_bound() {
        let resolve = |text: &str| {
            let address: Address = text.parse().expect("an address");
            address
                .resolve()
                .expect("resolvable")
                .expect("TCP")
                .to_string()
        };
        assert_eq!(resolve("127.0.0.1:4150"), "127.0.0.1:4150");
        assert_eq!(resolve(":4150"), "[::]:4150");
        assert_eq!(resolve("[::1]:0"), "[::1]:0");
    }
}
