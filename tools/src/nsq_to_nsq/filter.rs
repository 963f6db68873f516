//! Which JSON messages are passed on, and which of their fields.
//!
//! Values are copied as they are written in the message: a number keeps its digits and an object
//! its order. Hot path when it is used: a message is read once, and only the fields that were
//! asked for are looked at.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use nsq_cli::parse_float;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What to do with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Pass on this body.
    Pass(Bytes),
    /// Finish it: it is not wanted.
    Drop,
    /// Finish it: it is not a JSON object.
    NotJson,
    /// It lacks the field whose value is required.
    MissingField,
}

/// The JSON flags of the command line.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    /// The fields that are looked at: those passed on, in the order of their names, and then the
    /// required one if it is not among them.
    wanted: Vec<String>,
    /// For each field that is passed on its name as JSON, with the colon.
    labels: Vec<String>,
    required: Option<Required>,
}

#[derive(Debug, Clone)]
struct Required {
    /// Index in `wanted`.
    field: usize,
    /// `None` = any.
    value: Option<RequiredValue>,
}

#[derive(Debug, Clone)]
struct RequiredValue {
    text: String,
    /// The same as a number, if it is one.
    number: Option<f64>,
}

impl Filter {
    /// Of `--require-json-field`, `--require-json-value`, `--whitelist-json-field`; empty texts
    /// are flags that were not given. `None` when messages are to be passed on unread.
    pub(super) fn new(field: &str, value: &str, whitelist: &[String]) -> Option<Self> {
        if field.is_empty() && whitelist.is_empty() {
            return None;
        }
        let mut wanted = whitelist.to_vec();
        wanted.sort();
        wanted.dedup();
        let label = |name: &String| {
            let name = serde_json::to_string(name).expect("a string is always valid JSON");
            format!("{name}:")
        };
        let labels = wanted.iter().map(label).collect();
        let required = (!field.is_empty()).then(|| Required {
            field: wanted
                .iter()
                .position(|name| name == field)
                .unwrap_or_else(|| {
                    wanted.push(field.to_owned());
                    wanted.len() - 1
                }),
            value: (!value.is_empty()).then(|| RequiredValue {
                text: value.to_owned(),
                number: parse_float(value).ok(),
            }),
        });
        Some(Self {
            wanted,
            labels,
            required,
        })
    }

    /// Judges a message.
    pub(super) fn judge(&self, body: &Bytes) -> Verdict {
        // Bytes that are not UTF-8 are replaced, as Go's decoder does.
        let text = String::from_utf8_lossy(body);
        let Some(values) = self.read(&text) else {
            return Verdict::NotJson;
        };
        if let Some(required) = &self.required {
            match (values[required.field], &required.value) {
                (None, None) => return Verdict::Drop,
                (None, Some(_)) => return Verdict::MissingField,
                (Some(found), Some(value)) if !value.matches(found) => return Verdict::Drop,
                (Some(_), _) => {}
            }
        }
        if self.labels.is_empty() {
            Verdict::Pass(body.clone())
        } else {
            Verdict::Pass(self.project(&values))
        }
    }

    /// The wanted fields of an object; of a repeated one the last. `None` if it is no object;
    /// `null` is one without fields, as in Go.
    fn read<'a>(&self, text: &'a str) -> Option<Vec<Option<&'a RawValue>>> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let values = reader.deserialize_option(Fields(&self.wanted)).ok()?;
        reader.end().ok()?;
        Some(values)
    }

    /// A new object of the fields that are passed on.
    fn project(&self, values: &[Option<&RawValue>]) -> Bytes {
        let mut out = Vec::with_capacity(128);
        out.push(b'{');
        for (label, value) in self.labels.iter().zip(values) {
            if let Some(value) = value {
                if out.len() > 1 {
                    out.push(b',');
                }
                out.extend_from_slice(label.as_bytes());
                out.extend_from_slice(value.get().as_bytes());
            }
        }
        out.push(b'}');
        out.into()
    }
}

impl RequiredValue {
    /// A string must be the same text, a number the same number; nothing else matches.
    fn matches(&self, found: &RawValue) -> bool {
        let found = found.get();
        match found.as_bytes().first() {
            Some(b'"') => {
                serde_json::from_str::<Cow<'_, str>>(found).is_ok_and(|text| text == self.text)
            }
            Some(b'-' | b'0'..=b'9') => {
                let found = serde_json::from_str::<f64>(found).ok();
                found.is_some() && found == self.number
            }
            _ => false,
        }
    }
}

/// Reads an object and keeps the values of these fields.
struct Fields<'w>(&'w [String]);

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(vec![None; self.0.len()])
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.0.len()];
        while let Some(index) = map.next_key_seed(FieldIndex(self.0))? {
            match index {
                Some(index) => values[index] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

/// Reads a name and finds it among the wanted ones.
struct FieldIndex<'w>(&'w [String]);

impl<'de> DeserializeSeed<'de> for FieldIndex<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldIndex<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|wanted| wanted == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(field: &str, value: &str, whitelist: &[&str]) -> Filter {
        let whitelist: Vec<String> = whitelist.iter().map(|&name| name.to_owned()).collect();
        Filter::new(field, value, &whitelist).expect("a filter")
    }

    fn judge(filter: &Filter, body: &str) -> Verdict {
        filter.judge(&Bytes::copy_from_slice(body.as_bytes()))
    }

    fn pass(body: &str) -> Verdict {
        Verdict::Pass(Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn a_value_alone_asks_for_nothing() {
        assert!(Filter::new("", "x", &[]).is_none());
    }

    #[test]
    fn only_objects_are_json_messages() {
        let any = filter("a", "", &[]);
        for body in [
            "",
            "x",
            "[1]",
            "\"a\"",
            "1",
            "true",
            "{",
            "{\"a\":1} x",
            "{\"a\" 1}",
        ] {
            assert_eq!(judge(&any, body), Verdict::NotJson, "{body}");
        }
        assert_eq!(judge(&any, "null"), Verdict::Drop);
        assert_eq!(judge(&any, " {\"a\" : null}\n"), pass(" {\"a\" : null}\n"));
    }

    #[test]
    fn required_fields_are_present_and_equal() {
        let any = filter("a", "", &[]);
        assert_eq!(judge(&any, "{\"b\":1}"), Verdict::Drop);
        let one = filter("a", "1", &[]);
        let rows = [
            (r#"{"a":"1"}"#, true),
            (r#"{"a":1}"#, true),
            (r#"{"a":1.0}"#, true),
            (r#"{"a":10e-1}"#, true),
            (r#"{"a":2,"a":1}"#, true),
            (r#"{"\u0061":1}"#, true),
            (r#"{"a":1,"a":2}"#, false),
            (r#"{"a":"1.0"}"#, false),
            (r#"{"a":2}"#, false),
            (r#"{"a":true}"#, false),
            (r#"{"a":null}"#, false),
            (r#"{"a":{"a":1}}"#, false),
            (r#"{"a":[1]}"#, false),
        ];
        for (body, passes) in rows {
            let expected = if passes { pass(body) } else { Verdict::Drop };
            assert_eq!(judge(&one, body), expected, "{body}");
        }
        assert_eq!(judge(&one, r#"{"b":1}"#), Verdict::MissingField);
        let word = filter("a", "true", &[]);
        assert_eq!(judge(&word, r#"{"a":true}"#), Verdict::Drop);
        assert_eq!(
            judge(&word, r#"{"a":"tr\u0075e"}"#),
            pass(r#"{"a":"tr\u0075e"}"#)
        );
    }

    #[test]
    fn whitelisted_fields_keep_their_digits() {
        let two = filter("", "", &["b", "a", "b"]);
        let rows = [
            (r#"{"c":1}"#, "{}"),
            (r#"{"b":"x","c":1,"a":2}"#, r#"{"a":2,"b":"x"}"#),
            (
                r#"{ "a" : 12345678901234567890 , "b": {"z":1, "y":[1.0]} }"#,
                r#"{"a":12345678901234567890,"b":{"z":1, "y":[1.0]}}"#,
            ),
            ("null", "{}"),
        ];
        for (body, expected) in rows {
            assert_eq!(judge(&two, body), pass(expected), "{body}");
        }
        let both = filter("c", "1", &["a"]);
        assert_eq!(judge(&both, r#"{"a":5,"c":1}"#), pass(r#"{"a":5}"#));
        assert_eq!(judge(&both, r#"{"a":5,"c":2}"#), Verdict::Drop);
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_an_object() {
        let one = filter("a", "", &["a"]);
        let body = Bytes::from_static(b"{\"a\":1,\"b\":\"\xff\"}");
        assert_eq!(one.judge(&body), pass("{\"a\":1}"));
    }
}
