#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Base images to a host over ssh on loopback: a first one, a package upgrade, an added package, the same built again.

    imagepush.py V1 UPGRADED ADDED REBUILT [--rounds N] [--registry PROGRAM] [--only ROW,...]

Each argument is the directory of a root filesystem (devices in it are left out). Rivals in the same round: `tar | zstd
-3 | ssh`, `rsync -aHAXz --zc=zstd` of the tree, and with --registry (Debian's docker-registry; needs buildah) push and
pull. CPU is that of both ends together, from a control group of its own where cpuacct is mounted.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time

from benchlib import Inlay, Proxy, Scratch, Sshd, note, until  # noqa: E402

CPUACCT = pathlib.Path("/sys/fs/cgroup/cpuacct")
ROWS = ("first", "upgrade", "added", "rebuilt")


class Cpu:
    """What the processes of this benchmark used, those that an sshd starts for it included."""

    def __init__(self):
        self.group = CPUACCT / f"inlay-bench-{os.getpid()}"
        try:
            self.group.mkdir()
            (self.group / "tasks").write_text(str(os.getpid()))
        except OSError:
            self.group = None

    def seconds(self):
        return int((self.group / "cpuacct.usage").read_text()) / 1e9 if self.group else float("nan")

    def end(self):
        if self.group:
            for pid in (self.group / "tasks").read_text().split():
                (CPUACCT / "tasks").write_text(pid)
            self.group.rmdir()


class Bench:
    def __init__(self, root, trees, cpu, registry):
        self.root, self.trees, self.cpu, self.registry = root, trees, cpu, registry
        self.sshd = Sshd(root)
        self.archives = {}
        for name, tree in trees.items():
            if tree not in self.archives:
                self.archives[tree] = root / f"{name}.tar"
                subprocess.run(["tar", "-C", tree, "--xattrs", "--xattrs-include=*", "--format=posix", "--sort=name",
                                "--exclude=./dev/*", "-cf", self.archives[tree], "."], check=True)
        self.cells = {}

    def measure(self, row, who, fn):
        """Seconds, CPU seconds, and what fn gives: bytes over the wire in both directions, and more."""
        os.sync()
        cpu, start = self.cpu.seconds(), time.monotonic()
        sent, extra = fn()
        seconds, cpu = time.monotonic() - start, self.cpu.seconds() - cpu
        self.cells.setdefault((row, who), []).append((seconds, cpu, sent, extra))
        note(f"{row} {who}: {sent / 1e6:.2f} MB {seconds:.2f} s {cpu:.2f} s CPU {extra or ''}")

    def ssh(self, command, **kw):
        return subprocess.run([*self.sshd.ssh.split(), "testhost", command], check=True, **kw)

    # ---- who is compared ----

    def inlay(self, row):
        root = self.root / "inlay"
        shutil.rmtree(self.sshd.home, ignore_errors=True)
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        self.sshd.home.mkdir()
        tool = Inlay(root, {"INLAY_SSH": self.sshd.ssh})
        tool("image", "list", "--on", "testhost")  # inlayd is there
        tool("image", "import", "-q", "--name", "robot", self.archives[self.trees["first"]], timeout=600)
        images = self.sshd.home / ".local/state/inlay/host/images"
        if row != "first":
            tool("image", "push", "-q", "robot", "testhost", timeout=600)
            tool("image", "import", "-q", "--name", "robot", self.archives[self.trees[row]], timeout=600)
            until(lambda: not (images / ".incoming").exists(), 60)

        def work():
            done = tool("image", "push", "--json", "robot", "testhost", timeout=600).json
            return done["sent_bytes"] + done["received_bytes"], {"ways": {k: [v["objects"], v["wire_bytes"]] for k, v in done["ways"].items()},
                    "total": done["total_ms"], "laid": done["laid_ms"], "disk": done["disk_ms"]}
        self.measure(row, "inlay", work)
        until(lambda: not (images / ".incoming").exists(), 60)
        size = du(self.trees[row])
        note(f"  disk: {du(images) / size:.3f} x the image ({size / 1e6:.0f} MB)")
        self.cells.setdefault((row, "disk"), []).append(du(images) / size)
        tool.end()

    def tar(self, row):
        target = self.root / "target"
        shutil.rmtree(target, ignore_errors=True)
        count = self.root / "count"
        command = (f"tar -C {self.trees[row]} --xattrs --xattrs-include='*' --exclude='./dev/*' -cf - . | zstd -q -3 | "
                   f"tee >(wc -c >{count}) | "
                   f"{self.sshd.ssh} testhost 'mkdir {target} && zstd -qd | tar -C {target} --xattrs -xf -'")

        def work():
            subprocess.run(["bash", "-c", command], check=True)
            return int(until(count.read_text)), None
        self.measure(row, "tar|zstd -3", work)
        shutil.rmtree(target)

    def rsync(self, row):
        target = self.root / "target"
        shutil.rmtree(target, ignore_errors=True)
        if row != "first":
            subprocess.run(["cp", "-a", self.trees["first"], target], check=True)
        command = ["rsync", "-aHAXz", "--zc=zstd", "--stats", "--delete", "--exclude=/dev/*", "-e", self.sshd.ssh,
                   f"{self.trees[row]}/", f"testhost:{target}"]

        def work():
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            return sum(int(n.replace(",", "")) for n in re.findall(r"Total bytes (?:sent|received): ([\d,]+)", said)), None
        self.measure(row, "rsync -aHAXz", work)
        shutil.rmtree(target)

    def registry_pair(self, row):
        """buildah pushes the tree as one layer to a registry on loopback, and pulls it into another storage."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        work = self.root / "registry"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / "config.yml").write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {work}/blobs}}}}\n"
                                         f"http: {{addr: 127.0.0.1:{port}}}\n")
        server = subprocess.Popen([self.registry, "serve", work / "config.yml"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        way = Proxy(port)

        def buildah(store, *args):
            return subprocess.run(["buildah", "--root", work / store, "--runroot", work / f"{store}-run",
                                   "--storage-driver", "vfs", *args], check=True, capture_output=True, text=True).stdout
        try:
            for name in dict.fromkeys(("first", row)):
                made = buildah("dev", "from", "scratch").strip()
                buildah("dev", "add", "-q", made, self.archives[self.trees[name]], "/")
                buildah("dev", "commit", "-q", made, name)
                ref = f"127.0.0.1:{way.port}/robot:{name}"
                if name == row:
                    break
                buildah("dev", "push", "-q", "--tls-verify=false", name, f"docker://{ref}")
                buildah("host", "pull", "-q", "--tls-verify=false", f"docker://{ref}")
            before = way.bytes

            def work_():
                buildah("dev", "push", "-q", "--tls-verify=false", row, f"docker://{ref}")
                buildah("host", "pull", "-q", "--tls-verify=false", f"docker://{ref}")
                return way.bytes - before, None
            self.measure(row, "registry", work_)
        finally:
            server.terminate()
            server.wait()
            way.close()
            shutil.rmtree(work, ignore_errors=True)

    def show(self):
        who = [w for w in ("inlay", "tar|zstd -3", "rsync -aHAXz", "registry") if any((r, w) in self.cells for r in ROWS)]
        print("| image | n |", " | ".join(f"{w}: MB, s, CPU-s" for w in who), "| x tar, x rsync | disk x image |")
        print("|---" * (len(who) + 4) + "|")
        for row in ROWS:
            if (row, "inlay") not in self.cells:
                continue
            cells, size = [], {}
            for w in who:
                runs = self.cells.get((row, w))
                if not runs:
                    cells.append("-")
                    continue
                size[w] = statistics.median(r[2] for r in runs)
                cells.append(f"{size[w] / 1e6:.2f}, {statistics.median(r[0] for r in runs):.2f}, "
                             f"{statistics.median(r[1] for r in runs):.2f}")
            ratios = ", ".join(f"{size['inlay'] / size[w]:.3f}" if w in size else "-" for w in who[1:3])
            print(f"| {row} | {len(self.cells[row, 'inlay'])} |", " | ".join(cells), f"| {ratios} "
                  f"| {statistics.median(self.cells[row, 'disk']):.3f} |")
        sys.stdout.flush()


def du(path):
    out = subprocess.run(["du", "-s", "--block-size=1", path], check=True, capture_output=True, text=True).stdout
    return int(re.match(r"\d+", out)[0])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ROWS:
        p.add_argument(name, type=pathlib.Path)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--registry", help="docker-registry's program")
    p.add_argument("--only", default=",".join(ROWS))
    p.add_argument("--json", type=pathlib.Path)
    o = p.parse_args()
    cpu = Cpu()
    try:
        with Scratch() as root:
            b = Bench(root, {r: getattr(o, r).resolve() for r in ROWS}, cpu, o.registry)
            try:
                for i in range(o.rounds):
                    for row in o.only.split(","):
                        note(f"round {i + 1}, {row}; load {os.getloadavg()[0]:.1f}")
                        for fn in (b.inlay, b.rsync, b.tar) if row == "first" or i == 0 else (b.inlay, b.rsync):
                            fn(row)
                        if o.registry and i == 0:
                            b.registry_pair(row)
                b.show()
                if o.json:
                    o.json.write_text(json.dumps({f"{r} {w}": v for (r, w), v in b.cells.items()}, indent=1))
            finally:
                b.sshd.stop()
    finally:
        cpu.end()


sys.exit(main())
