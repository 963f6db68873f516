//! The publish commands of a connection, built once and sent again and again as a ring.
//!
//! The ring holds more commands than may be unanswered, so a command that is still being sent is never
//! stamped anew.

use anyhow::Result;

use crate::body::{BodyKind, BodySize, Dice, Stamp};
use crate::layer::Compression;
use crate::wire;

/// What the commands look like.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// The topics, taken in turn.
    pub(crate) topics: Vec<String>,
    /// 0: PUB. Otherwise MPUB of so many bodies.
    pub(crate) batch: usize,
    /// Length of bodies.
    pub(crate) size: BodySize,
    /// What bodies look like.
    pub(crate) kind: BodyKind,
    /// Commands that may be unanswered.
    pub(crate) depth: usize,
    /// Whether bodies carry a stamp.
    pub(crate) stamped: bool,
    /// DPUB instead of PUB: how long messages are deferred.
    pub(crate) deferral: Option<Deferral>,
}

/// Milliseconds of a deferral: any number from the first to the second, both included, is as likely.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deferral(pub(crate) u64, pub(crate) u64);

/// Digits of a deferral on the wire; with leading zeros all commands are as long.
const DEFERRAL_DIGITS: usize = 9;
/// The longest deferral that these digits can say, in milliseconds (some 11 days).
pub(crate) const DEFERRAL_MS_MAX: u64 = 999_999_999;

impl Deferral {
    /// The next.
    pub(crate) fn draw_ms(self, dice: &mut Dice) -> u64 {
        self.0 + dice.roll() % (self.1 - self.0 + 1)
    }
}

impl Recipe {
    /// Messages per command.
    pub(crate) fn messages_per_command(&self) -> usize {
        self.batch.max(1)
    }
}

/// Commands back to back.
#[derive(Debug)]
pub(crate) struct Template {
    /// The ring.
    pub(crate) bytes: Vec<u8>,
    commands: Vec<Command>,
    stamps: Vec<usize>,
    /// Where a command's deferral stands; empty without deferrals.
    deferrals: Vec<usize>,
    batch: usize,
}

/// Where a command stands.
#[derive(Debug, Clone, Copy)]
struct Command {
    begin: usize,
    end: usize,
    body_bytes: usize,
}

impl Template {
    /// Builds the ring; `seed` makes the connections differ from one another.
    pub(crate) fn build(recipe: &Recipe, seed: u64) -> Self {
        let variety = if recipe.size.is_fixed() { 2 } else { 64 };
        let least = variety.max(2 * recipe.depth);
        let count = least.next_multiple_of(recipe.topics.len());
        let mut template = Self {
            bytes: Vec::new(),
            commands: Vec::new(),
            stamps: Vec::new(),
            deferrals: Vec::new(),
            batch: recipe.batch,
        };
        let mut dice = Dice::new(seed);
        for index in 0..count {
            template.push(
                recipe,
                &recipe.topics[index % recipe.topics.len()],
                &mut dice,
            );
        }
        template
    }

    fn push(&mut self, recipe: &Recipe, topic: &str, dice: &mut Dice) {
        let bodies: Vec<Vec<u8>> = (0..recipe.messages_per_command())
            .map(|_| recipe.kind.write(recipe.size.draw(dice), dice))
            .collect();
        let begin = self.bytes.len();
        let total: usize = bodies.iter().map(Vec::len).sum();
        if recipe.deferral.is_some() {
            let line = format!("DPUB {topic} {:0DEFERRAL_DIGITS$}", 0);
            wire::put_command(&mut self.bytes, &line, &bodies[0]);
            self.deferrals.push(begin + line.len() - DEFERRAL_DIGITS);
            self.stamps.push(self.bytes.len() - total);
        } else if recipe.batch == 0 {
            wire::put_command(&mut self.bytes, &format!("PUB {topic}"), &bodies[0]);
            self.stamps.push(self.bytes.len() - total);
        } else {
            self.bytes
                .extend_from_slice(format!("MPUB {topic}\n").as_bytes());
            self.bytes
                .extend_from_slice(&wire::field(4 + 4 * bodies.len() + total));
            self.bytes.extend_from_slice(&wire::field(bodies.len()));
            for body in &bodies {
                self.bytes.extend_from_slice(&wire::field(body.len()));
                self.stamps.push(self.bytes.len());
                self.bytes.extend_from_slice(body);
            }
        }
        self.commands.push(Command {
            begin,
            end: self.bytes.len(),
            body_bytes: total,
        });
    }

    /// Compresses each command for itself. From here on they can only be sent: no longer stamped or deferred.
    ///
    /// # Errors
    /// As the compression's.
    pub(crate) fn compress(&mut self, compression: Compression) -> Result<()> {
        let plain = std::mem::take(&mut self.bytes);
        for command in &mut self.commands {
            let compressed = compression.compress(&plain[command.begin..command.end])?;
            command.begin = self.bytes.len();
            self.bytes.extend_from_slice(&compressed);
            command.end = self.bytes.len();
        }
        self.stamps.clear();
        self.deferrals.clear();
        Ok(())
    }

    /// Commands in the ring.
    pub(crate) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Messages per command.
    pub(crate) fn messages_per_command(&self) -> usize {
        self.batch.max(1)
    }

    /// A command's bytes.
    pub(crate) fn command(&self, index: usize) -> &[u8] {
        &self.bytes[self.commands[index].begin..self.commands[index].end]
    }

    /// Bytes of bodies in a command.
    pub(crate) fn body_bytes(&self, index: usize) -> usize {
        self.commands[index].body_bytes
    }

    /// Says how many milliseconds a command's message is deferred.
    ///
    /// # Panics
    /// The commands were built without deferrals, or it is more than [`DEFERRAL_MS_MAX`].
    pub(crate) fn set_deferral(&mut self, index: usize, ms: u64) {
        let digits = format!("{ms:0DEFERRAL_DIGITS$}");
        let at = self.deferrals[index];
        self.bytes[at..at + DEFERRAL_DIGITS].copy_from_slice(digits.as_bytes());
    }

    /// Stamps a command's bodies with sequences from `stamp.sequence` on.
    pub(crate) fn stamp(&mut self, index: usize, mut stamp: Stamp) {
        let count = self.messages_per_command();
        for offset in &self.stamps[index * count..(index + 1) * count] {
            stamp.write(&mut self.bytes[*offset..]);
            stamp.sequence += 1;
        }
    }
}

/// What a test decodes commands with.
#[cfg(test)]
pub(crate) fn decode_context(state: nsq_proto::SessionState) -> nsq_proto::DecodeContext {
    let limits = nsq_proto::Limits {
        message_bytes_max: 1 << 20,
        body_bytes_max: 5 << 20,
        ready_count_max: 2500,
        defer_ms_max: 1000,
    };
    nsq_proto::DecodeContext {
        state,
        heartbeats_disabled: false,
        tls_missing: false,
        limits,
    }
}

#[cfg(test)]
mod tests {
    use nsq_proto::{Command, Decoded, SessionState};

    use super::*;

    fn recipe(batch: usize, topics: &[&str]) -> Recipe {
        let topics = topics.iter().map(ToString::to_string).collect();
        Recipe {
            topics,
            batch,
            size: BodySize::Uniform(24, 90),
            kind: BodyKind::Noise,
            depth: 5,
            stamped: true,
            deferral: None,
        }
    }

    #[test]
    fn the_ring_is_longer_than_what_may_be_unanswered() {
        let template = Template::build(&recipe(0, &["a", "b", "c"]), 1);
        assert!(template.len() > 5 && template.len().is_multiple_of(3));
        let all: usize = (0..template.len())
            .map(|index| template.command(index).len())
            .sum();
        assert_eq!(all, template.bytes.len());
    }

    #[test]
    fn pub_commands_decode_and_carry_their_stamp() {
        let mut template = Template::build(&recipe(0, &["a", "b"]), 1);
        let stamp = Stamp {
            stream: 1,
            sequence: 9,
            intended_ns: 5,
        };
        template.stamp(3, stamp);
        let bytes = template.command(3).to_vec();
        let Decoded::Command {
            command: Command::Pub { topic, body },
            consumed,
        } = nsq_proto::decode(&bytes, &decode_context(SessionState::Init)).unwrap()
        else {
            panic!("no PUB")
        };
        assert_eq!((topic, consumed), ("b", bytes.len()));
        assert_eq!(body.len(), template.body_bytes(3));
        assert_eq!(Stamp::read(body), Some(stamp));
    }

    #[test]
    fn dpub_commands_decode_with_their_deferral() {
        let deferral = Some(Deferral(5, 9));
        let mut template = Template::build(
            &Recipe {
                deferral,
                ..recipe(0, &["a"])
            },
            1,
        );
        template.set_deferral(1, 42);
        let bytes = template.command(1).to_vec();
        let Decoded::Command {
            command: Command::Dpub { delay_ms, .. },
            consumed,
        } = nsq_proto::decode(&bytes, &decode_context(SessionState::Init)).unwrap()
        else {
            panic!("no DPUB")
        };
        assert_eq!((delay_ms, consumed), (42, bytes.len()));
        let mut dice = Dice::new(1);
        let drawn: Vec<u64> = (0..100)
            .map(|_| Deferral(5, 9).draw_ms(&mut dice))
            .collect();
        assert!(
            (5..=9).all(|ms| drawn.contains(&ms)) && drawn.iter().all(|ms| (5..=9).contains(ms))
        );
    }

    #[test]
    fn mpub_commands_decode_and_number_their_bodies() {
        let mut template = Template::build(&recipe(4, &["a"]), 1);
        template.stamp(
            2,
            Stamp {
                stream: 0,
                sequence: 8,
                intended_ns: 0,
            },
        );
        let bytes = template.command(2).to_vec();
        let Decoded::Command {
            command: Command::Mpub { bodies, .. },
            ..
        } = nsq_proto::decode(&bytes, &decode_context(SessionState::Init)).unwrap()
        else {
            panic!("no MPUB")
        };
        let sequences: Vec<u64> = bodies
            .map(|body| Stamp::read(body).unwrap().sequence)
            .collect();
        assert_eq!(sequences, [8, 9, 10, 11]);
    }
}
