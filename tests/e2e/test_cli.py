# SPDX-License-Identifier: Apache-2.0
"""What scripts and people rely on: options, exit codes, output, progress on a terminal."""
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
import time

import pytest

from conftest import INLAY, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")

COMMANDS = re.findall(r"^  ([\w-]+) ", subprocess.run([INLAY, "--help"], capture_output=True, text=True,
                                                   check=True).stdout, re.M)


@pytest.fixture
def synced(inlay, root, src):
    for i in range(20):
        write(src / f"d{i % 3}/f{i}", f"file {i}\n")
    inlay.sync(src, root / "dst")
    return root / "dst"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(inlay, command):
    r = inlay(command, "--help")
    assert r.out.startswith("usage: inlay " + command)
    for verb in re.findall(r"^  (\w+) ", r.out, re.M) if " VERB " in r.out else [None]:
        out = inlay(command, verb, "--help").out if verb else r.out
        assert "--json" in out and "--state" in out, (command, verb)


@pytest.mark.parametrize("args", [["status"], ["log"], ["diff"], ["mount"], ["rollback"], ["fsck"], ["gc"], ["umount"]])
def test_every_command_speaks_json(inlay, src, synced, args):
    write(src / "d0/f0", "changed\n")
    inlay.sync(src, synced)
    rows = inlay(*args, "--json", synced).rows
    assert rows and all(row["schema"] == 1 for row in rows)


def test_errors_speak_json(inlay, root, src):
    r = inlay("sync", "--json", root / "nothing", root / "dst", code=1)
    assert r.json["error"]["exit"] == 1 and r.json["error"]["code"] == "ENOENT"
    r = inlay("log", "--json", root / "never", code=None)
    assert r.code == 1 and "nothing was ever synced" in r.json["error"]["text"]


def test_state_option(inlay, root, src):
    write(src / "f", "x")
    del inlay.env["INLAY_STATE"]
    inlay("sync", "--state", root / "state", "--no-boot", src, root / "dst")
    assert (root / "state/host/store").is_dir() and not (root / "home/.local").exists()
    assert inlay("status", "--json", "--state", root / "state", root / "dst").json["generation"] == 1


def test_itemize_verbose_quiet(inlay, src, synced):
    write(src / "d0/f0", "changed and longer\n")
    (src / "d1/f1").unlink()
    write(src / "new", "x")
    os.chmod(src / "d2/f2", 0o755)
    rows = inlay("sync", "-n", "-i", "--json", src, synced).rows
    changes = {r["path"]: (r["change"], r["content"]) for r in rows[:-1]}
    assert changes == {"d0/f0": ("modified", True), "d1/f1": ("removed", True), "new": ("added", True),
                       "d2/f2": ("modified", False)}
    assert rows[-1]["dry_run"] is True
    out = inlay("sync", "-n", "-v", src, synced).out.splitlines()
    assert sorted(out[:-1]) == ["d0/f0", "d2/f2", "deleting d1/f1", "new"]
    out = inlay("sync", "-i", src, synced).out
    for line in (">fcst...... d0/f0", "*deleting   d1/f1", ">f+++++++++ new", ".f...p..... d2/f2"):
        assert line in out
    write(src / "new", "y")
    r = inlay("sync", "-q", src, synced)
    assert (r.out, r.err) == ("", "") and (synced / "new").read_text() == "y"


def test_exclude(inlay, root, src):
    for name in ("keep.c", "drop.o", "sub/drop.o", "sub/keep.h", "build/x", "sub/build/y"):
        write(src / name, name)
    write(root / "patterns", "# a comment\n/build\n")
    inlay.sync(src, root / "dst", "--exclude", "*.o", "--exclude-from", root / "patterns", "--include", "/drop.o")
    found = {k.decode() for k, v in tree(root / "dst").items() if v[0] == "file"}
    assert found == {"keep.c", "drop.o", "sub/keep.h", "sub/build/y"}


def test_checksum(inlay, src, synced):
    """What no stat shows: bytes that were changed under the same times (here: with the clock of the inode kept)."""
    path = src / "d0/f0"
    time_ns = os.stat(path).st_mtime_ns
    # Once the snapshot trusts the file, it is not read again.
    until(lambda: inlay.sync(src, synced)["files_read"] == 0, what="the times to be old enough")
    assert inlay.sync(src, synced, "--checksum")["files_read"] == 20
    path.write_text("file X\n")
    os.utime(path, ns=(time_ns, time_ns))
    assert inlay.sync(src, synced, "--checksum")["modified"] == 1
    assert (synced / "d0/f0").read_text() == "file X\n"


def test_stats_and_exit_code(inlay, src, synced):
    assert inlay("sync", "--exit-code", src, synced).code == 0
    # Files that are younger than the racy rule's margin are read again.
    until(lambda: inlay.sync(src, synced)["files_read"] == 0, what="the times to be old enough")
    write(src / "d0/f0", "x" * 5000)
    r = inlay("sync", "--exit-code", "--stats", src, synced, code=10)
    figures = dict(re.findall(r"^(\w[\w ]*?)  +([\d,.]+)", r.out, re.M))
    assert figures["Changed"] == "1" and figures["Files read"] == "1" and figures["Bytes read"] == "5,000"
    # What was not done: hashes that were remembered, phases that nothing was left for.
    files = sum(len(names) for _, _, names in os.walk(src))
    assert int(figures["Hash cache hits"]) == files - 1 and 0 < int(figures["State files written"]) < 10
    assert all(k in figures for k in ("Scanning", "Reading", "Until visible", "All"))
    until(lambda: inlay.sync(src, synced)["files_read"] == 0)
    out = inlay("sync", "--stats", src, synced).out
    assert re.search(r"^Reading +skipped$", out, re.M) and re.search(r"^Until visible +skipped$", out, re.M)
    j = inlay.sync(src, synced)
    assert j["cache_hits"] == files and j["scan_ms"] > 0 and j["state_writes"] < 10


def test_bwlimit_holds(inlay, root, src):
    write(src / "f", os.urandom(1_000_000))
    start = time.monotonic()
    inlay.sync(src, root / "dst", "--bwlimit", "1000")     # KiB/s, as in rsync
    assert time.monotonic() - start > 0.8


def on_terminal(inlay, *args):
    """Runs with stderr on a terminal: [(seconds, text)] and the seconds of the whole."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    start = time.monotonic()
    p = subprocess.Popen([INLAY, *map(os.fspath, args)], env=inlay.env, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = []
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:
            break
        if not data:
            break
        seen.append((time.monotonic() - start, data.decode()))
    p.communicate()
    os.close(ours)
    assert p.returncode == 0, seen
    return seen, time.monotonic() - start


def test_progress_and_an_honest_eta(inlay, root, src):
    """The time that is left, as told, is about the time that it takes then."""
    for i in range(30):
        write(src / f"f{i}", os.urandom(150_000))
    seen, took = on_terminal(inlay, "sync", "--bwlimit", "1m", src, root / "dst")
    etas = [(at, float(n) * {"ms": 0.001, "s": 1}[unit])
            for at, text in seen for n, unit in re.findall(r"([\d.]+) ?(ms|s) left", text)]
    assert len(etas) > 5, seen
    middle = [(at, left) for at, left in etas if 0.4 * took < at < 0.8 * took]
    assert middle
    for at, left in middle:
        assert abs(at + left - took) < 0.35 * took, (etas, took)
    amounts = re.findall(r"(\d+)% +([\d,]+)/30 files", "".join(text for _, text in seen))
    assert [int(p) for p, _ in amounts] == sorted(int(p) for p, _ in amounts)
    assert seen[-1][1].endswith("\r\x1b[K"), "the line is taken away at the end"


def test_no_progress_without_a_terminal(inlay, root, src):
    write(src / "f", os.urandom(1_000_000))
    r = inlay("sync", "--bwlimit", "1m", src, root / "dst")
    assert "\r" not in r.err and "\r" not in r.out
    write(src / "f", os.urandom(1_000_000))
    r = inlay("sync", "--bwlimit", "1m", "--progress", src, root / "dst")
    assert "sending" in r.err


def test_status_of_several_targets(inlay, root, synced):
    """3: some of them failed."""
    r = inlay("status", "--json", synced, root / "never", code=3)
    assert json.loads(r.out.splitlines()[0])["generation"] == 1
