//! TCP connections to addresses as users write them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use super::tls::client_config;
use crate::{Config, ConnectError};

/// Makes the connections of one consumer or producer.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) config: Config,
    /// Made when it is first needed: loading the system's authorities takes a while.
    tls: OnceLock<Result<Arc<rustls::ClientConfig>, String>>,
}

impl Dialer {
    pub(crate) const fn new(config: Config) -> Self {
        Self {
            config,
            tls: OnceLock::new(),
        }
    }

    /// The TLS that the options describe.
    pub(crate) fn tls(&self) -> Result<Arc<rustls::ClientConfig>, String> {
        let make = || client_config(&self.config.tls).map(Arc::new);
        self.tls.get_or_init(make).clone()
    }

    /// Connects to `host:port`, to the first of its addresses that answers.
    pub(super) async fn dial(&self, address: &str) -> Result<TcpStream, ConnectError> {
        let limit = self.config.dial_timeout;
        if limit.is_zero() {
            return self.connect(address).await;
        }
        match timeout(limit, self.connect(address)).await {
            Ok(connected) => connected,
            Err(_) => Err(failed(address, "i/o timeout")),
        }
    }

    async fn connect(&self, address: &str) -> Result<TcpStream, ConnectError> {
        let Some((host, _)) = address.rsplit_once(':') else {
            let text = format!("dial tcp: address {address}: missing port in address");
            return Err(ConnectError::Dial(text));
        };
        let unknown = || ConnectError::Dial(format!("dial tcp: lookup {host}: no such host"));
        let addresses = lookup_host(address).await.map_err(|_| unknown())?;
        let mut last = unknown();
        for candidate in addresses {
            match self.connect_to(candidate).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    let reason = format!("connect: {}", nsq_cli::errno_text(&error));
                    last = failed(&candidate.to_string(), &reason);
                }
            }
        }
        Err(last)
    }

    async fn connect_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(local) = self.config.local_addr {
            socket.bind(local)?;
        }
        // Commands are gathered before they are sent, so nothing is won by waiting for more.
        socket.set_nodelay(true)?;
        socket.connect(address).await
    }
}

fn failed(address: &str, reason: &str) -> ConnectError {
    ConnectError::Dial(format!("dial tcp {address}: {reason}"))
}
