//! Log lines: `<prefix>YYYY/MM/DD HH:MM:SS.uuuuuu LEVEL: message`, local time, on stderr.
//!
//! One line is one `write`, so lines of several threads never mix. A line that cannot be written
//! (closed pipe, full disk) is dropped: logging never stops a broker.
//!
//! Owner: made once by `main`; clones share the level and may be used from any thread. Below the
//! level a call costs one relaxed atomic load and formats nothing.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Local;

use crate::{Custom, Flag, Form, Kind, Value};

/// How much a line matters. The numbers are those of `GET /config/log_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the usual five")]
pub enum Level {
    Debug = 1,
    Info = 2,
    Warn = 3,
    Error = 4,
    Fatal = 5,
}

/// A word that is no level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid log level '{0}' (debug, info, warn, error, fatal)")]
pub struct LevelError(pub String);

impl Level {
    const ALL: [Self; 5] = [
        Self::Debug,
        Self::Info,
        Self::Warn,
        Self::Error,
        Self::Fatal,
    ];

    /// The word in a log line; note that flags say `warn`, lines `WARNING`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARNING",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }

    /// The level of that number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.number() == number)
    }

    /// 1 (debug) to 5 (fatal).
    #[must_use]
    pub const fn number(self) -> i64 {
        self as i64
    }
}

impl std::str::FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "fatal" => Ok(Self::Fatal),
            _ => Err(LevelError(text.to_owned())),
        }
    }
}

/// The row of `--log-level`; its value is the level's number as [`Value::Int`].
#[must_use]
pub fn log_level_flag() -> Flag {
    let parse = |text: &str| match text.parse::<Level>() {
        Ok(level) => Ok(Value::Int(level.number())),
        Err(error) => Err(error.to_string()),
    };
    let kind = Kind::Custom(Custom {
        parse,
        form: Form::Required,
        type_name: "value",
    });
    let help = "set log verbosity: debug, info, warn, error, or fatal";
    Flag::new("log-level", kind, Value::Int(Level::Info.number()), help).default_text("INFO")
}

/// Writes log lines. Clones write to the same place with the same level.
#[derive(Debug, Clone)]
pub struct Logger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    prefix: String,
    /// A [`Level`]; lines below it are not written.
    level: AtomicU8,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Stderr,
    Memory(Mutex<String>),
}

impl Logger {
    /// Lines with that prefix, from that level on, to stderr.
    #[must_use]
    pub fn new(prefix: impl Into<String>, level: Level) -> Self {
        Self::with_sink(prefix.into(), level, Sink::Stderr)
    }

    /// The same into memory, for tests: see [`Self::captured`].
    #[must_use]
    pub fn in_memory(prefix: impl Into<String>, level: Level) -> Self {
        Self::with_sink(prefix.into(), level, Sink::Memory(Mutex::default()))
    }

    fn with_sink(prefix: String, level: Level, sink: Sink) -> Self {
        let level = AtomicU8::new(level as u8);
        Self {
            inner: Arc::new(Inner {
                prefix,
                level,
                sink,
            }),
        }
    }

    /// What was written so far by a logger made with [`Self::in_memory`]; else nothing.
    #[must_use]
    pub fn captured(&self) -> String {
        match &self.inner.sink {
            Sink::Stderr => String::new(),
            Sink::Memory(text) => text.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Whether lines of that level are written.
    #[must_use]
    pub fn enabled(&self, level: Level) -> bool {
        level as u8 >= self.inner.level.load(Ordering::Relaxed)
    }

    /// The level from which on lines are written.
    #[must_use]
    pub fn level(&self) -> Level {
        let number = i64::from(self.inner.level.load(Ordering::Relaxed));
        Level::from_number(number).expect("only levels are stored")
    }

    /// Changes the level, for all clones.
    pub fn set_level(&self, level: Level) {
        self.inner.level.store(level as u8, Ordering::Relaxed);
    }

    /// Writes a line if its level is enabled. Line breaks in it are written as `\n` and `\r`, so
    /// that what a client sent cannot pass for a line of its own.
    pub fn log(&self, level: Level, message: fmt::Arguments<'_>) {
        if self.enabled(level) {
            self.write(level, message);
        }
    }

    /// A line at DEBUG.
    pub fn debug(&self, message: fmt::Arguments<'_>) {
        self.log(Level::Debug, message);
    }

    /// A line at INFO.
    pub fn info(&self, message: fmt::Arguments<'_>) {
        self.log(Level::Info, message);
    }

    /// A line at WARNING.
    pub fn warn(&self, message: fmt::Arguments<'_>) {
        self.log(Level::Warn, message);
    }

    /// A line at ERROR.
    pub fn error(&self, message: fmt::Arguments<'_>) {
        self.log(Level::Error, message);
    }

    /// A line at FATAL. Ending the program is the caller's part.
    pub fn fatal(&self, message: fmt::Arguments<'_>) {
        self.log(Level::Fatal, message);
    }

    #[cold]
    fn write(&self, level: Level, message: fmt::Arguments<'_>) {
        let mut line = String::with_capacity(160);
        match message.as_str() {
            Some(text) => write_line(&mut line, &self.inner.prefix, level, text),
            None => write_line(&mut line, &self.inner.prefix, level, &message.to_string()),
        }
        match &self.inner.sink {
            // Unbuffered: the whole line is one write(2). Losing it is better than failing.
            Sink::Stderr => drop(io::stderr().write_all(line.as_bytes())),
            Sink::Memory(text) => {
                text.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&line);
            }
        }
    }
}

/// Appends a whole log line to `out`.
pub(crate) fn write_line(out: &mut String, prefix: &str, level: Level, message: &str) {
    let now = Local::now().format("%Y/%m/%d %H:%M:%S%.6f");
    write!(out, "{prefix}{now} {}: ", level.as_str()).expect("writing to a string");
    push_on_one_line(out, message);
}

/// A line without prefix and level and with whole seconds, as Go's default logger writes it.
#[must_use]
pub fn plain_line(message: &str) -> String {
    let mut line = format!("{} ", Local::now().format("%Y/%m/%d %H:%M:%S"));
    push_on_one_line(&mut line, message);
    line
}

fn push_on_one_line(out: &mut String, message: &str) {
    for piece in message.split_inclusive(['\n', '\r']) {
        match piece.as_bytes().last() {
            Some(b'\n') => *out += &format!("{}\\n", &piece[..piece.len() - 1]),
            Some(b'\r') => *out += &format!("{}\\r", &piece[..piece.len() - 1]),
            _ => out.push_str(piece),
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `0` in the pattern is any digit, everything else itself.
    fn has_shape(text: &str, pattern: &str) -> bool {
        text.len() == pattern.len()
            && text
                .bytes()
                .zip(pattern.bytes())
                .all(|(byte, wanted)| match wanted {
                    b'0' => byte.is_ascii_digit(),
                    _ => byte == wanted,
                })
    }

    #[test]
    fn lines_have_the_reference_format() {
        let log = Logger::in_memory("[nsqd] ", Level::Debug);
        log.debug(format_args!("a"));
        log.info(format_args!("NSQ: {}", "bye"));
        log.warn(format_args!("c"));
        log.error(format_args!("d"));
        log.fatal(format_args!("e"));
        let text = log.captured();
        let shapes = [
            "[nsqd] 0000/00/00 00:00:00.000000 DEBUG: a",
            "[nsqd] 0000/00/00 00:00:00.000000 INFO: NSQ: bye",
            "[nsqd] 0000/00/00 00:00:00.000000 WARNING: c",
            "[nsqd] 0000/00/00 00:00:00.000000 ERROR: d",
            "[nsqd] 0000/00/00 00:00:00.000000 FATAL: e",
        ];
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), shapes.len());
        for (line, shape) in lines.iter().zip(shapes) {
            assert!(has_shape(line, shape), "{line} is not {shape}");
        }
    }

    #[test]
    fn level_is_shared_by_clones_and_changes_at_run_time() {
        let log = Logger::in_memory("", Level::Warn);
        let clone = log.clone();
        log.info(format_args!("hidden"));
        assert_eq!(log.captured(), "");
        clone.set_level(Level::Info);
        assert_eq!(
            (log.level(), log.enabled(Level::Debug)),
            (Level::Info, false)
        );
        log.info(format_args!("shown"));
        assert!(clone.captured().ends_with(" INFO: shown\n"));
    }

    #[test]
    fn line_breaks_do_not_start_a_line() {
        let log = Logger::in_memory("", Level::Info);
        log.info(format_args!("a\nb\r\n{}", "c\n"));
        assert!(
            log.captured().ends_with(" INFO: a\\nb\\r\\nc\\n\n"),
            "{}",
            log.captured()
        );
        assert_eq!(log.captured().lines().count(), 1);
    }

    #[test]
    fn threads_write_whole_lines() {
        let log = Logger::in_memory("", Level::Info);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let log = &log;
                scope.spawn(move || {
                    for line in 0..100 {
                        log.info(format_args!("thread {thread} line {line}"));
                    }
                });
            }
        });
        let text = log.captured();
        assert_eq!(text.lines().count(), 400);
        assert!(text.lines().all(|line| line.contains(" INFO: thread ")));
    }

    #[test]
    fn levels_are_words_in_any_case() {
        let cases = [
            ("debug", Level::Debug),
            ("INFO", Level::Info),
            ("Warn", Level::Warn),
            ("error", Level::Error),
            ("fatal", Level::Fatal),
        ];
        for (word, level) in cases {
            assert_eq!(word.parse(), Ok(level));
            assert_eq!(Level::from_number(level.number()), Some(level));
        }
        let error = "warning".parse::<Level>().expect_err("not a flag word");
        assert_eq!(
            error.to_string(),
            "invalid log level 'warning' (debug, info, warn, error, fatal)"
        );
    }
}
