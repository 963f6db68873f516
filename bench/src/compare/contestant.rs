//! Who is compared, and a broker process from its start to its end.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, syncfs};
use serde::{Deserialize, Serialize};

use crate::certificate::Files;

/// How long a broker may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a process is asked whether it has ended.
const END_INTERVAL: Duration = Duration::from_millis(5);
/// Log lines that are kept to explain a failure.
const LOG_LINES: usize = 5;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    /// The Go nsqd.
    Reference,
    /// Our nsqd.
    Ours,
    /// A server that does next to nothing.
    Floor,
}

/// Programs, and where their data may go.
#[derive(Debug, Clone)]
pub(super) struct Contestants {
    /// The Go nsqd.
    pub(super) reference: PathBuf,
    /// Our nsqd.
    pub(super) ours: PathBuf,
    /// This program, which is the load generator and the floor.
    pub(super) bench: PathBuf,
    /// The folder that holds the data of the broker that runs.
    pub(super) work: PathBuf,
    /// What both brokers prove themselves with, where they speak TLS.
    pub(super) tls: Files,
}

impl Side {
    /// All of them, in the order of the table.
    pub(super) const ALL: [Self; 3] = [Self::Reference, Self::Ours, Self::Floor];

    /// As it is called in the results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Ours => "ours",
            Self::Floor => "floor",
        }
    }

    /// What an acknowledged publish is worth with the flags that are used.
    pub(super) fn durability(self) -> &'static str {
        match self {
            Self::Reference => {
                "OK means: in memory, or beyond --mem-queue-size written to the kernel; a kill loses what is in memory"
            }
            Self::Ours => "OK means: written to the kernel (--sync=interval); a kill loses nothing",
            Self::Floor => "keeps nothing",
        }
    }
}

impl Contestants {
    /// The command line of a side, without the programs' folder.
    pub(super) fn command(&self, side: Side, flags: &[String]) -> Vec<String> {
        let mut words: Vec<String> = match side {
            Side::Floor => vec!["floor".into(), "--tcp".into(), "127.0.0.1:0".into()],
            Side::Reference | Side::Ours => vec![
                "--tcp-address=127.0.0.1:0".into(),
                "--http-address=127.0.0.1:0".into(),
                format!("--data-path={}", self.data().display()),
            ],
        };
        words.extend_from_slice(flags);
        words
    }

    /// Says in a command line's words where certificate and key are.
    pub(super) fn point(&self, words: Vec<String>) -> Vec<String> {
        let at = |path: &Path| path.display().to_string();
        let (certificate, key) = (at(&self.tls.certificate), at(&self.tls.key));
        let point = |word: String| {
            word.replace("{certificate}", &certificate)
                .replace("{key}", &key)
        };
        words.into_iter().map(point).collect()
    }

    /// A side's program.
    pub(super) fn program(&self, side: Side) -> &Path {
        match side {
            Side::Reference => &self.reference,
            Side::Ours => &self.ours,
            Side::Floor => &self.bench,
        }
    }

    /// First line of `--version`.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(super) fn version(&self, side: Side) -> Result<String> {
        let program = self.program(side);
        let output = Command::new(program)
            .arg("--version")
            .output()
            .with_context(|| format!("run {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn data(&self) -> PathBuf {
        self.work.join("data")
    }

    /// A data folder with nothing but so many topics, on a disk that has nothing left to write, so that no
    /// side pays for another.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn fresh_data(&self, topics: usize) -> Result<()> {
        self.remove_data()?;
        fs::create_dir_all(self.data())?;
        if topics > 0 {
            fs::write(self.data().join("nsqd.dat"), metadata(topics).to_string())?;
        }
        syncfs(File::open(&self.work)?)?;
        Ok(())
    }

    /// Removes what a broker has left.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn remove_data(&self) -> Result<()> {
        let data = self.data();
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        }
        Ok(())
    }

    /// Writes the data back and drops it from the kernel's memory.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn make_cold(&self) -> Result<()> {
        let mut folders = vec![self.data()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let file = File::open(entry.path())?;
                file.sync_all()?;
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            }
        }
        Ok(())
    }
}

/// A running broker; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Broker {
    child: Child,
    log: Receiver<String>,
    /// Where it listens.
    pub(super) tcp: SocketAddr,
    /// Its HTTP door; the floor has none.
    pub(super) http: Option<SocketAddr>,
}

impl Broker {
    /// Starts a side and waits until it listens.
    ///
    /// # Errors
    /// It does not start, or not in time.
    pub(super) fn start(contestants: &Contestants, side: Side, flags: &[String]) -> Result<Self> {
        let program = contestants.program(side);
        let mut child = Command::new(program)
            .args(contestants.command(side, flags))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stderr = child.stderr.take().expect("it was asked for");
        let (doors, log) = follow(stderr);
        let (tcp, http) = wait_for_doors(&doors, side != Side::Floor);
        let (Some(tcp), true) = (tcp, http.is_some() || side == Side::Floor) else {
            end(&mut child);
            let last = log.iter().last().unwrap_or_default();
            bail!("{} does not listen: {last}", program.display());
        };
        Ok(Self {
            child,
            log,
            tcp,
            http,
        })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Why it is no longer there, if it is not.
    pub(super) fn obituary(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let last: Vec<String> = self.log.iter().collect();
        Some(format!(
            "the broker has ended ({status}): {}",
            last.join(" | ")
        ))
    }

    /// Asks it to end in order, and waits for that.
    ///
    /// # Errors
    /// It does not end in time, or reports a failure.
    pub(super) fn stop(mut self, deadline: Instant) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the broker ended with {status}");
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("the broker does not stop in time");
            }
            thread::sleep(END_INTERVAL);
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// What both brokers keep of their topics.
fn metadata(topics: usize) -> serde_json::Value {
    let topic = |number| {
        serde_json::json!({
            "name": format!("topic-{number}"),
            "paused": false,
            "channels": [{"name": "ch0", "paused": false}],
        })
    };
    let topics: Vec<_> = (0..topics).map(topic).collect();
    serde_json::json!({"version": "1.3.0", "topics": topics})
}

/// Ends a process that may have ended already; what it leaves is thrown away.
fn end(child: &mut Child) {
    let _gone = child.kill();
    let _gone = child.wait();
}

/// The TCP and the HTTP door, in whatever order they open.
fn wait_for_doors(
    doors: &Receiver<(String, SocketAddr)>,
    both: bool,
) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let deadline = Instant::now() + START_TIMEOUT;
    let (mut tcp, mut http) = (None, None);
    while tcp.is_none() || (both && http.is_none()) {
        let left = deadline.saturating_duration_since(Instant::now());
        match doors.recv_timeout(left) {
            Ok((name, address)) if name == "TCP" => tcp = Some(address),
            Ok((name, address)) if name == "HTTP" => http = Some(address),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    (tcp, http)
}

/// Reads the log to its end, so that nobody waits with a full pipe: where it listens, and the last lines.
fn follow(
    stderr: impl Read + Send + 'static,
) -> (Receiver<(String, SocketAddr)>, Receiver<String>) {
    let (doors, found) = mpsc::channel();
    let (tail, log) = mpsc::channel();
    thread::spawn(move || {
        let mut last: VecDeque<String> = VecDeque::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            tell_door(&line, &doors);
            last.push_back(line);
            if last.len() > LOG_LINES {
                last.pop_front();
            }
        }
        // Nobody asks when all went well.
        last.into_iter().for_each(|line| drop(tail.send(line)));
    });
    (found, log)
}

fn tell_door(line: &str, doors: &Sender<(String, SocketAddr)>) {
    let Some((before, address)) = line.split_once(": listening on ") else {
        return;
    };
    let name = before.rsplit(' ').next().unwrap_or_default();
    if let Ok(address) = address.trim().parse() {
        // Later lines may come when nobody waits any more.
        drop(doors.send((name.to_owned(), address)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_and_last_words_are_found_in_a_log() {
        let log = "[nsqd] 2026/11/21 09:00:00.000000 INFO: nsqd v1.3.0\n\
                   [nsqd] 2026/11/21 09:00:00.000000 INFO: HTTP: listening on [::]:4151\n\
                   [nsqd] 2026/11/21 09:00:00.000000 INFO: TCP: listening on 127.0.0.1:4150\n\
                   a\nb\nc\nd\ne\n";
        let (doors, log) = follow(log.as_bytes());
        let (tcp, http) = wait_for_doors(&doors, true);
        assert_eq!(tcp, Some("127.0.0.1:4150".parse().unwrap()));
        assert_eq!(http, Some("[::]:4151".parse().unwrap()));
        assert_eq!(log.iter().collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn a_program_that_does_not_listen_is_an_error_with_its_last_words() {
        let contestants = Contestants {
            reference: "/bin/false".into(),
            ours: "/nowhere/nsqd".into(),
            bench: "/bin/false".into(),
            work: std::env::temp_dir(),
            tls: Files::within(&std::env::temp_dir()),
        };
        let error = Broker::start(&contestants, Side::Reference, &[]).unwrap_err();
        assert!(error.to_string().contains("does not listen"), "{error}");
        let error = Broker::start(&contestants, Side::Ours, &[]).unwrap_err();
        assert!(error.to_string().contains("/nowhere/nsqd"), "{error}");
    }
}
