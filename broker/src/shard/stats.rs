//! This shard's share of `/stats`.

use nsq_core::{ChannelStats, ConsumerStats, Locality, TopicKey};
use nsq_proto::SessionState;

use super::publish::connection_mut;
use super::socket::Protocol;
use super::{Shard, SocketKey};
use crate::clock::unix_seconds;
use crate::conn::{Authorization, Compression, Connection};
use crate::gateway::{BrokerStats, ChannelEntry, ClientStats, ClientTls, StatsFilter, TopicEntry};
use crate::grants::Grants;

/// Statistics of the topics and connections of one shard.
#[derive(Debug, Default)]
pub(crate) struct StatsPart(pub(crate) BrokerStats);

impl StatsPart {
    /// Adds another shard's part.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.topics.extend(other.0.topics);
        self.0.producers.extend(other.0.producers);
    }

    /// All parts together, in the order of `/stats`.
    pub(crate) fn finish(mut self) -> BrokerStats {
        self.0
            .topics
            .sort_by(|a, b| a.stats.name.cmp(&b.stats.name));
        self.0
    }
}

impl Shard {
    pub(super) fn stats_part(&mut self, filter: &StatsFilter) -> StatsPart {
        let keys: Vec<TopicKey> = if filter.topic.is_empty() {
            self.core.topics().collect()
        } else {
            self.core.topic(&filter.topic).into_iter().collect()
        };
        let topics = keys
            .into_iter()
            .filter_map(|key| self.topic_entry(key, filter))
            .collect();
        let producers = if filter.include_clients {
            self.producers(filter)
        } else {
            Vec::new()
        };
        StatsPart(BrokerStats { topics, producers })
    }

    fn topic_entry(&mut self, key: TopicKey, filter: &StatsFilter) -> Option<TopicEntry> {
        let mut stats = self.core.topic_stats(key)?;
        let mut channels = std::mem::take(&mut stats.channels);
        if !filter.channel.is_empty() {
            channels.retain(|channel| channel.name.as_str() == filter.channel);
            if channels.is_empty() {
                return None;
            }
        }
        channels.sort_by(|a, b| a.name.cmp(&b.name));
        let channels = channels
            .into_iter()
            .map(|channel| self.channel_entry(channel, filter))
            .collect();
        let sync = self.topics.get(key).and_then(|state| state.sync);
        Some(TopicEntry {
            stats,
            sync,
            channels,
        })
    }

    fn channel_entry(&mut self, stats: ChannelStats, filter: &StatsFilter) -> ChannelEntry {
        let mut clients = Vec::new();
        if filter.include_clients {
            for token in &stats.consumers {
                let key = SocketKey::from_token(*token);
                let consumer = connection_mut(&mut self.sockets, key)
                    .and_then(|c| c.subscription.as_ref())
                    .and_then(|s| self.core.consumer_stats(s.consumer));
                if let Some(connection) = connection_mut(&mut self.sockets, key) {
                    clients.push(client(connection, consumer.unwrap_or_default(), filter));
                }
            }
        }
        ChannelEntry { stats, clients }
    }

    fn producers(&self, filter: &StatsFilter) -> Vec<ClientStats> {
        self.sockets
            .values()
            .filter_map(|socket| match &socket.protocol {
                Protocol::Tcp(connection) if !connection.published.is_empty() => {
                    let subscription = connection.subscription.as_ref();
                    let consumer = subscription.and_then(|s| self.core.consumer_stats(s.consumer));
                    Some(client(connection, consumer.unwrap_or_default(), filter))
                }
                Protocol::Tcp(_) | Protocol::Http(_) => None,
            })
            .collect()
    }
}

fn client(connection: &Connection, consumer: ConsumerStats, filter: &StatsFilter) -> ClientStats {
    let identity = &connection.identity;
    let mut pub_counts = connection.published.counts();
    if !filter.topic.is_empty() {
        pub_counts.retain(|(topic, _)| *topic == filter.topic);
    }
    let compression = connection.transport.compression();
    let grants = match &connection.authorization {
        Authorization::Granted(granted) => Some(granted.grants()),
        Authorization::None | Authorization::Asked { .. } => None,
    };
    let granted = |of: fn(&Grants) -> &String| grants.map(of).cloned().unwrap_or_default();
    let sent_as = |locality| {
        let is_it = consumer.locality == locality;
        u64::from(is_it) * consumer.message_count
    };
    ClientStats {
        client_id: identity.client_id.clone(),
        hostname: identity.hostname.clone(),
        remote_address: connection.remote.clone(),
        state: match connection.session {
            SessionState::Init => 0,
            SessionState::Subscribed => 3,
            SessionState::Closing => 4,
        },
        ready_count: consumer.ready_count,
        in_flight_count: consumer.in_flight_count,
        message_count: consumer.message_count,
        zone_local_msg_count: sent_as(Locality::Zone),
        region_local_msg_count: sent_as(Locality::Region),
        global_msg_count: sent_as(Locality::Global),
        finish_count: consumer.finish_count,
        requeue_count: consumer.requeue_count,
        connect_ts: unix_seconds(connection.connected),
        sample_rate: identity.sample_rate,
        deflate: matches!(compression, Some(Compression::Deflate(_))),
        snappy: compression == Some(Compression::Snappy),
        user_agent: identity.user_agent.clone(),
        authed: grants.is_some_and(|grants| !grants.is_empty()),
        auth_identity: granted(|grants| &grants.identity),
        auth_identity_url: granted(|grants| &grants.identity_url),
        topology_zone: identity.topology_zone.clone(),
        topology_region: identity.topology_region.clone(),
        pub_counts,
        tls: connection.transport.tls().map(|tls| ClientTls {
            version: tls.version,
            cipher_suite: tls.cipher_suite.clone(),
        }),
    }
}
