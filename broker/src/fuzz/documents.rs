//! What is read as a whole: files, and the answers of an authorization server.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use nsq_core::Now;
use nsq_proto::TopicName;
use regex::Regex;

use crate::catalogue::Catalogue;
use crate::config::parse_args;
use crate::go_regex::translate;
use crate::grants::{Access, Grants, Patterns};

/// What was read is written so that it is read again the same, but for what is not to be kept.
pub(super) fn nsqd_dat(input: &[u8]) {
    let Ok((catalogue, _)) = Catalogue::parse(input) else {
        return;
    };
    for (topic, entry) in catalogue.topics() {
        assert!(TopicName::is_valid(topic.as_str().as_bytes()));
        assert!(
            entry
                .channels
                .keys()
                .all(|name| TopicName::is_valid(name.as_str().as_bytes()))
        );
    }
    let file = catalogue.encode("1.3.0");
    let (again, warnings) = Catalogue::parse(&file).expect("our own file");
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(again.encode("1.3.0"), file);
    let mut kept = Vec::new();
    for (topic, entry) in catalogue
        .topics()
        .filter(|(topic, _)| !topic.is_ephemeral())
    {
        let mut entry = entry.clone();
        entry.channels.retain(|name, _| !name.is_ephemeral());
        kept.push((topic.clone(), entry));
    }
    let read = again
        .topics()
        .map(|(topic, entry)| (topic.clone(), entry.clone()));
    assert!(read.eq(kept));
}

/// A file, and what may be wrong with one.
pub(super) fn nsqd_dat_seeds() -> Vec<Vec<u8>> {
    [
        "",
        "null",
        r#"{"topics":null,"version":1}"#,
        r#"{"topics":[{"name":"t","paused":false,"channels":[{"name":"c","paused":true}]},
            {"name":"u#ephemeral","paused":true,"channels":[{"name":"d#ephemeral"}]}],
            "version":"1.3.0"}"#,
        r#"{"topics":[{"name":"a b"},{"name":"t","channels":[{"name":"\u0000"}]},{"name":7}]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// An answer, or behind a zero a pattern.
pub(super) fn grants(input: &[u8]) {
    if let Some(pattern) = input.strip_prefix(b"\0") {
        return pattern_is_read(&String::from_utf8_lossy(pattern));
    }
    let now = Now(1_000_000_000);
    let mut patterns = Patterns::default();
    let Ok(grants) = Grants::parse(input, now, &mut patterns) else {
        return;
    };
    assert!(!grants.is_expired(now.after(Duration::from_millis(999))));
    let answer: serde_json::Value =
        serde_json::from_slice(&grants.answer()).expect("our own answer");
    assert_eq!(answer["permission_count"] == 0, grants.is_empty());
    assert_eq!(answer["identity"], grants.identity);
    let accesses = [Access::Publish, Access::Subscribe("c")];
    let allowed = accesses.map(|access| grants.allow("topic", access));
    assert!(!(grants.is_empty() && allowed.contains(&true)));
    // Patterns that are known already are the same patterns.
    let again = Grants::parse(input, now, &mut patterns).expect("as before");
    assert_eq!(accesses.map(|access| again.allow("topic", access)), allowed);
}

/// A pattern is read or refused; quoted, it means itself and nothing else.
fn pattern_is_read(pattern: &str) {
    drop(Regex::new(&translate(pattern)));
    if !pattern.contains("\\E") {
        let quoted = format!("^\\Q{pattern}\\E$");
        let regex = Regex::new(&translate(&quoted)).expect("a literal");
        assert!(regex.is_match(pattern));
        assert!(!regex.is_match(&format!("{pattern}x")));
    }
}

/// Answers as the tests have them, and patterns of both dialects.
pub(super) fn grants_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"ttl":60,"identity":"i","identity_url":"u","authorizations":
            [{"topic":".*","channels":[".*"],"permissions":["publish","subscribe"]}]}"#,
        r#"{"TTL":9223372036854775807,"authorizations":
            [{"Topic":"o","channels":["^$","c+?"],"permissions":["publish"]}]}"#,
        r#"{"ttl":1,"authorizations":[{"topic":"[a-z&&[^x]]{2,3}","channels":null}]}"#,
        r#"{"ttl":0}"#,
        "\0\\Qa.b\\E[[:alpha:]]{x}(?P<n>a)",
        "\0[]a&~[-z]\\pL\\z",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// The contents of a configuration file, or behind a zero the words of a command line.
pub(super) fn config(input: &[u8]) {
    // What would have files read, of whatever name, is overruled.
    let mut args: Vec<OsString> = Vec::new();
    let root = tempfile::tempdir().expect("a directory for temporary files");
    let path = root.path().join("nsqd.cfg");
    if let Some(words) = input.strip_prefix(b"\0") {
        let words = words.split(|byte| *byte == b'\n').take(16);
        args.extend(words.map(|word| OsString::from_vec(word.to_vec())));
        args.retain(|word| !word.to_string_lossy().contains("config"));
    } else {
        fs::write(&path, input).expect("a new file can be written");
        args.push(
            ["--config=".into(), path.into_os_string()]
                .into_iter()
                .collect(),
        );
    }
    let names_files = |word: &OsString| {
        let word = word.to_string_lossy();
        word.contains("tls-") || word == "--"
    };
    if args.iter().any(names_files) {
        return;
    }
    for flag in ["--tls-cert=", "--tls-key=", "--tls-root-ca-file="] {
        args.insert(0, flag.into());
    }
    let Ok(raw) = parse_args(args) else {
        return;
    };
    let Ok(config) = raw.validate() else {
        return;
    };
    assert!(config.identity.node_id < 1024);
    assert!((1..=1024).contains(&config.shards.count));
    assert!((1..=9).contains(&config.limits.compression.max_deflate_level));
    assert!(config.limits.max_msg_size < i32::MAX.cast_unsigned());
    assert!(
        config.timeouts.msg_timeout <= config.timeouts.max_msg_timeout
            || config.runtime.get("msg_timeout").is_some()
    );
}

/// Every kind of value, in every form.
pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    [
        "tcp_address = \"127.0.0.1:4150\"\nmax_msg_size = 10\nmsg_timeout = \"1m\"\nsnappy = false\n",
        "node_id = \"3\"\nsync_timeout = 250\nverbose = \"true\"\nunknown = [1]\n",
        "nsqlookupd_tcp_addresses = [\"a:1\", \"b:2\"]\ne2e_processing_latency_percentiles = \"1,0.5\"\n",
        "statsd_address = \"s:1\"\nstatsd_prefix = \"%s\"\nlog_level = \"debug\"\ntls_required = \"tcp-https\"\n",
        "\0-node-id=1023\n--mem-queue-size\n0\n-lookupd-tcp-address=x:1\n-verbose",
        "\0--max-msg-size=99999999999999999999\n-h",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
