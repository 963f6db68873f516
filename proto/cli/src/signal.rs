//! Signals as events that one control thread waits for.
//!
//! TERM and INT ask for a clean stop, once: while the program is stopping, further ones change
//! nothing. HUP must not kill a broker that holds messages; it is an event that the program may
//! use to read certificates or files again. USR1 is ignored, and so is XFSZ: a write beyond a limit
//! fails with an error instead. QUIT keeps its default.
//!
//! The handlers stay installed for the life of the process, also after [`Signals`] is dropped.

use std::collections::VecDeque;
use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals as Queue;

/// What a signal asks of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// TERM or INT: stop cleanly. Reported once.
    Stop,
    /// HUP: read again what is read from files.
    Hup,
}

/// The signals of this process, from [`Self::install`] on.
#[derive(Debug)]
pub struct Signals {
    queue: Queue,
    /// Numbers that arrived together with one that was reported.
    arrived: VecDeque<i32>,
    stopping: bool,
}

impl Signals {
    /// Takes over the signals. Call it before the first thread that could be hit.
    ///
    /// # Errors
    /// The system's, when the handlers or their pipe cannot be set up.
    pub fn install() -> io::Result<Self> {
        let queue = Queue::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGXFSZ])?;
        Ok(Self {
            queue,
            arrived: VecDeque::new(),
            stopping: false,
        })
    }

    /// Blocks until something is asked for. After [`Signal::Stop`] only [`Signal::Hup`] returns.
    pub fn wait(&mut self) -> Signal {
        loop {
            while let Some(number) = self.arrived.pop_front() {
                match number {
                    SIGTERM | SIGINT if !self.stopping => {
                        self.stopping = true;
                        return Signal::Stop;
                    }
                    SIGHUP => return Signal::Hup,
                    _ => {}
                }
            }
            self.arrived.extend(self.queue.wait());
        }
    }
}
