//! A line on the terminal that says how far a run is; nothing where there is no terminal.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::shared::Shared;

const INTERVAL: Duration = Duration::from_millis(500);

/// The line; it goes when this is dropped or stopped.
pub(crate) struct Progress(Option<Sender<()>>);

impl Progress {
    /// Starts the thread that writes the line.
    pub(crate) fn start<'scope>(scope: &'scope Scope<'scope, '_>, shared: Arc<Shared>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (sender, receiver) = mpsc::channel();
        scope.spawn(move || {
            let mut last = (Instant::now(), 0, 0);
            while receiver.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                last = show(&shared, last);
            }
            // Nothing is lost when the terminal has gone.
            let _gone = write!(std::io::stderr(), "\r\x1b[K");
        });
        Self(Some(sender))
    }

    /// Removes the line.
    pub(crate) fn stop(self) {
        drop(self.0);
    }
}

fn show(shared: &Shared, (then, published, consumed): (Instant, u64, u64)) -> (Instant, u64, u64) {
    let (now, new) = (
        Instant::now(),
        (shared.published.get(), shared.consumed.get()),
    );
    let seconds = (now - then).as_secs_f64();
    let rate = |count: u64| crate::process::count(count) / seconds;
    let _gone = write!(
        std::io::stderr(),
        "\r\x1b[K{:.1} s: {} published ({:.0}/s), {} consumed ({:.0}/s)",
        (now - shared.epoch()).as_secs_f64(),
        new.0,
        rate(new.0 - published),
        new.1,
        rate(new.1 - consumed),
    );
    (now, new.0, new.1)
}
