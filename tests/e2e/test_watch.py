# SPDX-License-Identifier: Apache-2.0
"""The live loop: what happens in a folder is seen on its targets, whatever way it happens."""
import contextlib
import json
import mmap
import os
import queue
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from conftest import INLAY, PATIENCE, CutProxy, Inlay, is_ours, pids_with, tree, until, write
from test_protocol import MAGIC, hello

pytestmark = pytest.mark.usefixtures("fuse")


class Watch:
    """A watch in the foreground, with its JSON lines."""

    def __init__(self, inlay, *args, prefix=()):
        self.inlay = inlay
        self.process = subprocess.Popen([*prefix, str(INLAY), "watch", "--json", *map(os.fspath, args)],
                                        env=inlay.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.seen, self.queue = [], queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.queue.put(json.loads(line))
        self.queue.put(None)

    def next(self, want, timeout=PATIENCE):
        """The next event for which want() holds."""
        end = time.monotonic() + timeout
        while True:
            try:
                e = self.queue.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"not told in {timeout} s; told: {self.seen[-5:]}") from None
            assert e is not None, self.process.stderr.read().decode()
            self.seen.append(e)
            if want(e):
                return e

    def visible(self, target=None, timeout=PATIENCE):
        return self.next(lambda e: e["event"] == "visible" and (not target or e["target"] == str(target)),
                         timeout)

    def note(self, text, timeout=PATIENCE):
        """A note with that text, also one that was told before."""
        for e in self.seen:
            if e["event"] == "note" and text in e["text"]:
                return e
        return self.next(lambda e: e["event"] == "note" and text in e["text"], timeout)

    def state(self, state, timeout=PATIENCE):
        return self.next(lambda e: e["event"] == "state" and e["state"] == state, timeout)

    def flush(self, *args, code=0):
        return self.inlay("flush", *args, code=code)

    def rows(self):
        return [r for r in self.inlay("status", "--json").rows if r.get("kind") == "target"]

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(PATIENCE)
        err = self.process.stderr.read().decode()
        assert "Sanitizer" not in err and "runtime error" not in err, err
        return code


@pytest.fixture
def watching(inlay, root, src):
    """Starts watches of src; every one is ended, in order, with exit code 0."""
    started = []

    def start(*args, dst=None, over=None, **kw):
        w = Watch(over or inlay, *args, src, dst or root / "dst", **kw)
        started.append(w)
        w.visible()
        return w
    yield start
    for w in started:
        assert w.end() == 0


def same(src, dst):
    assert tree(dst) == tree(src)


def filled(src, dirs=5, files=10):
    for d in range(dirs):
        for f in range(files):
            write(src / f"d{d}/f{f}.c", f"int f{d}_{f};\n" * 20)


# ---- ways to save ----

def in_place(path, text):
    path.write_text(text)


def truncate_and_append(path, text):
    with open(path, "w"):
        pass
    with open(path, "a") as f:
        f.write(text)


def rename_over(path, text):
    new = path.with_name(path.name + ".tmp1")
    new.write_text(text)
    os.rename(new, path)


def swap_file(path, text):
    """vim: a swap file, the old one becomes a backup, the new one is written, the backup goes."""
    swap, backup = path.with_name(f".{path.name}.swp"), path.with_name(path.name + "~")
    swap.write_text("swap")
    os.rename(path, backup)
    with open(path, "w") as f:
        f.write(text)
        os.fsync(f.fileno())
    os.unlink(backup)
    os.unlink(swap)


def link_over(path, text):
    new = path.with_name("new")
    new.write_text(text)
    os.unlink(path)
    os.link(new, path)
    os.unlink(new)


def kept_open(path, text):
    """The writer does not close the file."""
    f = open(path, "w")
    f.write(text)
    f.flush()
    kept_open.files.append(f)


kept_open.files = []


def in_pieces(path, text):
    with open(path, "r+") as f:
        f.seek(3)
        f.write(text)
        f.flush()
        f.truncate(3 + len(text))


@pytest.mark.parametrize("save", [in_place, truncate_and_append, rename_over, swap_file, link_over, kept_open,
                                  in_pieces])
def test_ways_to_save(src, root, watching, save):
    filled(src)
    w = watching()
    for i in range(3):
        save(src / "d1/f1.c", f"saved {i}\n")
        w.flush()
        same(src, root / "dst")
    for f in kept_open.files:
        f.close()


def test_an_edit_is_told(src, root, watching):
    filled(src)
    w = watching()
    (src / "d0/f0.c").write_text("edit\n")
    e = w.visible()
    assert (root / "dst/d0/f0.c").read_text() == "edit\n"
    assert e["modified"] == 1 and e["added"] == 0 and e["removed"] == 0 and 0 < e["visible_ms"] < 5000
    assert e["sent_bytes"] < 1000
    # A burst is one change set.
    for i in range(10):
        (src / f"d0/f{i}.c").write_text("burst\n")
    w.flush()
    assert w.rows()[0]["change_sets"] == 3


# ---- directories ----

def test_directories(src, root, watching):
    filled(src)
    w = watching()
    dst = root / "dst"
    os.rename(src / "d1", src / "moved")
    (src / "moved/f0.c").write_text("edited right after the move\n")
    w.flush()
    same(src, dst)
    (src / "moved/f1.c").write_text("edited some time after the move\n")
    w.flush()
    same(src, dst)
    # What lies deeper still is watched, under its new name.
    os.makedirs(src / "moved/a/b/c")
    write(src / "moved/a/b/c/deep", "1")
    w.flush()
    os.rename(src / "moved", src / "again")
    w.flush()
    (src / "again/a/b/c/deep").write_text("2")
    w.flush()
    same(src, dst)
    sent = w.rows()[0]["sent_bytes"]
    os.rename(src / "d2", src / "d3/d2")
    w.flush()
    same(src, dst)
    assert w.rows()[0]["sent_bytes"] - sent < 500          # no content travels with a rename
    shutil.rmtree(src / "again")
    w.flush()
    same(src, dst)
    # A directory becomes a file, a file a symlink, a symlink a directory.
    shutil.rmtree(src / "d4")
    (src / "d4").write_text("file")
    (src / "link").symlink_to("d4")
    w.flush()
    same(src, dst)
    os.unlink(src / "link")
    os.unlink(src / "d4")
    write(src / "link/x", "x")
    (src / "d4").symlink_to("link")
    w.flush()
    same(src, dst)


def test_moved_in_and_out(src, root, watching):
    filled(src)
    outside = root / "outside"
    write(outside / "tree/x/y", "1")
    w = watching()
    os.rename(outside / "tree", src / "tree")
    w.flush()
    (src / "tree/x/y").write_text("2")
    w.flush()
    same(src, root / "dst")
    os.rename(src / "tree", outside / "tree")
    w.flush()
    same(src, root / "dst")
    told = w.rows()[0]["change_sets"]
    # Nobody watches it any more.
    (outside / "tree/x/y").write_text("3")
    w.flush()
    assert w.rows()[0]["change_sets"] == told
    heads = [r for r in w.inlay("status", "--json").rows if r.get("kind") == "watch"]
    assert heads[0]["watches"] == 6


def test_a_directory_in_its_own_childs_place(src, root, watching):
    """a/b <-> b/a and the like, while scans run, many times."""
    write(src / "a/b/c/file", "0")
    filled(src, 20, 20)
    w = watching("--settle", "0ms")
    for i in range(60):
        os.rename(src / "a/b", src / "tmp")
        os.rename(src / "a", src / "tmp/a")
        os.rename(src / "tmp", src / "b")
        (src / "b/c/file").write_text(str(i))
        os.rename(src / "b/a", src / "a")
        os.rename(src / "b", src / "a/b")
    (src / "a/b/c/file").write_text("the end")
    w.flush()
    same(src, root / "dst")
    (src / "a/b/c/file").write_text("still watched")
    w.flush()
    same(src, root / "dst")


def test_storm_of_everything(src, root, watching):
    """A seeded storm of operations; after it, and now and then, the target is the source."""
    filled(src)
    w = watching()
    rnd = random.Random(5)
    for step in range(400):
        names = [src] + [p for p in src.rglob("*")]
        dirs = [p for p in names if p.is_dir() and not p.is_symlink()]
        what, where, name = rnd.randrange(9), rnd.choice(dirs), f"n{rnd.randrange(30)}"
        pick = rnd.choice(names)
        with contextlib.suppress(OSError):
            if what < 4:
                (where / name).write_text(str(step))
            elif what == 4:
                (where / name).mkdir()
            elif what == 5 and pick != src:
                os.rename(pick, where / name)
            elif what == 6 and pick != src and rnd.random() < .4:
                shutil.rmtree(pick) if pick.is_dir() else os.unlink(pick)
            elif what == 7:
                (where / name).symlink_to("x" * rnd.randrange(1, 9))
            elif what == 8:
                os.chmod(pick, 0o700 if pick.is_dir() else 0o640)
        if step % 80 == 79:
            w.flush("--timeout", "60s")
            same(src, root / "dst")


def test_branch_switch(src, root, watching):
    """Thousands of files change, come and go in one go."""
    def branch(n):
        for i in range(3000):
            path = src / f"m{i % 50}/s{i % 7}/f{i}.txt"
            if (i + n) % 5:
                write(path, f"{i} on {n if i % 3 else 0}\n")
            else:
                path.unlink(missing_ok=True)
    branch(0)
    w = watching()
    for n in (1, 2, 0):
        branch(n)
        w.flush("--timeout", "60s")
        same(src, root / "dst")


# ---- rules ----

def test_ignore_files_that_change(src, root, watching):
    filled(src)
    write(src / "build/out.o", "o")
    write(src / ".gitignore", "build/\n*.log\n")
    w = watching()
    dst = root / "dst"
    assert not (dst / "build").exists()
    write(src / "x.log", "log")
    write(src / "build/more.o", "o")
    w.flush()
    assert w.rows()[0]["change_sets"] == 1                  # nothing of that is ours
    (src / ".gitignore").write_text("*.log\n")
    w.flush()
    assert (dst / "build/out.o").exists()
    (src / "build/out.o").write_text("changed")             # it is watched now
    w.flush()
    assert (dst / "build/out.o").read_text() == "changed"
    write(src / ".inlayignore", "build\n")
    w.flush()
    assert not (dst / "build").exists()
    heads = [r for r in w.inlay("status", "--json").rows if r.get("kind") == "watch"]
    assert heads[0]["watches"] == 6                         # and not any more
    (src / ".inlayignore").unlink()
    w.flush()
    assert tree(dst / "build") == tree(src / "build")


def test_a_broken_ignore_file_halts_until_it_is_cured(src, root, watching):
    filled(src)
    w = watching()
    (src / ".gitignore").symlink_to("nowhere")
    w.note(".gitignore")
    (src / "d0/f0.c").write_text("later\n")
    w.flush(code=1)
    os.unlink(src / ".gitignore")
    w.flush()
    same(src, root / "dst")


# ---- the kernel's limits ----

def test_overflow(src, root, watching):
    """More events than the queue holds while the watch is stopped."""
    filled(src)
    w = watching()
    w.process.send_signal(signal.SIGSTOP)
    limit = int(open("/proc/sys/fs/inotify/max_queued_events").read())
    if limit > 50000:
        pytest.skip(f"the queue holds {limit} events")
    pair = [src / "d0/f0.c", src / "d0/f1.c"]
    for i in range(limit + 200):
        # Alternating names: equal events would be merged.
        os.chmod(pair[i % 2], 0o600 + i % 8)
    write(src / "lost/in/overflow", "x")
    shutil.rmtree(src / "d1")
    w.process.send_signal(signal.SIGCONT)
    w.note("queue")
    w.flush()
    same(src, root / "dst")
    (src / "lost/in/overflow").write_text("watched")
    w.flush()
    same(src, root / "dst")


def test_watch_limit(src, root, watching):
    """In a user namespace with few watches: the cure is named, the rest is polled."""
    unshare = ["unshare", "--user", "--map-root-user", "sh", "-c",
               'echo 4 > /proc/sys/user/max_inotify_watches && exec "$@"', "-"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces with limits of their own")
    filled(src, dirs=8)
    # The target's side lives outside of the namespace.
    Inlay(root).sync(src, root / "dst")
    w = watching("--poll", "1s", prefix=unshare)
    w.note("fs.inotify.max_user_watches")
    for d in range(8):
        (src / f"d{d}/f1.c").write_text("everywhere\n")
    until(lambda: tree(root / "dst") == tree(src), what="polling")
    write(src / "d7/new/file", "x")
    w.flush()
    same(src, root / "dst")


# ---- the folder goes away ----

def test_root_moved_and_back(src, root, watching):
    filled(src)
    w = watching()
    dst, before = root / "dst", tree(src)
    os.rename(src, root / "elsewhere")
    w.note("halted")
    assert tree(dst) == before
    w.flush(code=4)
    shutil.rmtree(root / "elsewhere/d0")
    os.rename(root / "elsewhere", src)
    w.note("is back")
    w.flush()
    same(src, dst)


def test_root_removed_and_made_anew(inlay, src, root, watching):
    filled(src, dirs=25)  # the halt on deletions, which is for more than a hundred, holds what goes before the root is gone
    w = watching()
    dst, before = root / "dst", tree(src)
    shutil.rmtree(src)
    w.note("halted")
    src.mkdir()
    write(src / "other", "x")
    w.flush(code=4)
    assert len(tree(dst)) >= len(before) // 2
    inlay("sync", "--force", src, dst)
    same(src, dst)
    write(src / "more", "y")
    w.flush()
    same(src, dst)


def test_root_unmounted(inlay, src, root, watching):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", src], check=True)
    filled(src)
    w = watching()
    before = tree(src)
    subprocess.run(["umount", "-l", src], check=True)
    w.note("halted")
    w.flush(code=4)
    assert tree(root / "dst") == before


def test_mass_deletion(inlay, src, root, watching):
    for i in range(10000):
        write(src / f"d{i % 100}/f{i}", "")
    w = watching()
    before = tree(src)
    for d in range(100):
        shutil.rmtree(src / f"d{d}") if d else None
    w.state("halted")
    w.flush(code=4)
    assert len(tree(root / "dst")) > len(before) // 2 - 200
    assert w.rows()[0]["state"] == "halted"
    inlay("sync", "--force", src, root / "dst")
    same(src, root / "dst")
    assert w.rows()[0]["state"] == "in sync"


@pytest.mark.release
def test_a_hundred_thousand_deletes(inlay, src, root, watching):
    """More events than the queue has places; the halt holds, and what is left is right."""
    for d in range(101):
        (src / f"d{d}").mkdir()
        for f in range(1000):
            open(src / f"d{d}/f{f}", "w").close()
    w = watching()
    for d in range(100):
        shutil.rmtree(src / f"d{d}")
    w.flush("--timeout", "100s", code=4)
    assert len(os.listdir(root / "dst/d100")) == 1000
    inlay("sync", "--force", src, root / "dst")
    same(src, root / "dst")
    assert os.listdir(root / "dst") == ["d100"] and w.rows()[0]["state"] == "in sync"


def test_mass_deletion_in_slices(inlay, src, root, watching):
    filled(src, 10, 100)
    w = watching()
    for d in range(4):
        shutil.rmtree(src / f"d{d}")
        w.flush()
    # Not half of what the target has by now, but more than half of what it had.
    shutil.rmtree(src / "d5")
    shutil.rmtree(src / "d4")
    w.flush(code=4)
    assert (root / "dst/d5/f0.c").exists()
    write(src / "d6/new", "an edit does not lift it\n")
    w.flush(code=4)
    assert not (root / "dst/d6/new").exists()
    inlay("sync", "--force", src, root / "dst")
    same(src, root / "dst")
    shutil.rmtree(src / "d6")
    w.flush()
    same(src, root / "dst")


def test_mass_deletion_undone(src, root, watching):
    filled(src, 30, 10)
    w = watching("--settle", "200ms", "--max-delay", "2s")
    shutil.copytree(src, root / "copy")
    for d in range(30):
        shutil.rmtree(src / f"d{d}")
    w.state("halted")
    shutil.copytree(root / "copy", src, dirs_exist_ok=True)
    w.flush()
    same(src, root / "dst")


# ---- files that do not rest ----

def test_a_file_written_without_pause(src, root, watching):
    filled(src)
    w = watching()
    stop = threading.Event()

    # So large that no reader gets to its end between two writes.
    write(src / "d0/busy.log", bytes(32 << 20))

    def write_on():
        with open(src / "d0/busy.log", "r+b", buffering=0) as f:
            i = 0
            while not stop.is_set():
                os.pwrite(f.fileno(), b"x" * 4096, (i := i + 1) * 4096 % (32 << 20))
    t = threading.Thread(target=write_on)
    t.start()
    try:
        for i in range(5):
            (src / "d1/f1.c").write_text(f"not starved {i}\n")
            until(lambda: (root / "dst/d1/f1.c").read_text() == f"not starved {i}\n", what="the rest")
    finally:
        stop.set()
        t.join()
    # It is at rest now, so flush brings it, too, and does not wait for the time of the next try.
    w.flush()
    same(src, root / "dst")


# ---- the command line ----

def test_background(inlay, src, root):
    filled(src)
    dst = root / "dst"
    inlay("watch", "-d", src, dst)
    same(src, dst)
    assert inlay("watch", "-d", src, dst, code=6)
    (src / "d0/f0.c").write_text("edit\n")
    inlay("flush", src, dst)
    same(src, dst)
    rows = inlay("watch", "--list", "--json").rows
    assert [r["kind"] for r in rows] == ["watch", "target"] and rows[1]["state"] == "in sync"
    r = inlay.sync(src, dst)
    assert r["watched"] and not r["changed"]
    (src / "d0/f0.c").write_text("edit 2\n")
    assert inlay("sync", "--exit-code", src, dst, code=None).code in (0, 10)
    same(src, dst)
    inlay("sync", src, root / "other", code=6)
    inlay("watch", "--stop", src)
    until(lambda: not [p for p in pids_with(f"watch -d {src}") if is_ours(p)], what="its end")
    inlay("flush", src, code=1)
    log = next(inlay.state.glob("dev/sources/*/watch.log")).read_text()
    assert "1 changed" in log
    inlay.sync(src, dst)


def test_background_that_cannot_begin(inlay, src, root):
    filled(src)
    inlay.env["INLAY_SSH"] = "false"
    r = inlay("watch", "-d", src, "nowhere:ws", code=5)
    assert "cannot connect" in r.err or "nowhere" in r.err
    assert "no watch runs" in inlay("watch", "--list").out


def test_usage(inlay, src, root):
    inlay("watch", src, code=2)
    inlay("watch", "--settle", "soon", src, root / "dst", code=2)
    inlay("watch", src, src / "inside", code=2)
    inlay("flush", "--timeout", "never", code=2)
    inlay("flush", src, code=1)
    inlay("watch", "--stop", src, code=1)


def test_two_targets_and_one_is_dead(src, root, inlay, sshd):
    filled(src)
    over = Inlay(root, {"INLAY_SSH": sshd.ssh})
    w = Watch(over, src, root / "dst", "testhost:ws")
    try:
        w.visible(root / "dst")
        w.visible("testhost:ws")
        sshd.stop()
        for pid in pids_with(str(sshd.dir / "config")):
            os.kill(pid, signal.SIGKILL)
        w.state("reconnecting")  # a dead peer is noticed within 25 s
        (src / "d0/f0.c").write_text("for one\n")
        e = w.visible(root / "dst")
        assert e["visible_ms"] < 2000
        r = w.flush("--timeout", "300ms", code=124)
        assert "testhost:ws" in r.err
        w.flush(src, root / "dst")
        for i in range(5):
            (src / f"d1/f{i}.c").write_text("history\n")
            w.flush(src, root / "dst")
        sshd.start()
        e = w.visible("testhost:ws")
        assert e["modified"] == 6                       # the latest state, not six of them
        same(src, sshd.home / "ws")
        w.flush()
    finally:
        assert w.end() == 0


def test_written_through_a_mapping(src, root, inlay, sshd):
    """No stat and no event tells of it; who comes to send the file finds it out."""
    filled(src)
    path = write(src / "mapped", "-" * 8192)
    over = Inlay(root, {"INLAY_SSH": sshd.ssh})
    sshd.stop()
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        m[0:1] = b"1"                                   # the first store sets the time
        before = os.stat(path)
        # So long behind it that the times prove the file unchanged.
        until(lambda: time.time() > before.st_ctime + 0.2)
        w = Watch(over, src, root / "dst", "testhost:ws")
        try:
            w.visible(root / "dst")
            m[1:2] = b"2"                               # the second one does not
            if os.stat(path).st_mtime_ns != before.st_mtime_ns:
                pytest.skip("this file system notes each store")
            w.flush(src, root / "dst")
            assert (root / "dst/mapped").read_bytes()[:3] == b"1--"
            # What was encoded for the first one is of no use to the other, so it is read once more.
            write(src / "another", "state\n")
            w.flush(src, root / "dst")
            sshd.start()
            w.process.send_signal(signal.SIGCONT)
            w.visible("testhost:ws")
            w.flush()
            assert (root / "dst/mapped").read_bytes()[:3] == b"12-"
            same(src, sshd.home / "ws")
        finally:
            assert w.end() == 0


def test_clock_jumps(src, root, watching):
    filled(src)
    w = watching()
    for mtime in (0, 2**31 + 5, 1):
        os.utime(src / "d0/f0.c", (mtime, mtime))
        w.flush()
        same(src, root / "dst")
    w.process.send_signal(signal.SIGSTOP)
    (src / "d0/f1.c").write_text("while it slept\n")
    w.process.send_signal(signal.SIGCONT)
    w.flush()
    same(src, root / "dst")


def test_keeper_dies(inlay, src, root, watching):
    filled(src)
    w = watching()
    os.kill(inlay.keeper_pid(), signal.SIGKILL)
    (src / "d0/f0.c").write_text("edit\n")
    w.flush("--timeout", "60s")
    same(src, root / "dst")
    assert w.rows()[0]["connections"] == 2


@pytest.mark.parametrize("version", [0, 9])
def test_an_agent_of_another_age(src, root, inlay, sshd, version):
    """It is said, nothing is changed, and when the host has the right one again, the watch goes on."""
    filled(src)
    stale = root / "stale"
    stale.write_bytes(MAGIC + hello(version, version))
    cat = root / "fake-ssh"
    cat.write_text(f"#!/bin/sh\n[ -e {root}/real ] && exec {sshd.ssh} \"$@\"\ncat {stale}\ncat >/dev/null\n")
    cat.chmod(0o755)
    over = Inlay(root, {"INLAY_SSH": str(cat)})
    w = Watch(over, src, "testhost:ws")
    try:
        e = w.state("connecting")
        assert f"protocol {version} to {version}" in e["why"]
        (root / "real").write_text("")
        w.process.send_signal(signal.SIGCONT)
        w.visible()
        same(src, sshd.home / "ws")
    finally:
        assert w.end() == 0


def test_ends_while_a_host_is_mute(src, root):
    """Who ends a watch does not wait for a host that says nothing: for HELLO it would be 60 s."""
    filled(src)
    mute = write(root / "mute", f"#!/bin/sh\ntouch {root}/asked\nexec sleep 1000\n")
    mute.chmod(0o755)
    w = Watch(Inlay(root, {"INLAY_SSH": str(mute)}), src, "testhost:ws")
    until((root / "asked").exists)
    w.process.send_signal(signal.SIGINT)
    assert w.process.wait(timeout=40) == 0 and w.end() == 0


def test_ends_while_a_change_set_hangs(src, root, inlay, watching):
    """Likewise for the answer to a change set, which is given 120 s."""
    filled(src)
    w = watching()
    keeper = inlay.keeper_pid()
    os.kill(keeper, signal.SIGSTOP)
    try:
        (src / "d0/f0.c").write_text("edit\n")
        until(lambda: w.rows()[0]["state"] == "syncing")
        w.process.send_signal(signal.SIGINT)
        assert w.process.wait(timeout=40) == 0
    finally:
        os.kill(keeper, signal.SIGCONT)


def test_dead_network_gives_the_lock_back(src, root, inlay, sshd, watching):
    """The connection is dead but nobody was told: the next one takes its lock over."""
    filled(src)
    over = Inlay(root, {"INLAY_SSH": sshd.ssh})
    w = watching(dst="testhost:ws", over=over)
    # The far end keeps its connection open: only our ssh dies, and its sshd is stopped.
    ssh = [p for p in pids_with(str(sshd.dir / "config")) if os.path.basename(os.readlink(f"/proc/{p}/exe")) == "ssh"]
    children = subprocess.run(["pgrep", "-P", str(sshd.process.pid)], capture_output=True, text=True).stdout.split()
    stopped = [int(p) for p in children]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in ssh:
            os.kill(pid, signal.SIGKILL)
        (src / "d0/f0.c").write_text("edit\n")
        w.flush("--timeout", "60s")
        same(src, sshd.home / "ws")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.release
def test_fifty_cuts_during_a_branch_switch(src, root, inlay, sshd, watching):
    rnd = random.Random(3)
    for i in range(4000):
        write(src / f"m{i % 40}/f{i}", rnd.randbytes(10))
    proxy = CutProxy(sshd.port, None)
    try:
        sshd.write_config(port=proxy.port)
        over = Inlay(root, {"INLAY_SSH": sshd.ssh})
        # So slow that what was sent has arrived, but for the last moments before a cut.
        w = watching("--settle", "300ms", "--max-delay", "20s", "--bwlimit", "5M", dst="testhost:ws", over=over)
        start = proxy.up
        for i in range(4000):
            write(src / f"m{i % 40}/f{i}", rnd.randbytes(5000))
        total = 4000 * 5000
        for cuts in range(1, 51):
            # So much more goes through, then all that is open is cut.
            before = proxy.up
            proxy.limit = before + 400_000
            until(lambda: proxy.up > proxy.limit, what="the cut")
            w.process.send_signal(signal.SIGCONT)           # do not wait for the backoff
        assert w.rows()[0]["change_sets"] == 1
        proxy.limit = None
        w.flush("--timeout", "100s")
        same(src, sshd.home / "ws")
        # Beside the content: for each cut a handshake of ssh (6 KB), what the target is asked (32 KB of HAVE), and
        # what was in flight and is lost: a block of the compressor (128 KB), and a piece of the proxy.
        print(f"{cuts} cuts, {proxy.up - start} bytes for {total}")
        assert proxy.up - start < total + cuts * 150_000, (cuts, proxy.up - start)
    finally:
        proxy.close()
