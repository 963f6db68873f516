//! Real brokers: the one of this workspace and the reference, each with its own directory and ports.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A running nsqd; killed when dropped.
pub(crate) struct Broker {
    process: Child,
    pub(crate) address: String,
    _data: TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// `RINGQ_NSQD`, or the nsqd that was built beside this test.
fn ours() -> Option<PathBuf> {
    let named = std::env::var_os("RINGQ_NSQD").map(PathBuf::from);
    let built = || {
        Some(
            std::env::current_exe()
                .ok()?
                .parent()?
                .parent()?
                .join("nsqd"),
        )
    };
    named.or_else(built).filter(|path| path.exists())
}

/// `RINGQ_REFERENCE_NSQD`, or what the scripts have installed.
fn reference() -> Option<PathBuf> {
    let named = std::env::var_os("RINGQ_REFERENCE_NSQD").map(PathBuf::from);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/reference/nsqd");
    let path = named.unwrap_or_else(|| root.into());
    path.exists().then_some(path)
}

impl Broker {
    /// Starts the nsqd of this workspace; says so when there is none.
    pub(crate) fn ours(flags: &[&str]) -> Option<Self> {
        Self::start_if_there(ours(), "nsqd of this workspace (RINGQ_NSQD)", flags)
    }

    /// Starts the reference; says so when there is none.
    pub(crate) fn reference(flags: &[&str]) -> Option<Self> {
        Self::start_if_there(reference(), "reference nsqd (RINGQ_REFERENCE_NSQD)", flags)
    }

    /// All that there are.
    pub(crate) fn all() -> Vec<Self> {
        let both = [Self::ours(&[]), Self::reference(&[])];
        both.into_iter().flatten().collect()
    }

    fn start_if_there(program: Option<PathBuf>, what: &str, flags: &[&str]) -> Option<Self> {
        if program.is_none() {
            println!("skipped: no {what}");
        }
        program.map(|program| Self::start(program, flags))
    }

    fn start(program: PathBuf, flags: &[&str]) -> Self {
        let data = TempDir::new().unwrap();
        let mut process = Command::new(program)
            .args(["-tcp-address=127.0.0.1:0", "-http-address=127.0.0.1:0"])
            .args(["-https-address=", "-broadcast-address=127.0.0.1"])
            .arg("-data-path")
            .arg(data.path())
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("it says where it listens").unwrap();
            if let Some((_, address)) = line.split_once("TCP: listening on ") {
                break address.to_owned();
            }
        };
        // Read to the end, or it would stop when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            address,
            _data: data,
        }
    }
}
