#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One watch, many hosts behind a real sshd on this machine: what each further host costs, and when the last one shows an edit.

    tests/bench/fanout.py [--hosts 1,8,32] [--edits 30] [--files 300] [--bad]

An edit changes one line of one file. CPU is that of the watch alone and with the children that are its ways to the hosts, from
the edit until all that follows from it is done. --bad: also as many hosts of which one's agent is stopped (SIGSTOP) and
one is behind 256 kbit/s; what is told is how the others fare.
"""
import json
import os
import signal
import statistics
import threading
import time

from benchlib import Inlay, Proxy, Scratch, note, parser, pids_with
from fleet import Fleet

WAIT = 60


def cpu_ms(pid):
    """Of all threads of a process."""
    total = 0
    for t in os.listdir(f"/proc/{pid}/task"):
        try:
            total += int(open(f"/proc/{pid}/task/{t}/schedstat").read().split()[0])
        except OSError:
            pass
    return total / 1e6


def children(pid):
    found = []
    for t in os.listdir(f"/proc/{pid}/task"):
        found += [int(p) for p in open(f"/proc/{pid}/task/{t}/children").read().split()]
    return found


class Watch:
    def __init__(self, inlay, src, targets):
        self.events, self.changed = [], threading.Condition()
        self.targets = targets
        self.process = inlay.start("watch", "--json", src, *targets)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            now = time.monotonic()
            e = json.loads(line)
            with self.changed:
                self.events.append((now, e))
                self.changed.notify_all()

    def shown(self, since, targets):
        """When the last of the targets showed something, and by its own account after how long."""
        def all_did():
            return {e["target"] for _, e in self.events[since:] if e["event"] == "visible"} >= set(targets)
        with self.changed:
            assert self.changed.wait_for(all_did, WAIT), [e for _, e in self.events[since:] if e["event"] != "visible"]
            mine = [e for _, e in self.events[since:] if e["event"] == "visible" and e["target"] in targets]
        return max(e.get("visible_ms", 0) for e in mine)

    def end(self):
        self.process.terminate()
        self.process.wait()


def make_tree(src, files):
    src.mkdir()
    for i in range(files):
        p = src / f"d{i % 17}" / f"f{i}.c"
        p.parent.mkdir(exist_ok=True)
        p.write_text("".join(f"int f{i}_{k};\n" for k in range(60)))
    return sorted(p for p in src.rglob("*.c"))


def edits(watch, paths, count, targets):
    pid = watch.process.pid
    ways = children(pid)
    last, cpu, cpu_all = [], [], []
    for i in range(count):
        path = paths[i * 7919 % len(paths)]
        since, before = len(watch.events), cpu_ms(pid)
        before_ways = sum(map(cpu_ms, ways))
        lines = path.read_text().splitlines()
        lines[30] = f"int edit_{i}_{time.monotonic_ns()};"
        path.write_text("\n".join(lines) + "\n")
        last.append(watch.shown(since, targets))
        time.sleep(0.15)             # what follows: durable, written down
        cpu.append(cpu_ms(pid) - before)
        cpu_all.append(cpu[-1] + sum(map(cpu_ms, ways)) - before_ways)
    return last, cpu, cpu_all


def measure(root, fleet, inlay, args, count, bad):
    src = root / f"src{count}{bad}"
    paths = make_tree(src, args.files)
    names = fleet.names[:count]
    targets = [f"{n}:ws{count}{bad}" for n in names]
    proxy, stopped = None, []
    if bad:
        # Its inlayd is there already: to bring it would take minutes.
        fleet.set(names[1], "HostName 127.0.0.1")
        inlay("status", f"{names[1]}:nothing", code=1)
        proxy = Proxy(fleet.sshd.port, mbit=0.256)
        fleet.set(names[1], "HostName 127.0.0.1", f"Port {proxy.port}")
    start = time.monotonic()
    watch = Watch(inlay, src, targets)
    watch.shown(0, targets)
    up = time.monotonic() - start
    good = targets
    if bad:
        stopped = pids_with(f"keep --state {fleet.home(names[0])}/")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        good = targets[2:]
    edits(watch, paths, 3, good)
    last, cpu, cpu_all = edits(watch, paths, args.edits, good)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    watch.end()
    if bad:
        fleet.set(names[1])
    last.sort()
    return {"hosts": count, "bad": bad, "up_s": up, "last_ms": statistics.median(last),
            "last_p95_ms": last[len(last) * 95 // 100], "cpu_ms": statistics.median(cpu),
            "cpu_all_ms": statistics.median(cpu_all)}


def main():
    p = parser(__doc__)
    p.add_argument("--hosts", default="1,8,32")
    p.add_argument("--edits", type=int, default=30)
    p.add_argument("--files", type=int, default=300)
    p.add_argument("--bad", action="store_true")
    args = p.parse_args()
    counts = [int(n) for n in args.hosts.split(",")]
    with Scratch() as root:
        fleet = Fleet(root, max(counts))
        inlay = Inlay(root, {"INLAY_SSH": fleet.ssh})
        rows = []
        for count, bad in [(c, False) for c in counts] + [(max(counts), True)] * args.bad:
            note(count, "hosts", "one stopped, one slow" if bad else "")
            rows.append(measure(root, fleet, inlay, args, count, bad))
        print(f"load {os.getloadavg()[0]:.1f}")
        print("| hosts | first sync | last visible p50 / p95 | CPU an edit | for each further host | with its ways |")
        print("|---|---|---|---|---|---|")
        for r in rows:
            more = (r["cpu_ms"] - rows[0]["cpu_ms"]) / (r["hosts"] - rows[0]["hosts"]) \
                if r["hosts"] > rows[0]["hosts"] else 0
            name = f"{r['hosts']}, one stopped, one at 256 kbit/s" if r["bad"] else r["hosts"]
            print(f"| {name} | {r['up_s']:.2f} s | {r['last_ms']:.1f} / {r['last_p95_ms']:.1f} ms | {r['cpu_ms']:.2f} ms "
                  f"| {more:.3f} ms | {r['cpu_all_ms'] / r['hosts']:.3f} ms a host |")
        fleet.end()


main()
