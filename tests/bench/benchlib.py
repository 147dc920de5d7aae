# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: subjects that run in turn, medians, ratios, a shaped way to an sshd.

Every figure is a median over rounds in which all subjects did the same work one after the other, in an
order that changes with each round; what counts is the ratio to the first one. The machine may be shared.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from conftest import BUILD, Inlay, Sshd, end_below, mounts_below, pids_with, until  # noqa: E402,F401


def note(*text):
    print(time.strftime("%H:%M:%S"), *text, file=sys.stderr, flush=True)


class Scratch:
    """A directory of ours on a disk; everything in it ends with it."""

    def __init__(self, where=None):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="inlay-bench-", dir=where))
        os.chmod(self.path, 0o755)

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        end_below(self.path)
        for point in mounts_below(self.path):
            subprocess.run(["umount", "-l", os.fsdecode(point)])
        shutil.rmtree(self.path, ignore_errors=True)


class Table:
    """Samples by row and subject; the first subject of a row is what the others are compared with."""

    def __init__(self):
        self.rows = collections.defaultdict(lambda: collections.defaultdict(list))

    def add(self, row, subject, value):
        self.rows[row][subject].append(value)

    def median(self, row, subject):
        return statistics.median(self.rows[row][subject])

    def ratio(self, row, subject, base=None):
        base = base or next(iter(self.rows[row]))
        return self.median(row, subject) / self.median(row, base)

    def show(self, unit="s", base=None, budgets=None):
        """Prints rows x subjects: median, ratio to the base, and the budget where there is one."""
        subjects = list(dict.fromkeys(s for row in self.rows.values() for s in row))
        print("| work | n |", " | ".join(subjects), "| budget |")
        print("|---" * (len(subjects) + 3) + "|")
        for row, cells in self.rows.items():
            out, b = [], base or next(iter(cells))
            for s in subjects:
                if s not in cells:
                    out.append("-")
                    continue
                m = statistics.median(cells[s])
                ratio = "" if s == b or b not in cells else f" ({m / self.median(row, b):.2f})"
                out.append(f"{m:.4g} {unit}{ratio}")
            n = min(len(v) for v in cells.values())
            print(f"| {row} | {n} |", " | ".join(out), f"| {(budgets or {}).get(row, '')} |")
        sys.stdout.flush()


def timed(fn):
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def run(*args, **kw):
    subprocess.run([str(a) for a in args], check=True, stdout=subprocess.DEVNULL, **kw)


def rounds(count, subjects, seed=1):
    """(round, subject) with the subjects in another order in each round."""
    rnd = random.Random(seed)
    for i in range(count):
        order = list(subjects)
        rnd.shuffle(order)
        for s in order:
            yield i, s


class Proxy:
    """A counting TCP proxy to a port of this machine, with an added round trip and a cap for each direction."""

    def __init__(self, port, rtt_ms=0, mbit=0):
        self.port_to, self.delay, self.rate = port, rtt_ms / 2000, mbit * 1e6 / 8
        self.bytes = 0
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        try:
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port_to))
                for s in (near, far):
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for a, b in ((near, far), (far, near)):
                    self.pipe(a, b)
        except OSError:
            pass

    def pipe(self, source, sink):
        shaped = self.delay or self.rate
        queue, ready = collections.deque(), threading.Condition()

        def read():
            free = 0.0
            while True:
                try:
                    data = source.recv(65536)
                except OSError:
                    data = b""
                self.bytes += len(data)
                now = time.monotonic()
                free = max(now, free) + (len(data) / self.rate if self.rate else 0)
                if not shaped and data:
                    sink.sendall(data)
                    continue
                with ready:
                    while sum(len(d) for _, d in queue) > 4 << 20:
                        ready.wait()
                    queue.append((free + self.delay, data))
                    ready.notify_all()
                if not data:
                    return

        def write():
            while True:
                with ready:
                    while not queue:
                        ready.wait()
                    due, data = queue.popleft()
                    ready.notify_all()
                time.sleep(max(0, due - time.monotonic()))
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(data)
                except OSError:
                    return
        threading.Thread(target=read, daemon=True).start()
        threading.Thread(target=write, daemon=True).start()

    def close(self):
        self.listener.close()


def pss_kb(pid):
    """Proportional set size of a process."""
    for line in open(f"/proc/{pid}/smaps_rollup"):
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def peak_kb(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def save(path, data):
    if path:
        pathlib.Path(path).write_text(json.dumps(data, indent=1))


SOURCES = ("/usr/include", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/perl", "/usr/share/perl5",
           "/usr/share/cmake-3.25")


def copy_tree(given, dst):
    """The folder to work on: a copy of the given one, or of what a Debian with compilers has of source code."""
    if given:
        run("cp", "-a", given, dst)
    else:
        dst.mkdir()
        run("cp", "-a", *[p for p in SOURCES if os.path.isdir(p)], dst)
    files = sum(len(names) for _, _, names in os.walk(dst))
    note(f"{files} files")
    return files


def parser(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--tree", help="the folder to work on (default: headers, python and perl modules)")
    return p
