"""TLS and compression from the client's side, from the standard library alone, and the certificates for tests.

A layer has `send(bytes) -> bytes` for the wire and `receive(bytes) -> bytes` for what arrives; layers of a
connection are applied from the last to the first.
"""

from __future__ import annotations

import shutil
import ssl
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

import wire
from harness import Skip

IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
BLOCK_MAX = 1 << 16


def crc32c_table() -> List[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc32c_table()


def masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def decompress_block(block: bytes) -> bytes:
    """A block of raw Snappy: literals and copies."""
    length = shift = at = 0
    while True:
        byte = block[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    out = bytearray()
    while at < len(block):
        tag = block[at]
        at += 1
        if tag & 3 == 0:
            size = tag >> 2
            if size >= 60:
                extra = size - 59
                size = int.from_bytes(block[at : at + extra], "little")
                at += extra
            out += block[at : at + size + 1]
            at += size + 1
            continue
        if tag & 3 == 1:
            size, offset = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | block[at]
            at += 1
        else:
            extra = 2 if tag & 3 == 2 else 4
            size, offset = (tag >> 2) + 1, int.from_bytes(block[at : at + extra], "little")
            at += extra
        for _ in range(size):
            out.append(out[-offset])
    assert len(out) == length, "a block holds what it says"
    return bytes(out)


class Snappy:
    """The framing format. What is sent is not compressed: that, too, is legal."""

    def __init__(self) -> None:
        self.begun = False
        self.identified = False
        self.buffer = bytearray()
        self.kinds: List[int] = []

    def send(self, data: bytes) -> bytes:
        out = b"" if self.begun else IDENTIFIER
        self.begun = True
        for at in range(0, len(data), BLOCK_MAX):
            block = data[at : at + BLOCK_MAX]
            header = b"\x01" + struct.pack("<I", len(block) + 4)[:3]
            out += header + struct.pack("<I", masked_crc32c(block)) + block
        return out

    def receive(self, data: bytes) -> bytes:
        self.buffer += data
        out = b""
        while len(self.buffer) >= 4:
            kind, size = self.buffer[0], int.from_bytes(self.buffer[1:4], "little")
            if len(self.buffer) < 4 + size:
                break
            chunk = bytes(self.buffer[4 : 4 + size])
            del self.buffer[: 4 + size]
            self.kinds.append(kind)
            if kind == 0xFF:
                assert chunk == b"sNaPpY", "the stream identifier"
                self.identified = True
                continue
            assert self.identified and kind in (0, 1), f"chunk type {kind}"
            block = decompress_block(chunk[4:]) if kind == 0 else chunk[4:]
            assert len(block) <= BLOCK_MAX, "the format's limit"
            assert struct.unpack("<I", chunk[:4])[0] == masked_crc32c(block), "checksum"
            out += block
        return out


class Deflate:
    def __init__(self, level: int = 6) -> None:
        self.compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
        self.decompressor = zlib.decompressobj(-15)

    def send(self, data: bytes) -> bytes:
        return self.compressor.compress(data) + self.compressor.flush(zlib.Z_SYNC_FLUSH)

    def receive(self, data: bytes) -> bytes:
        return self.decompressor.decompress(data)


class Tls:
    """TLS over bytes in memory, so that a test decides what the broker sees and when."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.ended = False

    def handshake(self, connection: "Layered") -> None:
        while True:
            try:
                self.object.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.send_raw(self.outgoing.read())
                data = connection.receive_raw()
                if not data:
                    self.incoming.write_eof()
                self.incoming.write(data)
        connection.send_raw(self.outgoing.read())

    def send(self, data: bytes) -> bytes:
        self.object.write(data)
        return self.outgoing.read()

    def receive(self, data: bytes) -> bytes:
        self.incoming.write(data)
        out = b""
        while True:
            try:
                plain = self.object.read(1 << 16)
            except ssl.SSLWantReadError:
                return out
            except ssl.SSLZeroReturnError:
                plain = b""
            if not plain:
                self.ended = True
                return out
            out += plain

    def close_notify(self) -> bytes:
        try:
            self.object.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()


class Layered(wire.Connection):
    """A connection that may be upgraded."""

    def __init__(self, *arguments: object, **keywords: object) -> None:
        self.layers: List[object] = []
        super().__init__(*arguments, **keywords)  # type: ignore[arg-type]

    def encode(self, data: bytes) -> bytes:
        for layer in reversed(self.layers):
            data = layer.send(data)
        return data

    def send_raw(self, data: bytes) -> None:
        super().send(data)

    def send(self, data: bytes) -> None:
        super().send(self.encode(data))

    def receive_raw(self) -> bytes:
        self.socket.settimeout(wire.PATIENCE_S)
        return self.socket.recv(1 << 18)

    def decoded(self, data: bytes) -> bytes:
        for layer in self.layers:
            data = layer.receive(data)  # type: ignore[attr-defined]
        return data

    def upgrade(self, tls: Optional[ssl.SSLContext] = None, **fields: object) -> dict:
        """IDENTIFY with these fields, and every upgrade that the reply grants, each with its OK."""
        reply = self.identify(**({"tls_v1": True} if tls else {}), **fields)
        if reply["tls_v1"]:
            assert tls is not None
            self.begin_tls(tls)
            self.ok()
        if reply["snappy"]:
            self.begin(Snappy())
            self.ok()
        if reply["deflate"]:
            self.begin(Deflate())
            self.ok()
        return reply

    def begin(self, layer: object) -> None:
        """Adds a compression. What came behind the reply that grants it belongs to it."""
        rest = bytes(self.buffer)
        self.buffer.clear()
        self.layers.append(layer)
        self.buffer += layer.receive(rest)  # type: ignore[attr-defined]

    def begin_tls(self, context: ssl.SSLContext) -> Tls:
        layer = Tls(context)
        layer.handshake(self)
        self.layers.append(layer)
        # What came with the end of the handshake stays in the layer until it is asked.
        self.buffer += self.decoded(b"")
        return layer

    def ended(self) -> bool:
        return any(isinstance(layer, Tls) and layer.ended for layer in self.layers)

    @property
    def tls(self) -> Tls:
        found = [layer for layer in self.layers if isinstance(layer, Tls)]
        return found[0]


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: a CA, a server's and a client's certificate from it, and a client's of its own making."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def flags(self, server: str = "server") -> Tuple[str, ...]:
        return (
            f"--tls-cert={self.path(server + '.pem')}", f"--tls-key={self.path(server + '.key')}",
            "--https-address=127.0.0.1:0",
        )  # fmt: skip

    def context(self, client: str = "", version: Optional[ssl.TLSVersion] = None) -> ssl.SSLContext:
        """A client that believes the CA; with a certificate if one is named."""
        context = ssl.create_default_context(cafile=self.path("ca.pem"))
        if client:
            context.load_cert_chain(self.path(f"{client}.pem"), self.path(f"{client}.key"))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


def openssl(folder: Path, *arguments: str) -> None:
    result = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, f"openssl {arguments}: {result.stderr}"


def make_certificate(folder: Path, name: str, common_name: str, ca: str = "", key: str = "ec") -> None:
    """NAME.pem and NAME.key; signed by the named CA or by itself. Keys: ec (SEC1), rsa (PKCS#1), pkcs8."""
    make = {
        "ec": ("ecparam", "-genkey", "-name", "prime256v1"), "rsa": ("genrsa", "-traditional", "2048"),
        "pkcs8": ("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    }  # fmt: skip
    openssl(folder, make[key][0], "-out", f"{name}.key", *make[key][1:])
    openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", f"/O=tests/CN={common_name}", "-out", f"{name}.csr")
    kind = "CA:TRUE" if name == "ca" else "CA:FALSE"
    text = f"basicConstraints={kind}\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n"
    (folder / f"{name}.ext").write_text(text)
    signer = ("-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial") if ca else ("-signkey", f"{name}.key")
    openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-days", "30", "-sha256", "-extfile", f"{name}.ext",
        *signer, "-out", f"{name}.pem",
    )  # fmt: skip


MADE: List[Certificates] = []


def certificates(work: Path) -> Certificates:
    """Made once per run."""
    if not MADE:
        if shutil.which("openssl") is None:
            raise Skip("openssl not available: no certificates")
        folder = work / "certificates"
        folder.mkdir(parents=True, exist_ok=True)
        make_certificate(folder, "ca", "test CA")
        make_certificate(folder, "server", "first server", "ca")
        make_certificate(folder, "rsa", "rsa server", "ca", "rsa")
        make_certificate(folder, "pkcs8", "pkcs8 server", "ca", "pkcs8")
        make_certificate(folder, "second", "second server", "ca")
        make_certificate(folder, "client", "test client", "ca")
        make_certificate(folder, "stranger", "a stranger")
        MADE.append(Certificates(folder))
    return MADE[0]
