"""A watcher: a process that takes part in an App without being the same program, hosts nothing, and receives the state.

Written from docs/protocol.md alone. Needs the package `msgpack`.
"""

import hashlib
import hmac
import os
import socket
import ssl
import struct

import msgpack

MAGIC = b"FLOWRITE"
VERSION = 11
HELLO, DATA, ACK, BYE = range(4)
CONTROL = 0


# The extension types of MessagePack in states.
SOME_NIL, WIDE = 2, 1


def extension(kind, data):
    """Converts an extension (nil inside `Some`s, or a wide integer) to the JSON of the HTTP API."""
    if kind == WIDE:
        return str(int.from_bytes(data, "big", signed=True))
    assert kind == SOME_NIL and 1 <= data[0] <= 128, (kind, data)
    value = None
    for _ in range(data[0]):
        value = {"$some": value}
    return value


class Refused(Exception):
    pass


def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise ConnectionError(f"it ended after {len(data)} of {count} bytes")
        data += more
    return data


def frame(kind, body):
    return struct.pack(">IB", len(body) + 1, kind) + body


class Watcher:
    """A session that receives the App's state."""

    def __init__(self, host, port, program, token=None, certificate=None):
        self.address = (host, port)
        self.program = program
        self.token = token
        # Paths of the certificate, its key, and the CA.
        self.certificate = certificate
        self.id = int.from_bytes(os.urandom(7), "big")
        self.session = int.from_bytes(os.urandom(7), "big")
        self.received = 0
        self.app = None
        self.stream = None

    def connect(self):
        """Begins the session, or continues it on another connection."""
        stream = socket.create_connection(self.address, timeout=20)
        if self.certificate:
            cert, key, ca = self.certificate
            context = ssl.create_default_context(cafile=ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(cert, key)
            stream = context.wrap_socket(stream, server_hostname="flowright")
        flags = (1 if self.token else 0) | (2 if self.certificate else 0)
        mine = MAGIC + struct.pack(">HB", VERSION, flags) + os.urandom(32)
        stream.sendall(mine)
        theirs = exactly(stream, 43)
        if theirs[:8] != MAGIC:
            raise Refused(f"it does not speak this protocol: {theirs!r}")

        def proof(role):
            return hmac.new(self.token.encode(), role + mine + theirs, hashlib.sha256).digest()

        if self.token and theirs[10] & 1:
            stream.sendall(proof(b"flowright dialer"))
        if exactly(stream, 1) != b"\0":
            (length,) = struct.unpack(">H", exactly(stream, 2))
            raise Refused(exactly(stream, length).decode())
        if self.token and not hmac.compare_digest(exactly(stream, 32), proof(b"flowright listener")):
            raise Refused("it does not know the token")

        node = {
            "id": self.id,
            "name": "watcher",
            "labels": {},
            "resources": {"cpus": 0, "gpus": 0, "memory": 0},
            "endpoints": [],
        }
        hello = {
            "role": "watcher",
            "program": self.program,
            "node": node,
            "app": self.app,
            "session": self.session,
            "fresh": self.app is None,
            "received": self.received,
        }
        stream.sendall(frame(HELLO, msgpack.packb(hello)))
        self.stream = stream
        kind, body = self.read()
        answer = msgpack.unpackb(body)
        if kind == BYE:
            raise Refused(answer["reason"])
        assert kind == HELLO, kind
        self.app = answer["app"]
        assert answer["received"] == 0, "nothing was sent to it yet"
        return answer

    def read(self):
        (length,) = struct.unpack(">I", exactly(self.stream, 4))
        assert 0 < length <= 16 << 20, length
        kind, body = exactly(self.stream, 1)[0], exactly(self.stream, length - 1)
        return kind, body

    def cut(self):
        self.stream.close()

    def states(self):
        """Yields the states, as (version, state), until the App ends."""
        while True:
            kind, body = self.read()
            if kind == BYE:
                return
            if kind != DATA:
                assert kind == ACK and struct.unpack(">Q", body) == (0,), (kind, body)
                # Answers each heartbeat with one.
                self.acknowledge()
                continue
            (number,) = struct.unpack(">Q", body[:8])
            if number <= self.received:
                continue
            assert number == self.received + 1, f"message {number} came after {self.received}"
            self.received = number
            self.acknowledge()
            assert body[8] == CONTROL, body[8]
            ((what, fields),) = msgpack.unpackb(body[9:], strict_map_key=False, ext_hook=extension).items()
            if what == "end":
                return
            assert what == "state", what
            yield fields["version"], fields["state"]

    def acknowledge(self):
        self.stream.sendall(frame(ACK, struct.pack(">Q", self.received)))
