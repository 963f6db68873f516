//! One row of the flag table: name, kind, default, key in the configuration file, help.

use crate::{Value, golang};

/// What a flag takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Boolean: bare, or with `=`.
    Bool,
    /// 64 bit signed integer; which ones are legal is for the program to say.
    Int,
    /// Floating point number.
    Float,
    /// Go duration.
    Duration,
    /// Text.
    Text,
    /// Texts, one per occurrence.
    List,
    /// Numbers, comma-separated or one per occurrence, kept in descending order.
    Floats,
    /// Anything else.
    Custom(Custom),
}

/// A kind that the program defines.
#[derive(Debug, Clone, Copy)]
pub struct Custom {
    /// Reads one occurrence, on the command line or in the file. A [`Value::List`] accumulates.
    pub parse: fn(&str) -> Result<Value, String>,
    /// How the value is attached.
    pub form: Form,
    /// The name of its type in the usage, `value` in most programs.
    pub type_name: &'static str,
}

/// How a flag's value is attached to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `-x=v` or `-x v`.
    Required,
    /// `-x`, which is `-x=true`, or `-x=v`; never a word of its own.
    Bare,
    /// As [`Form::Bare`], but a following word that is an integer is taken as the value.
    BareOrInteger,
}

/// Why an occurrence was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A flag error: reported with the usage.
    #[error("{0}")]
    Flag(String),
    /// Ends the program with one plain line, as the reference does for percentiles.
    #[error("{0}")]
    Plain(String),
}

/// A row of the flag table.
#[derive(Debug, Clone)]
pub struct Flag {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: Value,
    pub(crate) default_text: Option<&'static str>,
    /// Key in the configuration file and of `GET /config/<key>`; `None` = neither.
    pub(crate) key: Option<String>,
    /// What errors about the file call it.
    pub(crate) field: Option<&'static str>,
    pub(crate) help: String,
}

impl Flag {
    /// A row. Its key is the name with `_` for `-`.
    #[must_use]
    pub fn new(name: &'static str, kind: Kind, default: Value, help: impl Into<String>) -> Self {
        let key = Some(name.replace('-', "_"));
        Self {
            name,
            kind,
            default,
            default_text: None,
            key,
            field: None,
            help: help.into(),
        }
    }

    /// A boolean.
    #[must_use]
    pub fn bool(name: &'static str, default: bool, help: impl Into<String>) -> Self {
        Self::new(name, Kind::Bool, Value::Bool(default), help)
    }

    /// An integer.
    #[must_use]
    pub fn int(name: &'static str, default: i64, help: impl Into<String>) -> Self {
        Self::new(name, Kind::Int, Value::Int(default), help)
    }

    /// A floating point number.
    #[must_use]
    pub fn float(name: &'static str, default: f64, help: impl Into<String>) -> Self {
        Self::new(name, Kind::Float, Value::Float(default), help)
    }

    /// A duration; the default is written as on the command line.
    ///
    /// # Panics
    /// When the default is not a duration: a mistake in the table.
    #[must_use]
    pub fn duration(name: &'static str, default: &str, help: impl Into<String>) -> Self {
        let nanos = golang::parse_duration(default).expect("defaults in the table are durations");
        Self::new(name, Kind::Duration, Value::Duration(nanos), help)
    }

    /// A text.
    #[must_use]
    pub fn text(name: &'static str, default: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(name, Kind::Text, Value::Text(default.into()), help)
    }

    /// A list of texts, empty unless given.
    #[must_use]
    pub fn list(name: &'static str, help: impl Into<String>) -> Self {
        Self::new(name, Kind::List, Value::List(Vec::new()), help)
    }

    /// A list of numbers, empty unless given.
    #[must_use]
    pub fn floats(name: &'static str, help: impl Into<String>) -> Self {
        Self::new(name, Kind::Floats, Value::Floats(Vec::new()), help)
    }

    /// The key, where it does not follow from the name.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Command line only.
    #[must_use]
    pub fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    /// What errors about the file call it, where that does not follow from the key.
    #[must_use]
    pub fn field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// What the usage shows as default, where that is not the value itself.
    #[must_use]
    pub fn default_text(mut self, text: &'static str) -> Self {
        self.default_text = Some(text);
        self
    }

    pub(crate) fn form(&self) -> Form {
        match self.kind {
            Kind::Bool => Form::Bare,
            Kind::Custom(custom) => custom.form,
            Kind::Int | Kind::Float | Kind::Duration | Kind::Text | Kind::List | Kind::Floats => {
                Form::Required
            }
        }
    }

    /// Reads one occurrence on the command line.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, Refusal> {
        let parsed = match self.kind {
            Kind::Bool => golang::parse_bool(text)
                .map(Value::Bool)
                .ok_or_else(parse_error),
            Kind::Int => golang::parse_int(text, 0)
                .map(Value::Int)
                .map_err(number_error),
            Kind::Float => golang::parse_float(text)
                .map(Value::Float)
                .map_err(number_error),
            Kind::Duration => golang::parse_duration(text)
                .map(Value::Duration)
                .ok_or_else(parse_error),
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::List => Ok(Value::List(vec![text.to_owned()])),
            Kind::Floats => return parse_floats(text),
            Kind::Custom(custom) => (custom.parse)(text),
        };
        parsed.map_err(|reason| {
            let name = self.name;
            Refusal::Flag(match self.form() {
                Form::Required => format!("invalid value {text:?} for flag -{name}: {reason}"),
                Form::Bare | Form::BareOrInteger => {
                    format!("invalid boolean value {text:?} for -{name}: {reason}")
                }
            })
        })
    }

    /// The name that errors about the file use: that of the reference's option field, which is
    /// the key in camel case with acronyms in capitals.
    pub(crate) fn field_name(&self) -> String {
        const ACRONYMS: [&str; 12] = [
            "id", "nsqd", "tcp", "udp", "http", "https", "tls", "ca", "url", "cidr", "acl", "e2e",
        ];
        if let Some(field) = self.field {
            return field.to_owned();
        }
        let key = self.key.as_deref().unwrap_or(self.name);
        let mut field = String::with_capacity(key.len());
        for word in key.split('_') {
            if ACRONYMS.contains(&word) {
                field.push_str(&word.to_ascii_uppercase());
            } else if word == "nsqlookupd" {
                field.push_str("NSQLookupd");
            } else if let Some(first) = word.chars().next() {
                field.push(first.to_ascii_uppercase());
                field.push_str(&word[first.len_utf8()..]);
            }
        }
        field
    }
}

fn parse_error() -> String {
    "parse error".to_owned()
}

fn number_error(error: golang::NumberError) -> String {
    match error {
        golang::NumberError::Syntax => parse_error(),
        golang::NumberError::Range => error.to_string(),
    }
}

fn parse_floats(text: &str) -> Result<Value, Refusal> {
    let parse = |part: &str| {
        golang::parse_float(part).map_err(|_| Refusal::Plain(format!("Could not parse: {part}")))
    };
    text.split(',')
        .map(parse)
        .collect::<Result<_, _>>()
        .map(Value::Floats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_in_the_reference() {
        let cases = [
            (Flag::int("node-id", 0, "").key("id"), "ID"),
            (Flag::text("tcp-address", "", ""), "TCPAddress"),
            (
                Flag::duration("http-client-connect-timeout", "2s", ""),
                "HTTPClientConnectTimeout",
            ),
            (
                Flag::list("lookupd-tcp-address", "").key("nsqlookupd_tcp_addresses"),
                "NSQLookupdTCPAddresses",
            ),
            (
                Flag::int("statsd-udp-packet-size", 1, ""),
                "StatsdUDPPacketSize",
            ),
            (
                Flag::bool("deflate", true, "").field("DeflateEnabled"),
                "DeflateEnabled",
            ),
        ];
        for (flag, expected) in cases {
            assert_eq!(flag.field_name(), expected);
        }
    }
}
