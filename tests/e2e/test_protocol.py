# SPDX-License-Identifier: Apache-2.0
"""A peer that keeps to no rule, against a real `inlayd serve`: refused with a reason, and nothing else suffers."""
import ctypes
import ctypes.util
import os
import socket
import struct
import subprocess

import pytest

from conftest import INLAYD, tree, write

pytestmark = pytest.mark.usefixtures("fuse")

MAGIC = bytes.fromhex("89696e6c61790d0ad35e91c62fb8047a")
HELLO, OPEN, DATA, COMMIT, HAVE, REQUEST, DELTA = range(1, 8)
PING, PONG = 9, 25
OPENED, FAILED = 16, 23
CREATE, WRITE = 1, 2

xxhash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
xxhash.XXH3_64bits_withSeed.restype = ctypes.c_uint64
xxhash.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def frame(kind, payload=b""):
    head = struct.pack("<IB3x", len(payload), kind)
    check = xxhash.XXH3_64bits_withSeed(payload, len(payload), struct.unpack("<Q", head)[0])
    return head + struct.pack("<Q", check) + payload


def text(s):
    b = os.fsencode(s)
    assert len(b) < 128
    return bytes([len(b)]) + b


def hello(version=1, least=1):
    return frame(HELLO, struct.pack("<HHI", version, least, 0) + text("test") + text("x86_64") + bytes(4))


def open_(path, flags=CREATE | WRITE):
    root, wait, lease, config, before = bytes(32), bytes(1), bytes(8), bytes(2), text("")
    return frame(OPEN, bytes([flags]) + text(path) + text("test") + text("test:/") + root + wait + lease + config
                 + before)


class Peer:
    """`inlayd serve` on a socket pair, as ssh would start it."""

    def __init__(self, inlay):
        near, far = socket.socketpair()
        self.socket = near
        self.process = subprocess.Popen([INLAYD, "serve", "--state", inlay.state / "host"], stdin=far, stdout=far,
                                        stderr=subprocess.PIPE, env=inlay.env)
        far.close()
        near.settimeout(20)

    def say(self, *parts):
        try:
            self.socket.sendall(b"".join(parts))
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # it may have hung up already
            pass
        return self

    def hear(self):
        """All frames until the server hangs up: [(type, payload)]."""
        data = b""
        try:
            while part := self.socket.recv(65536):
                data += part
        except ConnectionResetError:
            pass
        self.socket.close()
        self.process.communicate(timeout=20)
        frames, at = [], data.index(MAGIC) + len(MAGIC)
        while at < len(data):
            size, kind = struct.unpack_from("<IB", data, at)
            frames.append((kind, data[at + 16:at + 16 + size]))
            at += 16 + size
        return frames


@pytest.fixture
def synced(inlay, root, src):
    write(src / "f", "first\n")
    inlay.sync(src, root / "dst")
    return root / "dst"


def flipped(b, bit):
    out = bytearray(b)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


BAD = {
    "OPEN before HELLO": lambda d: [MAGIC, open_(d)],
    "nothing but a foreign version": lambda d: [MAGIC, hello(9, 9)],
    "DATA without OPEN": lambda d: [MAGIC, hello(), frame(DATA, b"x")],
    "COMMIT without OPEN": lambda d: [MAGIC, hello(), frame(COMMIT, bytes(80))],
    "COMMIT without the lock": lambda d: [MAGIC, hello(), open_(d, 0), frame(COMMIT, bytes(79))],
    "a second OPEN": lambda d: [MAGIC, hello(), open_(d), open_(d)],
    "OPEN without a path": lambda d: [MAGIC, hello(), open_("")],
    "OPEN that is cut": lambda d: [MAGIC, hello(), frame(OPEN, b"\x03\x50abc")],
    "a message of the server": lambda d: [MAGIC, hello(), open_(d), frame(OPENED, b"")],
    "an unknown message": lambda d: [MAGIC, hello(), frame(99, b"x")],
    "rubbish as objects": lambda d: [MAGIC, hello(), open_(d), frame(DATA, b"rubbish" * 100)],
    "an odd HAVE": lambda d: [MAGIC, hello(), open_(d), frame(HAVE, b"123456789")],
    "an unknown request": lambda d: [MAGIC, hello(), open_(d), frame(REQUEST, b"\xff" * 10)],
    "an oversized frame": lambda d: [MAGIC, hello(), struct.pack("<IB3xQ", 1 << 30, DATA, 0) + bytes(1000)],
    "a flipped bit in a header": lambda d: [MAGIC, hello(), flipped(open_(d), 33)],
    "a flipped bit in a payload": lambda d: [MAGIC, hello(), flipped(open_(d), 200)],
    "no magic": lambda d: [b"GET / HTTP/1.1\r\n\r\n" * 5000],
}


def test_what_is_bad_here_is_good_otherwise(inlay, synced):
    """The messages that the cases below are made of are right in themselves."""
    frames = Peer(inlay).say(MAGIC, hello(), open_(os.fspath(synced)), frame(PING)).hear()
    assert [kind for kind, _ in frames] == [HELLO, OPENED, PONG]


@pytest.mark.parametrize("name", BAD)
def test_refused_with_a_reason(inlay, src, synced, name):
    before = tree(synced)
    frames = Peer(inlay).say(*BAD[name](os.fspath(synced))).hear()
    assert frames[-1][0] == FAILED and len(frames[-1][1]) > 10, frames
    # The same keeper serves on; nothing is locked, nothing has changed.
    assert tree(synced) == before
    write(src / "f", "second\n")
    assert inlay.sync(src, synced, "--lock-wait", "0")["generation"] == 2
    assert (synced / "f").read_text() == "second\n"


@pytest.mark.parametrize("cut", [1, 16, 20, 40, 60, 90, 100])
def test_cut_at_any_byte(inlay, src, synced, cut):
    """A peer that goes away in the middle is no error of anybody, and leaves no lock."""
    Peer(inlay).say((MAGIC + hello() + open_(os.fspath(synced)))[:cut]).hear()
    write(src / "f", "second\n")
    assert inlay.sync(src, synced, "--lock-wait", "1")["generation"] == 2
