#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a project costs beside its syncs, over real sshds on loopback.

    tests/bench/hooks.py [--rounds 40] [--only start,status,programs] [--components 50]

start     from the last inotify event that a change set raises on the host to the first instruction of a hook
status    `inlay status` while `inlay up` runs --components components on four hosts
programs  20 programs that log 10,000 lines a second together: edit -> visible with and without them, and what the keeper
          and a supervisor take before and after
"""
import json
import os
import select
import statistics
import sys
import threading
import time

from benchlib import Inlay, Scratch, Sshd, note, parser, pids_with, pss_kb, until
from test_events import Inotify

LINES_A_SECOND, PROGRAMS = 10000, 20
LOGGER = """
import sys, time
line = "a line of a program that has much to say, and says it again and again\\n"
due = time.monotonic()
while True:
    sys.stdout.write(line * 50)
    sys.stdout.flush()
    due += 50 * %d / %d
    time.sleep(max(0, due - time.monotonic()))
""" % (PROGRAMS, LINES_A_SECOND)


def hosts(root, count):
    daemons, config = [], ""
    for i in range(count):
        (root / f"bot{i}").mkdir()
        daemons.append(Sshd(root / f"bot{i}"))
        config += (daemons[-1].dir / "config").read_text().replace("Host testhost", f"Host bot{i}")
    (root / "ssh_config").write_text(config)
    return daemons


class Up:
    def __init__(self, inlay, where):
        self.events, self.changed = [], threading.Condition()
        self.process = inlay.start("up", "--json", "--trust", "--no-boot", cwd=where)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            e = json.loads(line)
            with self.changed:
                self.events.append(e)
                self.changed.notify_all()

    def wait(self, since=0, timeout=900, **wanted):
        def found():
            return next((e for e in self.events[since:] if all(e.get(k) == v for k, v in wanted.items())), None)
        with self.changed:
            assert self.changed.wait_for(found, timeout), (wanted, self.events[-5:])
            return found()

    def end(self):
        self.process.terminate()
        self.process.wait()


def show(what, samples, unit="ms"):
    s = sorted(samples)
    print(f"| {what} | {len(s)} | {statistics.median(s):.2f} {unit} | {s[(len(s) * 95 + 99) // 100 - 1]:.2f} {unit} |"
          f" {s[0]:.2f} {unit} |", flush=True)


def start(root, rounds):
    daemons = hosts(root, 1)
    where = root / "project"
    (where / "nav").mkdir(parents=True)
    (where / "nav/a.conf").write_text("0")
    (where / "inlay.yaml").write_text("""\
version: 1
hosts: [bot0]
components:
  nav: {source: nav, target: ws/nav, reload: [{match: "*.conf", run: [date, "+%s%N"]}]}
""")
    inlay = Inlay(root, {"INLAY_SSH": f"ssh -F {root}/ssh_config"})
    up = Up(inlay, where)
    up.wait(event="ready")
    watch = Inotify()
    watch.add_below(daemons[0].home / "ws/nav")
    last = [0]

    def listen():
        while True:
            select.select([watch.fd], [], [])
            last[0] = time.time_ns()
            watch.read()

    threading.Thread(target=listen, daemon=True).start()
    samples = []
    for i in range(rounds):
        mark = len(up.events)
        (where / "nav/a.conf").write_text(str(i) * 10)
        up.wait(since=mark, event="hook-end", step="reload 1")
        began = int(up.wait(since=mark, event="hook-output")["text"])
        samples.append((began - last[0]) / 1e6)
    up.end()
    show("hook starts behind the last event", samples)
    for d in daemons:
        d.stop()


def status(root, rounds, components):
    daemons = hosts(root, 4)
    where = root / "project"
    text = "version: 1\nhosts: [bot0, bot1, bot2, bot3]\ncomponents:\n"
    for i in range(components):
        (where / f"c{i}").mkdir(parents=True)
        (where / f"c{i}/file").write_text(str(i))
        text += f"  c{i}: {{source: c{i}, target: ws/c{i}, build: 'true'}}\n"
    (where / "inlay.yaml").write_text(text)
    inlay = Inlay(root, {"INLAY_SSH": f"ssh -F {root}/ssh_config"})
    begin = time.perf_counter()
    up = Up(inlay, where)
    up.wait(event="ready")
    note("all up after", time.perf_counter() - begin)
    for what in ("status while up runs", "status of what is remembered"):
        samples = []
        for _ in range(rounds):
            begin = time.perf_counter()
            rows = inlay("status", "--json").rows
            samples.append((time.perf_counter() - begin) * 1000)
        assert sum(r.get("kind") == "site" for r in rows) == 4 * components
        show(f"{what}: {components} components on 4 hosts", samples)
        if what == "status while up runs":
            up.end()
    inlay("down", cwd=where, code=None, timeout=900)
    for d in daemons:
        d.stop()


def edits(src, dst, lines, count):
    samples = []
    for _ in range(count):
        mark = len(lines)
        (src / "a").write_text(str(time.time_ns()))
        until(lambda: any("visible_ms" in line for line in lines[mark:]), 60)
        samples.append(next(line["visible_ms"] for line in lines[mark:] if "visible_ms" in line))
    return samples


def programs(root, rounds):
    daemons = hosts(root, 1)
    src, dst = root / "src", "bot0:ws"
    src.mkdir()
    (src / "a").write_text("")
    inlay = Inlay(root, {"INLAY_SSH": f"ssh -F {root}/ssh_config"})
    inlay("sync", "--no-boot", src, dst)
    watch, lines = inlay.start("watch", "--no-boot", "--json", src, dst), []
    threading.Thread(target=lambda: lines.extend(map(json.loads, iter(watch.stdout.readline, b""))), daemon=True).start()
    until(lambda: lines, 60)

    def memory():
        state = daemons[0].home / ".local/state/inlay/host"
        keeper = max(map(pss_kb, pids_with(f"keep --state {state}")))
        supervisors = [pss_kb(p) for p in pids_with(f"supervise --dir {state}")]
        return keeper, max(supervisors, default=0)

    quiet, loud = [], []
    before = memory()
    for i in range(3):
        quiet += edits(src, dst, lines, rounds // 3 + 1)
        for n in range(PROGRAMS):
            inlay("run", dst, f"p{n}", "--", sys.executable, "-c", LOGGER)
        time.sleep(10)  # they say some hundred thousand lines
        loud += edits(src, dst, lines, rounds // 3 + 1)
        after = memory()
        for n in range(PROGRAMS):
            inlay("stop", dst, f"p{n}")
        note("round", i, "keeper, supervisor KiB:", after)
    show("edit -> visible without programs", quiet)
    show("edit -> visible, 20 programs log 10,000 lines a second", loud)
    print(f"ratio {statistics.median(loud) / statistics.median(quiet):.2f}; keeper {before[0]} -> {after[0]} KiB PSS, "
          f"a supervisor at most {after[1]} KiB")
    watch.terminate()
    watch.wait()
    for d in daemons:
        d.stop()


def main():
    p = parser(__doc__)
    p.add_argument("--only", default="start,status,programs")
    p.add_argument("--components", type=int, default=50)
    p.set_defaults(rounds=40)
    a = p.parse_args()
    print("load", *os.getloadavg())
    print("| | n | median | p95 | least |\n|---|---|---|---|---|")
    for what in a.only.split(","):
        with Scratch() as root:
            {"start": lambda: start(root, a.rounds), "programs": lambda: programs(root, a.rounds),
             "status": lambda: status(root, a.rounds, a.components)}[what]()
    print("load", *os.getloadavg())


main()
