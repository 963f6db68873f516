//! Ends of a program that never began: help, version, flag errors, fatal start-up errors.
//!
//! Each is a value until `main` reports it, so that everything before can be tested.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::log::{self, Level};

/// Why the program ends before it has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlyExit {
    /// `-version`: the banner on stdout, exit 0.
    Version(String),
    /// `-help`: the usage on stderr, exit 0.
    Help(String),
    /// A flag error: message and usage on stderr, exit 2.
    Usage {
        /// One line.
        message: String,
        /// As for [`EarlyExit::Help`].
        usage: String,
    },
    /// A line with date and time but no level or prefix on stderr, exit 1.
    Plain(String),
    /// A FATAL line with the program's own prefix on stderr, exit 1.
    Fatal(String),
}

impl EarlyExit {
    /// Tells the user and says how `main` is to end. `program` gives the prefix of FATAL lines.
    #[must_use]
    pub fn report(&self, program: &str) -> ExitCode {
        // Nobody is left to tell when stdout or stderr is gone.
        drop(match self {
            Self::Version(banner) => writeln!(io::stdout(), "{banner}"),
            Self::Help(_) | Self::Usage { .. } | Self::Plain(_) | Self::Fatal(_) => {
                io::stderr().write_all(self.to_stderr_text(program).as_bytes())
            }
        });
        ExitCode::from(self.code())
    }

    /// The exit status.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Version(_) | Self::Help(_) => 0,
            Self::Usage { .. } => 2,
            Self::Plain(_) | Self::Fatal(_) => 1,
        }
    }

    fn to_stderr_text(&self, program: &str) -> String {
        match self {
            Self::Version(_) => String::new(),
            Self::Help(usage) => usage.clone(),
            Self::Usage { message, usage } => format!("{message}\n{usage}"),
            Self::Plain(text) => log::plain_line(text),
            Self::Fatal(text) => {
                let mut line = String::new();
                log::write_line(&mut line, &format!("[{program}] "), Level::Fatal, text);
                line
            }
        }
    }
}

/// Writes `[<program>] <time> FATAL: <text>` to stderr, whatever the log prefix and level are, and
/// returns the exit status 1.
#[must_use]
pub fn fatal(program: &str, text: &dyn std::fmt::Display) -> ExitCode {
    EarlyExit::Fatal(text.to_string()).report(program)
}

/// As [`fatal`], with the text `failed to instantiate <program> - <reason>`.
#[must_use]
pub fn fatal_startup(program: &str, reason: &dyn std::fmt::Display) -> ExitCode {
    fatal(
        program,
        &format_args!("failed to instantiate {program} - {reason}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_streams() {
        let usage = || "Usage of nsqd:\n".to_owned();
        let flag = EarlyExit::Usage {
            message: "bad".into(),
            usage: usage(),
        };
        assert_eq!(
            (flag.code(), flag.to_stderr_text("nsqd")),
            (2, "bad\nUsage of nsqd:\n".into())
        );
        let help = EarlyExit::Help(usage());
        assert_eq!((help.code(), help.to_stderr_text("nsqd")), (0, usage()));
        assert_eq!(EarlyExit::Version("v".into()).code(), 0);

        let fatal = EarlyExit::Fatal("failed to instantiate nsqd - x".into());
        assert_eq!(fatal.code(), 1);
        let line = fatal.to_stderr_text("nsqd");
        assert!(line.starts_with("[nsqd] 2"), "{line}");
        assert!(
            line.ends_with(" FATAL: failed to instantiate nsqd - x\n"),
            "{line}"
        );

        let plain = EarlyExit::Plain("Could not parse: abc".into());
        assert_eq!(plain.code(), 1);
        let line = plain.to_stderr_text("nsqd");
        assert_eq!(
            line.len(),
            "2026/11/21 03:32:29 Could not parse: abc\n".len()
        );
        assert!(line.ends_with(" Could not parse: abc\n"), "{line}");
    }
}
