# SPDX-License-Identifier: Apache-2.0
"""Programs on the target that watch the mount see a synced change as they see a local save.

The reference is ext4 (or what the temporary directory is on): the same change is made there by hand, and per name
the same events must come in the same order. What differs on purpose is said where it is tested.
"""
import contextlib
import ctypes
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import threading
import time

import pytest

from conftest import BUILD, INLAYD, Inlay, pids_with, until, write

pytestmark = pytest.mark.usefixtures("fuse")

LIBC = ctypes.CDLL(None, use_errno=True)
NAMES = {0x2: "MODIFY", 0x4: "ATTRIB", 0x8: "CLOSE_WRITE", 0x40: "MOVED_FROM", 0x80: "MOVED_TO", 0x100: "CREATE",
         0x200: "DELETE", 0x400: "DELETE_SELF", 0x800: "MOVE_SELF", 0x8000: "IGNORED", 0x4000: "OVERFLOW"}
MASK = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
ISDIR = 0x40000000


class Inotify:
    """inotify by hand: every event, with the path it is about."""

    def __init__(self):
        self.fd = LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        assert self.fd >= 0
        self.paths = {}
        self.seen = []

    def add(self, path):
        wd = LIBC.inotify_add_watch(self.fd, os.fsencode(path), MASK)
        assert wd >= 0, os.strerror(ctypes.get_errno())
        self.paths[wd] = os.fspath(path)

    def add_below(self, top):
        self.add(top)
        for base, dirs, _ in os.walk(top):
            for name in dirs:
                self.add(os.path.join(base, name))

    def read(self):
        """All events so far: (path, event, is it a directory, cookie)."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, 1 << 16):
                at = 0
                while at < len(data):
                    wd, mask, cookie, size = struct.unpack_from("iIII", data, at)
                    name = os.fsdecode(data[at + 16:at + 16 + size].rstrip(b"\0"))
                    at += 16 + size
                    path = os.path.join(self.paths.get(wd, ""), name) if name else self.paths.get(wd, "")
                    for bit, text in NAMES.items():
                        if mask & bit:
                            self.seen.append((path, text, bool(mask & ISDIR), cookie))
        return self.seen

    def by_name(self, top):
        """Per name relative to top: its events in order, repeated ones once; without the end of watches."""
        found = {}
        for path, event, is_dir, _ in self.read():
            if event == "IGNORED":
                continue
            events = found.setdefault(os.path.relpath(path, top), [])
            text = event + ("/" if is_dir else "")
            if not events or events[-1] != text:
                events.append(text)
        return found

    def close(self):
        os.close(self.fd)


@pytest.fixture
def watch():
    made = []

    def make(*tops):
        i = Inotify()
        made.append(i)
        for top in tops:
            i.add_below(top)
        return i
    yield make
    for i in made:
        i.close()


def status(dst):
    """.inlay/status as a dict."""
    text = (dst / ".inlay/status").read_text()
    return dict(line.split(": ", 1) for line in text.splitlines())


def replayed(dst, generation):
    """Waits until all events of the generation are raised."""
    until(lambda: int(status(dst)["replayed"]) >= generation, what=f"the replay of generation {generation}")


def sync(inlay, src, dst):
    r = inlay.sync(src, dst)
    replayed(dst, r["generation"])
    return r


def fill(top):
    write(top / "a", "one\n")
    write(top / "b", "two\n")
    write(top / "empty", "")
    write(top / "d/c", "three\n")
    write(top / "d/e/f", "four\n")
    write(top / "gone/g", "five\n")
    write(top / "gone/sub/h", "six\n")
    write(top / "mv/deep/x", "seven\n")
    os.chmod(write(top / "run", "#!/bin/sh\n"), 0o755)
    os.symlink("a", top / "link")


def save(path, text):
    """As an editor that writes in place: truncates only what has something in it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, text.encode())
    os.close(fd)


def retype(top, name, make):
    os.unlink(top / name) if not (top / name).is_dir() or (top / name).is_symlink() else shutil.rmtree(top / name)
    make(top / name)


CHANGES = {
    "modified": lambda t: save(t / "a", "ONE and more\n"),
    "modified deep": lambda t: save(t / "d/e/f", "FOUR and more\n"),
    "created": lambda t: save(t / "d/new", "new\n"),
    "created empty": lambda t: os.close(os.open(t / "d/nothing", os.O_CREAT | os.O_WRONLY, 0o644)),
    "deleted": lambda t: os.unlink(t / "d/c"),
    "renamed": lambda t: os.rename(t / "b", t / "b2"),
    "moved": lambda t: os.rename(t / "b", t / "d/e/b"),
    "renamed over": lambda t: os.rename(t / "b", t / "a"),
    "new directory": lambda t: os.mkdir(t / "d/newdir"),
    "new directory with content": lambda t: write(t / "d/copy/sub/deep/file", "x\n"),
    "deleted directory": lambda t: shutil.rmtree(t / "gone"),
    "renamed directory": lambda t: os.rename(t / "mv", t / "mv2"),
    "moved directory": lambda t: os.rename(t / "mv", t / "d/e/mv"),
    "file to directory": lambda t: retype(t, "a", os.mkdir),
    "directory to file": lambda t: retype(t, "gone", lambda p: save(p, "a file\n")),
    "file to symlink": lambda t: retype(t, "a", lambda p: os.symlink("b", p)),
    "symlink to file": lambda t: retype(t, "link", lambda p: save(p, "a file\n")),
    "new symlink": lambda t: os.symlink("a", t / "d/link"),
    "deleted symlink": lambda t: os.unlink(t / "link"),
    "mode": lambda t: os.chmod(t / "a", 0o600),
    "touched": lambda t: os.utime(t / "a", (5, 6)),
    "all at once": lambda t: (save(t / "a", "ONE and more\n"), save(t / "new", "n\n"), os.unlink(t / "d/c"),
                              os.rename(t / "b", t / "d/b"), shutil.rmtree(t / "gone"),
                              os.rename(t / "mv", t / "mv2"), os.mkdir(t / "d/dir")),
}
# What was made in a new directory before anybody could watch it raises nothing here; by hand neither, but for the race.
# An executable is not opened for writing (a start meanwhile would fail), so nobody sees it closed.


@pytest.mark.parametrize("known", ["already watched", "watched just now"])
@pytest.mark.parametrize("what", CHANGES)
def test_as_on_ext4(inlay, root, src, watch, what, known):
    dst, local = root / "dst", root / "local"
    fill(src)
    local.mkdir()
    fill(local)
    sync(inlay, src, dst)
    synced = watch(dst)
    by_hand = watch(local)
    if known == "already watched":
        write(src / "warm", "1")
        write(local / "warm", "1")
        sync(inlay, src, dst)
        until(lambda: int(status(dst)["watched nodes"]) > 0, what="the watches to be seen")
        synced.read(), by_hand.read()
        synced.seen, by_hand.seen = [], []
    CHANGES[what](local)
    CHANGES[what](src)
    before = status(dst)["looks for watches"]
    sync(inlay, src, dst)
    assert synced.by_name(dst) == by_hand.by_name(local)
    s = status(dst)
    assert s["events missed"] == s["events waiting"] == "0"
    if known == "already watched":
        moves = [c for _, e, _, c in synced.seen if e.startswith("MOVED")]
        assert sorted(moves) == sorted(moves[::2] * 2)
    else:
        assert int(s["looks for watches"]) > int(before)


def test_executable_and_retargeted_link(inlay, root, src, watch):
    """Where a save by hand looks another way: a link is replaced, an executable is not opened for writing."""
    dst = root / "dst"
    fill(src)
    sync(inlay, src, dst)
    w = watch(dst)
    write(src / "run", "#!/bin/bash\n")
    (src / "link").unlink()
    os.symlink("b", src / "link")
    write(src / "run2", "#!/bin/sh\nexit 0\n").chmod(0o755)
    sync(inlay, src, dst)
    assert w.by_name(dst) == {"run": ["MODIFY"], "link": ["MODIFY"], "run2": ["CREATE", "MODIFY"]}


def test_watch_on_a_file(inlay, root, src, watch):
    """A watch on a file itself hears of its end, as after an editor that renames over it."""
    dst = root / "dst"
    fill(src)
    sync(inlay, src, dst)
    for name, change, events in [
            ("a", lambda: write(src / "a", "1 and more\n"), ["DELETE_SELF"]),
            ("d/c", lambda: os.unlink(src / "d/c"), ["ATTRIB", "DELETE_SELF"]),
            ("b", lambda: os.rename(src / "b", src / "b2"), ["MOVE_SELF"]),
            ("run", lambda: os.chmod(src / "run", 0o700), ["ATTRIB"])]:
        w = watch()
        w.add(dst / name)
        change()
        sync(inlay, src, dst)
        got = [e for _, e, _, _ in w.read() if e != "IGNORED"]
        assert got == events or (events[-1] == "DELETE_SELF" and got == ["DELETE_SELF"]), name


def test_two_changes_of_one_name(inlay, root, src, watch):
    """Each change is seen, however soon the next one follows."""
    dst = root / "dst"
    fill(src)
    sync(inlay, src, dst)
    w = watch(dst)
    for i in range(30):
        write(src / "a", f"{i}\n" * (i + 1))
        (write(src / "flip", f"{i}") if i % 2 == 0 else (src / "flip")).stat()
        if i % 2:
            (src / "flip").unlink()
        last = inlay.sync(src, dst)
    replayed(dst, last["generation"])
    events = [e for p, e, _, _ in w.read() if p == str(dst / "flip")]
    # Made and deleted before the events were raised may be nothing; what there is comes in turns.
    turns = [e for e in events if e in ("CREATE", "DELETE")]
    assert turns and all(x != y for x, y in zip(turns, turns[1:])) and turns[0] == "CREATE"
    assert "MODIFY" in {e for p, e, _, _ in w.seen if p == str(dst / "a")}
    assert (dst / "a").read_text() == (src / "a").read_text() and not (dst / "flip").exists()
    assert status(dst)["events waiting"] == "0"
