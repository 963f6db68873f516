//! Resolved flags, and those of them that operators may look up while the program runs.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use crate::file::Loaded;
use crate::flag::Flag;
use crate::{CommandLine, FlagTable, Value};

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// The configuration file.
    File,
    /// The command line.
    Flag,
}

/// One flag, resolved.
#[derive(Debug, Clone)]
struct Setting {
    value: Value,
    default: Value,
    origin: Origin,
    key: Option<String>,
}

/// The resolved flags of a program, by name.
///
/// The getters panic when the table has no such flag or it is of another kind: both are mistakes
/// in the program that any test of it meets.
#[derive(Debug, Clone)]
pub struct Settings {
    settings: BTreeMap<&'static str, Setting>,
    positionals: Vec<String>,
    warnings: Vec<String>,
}

impl Settings {
    pub(crate) fn combine(table: &FlagTable, mut line: CommandLine, mut file: Loaded) -> Self {
        let setting = |flag: &Flag| {
            let given = line.given.remove(flag.name);
            let filed = file.values.remove(flag.name);
            let (value, origin) = match (given, filed) {
                (Some(value), _) => (value, Origin::Flag),
                (None, Some(value)) => (value, Origin::File),
                (None, None) => (flag.default.clone(), Origin::Default),
            };
            let (default, key) = (flag.default.clone(), flag.key.clone());
            (
                flag.name,
                Setting {
                    value,
                    default,
                    origin,
                    key,
                },
            )
        };
        let settings = table.flags().iter().map(setting).collect();
        Self {
            settings,
            positionals: line.positionals,
            warnings: file.warnings,
        }
    }

    fn get(&self, name: &str) -> &Setting {
        self.settings
            .get(name)
            .unwrap_or_else(|| panic!("flag {name} is in the table"))
    }

    fn mismatch(&self, name: &str) -> ! {
        panic!("flag {name} is of another kind: {:?}", self.value(name))
    }

    /// The value as it is.
    #[must_use]
    pub fn value(&self, name: &str) -> &Value {
        &self.get(name).value
    }

    /// Replaces a value, so that [`Self::config_table`] shows what is really used.
    ///
    /// # Panics
    /// When the table has no such flag.
    pub fn set(&mut self, name: &str, value: Value) {
        self.settings
            .get_mut(name)
            .expect("flag is in the table")
            .value = value;
    }

    /// Where the value comes from.
    #[must_use]
    pub fn origin(&self, name: &str) -> Origin {
        self.get(name).origin
    }

    /// Whether command line or file gave it, be it equal to the default.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.origin(name) != Origin::Default
    }

    /// Whether the value differs from the default.
    #[must_use]
    pub fn is_changed(&self, name: &str) -> bool {
        let setting = self.get(name);
        setting.value != setting.default
    }

    /// A boolean.
    #[must_use]
    pub fn bool(&self, name: &str) -> bool {
        let Value::Bool(value) = self.value(name) else {
            self.mismatch(name)
        };
        *value
    }

    /// An integer, or the number behind a word.
    #[must_use]
    pub fn int(&self, name: &str) -> i64 {
        let Value::Int(value) = self.value(name) else {
            self.mismatch(name)
        };
        *value
    }

    /// A floating point number.
    #[must_use]
    pub fn float(&self, name: &str) -> f64 {
        let Value::Float(value) = self.value(name) else {
            self.mismatch(name)
        };
        *value
    }

    /// A duration in nanoseconds, negative if it was given so.
    #[must_use]
    pub fn nanos(&self, name: &str) -> i64 {
        let Value::Duration(value) = self.value(name) else {
            self.mismatch(name)
        };
        *value
    }

    /// A text.
    #[must_use]
    pub fn string(&self, name: &str) -> &str {
        let Value::Text(value) = self.value(name) else {
            self.mismatch(name)
        };
        value
    }

    /// A list of texts.
    #[must_use]
    pub fn list(&self, name: &str) -> &[String] {
        let Value::List(values) = self.value(name) else {
            self.mismatch(name)
        };
        values
    }

    /// A list of numbers.
    #[must_use]
    pub fn floats(&self, name: &str) -> &[f64] {
        let Value::Floats(values) = self.value(name) else {
            self.mismatch(name)
        };
        values
    }

    /// The words after the flags, in a program that wants them.
    #[must_use]
    pub fn positionals(&self) -> &[String] {
        &self.positionals
    }

    /// What the user should be told about the configuration file.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The values by key, for run time.
    #[must_use]
    pub fn config_table(&self) -> ConfigTable {
        let entry = |setting: &Setting| Some((setting.key.clone()?, setting.value.clone()));
        let values = self.settings.values().filter_map(entry).collect();
        ConfigTable {
            values: RwLock::new(values),
        }
    }
}

/// The resolved values by key: what `GET /config/<key>` answers and `PUT` changes. Shared by all
/// threads; not for hot paths.
#[derive(Debug, Default)]
pub struct ConfigTable {
    values: RwLock<BTreeMap<String, Value>>,
}

impl ConfigTable {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value> {
        let values = self.values.read().unwrap_or_else(PoisonError::into_inner);
        values.get(key).cloned()
    }

    /// The body of `GET /config/<key>` and whether it is JSON, else plain text.
    #[must_use]
    pub fn body(&self, key: &str) -> Option<(String, bool)> {
        self.get(key).map(|value| value.to_body())
    }

    /// Changes a value.
    pub fn set(&self, key: &str, value: Value) {
        let mut values = self.values.write().unwrap_or_else(PoisonError::into_inner);
        values.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Settings {
        let table = FlagTable::new(
            "nsqd",
            vec![
                Flag::bool("verbose", false, "old").without_key(),
                Flag::int("node-id", 617, "id").key("id"),
                Flag::text("statsd-prefix", "nsq.%s", "prefix"),
            ],
        );
        table
            .load(args.iter().map(std::ffi::OsString::from))
            .expect("fine")
    }

    #[test]
    fn table_serves_keys_not_names() {
        let mut settings = settings(&["-node-id=5", "-verbose"]);
        settings.set("statsd-prefix", Value::Text("nsq.a_1.".into()));
        let table = settings.config_table();
        assert_eq!(table.body("id"), Some(("5".into(), true)));
        assert_eq!(
            table.body("statsd_prefix"),
            Some(("nsq.a_1.".into(), false))
        );
        for key in ["node_id", "node-id", "verbose", ""] {
            assert_eq!(table.body(key), None, "{key}");
        }
        table.set("id", Value::Int(6));
        assert_eq!(table.get("id"), Some(Value::Int(6)));
    }

    #[test]
    fn given_is_not_the_same_as_changed() {
        let settings = settings(&["-node-id=617"]);
        assert!(settings.is_given("node-id") && !settings.is_changed("node-id"));
    }

    #[test]
    #[should_panic(expected = "is in the table")]
    fn asking_for_an_undeclared_flag_is_a_mistake() {
        let _ = settings(&[]).bool("nope");
    }
}
