//! What the core wants done, carried out.

use nsq_core::Effect;

use super::publish::connection_mut;
use super::{Shard, SocketKey};
use crate::conn::Connection;
use crate::control::{ControlMessage, NameChange};

impl Shard {
    /// Carries out the core's effects, in order, until there are none.
    pub(super) fn apply_effects(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        loop {
            effects.extend(self.core.drain_effects());
            if effects.is_empty() {
                break;
            }
            for effect in effects.drain(..) {
                self.apply(effect);
            }
        }
        self.effects = effects;
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver { conn, frames } => {
                let key = SocketKey::from_token(conn);
                if self.is_verbose {
                    self.log_messages(key, &frames);
                }
                let Some(connection) = connection_mut(&mut self.sockets, key) else {
                    return;
                };
                // What was asked before comes first: above all the `OK` of the SUB.
                let Connection {
                    output, replies, ..
                } = connection;
                output.with_tail(|tail| replies.drain_ready(tail));
                output.push(frames);
                let topic = connection.subscription.as_ref().map(|s| s.topic_key);
                self.queue_flush(key);
                if let Some(topic) = topic {
                    self.schedule_checkpoint(topic);
                }
            }
            Effect::Fetch { topic, from, count } => self.fetch(topic, from, count),
            Effect::Disconnect { conn } => self.disconnect(SocketKey::from_token(conn)),
            Effect::TopicGone { topic } => self.drop_log(topic),
            // The commands that change the catalogue record it themselves, to wait for it.
            Effect::CatalogueChanged => {}
            Effect::Name {
                topic,
                channel,
                exists,
            } => {
                let change = NameChange {
                    topic,
                    channel,
                    exists,
                };
                self.shared.control.send(ControlMessage::Name(change));
            }
            Effect::Due(deadline) => self.on_deadline(deadline),
            Effect::Log(line) => self.shared.logger.info(format_args!("{line}")),
        }
    }
}
