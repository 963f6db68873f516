//! The command line of `nsq_to_file`.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nsq_cli::{EarlyExit, Flag, FlagTable, Level, Settings};
use nsq_client::Config;
use regex::Regex;

use super::PROGRAM;
use super::filename::NameOptions;
use super::rotation::FileOptions;
use crate::client::{self, Attempts};
use crate::command::{self, Sources, refuse};

/// Everything that `nsq_to_file` was told, checked.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) log_prefix: String,
    pub(super) log_level: Level,
    pub(super) sources: Sources,
    /// To be discovered when empty.
    pub(super) topics: Vec<String>,
    /// `None` = all.
    pub(super) pattern: Option<Regex>,
    /// Zero = look only once.
    pub(super) topic_refresh: Duration,
    pub(super) http_connect_timeout: Duration,
    pub(super) http_request_timeout: Duration,
    pub(super) consumer: Config,
    pub(super) writing: Writing,
}

/// What the task of a topic needs to know.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    pub(super) channel: String,
    /// Messages that may wait for their sync, at least 1.
    pub(super) max_in_flight: u32,
    pub(super) sync_interval: Duration,
    pub(super) skip_empty_files: bool,
    pub(super) names: NameOptions,
    pub(super) files: FileOptions,
}

#[rustfmt::skip]
fn table() -> FlagTable {
    let mut flags = vec![
        Flag::text("log-level", "info", "set log verbosity: debug, info, warn, error, or fatal"),
        Flag::text("log-prefix", "[nsq_to_file] ", "log message prefix"),
        Flag::text("channel", "nsq_to_file", "nsq channel"),
        Flag::int("max-in-flight", 200, "max number of messages to allow in flight"),
        Flag::text("output-dir", "/tmp", "directory to write output files to"),
        Flag::text("work-dir", "", "directory for in-progress files before moving to output-dir"),
        Flag::text("datetime-format", "%Y-%m-%d_%H", "strftime compatible format for <DATETIME> in filename format"),
        Flag::text("filename-format", "<TOPIC>.<HOST><REV>.<DATETIME>.log", "output filename format (<TOPIC>, <HOST>, <PID>, <DATETIME>, <REV> are replaced. <REV> is increased when file already exists)"),
        Flag::text("host-identifier", "", "value to output in log filename in place of hostname. <SHORT_HOST> and <HOSTNAME> are valid replacement tokens"),
        Flag::int("gzip-level", 6, "gzip compression level (1-9, 1=BestSpeed, 9=BestCompression)"),
        Flag::bool("gzip", false, "gzip output files."),
        Flag::bool("skip-empty-files", false, "skip writing empty files"),
        Flag::duration("topic-refresh", "1m", "how frequently the topic list should be refreshed"),
        Flag::text("topic-pattern", "", "only log topics matching the following pattern"),
        Flag::int("rotate-size", 0, "rotate the file when it grows bigger than `rotate-size` bytes"),
        Flag::duration("rotate-interval", "0", "rotate the file every duration"),
        Flag::duration("sync-interval", "30s", "sync file to disk every duration"),
        Flag::duration("http-client-connect-timeout", "2s", "timeout for HTTP connect"),
        Flag::duration("http-client-request-timeout", "5s", "timeout for HTTP request"),
        Flag::list("topic", "nsq topic (may be given multiple times)"),
        client::option_flag("consumer-opt", "option to passthrough to nsq.Consumer (may be given multiple times, http://godoc.org/github.com/nsqio/go-nsq#Config)"),
    ];
    flags.extend(command::source_flags());
    command::table(PROGRAM, "print version string", flags).allow_positionals()
}

impl Options {
    /// Reads the command line. The order of the checks is that of the reference.
    ///
    /// # Errors
    /// Also `-help` and `-version`.
    pub(super) fn from_args(args: Vec<OsString>) -> Result<Self, EarlyExit> {
        let table = table();
        let settings = table.resolve(table.parse(args)?, None)?;
        let extra = settings.positionals();
        refuse(
            !extra.is_empty(),
            format_args!("unknown arguments: [{}]", extra.join(" ")),
        )?;
        let Ok(log_level) = settings.string("log-level").parse() else {
            return Err(EarlyExit::Plain("--log-level is invalid".into()));
        };
        if settings.bool("version") {
            return Err(EarlyExit::Version(nsq_cli::short_banner(PROGRAM)));
        }
        Self::check(&settings, log_level)
    }

    fn check(settings: &Settings, log_level: Level) -> Result<Self, EarlyExit> {
        let channel = settings.string("channel").to_owned();
        refuse(channel.is_empty(), "--channel is required")?;
        let http_connect_timeout = positive(settings, "http-client-connect-timeout")?;
        let http_request_timeout = positive(settings, "http-client-request-timeout")?;
        let sources = Sources::from_settings(settings, ".")?;
        let gzip_level = settings.int("gzip-level");
        refuse(
            !(1..=9).contains(&gzip_level),
            format_args!("invalid --gzip-level value ({gzip_level}), should be 1-9"),
        )?;
        let topics = settings.list("topic").to_vec();
        let pattern = settings.string("topic-pattern");
        refuse(
            topics.is_empty() && pattern.is_empty(),
            "--topic or --topic-pattern required",
        )?;
        refuse(
            topics.is_empty() && sources.lookupd.is_empty(),
            "--lookupd-http-address must be specified when no --topic specified",
        )?;
        let pattern = match pattern {
            "" => None,
            pattern => Some(Regex::new(pattern).map_err(|error| {
                EarlyExit::Plain(format!("--topic-pattern is invalid: {error}"))
            })?),
        };
        let gzip_level = settings
            .bool("gzip")
            .then(|| u32::try_from(gzip_level).expect("1 to 9"));
        let files = file_options(settings, gzip_level)?;
        Ok(Self {
            log_prefix: settings.string("log-prefix").to_owned(),
            log_level,
            sources,
            topics,
            pattern,
            topic_refresh: not_negative(settings, "topic-refresh")?,
            http_connect_timeout,
            http_request_timeout,
            consumer: client::consumer_config(settings, PROGRAM, Attempts::Unlimited)?,
            writing: Writing {
                channel,
                max_in_flight: max_in_flight(settings)?,
                sync_interval: positive(settings, "sync-interval")?,
                skip_empty_files: settings.bool("skip-empty-files"),
                names: name_options(settings, &files),
                files,
            },
        })
    }
}

fn file_options(settings: &Settings, gzip_level: Option<u32>) -> Result<FileOptions, EarlyExit> {
    let output_dir = clean(Path::new(settings.string("output-dir")));
    let work_dir = match settings.string("work-dir") {
        "" => output_dir.clone(),
        given => clean(Path::new(given)),
    };
    // As in the reference a negative size is no limit.
    let rotate_size = u64::try_from(settings.int("rotate-size")).unwrap_or(0);
    Ok(FileOptions {
        output_dir,
        work_dir,
        gzip_level,
        rotate_size,
        rotate_interval: not_negative(settings, "rotate-interval")?,
    })
}

fn name_options(settings: &Settings, files: &FileOptions) -> NameOptions {
    let gzip = files.gzip_level.is_some();
    NameOptions {
        format: settings.string("filename-format").to_owned(),
        datetime: settings.string("datetime-format").to_owned(),
        host_identifier: settings.string("host-identifier").to_owned(),
        gzip,
        revisions: gzip
            || files.rotate_size > 0
            || !files.rotate_interval.is_zero()
            || files.work_dir != files.output_dir,
    }
}

fn max_in_flight(settings: &Settings) -> Result<u32, EarlyExit> {
    u32::try_from(settings.int("max-in-flight"))
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| EarlyExit::Plain("--max-in-flight should be positive".into()))
}

fn positive(settings: &Settings, name: &str) -> Result<Duration, EarlyExit> {
    let duration = not_negative(settings, name)?;
    refuse(
        duration.is_zero(),
        format_args!("--{name} should be positive"),
    )?;
    Ok(duration)
}

fn not_negative(settings: &Settings, name: &str) -> Result<Duration, EarlyExit> {
    u64::try_from(settings.nanos(name))
        .map(Duration::from_nanos)
        .map_err(|_| EarlyExit::Plain(format!("--{name} should be positive")))
}

/// The path without `.`, doubled and trailing slashes, so that one folder has one name.
fn clean(path: &Path) -> PathBuf {
    let cleaned: PathBuf = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    if cleaned.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        cleaned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Options, EarlyExit> {
        Options::from_args(args.iter().map(OsString::from).collect())
    }

    const ENOUGH: [&str; 2] = ["-topic=t", "-nsqd-tcp-address=a:1"];

    fn with(more: &[&str]) -> Options {
        options(&[&ENOUGH[..], more].concat()).expect("fine")
    }

    #[test]
    fn checks_come_in_the_order_of_the_reference() {
        let rows: [(&[&str], &str); 12] = [
            (&["-log-level=x", "a", "b"], "unknown arguments: [a b]"),
            (&["-log-level=x", "-version"], "--log-level is invalid"),
            (&["-channel="], "--channel is required"),
            (
                &["-http-client-connect-timeout=0"],
                "--http-client-connect-timeout should be positive",
            ),
            (
                &["-http-client-request-timeout=-1s"],
                "--http-client-request-timeout should be positive",
            ),
            (
                &[],
                "--nsqd-tcp-address or --lookupd-http-address required.",
            ),
            (
                &[
                    "-nsqd-tcp-address=a",
                    "-lookupd-http-address=b",
                    "-gzip-level=0",
                ],
                "use --nsqd-tcp-address or --lookupd-http-address not both",
            ),
            (
                &["-nsqd-tcp-address=a", "-gzip-level=0"],
                "invalid --gzip-level value (0), should be 1-9",
            ),
            (
                &["-nsqd-tcp-address=a"],
                "--topic or --topic-pattern required",
            ),
            (
                &["-nsqd-tcp-address=a", "-topic-pattern=x"],
                "--lookupd-http-address must be specified when no --topic specified",
            ),
            (
                &["-nsqd-tcp-address=a", "-topic=x", "-sync-interval=0"],
                "--sync-interval should be positive",
            ),
            (
                &["-nsqd-tcp-address=a", "-topic=x", "-max-in-flight=0"],
                "--max-in-flight should be positive",
            ),
        ];
        for (args, text) in rows {
            let exit = options(args).expect_err("refused");
            assert_eq!(exit, EarlyExit::Plain(text.into()), "{args:?}");
        }
    }

    #[test]
    fn patterns_must_make_sense() {
        let exit = options(&["-lookupd-http-address=a", "-topic-pattern=("]);
        let EarlyExit::Plain(text) = exit.expect_err("refused") else {
            panic!("another exit")
        };
        assert!(text.starts_with("--topic-pattern is invalid: "), "{text}");
    }

    #[test]
    fn one_folder_has_one_name() {
        for (work, moves) in [
            ("/tmp", false),
            ("/tmp/", false),
            ("/tmp/./", false),
            ("", false),
            ("./w", true),
        ] {
            let writing = with(&["-work-dir", work]).writing;
            assert_eq!(writing.names.revisions, moves, "{work}");
            assert_eq!(writing.files.work_dir != writing.files.output_dir, moves);
        }
        assert_eq!(
            with(&["-work-dir=./w"]).writing.files.work_dir,
            Path::new("w")
        );
        assert_eq!(
            with(&["-output-dir=."]).writing.files.output_dir,
            Path::new(".")
        );
    }

    #[test]
    fn whatever_makes_several_files_asks_for_revisions() {
        for flag in ["-gzip", "-rotate-size=1", "-rotate-interval=1s"] {
            assert!(with(&[flag]).writing.names.revisions, "{flag}");
        }
        assert!(!with(&["-rotate-size=-1"]).writing.names.revisions);
    }

    #[test]
    fn version_is_printed() {
        let exit = options(&["-version"]).expect_err("exits");
        assert!(matches!(exit, EarlyExit::Version(text) if text.starts_with("nsq_to_file v")));
    }
}
