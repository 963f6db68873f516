//! `nsqd.dat`: the names and pause flags of the persistent topics and channels, in the
//! reference's format (spec nsqd.md §1.9).
//!
//! Owned by the control thread. Every shard sends it the new state of a topic that changed, and
//! answers the command that changed it only when the file, or its [`journal`], holds it (K16).

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod journal;
mod keeper;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nsq_proto::{ChannelName, TopicName};
use serde::Serialize;
use serde_json::Value;

pub(crate) use keeper::Keeper;

use self::journal::Found;
use crate::config::SyncMode;

/// Name of the file within the data path.
pub(crate) const FILE_NAME: &str = "nsqd.dat";

/// What is remembered of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    /// Whether it is paused.
    pub(crate) paused: bool,
    /// What an `OK` of it means, where that was chosen for it.
    pub(crate) sync: Option<SyncMode>,
    /// Channels and whether they are paused.
    pub(crate) channels: BTreeMap<ChannelName, bool>,
}

/// A change of one topic: its new state, or `None` when it is gone.
#[derive(Debug, Clone)]
pub(crate) struct TopicChange {
    /// Which.
    pub(crate) topic: TopicName,
    /// Its state.
    pub(crate) entry: Option<TopicEntry>,
}

/// Everything in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    topics: BTreeMap<TopicName, Kept>,
}

/// A topic, with its part of the file: writing the file anew for every change is to cost no more
/// than copying it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    entry: TopicEntry,
    json: Box<[u8]>,
}

impl Kept {
    fn new(name: &TopicName, entry: TopicEntry) -> Self {
        let channels = entry.channels.iter();
        let form = TopicForm {
            name: name.as_str(),
            paused: entry.paused,
            sync: entry.sync.map(SyncMode::as_str),
            channels: channels
                .filter(|(name, _)| !name.is_ephemeral())
                .map(|(name, paused)| ChannelForm {
                    name: name.as_str(),
                    paused: *paused,
                })
                .collect(),
        };
        let json = serde_json::to_vec(&form).expect("names and flags are always JSON");
        let json = json.into_boxed_slice();
        Self { entry, json }
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
    /// It is there and cannot be read.
    #[error("failed to read metadata from {} - {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not hold what it should.
    #[error("failed to parse metadata in {} - {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

#[derive(Serialize)]
struct TopicForm<'a> {
    name: &'a str,
    paused: bool,
    /// Ours alone: the reference reads past it, and writes the file without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    sync: Option<&'static str>,
    channels: Vec<ChannelForm<'a>>,
}

#[derive(Serialize)]
struct GoneForm<'a> {
    name: &'a str,
    gone: bool,
}

#[derive(Serialize)]
struct ChannelForm<'a> {
    name: &'a str,
    paused: bool,
}

impl Catalogue {
    /// Reads the file of a data path, and its journal; a missing one is an empty catalogue. The
    /// second value are warnings about what was skipped.
    ///
    /// # Errors
    /// See [`CatalogueError`].
    pub(crate) fn load(data_path: &Path) -> Result<(Self, Vec<String>), CatalogueError> {
        let path = data_path.join(FILE_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(CatalogueError::Read { path, source }),
        };
        let is_there = !text.is_empty() || path.exists();
        let parsed = is_there.then(|| Self::parse(&text)).transpose();
        let parsed = parsed.map_err(|reason| CatalogueError::Parse {
            path: path.clone(),
            reason,
        })?;
        let (mut catalogue, mut warnings) = parsed.unwrap_or_default();
        match journal::read(data_path, &text) {
            Ok(Found::Values(values)) => values.iter().for_each(|value| catalogue.replay(value)),
            Ok(Found::Foreign(journal)) => warnings.push(format!(
                "the changes in {} are not those that followed this {FILE_NAME} and are ignored",
                journal.display()
            )),
            Err(source) => return Err(CatalogueError::Read { path, source }),
        }
        Ok((catalogue, warnings))
    }

    /// Applies a line of the journal. What it does not understand it cannot have written.
    fn replay(&mut self, value: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(value) else {
            return;
        };
        let is_gone = flag(&value, "gone").unwrap_or_default();
        let Ok(Some((topic, entry))) = parse_topic(&value, &mut Vec::new()) else {
            return;
        };
        let entry = (!is_gone).then_some(entry);
        self.apply(TopicChange { topic, entry });
    }

    /// The file's contents, and warnings about names that were skipped.
    pub(crate) fn parse(text: &[u8]) -> Result<(Self, Vec<String>), String> {
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err("unexpected end of JSON input".to_owned());
        }
        let root: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let mut catalogue = Self::default();
        let mut warnings = Vec::new();
        if !root.is_null() && !root.is_object() {
            return Err("not a JSON object".to_owned());
        }
        for topic in list(&root, "topics")? {
            if let Some((name, entry)) = parse_topic(topic, &mut warnings)? {
                let kept = Kept::new(&name, entry);
                catalogue.topics.insert(name, kept);
            }
        }
        Ok((catalogue, warnings))
    }

    /// The topics with their entries, by name.
    pub(crate) fn topics(&self) -> impl Iterator<Item = (&TopicName, &TopicEntry)> {
        self.topics.iter().map(|(name, kept)| (name, &kept.entry))
    }

    /// Takes over a change; the line of the journal that says so. Ephemeral names are dropped
    /// here: an ephemeral topic has no line.
    pub(crate) fn apply(&mut self, change: TopicChange) -> Option<Vec<u8>> {
        let TopicChange { topic, entry } = change;
        match entry {
            _ if topic.is_ephemeral() => {
                self.topics.remove(&topic);
                None
            }
            Some(mut entry) => {
                entry.channels.retain(|name, _| !name.is_ephemeral());
                let kept = Kept::new(&topic, entry);
                let line = kept.json.to_vec();
                self.topics.insert(topic, kept);
                Some(line)
            }
            None => {
                self.topics.remove(&topic);
                let name = topic.as_str();
                let gone = serde_json::to_vec(&GoneForm { name, gone: true });
                Some(gone.expect("names and flags are always JSON"))
            }
        }
    }

    /// The contents of the file.
    #[must_use]
    pub(crate) fn encode(&self, version: &str) -> Vec<u8> {
        let version = serde_json::to_vec(version).expect("text is always JSON");
        let topics = self.topics.iter().filter(|(name, _)| !name.is_ephemeral());
        let mut file = br#"{"topics":["#.to_vec();
        for (at, (_, kept)) in topics.enumerate() {
            if at > 0 {
                file.push(b',');
            }
            file.extend_from_slice(&kept.json);
        }
        file.extend_from_slice(br#"],"version":"#);
        file.extend_from_slice(&version);
        file.push(b'}');
        file
    }
}

/// A topic of the file; `None` with a warning where its name is invalid.
fn parse_topic(
    topic: &Value,
    warnings: &mut Vec<String>,
) -> Result<Option<(TopicName, TopicEntry)>, String> {
    let name = string(topic, "name")?;
    let Ok(parsed) = TopicName::parse(name.as_bytes()) else {
        warnings.push(format!("skipping creation of invalid topic {name}"));
        return Ok(None);
    };
    let mut entry = TopicEntry {
        paused: flag(topic, "paused")?,
        sync: sync(topic)?,
        ..TopicEntry::default()
    };
    for channel in list(topic, "channels")? {
        let name = string(channel, "name")?;
        match ChannelName::parse(name.as_bytes()) {
            Ok(parsed) => {
                entry.channels.insert(parsed, flag(channel, "paused")?);
            }
            Err(_) => warnings.push(format!("skipping creation of invalid channel {name}")),
        }
    }
    Ok(Some((parsed, entry)))
}

/// The value of a key, matched without regard to case as the reference does.
fn field<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let map = object.as_object()?;
    map.get(key)
        .or_else(|| {
            map.iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
                .map(|(_, v)| v)
        })
        .filter(|value| !value.is_null())
}

fn list<'a>(object: &'a Value, key: &str) -> Result<&'a [Value], String> {
    match field(object, key) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("{key} is not a list")),
    }
}

fn string<'a>(object: &'a Value, key: &str) -> Result<&'a str, String> {
    match field(object, key) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("{key} is not a string")),
    }
}

fn flag(object: &Value, key: &str) -> Result<bool, String> {
    match field(object, key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(format!("{key} is not a boolean")),
    }
}

/// A promise that is not understood is not to be broken in silence.
fn sync(topic: &Value) -> Result<Option<SyncMode>, String> {
    match string(topic, "sync")? {
        "" => Ok(None),
        word => SyncMode::parse(word)
            .map(Some)
            .ok_or_else(|| format!("sync is {word:?}, which is none of {:?}", SyncMode::WORDS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::parse(name.as_bytes()).unwrap()
    }

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name.as_bytes()).unwrap()
    }

    #[test]
    fn the_file_is_the_references() {
        let text = br#"{"topics":[{"name":"t1","paused":false,"channels":[{"name":"c1","paused":true}]}],"version":"1.3.0"}"#;
        let (catalogue, warnings) = Catalogue::parse(text).unwrap();
        assert!(warnings.is_empty());
        assert_eq!(catalogue.encode("1.3.0"), text);
    }

    #[test]
    fn null_lists_unknown_keys_and_any_case_are_read() {
        let text = br#"{"Topics":[{"NAME":"t","channels":null,"x":1}],"meta":{}}"#;
        let (catalogue, _) = Catalogue::parse(text).unwrap();
        assert_eq!(catalogue.topics().count(), 1);
        assert_eq!(Catalogue::parse(b"null").unwrap().0, Catalogue::default());
        assert_eq!(Catalogue::parse(b"{}").unwrap().0, Catalogue::default());
    }

    #[test]
    fn invalid_names_are_skipped_with_a_warning() {
        let text = br#"{"topics":[{"name":"a:b"},{"name":"t","channels":[{"name":"c:d"}]}]}"#;
        let (catalogue, warnings) = Catalogue::parse(text).unwrap();
        assert_eq!(catalogue.topics().count(), 1);
        assert_eq!(
            warnings,
            [
                "skipping creation of invalid topic a:b",
                "skipping creation of invalid channel c:d"
            ]
        );
    }

    #[test]
    fn what_was_chosen_for_a_topic_is_kept_and_never_guessed() {
        let text = br#"{"topics":[{"name":"t","paused":false,"sync":"always","channels":[]}],"version":"v"}"#;
        let (catalogue, _) = Catalogue::parse(text).unwrap();
        let (_, entry) = catalogue.topics().next().unwrap();
        assert_eq!(entry.sync, Some(SyncMode::Always));
        assert_eq!(catalogue.encode("v"), text);
        let error = Catalogue::parse(br#"{"topics":[{"name":"t","sync":"never"}]}"#).unwrap_err();
        assert_eq!(
            error,
            r#"sync is "never", which is none of ["interval", "always"]"#
        );
    }

    #[test]
    fn an_empty_or_broken_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), b"").unwrap();
        let error = Catalogue::load(dir.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("nsqd.dat - unexpected end of JSON input"),
            "{error}"
        );
        assert!(Catalogue::parse(b"[1]").is_err());
        assert!(Catalogue::parse(b"{\"topics\":3}").is_err());
    }

    #[test]
    fn ephemeral_names_are_not_written() {
        let mut catalogue = Catalogue::default();
        let mut entry = TopicEntry::default();
        entry.channels.insert(channel("c#ephemeral"), false);
        entry.channels.insert(channel("d"), true);
        catalogue.apply(TopicChange {
            topic: topic("t"),
            entry: Some(entry.clone()),
        });
        catalogue.apply(TopicChange {
            topic: topic("e#ephemeral"),
            entry: Some(entry),
        });
        let text = String::from_utf8(catalogue.encode("v")).unwrap();
        assert_eq!(
            text,
            r#"{"topics":[{"name":"t","paused":false,"channels":[{"name":"d","paused":true}]}],"version":"v"}"#
        );
        catalogue.apply(TopicChange {
            topic: topic("t"),
            entry: None,
        });
        assert_eq!(catalogue.topics().count(), 0);
    }
}
