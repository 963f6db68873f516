//! Standard output and progress, with colour and movement on a terminal only.

use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nsq_cli::errno_text;

use crate::command::Failure;

const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";
/// Erases the rest of the line and goes back to its beginning, so that the next line overwrites it.
const OVERWRITE: &str = "\x1b[K\r";
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Writes to standard output at once. A reader that has gone ends the program as it ends others,
/// by SIGPIPE.
///
/// # Errors
/// In the words of the reference.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) else {
        return Ok(());
    };
    if error.kind() == io::ErrorKind::BrokenPipe {
        // Does not return: the default of SIGPIPE is to die.
        drop(signal_hook::low_level::emulate_default_handler(
            signal_hook::consts::SIGPIPE,
        ));
    }
    let reason = errno_text(&error);
    Err(Failure::plain(format_args!(
        "ERROR: failed to write to os.Stdout - write /dev/stdout: {reason}"
    )))
}

/// Whether standard output shows colours.
pub(crate) fn has_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// The text, bold where colours are shown.
pub(crate) fn emphasized(text: &str, colour: bool) -> String {
    if colour {
        format!("{BOLD}{text}{PLAIN}")
    } else {
        text.to_owned()
    }
}

/// Counts messages; shared by the tasks that handle them and the one that shows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    total: Arc<AtomicU64>,
}

impl Progress {
    /// Adds messages that are done.
    pub(crate) fn add(&self, count: usize) {
        self.total.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Shows rate and total every second while standard error is a terminal; never returns.
    pub(crate) async fn show(&self) -> Infallible {
        if !io::stderr().is_terminal() {
            return std::future::pending().await;
        }
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        let (mut before, mut then) = (0, Instant::now());
        loop {
            ticks.tick().await;
            let (total, now) = (self.total.load(Ordering::Relaxed), Instant::now());
            let line = progress_line(total, total - before, now.duration_since(then));
            (before, then) = (total, now);
            // Progress is a courtesy: nobody waits for it, and losing it is no failure.
            drop(write!(io::stderr(), "{line}{OVERWRITE}"));
        }
    }
}

fn progress_line(total: u64, new: u64, span: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown without decimals")]
    let rate = new as f64 / span.as_secs_f64().max(1e-3);
    format!("{total} messages, {rate:.0}/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_total_and_rate() {
        let line = progress_line(1500, 500, Duration::from_millis(500));
        assert_eq!(line, "1500 messages, 1000/s");
        assert_eq!(progress_line(0, 0, Duration::ZERO), "0 messages, 0/s");
    }

    #[test]
    fn colour_is_only_added_where_it_is_shown() {
        assert_eq!(emphasized("a", false), "a");
        assert_eq!(emphasized("a", true), "\x1b[1ma\x1b[0m");
    }
}
