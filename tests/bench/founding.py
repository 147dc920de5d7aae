#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The case that inlay was made for: four components on two hosts (tests/founding), each over a real sshd.

    tests/bench/founding.py [--rounds 9] [--image ARCHIVE [--update ARCHIVE]]

With --image the components run in that base image, which needs python3, g++, make and node and is brought to both hosts
first; with --update it is exchanged for that one in the end. Beside it stands what the same took with an image build, a registry push and a pull on every host, as the team measured it
before there was inlay: that part is not run here.
"""
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time

from benchlib import Inlay, Scratch, Sshd, note, parser, timed

TOP = pathlib.Path(__file__).resolve().parents[2]
HOSTS = ("bot1", "bot2")
COMPONENTS = ("bridge", "controller", "planner", "dashboard")
FILES = {"bridge": "bridge/topics.json", "controller": "controller/pid.h",
         "planner": "planner/planner/__init__.py", "dashboard": "dashboard/public/index.html"}


class Lines:
    """Lines of a program, and a wait for one."""

    def __init__(self, process, key):
        self.seen, self.changed, self.process = [], threading.Condition(), process
        threading.Thread(target=self.read, args=(key,), daemon=True).start()

    def read(self, key):
        for line in self.process.stdout:
            with self.changed:
                self.seen.append(key(json.loads(line)))
                self.changed.notify_all()

    def wait(self, test, timeout=120):
        with self.changed:
            assert self.changed.wait_for(lambda: any(map(test, self.seen)), timeout), self.seen[-20:]


def set_version(where, component, version):
    path = where / FILES[component]
    path.write_text(re.sub(r'((?:version"?[ :]*|VERSION(?: = | ))"?)\d+', rf"\g<1>{version}", path.read_text()))


def main():
    p = parser(__doc__)
    p.add_argument("--image", type=pathlib.Path)
    p.add_argument("--update", type=pathlib.Path)
    a = p.parse_args()
    once = {}
    rows = {"one component changed": [], "all four changed": [], "rollback of one on both hosts": [],
            "rollback of one on both hosts, with two new connections": []}
    with Scratch() as root:
        config = ""
        daemons = []
        for name in HOSTS:
            (root / name).mkdir()
            daemons.append(Sshd(root / name))
            config += (daemons[-1].dir / "config").read_text().replace("Host testhost", f"Host {name}")
        (root / "ssh_config").write_text(config)
        where = root / "robot"
        shutil.copytree(TOP / "tests/founding", where)
        inlay = Inlay(root, {"INLAY_SSH": f"ssh -F {root}/ssh_config"})
        if a.image:
            path = where / "inlay.yaml"
            path.write_text(path.read_text().replace("name: robot\n", "name: robot\nimage: robot\n"))
            once["image imported"] = timed(lambda: inlay("image", "import", "--name", "robot", a.image, timeout=900))
        start = time.perf_counter()
        up = inlay.start("up", "--json", "--trust", cwd=where)
        events = Lines(up, lambda e: e)
        events.wait(lambda e: e["event"] == "ready")
        cold = time.perf_counter() - start
        note("cold start", cold)
        logs = {}
        for h in HOSTS:
            for c in COMPONENTS:
                p = inlay.start("logs", "-f", "-n", "100", "--json", f"{h}:robot/{c}")
                logs[h, c] = Lines(p, lambda e: e["text"])

        def wait(components, version):
            for c in components:
                for h in HOSTS:
                    logs[h, c].wait(lambda t: f"{c} version {version}" in t)

        wait(COMPONENTS, 1)
        version = 1
        try:
            for i in range(a.rounds):
                version += 1
                start = time.perf_counter()
                set_version(where, "controller", version)
                wait(["controller"], version)
                rows["one component changed"].append(time.perf_counter() - start)
                version += 1
                start = time.perf_counter()
                for c in COMPONENTS:
                    set_version(where, c, version)
                wait(COMPONENTS, version)
                rows["all four changed"].append(time.perf_counter() - start)
                note("round", i, {k: round(v[-1], 3) for k, v in rows.items() if v})
        finally:
            up.terminate()
            up.wait()
        for i in range(a.rounds):
            begin = time.perf_counter()
            both = [inlay.start("rollback", "--json", f"{h}:robot/planner") for h in HOSTS]
            said = [json.loads(p.communicate()[0]) for p in both]
            rows["rollback of one on both hosts, with two new connections"].append(time.perf_counter() - begin)
            rows["rollback of one on both hosts"].append(max(r["visible_ms"] for r in said) / 1000)
        if a.update:
            once["another image imported"] = timed(
                lambda: inlay("image", "import", "--name", "robot", a.update, timeout=900))
            once["another image: brought to both, all eight programs in it"] = timed(
                lambda: inlay("up", "--once", cwd=where, timeout=900))
            roots = [p for p in (root / h / "remote-home/.local/state/inlay/host/ws" for h in HOSTS)
                     for p in p.glob("*/roots/*/m")]
            assert len(roots) == 2 * 8, roots
        inlay("down", cwd=where)
        for p in logs.values():
            p.process.terminate()
        for d in daemons:
            d.stop()
    print("load", *os.getloadavg())
    print("| four components, two hosts | n | inlay | with images and a registry |")
    print("|---|---|---|---|")
    what = "image brought to both, copied, built, run" if a.image else "copied, built, run"
    print(f"| cold start: {what} | 1 | {cold:.2f} s | 19 min 10 s |")
    for k, v in once.items():
        print(f"| {k} | 1 | {v:.2f} s | |")
    before = {"one component changed": "3 min 25 s", "all four changed": "3 min 55 s"}
    for k, v in rows.items():
        print(f"| {k} | {len(v)} | {statistics.median(v):.3f} s (at most {max(v):.3f}) | {before.get(k, '')} |")
    sys.stdout.flush()


main()
