//! The value of a flag, and how it reads in usage, errors and `GET /config/<key>`.

use crate::format_duration;

/// The value of a flag.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A boolean.
    Bool(bool),
    /// An integer, also that behind a word such as a log level.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// Signed nanoseconds.
    Duration(i64),
    /// Text.
    Text(String),
    /// Texts in the order given.
    List(Vec<String>),
    /// Numbers in the order that counts.
    Floats(Vec<f64>),
}

impl Value {
    /// Adds a further occurrence of the same flag: lists grow, everything else is replaced.
    pub(crate) fn merge(&mut self, next: Self) {
        match (self, next) {
            (Self::List(all), Self::List(more)) => all.extend(more),
            (Self::Floats(all), Self::Floats(more)) => all.extend(more),
            (value, next) => *value = next,
        }
    }

    /// The body of `GET /config/<key>` and whether it is JSON: text is plain, durations are
    /// nanoseconds, everything else is what JSON makes of it.
    #[must_use]
    pub fn to_body(&self) -> (String, bool) {
        let json = match self {
            Self::Bool(value) => value.to_string(),
            Self::Int(value) | Self::Duration(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(value) => return (value.clone(), false),
            Self::List(values) => {
                serde_json::to_string(values).expect("strings are always valid JSON")
            }
            Self::Floats(values) => {
                let numbers: Vec<String> = values.iter().map(f64::to_string).collect();
                format!("[{}]", numbers.join(","))
            }
        };
        (json, true)
    }

    /// As Go's `%v` prints it, for errors about a value.
    pub(crate) fn to_go_text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Duration(nanos) => format_duration(*nanos),
            Self::Text(value) => value.clone(),
            Self::List(values) => format!("[{}]", values.join(" ")),
            Self::Floats(values) => {
                let numbers: Vec<String> = values.iter().map(f64::to_string).collect();
                format!("[{}]", numbers.join(" "))
            }
        }
    }

    /// The text of ` (default …)` in the usage; `None` for the zero value, which is not shown.
    pub(crate) fn to_usage_default(&self) -> Option<String> {
        match self {
            Self::Bool(false) | Self::Int(0) | Self::Duration(0) => None,
            Self::Float(value) if *value == 0.0 => None,
            Self::Text(value) if value.is_empty() => None,
            Self::List(values) if values.is_empty() => None,
            Self::Floats(values) if values.is_empty() => None,
            Self::Text(value) => Some(format!("{value:?}")),
            Self::List(values) => Some(values.join(",")),
            other @ (Self::Bool(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Duration(_)
            | Self::Floats(_)) => Some(other.to_go_text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_text_or_json() {
        let cases = [
            (Value::Bool(true), "true", true),
            (Value::Int(617), "617", true),
            (Value::Float(1.0), "1", true),
            (Value::Duration(2_000_000_000), "2000000000", true),
            (Value::Text("0.0.0.0:4150".into()), "0.0.0.0:4150", false),
            (Value::List(vec![]), "[]", true),
            (
                Value::List(vec!["a:1".into(), "\"".into()]),
                r#"["a:1","\""]"#,
                true,
            ),
            (Value::Floats(vec![1.0, 0.99]), "[1,0.99]", true),
        ];
        for (value, body, is_json) in cases {
            assert_eq!(value.to_body(), (body.to_owned(), is_json));
        }
    }

    #[test]
    fn occurrences_replace_scalars_and_extend_lists() {
        let mut value = Value::Int(1);
        value.merge(Value::Int(2));
        assert_eq!(value, Value::Int(2));
        let mut value = Value::List(vec!["a".into()]);
        value.merge(Value::List(vec!["b,c".into()]));
        assert_eq!(value, Value::List(vec!["a".into(), "b,c".into()]));
    }
}
