"""Authorization: what is asked of the servers, what their answers allow, and servers that are slow, broken or gone."""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from harness import Broker, Context, Skip, case, equal, eventually
from wire import ERROR, RESPONSE, Connection, dpub, mpub, pub, sized

Answer = Tuple[int, bytes]
EVERYTHING = {"topic": ".*", "channels": [".*"], "permissions": ["subscribe", "publish"]}


def granting(*entries: dict, ttl: int = 60, **more: object) -> Answer:
    return 200, json.dumps({"ttl": ttl, "authorizations": list(entries), **more}).encode()


class AuthServer:
    """Answers as `answer` says, given the form values of the request; writes every request down."""

    def __init__(self, answer: Callable[[Dict[str, str]], Answer], tls: Optional[ssl.SSLContext] = None) -> None:
        self.answer = answer
        self.requests: List[Tuple[str, str, Dict[str, str], bytes]] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {key.lower(): value for key, value in self.headers.items()}
                owner.requests.append((self.command, self.path, headers, body))
                if self.command == "POST":
                    form = {key: value[0] for key, value in json.loads(body).items()}
                else:
                    query = urllib.parse.urlsplit(self.path).query
                    form = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
                status, reply = owner.answer(form)
                try:
                    self.send_response(status)
                    if status in (301, 302, 307):
                        self.send_header("Location", reply.decode())
                        reply = b""
                    self.send_header("Content-Length", str(len(reply)))
                    self.end_headers()
                    self.wfile.write(reply)
                except OSError:
                    pass

            do_GET = do_POST = take

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> "AuthServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def auth(secret: bytes = b"s") -> bytes:
    return b"AUTH\n" + sized(secret)


def answer_of(broker: Broker, *commands: bytes) -> List[bytes]:
    """The frames that answer these commands, each with its kind left out, of one new connection."""
    with broker.connect() as connection:
        connection.send(b"".join(commands))
        return [connection.frame().data for _ in commands]


def refusal(connection: Connection) -> bytes:
    frame = connection.frame()
    equal(frame.kind, ERROR, f"kind of {frame}")
    return frame.data


@case("auth")
def what_is_granted_is_all_that_is_allowed(context: Context) -> None:
    entries = (
        {"topic": "^pub$", "channels": [".*"], "permissions": ["publish"]},
        {"topic": "sub", "channels": ["^c$"], "permissions": ["subscribe", "publish"]},
    )
    with AuthServer(lambda _: granting(*entries, identity="me", identity_url="http://x")) as server:
        broker = context.broker(f"--auth-http-address={server.address}")
        let_in = b'{"identity":"me","identity_url":"http://x","permission_count":2}'
        rows = (
            (pub("pub", b"m"), b"OK"),
            (mpub("pub", [b"a", b"b"]), b"OK"),
            (dpub("pub", 5, b"m"), b"OK"),
            (b"SUB sub c\n", b"OK"),
            (b"SUB unsubscribed c\n", b"OK"),
            (pub("pubs", b"m"), b'E_UNAUTHORIZED AUTH failed for PUB on "pubs" ""'),
            (mpub("sub", [b"m"]), b'E_UNAUTHORIZED AUTH failed for MPUB on "sub" ""'),
            (dpub("x", 5, b"m"), b'E_UNAUTHORIZED AUTH failed for DPUB on "x" ""'),
            (b"SUB pub c\n", b'E_UNAUTHORIZED AUTH failed for SUB on "pub" "c"'),
            (b"SUB sub d\n", b'E_UNAUTHORIZED AUTH failed for SUB on "sub" "d"'),
        )
        for command, expected in rows:
            equal(answer_of(broker, auth(), command), [let_in, expected], f"answers to {command!r}")
        equal(sorted(t["topic_name"] for t in broker.stats()["topics"]), ["pub", "sub", "unsubscribed"], "topics made")
        equal(broker.post("/pub?topic=free", b"m").body, b"OK", "HTTP asks nobody")


@case("auth")
def commands_before_and_besides_auth(context: Context) -> None:
    with AuthServer(lambda _: granting(EVERYTHING)) as server:
        broker = context.broker(f"--auth-http-address={server.address}")
        for command, verb in (
            (pub("t", b"m"), b"PUB"),
            (mpub("t", [b"m"]), b"MPUB"),
            (dpub("t", 1, b"m"), b"DPUB"),
            (b"SUB t c\n", b"SUB"),
        ):
            equal(answer_of(broker, command), [b"E_AUTH_FIRST AUTH required before " + verb], f"answer to {verb!r}")
        granted = b'{"identity":"","identity_url":"","permission_count":1}'
        equal(answer_of(broker, auth(), auth()), [granted, b"E_INVALID AUTH already set"], "a second AUTH")
        equal(answer_of(broker, b"AUTH x\n"), [b"E_INVALID AUTH invalid number of parameters"], "AUTH with a parameter")
        equal(answer_of(broker, b"AUTH\n" + sized(b"")), [b"E_BAD_BODY AUTH invalid body size 0"], "AUTH with no secret")
        with broker.connect() as connection:
            body = json.dumps({"feature_negotiation": True}).encode()
            connection.send(b"IDENTIFY\n" + sized(body))
            equal(json.loads(connection.frame().data)["auth_required"], True, "auth_required")
            # What follows an AUTH without waiting is served in order after it.
            connection.send(auth() + pub("t", b"1") + b"NOP\n" + pub("t", b"2") + b"SUB t c\n")
            equal([connection.frame().data for _ in range(4)], [granted, b"OK", b"OK", b"OK"], "answers in a row")
            connection.send(auth())
            equal(refusal(connection), b"E_INVALID cannot AUTH in current state", "AUTH after SUB")
        equal([t["topic_name"] for t in broker.stats()["topics"]], ["t"], "topics made")
    equal(answer_of(context.shared_broker(), auth()), [b"E_AUTH_DISABLED AUTH disabled"], "AUTH without any server")


@case("auth")
def what_the_server_is_asked(context: Context) -> None:
    with AuthServer(lambda _: granting(EVERYTHING)) as server:
        broker = context.broker(f"--auth-http-address={server.address}")
        answer_of(broker, auth(b"a b&c=\xff/"))
        verb, path, headers, _ = server.requests[0]
        expected = "/auth?common_name=&remote_ip=127.0.0.1&secret=a+b%26c%3D%FF%2F&tls=false"
        equal((verb, path), ("GET", expected), "request")
        equal(headers["accept"], "application/vnd.nsq; version=1.0", "Accept")
        url = f"http://{server.address}/over/there"
        broker = context.broker(f"--auth-http-address={url}", "--auth-http-request-method=post")
        answer_of(broker, auth(b'a "b"'))
        verb, path, headers, body = server.requests[1]
        equal((verb, path, headers["content-type"]), ("POST", "/over/there", "application/json"), "request")
        values = {"common_name": [""], "remote_ip": ["127.0.0.1"], "secret": ['a "b"'], "tls": ["false"]}
        equal(json.loads(body), values, "body")
        if context.ours:
            answer_of(broker, auth(b"\xff\x00"))
            equal(json.loads(server.requests[2][3])["secret_hex"], ["ff00"], "a secret that is no text")


@case("auth")
def answers_that_cannot_be_used(context: Context) -> None:
    answers = {
        "gone": (500, b"{}"),
        "created": (201, granting(EVERYTHING)[1]),
        "forbidden": (403, b"no"),
        "nonsense": (200, b"not json"),
        "list": (200, b"[]"),
        "ttl": granting(EVERYTHING, ttl=0),
        "permission": granting({**EVERYTHING, "permissions": ["admin"]}),
        "topic": granting({**EVERYTHING, "topic": "("}),
        "channel": granting({**EVERYTHING, "channels": ["*"]}),
        "loop": (302, b"/auth?secret=loop"),
    }
    with AuthServer(lambda form: answers[form["secret"]]) as server:
        broker = context.broker(f"--auth-http-address={server.address}", "--max-body-size=100000")
        for secret in answers:
            equal(answer_of(broker, auth(secret.encode())), [b"E_AUTH_FAILED AUTH failed"], f"answer to {secret}")
        answers["empty"] = granting()
        equal(answer_of(broker, auth(b"empty")), [b"E_UNAUTHORIZED AUTH no authorizations found"], "nothing granted")
        answers["null"] = (200, b'{"ttl":1,"authorizations":null}')
        equal(answer_of(broker, auth(b"null")), [b"E_UNAUTHORIZED AUTH no authorizations found"], "null granted")
        answers["moved"] = (302, b"/auth?secret=good")
        answers["good"] = granting(EVERYTHING)
        assert answer_of(broker, auth(b"moved"))[0].startswith(b"{"), "redirects are followed"
        answers["huge"] = granting(EVERYTHING, identity="x" * 200_000)
        if context.ours:
            equal(answer_of(broker, auth(b"huge")), [b"E_AUTH_FAILED AUTH failed"], "a reply without end")
        warnings = [line for line in broker.log_text().splitlines() if "WARNING" in line and "AUTH failed" in line]
        equal(len(warnings), context.pick(10, 11), "warnings, one for each answer that could not be used")


@case("auth")
def the_next_server_is_asked_when_one_fails(context: Context) -> None:
    with AuthServer(lambda _: (500, b"")) as broken, AuthServer(lambda _: granting(EVERYTHING)) as good:
        gone = AuthServer(lambda _: (200, b""))
        gone.__exit__()
        addresses = (broken.address, gone.address, good.address)
        broker = context.broker(*(f"--auth-http-address={address}" for address in addresses))
        for _ in range(6):
            assert answer_of(broker, auth())[0].startswith(b"{"), "let in"
        equal(len(good.requests), 6, "requests to the good one")
        assert 0 < len(broken.requests) < 6 or not context.ours, "who is asked first changes"


@case("auth")
def grants_expire_and_are_asked_for_again(context: Context) -> None:
    now = {"entries": [EVERYTHING], "status": 200}

    def answer(_: Dict[str, str]) -> Answer:
        status, body = granting(*now["entries"], ttl=2)
        return now["status"], body

    with AuthServer(answer) as server:
        broker = context.broker(f"--auth-http-address={server.address}")
        with broker.connect() as producer, broker.connect() as consumer, broker.connect() as other:
            for connection in (producer, consumer, other):
                connection.send(auth())
                equal(connection.frame().kind, RESPONSE, "kind of the answer to AUTH")
            consumer.send(b"SUB t c\nRDY 100\n")
            equal(consumer.frame().data, b"OK", "answer to SUB")
            producer.send(pub("t", b"1") * 3)
            equal([producer.frame().data for _ in range(3)], [b"OK"] * 3, "answers")
            equal(len(server.requests), 3, "requests while the grants last")
            time.sleep(2.2)  # the time to live is counted in seconds
            producer.send(pub("t", b"2") * 3)
            equal([producer.frame().data for _ in range(3)], [b"OK"] * 3, "answers after a refresh")
            equal(len(server.requests), 4, "one refresh, by the one that needed it")
            now["entries"] = [{**EVERYTHING, "topic": "^else$"}]
            time.sleep(2.2)
            producer.send(pub("t", b"3"))
            equal(refusal(producer), b'E_UNAUTHORIZED AUTH failed for PUB on "t" ""', "after the grants changed")
            now["status"] = 500
            other.send(pub("else", b"4"))
            equal(refusal(other), b"E_AUTH_FAILED AUTH failed", "when the refresh fails")
            # A subscription outlives the grants that it was made under.
            broker.post("/pub?topic=t", b"last")
            bodies = [consumer.frame().data[26:] for _ in range(7)]
            equal(bodies, [b"1"] * 3 + [b"2"] * 3 + [b"last"], "messages")


@case("auth", ours_only=True)
def a_slow_server_delays_only_who_asks_it(context: Context) -> None:
    release = threading.Event()

    def answer(form: Dict[str, str]) -> Answer:
        if form["secret"] == "slow":
            release.wait(8)
        return granting(EVERYTHING)

    with AuthServer(answer) as server:
        broker = context.broker(f"--auth-http-address={server.address}", "--shards=1", "--http-client-request-timeout=9s")
        waiting = [broker.connect() for _ in range(50)]
        for connection in waiting:
            connection.send(auth(b"slow") + pub("t", b"after"))
        eventually(lambda: len(server.requests) == 50, "all are being asked about")
        began = time.monotonic()
        for _ in range(10):
            equal(answer_of(broker, auth(b"fast"), pub("t", b"m"))[1], b"OK", "answer to one that does not wait")
        broker.post("/pub?topic=t", b"m")
        equal(broker.topic("t")["depth"], 11, "depth")
        assert time.monotonic() - began < 5, "others waited for the slow answer"
        leaving = waiting.pop()
        leaving.close()  # while the server thinks about it
        release.set()
        for connection in waiting:
            assert connection.frame().data.startswith(b"{"), "let in at last"
            equal(connection.frame().data, b"OK", "its next command, in order")
            connection.close()


@case("auth", ours_only=True)
def a_server_that_never_answers_has_a_bound(context: Context) -> None:
    with AuthServer(lambda _: (time.sleep(20), granting(EVERYTHING))[1]) as server:
        broker = context.broker(f"--auth-http-address={server.address}", "--http-client-request-timeout=500ms")
        began = time.monotonic()
        equal(answer_of(broker, auth()), [b"E_AUTH_FAILED AUTH failed"], "answer")
        assert 0.4 < time.monotonic() - began < 5, time.monotonic() - began
        with broker.connect() as connection:
            connection.send(auth())
            equal(broker.terminate(), 0, "exit status while somebody waits")


@case("auth", ours_only=True)
def secrets_stay_secret(context: Context) -> None:
    with AuthServer(lambda form: (302, b"http://127.0.0.1:1/?secret=hunter2")) as server:
        gone = f"http://admin:opensesame@{server.address}/auth?key=topsecret"
        broker = context.broker(f"--auth-http-address={gone}", "--log-level=debug")
        equal(answer_of(broker, auth(b"hunter2")), [b"E_AUTH_FAILED AUTH failed"], "answer")
        shown = broker.http("GET", "/config/auth_http_addresses").json()
        equal(shown, [f"http://xxxxx@{server.address}/auth?xxxxx"], "as /config shows it")
        assert "&secret=hunter2" in server.requests[0][1] and "key=topsecret" in server.requests[0][1]
        text = broker.log_text()
        assert f"AUTH failed failed to auth against http://xxxxx@{server.address}/auth?xxxxx - " in text, text[-500:]
        for secret in ("hunter2", "opensesame", "topsecret"):
            assert secret not in text, f"{secret} in the log"
        answer_of(broker, auth(b"again"))


@case("auth", ours_only=True)
def grants_move_with_a_connection(context: Context) -> None:
    with AuthServer(lambda _: granting({**EVERYTHING, "topic": "^t"}, identity="mover")) as server:
        broker = context.broker(f"--auth-http-address={server.address}", "--shards=2")
        for number in range(8):
            with broker.connect() as connection:
                connection.send(auth() + pub(f"t{number}", b"m") + b"SUB t%d c\nRDY 1\n" % (7 - number))
                equal([connection.frame().data for _ in range(3)][1:], [b"OK", b"OK"], f"answers of {number}")
                entry = broker.channel(f"t{7 - number}", "c")
                client = entry["clients"][0]
                equal((client["authed"], client["auth_identity"]), (True, "mover"), "as /stats shows it")
                assert "auth_identity_url" not in client, client
                connection.send(pub("x", b"m"))
                eventually(lambda: refusal_seen(connection), "the refusal")
        equal(len(server.requests), 8, "requests: one for each connection")


def refusal_seen(connection: Connection) -> bool:
    frame = connection.frame()
    return frame.kind == ERROR and frame.data == b'E_UNAUTHORIZED AUTH failed for PUB on "x" ""'


def certificate(folder: Path) -> Tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=auth", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", cert, *names], check=True, capture_output=True, timeout=30)
    except FileNotFoundError:
        raise Skip("openssl not available") from None
    return cert, key


@case("auth")
def servers_over_tls(context: Context) -> None:
    cert, key = certificate(context.folder())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with AuthServer(lambda _: granting(EVERYTHING), tls) as server:
        address = f"--auth-http-address=https://{server.address}/auth"
        trusting = context.broker(address, f"--tls-root-ca-file={cert}")
        assert answer_of(trusting, auth())[0].startswith(b"{"), "let in over TLS"
        doubting = context.broker(address)
        equal(answer_of(doubting, auth()), [b"E_AUTH_FAILED AUTH failed"], "with an unknown authority")
        equal(len(server.requests), 1, "requests that got through")
        # A plain door that sends to the other one.
        with AuthServer(lambda _: (403, json.dumps({"https_port": server.port}).encode())) as plain:
            sent = context.broker(f"--auth-http-address={plain.address}", f"--tls-root-ca-file={cert}")
            assert answer_of(sent, auth(b"there"))[0].startswith(b"{"), "let in at the other door"
            assert server.requests[1][1].startswith("/auth?common_name=&remote_ip=127.0.0.1&secret=there")
