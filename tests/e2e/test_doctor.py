# SPDX-License-Identifier: Apache-2.0
"""doctor: what is well and what is not, on both ends, and what it puts right.

Dead mounts are the machine's, not a test's, so these tests run in a mount namespace without the mounts of others.
"""
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import INLAY, Inlay, Result, until, write
from test_protocol import MAGIC, REQUEST, Peer, frame, hello

pytestmark = pytest.mark.usefixtures("fuse")
DOCTOR = 16  # MESSAGE_VERB_DOCTOR
ROW, END = 21, 22


class Alone(Inlay):
    """Its commands, and so its keeper and its mounts, are in a mount namespace of their own."""

    def __init__(self, root, env=None):
        super().__init__(root, env)
        self.holder = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c",
             "sed -n 's/^[^ ]* \\([^ ]*\\) fuse.inlay .*/\\1/p' /proc/self/mounts | while read -r p; do "
             "umount -l \"$p\"; done; echo ready; read -r _"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"ready\n"

    def enter(self, *args, env=None, **kw):
        return subprocess.run(["nsenter", "-m", "-t", str(self.holder.pid), *map(os.fspath, args)],
                              env=env or self.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, **kw)

    def __call__(self, *args, code=0, env=None, **kw):
        r = Result(self.enter(INLAY, *args, env=env, **kw))
        assert code is None or r.code == code, f"{args}: {r.code}\n{r.out}{r.err}"
        assert "Sanitizer" not in r.err, r.err
        return r

    def doctor(self, *args, code=0, **kw):
        rows = self("doctor", "--json", *args, code=code, **kw).rows
        assert all(r["schema"] == 1 and r["level"] in ("ok", "warn", "bad") for r in rows)
        return rows


@pytest.fixture
def alone(root):
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare")
    a = Alone(root)
    yield a
    for pid in [a.keeper_pid(), *a.worker_pids()]:
        if pid:
            os.kill(pid, signal.SIGKILL)
    a.holder.communicate(b"\n")


def one(rows, check, where=None):
    found = [r for r in rows if r["check"] == check and (where is None or r["where"] == where)]
    assert len(found) == 1, (check, rows)
    return found[0]


def test_all_is_well(alone, root, src):
    write(src / "a", "a")
    alone("sync", src, root / "dst")
    rows = alone.doctor()
    assert {"agents", "kernel", "inotify", "disk"} <= {r["check"] for r in rows if r["where"] == "here"}
    there = "this machine as a target"
    assert {"agent", "clock", "kernel", "fuse", "fusermount", "inotify", "disk", "mount",
            "shared", "boot"} == {
        r["check"] for r in rows if r["where"] == there}
    assert not [r for r in rows if r["level"] == "bad"]
    assert one(rows, "mount")["text"].startswith(f"{root}/dst: mounted")
    # Its state lies elsewhere, so nothing was registered.
    boot = one(rows, "boot")
    assert boot["level"] == "warn" and "--boot" in boot["cure"]
    text = alone("doctor").out
    assert "nothing is broken" in text and "cure: inlay mount --boot" in text
    assert "agents" not in alone("doctor", "-q").out


def test_dead_mount(alone, root, src):
    write(src / "a", "a")
    other = dict(alone.env, INLAY_STATE=str(root / "other-state"))
    alone("sync", src, root / "dst")
    alone.doctor(env=other)
    keeper, workers = alone.keeper_pid(), alone.worker_pids()
    for pid in [keeper, *workers]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(os.path.exists(f"/proc/{p}") for p in [keeper, *workers]))
    until(lambda: alone.enter("stat", "-f", root / "dst").returncode != 0, what="the mount to be dead")
    rows = alone.doctor(env=other, code=1)
    dead = one(rows, "mount")
    assert dead["level"] == "bad" and "is dead" in dead["text"] and f"{root}/dst" in dead["text"]
    assert "something is broken" in alone("doctor", env=other, code=1).out
    fixed = one(alone.doctor("--fix", env=other), "mount")
    assert fixed["fixed"] and fixed["level"] == "ok"
    assert str(root / "dst") not in alone.enter("cat", "/proc/self/mounts").stdout.decode()
    assert not [r for r in alone.doctor(env=other) if r["check"] == "mount"]
    # Its own keeper mounts it again.
    assert one(alone.doctor("--fix"), "mount")["level"] == "ok"
    assert alone.enter("cat", root / "dst/a").stdout == b"a"


def test_full_disk(alone, root):
    alone.state.mkdir()
    assert alone.enter("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", alone.state).returncode == 0
    disks = [r for r in alone.doctor(code=1) if r["check"] == "disk"]
    assert [r["level"] for r in disks] == ["bad", "bad"] and all("make room" in r["cure"] for r in disks)


def test_no_fuse(alone, root):
    """In a container there may be no /dev/fuse."""
    assert alone.enter("mount", "-t", "tmpfs", "tmpfs", "/dev").returncode == 0
    assert alone.enter("mknod", "-m", "666", "/dev/null", "c", "1", "3").returncode == 0
    fuse = one(alone.doctor(code=1), "fuse")
    assert fuse["level"] == "bad" and "--device /dev/fuse" in fuse["cure"]


def test_ordinary_user(alone, root):
    state = root / "user-state"
    state.mkdir()
    os.chown(state, 65534, 65534)
    home = root / "user-home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    env = dict(alone.env, INLAY_STATE=str(state), HOME=str(home))
    r = alone.enter("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", INLAY, "doctor", "--json",
                    env=env)
    rows = Result(r).rows
    helper = one(rows, "fusermount")
    assert "fusermount3" in helper["text"] and helper["level"] == (
        "ok" if shutil.which("fusermount3") else "bad")
    assert "for this user alone" in one(rows, "allow_other")["text"]


def checks(peer_frames):
    """The rows of an answer: (level, fixed, name, text, cure)."""
    for kind, payload in peer_frames:
        if kind != ROW:
            continue
        at, texts = 2, []
        for _ in range(3):
            size, shift = 0, 0
            while True:
                byte = payload[at]
                at += 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            texts.append(payload[at:at + size].decode())
            at += size
        assert at == len(payload)
        yield (payload[0], payload[1], *texts)


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


@pytest.mark.parametrize("ahead_s,level,word", [(0, 0, "as yours"), (90, 1, "behind yours"), (-3600, 1, "ahead of yours")])
def test_clocks(inlay, root, ahead_s, level, word):
    now = time.time_ns() + ahead_s * 10**9
    request = frame(REQUEST, bytes([DOCTOR, 0]) + varint(now) + varint(0) + varint(0))
    rows = list(checks(Peer(inlay).say(MAGIC, hello(), request).hear()))
    clock = [r for r in rows if r[2] == "clock"]
    assert len(clock) == 1 and clock[0][0] == level and word in clock[0][3], clock


@pytest.fixture
def remote(root, sshd):
    return Inlay(root, {"INLAY_SSH": sshd.ssh})


def test_over_ssh(remote, sshd):
    def doctor(*args, code=None):
        return remote("doctor", "--json", *args, code=code).rows

    rows = doctor("testhost")
    assert one(rows, "transport")["text"].startswith("openssh: ")
    assert "would do as well" in one(rows, "libssh2")["text"]
    assert one(rows, "fuse", "testhost")["level"] == "ok"
    rows = doctor("--transport", "libssh2", "testhost")
    assert one(rows, "transport")["text"] == "libssh2: it was asked for"
    rows = doctor(*3 * ["testhost"])
    assert [r["text"] for r in rows if r["check"] == "transport"] == 3 * [
        "libssh2: fastest to connect, and the hosts are many"]
    sshd.configure("Ciphers aes128-gcm@openssh.com")
    rows = doctor("testhost")
    assert "no cipher" in one(rows, "libssh2")["text"]
    rows = doctor(*3 * ["testhost"])
    assert all("no cipher" in r["text"] for r in rows if r["check"] == "transport")
    sshd.client("ProxyCommand cat")
    assert "ProxyCommand" in one(doctor("--transport", "libssh2", "testhost", code=5), "connection")["text"]


def test_hosts_that_cannot_be_reached(remote, sshd):
    rows = remote("doctor", "--json", "testhost", "ssh://127.0.0.1:1", code=3).rows
    bad = one(rows, "connection")
    assert bad["where"] == "ssh://127.0.0.1:1" and bad["level"] == "bad"
    assert one(rows, "fuse")["where"] == "testhost"
    assert one(remote("doctor", "--json", "ssh://127.0.0.1:1", code=5).rows, "connection")
    assert "is a path" in one(remote("doctor", "--json", "a/b", code=2).rows, "connection")["text"]
