"""The configuration file: every key of the reference's example, what `/config` makes of them, and unknown ones."""

from __future__ import annotations

import json
import re
from typing import Dict, Tuple

from harness import Context, case, equal, eventually

# Key, what the file says, and what `GET /config/<key>` answers.
KEYS: Dict[str, Tuple[str, object]] = {
    "log_level": ('"warn"', 3),
    "log_prefix": ('"[x] "', "[x] "),
    "id": ("515", 515),
    "https_address": ('""', ""),
    "broadcast_address": ('"b.example"', "b.example"),
    "broadcast_tcp_port": ("1", 1),
    "broadcast_http_port": ("2", 2),
    "nsqlookupd_tcp_addresses": ("[]", []),
    "auth_http_addresses": ("[]", []),
    "auth_http_request_method": ('"post"', "post"),
    "http_client_connect_timeout": ('"3s"', 3_000_000_000),
    "http_client_request_timeout": ("1500", 1_500_000_000),
    "topology_region": ('"r"', "r"),
    "topology_zone": ('"z"', "z"),
    "mem_queue_size": ("5000", 5000),
    "max_bytes_per_file": ("2097152", 2097152),
    "sync_every": ('"100"', 100),
    "sync_timeout": ('"500ms"', 500_000_000),
    "queue_scan_worker_pool_max": ("3", 3),
    "queue_scan_selection_count": ("10", 10),
    "msg_timeout": ('"30s"', 30_000_000_000),
    "max_msg_timeout": ('"10m"', 600_000_000_000),
    "max_msg_size": ("1024768", 1024768),
    "max_req_timeout": ('"2h"', 7_200_000_000_000),
    "max_body_size": ("5123840", 5123840),
    "max_heartbeat_interval": ('"45s"', 45_000_000_000),
    "max_rdy_count": ("1000", 1000),
    "max_output_buffer_size": ("32768", 32768),
    "max_output_buffer_timeout": ('"1s"', 1_000_000_000),
    "min_output_buffer_timeout": ('"30ms"', 30_000_000),
    "output_buffer_timeout": ('"100ms"', 100_000_000),
    "max_channel_consumers": ("7", 7),
    "statsd_address": ('""', ""),
    "statsd_prefix": ('"p.%s"', "p.127_0_0_1_2."),
    "statsd_interval": ('"30s"', 30_000_000_000),
    "statsd_mem_stats": ("false", False),
    "statsd_udp_packet_size": ("1000", 1000),
    "statsd_exclude_ephemeral": ("true", True),
    "e2e_processing_latency_percentiles": ("[1.0, 0.95, 0.99]", [1, 0.95, 0.99]),
    "e2e_processing_latency_window_time": ('"5m"', 300_000_000_000),
    "tls_cert": ('""', ""),
    "tls_key": ('""', ""),
    "tls_client_auth_policy": ('""', ""),
    "tls_root_ca_file": ('""', ""),
    "tls_required": ("false", 0),
    "tls_min_version": ('"tls1.2"', 771),
    "deflate": ("false", False),
    "max_deflate_level": ("5", 5),
    "snappy": ("false", False),
    "enable_experiment": ("[]", []),
}


def write(context: Context, lines: str) -> str:
    file = context.folder() / "nsqd.cfg"
    file.write_text(lines)
    return f"--config={file}"


@case("config")
def every_key_of_a_file_is_taken_and_shown(context: Context) -> None:
    lines = "".join(f"{key} = {text}\n" for key, (text, _) in KEYS.items())
    # What the harness needs is given by flag, which overrules the file.
    broker = context.broker(write(context, lines), "--log-level=info", "--log-prefix=[nsqd] ")
    shown = {"log_level": 2, "log_prefix": "[nsqd] ", "broadcast_address": "127.0.0.1"}
    for key, (_, value) in KEYS.items():
        reply = broker.http("GET", f"/config/{key}")
        equal(reply.status, 200, f"status of {key}")
        expected = shown.get(key, value)
        if isinstance(expected, str):
            equal(reply.body.decode(), expected, key)
        else:
            equal(json.loads(reply.body), expected, key)
    for key, expected in (("tcp_address", "127.0.0.1:0"), ("http_address", "127.0.0.1:0"), ("data_path", str(broker.data))):
        equal(broker.http("GET", f"/config/{key}").body.decode(), expected, f"{key}, given by flag")
    for key in ("version", "config", "verbose", "worker_id", "node_id", "nope"):
        reply = broker.http("GET", f"/config/{key}")
        equal((reply.status, reply.json()), (400, {"message": "INVALID_OPTION"}), key)


@case("config", ours_only=True)
def unknown_keys_are_named(context: Context) -> None:
    broker = context.broker(write(context, 'node_id = 5\nnope = true\nmax_rdy_count = 9\n[table]\nx = 1\n'))
    lines = [line for line in broker.log_text().splitlines() if "WARNING: config file" in line]
    equal(len(lines), 3, f"warnings in {lines}")
    for key, advice in (("node_id", ', use "id"'), ("nope", ""), ("table", "")):
        assert any(line.endswith(f'unknown key "{key}" ignored{advice}') for line in lines), (key, lines)
    equal(broker.http("GET", "/config/max_rdy_count").body, b"9", "the key that is known")


@case("config")
def levels_and_prefix(context: Context) -> None:
    broker = context.broker("--log-prefix=<here> ", "--verbose")
    line = re.compile(r"<here> \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} (DEBUG|INFO|WARNING|ERROR|FATAL): .+")
    text = broker.log_text()
    assert all(line.fullmatch(each) for each in text.splitlines()), text
    for level, number in (("error", b"4"), ("WARN", b"3")):
        reply = broker.http("PUT", "/config/log_level", level.encode())
        equal((reply.status, reply.body), (200, number), f"level {level}")
    # The request that changes the level is logged or not by the new one.
    before = broker.log_text()
    broker.http("GET", "/info")
    with broker.connect() as client:
        client.alive()
    assert " INFO: " not in broker.log_text()[len(before) :], "INFO at level warn"
    equal(broker.http("PUT", "/config/log_level", b"debug").body, b"1", "level debug")
    broker.http("GET", "/info")
    eventually(lambda: "200 GET /info" in broker.log_text()[len(before) :], "the access log is back")
