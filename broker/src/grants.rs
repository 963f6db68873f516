//! What an authorization server grants (spec nsqd.md §2.9): the reply's form and the permission
//! checks. Pure; who asks is in `control::auth`, who is asked about in `shard::authorize`.
//!
//! Patterns are unanchored, as the reference's are (K43): `topic: "o"` covers `foobar`.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use nsq_core::Now;
use regex::Regex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::go_regex;

/// Compiled patterns kept for the next reply that has them.
const PATTERNS_MAX: usize = 1024;
/// Longest time that a reply is believed: the clock of the process ends some time after.
const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What a client showed to be let in. Never shown itself (K34).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) Bytes);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What is to be done with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access<'a> {
    /// Publish to it.
    Publish,
    /// Subscribe to this channel of it.
    Subscribe(&'a str),
}

impl<'a> Access<'a> {
    /// The channel, empty for publishes: that is also what channel patterns are held against.
    pub(crate) fn channel(self) -> &'a str {
        match self {
            Self::Publish => "",
            Self::Subscribe(channel) => channel,
        }
    }
}

/// A usable reply.
#[derive(Debug, Clone)]
pub(crate) struct Grants {
    pub(crate) identity: String,
    pub(crate) identity_url: String,
    entries: Vec<Grant>,
    expires: Now,
}

#[derive(Debug, Clone)]
struct Grant {
    topic: Regex,
    channels: Vec<Regex>,
    may_subscribe: bool,
    may_publish: bool,
}

/// Why a reply cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GrantsError {
    /// No JSON, or of another form.
    #[error("{0}")]
    Json(String),
    /// It must be believed for some time.
    #[error("invalid TTL {0} (must be >0)")]
    Ttl(i64),
    /// Neither `subscribe` nor `publish`.
    #[error("unknown permission {0}")]
    Permission(String),
    /// Not a regular expression.
    #[error("unable to compile {what} {pattern:?} {reason}")]
    Pattern {
        /// `topic` or `channel`.
        what: &'static str,
        /// As given.
        pattern: String,
        /// Why not.
        reason: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReplyForm {
    ttl: Option<i64>,
    identity: Option<String>,
    identity_url: Option<String>,
    authorizations: Option<Vec<Map<String, Value>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GrantForm {
    topic: Option<String>,
    channels: Option<Vec<String>>,
    permissions: Option<Vec<String>>,
}

/// What answers an AUTH.
#[derive(Serialize)]
struct AnswerForm<'a> {
    identity: &'a str,
    identity_url: &'a str,
    permission_count: usize,
}

impl Grants {
    /// Reads a reply that came at `now`.
    ///
    /// # Errors
    /// See [`GrantsError`].
    pub(crate) fn parse(
        body: &[u8],
        now: Now,
        patterns: &mut Patterns,
    ) -> Result<Self, GrantsError> {
        let json = |error: serde_json::Error| GrantsError::Json(error.to_string());
        let value: Value = serde_json::from_slice(body).map_err(json)?;
        let object: Option<Map<_, _>> = serde_json::from_value(lower_keys(value)).map_err(json)?;
        let form: ReplyForm = from_object(object.unwrap_or_default())?;
        let entries = form.authorizations.unwrap_or_default().into_iter();
        let entries = entries.map(|entry| Grant::new(from_object(entry)?, patterns));
        let entries = entries.collect::<Result<_, _>>()?;
        let ttl = form.ttl.unwrap_or_default();
        let lasting = u64::try_from(ttl).ok().filter(|ttl| *ttl > 0);
        let lasting = lasting.ok_or(GrantsError::Ttl(ttl))?;
        Ok(Self {
            identity: form.identity.unwrap_or_default(),
            identity_url: form.identity_url.unwrap_or_default(),
            entries,
            expires: now.after(Duration::from_secs(lasting).min(TTL_MAX)),
        })
    }

    /// Nothing was granted.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// To be asked for again before it is used.
    pub(crate) fn is_expired(&self, now: Now) -> bool {
        self.expires < now
    }

    /// Whether some entry allows it.
    pub(crate) fn allow(&self, topic: &str, access: Access<'_>) -> bool {
        self.entries.iter().any(|entry| entry.allows(topic, access))
    }

    /// The JSON that answers an AUTH.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let form = AnswerForm {
            identity: &self.identity,
            identity_url: &self.identity_url,
            permission_count: self.entries.len(),
        };
        serde_json::to_vec(&form).expect("strings and numbers are always JSON")
    }
}

impl Grant {
    fn new(form: GrantForm, patterns: &mut Patterns) -> Result<Self, GrantsError> {
        let permissions = form.permissions.unwrap_or_default();
        let known = |permission: &&String| !matches!(permission.as_str(), "subscribe" | "publish");
        if let Some(unknown) = permissions.iter().find(known) {
            return Err(GrantsError::Permission(unknown.clone()));
        }
        let has = |wanted: &str| permissions.iter().any(|permission| permission == wanted);
        let topic = patterns.compile("topic", &form.topic.unwrap_or_default())?;
        let channels = form.channels.unwrap_or_default();
        let channels = channels.iter().map(|c| patterns.compile("channel", c));
        Ok(Self {
            topic,
            channels: channels.collect::<Result<_, _>>()?,
            may_subscribe: has("subscribe"),
            may_publish: has("publish"),
        })
    }

    fn allows(&self, topic: &str, access: Access<'_>) -> bool {
        let permitted = match access {
            Access::Publish => self.may_publish,
            Access::Subscribe(_) => self.may_subscribe,
        };
        let channel = access.channel();
        permitted
            && self.topic.is_match(topic)
            && self
                .channels
                .iter()
                .any(|pattern| pattern.is_match(channel))
    }
}

/// Compiled patterns by their text: thousands of clients have the same few.
#[derive(Debug, Default)]
pub(crate) struct Patterns(HashMap<String, Regex>);

impl Patterns {
    fn compile(&mut self, what: &'static str, pattern: &str) -> Result<Regex, GrantsError> {
        if let Some(known) = self.0.get(pattern) {
            return Ok(known.clone());
        }
        let compiled = Regex::new(&go_regex::translate(pattern));
        let compiled = compiled.map_err(|error| GrantsError::Pattern {
            what,
            pattern: pattern.to_owned(),
            reason: error.to_string(),
        })?;
        if self.0.len() >= PATTERNS_MAX {
            self.0.clear();
        }
        self.0.insert(pattern.to_owned(), compiled.clone());
        Ok(compiled)
    }
}

/// A structure must be an object: `serde` alone would take a list of its fields as well.
fn from_object<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, GrantsError> {
    let form = serde_json::from_value(Value::Object(object));
    form.map_err(|error| GrantsError::Json(error.to_string()))
}

/// Keys are matched without regard to case, as the reference does.
fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let lower = |(key, value): (String, Value)| (key.to_lowercase(), lower_keys(value));
            Value::Object(map.into_iter().map(lower).collect())
        }
        Value::Array(items) => items.into_iter().map(lower_keys).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Grants, GrantsError> {
        Grants::parse(body.as_bytes(), Now(0), &mut Patterns::default())
    }

    fn grants(entries: &str) -> Grants {
        parse(&format!(r#"{{"ttl":60,"authorizations":[{entries}]}}"#)).unwrap()
    }

    #[test]
    fn a_subscription_needs_permission_topic_and_channel() {
        let grants =
            grants(r#"{"topic":"^a$","channels":["^c1$","x"],"permissions":["subscribe"]}"#);
        assert!(grants.allow("a", Access::Subscribe("c1")));
        assert!(grants.allow("a", Access::Subscribe("foxes")));
        assert!(!grants.allow("a", Access::Subscribe("c2")));
        assert!(!grants.allow("ab", Access::Subscribe("c1")));
        assert!(!grants.allow("a", Access::Publish));
    }

    #[test]
    fn a_publish_needs_a_channel_pattern_that_matches_nothing_at_all() {
        for (channels, allowed) in [
            (r#"[".*"]"#, true),
            (r#"[""]"#, true),
            ("[]", false),
            (r#"["x"]"#, false),
            ("null", false),
        ] {
            let entry =
                format!(r#"{{"topic":".*","channels":{channels},"permissions":["publish"]}}"#);
            assert_eq!(
                grants(&entry).allow("t", Access::Publish),
                allowed,
                "{channels}"
            );
        }
    }

    #[test]
    fn patterns_are_unanchored_and_entries_are_alternatives() {
        let grants = grants(
            r#"{"topic":"o","channels":[".*"],"permissions":["publish"]},
               {"topic":"zz","channels":[".*"],"permissions":["publish","subscribe"]}"#,
        );
        assert!(grants.allow("foobar", Access::Publish) && grants.allow("zz", Access::Publish));
        assert!(
            !grants.allow("foobar", Access::Subscribe("c")) && !grants.allow("a", Access::Publish)
        );
    }

    #[test]
    fn the_answer_counts_the_entries() {
        let body =
            r#"{"TTL":5,"identity":"me","identity_url":"http:\/\/x","authorizations":[{}, {}]}"#;
        let grants = parse(body).unwrap();
        assert_eq!(
            grants.answer(),
            br#"{"identity":"me","identity_url":"http://x","permission_count":2}"#
        );
        assert!(!grants.is_expired(Now(5_000_000_000)) && grants.is_expired(Now(5_000_000_001)));
        assert!(parse(r#"{"ttl":9223372036854775807}"#).is_ok_and(|grants| grants.is_empty()));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (body, reason) in [
            ("", "EOF"),
            ("[]", "invalid type"),
            ("null", "invalid TTL 0 (must be >0)"),
            (r#"{"ttl":-1}"#, "invalid TTL -1 (must be >0)"),
            (r#"{"ttl":1.5}"#, "invalid type"),
            (r#"{"ttl":"1"}"#, "invalid type"),
            (r#"{"ttl":1,"identity":3}"#, "invalid type"),
            (r#"{"ttl":1,"authorizations":{}}"#, "invalid type"),
            (
                r#"{"ttl":1,"authorizations":[["t",["c"],["publish"]]]}"#,
                "invalid type",
            ),
            (
                r#"{"ttl":1,"authorizations":[{"permissions":["admin"]}]}"#,
                "unknown permission admin",
            ),
            (
                r#"{"ttl":1,"authorizations":[{"topic":"("}]}"#,
                r#"unable to compile topic "(""#,
            ),
            (
                r#"{"ttl":1,"authorizations":[{"channels":["*"]}]}"#,
                r#"unable to compile channel "*""#,
            ),
        ] {
            let error = parse(body).unwrap_err().to_string();
            assert!(error.contains(reason), "{body}: {error}");
        }
    }
}
