use super::*;

fn error(key: &str, value: &str) -> String {
    Config::new().set(key, value).unwrap_err().to_string()
}

#[test]
fn every_option_can_be_set_by_name() {
    let values = [
        ("dial_timeout", "2s"),
        ("read_timeout", "5m"),
        ("write_timeout", "100ms"),
        ("local_addr", "127.0.0.1:0"),
        ("lookupd_poll_interval", "10ms"),
        ("lookupd_poll_jitter", "1"),
        ("lookupd_poll_timeout", "3s"),
        ("max_requeue_delay", "0"),
        ("default_requeue_delay", "60m"),
        ("backoff_strategy", "full_jitter"),
        ("max_backoff_duration", "0s"),
        ("backoff_multiplier", "1h"),
        ("max_attempts", "65535"),
        ("low_rdy_idle_timeout", "1s"),
        ("low_rdy_timeout", "5m"),
        ("rdy_redistribute_interval", "1ms"),
        ("client_id", "c"),
        ("hostname", "h"),
        ("user_agent", "u"),
        ("heartbeat_interval", "-1ns"),
        ("sample_rate", "99"),
        ("tls_v1", "true"),
        ("tls_insecure_skip_verify", "1"),
        ("tls_min_version", "ssl3.0"),
        ("deflate", "t"),
        ("deflate_level", "9"),
        ("snappy", "T"),
        ("output_buffer_size", "-1"),
        ("output_buffer_timeout", "-1ns"),
        ("max_in_flight", "2500"),
        ("msg_timeout", "1m"),
        ("auth_secret", "s"),
        ("skip_lookupd_authorization", "false"),
        ("topology_region", "r"),
        ("topology_zone", "z"),
        ("max_msg_size", "1024"),
    ];
    let mut config = Config::new();
    for (key, value) in values {
        config.set(key, value).unwrap();
        config.set(&key.replace('_', "-"), value).unwrap();
    }
    assert_eq!(config.read_timeout, Duration::from_secs(300));
    assert_eq!(config.default_requeue_delay, Duration::from_secs(3600));
    assert_eq!(config.backoff_strategy, BackoffStrategy::FullJitter);
    assert_eq!(config.heartbeat_interval, None);
    assert_eq!((config.sample_rate, config.deflate_level), (99, 9));
    assert_eq!(config.output_buffer_size, None);
    assert_eq!(config.output_buffer_timeout, None);
    assert_eq!(config.max_in_flight, 2500);
    assert_eq!(config.auth_secret.as_deref(), Some("s"));
    assert!(config.tls_v1 && config.deflate && config.snappy);
    assert!(!config.lookupd_authorization);
    assert!(config.validate().is_ok());
}

#[test]
fn switches_take_key_and_value_or_key_alone() {
    let mut config = Config::new();
    config.set_option("snappy").unwrap();
    config.set_option("client-id,a,b").unwrap();
    assert!(config.snappy);
    assert_eq!(config.client_id, "a,b");
    for bogus in ["bogus,1", "bogus"] {
        let error = config.set_option(bogus).unwrap_err();
        assert_eq!(error.to_string(), "invalid option bogus");
    }
    let error = config.set_option("max-in-flight").unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to coerce option max_in_flight (true) - invalid value type"
    );
}

#[test]
fn values_out_of_range_are_refused() {
    let table = [
        ("read_timeout", "1ms", "invalid read_timeout ! 1ms < 100ms"),
        ("read_timeout", "6m", "invalid read_timeout ! 6m0s > 5m0s"),
        (
            "write-timeout",
            "-5s",
            "invalid write_timeout ! -5s < 100ms",
        ),
        ("dial_timeout", "-1ns", "invalid dial_timeout ! -1ns < 0s"),
        ("deflate_level", "0", "invalid deflate_level ! 0 < 1"),
        ("deflate_level", "10", "invalid deflate_level ! 10 > 9"),
        ("sample_rate", "100", "invalid sample_rate ! 100 > 99"),
        ("max_in_flight", "-1", "invalid max_in_flight ! -1 < 0"),
        (
            "max_attempts",
            "65536",
            "invalid max_attempts ! 65536 > 65535",
        ),
        (
            "lookupd_poll_jitter",
            "1.5",
            "invalid lookupd_poll_jitter ! 1.5 > 1",
        ),
        (
            "lookupd_poll_jitter",
            "NaN",
            "invalid lookupd_poll_jitter ! NaN < 0",
        ),
        (
            "output_buffer_size",
            "-2",
            "invalid output_buffer_size ! -2 < -1",
        ),
        (
            "heartbeat_interval",
            "-2ns",
            "invalid heartbeat_interval ! -2ns < 0s",
        ),
    ];
    for (key, value, text) in table {
        assert_eq!(error(key, value), text);
    }
}

#[test]
fn values_that_cannot_be_read_are_refused() {
    let table = [
        (
            "max_in_flight",
            "abc",
            r#"failed to coerce option max_in_flight (abc) - strconv.ParseInt: parsing "abc": invalid syntax"#,
        ),
        (
            "read_timeout",
            "5",
            r#"failed to coerce option read_timeout (5) - time: missing unit in duration "5""#,
        ),
        (
            "read_timeout",
            "x",
            r#"failed to coerce option read_timeout (x) - time: invalid duration "x""#,
        ),
        (
            "tls_v1",
            "yes",
            r#"failed to coerce option tls_v1 (yes) - strconv.ParseBool: parsing "yes": invalid syntax"#,
        ),
        (
            "backoff_strategy",
            "none",
            "failed to coerce option backoff_strategy (none) - invalid value type",
        ),
        (
            "local_addr",
            "here",
            "failed to coerce option local_addr (here) - address here: missing port in address",
        ),
        (
            "tls_min_version",
            "tls1.3",
            "ERROR: tls1.3 is not a tls version",
        ),
        (
            "tls_root_ca_file",
            "/nowhere/ca.pem",
            "ERROR: failed to read custom Certificate Authority file open /nowhere/ca.pem: no such file or directory",
        ),
        (
            "tls_cert",
            "/nowhere/c",
            "open /nowhere/c: no such file or directory",
        ),
    ];
    for (key, value, text) in table {
        assert_eq!(error(key, value), text);
    }
}

#[test]
fn what_goes_together_is_checked_at_the_start() {
    let mut config = Config::new();
    config.set("heartbeat_interval", "2m").unwrap();
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "HeartbeatInterval 2m0s must be less than ReadTimeout 1m0s"
    );
    config.set("read_timeout", "2m").unwrap();
    assert!(config.validate().is_ok());
    config.deflate_level = 0;
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "invalid DeflateLevel ! 0 < 1"
    );
}
