//! AUTH, and what every SUB and publish must be allowed (spec nsqd.md §2.9).
//!
//! The authorization servers are asked by the control thread. Until it answers the connection's
//! commands wait ([`Hold::Authorization`]); nobody else's do.

use std::net::SocketAddr;
use std::sync::Arc;

use nsq_proto::{ProtoError, mpub_topic};

use super::publish::connection_mut;
use super::session::Flow;
use super::{Shard, SocketKey};
use crate::conn::{Authorization, Connection, Granted, Hold, PublishVerb, response_frame};
use crate::control::{AuthRequest, ControlMessage};
use crate::grants::{Access, Grants, Secret};

impl Shard {
    pub(super) fn on_auth(&mut self, key: SocketKey, secret: &[u8]) -> Flow {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return Flow::Pause;
        };
        if !matches!(connection.authorization, Authorization::None) {
            return Flow::Fail(ProtoError::auth_already_set());
        }
        if !self.shared.settings.auth_required {
            return Flow::Fail(ProtoError::auth_disabled());
        }
        let secret = Secret(secret.to_vec().into());
        let ticket = connection.replies.push_waiting();
        connection.authorization = Authorization::Asked {
            secret: secret.clone(),
            ticket,
        };
        self.ask_for_grants(key, secret);
        Flow::Pause
    }

    /// What becomes of a command that needs permission, when it is not simply carried out.
    pub(super) fn lacks_permission(
        &mut self,
        key: SocketKey,
        verb: &str,
        topic: &str,
        access: Access<'_>,
    ) -> Option<Flow> {
        if !self.shared.settings.auth_required {
            return None;
        }
        let now = self.now;
        let connection = connection_mut(&mut self.sockets, key)?;
        let Authorization::Granted(granted) = &mut connection.authorization else {
            return Some(Flow::Fail(ProtoError::auth_first(verb)));
        };
        if granted.grants().is_expired(now) {
            let secret = granted.secret.clone();
            self.ask_for_grants(key, secret);
            return Some(Flow::Again);
        }
        if granted.allows(topic, access) {
            return None;
        }
        let channel = access.channel();
        Some(Flow::Fail(ProtoError::unauthorized(verb, topic, channel)))
    }

    /// The same for the MPUB that `input` begins with, if it does: it is refused before its body is
    /// waited for, or found wrong.
    pub(super) fn mpub_lacks_permission(&mut self, key: SocketKey, input: &[u8]) -> Option<Flow> {
        if !self.shared.settings.auth_required {
            return None;
        }
        let connection = connection_mut(&mut self.sockets, key).filter(|c| c.is_served())?;
        let context = self.shared.settings.decode_context(connection);
        let topic = mpub_topic(input, &context)?;
        self.lacks_permission(key, PublishVerb::Mpub.as_str(), topic, Access::Publish)
    }

    fn ask_for_grants(&mut self, key: SocketKey, secret: Secret) {
        self.hold(key, Hold::Authorization);
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let request = AuthRequest {
            shard: self.id,
            connection: key.tag(),
            secret,
            remote_ip: remote_ip(connection),
            remote: connection.remote.clone(),
            is_tls: connection.is_tls(),
            common_name: connection.common_name().unwrap_or_default().to_owned(),
        };
        let message = ControlMessage::Authorize(Box::new(request));
        self.shared.control.send(message);
    }

    /// An authorization server has answered, or none did.
    pub(super) fn on_authorized(&mut self, key: SocketKey, grants: Option<Arc<Grants>>) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if connection.hold != Hold::Authorization {
            return;
        }
        let state = std::mem::take(&mut connection.authorization);
        let outcome = match (state, grants) {
            (Authorization::Asked { secret, ticket }, Some(grants)) if !grants.is_empty() => {
                let answer = response_frame(&grants.answer());
                connection.replies.fulfil(ticket, answer);
                let granted = Granted::new(secret, grants);
                connection.authorization = Authorization::Granted(granted);
                Ok(())
            }
            (Authorization::Asked { ticket, .. }, grants) => {
                connection.replies.withdraw(ticket);
                Err(grants
                    .map_or_else(ProtoError::auth_failed, |_| ProtoError::no_authorizations()))
            }
            (Authorization::Granted(mut granted), Some(grants)) => {
                granted.renew(grants);
                connection.authorization = Authorization::Granted(granted);
                Ok(())
            }
            (Authorization::Granted(_) | Authorization::None, _) => Err(ProtoError::auth_failed()),
        };
        match outcome {
            Ok(()) => self.release(key, Hold::Authorization),
            Err(error) => {
                connection.hold = Hold::None;
                self.fail_connection(key, &error);
            }
        }
    }
}

/// The address of the peer without its port; empty where it has none.
fn remote_ip(connection: &Connection) -> String {
    let address: Result<SocketAddr, _> = connection.remote.parse();
    address.map_or_else(|_| String::new(), |a| a.ip().to_canonical().to_string())
}
