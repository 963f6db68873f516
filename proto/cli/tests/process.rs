//! What only a process of its own can show: exit status, stderr as a socket, stderr gone.
//!
//! Without the standard harness: run with an argument, this binary is the child.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, ExitCode, Output, Stdio};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use nsq_cli::{EarlyExit, Flag, FlagTable, Level, Logger, fatal_startup};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("child-log") => child_log(),
        Some("child-fatal") => fatal_startup("nsqd", &"no reason"),
        Some("child-flags") => child_flags(),
        _ => {
            each_line_is_one_write();
            closed_stderr_is_survived();
            fatal_is_reported_with_the_default_prefix();
            early_exits_use_their_stream_and_status();
            ExitCode::SUCCESS
        }
    }
}

fn child_log() -> ExitCode {
    let log = Logger::new("[x] ", Level::Info);
    for number in 0..3 {
        log.info(format_args!("line {number}"));
        log.debug(format_args!("hidden"));
    }
    ExitCode::SUCCESS
}

fn child_flags() -> ExitCode {
    let flags = vec![
        Flag::bool("version", false, "print version string").without_key(),
        Flag::text("config", "", "path").without_key(),
    ];
    match FlagTable::new("nsqd", flags).load(std::env::args_os().skip(2)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(exit) => exit.report("nsqd"),
    }
}

fn child(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(args);
    command
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = child(args).output().expect("ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// A packet socket keeps the boundaries of writes.
fn each_line_is_one_write() {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .expect("socket pair");
    let status = child(&["child-log"])
        .stderr(Stdio::from(theirs))
        .status()
        .expect("ran");
    assert!(status.success());
    let mut buffer = [0; 256];
    let mut receive = |socket: &OwnedFd| {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("received");
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    };
    for number in 0..3 {
        let line = receive(&ours);
        assert!(line.starts_with("[x] 2"), "{line:?}");
        assert!(
            line.ends_with(&format!(" INFO: line {number}\n")),
            "{line:?}"
        );
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
    }
    assert_eq!(receive(&ours), "", "nothing follows the third line");
}

fn closed_stderr_is_survived() {
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let status = child(&["child-log"])
        .stderr(Stdio::from(writer))
        .status()
        .expect("ran");
    assert_eq!(status.code(), Some(0), "{status}");
}

fn fatal_is_reported_with_the_default_prefix() {
    let (code, stdout, stderr) = run(&["child-fatal"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("[nsqd] 2"), "{stderr}");
    assert!(
        stderr.ends_with(" FATAL: failed to instantiate nsqd - no reason\n"),
        "{stderr}"
    );
}

fn early_exits_use_their_stream_and_status() {
    let (code, stdout, stderr) = run(&["child-flags", "-version", "-config=/nope"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, format!("{}\n", nsq_cli::banner("nsqd")));

    let (code, stdout, stderr) = run(&["child-flags", "-h"]);
    assert_eq!((code, stdout.as_str()), (Some(0), ""));
    assert!(
        stderr.starts_with("Usage of nsqd:\n  -config string\n"),
        "{stderr}"
    );

    let (code, stdout, stderr) = run(&["child-flags", "-nope"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.starts_with("flag provided but not defined: -nope\nUsage of nsqd:\n"));

    let (code, _, stderr) = run(&["child-flags", "-config=/nope"]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains(" FATAL: failed to load config file /nope - open /nope: "),
        "{stderr}"
    );

    // A closed stdout is nobody's fault.
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let mut command = child(&["child-flags", "-version"]);
    let status = command.stdout(Stdio::from(writer)).status().expect("ran");
    drop(command);
    let mut banner = String::new();
    reader.read_to_string(&mut banner).expect("read");
    assert!(status.success() && banner.starts_with("nsqd v"), "{banner}");
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let status = child(&["child-flags", "-version"])
        .stdout(Stdio::from(writer))
        .status();
    assert_eq!(status.expect("ran").code(), Some(0));
    assert_eq!(EarlyExit::Help(String::new()).code(), 0);
}
