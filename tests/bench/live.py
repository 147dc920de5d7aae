#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The live loop over a real sshd: from an edit to the new bytes on the target, and what watching costs.

    tests/bench/live.py [--files 10000,100000] [--rtt 0,20] [--edits 200] [--repo REPO.git]

An edit is timed from just before the write until an open by path on the target's mount gives the new bytes; the target
is asked each 0.2 ms. --repo: a git repository whose last first-parent commits are replayed, one change set each, through the live
session and with `rsync -az --delete` in turn.
"""
import argparse
import itertools
import os
import random
import subprocess
import threading
import time

from benchlib import Inlay, Proxy, Scratch, Sshd, note, pss_kb, until

WATCH_WAIT = 600
NUMBERS = itertools.count()          # no two edits are alike


class Live:
    """A watch of a folder over a way of its own."""

    def __init__(self, root, sshd, src, rtt, name="ws", args=()):
        self.src, self.dst = src, sshd.home / name
        self.proxy = Proxy(sshd.port, rtt)
        sshd.write_config(port=self.proxy.port)
        self.inlay = Inlay(root, {"INLAY_SSH": sshd.ssh})
        start = time.monotonic()
        self.lines = []
        self.process = self.inlay.start("watch", "--no-gitignore", *args, src, f"testhost:{self.dst}")
        threading.Thread(target=self.read, daemon=True).start()
        until(lambda: self.lines, WATCH_WAIT, "the first sync")
        self.set_up = time.monotonic() - start

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.decode())

    def flush(self):
        self.inlay("flush", self.src, timeout=WATCH_WAIT)

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.proxy.close()


def show(path, text, deadline):
    """When the target gives the text at the path, in monotonic seconds."""
    while True:
        try:
            with open(path, "rb") as f:
                if f.read(64).startswith(text):
                    return time.monotonic()
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"{path} never had {text}")
        time.sleep(0.0002)


def edits(live, paths, count, what):
    """One edit after the other; some rest in between, as between keystrokes."""
    times = []
    for i in range(count):
        rel = paths[i * 7919 % len(paths)]
        text = b"edit %d " % next(NUMBERS)
        body = text + (live.src / rel).read_bytes()[len(text):]
        time.sleep(0.03)
        start = time.monotonic()
        with open(live.src / rel, "wb") as f:
            f.write(body)
        times.append((show(live.dst / rel, text, start + 60) - start) * 1000)
    times.sort()
    p50, p95 = times[len(times) // 2], times[len(times) * 95 // 100]
    print(f"| {what} | {p50:.1f} ms | {p95:.1f} ms | {times[-1]:.0f} ms |", flush=True)


def make(src, count):
    rnd = random.Random(1)
    paths = []
    for i in range(count):
        rel = f"m{i // 1000}/s{i // 20 % 50}/f{i}.c"
        path = src / rel
        if i % 20 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rnd.randbytes(30).hex().encode() * (1 + i % 40))
        paths.append(rel)
    return paths


def switches(pid):
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        for line in open(f"/proc/{pid}/task/{task}/status"):
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


def far_pids(sshd):
    """keeper and worker"""
    found = {}
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                cmd = open(f"/proc/{p}/cmdline", "rb").read().split(b"\0")
            except OSError:
                continue
            text = b" ".join(cmd)
            if os.fsencode(sshd.home) in text and b"inlayd" in cmd[0] and len(cmd) > 1:
                found[int(p)] = cmd[1].decode()
    return found


def children(pid):
    out = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [int(p) for p in out.split()]


def memory(live, sshd, seconds=20):
    live.flush()
    pid = live.process.pid
    far = {p: what for p, what in far_pids(sshd).items() if what in ("keep", "mount")}
    before = {p: switches(p) for p in [pid, *far]}
    time.sleep(seconds)
    rates = {p: (switches(p) - n) / seconds for p, n in before.items()}
    here = pss_kb(pid) / 1024
    ssh = sum(pss_kb(p) for p in children(pid)) / 1024
    there = {what: pss_kb(p) / 1024 for p, what in far.items()}
    print(f"set-up with first sync {live.set_up:.1f} s; PSS: watch {here:.1f} MiB (and ssh {ssh:.1f}), "
          f"target {' + '.join(f'{what} {mb:.1f}' for what, mb in there.items())} MiB; "
          f"wakeups a second: watch {rates[pid]:.2f}, target {sum(rates[p] for p in far):.2f}", flush=True)


def status(live, rtt, count=30):
    """The whole command, beside the watch."""
    times = []
    for _ in range(count):
        start = time.monotonic()
        live.inlay("status")
        times.append((time.monotonic() - start) * 1000)
    times.sort()
    print(f"| `inlay status`, rtt {rtt:g} ms | {times[count // 2]:.1f} ms | {times[count * 95 // 100]:.1f} ms | "
          f"{times[-1]:.0f} ms |", flush=True)


def warm_start(root, sshd, src, rtt):
    """The folder is known already: what a second start costs until it watches."""
    live = Live(root, sshd, src, rtt)
    print(f"second start until it watches and the target is known to be in sync: {live.set_up:.2f} s", flush=True)
    live.end()


# ---- the replay ----

def git(repo, *args):
    return subprocess.run(["git", f"--git-dir={repo}", *args], check=True, capture_output=True, text=True).stdout


def checkout(repo, work, index, commit):
    subprocess.run(["git", f"--git-dir={repo}", f"--work-tree={work}", "read-tree", "-u", "--reset", commit],
                   check=True, env=dict(os.environ, GIT_INDEX_FILE=str(index)), capture_output=True)


def replay(root, sshd, repo, rtt, count):
    commits = git(repo, "rev-list", "--first-parent", f"--max-count={count + 1}", "HEAD").split()[::-1]
    ours, theirs = root / "replay", root / "replay-rsync"
    for work in (ours, theirs):
        work.mkdir()
        checkout(repo, work, root / f"{work.name}.index", commits[0])
    live = Live(root, sshd, ours, rtt, "replay")
    proxy = Proxy(sshd.port, rtt)
    sshd.write_config(port=proxy.port)
    rsync = ["rsync", "-az", "--delete", "-e", sshd.ssh, f"{theirs}/", f"testhost:{sshd.home}/rsync/"]
    subprocess.run(rsync, check=True)
    times, sent = {"inlay": [], "rsync": []}, {}
    before = {"inlay": live.proxy.bytes, "rsync": proxy.bytes}
    for commit in commits[1:]:
        checkout(repo, ours, root / "replay.index", commit)
        start = time.monotonic()
        live.flush()
        times["inlay"].append(time.monotonic() - start)
        checkout(repo, theirs, root / "replay-rsync.index", commit)
        start = time.monotonic()
        subprocess.run(rsync, check=True)
        times["rsync"].append(time.monotonic() - start)
    sent = {"inlay": live.proxy.bytes - before["inlay"], "rsync": proxy.bytes - before["rsync"]}
    same = subprocess.run(["diff", "-rq", "--no-dereference", ours, live.dst])
    assert same.returncode == 0, "the target is not the source"
    rows = git(repo, "diff", "--stat", commits[0], commits[-1]).splitlines()
    total = {k: sum(v) for k, v in times.items()}
    print(f"replay of {count} commits ({rows[-1].strip() if rows else ''}), rtt {rtt:g} ms: "
          f"inlay {total['inlay']:.2f} s, {sent['inlay']} B; rsync -az {total['rsync']:.2f} s, {sent['rsync']} B; "
          f"ratio {total['inlay'] / total['rsync']:.3f} time, {sent['inlay'] / sent['rsync']:.3f} bytes", flush=True)
    for row in live.inlay("status", "--json").rows:
        if row.get("kind") == "target":
            print("travelled as:", "; ".join(f"{name} {c['objects']} objects, {c['bytes']} B in {c['wire_bytes']} B"
                                             for name, c in row["codecs"].items()), flush=True)
    live.end()
    proxy.close()


def huge(root, sshd, rtt, count, entries=100000):
    src = root / "huge"
    (src / "all").mkdir(parents=True)
    for i in range(entries):
        (src / f"all/f{i}").write_bytes(b"%d\n" % i)
    live = Live(root, sshd, src, rtt, "huge")
    store = sshd.home / ".local/state/inlay/host/store"

    def stored():
        return sum(p.stat().st_size for p in store.rglob("*") if p.is_file())
    live.flush()
    before = stored()
    edits(live, [f"all/f{i}" for i in range(0, entries, 97)], count, f"{entries} files in one directory, rtt {rtt:g}")
    live.flush()
    print(f"stored for each edit: {(stored() - before) / count / 1024:.1f} KiB", flush=True)
    live.end()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--files", default="10000,100000")
    p.add_argument("--rtt", default="0,20")
    p.add_argument("--edits", type=int, default=200)
    p.add_argument("--repo", help="a git repository to replay")
    p.add_argument("--commits", type=int, default=30)
    p.add_argument("--only", default="edits,huge,replay")
    a = p.parse_args()
    rtts = [float(r) for r in a.rtt.split(",")]
    only = a.only.split(",")
    print("| edit -> visible | p50 | p95 | max |\n| --- | --- | --- | --- |", flush=True)
    for count in [int(n) for n in a.files.split(",")] if "edits" in only else []:
        with Scratch() as root:
            sshd = Sshd(root)
            src = root / "src"
            src.mkdir()
            note("making", count, "files")
            paths = make(src, count)
            for rtt in rtts:
                live = Live(root, sshd, src, rtt)
                edits(live, paths, a.edits, f"{count} files, rtt {rtt:g} ms")
                status(live, rtt)
                if rtt == rtts[0]:
                    memory(live, sshd)
                live.end()
            warm_start(root, sshd, src, rtts[0])
            live = Live(root, sshd, src, rtts[0], args=["--settle", "0ms"])
            edits(live, paths, a.edits, f"{count} files, rtt {rtts[0]:g} ms, --settle 0ms")
            live.end()
            sshd.stop()
    with Scratch() as root:
        sshd = Sshd(root)
        if "huge" in only:
            huge(root, sshd, rtts[0], a.edits)
        for rtt in rtts if a.repo and "replay" in only else []:
            sub = root / f"rtt{rtt:g}"
            sub.mkdir()
            replay(sub, sshd, a.repo, rtt, a.commits)
        sshd.stop()


main()
