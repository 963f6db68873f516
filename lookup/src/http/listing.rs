//! The lists that are asked for, in order of names and of arrival.
//!
//! Names are legal topic and channel names and need no escape.

mod debug;
mod nodes;

use std::sync::Arc;

use nsq_http::{ApiError, Query};
use nsq_proto::{ChannelName, TopicName};

use self::debug::Debug;
use self::nodes::Nodes;
use super::answer::{Answer, Listing, Slice};
use crate::registry::{ProducerId, Progress, Registry, Visibility};
use crate::service::Service;

/// An answer with a list in it.
type Response = http::Response<Answer>;

/// `GET /topics`
pub(super) fn topics(service: &Arc<Service>) -> Response {
    Answer::listing(service, Box::new(Topics::default()))
}

/// `GET /channels`: none for a topic that is not known.
pub(super) fn channels(service: &Arc<Service>, query: &Query<'_>) -> Result<Response, ApiError> {
    let name = query.get("topic").ok_or(ApiError::MISSING_ARG_TOPIC)?;
    let channels = Channels {
        topic: TopicName::parse(&name).ok(),
        last: None,
        commas: Commas::default(),
    };
    Ok(Answer::listing(service, Box::new(ChannelsAlone(channels))))
}

/// `GET /lookup`: who has the topic and is neither silent nor hidden, and all its channels.
pub(super) fn lookup(service: &Arc<Service>, query: &Query<'_>) -> Result<Response, ApiError> {
    let name = query.get("topic").ok_or(ApiError::MISSING_ARG_TOPIC)?;
    let topic = TopicName::parse(&name).map_err(|_| ApiError::TOPIC_NOT_FOUND)?;
    let is_known = |registry: &Registry| registry.topic(topic.as_str()).is_some();
    if !service.directory.read(is_known) {
        return Err(ApiError::TOPIC_NOT_FOUND);
    }
    let lookup = Lookup {
        visibility: service.visibility(),
        channels: Some(Channels {
            topic: Some(topic.clone()),
            last: None,
            commas: Commas::default(),
        }),
        topic,
        last: None,
        commas: Commas::default(),
    };
    Ok(Answer::listing(service, Box::new(lookup)))
}

/// `GET /nodes`: who is not silent, and what it has.
pub(super) fn nodes(service: &Arc<Service>) -> Response {
    Answer::listing(service, Box::new(Nodes::new(service.visibility())))
}

/// `GET /debug`: every registration.
pub(super) fn debug(service: &Arc<Service>) -> Response {
    Answer::listing(service, Box::new(Debug::default()))
}

/// What stands before an entry: the opening of the list before the first, a comma before others.
#[derive(Debug, Default)]
struct Commas {
    is_open: bool,
}

impl Commas {
    fn before(&mut self, slice: &mut Slice, opening: &str) {
        slice.push(if self.is_open { "," } else { opening });
        self.is_open = true;
    }

    /// Ends the list, which may have no entry at all.
    fn end(&self, slice: &mut Slice, opening: &str, closing: &str) {
        if !self.is_open {
            slice.push(opening);
        }
        slice.push(closing);
    }
}

fn push_name(slice: &mut Slice, name: &str) {
    slice.push("\"");
    slice.push(name);
    slice.push("\"");
}

#[derive(Default)]
struct Topics {
    last: Option<TopicName>,
    commas: Commas,
}

impl Listing for Topics {
    fn write(&mut self, registry: &Registry, slice: &mut Slice) -> Progress {
        const OPENING: &str = "{\"topics\":[";
        let last = self.last.clone();
        for (name, _) in registry.topics_after(last.as_ref()) {
            if !slice.admit() {
                return Progress::More;
            }
            self.commas.before(slice, OPENING);
            push_name(slice, name.as_str());
            self.last = Some(name.clone());
        }
        self.commas.end(slice, OPENING, "]}");
        Progress::Done
    }
}

/// `{"channels":[…]`
struct Channels {
    /// `None` has no channels.
    topic: Option<TopicName>,
    last: Option<ChannelName>,
    commas: Commas,
}

impl Channels {
    fn write(&mut self, registry: &Registry, slice: &mut Slice) -> Progress {
        const OPENING: &str = "{\"channels\":[";
        let topic = self
            .topic
            .as_ref()
            .and_then(|topic| registry.topic(topic.as_str()));
        let last = self.last.clone();
        let channels = topic
            .into_iter()
            .flat_map(|topic| topic.channels_after(last.as_ref()));
        for name in channels {
            if !slice.admit() {
                return Progress::More;
            }
            self.commas.before(slice, OPENING);
            push_name(slice, name.as_str());
            self.last = Some(name.clone());
        }
        self.commas.end(slice, OPENING, "]");
        Progress::Done
    }
}

struct ChannelsAlone(Channels);

impl Listing for ChannelsAlone {
    fn write(&mut self, registry: &Registry, slice: &mut Slice) -> Progress {
        let progress = self.0.write(registry, slice);
        if progress == Progress::Done {
            slice.push("}");
        }
        progress
    }
}

struct Lookup {
    visibility: Visibility,
    /// Until they are written.
    channels: Option<Channels>,
    topic: TopicName,
    last: Option<ProducerId>,
    commas: Commas,
}

impl Listing for Lookup {
    fn write(&mut self, registry: &Registry, slice: &mut Slice) -> Progress {
        const OPENING: &str = ",\"producers\":[";
        if let Some(channels) = &mut self.channels {
            if channels.write(registry, slice) == Progress::More {
                return Progress::More;
            }
            self.channels = None;
        }
        // A topic that was deleted since the last slice has no more producers.
        let (topic, last) = (registry.topic(self.topic.as_str()), self.last);
        let entries = topic.into_iter().flat_map(|topic| {
            let producers = topic.producers_after(last);
            producers.map(move |producer| (topic, producer))
        });
        for (topic, producer) in entries {
            if !slice.admit() {
                return Progress::More;
            }
            self.last = Some(producer.id());
            let tombstone = topic.tombstone_of(producer.id());
            if self.visibility.is_active(producer) && !self.visibility.is_tombstoned(tombstone) {
                self.commas.before(slice, OPENING);
                slice.push(producer.open_json());
                slice.push("}");
            }
        }
        self.commas.end(slice, OPENING, "]}");
        Progress::Done
    }
}
