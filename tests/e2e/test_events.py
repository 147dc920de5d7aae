# SPDX-License-Identifier: Apache-2.0
"""Programs on the target that watch the mount see a synced change as they see a local save.

The reference is ext4 (or what the temporary directory is on): the same change is made there by hand, and per name
the same events must come in the same order. What differs on purpose is said where it is tested.
"""
import contextlib
import ctypes
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import threading

import pytest

from conftest import BUILD, pids_with, tree, until, write

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


# ---- other readers, while events are raised ----

class Hammer:
    """Threads that stat and read names all the time, and hold what they see against what may be seen."""

    def __init__(self, names, check, threads=3):
        self.stop = threading.Event()
        self.wrong, self.count = [], 0
        self.threads = [threading.Thread(target=self.run, args=(names, check)) for _ in range(threads)]

    def run(self, names, check):
        while not self.stop.is_set():
            for name in names:
                try:
                    with open(name, "rb") as f:
                        seen = f.read()
                except FileNotFoundError:
                    seen = None
                except OSError as e:
                    seen = e
                self.count += 1
                if problem := check(name, seen):
                    self.wrong.append(problem)
                    return

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join()


@pytest.mark.release
def test_no_reader_sees_a_wrong_answer(inlay, root, src, watch):
    """Files that stay are always there; content never goes back; what was seen deleted does not come again."""
    dst = root / "dst"
    rounds = 170    # of three changes that are replayed each: more than 500
    write(src / "stays", "0 " * 5000)
    write(src / "dir/moves0", "moves")
    write(src / "dir/comes0", "c")
    sync(inlay, src, dst)
    w = watch(dst)
    newest = {}

    def check(name, seen):
        base = os.path.basename(name)
        if isinstance(seen, OSError):
            return f"{base}: {seen}"
        if base == "stays":
            if seen is None:
                return "stays: ENOENT"
            parts = set(seen.split())
            if len(parts) != 1 or len(seen) != 5000 * (len(parts.copy().pop()) + 1):
                return f"stays: torn or cut: {parts} {len(seen)}"
            return None
        if base.startswith("stable"):
            return "stable: ENOENT" if seen is None else None
        return None

    write(src / "dir/stable", "s")
    sync(inlay, src, dst)
    names = [dst / "stays", dst / "dir/stable", dst / "dir/flips"]

    def tail(name, seen):
        """The number in a file only grows, seen by one thread."""
        me = threading.get_ident()
        if name.name == "stays" and seen:
            number = int(seen.split()[0])
            if number < newest.get(me, 0):
                return f"stays: went back from {newest[me]} to {number}"
            newest[me] = number
        return check(name, seen)

    with Hammer(names, tail) as h:
        for i in range(1, rounds + 1):
            write(src / "stays", f"{i} " * 5000)
            os.rename(src / f"dir/moves{i - 1}", src / f"dir/moves{i}")
            if i % 2:
                write(src / "dir/flips", f"{i}")
            else:
                (src / "dir/flips").unlink()
            inlay.sync(src, dst)
            # Visible means for everybody, whatever was cached before.
            assert (dst / "stays").read_text().startswith(f"{i} ")
            assert (dst / "dir/flips").exists() == bool(i % 2)
            assert (dst / f"dir/moves{i}").read_text() == "moves"
            assert not (dst / f"dir/moves{i - 1}").exists()
            assert not h.wrong, h.wrong
    assert not h.wrong and h.count > 1000
    until(lambda: status(dst)["events waiting"] == "0", what="the replay")
    seen = w.by_name(dst)
    assert status(dst)["events missed"] == "0"
    moved = [e for p, e, _, _ in w.seen if e in ("MOVED_FROM", "MOVED_TO")]
    turns = [e for p, e, _, _ in w.seen if p.endswith("/flips") and e in ("CREATE", "DELETE")]
    assert len(moved) >= 2 * rounds * 0.9 and "stays" in seen
    assert turns == ["CREATE", "DELETE"] * (len(turns) // 2) and len(turns) >= rounds * 0.9


def test_moved_directory_under_readers(inlay, root, src, watch):
    """A directory moves to and fro while others look into both places, list them and stand in them."""
    dst = root / "dst"
    write(src / "p/mv/deep/x", "seven")
    write(src / "p/keep", "k")
    write(src / "q/keep", "k")
    sync(inlay, src, dst)
    w = watch(dst)

    def seen(name, got):
        if isinstance(got, OSError) and not isinstance(got, IsADirectoryError):
            return repr(got)
        with contextlib.suppress(FileNotFoundError):
            for e in os.scandir(name.parent):
                e.stat()
        return "keep: ENOENT" if name.name == "keep" and got is None else None

    with Hammer([dst / "p/mv/deep/x", dst / "q/mv/deep/x", dst / "p/keep", dst / "q/keep"], seen) as h:
        for i in range(40):
            old, new = ("p", "q") if i % 2 == 0 else ("q", "p")
            os.rename(src / old / "mv", src / new / "mv")
            inlay.sync(src, dst)
            assert (dst / new / "mv/deep/x").read_text() == "seven" and not (dst / old / "mv").exists()
            assert os.listdir(dst / new / "mv/deep") == ["x"]
    assert not h.wrong, h.wrong
    until(lambda: status(dst)["events waiting"] == "0", what="the replay")
    assert status(dst)["events missed"] == "0"
    moved = [e for _, e, _, _ in w.read() if e in ("MOVED_FROM", "MOVED_TO")]
    assert len(moved) >= 60


@pytest.mark.parametrize("known", ["already watched", "watched just now"])
def test_events_tell_what_is_there(inlay, root, src, watch, known):
    """Random changes, with a helper that is held up for some of them, so that names change again before their events: who starts with the listing and believes the events ends with the listing,
    and was told of each file that has other content."""
    dst = root / "dst"
    rnd = random.Random(known)
    dirs = [src / f"d{i}" for i in range(3)]
    for d in dirs:
        write(d / "keep", "k")
        for i in range(8):
            write(d / f"f{i}", f"{d.name} {i}\n")
    sync(inlay, src, dst)
    w = Inotify()
    believed = {}
    if known == "already watched":
        w.add_below(dst)
        write(src / "d0/keep", "known")
        sync(inlay, src, dst)
        w.read()
        w.seen.clear()
    else:
        w.add_below(dst)
    for d in dirs:
        for name in os.listdir(dst / d.name):
            believed[d.name, name] = os.lstat(dst / d.name / name).st_ino
    number = 0
    held = None
    for turn in range(60):
        if turn % 6 == 1 and (held := helper_pid(dst)):
            os.kill(held, signal.SIGSTOP)
        if turn % 6 == 5 and held:
            os.kill(held, signal.SIGCONT)
            held = None
        for _ in range(rnd.randrange(1, 5)):
            number += 1
            d, name = rnd.choice(dirs), f"f{rnd.randrange(10)}"
            path = d / name
            kind = rnd.randrange(4)
            if os.path.lexists(path) and kind == 0:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            elif os.path.lexists(path) and kind == 1:
                to = rnd.choice(dirs) / f"f{rnd.randrange(10)}"
                if not os.path.lexists(to):
                    os.rename(path, to)
            elif path.is_dir():
                shutil.rmtree(path)
            elif rnd.randrange(6) == 0:
                path.unlink(missing_ok=True)
                path.mkdir()
                write(path / "inside", f"{number}")
            else:
                write(path, f"{number}\n")
        inlay.sync(src, dst)
        assert tree(dst, times=False) == tree(src, times=False)
    if held:
        os.kill(held, signal.SIGCONT)
    until(lambda: status(dst)["events waiting"] == "0", what="the replay")
    names, touched = set(believed), set()
    for path, event, _, _ in w.read():
        at = os.path.relpath(path, dst).split("/")
        if len(at) != 2 or at[1] == ".":
            continue
        at = tuple(at)
        if event in ("CREATE", "MOVED_TO"):
            assert at not in names or event == "MOVED_TO", (at, event)
            names.add(at)
        elif event in ("DELETE", "MOVED_FROM"):
            assert at in names, (at, event)
            names.remove(at)
        touched.add(at)
    there = {(d.name, name) for d in dirs for name in os.listdir(dst / d.name)}
    assert names == there
    for at, ino in believed.items():
        if at in there and os.lstat(dst / at[0] / at[1]).st_ino != ino:
            assert at in touched
    assert status(dst)["events missed"] == "0"
    w.close()


def helper_pid(dst):
    pids = pids_with(f"replay --point {dst}")
    return pids[0] if pids else None


def test_helper_killed_at_any_moment(inlay, root, src, watch):
    """The list is closed without it: what is mounted is right, and nothing stays listed."""
    dst = root / "dst"
    for i in range(300):
        write(src / f"f{i}", "x")
    sync(inlay, src, dst)
    w = watch(dst)
    for name in os.listdir(dst):
        os.stat(dst / name)
    with contextlib.suppress(FileNotFoundError):
        os.stat(dst / "g0")
    stop = threading.Event()
    killed = []

    def kill():
        while not stop.is_set():
            if pid := helper_pid(dst):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
    t = threading.Thread(target=kill)
    t.start()
    try:
        for i in range(12):
            for k in range(0, 300, 3):
                a, b = src / f"f{k}", src / f"g{k}"
                if a.exists():
                    os.rename(a, b)
                else:
                    os.rename(b, a)
                write(src / f"f{k + 1}", f"{i}\n" * (i + 1))
            inlay.sync(src, dst)
            assert sorted(os.listdir(dst)) == sorted(os.listdir(src))
            for k in range(300):
                for name in (f"f{k}", f"g{k}"):
                    assert (dst / name).exists() == (src / name).exists(), name
    finally:
        stop.set()
        t.join()
    assert killed
    until(lambda: status(dst)["events waiting"] == "0", what="the list to be closed")
    # And it goes on with a new one.
    write(src / "later", "x")
    until(lambda: (sync(inlay, src, dst), write(src / "later", os.urandom(3).hex()),
                   (str(dst / "later"), "CREATE") in {(p, e) for p, e, _, _ in w.read()} or
                   (str(dst / "later"), "MODIFY") in {(p, e) for p, e, _, _ in w.read()})[2],
          what="events after the kills")


def test_writers_and_listed_names(inlay, root, src, watch):
    """Names are listed, and somebody on the target changes them himself: his change is the one that stays."""
    dst = root / "dst"
    fill(src)
    write(src / "gone2", "2")
    write(src / "gone3", "3")
    sync(inlay, src, dst)
    watch(dst)
    write(src / "warm", "1")
    sync(inlay, src, dst)
    for turn in range(3):
        new = [f"new{turn}{i}" for i in range(4)]
        for name in new:
            write(src / name, name)
            assert not (dst / name).exists()    # remembered as not there
        gone = [f"gone{turn}{i}" for i in range(3)]
        if turn:
            for name in gone:
                (src / name).unlink()
        for name in (f"gone{turn + 1}{i}" for i in range(3)):
            write(src / name, name)
        write(src / "a", f"synced {turn}")
        held = until(lambda: helper_pid(dst), what="a helper")
        os.kill(held, signal.SIGSTOP)
        try:
            inlay.sync(src, dst)
            assert int(status(dst)["events waiting"]) > 4
            (dst / new[0]).unlink()
            (dst / new[1]).write_text("mine")
            (dst / new[2]).rename(dst / f"{new[2]}.mine")
            if turn:
                assert not (dst / gone[0]).exists()
                (dst / gone[0]).write_text("mine")
                (dst / gone[1]).mkdir()
                (dst / gone[1] / "below").write_text("mine")
            with open(dst / "b", "a") as f:
                f.write(f"line {turn}\n")
        finally:
            os.kill(held, signal.SIGCONT)
        until(lambda: status(dst)["events waiting"] == "0", what="the replay")
        assert not (dst / new[0]).exists() and (dst / new[1]).read_text() == "mine"
        assert not (dst / new[2]).exists() and (dst / f"{new[2]}.mine").read_text() == new[2]
        assert (dst / new[3]).read_text() == new[3] and (dst / "a").read_text() == f"synced {turn}"
        assert (dst / "b").read_text().endswith(f"line {turn}\n")
        if turn:
            assert (dst / gone[0]).read_text() == "mine" and not (dst / gone[2]).exists()
            assert (dst / gone[1] / "below").read_text() == "mine"
            names = os.listdir(dst)
            assert gone[0] in names and gone[1] in names and gone[2] not in names and new[0] not in names


def test_nothing_written_is_swallowed(inlay, root, src, watch):
    """Writers go on during replays; what they wrote is there, to the last byte."""
    dst = root / "dst"
    fill(src)
    sync(inlay, src, dst)
    watch(dst)
    stop = threading.Event()
    done, wrong = {}, []

    def work(me):
        try:
            n = 0
            while not stop.is_set():
                with open(dst / f"d/log{me}", "a") as f:
                    f.write(f"{n}\n")
                path = dst / f"d/mine{me}.{n}"
                path.write_text(f"{n}")
                if n % 2:
                    path.rename(dst / f"kept{me}.{n}")
                else:
                    path.unlink()
                n += 1
            done[me] = n
        except OSError as e:
            wrong.append(e)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for i in range(25):
        write(src / "a", f"{i}\n")
        write(src / "d/c", f"{i}\n")
        write(src / f"d/new{i}", "n")
        os.rename(src / "b", src / "d/b") if i % 2 == 0 else os.rename(src / "d/b", src / "b")
        (src / f"d/new{i - 3}").unlink(missing_ok=True)
        inlay.sync(src, dst)
    stop.set()
    for t in threads:
        t.join()
    assert not wrong, wrong
    until(lambda: status(dst)["events waiting"] == "0", what="the replay")
    for me, n in done.items():
        assert (dst / f"d/log{me}").read_text() == "".join(f"{i}\n" for i in range(n))
        for i in range(n):
            assert not (dst / f"d/mine{me}.{i}").exists()
            assert (dst / f"kept{me}.{i}").exists() == bool(i % 2)
    assert (dst / "a").read_text() == (src / "a").read_text()
    assert status(dst)["events missed"] == "0"


def test_executable_is_never_busy(inlay, root, src, watch):
    dst = root / "dst"
    program = write(src / "prog", "#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    shutil.copy("/bin/true", src / "true")
    sync(inlay, src, dst)
    watch(dst)
    stop, wrong, runs = threading.Event(), [], [0]

    def run():
        while not stop.is_set():
            for name, code in (("prog", 7), ("true", 0)):
                try:
                    got = subprocess.run([dst / name]).returncode
                except OSError as e:
                    wrong.append(e)
                    continue
                runs[0] += 1
                if got != code:
                    wrong.append(got)
    t = threading.Thread(target=run)
    t.start()
    try:
        for i in range(40):
            write(src / "prog", f"#!/bin/sh\n# {i}\nexit 7\n")
            with open(src / "true", "ab") as f:
                f.write(b"x")
            inlay.sync(src, dst)
    finally:
        stop.set()
        t.join()
    assert not wrong and runs[0] > 10


# ---- real programs ----

@contextlib.contextmanager
def program(*args, **kw):
    """A program that runs in the background; gives the list that its lines of output go to."""
    lines = []
    p = subprocess.Popen(list(map(os.fspath, args)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         stdin=subprocess.DEVNULL, text=True, **kw)

    def collect(stream):
        for line in stream:
            lines.append(line.rstrip("\n"))
    threads = [threading.Thread(target=collect, args=(s,)) for s in (p.stdout, p.stderr)]
    for t in threads:
        t.start()
    try:
        yield lines
    finally:
        p.kill()
        p.wait()
        for t in threads:
            t.join()


def need(*names):
    for name in names:
        if not shutil.which(name):
            pytest.skip(f"needs {name}")


def make_changes(src):
    write(src / "a", "one, changed\n")
    write(src / "d/new", "new\n")
    (src / "d/c").unlink()
    os.rename(src / "b", src / "b2")
    write(src / "fresh/x", "x\n")


@pytest.mark.parametrize("namespace", ["this namespace", "another namespace"])
def test_inotifywait(inlay, root, src, namespace):
    need("inotifywait", "unshare")
    if namespace == "another namespace" and os.geteuid() != 0:
        pytest.skip("needs root")
    dst = root / "dst"
    fill(src)
    sync(inlay, src, dst)
    way = ["unshare", "-m"] if namespace == "another namespace" else []
    with program(*way, "inotifywait", "-m", "-r", "--format", "%w%f %e", dst) as lines:
        until(lambda: "Watches established." in lines, what="inotifywait")
        make_changes(src)
        sync(inlay, src, dst)
        want = [f"{dst}/a MODIFY", f"{dst}/a CLOSE_WRITE,CLOSE", f"{dst}/d/new CREATE",
                f"{dst}/d/new CLOSE_WRITE,CLOSE", f"{dst}/d/c DELETE", f"{dst}/b MOVED_FROM",
                f"{dst}/b2 MOVED_TO", f"{dst}/fresh CREATE,ISDIR"]
        until(lambda: set(want) <= set(lines), what=f"{want} in {lines}")


def test_tail_follows(inlay, root, src):
    dst = root / "dst"
    write(src / "log", "first\n")
    sync(inlay, src, dst)
    # tail takes FUSE for a file system of another machine and asks now and then instead of watching.
    with program("tail", "-F", "-n", "+1", "-s", "0.1", "--max-unchanged-stats=1", dst / "log") as lines:
        until(lambda: "first" in lines, what="tail")
        for i in range(3):
            write(src / "log", f"next {i}\n")
            sync(inlay, src, dst)
            until(lambda: f"next {i}" in lines, what=f"line {i} in {lines}")


NODE_WATCH = """
const fs = require('fs');
fs.watch(process.argv[1], (event, name) => console.log(event, name));
console.log('ready');
"""

CHOKIDAR = """
const chokidar = require(process.argv[1]);
const path = require('path');
const top = process.argv[2];
chokidar.watch(top, {ignoreInitial: true})
    .on('all', (event, name) => console.log(event, path.relative(top, name)))
    .on('ready', () => console.log('ready'));
"""


def test_node_fs_watch(inlay, root, src):
    need("node")
    dst = root / "dst"
    fill(src)
    sync(inlay, src, dst)
    with program("node", "-e", NODE_WATCH, dst) as lines:
        until(lambda: "ready" in lines, what="node")
        make_changes(src)
        sync(inlay, src, dst)
        want = {"change a", "rename b", "rename b2", "rename fresh"}
        until(lambda: want <= set(lines), what=f"{want} in {lines}")


@pytest.fixture(scope="session")
def chokidar(tmp_path_factory):
    need("node", "npm")
    top = tmp_path_factory.mktemp("npm")
    r = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "chokidar@4"], cwd=top,
                       capture_output=True, text=True)
    if r.returncode:
        pytest.skip("chokidar cannot be had: " + r.stderr[-200:])
    return top / "node_modules/chokidar"


def test_chokidar(inlay, root, src, chokidar):
    """The same change by hand gives the same lines."""
    dst, local = root / "dst", root / "local"
    fill(src)
    local.mkdir()
    fill(local)
    sync(inlay, src, dst)
    with program("node", "-e", CHOKIDAR, chokidar, dst) as lines, \
            program("node", "-e", CHOKIDAR, chokidar, local) as by_hand:
        until(lambda: "ready" in lines and "ready" in by_hand, what="chokidar")
        make_changes(local)
        make_changes(src)
        sync(inlay, src, dst)
        want = {"change a", "add d/new", "unlink d/c", "unlink b", "add b2", "addDir fresh", "add fresh/x"}
        for seen in (lines, by_hand):
            until(lambda: want <= set(seen), what=f"{want} in {seen}")
        # Another one, so that what came late is there too.
        for top in (src, local):
            write(top / "a", "last\n")
            write(top / "end", "end\n")
        sync(inlay, src, dst)
        for seen in (lines, by_hand):
            until(lambda: "add end" in seen, what=f"the end in {seen}")

        def settled(seen):
            """Without a change of what was just added: chokidar tells of it or not, as the time falls, by hand too."""
            return {line for line in seen if line.replace("change ", "add ", 1) not in seen or "add " in line}
        assert settled(set(lines)) == settled(set(by_hand))


# ---- an ordinary user ----

@pytest.fixture
def ordinary(root):
    """inlay as an ordinary user, whose mount is made by fusermount3."""
    need("fusermount3", "setpriv")
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    os.chown(root, 65534, 65534)
    os.chmod("/dev/fuse", stat.S_IMODE(os.stat("/dev/fuse").st_mode) | 0o006)
    return ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import pathlib, os
from conftest import Inlay, write
import test_events as t
root = pathlib.Path(sys.argv[2])
src, dst = root / "src", root / "dst"
inlay = Inlay(root)
src.mkdir()
t.fill(src)
t.sync(inlay, src, dst)
w = t.Inotify()
w.add_below(dst)
t.make_changes(src)
os.chmod(src / "d", 0o555)
t.sync(inlay, src, dst)
os.chmod(src / "d", 0o755)
found = w.by_name(dst)
assert found["a"] == ["MODIFY", "CLOSE_WRITE"], found
assert found["b"] == ["MOVED_FROM"] and found["b2"] == ["MOVED_TO"], found
assert found["fresh"] == ["CREATE/"], found
assert not (dst / "d/c").exists() and (dst / "d/new").read_text() == "new\\n"
# A directory that its owner cannot write either: told to the kernel, without events.
os.chmod(src / "d", 0o555)
assert t.status(dst)["events waiting"] == "0"
print("well")
"""


def test_ordinary_user(root, ordinary):
    here = os.path.dirname(os.path.abspath(__file__))
    r = subprocess.run([*ordinary, "/usr/bin/python3", "-c", SCRIPT, here, root], capture_output=True, text=True,
                       env=dict(os.environ, INLAY_BUILD=str(BUILD), HOME=str(root), PYTHONDONTWRITEBYTECODE="1"),
                       cwd=root)
    assert r.stdout.strip().endswith("well"), r.stdout + r.stderr


def test_unmount_during_a_replay(inlay, root, src, watch):
    """The helper is in the mount while it works; that must not be in the way."""
    dst = root / "dst"
    for i in range(500):
        write(src / f"f{i}", "x")
    sync(inlay, src, dst)
    for turn in range(3):
        w = watch(dst)
        for i in range(500):
            write(src / f"f{i}", f"turn {turn}\n")
        inlay.sync(src, dst)
        inlay("umount", dst)
        inlay("mount", dst)
        w.read()


def test_unwatched_changes_are_not_replayed(inlay, root, src):
    dst = root / "dst"
    for i in range(200):
        write(src / f"f{i}", "x")
    sync(inlay, src, dst)
    for name in os.listdir(dst):
        os.stat(dst / name)
    for i in range(200):
        write(src / f"f{i}", "y1")
    sync(inlay, src, dst)
    s = status(dst)
    assert s["events raised"] == s["events missed"] == s["watched nodes"] == "0"
