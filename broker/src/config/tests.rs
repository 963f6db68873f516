//! The configuration as a user meets it: arguments and a file in, a [`Config`] or a text out.

use super::*;

use std::fs;

use nsq_core::Locality;

fn raw(args: &[&str]) -> RawConfig {
    let hostname = "vm".to_owned();
    let settings = flags::table(&hostname).load(args.iter().map(OsString::from));
    RawConfig {
        settings: settings.unwrap_or_else(|exit| panic!("{args:?}: {exit:?}")),
        hostname,
    }
}

fn config(args: &[&str]) -> Config {
    raw(args)
        .validate()
        .unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn refusal(args: &[&str]) -> String {
    raw(args).validate().expect_err("refused").to_string()
}

fn get(config: &Config, key: &str) -> String {
    config
        .runtime
        .get(key)
        .unwrap_or_else(|| panic!("{key} is an option"))
        .0
}

#[test]
fn defaults_are_those_of_the_reference() {
    let config = config(&[]);
    assert_eq!(config.identity.node_id, 617);
    assert_eq!(config.identity.broadcast_address, "vm");
    assert_eq!(config.listen.tcp.to_string(), "0.0.0.0:4150");
    assert_eq!(
        config.listen.http.expect("HTTP").to_string(),
        "0.0.0.0:4151"
    );
    assert_eq!(
        config.listen.https.expect("HTTPS").to_string(),
        "0.0.0.0:4152"
    );
    let durability = &config.durability;
    assert_eq!(durability.data_path, PathBuf::from("."));
    assert_eq!(durability.sync, SyncMode::Interval);
    assert_eq!(
        (durability.sync_every, durability.mem_queue_size),
        (2_500, 10_000)
    );
    assert_eq!(durability.sync_timeout, Duration::from_secs(2));
    assert_eq!(durability.segment_bytes_max, 100 << 20);
    assert_eq!(config.limits.max_msg_size, 1 << 20);
    assert_eq!(config.limits.max_body_size, 5 << 20);
    assert_eq!(config.limits.max_rdy_count, 2_500);
    assert_eq!(config.limits.max_channel_consumers, None);
    assert!(config.limits.compression.deflate && config.limits.compression.snappy);
    assert!(!config.limits.requeue_on_disconnect);
    assert_eq!(config.timeouts.msg_timeout, Duration::from_secs(60));
    assert_eq!(config.timeouts.max_msg_timeout, Duration::from_secs(900));
    assert_eq!(
        config.timeouts.output_buffer_timeout,
        Duration::from_millis(250)
    );
    assert_eq!(
        config.timeouts.min_output_buffer_timeout,
        Duration::from_millis(25)
    );
    assert_eq!(config.security.tls.required, TlsRequired::No);
    assert_eq!(config.security.tls.min_version, 0x0301);
    assert_eq!(config.metrics.statsd, None);
    assert_eq!(
        config.log,
        LogSettings {
            level: Level::Info,
            prefix: "[nsqd] ".into()
        }
    );
    assert!(config.shards.count >= 1);
    assert_eq!(config.shards.spin, Duration::from_micros(50));
    assert_eq!(config.durability.segment_io, SegmentIo::Auto);
    assert_eq!(config.shards.mem_limit, None);
    assert_eq!(config.warnings, [] as [String; 0]);
}

#[test]
fn texts_of_the_reference() {
    let cases: [(&[&str], &str); 15] = [
        (
            &["-max-deflate-level=0"],
            "--max-deflate-level must be [1,9]",
        ),
        (
            &["-max-deflate-level=10"],
            "--max-deflate-level must be [1,9]",
        ),
        (&["-node-id=1024"], "--node-id must be [0,1024)"),
        (&["-node-id=-1"], "--node-id must be [0,1024)"),
        (
            &["-max-deflate-level=0", "-node-id=-1"],
            "--max-deflate-level must be [1,9]",
        ),
        (
            &["-tls-required"],
            "cannot require TLS client connections without TLS key and cert",
        ),
        (
            &["-tls-required=tcp-https"],
            "cannot require TLS client connections without TLS key and cert",
        ),
        (
            &["-tls-client-auth-policy=require"],
            "cannot require TLS client connections without TLS key and cert",
        ),
        (
            &["-tls-cert=/nope.pem"],
            "failed to build TLS config - open /nope.pem: no such file or directory",
        ),
        (
            &["-tls-root-ca-file=/nope.pem"],
            "failed to build client TLS config - open /nope.pem: no such file or directory",
        ),
        (
            &["-tls-root-ca-file=/dev/null"],
            "failed to build client TLS config - failed to append certificate to pool",
        ),
        (
            &["-auth-http-request-method=GET"],
            "--auth-http-request-method must be post or get",
        ),
        (
            &["-e2e-processing-latency-percentile=1.5"],
            "invalid E2E processing latency percentile: 1.5",
        ),
        (
            &["-e2e-processing-latency-percentile=0"],
            "invalid E2E processing latency percentile: 0",
        ),
        (
            &["-tcp-address=127.0.0.1"],
            "listen (127.0.0.1) failed - address 127.0.0.1: missing port in address \
             (the path of a unix socket needs a \"/\")",
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(refusal(args), expected, "{args:?}");
    }
}

#[test]
fn settings_that_broke_the_reference_later_are_refused_at_start() {
    let cases: [(&[&str], &str); 8] = [
        (
            &["-output-buffer-timeout=0"],
            "--output-buffer-timeout must be > 0",
        ),
        (
            &["-output-buffer-timeout=-1s"],
            "--output-buffer-timeout must be > 0",
        ),
        (&["-sync-timeout=0"], "--sync-timeout must be > 0"),
        (&["-sync-every=0"], "--sync-every must be > 0"),
        (&["-mem-queue-size=-1"], "--mem-queue-size must be >= 0"),
        (
            &["-max-bytes-per-file=0"],
            "--max-bytes-per-file must be > 0",
        ),
        (&["-msg-timeout=0"], "--msg-timeout must be > 0"),
        (
            &["-msg-timeout=16m"],
            "--msg-timeout (16m0s) must not exceed --max-msg-timeout (15m0s)",
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(refusal(args), expected, "{args:?}");
    }
}

#[test]
fn nonsense_that_the_reference_accepts_is_refused() {
    let cases: [(&[&str], &str); 13] = [
        (&["-max-msg-timeout=-1s"], "--max-msg-timeout must be > 0"),
        (&["-max-req-timeout=-1s"], "--max-req-timeout must be >= 0"),
        (
            &["-max-heartbeat-interval=-1s"],
            "--max-heartbeat-interval must be >= 0",
        ),
        (
            &["-min-output-buffer-timeout=-1s"],
            "--min-output-buffer-timeout must be >= 0",
        ),
        (
            &["-max-output-buffer-timeout=-1s"],
            "--max-output-buffer-timeout must be >= 0",
        ),
        (
            &["-max-output-buffer-size=-1"],
            "--max-output-buffer-size must be [0,2147483647]",
        ),
        (
            &["-max-msg-size=0"],
            "--max-msg-size must be [1,2147483583]",
        ),
        (
            &["-max-msg-size=2147483647"],
            "--max-msg-size must be [1,2147483583]",
        ),
        (
            &["-max-body-size=0"],
            "--max-body-size must be [1,2147483647]",
        ),
        (
            &["-max-rdy-count=0"],
            "--max-rdy-count must be [1,2147483647]",
        ),
        (
            &["-max-channel-consumers=-1"],
            "--max-channel-consumers must be >= 0",
        ),
        (
            &["-broadcast-tcp-port=65536"],
            "--broadcast-tcp-port must be [0,65535]",
        ),
        (
            &["-broadcast-http-port=-1"],
            "--broadcast-http-port must be [0,65535]",
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(refusal(args), expected, "{args:?}");
    }
}

#[test]
fn typing_mistakes_do_not_switch_anything_off() {
    let cases: [(&[&str], &str); 8] = [
        (
            &["-statsd-address=a:1", "-statsd-interval=1s"],
            "--statsd-interval must be > 1s",
        ),
        (
            &["-statsd-address=a"],
            "--statsd-address must be <addr>:<port>",
        ),
        (
            &["-tls-client-auth-policy=x"],
            "--tls-client-auth-policy must be require or require-verify",
        ),
        (
            &["-enable-experiment=x"],
            "--enable-experiment: unknown experiment \"x\" (known: topology-aware-consumption)",
        ),
        (&["-shards=-1"], "--shards must be [0,1024]"),
        (&["-spin=-1us"], "--spin must be >= 0"),
        (&["-mem-limit=-1"], "--mem-limit must be >= 0"),
        (
            &["-https-address=/run/x"],
            "listen (/run/x) failed - address /run/x: must be host:port",
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(refusal(args), expected, "{args:?}");
    }
}

#[test]
fn harmless_extremes_are_accepted() {
    let config = config(&[
        "-mem-queue-size=0",
        "-max-req-timeout=0",
        "-http-address=",
        "-https-address=",
        "-statsd-interval=1s",
        "-spin=0",
        "-segment-io=direct",
        "-shards=3",
        "-mem-limit=0x100000",
        "-sync=always",
        "-requeue-on-disconnect",
        "-max-channel-consumers=7",
    ]);
    assert_eq!((config.listen.http, config.listen.https), (None, None));
    assert_eq!(config.shards.count, 3);
    assert_eq!(config.shards.spin, Duration::ZERO);
    assert_eq!(config.durability.segment_io, SegmentIo::Direct);
    assert_eq!(config.shards.mem_limit, Some(1 << 20));
    assert_eq!(config.durability.sync, SyncMode::Always);
    assert!(config.limits.requeue_on_disconnect);
    assert_eq!(config.limits.max_channel_consumers, Some(7));
}

#[test]
fn bad_words_are_flag_errors() {
    let cases = [
        (
            "-sync=x",
            r#"invalid value "x" for flag -sync: must be interval or always"#,
        ),
        (
            "-segment-io=x",
            r#"invalid value "x" for flag -segment-io: must be auto or buffered or direct"#,
        ),
        (
            "-tls-required=x",
            "invalid boolean value \"x\" for -tls-required: \
             strconv.ParseBool: parsing \"x\": invalid syntax",
        ),
        (
            "-tls-min-version=ssl3.0",
            "invalid value \"ssl3.0\" for flag -tls-min-version: \
             unknown tlsVersionOption \"ssl3.0\"",
        ),
        (
            "-worker-id=x",
            r#"invalid boolean value "x" for -worker-id: parse error"#,
        ),
    ];
    for (arg, expected) in cases {
        match parse_args([OsString::from(arg)]) {
            Err(EarlyExit::Usage { message, .. }) => assert_eq!(message, expected),
            other => panic!("{arg} gave {other:?}"),
        }
    }
}

#[test]
fn usage_lists_each_flag_of_the_reference() {
    const NAMES: &str = "auth-http-address auth-http-request-method broadcast-address \
        broadcast-http-port broadcast-tcp-port config data-path deflate \
        e2e-processing-latency-percentile e2e-processing-latency-window-time enable-experiment \
        http-address http-client-connect-timeout http-client-request-timeout https-address \
        log-level log-prefix lookupd-tcp-address max-body-size max-bytes-per-file \
        max-channel-consumers max-deflate-level max-heartbeat-interval max-msg-size \
        max-msg-timeout max-output-buffer-size max-output-buffer-timeout max-rdy-count \
        max-req-timeout mem-queue-size min-output-buffer-timeout msg-timeout node-id \
        output-buffer-timeout queue-scan-selection-count queue-scan-worker-pool-max snappy \
        statsd-address statsd-exclude-ephemeral statsd-interval statsd-mem-stats statsd-prefix \
        statsd-udp-packet-size sync-every sync-timeout tcp-address tls-cert \
        tls-client-auth-policy tls-key tls-min-version tls-required tls-root-ca-file \
        topology-region topology-zone verbose version worker-id \
        sync segment-io shards spin mem-limit requeue-on-disconnect";
    let usage = flags::table("vm").usage();
    let mut expected: Vec<&str> = NAMES.split_whitespace().collect();
    expected.sort_unstable();
    let entries = usage.lines().filter_map(|line| line.strip_prefix("  -"));
    let names: Vec<&str> = entries
        .filter_map(|entry| entry.split(' ').next())
        .collect();
    assert_eq!(names, expected);
    for entry in [
        "  -log-level value\n    \tset log verbosity: debug, info, warn, error, or fatal \
         (default INFO)\n",
        "  -max-req-timeout duration\n    \tmaximum requeuing timeout for a message \
         (default 1h0m0s)\n",
        "  -tls-required\n    \trequire TLS for client connections (true, false, tcp-https)\n",
        "  -worker-id\n    \t[deprecated] use --node-id\n",
        "  -broadcast-address string\n    \taddress that will be registered with lookupd \
         (defaults to the OS hostname) (default \"vm\")\n",
        "(default tls1.0)\n",
    ] {
        assert!(usage.contains(entry), "{entry} is not in {usage}");
    }
}

#[test]
fn options_are_served_by_key() {
    let config = config(&[
        "-lookupd-tcp-address=a:1",
        "-lookupd-tcp-address=b:2",
        "-e2e-processing-latency-percentile=0.5,1.0",
        "-shards=2",
    ]);
    let cases = [
        ("id", "617"),
        ("log_level", "2"),
        ("log_prefix", "[nsqd] "),
        ("tcp_address", "0.0.0.0:4150"),
        ("nsqlookupd_tcp_addresses", r#"["a:1","b:2"]"#),
        ("auth_http_addresses", "[]"),
        ("enable_experiment", "[]"),
        ("e2e_processing_latency_percentiles", "[1,0.5]"),
        ("sync_timeout", "2000000000"),
        ("deflate", "true"),
        ("tls_required", "0"),
        ("tls_min_version", "769"),
        ("data_path", ""),
        ("sync", "interval"),
        ("spin", "50000"),
        ("shards", "2"),
        ("requeue_on_disconnect", "false"),
    ];
    for (key, expected) in cases {
        assert_eq!(get(&config, key), expected, "{key}");
    }
    assert_eq!(
        config.runtime.get("tcp_address"),
        Some(("0.0.0.0:4150".into(), false))
    );
    assert_eq!(config.runtime.get("id"), Some(("617".into(), true)));
    for key in [
        "node_id",
        "version",
        "config",
        "verbose",
        "worker_id",
        "lookupd_tcp_address",
        "",
    ] {
        assert_eq!(config.runtime.get(key), None, "{key}");
    }
}

#[test]
fn two_options_change_at_run_time() {
    let config = config(&["-lookupd-tcp-address=a:1"]);
    let runtime = config.runtime.clone();
    let key = "nsqlookupd_tcp_addresses";
    let change = runtime.put(key, br#"["b:2"]"#).expect("legal");
    assert_eq!(
        change,
        RuntimeChange::LookupdTcpAddresses(Some(vec!["b:2".into()]))
    );
    assert_eq!(change.to_body(), (r#"["b:2"]"#.into(), true));
    assert_eq!(get(&config, key), r#"["b:2"]"#);
    let change = runtime.put(key, b"null").expect("legal");
    assert_eq!(change.to_body(), ("null".into(), true));
    assert_eq!(config.runtime.lookupd_tcp_addresses(), [] as [String; 0]);
    for body in [b"a:1" as &[u8], b"{}", b"[1]", b"\"a:1\""] {
        assert_eq!(runtime.put(key, body), Err("INVALID_VALUE"));
    }

    let change = runtime.put("log_level", b"DEBUG").expect("legal");
    assert_eq!(change, RuntimeChange::LogLevel(Level::Debug));
    assert_eq!(
        (change.to_body(), get(&config, "log_level")),
        (("1".into(), true), "1".into())
    );
    for body in [b"loud" as &[u8], b"\"info\"", b"info\n", b"\xff", b"2"] {
        assert_eq!(runtime.put("log_level", body), Err("INVALID_VALUE"));
    }
    for key in ["id", "node_id", "nope"] {
        assert_eq!(runtime.put(key, b"1"), Err("INVALID_OPTION"));
    }
}

#[test]
fn bound_ports_complete_identity_and_statsd_prefix() {
    let mut config = config(&[
        "-broadcast-address=127.0.0.1",
        "-broadcast-tcp-port=7",
        "-statsd-address=127.0.0.1:8125",
    ]);
    config.on_bound(4150, 4151);
    assert_eq!(config.identity.broadcast_tcp_port, 7);
    assert_eq!(config.identity.broadcast_http_port, 4151);
    assert_eq!(get(&config, "broadcast_tcp_port"), "7");
    assert_eq!(get(&config, "broadcast_http_port"), "4151");
    assert_eq!(get(&config, "statsd_prefix"), "nsq.127_0_0_1_4151.");
    assert_eq!(
        config.metrics.statsd.expect("statsd").prefix,
        "nsq.127_0_0_1_4151."
    );
}

#[test]
fn statsd_prefix_names_the_host() {
    let cases = [
        ("nsq.%s", "a.b", "nsq.a_b_4151."),
        ("x.", "a", "x."),
        ("%s.%s", "a", "a_4151.a_4151."),
        ("", "a", ""),
        ("%s", "::1", "[__1]_4151."),
    ];
    for (template, host, expected) in cases {
        assert_eq!(runtime::statsd_prefix(template, host, 4151), expected);
    }
}

#[test]
fn settings_without_effect_are_warned_about() {
    let args = ["-queue-scan-selection-count=1", "-worker-id=5"];
    let config = config(&args);
    assert_eq!(config.warnings.len(), args.len(), "{:?}", config.warnings);
    for arg in args {
        let flag = arg[1..].split('=').next().expect("a name");
        let start = format!("--{flag} has no effect: ");
        assert!(
            config.warnings.iter().any(|line| line.starts_with(&start)),
            "{flag}"
        );
    }
}

#[test]
fn latency_and_topology_reach_the_shards() {
    let config = config(&[
        "-e2e-processing-latency-percentile=0.5,0.99",
        "-e2e-processing-latency-window-time=1m",
        "-enable-experiment=topology-aware-consumption",
        "-topology-region=r",
        "-topology-zone=z",
    ]);
    assert_eq!(config.warnings, [] as [String; 0]);
    let settings = crate::settings::settings(&config, 0);
    let latency = settings.latency.as_ref().expect("percentiles were given");
    assert_eq!(latency.percentiles, [0.99, 0.5]);
    assert_eq!(latency.window, Duration::from_secs(60));
    let near = |region, zone| settings.locality(region, zone);
    assert_eq!(near("r", "z"), Locality::Zone);
    assert_eq!(near("other", "z"), Locality::Zone);
    assert_eq!(near("r", "other"), Locality::Region);
    assert_eq!(near("", ""), Locality::Global);
}

#[test]
fn nobody_is_close_to_a_broker_without_a_place_or_without_the_experiment() {
    for args in [
        &["-enable-experiment=topology-aware-consumption"] as &[&str],
        &["-topology-region=r", "-topology-zone=z"],
    ] {
        let config = config(args);
        let settings = crate::settings::settings(&config, 0);
        assert_eq!(settings.latency, None);
        for place in ["", "r", "z"] {
            assert_eq!(settings.locality(place, place), Locality::Global);
        }
    }
}

#[test]
fn given_defaults_and_switched_off_features_are_not_warned_about() {
    let config = config(&["-deflate=false", "-snappy=false", "-statsd-interval=60s"]);
    assert_eq!(config.warnings, [] as [String; 0]);
    assert!(!config.limits.compression.deflate);
}

#[test]
fn old_worker_ids_are_accepted() {
    for args in [
        &["-worker-id=5"] as &[&str],
        &["-worker-id", "5"],
        &["-worker-id"],
    ] {
        let config = config(args);
        assert_eq!(config.identity.node_id, 617);
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    }
}

/// Paths of a certificate, its key, another key, and an empty file.
fn tls_files(directory: &std::path::Path) -> [String; 4] {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).expect("write");
        path.display().to_string()
    };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    let other = rcgen::KeyPair::generate().expect("made");
    [
        write("cert.pem", &made.cert.pem()),
        write("key.pem", &made.signing_key.serialize_pem()),
        write("other.pem", &other.serialize_pem()),
        write("empty.pem", ""),
    ]
}

#[test]
fn tls_files_are_checked() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let [certificate, key, other, empty] = &tls_files(directory.path());
    let switched = "tls: failed to find certificate PEM data in certificate input, but did find a \
                    private key; PEM inputs may have been switched";
    let no_key = "tls: found a certificate rather than a key in the PEM for the private key";
    let nothing = |what: &str| format!("tls: failed to find any PEM data in {what} input");
    let mismatch = "tls: private key does not match public key";
    for (cert, key, ca, expected) in [
        (certificate, certificate, None, no_key.to_owned()),
        (key, key, None, switched.to_owned()),
        (empty, key, None, nothing("certificate")),
        (certificate, empty, None, nothing("key")),
        (certificate, other, None, mismatch.to_owned()),
        (
            certificate,
            key,
            Some(key),
            "failed to append certificate to pool".to_owned(),
        ),
    ] {
        let mut args = vec![format!("-tls-cert={cert}"), format!("-tls-key={key}")];
        args.extend(ca.map(|ca| format!("-tls-root-ca-file={ca}")));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(
            refusal(&args),
            format!("failed to build TLS config - {expected}")
        );
    }
}

#[test]
fn a_client_auth_policy_forces_tls() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let [certificate, key, ..] = tls_files(directory.path());
    let config = config(&[
        &format!("-tls-cert={certificate}"),
        &format!("-tls-key={key}"),
        &format!("-tls-root-ca-file={certificate}"),
        "-tls-client-auth-policy=require-verify",
        "-tls-min-version=tls1.1",
    ]);
    let security = &config.security;
    assert!(security.tls_server.is_some());
    assert_eq!(
        security.tls.client_auth_policy,
        ClientAuthPolicy::RequireVerify
    );
    assert_eq!(security.tls.required, TlsRequired::Yes);
    assert_eq!(get(&config, "tls_required"), "2");
    assert_eq!(
        config.warnings,
        ["--tls-min-version has no effect: TLS 1.2 is the oldest version spoken"]
    );
}

#[test]
fn file_values_are_validated_like_flags() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let load = |toml: &str| {
        let path = directory.path().join("nsqd.toml");
        fs::write(&path, toml).expect("write");
        raw(&[&format!("-config={}", path.display())]).validate()
    };
    let config = load(
        "id = '5'\ntls_required = false\ntls_min_version = ''\nlog_level = 'warn'\nmsg_timeout = 1500\nnode_id = 7\n",
    );
    let config = config.expect("legal");
    assert_eq!(config.identity.node_id, 5);
    assert_eq!(config.log.level, Level::Warn);
    assert_eq!(config.timeouts.msg_timeout, Duration::from_millis(1500));
    assert_eq!(config.security.tls.min_version, 0x0301);
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains(r#"unknown key "node_id" ignored, use "id""#));
    let error = load("sync_every = 0").expect_err("refused");
    assert_eq!(error.to_string(), "--sync-every must be > 0");
}

#[test]
fn data_path_is_a_plain_path() {
    assert_eq!(
        raw(&["-data-path=/data/100%"]).data_path(),
        PathBuf::from("/data/100%")
    );
    let directory = tempfile::tempdir().expect("temporary directory");
    let missing = directory.path().join("nope");
    let error = nsq_cli::lock_data_path(&missing).expect_err("missing");
    assert_eq!(
        StartupError::from(error).to_string(),
        format!(
            "failed to lock data-path: open {}: no such file or directory",
            missing.display()
        )
    );
}
