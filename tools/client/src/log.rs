//! Where the library's log lines go.
//!
//! A line is composed here (`INF    1 [topic/channel] (address) text`) and handed to the sink, which
//! puts a time before it and writes it. Below the least level nothing is formatted.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the usual four")]
pub enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
}

impl LogLevel {
    /// The word in a line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DBG",
            Self::Info => "INF",
            Self::Warning => "WRN",
            Self::Error => "ERR",
        }
    }
}

type Sink = dyn Fn(LogLevel, &str) + Send + Sync;

/// A destination of log lines, shared by clones.
#[derive(Clone, Default)]
pub struct Log {
    /// Least level and sink; `None` is silence.
    target: Option<(LogLevel, Arc<Sink>)>,
}

impl Log {
    /// Hands lines of at least this level to `sink`: the level, and the line without time and line
    /// break. The sink is called on the tasks of the library and must not block.
    pub fn new(least: LogLevel, sink: impl Fn(LogLevel, &str) + Send + Sync + 'static) -> Self {
        Self {
            target: Some((least, Arc::new(sink))),
        }
    }

    /// Writes to stderr with date and time before each line, as the Go clients do.
    #[must_use]
    pub fn stderr(least: LogLevel) -> Self {
        Self::new(least, |_, line| {
            // A closed stderr must not stop a client.
            drop(std::io::stderr().write_all(nsq_cli::plain_line(line).as_bytes()));
        })
    }

    /// Drops every line.
    #[must_use]
    pub fn silent() -> Self {
        Self::default()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.target.as_ref().map(|(least, _)| least);
        f.debug_struct("Log").field("least", &least).finish()
    }
}

/// Counts the consumers and producers of the process, from 1.
static INSTANCES: AtomicU64 = AtomicU64::new(0);

/// The log of one consumer or producer: knows its number and what stands before the text.
#[derive(Debug, Clone)]
pub(crate) struct InstanceLog {
    log: Log,
    instance: u64,
    /// `[topic/channel] ` or nothing.
    scope: Arc<str>,
}

impl InstanceLog {
    /// Takes the next number.
    pub(crate) fn new(log: Log, scope: &str) -> Self {
        Self {
            log,
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed) + 1,
            scope: scope.into(),
        }
    }

    pub(crate) fn line(&self, level: LogLevel, text: fmt::Arguments<'_>) {
        if let Some((least, sink)) = &self.log.target
            && level >= *least
        {
            let (word, instance, scope) = (level.as_str(), self.instance, &self.scope);
            sink(level, &format!("{word:<4} {instance:>3} {scope}{text}"));
        }
    }

    pub(crate) fn debug(&self, text: fmt::Arguments<'_>) {
        self.line(LogLevel::Debug, text);
    }

    pub(crate) fn info(&self, text: fmt::Arguments<'_>) {
        self.line(LogLevel::Info, text);
    }

    pub(crate) fn warn(&self, text: fmt::Arguments<'_>) {
        self.line(LogLevel::Warning, text);
    }

    pub(crate) fn error(&self, text: fmt::Arguments<'_>) {
        self.line(LogLevel::Error, text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn lines_have_the_form_of_the_go_clients() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&lines);
        let log = Log::new(LogLevel::Info, move |level, line| {
            seen.lock().unwrap().push((level, line.to_owned()));
        });
        let mut log = InstanceLog::new(log, "[t/c] ");
        log.instance = 1;
        log.debug(format_args!("hidden"));
        log.info(format_args!("({}) connecting to nsqd", "127.0.0.1:4150"));
        log.instance = 1234;
        log.error(format_args!("bad"));
        let expected = [
            (
                LogLevel::Info,
                "INF    1 [t/c] (127.0.0.1:4150) connecting to nsqd",
            ),
            (LogLevel::Error, "ERR  1234 [t/c] bad"),
        ]
        .map(|(level, line)| (level, line.to_owned()));
        assert_eq!(*lines.lock().unwrap(), expected);
    }

    #[test]
    fn instances_are_numbered() {
        let first = InstanceLog::new(Log::silent(), "");
        let second = InstanceLog::new(Log::silent(), "");
        assert!(second.instance > first.instance);
    }
}
