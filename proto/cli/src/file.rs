//! The configuration file: TOML, one top-level key per flag.
//!
//! Types are checked, with the coercions that the reference offers: numbers and booleans may be
//! written as strings, durations as integers in milliseconds, lists as one comma-separated string.
//! An integer is no boolean. Unknown keys are warned about and ignored.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value as Toml;

use crate::flag::{Flag, Kind};
use crate::{CommandLine, EarlyExit, FlagTable, Value, errno_text, golang};

const NANOS_PER_MILLI: i64 = 1_000_000;

/// What a file had to say.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// By flag name.
    pub(crate) values: BTreeMap<&'static str, Value>,
    /// One line per key that means nothing.
    pub(crate) warnings: Vec<String>,
}

/// Reads the file. Values of flags that `line` gives are not looked at, except those of custom
/// kinds, which must be right in any case.
pub(crate) fn load(
    table: &FlagTable,
    path: &Path,
    line: &CommandLine,
) -> Result<Loaded, EarlyExit> {
    let failure = |reason: String| {
        let path = path.display();
        EarlyExit::Fatal(format!("failed to load config file {path} - {reason}"))
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| failure(format!("open {}: {}", path.display(), errno_text(&error))))?;
    let document: toml::Table = text
        .parse()
        .map_err(|error| failure(describe(&error, &text)))?;

    let mut loaded = Loaded::default();
    for flag in table.flags() {
        let Some(value) = flag.key.as_ref().and_then(|key| document.get(key)) else {
            continue;
        };
        let overruled = line.get(flag.name).is_some();
        if !overruled || matches!(flag.kind, Kind::Custom(_)) {
            loaded.values.insert(flag.name, coerce(flag, value)?);
        }
    }
    for key in document.keys() {
        if !table
            .flags()
            .iter()
            .any(|flag| flag.key.as_ref() == Some(key))
        {
            loaded.warnings.push(unknown_key(table, key, path));
        }
    }
    Ok(loaded)
}

/// `toml: line 2: …` on one line.
fn describe(error: &toml::de::Error, text: &str) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..start]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1;
    format!("toml: line {line}: {}", error.message().replace('\n', ", "))
}

fn unknown_key(table: &FlagTable, key: &str, path: &Path) -> String {
    let path = path.display();
    let flag = table
        .flags()
        .iter()
        .find(|flag| flag.name.replace('-', "_") == key);
    match flag.and_then(|flag| flag.key.as_ref()) {
        Some(right) => format!("config file {path}: unknown key {key:?} ignored, use {right:?}"),
        None => format!("config file {path}: unknown key {key:?} ignored"),
    }
}

fn coerce(flag: &Flag, value: &Toml) -> Result<Value, EarlyExit> {
    if let Kind::Custom(custom) = flag.kind {
        let key = flag.key.as_deref().unwrap_or(flag.name);
        let failure = |_| EarlyExit::Fatal(format!("failed parsing {key} {}", go_text(value)));
        return match (&flag.default, value) {
            (Value::List(_), Toml::Array(items)) => {
                let mut all = Value::List(Vec::new());
                for item in items {
                    all.merge((custom.parse)(&go_text(item)).map_err(failure)?);
                }
                Ok(all)
            }
            _ => (custom.parse)(&go_text(value)).map_err(failure),
        };
    }
    coerce_plain(&flag.kind, value).map_err(|reason| {
        EarlyExit::Plain(format!(
            "ERROR: Resolve failed to coerce value {} ({}) for field {} - {reason}",
            go_text(value),
            flag.default.to_go_text(),
            flag.field_name(),
        ))
    })
}

fn coerce_plain(kind: &Kind, value: &Toml) -> Result<Value, String> {
    match (kind, value) {
        (Kind::Bool, Toml::Boolean(value)) => Ok(Value::Bool(*value)),
        (Kind::Bool, Toml::String(text)) => golang::parse_bool(text)
            .map(Value::Bool)
            .ok_or_else(|| parse_failure("ParseBool", text, "invalid syntax")),
        // The reference takes these, with 0 for true.
        (Kind::Bool, Toml::Integer(_)) => {
            Err("invalid bool value type int64 (use true or false)".to_owned())
        }
        (Kind::Bool, other) => Err(format!("invalid bool value type {}", go_type(other))),
        (Kind::Int, Toml::Integer(value)) => Ok(Value::Int(*value)),
        (Kind::Int, Toml::String(text)) => golang::parse_int(text, 10)
            .map(Value::Int)
            .map_err(|error| parse_failure("ParseInt", text, error)),
        (Kind::Int, other) => Err(format!("invalid int64 value type {}", go_type(other))),
        (Kind::Float, other) => coerce_float(other).map(Value::Float),
        (Kind::Duration, Toml::String(text)) => golang::parse_duration(text)
            .map(Value::Duration)
            .ok_or_else(|| match golang::parse_float(text) {
                Ok(_) => format!("time: missing unit in duration {text:?}"),
                Err(_) => format!("time: invalid duration {text:?}"),
            }),
        (Kind::Duration, Toml::Integer(millis)) => millis
            .checked_mul(NANOS_PER_MILLI)
            .map(Value::Duration)
            .ok_or_else(|| format!("time: invalid duration \"{millis}ms\"")),
        (Kind::Duration, other) => Err(format!(
            "invalid time.Duration value type {}",
            go_type(other)
        )),
        (Kind::Text, Toml::String(text)) => Ok(Value::Text(text.clone())),
        (Kind::Text, other) => Err(format!("invalid string value type {}", go_type(other))),
        (Kind::List, other) => coerce_list(other).map(Value::List),
        (Kind::Floats, other) => coerce_floats(other).map(Value::Floats),
        (Kind::Custom(_), _) => unreachable!("custom kinds are read by the caller"),
    }
}

fn coerce_float(value: &Toml) -> Result<f64, String> {
    match value {
        Toml::Float(number) => Ok(*number),
        Toml::Integer(number) => {
            golang::parse_float(&number.to_string()).map_err(|error| error.to_string())
        }
        Toml::String(text) => golang::parse_float(text.trim())
            .map_err(|error| parse_failure("ParseFloat", text, error)),
        other @ (Toml::Boolean(_) | Toml::Datetime(_) | Toml::Array(_) | Toml::Table(_)) => {
            Err(format!("invalid float64 value type {}", go_type(other)))
        }
    }
}

fn coerce_list(value: &Toml) -> Result<Vec<String>, String> {
    let text = |item: &Toml| {
        let text = item.as_str().map(str::to_owned);
        text.ok_or_else(|| format!("invalid []string element type {}", go_type(item)))
    };
    if let Some(items) = value.as_array() {
        return items.iter().map(text).collect();
    }
    match value.as_str() {
        // One empty text is no list of one empty address.
        Some("") => Ok(Vec::new()),
        Some(text) => Ok(text.split(',').map(str::to_owned).collect()),
        None => Err(format!("invalid []string value type {}", go_type(value))),
    }
}

fn coerce_floats(value: &Toml) -> Result<Vec<f64>, String> {
    if let Some(items) = value.as_array() {
        return items.iter().map(coerce_float).collect();
    }
    let number = |part: &str| {
        let part = part.trim();
        golang::parse_float(part).map_err(|error| parse_failure("ParseFloat", part, error))
    };
    match value.as_str() {
        Some("") => Ok(Vec::new()),
        Some(text) => text.split(',').map(number).collect(),
        None => Err(format!("invalid []float64 value type {}", go_type(value))),
    }
}

fn parse_failure(function: &str, text: &str, reason: impl std::fmt::Display) -> String {
    format!("strconv.{function}: parsing {text:?}: {reason}")
}

/// As Go's `%v` prints what its TOML library read.
fn go_text(value: &Toml) -> String {
    match value {
        Toml::String(text) => text.clone(),
        Toml::Integer(number) => number.to_string(),
        Toml::Float(number) => number.to_string(),
        Toml::Boolean(value) => value.to_string(),
        Toml::Datetime(value) => value.to_string(),
        Toml::Array(items) => {
            format!(
                "[{}]",
                items.iter().map(go_text).collect::<Vec<_>>().join(" ")
            )
        }
        Toml::Table(_) => "a table".to_owned(),
    }
}

fn go_type(value: &Toml) -> &'static str {
    match value {
        Toml::String(_) => "string",
        Toml::Integer(_) => "int64",
        Toml::Float(_) => "float64",
        Toml::Boolean(_) => "bool",
        Toml::Datetime(_) => "time.Time",
        Toml::Array(_) => "[]interface {}",
        Toml::Table(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn table() -> FlagTable {
        FlagTable::new(
            "nsqd",
            vec![
                Flag::text("config", "", "path").without_key(),
                Flag::bool("deflate", true, "enable").field("DeflateEnabled"),
                Flag::int("node-id", 617, "id").key("id"),
                Flag::float("sample", 1.0, "share"),
                Flag::duration("sync-timeout", "2s", "time"),
                Flag::text("data-path", "", "path"),
                Flag::list("lookupd-tcp-address", "address").key("nsqlookupd_tcp_addresses"),
                Flag::floats("percentile", "percentiles").key("percentiles"),
                crate::log_level_flag(),
            ],
        )
    }

    fn resolve(toml: &str, args: &[&str]) -> Result<crate::Settings, EarlyExit> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("nsqd.toml");
        std::fs::write(&path, toml).expect("write");
        let config = OsString::from(format!("-config={}", path.display()));
        table().load(args.iter().map(OsString::from).chain([config]))
    }

    #[test]
    fn values_are_coerced() {
        let list = |items: &[&str]| Value::List(items.iter().map(ToString::to_string).collect());
        let cases = [
            ("id = 5", "node-id", Value::Int(5)),
            ("id = '5'", "node-id", Value::Int(5)),
            (
                "sync_timeout = '1.5s'",
                "sync-timeout",
                Value::Duration(1_500_000_000),
            ),
            (
                "sync_timeout = 1500",
                "sync-timeout",
                Value::Duration(1_500_000_000),
            ),
            ("deflate = false", "deflate", Value::Bool(false)),
            ("deflate = 'F'", "deflate", Value::Bool(false)),
            ("sample = 0.5", "sample", Value::Float(0.5)),
            ("sample = '0.5'", "sample", Value::Float(0.5)),
            (
                "data_path = '/100%'",
                "data-path",
                Value::Text("/100%".into()),
            ),
            (
                "nsqlookupd_tcp_addresses = ['a:1', 'b:2']",
                "lookupd-tcp-address",
                list(&["a:1", "b:2"]),
            ),
            (
                "nsqlookupd_tcp_addresses = 'a:1,b:2'",
                "lookupd-tcp-address",
                list(&["a:1", "b:2"]),
            ),
            (
                "nsqlookupd_tcp_addresses = []",
                "lookupd-tcp-address",
                list(&[]),
            ),
            (
                "percentiles = [0.5, 1.0]",
                "percentile",
                Value::Floats(vec![0.5, 1.0]),
            ),
            (
                "percentiles = [1, 0.5]",
                "percentile",
                Value::Floats(vec![1.0, 0.5]),
            ),
            (
                "percentiles = '0.5, 1.0'",
                "percentile",
                Value::Floats(vec![0.5, 1.0]),
            ),
            ("log_level = 'DEBUG'", "log-level", Value::Int(1)),
        ];
        for (toml, name, expected) in cases {
            let settings = resolve(toml, &[]).unwrap_or_else(|exit| panic!("{toml}: {exit:?}"));
            assert_eq!(settings.value(name), &expected, "{toml}");
            assert_eq!(settings.origin(name), crate::Origin::File, "{toml}");
            assert_eq!(settings.warnings(), &[] as &[String], "{toml}");
        }
    }

    fn assert_refused(toml: &str, expected: &str) {
        let exit = resolve(toml, &[]).expect_err(toml);
        let expected = format!("ERROR: Resolve failed to coerce value {expected}");
        assert_eq!(exit, EarlyExit::Plain(expected), "{toml}");
    }

    #[test]
    fn wrong_types_are_named() {
        let cases = [
            (
                "id = 'x'",
                r#"x (617) for field ID - strconv.ParseInt: parsing "x": invalid syntax"#,
            ),
            (
                "id = '0x10'",
                r#"0x10 (617) for field ID - strconv.ParseInt: parsing "0x10": invalid syntax"#,
            ),
            (
                "id = 1.5",
                "1.5 (617) for field ID - invalid int64 value type float64",
            ),
            (
                "id = true",
                "true (617) for field ID - invalid int64 value type bool",
            ),
            (
                "sync_timeout = 'zz'",
                r#"zz (2s) for field SyncTimeout - time: invalid duration "zz""#,
            ),
            (
                "sync_timeout = 1.5",
                "1.5 (2s) for field SyncTimeout - invalid time.Duration value type float64",
            ),
            (
                "sync_timeout = '5'",
                r#"5 (2s) for field SyncTimeout - time: missing unit in duration "5""#,
            ),
            (
                "deflate = [1]",
                "[1] (true) for field DeflateEnabled - invalid bool value type []interface {}",
            ),
            (
                "deflate = 'x'",
                r#"x (true) for field DeflateEnabled - strconv.ParseBool: parsing "x": invalid syntax"#,
            ),
            (
                "deflate = 1",
                "1 (true) for field DeflateEnabled - invalid bool value type int64 (use true or false)",
            ),
            (
                "deflate = 0",
                "0 (true) for field DeflateEnabled - invalid bool value type int64 (use true or false)",
            ),
            (
                "data_path = 5",
                "5 () for field DataPath - invalid string value type int64",
            ),
        ];
        for (toml, expected) in cases {
            assert_refused(toml, expected);
        }
    }

    #[test]
    fn wrong_types_in_lists_are_named() {
        let cases = [
            (
                "nsqlookupd_tcp_addresses = [1]",
                "[1] ([]) for field NSQLookupdTCPAddresses - invalid []string element type int64",
            ),
            (
                "nsqlookupd_tcp_addresses = 1",
                "1 ([]) for field NSQLookupdTCPAddresses - invalid []string value type int64",
            ),
            (
                "percentiles = 'a,b'",
                r#"a,b ([]) for field Percentiles - strconv.ParseFloat: parsing "a": invalid syntax"#,
            ),
            (
                "percentiles = [true]",
                "[true] ([]) for field Percentiles - invalid float64 value type bool",
            ),
        ];
        for (toml, expected) in cases {
            assert_refused(toml, expected);
        }
    }

    #[test]
    fn custom_kinds_fail_as_fatal_even_when_overruled() {
        for (toml, shown) in [("log_level = 'loud'", "loud"), ("log_level = 3", "3")] {
            for args in [&[] as &[&str], &["-log-level=info"]] {
                let exit = resolve(toml, args).expect_err(toml);
                assert_eq!(
                    exit,
                    EarlyExit::Fatal(format!("failed parsing log_level {shown}"))
                );
            }
        }
    }

    #[test]
    fn flag_beats_file_beats_default() {
        use crate::Origin;
        let toml =
            "id = 5\nsync_timeout = 10\nnsqlookupd_tcp_addresses = ['f:1']\ndeflate = 'junk'";
        let args = ["-node-id=617", "-lookupd-tcp-address=a:1", "-deflate"];
        let settings = resolve(toml, &args).expect("fine");
        assert_eq!(
            (settings.int("node-id"), settings.origin("node-id")),
            (617, Origin::Flag)
        );
        assert_eq!(settings.list("lookupd-tcp-address"), ["a:1"]);
        assert_eq!(settings.nanos("sync-timeout"), 10_000_000);
        assert!(settings.bool("deflate"));
        assert_eq!(settings.origin("data-path"), Origin::Default);
        assert!(!settings.is_given("data-path") && settings.is_given("sync-timeout"));
    }

    #[test]
    fn unknown_keys_are_warned_about_by_name() {
        let settings = resolve("node_id = 5\nnope = 1\n[table]\nid = 7", &[]).expect("fine");
        assert_eq!(settings.int("node-id"), 617);
        let warnings = settings.warnings();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(
            warnings
                .iter()
                .any(|line| line.ends_with(r#"unknown key "node_id" ignored, use "id""#))
        );
        assert!(
            warnings
                .iter()
                .any(|line| line.ends_with(r#"unknown key "nope" ignored"#))
        );
        assert!(
            warnings
                .iter()
                .any(|line| line.ends_with(r#"unknown key "table" ignored"#))
        );
    }

    #[test]
    fn unreadable_files_are_fatal() {
        let exit = table()
            .load(["-config=/nope.toml".into()])
            .expect_err("missing");
        let text = "failed to load config file /nope.toml - \
                    open /nope.toml: no such file or directory";
        assert_eq!(exit, EarlyExit::Fatal(text.into()));
        let EarlyExit::Fatal(text) = resolve("id = 1\nx = =", &[]).expect_err("bad TOML") else {
            panic!("not fatal");
        };
        assert!(text.starts_with("failed to load config file /"), "{text}");
        assert!(text.contains(" - toml: line 2: "), "{text}");
    }
}
