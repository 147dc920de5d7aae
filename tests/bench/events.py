#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What raising events costs.

Rows by kind: so many changes in one directory that is watched; microseconds for each file, from one file's event to the
next one's, all steps of a file added, as a watcher with real-time priority (as root) sees them. Then a burst that nobody watches: the switch's own time and the CPU time of the
worker, its helper included, against a build without any replay (--without BUILD, of an earlier commit).
"""
import contextlib
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

from benchlib import BUILD, Inlay, Scratch, note, parser, rounds
from conftest import pids_with, write

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import test_events as t  # noqa: E402


def listen(path, pipe):
    """In a process of its own: (time, name, event) of every event, until the parent is done."""
    i = t.Inotify()
    i.add(path)
    with contextlib.suppress(OSError):      # each event shall be seen when it is raised, not when there is time
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    os.set_blocking(i.fd, True)
    os.write(pipe, b"ready\n")
    with os.fdopen(pipe, "w") as out:
        while True:
            data = os.read(i.fd, 1 << 16)
            now = time.monotonic_ns()
            at = 0
            while at < len(data):
                mask, size = int.from_bytes(data[at + 4:at + 8], "little"), int.from_bytes(data[at + 12:at + 16],
                                                                                           "little")
                name = data[at + 16:at + 16 + size].rstrip(b"\0").decode()
                at += 16 + size
                print(now, name, mask & 0xffff, file=out)
            if name == "end":
                out.flush()


class Listener:
    def __init__(self, path):
        self.read, pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                listen(path, pipe)
            finally:
                os._exit(0)
        os.close(pipe)
        self.lines = os.fdopen(self.read)
        assert self.lines.readline() == "ready\n"

    def until_end(self):
        """Events until those of the file `end` are through."""
        found = []
        for line in self.lines:
            when, name, mask = line.split()
            found.append((int(when), name, int(mask)))
            if name == "end" and int(mask) == 0x8:
                return found

    def close(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        self.lines.close()


def per_file(events, last_masks):
    """Microseconds of each file: for each of its steps, the time since the step of the file before it."""
    cost, before = {}, {}
    for when, name, mask in events:
        if name == "end" or mask not in last_masks:
            continue
        if mask in before:
            cost[name] = cost.get(name, 0) + (when - before[mask]) / 1000
        before[mask] = when
    return sorted(cost.values())


KINDS = {
    # what is done with a file of the source, the event that ends each step
    "changed": (lambda p, i: write(p, f"{i} changed\n"), (0x8,)),
    "made": (lambda p, i: write(p.with_name(f"n{i}"), "new\n"), (0x8,)),
    "removed": (lambda p, i: p.unlink(), (0x200,)),
    "renamed": (lambda p, i: p.rename(p.with_name(f"r{i}")), (0x80,)),
    "mode": (lambda p, i: p.chmod(0o600), (0x4,)),
    "symlink made": (lambda p, i: os.symlink("x", p.with_name(f"l{i}")), (0x100,)),
    "directory made": (lambda p, i: p.with_name(f"d{i}").mkdir(), (0x100,)),
}


def cpu_ms(inlay):
    total = 0
    for pid in inlay.worker_pids() + pids_with(f"replay --point {inlay.root}"):
        for task in os.listdir(f"/proc/{pid}/task"):
            total += int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0])
    return total / 1e6


def setup(root, count, env=None):
    root.mkdir()
    inlay = Inlay(root)
    inlay.env.update(env or {})
    src, dst = root / "src", root / "dst"
    src.mkdir()
    for i in range(count):
        write(src / f"f{i}", f"{i}\n")
    inlay.sync(src, dst)
    subprocess.run(["ls", "-l", dst], stdout=subprocess.DEVNULL)
    return inlay, src, dst


def kinds(scratch, a):
    print(f"| change, {a.files} files in a watched directory | us a file, p50 | p95 | all events raised after |")
    print("|---|---|---|---|")
    for name, (change, masks) in KINDS.items():
        costs, whole = [], []
        for r in range(a.rounds):
            root = scratch / "kind"
            inlay, src, dst = setup(root, a.files)
            listener = Listener(dst)
            write(src / "end", "0\n")
            t.sync(inlay, src, dst)
            listener.until_end()
            for i in range(a.files):
                change(src / f"f{i}", i)
            t.replayed(dst, inlay.sync(src, dst, "--force")["generation"])
            # One more, behind all of these.
            write(src / "end", "1\n" * 2)
            inlay.sync(src, dst)
            events = listener.until_end()
            listener.close()
            mine = [e for e in events if e[1] != "end"]
            whole.append((mine[-1][0] - mine[0][0]) / 1e6)
            costs += per_file(events, masks)
            inlay.end()
            shutil.rmtree(root, ignore_errors=True)
        costs.sort()
        print(f"| {name} | {statistics.median(costs):.0f} | {costs[len(costs) * 95 // 100]:.0f} | "
              f"{statistics.median(whole):.1f} ms |", flush=True)
        note(name)


class Subject:
    def __init__(self, name, root, count, build=None):
        self.name = name
        env = {"INLAY_AGENTS": build} if build else None
        self.inlay, self.src, self.dst = setup(root, count, env)
        self.turn = 0

    def burst(self, count):
        """Changes them all; milliseconds until visible, CPU milliseconds of worker and helper until all is done."""
        self.turn += 1
        for i in range(count):
            write(self.src / f"f{i}", f"{self.turn} {i}\n")
        # What the kernel knows of each, as after any use.
        subprocess.run(["ls", "-l", self.dst], stdout=subprocess.DEVNULL)
        before = cpu_ms(self.inlay)
        r = self.inlay.sync(self.src, self.dst)
        if "replayed" in t.status(self.dst):
            t.replayed(self.dst, r["generation"])
        return r["visible_ms"], cpu_ms(self.inlay) - before


def bursts(scratch, a):
    subjects = [Subject("with", scratch / "with", a.burst)]
    if a.without:
        subjects.append(Subject("without", scratch / "without", a.burst, a.without))
    visible = {s.name: [] for s in subjects}
    cpu = {s.name: [] for s in subjects}
    for s in subjects:
        s.burst(a.burst)
    for _, s in rounds(a.rounds, subjects):
        v, c = s.burst(a.burst)
        visible[s.name].append(v)
        cpu[s.name].append(c)
    print(f"\n| {a.burst} changed files that nobody watches | visible after | CPU of worker and helper |")
    print("|---|---|---|")
    for s in subjects:
        print(f"| {s.name} replay | {statistics.median(visible[s.name]):.1f} ms | "
              f"{statistics.median(cpu[s.name]):.1f} ms |")
    s = t.status(subjects[0].dst)
    print(f"\nOne look for watches: {int(s['last look us']) / 1000:.1f} ms, {len(os.listdir('/proc'))} entries in /proc; "
          f"raised {s['events raised']}, missed {s['events missed']}.")


def main():
    p = parser(__doc__)
    p.add_argument("--files", type=int, default=1000)
    p.add_argument("--burst", type=int, default=5000)
    p.add_argument("--without", help="a build directory of a version without replay")
    p.add_argument("--only-burst", action="store_true")
    a = p.parse_args()
    assert BUILD.exists()
    with Scratch() as scratch:
        if not a.only_burst:
            kinds(scratch, a)
        bursts(scratch, a)


main()
