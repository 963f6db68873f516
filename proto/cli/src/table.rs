//! The flag table of a program and how its command line is read.
//!
//! Go's rules decide what is a flag, what is its value and where flags end; that is settled in
//! front of clap, which is handed one `--name=value` per flag, collects the occurrences and checks
//! the values. Errors come in the order of the command line, as in Go: the first one wins.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, ArgAction, Command};

use crate::flag::{Flag, Form, Kind, Refusal};
use crate::{EarlyExit, Settings, Value, banner, file, golang, usage};

/// The flags of a program.
#[derive(Debug, Clone)]
pub struct FlagTable {
    program: &'static str,
    flags: Vec<Flag>,
    positionals: bool,
    banner: fn(&str) -> String,
}

/// What was given on the command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CommandLine {
    pub(crate) given: BTreeMap<&'static str, Value>,
    pub(crate) positionals: Vec<String>,
}

impl CommandLine {
    /// The value of a flag that was given.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.given.get(name)
    }
}

/// Where the flags of a command line end.
enum Ending {
    /// At its end.
    Complete,
    /// At words that are no flags.
    Words(Vec<String>),
    /// At `-h` or `-help`.
    Help,
    /// At a mistake.
    Mistake(String),
}

impl FlagTable {
    /// A program's flags. Words after the flags are an error unless
    /// [`Self::allow_positionals`].
    ///
    /// # Panics
    /// When a name is declared twice: a mistake in the table.
    #[must_use]
    pub fn new(program: &'static str, mut flags: Vec<Flag>) -> Self {
        flags.sort_by_key(|flag| flag.name);
        let unique = flags.windows(2).all(|pair| pair[0].name != pair[1].name);
        assert!(unique, "each flag of {program} is declared once");
        Self {
            program,
            flags,
            positionals: false,
            banner,
        }
    }

    /// Accepts words after the flags: see [`Settings::positionals`].
    #[must_use]
    pub fn allow_positionals(mut self) -> Self {
        self.positionals = true;
        self
    }

    /// What `-version` prints, given the program's name; [`banner`] unless set.
    #[must_use]
    pub fn banner(mut self, banner: fn(&str) -> String) -> Self {
        self.banner = banner;
        self
    }

    /// The program's name.
    #[must_use]
    pub fn program(&self) -> &'static str {
        self.program
    }

    /// The usage in Go's layout.
    #[must_use]
    pub fn usage(&self) -> String {
        usage::render(self.program, &self.flags)
    }

    pub(crate) fn flags(&self) -> &[Flag] {
        &self.flags
    }

    fn find(&self, name: &str) -> Option<&Flag> {
        self.flags.iter().find(|flag| flag.name == name)
    }

    /// Reads the whole configuration as daemons do: command line, `-version` if the table has it,
    /// then the file named by `-config` if the table has that.
    ///
    /// # Errors
    /// See [`EarlyExit`].
    pub fn load(&self, args: impl IntoIterator<Item = OsString>) -> Result<Settings, EarlyExit> {
        let line = self.parse(args)?;
        if line.get("version") == Some(&Value::Bool(true)) {
            return Err(EarlyExit::Version((self.banner)(self.program)));
        }
        let config = match line.get("config") {
            Some(Value::Text(path)) if !path.is_empty() => Some(path.clone()),
            _ => None,
        };
        self.resolve(line, config.as_deref().map(Path::new))
    }

    /// Combines command line, file and defaults, in this order of precedence.
    ///
    /// # Errors
    /// [`EarlyExit::Fatal`] or [`EarlyExit::Plain`] when the file cannot be read or understood.
    pub fn resolve(&self, line: CommandLine, file: Option<&Path>) -> Result<Settings, EarlyExit> {
        let file = match file {
            Some(path) => file::load(self, path, &line)?,
            None => file::Loaded::default(),
        };
        Ok(Settings::combine(self, line, file))
    }

    /// Reads a command line without the program's own name.
    ///
    /// # Errors
    /// [`EarlyExit::Help`], [`EarlyExit::Usage`], or [`EarlyExit::Plain`] for unreadable
    /// percentiles.
    pub fn parse(
        &self,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<CommandLine, EarlyExit> {
        let (tokens, ending) = match utf8(args) {
            Ok(args) => self.tokens(args),
            Err(message) => (Vec::new(), Ending::Mistake(message)),
        };
        let given = self.collect(tokens)?;
        match ending {
            Ending::Complete => Ok(CommandLine {
                given,
                positionals: Vec::new(),
            }),
            Ending::Words(positionals) if self.positionals || positionals.is_empty() => {
                Ok(CommandLine { given, positionals })
            }
            Ending::Words(words) => Err(self.mistake(format!(
                "unexpected argument {:?} (the value of a boolean flag needs \"=\")",
                words[0]
            ))),
            Ending::Help => Err(EarlyExit::Help(self.usage())),
            Ending::Mistake(message) => Err(self.mistake(message)),
        }
    }

    fn mistake(&self, message: String) -> EarlyExit {
        EarlyExit::Usage {
            message,
            usage: self.usage(),
        }
    }

    /// Turns Go's syntax into one `--name=value` per flag.
    fn tokens(&self, args: Vec<String>) -> (Vec<String>, Ending) {
        let mut tokens = Vec::new();
        let mut args = args.into_iter().peekable();
        while let Some(arg) = args.next() {
            let Some(body) = flag_body(&arg) else {
                let first = (arg != "--").then_some(arg);
                return (
                    tokens,
                    Ending::Words(first.into_iter().chain(args).collect()),
                );
            };
            if body.is_empty() || body.starts_with(['-', '=']) {
                return (tokens, Ending::Mistake(format!("bad flag syntax: {arg}")));
            }
            let (name, attached) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let Some(flag) = self.find(name) else {
                let ending = match name {
                    "h" | "help" => Ending::Help,
                    _ => Ending::Mistake(format!("flag provided but not defined: -{name}")),
                };
                return (tokens, ending);
            };
            let is_integer = |word: &String| golang::parse_int(word, 0).is_ok();
            let value = match flag.form() {
                _ if attached.is_some() => attached,
                Form::Required => args.next(),
                Form::BareOrInteger if args.peek().is_some_and(is_integer) => args.next(),
                Form::Bare | Form::BareOrInteger => Some("true".to_owned()),
            };
            let Some(value) = value else {
                return (
                    tokens,
                    Ending::Mistake(format!("flag needs an argument: -{name}")),
                );
            };
            tokens.push(format!("--{name}={value}"));
        }
        (tokens, Ending::Complete)
    }

    fn command(&self) -> Command {
        let arg = |flag: &Flag| {
            let row = flag.clone();
            Arg::new(flag.name)
                .long(flag.name)
                .action(ArgAction::Append)
                .require_equals(true)
                .value_parser(move |text: &str| row.parse(text))
        };
        Command::new(self.program)
            .no_binary_name(true)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .args(self.flags.iter().map(arg))
    }

    fn collect(&self, tokens: Vec<String>) -> Result<BTreeMap<&'static str, Value>, EarlyExit> {
        let mut matches =
            self.command()
                .try_get_matches_from(tokens)
                .map_err(|error| {
                    match error
                        .source()
                        .and_then(|source| source.downcast_ref::<Refusal>())
                    {
                        Some(Refusal::Plain(text)) => EarlyExit::Plain(text.clone()),
                        Some(Refusal::Flag(text)) => self.mistake(text.clone()),
                        None => self.mistake(error.to_string()),
                    }
                })?;
        let mut given = BTreeMap::new();
        for flag in &self.flags {
            let occurrences = matches
                .remove_many::<Value>(flag.name)
                .into_iter()
                .flatten();
            let merged = occurrences.reduce(|mut value, next| {
                value.merge(next);
                value
            });
            if let Some(mut value) = merged {
                if let (Kind::Floats, Value::Floats(numbers)) = (&flag.kind, &mut value) {
                    numbers.sort_by(|a, b| b.total_cmp(a));
                }
                given.insert(flag.name, value);
            }
        }
        Ok(given)
    }
}

/// The part of a flag after its one or two dashes; `None` when the argument is no flag.
fn flag_body(arg: &str) -> Option<&str> {
    if arg.len() < 2 || arg == "--" {
        return None;
    }
    arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))
}

fn utf8(args: impl IntoIterator<Item = OsString>) -> Result<Vec<String>, String> {
    let text = |arg: OsString| {
        arg.into_string()
            .map_err(|arg| format!("argument is not valid UTF-8: {}", arg.display()))
    };
    args.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Custom;

    fn table() -> FlagTable {
        let number_or_bool = Custom {
            parse: |text| match (golang::parse_bool(text), golang::parse_int(text, 0)) {
                (None, Err(error)) => Err(error.to_string()),
                _ => Ok(Value::Text(text.to_owned())),
            },
            form: Form::BareOrInteger,
            type_name: "",
        };
        FlagTable::new(
            "nsqd",
            vec![
                Flag::bool("version", false, "print version string").without_key(),
                Flag::bool("deflate", true, "enable deflate"),
                Flag::int("node-id", 617, "id").key("id"),
                Flag::float("sample", 1.0, "share"),
                Flag::duration("sync-timeout", "2s", "time"),
                Flag::text("data-path", "", "path"),
                Flag::list("lookupd-tcp-address", "address"),
                Flag::floats("percentile", "percentiles"),
                Flag::new(
                    "worker-id",
                    Kind::Custom(number_or_bool),
                    Value::Int(0),
                    "old",
                ),
                crate::log_level_flag(),
            ],
        )
    }

    fn parse(args: &[&str]) -> Result<CommandLine, EarlyExit> {
        table().parse(args.iter().map(OsString::from))
    }

    fn message(args: &[&str]) -> String {
        let exit = parse(args).expect_err("refused");
        let EarlyExit::Usage { message, usage } = exit else {
            panic!("{args:?} gave {exit:?}")
        };
        assert!(
            usage.starts_with("Usage of nsqd:\n  -data-path string\n"),
            "{usage}"
        );
        message
    }

    #[test]
    fn values_are_attached_as_in_go() {
        let text = |text: &str| Value::Text(text.into());
        let cases: [(&[&str], &str, Value); 22] = [
            (&["-node-id=5"], "node-id", Value::Int(5)),
            (&["--node-id", "5"], "node-id", Value::Int(5)),
            (&["--node-id", "-5"], "node-id", Value::Int(-5)),
            (&["-node-id=0x10"], "node-id", Value::Int(16)),
            (&["-node-id=1_0"], "node-id", Value::Int(10)),
            (&["-node-id=1", "-node-id=2"], "node-id", Value::Int(2)),
            (&["-deflate"], "deflate", Value::Bool(true)),
            (&["--deflate=F"], "deflate", Value::Bool(false)),
            (
                &["-deflate=false", "-deflate"],
                "deflate",
                Value::Bool(true),
            ),
            (
                &["-sync-timeout=1.5h"],
                "sync-timeout",
                Value::Duration(5_400_000_000_000),
            ),
            (&["-sync-timeout", "0"], "sync-timeout", Value::Duration(0)),
            (&["-sample=.5"], "sample", Value::Float(0.5)),
            (&["-data-path="], "data-path", text("")),
            (&["-data-path", ""], "data-path", text("")),
            (&["-data-path=a=b"], "data-path", text("a=b")),
            (
                &["-data-path", "--node-id=3"],
                "data-path",
                text("--node-id=3"),
            ),
            (&["-data-path", "--"], "data-path", text("--")),
            (&["-log-level=WARN"], "log-level", Value::Int(3)),
            (
                &[
                    "-lookupd-tcp-address=a:1,b:2",
                    "--lookupd-tcp-address",
                    "c:3",
                ],
                "lookupd-tcp-address",
                Value::List(vec!["a:1,b:2".into(), "c:3".into()]),
            ),
            (
                &["-percentile=0.5,1.0", "-percentile=0.99"],
                "percentile",
                Value::Floats(vec![1.0, 0.99, 0.5]),
            ),
            (&["-worker-id", "5"], "worker-id", text("5")),
            (&["-worker-id", "-deflate"], "worker-id", text("true")),
        ];
        for (args, name, expected) in cases {
            let line = parse(args).unwrap_or_else(|exit| panic!("{args:?} gave {exit:?}"));
            assert_eq!(line.get(name), Some(&expected), "{args:?}");
            assert!(line.positionals.is_empty());
        }
    }

    #[test]
    fn only_given_flags_are_given() {
        assert_eq!(parse(&[]), Ok(CommandLine::default()));
        assert_eq!(parse(&["--"]), Ok(CommandLine::default()));
        let line = parse(&["-deflate=true"]).expect("fine");
        assert_eq!(line.given.keys().copied().collect::<Vec<_>>(), ["deflate"]);
    }

    #[test]
    fn mistakes_have_the_texts_of_go() {
        let cases: [(&[&str], &str); 18] = [
            (&["-nope"], "flag provided but not defined: -nope"),
            (&["--nope=3"], "flag provided but not defined: -nope"),
            (&["-node-id"], "flag needs an argument: -node-id"),
            (&["---x"], "bad flag syntax: ---x"),
            (&["-=5"], "bad flag syntax: -=5"),
            (
                &["-node-id=abc"],
                r#"invalid value "abc" for flag -node-id: parse error"#,
            ),
            (
                &["-node-id="],
                r#"invalid value "" for flag -node-id: parse error"#,
            ),
            (
                &["-node-id=1e3"],
                r#"invalid value "1e3" for flag -node-id: parse error"#,
            ),
            (
                &["-node-id=99999999999999999999"],
                r#"invalid value "99999999999999999999" for flag -node-id: value out of range"#,
            ),
            (
                &["-sync-timeout=5"],
                r#"invalid value "5" for flag -sync-timeout: parse error"#,
            ),
            (
                &["-deflate=5"],
                r#"invalid boolean value "5" for -deflate: parse error"#,
            ),
            (
                &["-deflate="],
                r#"invalid boolean value "" for -deflate: parse error"#,
            ),
            (
                &["-sample=x"],
                r#"invalid value "x" for flag -sample: parse error"#,
            ),
            (
                &["-log-level=loud"],
                "invalid value \"loud\" for flag -log-level: \
                 invalid log level 'loud' (debug, info, warn, error, fatal)",
            ),
            // The first mistake counts, whichever step finds it.
            (
                &["-node-id=abc", "-nope"],
                r#"invalid value "abc" for flag -node-id: parse error"#,
            ),
            (
                &["-nope", "-node-id=abc"],
                "flag provided but not defined: -nope",
            ),
            (
                &["-node-id=abc", "-h"],
                r#"invalid value "abc" for flag -node-id: parse error"#,
            ),
            (
                &["-version", "-nope"],
                "flag provided but not defined: -nope",
            ),
        ];
        for (args, expected) in cases {
            assert_eq!(message(args), expected, "{args:?}");
        }
    }

    #[test]
    fn leftover_words_are_refused_unless_wanted() {
        for args in [
            &["-deflate", "false", "--node-id=9"] as &[&str],
            &["--", "false"],
        ] {
            let message = message(args);
            assert!(
                message.starts_with(r#"unexpected argument "false""#),
                "{message}"
            );
        }
        assert!(message(&["-"]).starts_with(r#"unexpected argument "-""#));
        let words = ["-node-id=1", "a", "-node-id=2"].map(OsString::from);
        let line = table().allow_positionals().parse(words).expect("wanted");
        assert_eq!(line.positionals, ["a", "-node-id=2"]);
        assert_eq!(line.get("node-id"), Some(&Value::Int(1)));
    }

    #[test]
    fn help_and_version_end_the_program() {
        for word in ["-h", "--help", "-help=5"] {
            assert_eq!(
                parse(&[word, "-nope"]),
                Err(EarlyExit::Help(table().usage()))
            );
        }
        let load = |args: &[&str]| table().load(args.iter().map(OsString::from));
        assert_eq!(
            load(&["-version"]).expect_err("ends"),
            EarlyExit::Version(banner("nsqd"))
        );
        assert!(load(&["-version=false"]).is_ok());
        let table = table().banner(crate::short_banner);
        let exit = table.load(["--version".into()]).expect_err("ends");
        assert_eq!(exit, EarlyExit::Version(crate::short_banner("nsqd")));
    }

    #[test]
    fn unreadable_percentile_is_a_plain_line() {
        let exit = parse(&["-percentile=0.5,abc"]).expect_err("refused");
        assert_eq!(exit, EarlyExit::Plain("Could not parse: abc".into()));
    }

    #[test]
    fn arguments_must_be_text() {
        use std::os::unix::ffi::OsStringExt;
        let exit = table()
            .parse([OsString::from_vec(vec![b'-', 0xff])])
            .expect_err("refused");
        assert_eq!(exit.code(), 2);
    }

    #[test]
    #[should_panic(expected = "declared once")]
    fn a_name_is_declared_once() {
        let flag = || Flag::bool("a", false, "");
        drop(FlagTable::new("nsqd", vec![flag(), flag()]));
    }
}
