//! The command line of `nsq_to_http`.

use std::ffi::OsString;
use std::time::Duration;

use nsq_cli::{EarlyExit, Flag, FlagTable, Settings};
use nsq_client::Config;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};

use super::PROGRAM;
use super::request::{GetAddress, Sender, Verb};
use crate::client::{self, Attempts};
use crate::command::{self, Sources, refuse};
use crate::host_pool::Strategy;

const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// Which endpoints a message goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// To one of them.
    One(Strategy),
    /// To each of them.
    All,
}

/// Everything that `nsq_to_http` was told, checked.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) topic: String,
    pub(super) channel: String,
    pub(super) sources: Sources,
    pub(super) sender: Sender,
    pub(super) mode: Mode,
    /// Share of messages that are sent, 0 to 1.
    pub(super) sample: f64,
    /// Requests under way at one time.
    pub(super) workers: u32,
    /// Messages between status lines; 0 = none.
    pub(super) status_every: usize,
    pub(super) consumer: Config,
}

#[rustfmt::skip]
fn table() -> FlagTable {
    let mut flags = vec![
        Flag::text("topic", "", "nsq topic"),
        Flag::text("channel", "nsq_to_http", "nsq channel"),
        Flag::int("max-in-flight", 200, "max number of messages to allow in flight"),
        Flag::int("n", 100, "number of concurrent publishers"),
        Flag::text("mode", "hostpool", "the upstream request mode options: round-robin, hostpool (default), epsilon-greedy"),
        Flag::float("sample", 1.0, "% of messages to publish (float b/w 0 -> 1)"),
        Flag::duration("http-client-connect-timeout", "2s", "timeout for HTTP connect"),
        Flag::duration("http-client-request-timeout", "20s", "timeout for HTTP request"),
        Flag::int("status-every", 250, "the # of requests between logging status (per handler), 0 disables"),
        Flag::text("content-type", CONTENT_TYPE_DEFAULT, "the Content-Type used for POST requests"),
        Flag::list("post", "HTTP address to make a POST request to.  data will be in the body (may be given multiple times)"),
        Flag::list("header", "Custom header for HTTP requests (may be given multiple times)"),
        Flag::list("get", "HTTP address to make a GET request to. '%s' will be printf replaced with data (may be given multiple times)"),
        client::option_flag("consumer-opt", "option to passthrough to nsq.Consumer (may be given multiple times, http://godoc.org/github.com/nsqio/go-nsq#Config)"),
    ];
    flags.extend(command::source_flags());
    command::table(PROGRAM, "print version string", flags)
}

impl Options {
    /// Reads the command line. The order of the checks is that of the reference.
    ///
    /// # Errors
    /// Also `-help` and `-version`.
    pub(super) fn from_args(args: Vec<OsString>) -> Result<Self, EarlyExit> {
        let settings = table().load(args)?;
        let custom = custom_headers(settings.list("header"))?;
        let (topic, channel) = (settings.string("topic"), settings.string("channel"));
        refuse(
            topic.is_empty() || channel.is_empty(),
            "--topic and --channel are required",
        )?;
        let content_type = settings.string("content-type");
        if content_type != CONTENT_TYPE_DEFAULT {
            refuse(
                settings.list("post").is_empty(),
                "--content-type only used with --post",
            )?;
            refuse(
                content_type.is_empty(),
                "--content-type requires a value when used",
            )?;
        }
        let sources = Sources::from_settings(&settings, "")?;
        let verb = verb(&settings)?;
        let mode = mode(settings.string("mode"))?;
        let sample = settings.float("sample");
        refuse(
            !(0.0..=1.0).contains(&sample),
            "ERROR: --sample must be between 0.0 and 1.0",
        )?;
        let headers = headers(&verb, content_type, custom)?;
        let sender = Sender::new(
            verb,
            headers,
            timeout(&settings, "http-client-connect-timeout"),
            timeout(&settings, "http-client-request-timeout"),
        );
        Ok(Self {
            topic: topic.to_owned(),
            channel: channel.to_owned(),
            sources,
            sender,
            mode,
            sample,
            workers: u32::try_from(settings.int("n").max(0)).unwrap_or(u32::MAX),
            status_every: usize::try_from(settings.int("status-every")).unwrap_or(0),
            consumer: client::consumer_config(&settings, PROGRAM, Attempts::Limited)?,
        })
    }
}

fn verb(settings: &Settings) -> Result<Verb, EarlyExit> {
    let (get, post) = (settings.list("get"), settings.list("post"));
    refuse(
        get.is_empty() && post.is_empty(),
        "--get or --post required",
    )?;
    refuse(
        !get.is_empty() && !post.is_empty(),
        "use --get or --post not both",
    )?;
    if get.is_empty() {
        return Ok(Verb::Post(post.to_vec()));
    }
    let addresses: Option<Vec<GetAddress>> =
        get.iter().map(|text| GetAddress::parse(text)).collect();
    addresses
        .map(Verb::Get)
        .ok_or_else(|| EarlyExit::Plain("invalid GET address - must be a printf string".into()))
}

fn mode(word: &str) -> Result<Mode, EarlyExit> {
    match Strategy::parse(word) {
        Ok(strategy) => Ok(Mode::One(strategy)),
        Err(_) if word == "all" => Ok(Mode::All),
        Err(error) => Err(EarlyExit::Plain(error.to_string())),
    }
}

/// Zero or less is no limit.
fn timeout(settings: &Settings, name: &str) -> Duration {
    Duration::from_nanos(u64::try_from(settings.nanos(name)).unwrap_or(0))
}

fn custom_headers(texts: &[String]) -> Result<HeaderMap, EarlyExit> {
    let mut headers = HeaderMap::new();
    for text in texts {
        let (name, value) = header(text).ok_or_else(|| {
            EarlyExit::Plain("--header value format should be 'Name: value'".into())
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    let (name, value) = (name.trim(), value.trim());
    if value.is_empty() {
        return None;
    }
    Some((name.parse().ok()?, value.parse().ok()?))
}

/// Custom headers replace those that are sent anyway.
fn headers(verb: &Verb, content_type: &str, custom: HeaderMap) -> Result<HeaderMap, EarlyExit> {
    let value = |text: &str| {
        let illegal = |_| EarlyExit::Plain(format!("invalid header value {text:?}"));
        HeaderValue::from_str(text).map_err(illegal)
    };
    let mut headers = HeaderMap::new();
    let user_agent = format!("{PROGRAM} v{}", nsq_cli::VERSION);
    headers.insert(USER_AGENT, value(&user_agent)?);
    if matches!(verb, Verb::Post(_)) {
        headers.insert(CONTENT_TYPE, value(content_type)?);
    }
    headers.extend(custom);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Options, EarlyExit> {
        Options::from_args(args.iter().map(OsString::from).collect())
    }

    fn with(more: &[&str]) -> Result<Options, EarlyExit> {
        options(&[&["-topic=t", "-nsqd-tcp-address=a:1"][..], more].concat())
    }

    #[test]
    fn checks_come_in_the_order_of_the_reference() {
        let header = "--header value format should be 'Name: value'";
        let rows: [(&[&str], &str); 8] = [
            (&["-header=x"], header),
            (&["-header=x:"], header),
            (&["-header=a b: c"], header),
            (&["-channel=x"], "--topic and --channel are required"),
            (
                &["-topic=t", "-content-type=x"],
                "--content-type only used with --post",
            ),
            (
                &["-topic=t", "-content-type=", "-post=x"],
                "--content-type requires a value when used",
            ),
            (
                &["-topic=t"],
                "--nsqd-tcp-address or --lookupd-http-address required",
            ),
            (
                &["-topic=t", "-nsqd-tcp-address=a:1", "-mode=x"],
                "--get or --post required",
            ),
        ];
        for (args, text) in rows {
            let exit = options(args).expect_err("refused");
            assert_eq!(exit, EarlyExit::Plain(text.into()), "{args:?}");
        }
        let rows: [(&[&str], &str); 5] = [
            (&["-get=x", "-post=x"], "use --get or --post not both"),
            (
                &["-get=x", "-mode=y"],
                "invalid GET address - must be a printf string",
            ),
            (
                &["-get=%s%s"],
                "invalid GET address - must be a printf string",
            ),
            (&["-post=x", "-mode=y", "-sample=2"], "--mode is invalid"),
            (
                &["-post=x", "-sample=2"],
                "ERROR: --sample must be between 0.0 and 1.0",
            ),
        ];
        for (args, text) in rows {
            let exit = with(args).expect_err("refused");
            assert_eq!(exit, EarlyExit::Plain(text.into()), "{args:?}");
        }
    }

    #[test]
    fn all_has_a_word_of_its_own() {
        assert_eq!(
            with(&["-post=x", "-mode=all"]).expect("fine").mode,
            Mode::All
        );
        let hosts = with(&["-post=x"]).expect("fine").mode;
        assert_eq!(hosts, Mode::One(Strategy::HostPool));
    }

    #[test]
    fn custom_headers_replace_and_repeat() {
        let custom = ["X: 1", "x:2", "Content-Type: a/b", "User-Agent:me"];
        let custom = custom_headers(&custom.map(str::to_owned)).expect("fine");
        let headers = headers(&Verb::Post(Vec::new()), "c/d", custom).expect("fine");
        let all = |name: &str| -> Vec<&str> {
            let values = headers.get_all(name).iter();
            values.map(|value| value.to_str().expect("text")).collect()
        };
        assert_eq!(all("x"), ["1", "2"]);
        assert_eq!(all("content-type"), ["a/b"]);
        assert_eq!(all("user-agent"), ["me"]);
    }
}
