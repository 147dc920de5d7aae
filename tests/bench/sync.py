#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Syncs over a real sshd against `rsync -az --delete`: first sync, no change, a one-line edit.

    tests/bench/sync.py [--tree DIR] [--rounds 9] [--rtt 20 --mbit 100]

Seconds are of the whole command; bytes are counted on the TCP connection, handshake included.
"""
import os
import pathlib
import shutil
import subprocess
import time

from benchlib import Inlay, Proxy, Scratch, Sshd, Table, copy_tree, note, parser, rounds, run, timed


class Rsync:
    name = "rsync -az"

    def __init__(self, root, sshd, src):
        self.root, self.ssh, self.src = root, sshd.ssh, src
        self.dst = sshd.home / "rsync"

    def sync(self):
        run("rsync", "-az", "--delete", "-e", self.ssh, f"{self.src}/", f"testhost:{self.dst}/")

    def reset(self):
        shutil.rmtree(self.dst, ignore_errors=True)


class Ours:
    name = "inlay"

    def __init__(self, root, sshd, src):
        self.sshd, self.src = sshd, src
        self.dst = sshd.home / "inlay"
        self.inlay = Inlay(root, {"INLAY_SSH": sshd.ssh})
        empty = root / "empty"
        empty.mkdir()
        self.inlay("sync", empty, "testhost:other")      # inlayd is there, as rsync is

    def sync(self):
        self.inlay("sync", "--no-gitignore", self.src, f"testhost:{self.dst}", timeout=3600)

    def reset(self):
        """As if nothing had ever been synced: no store, no memory of it, but inlayd is installed."""
        subprocess.run(["umount", "-l", self.dst], stderr=subprocess.DEVNULL)
        subprocess.run(["pkill", "-KILL", "-f", f"inlayd.*{self.sshd.home}"])
        shutil.rmtree(self.sshd.home / ".local", ignore_errors=True)
        shutil.rmtree(self.inlay.state / "dev/sources", ignore_errors=True)
        shutil.rmtree(self.inlay.state / "dev/targets", ignore_errors=True)
        shutil.rmtree(self.dst, ignore_errors=True)


def edit(src, n):
    """One line in the middle of one source file."""
    files = sorted(p for p in src.rglob("*.[ch]") if p.stat().st_size > 2000)
    path = files[n * 7919 % len(files)]
    lines = path.read_bytes().split(b"\n")
    lines.insert(len(lines) // 2, b"/* edit %d */" % n)
    path.write_bytes(b"\n".join(lines))
    os.sync()


def main():
    p = parser(__doc__)
    p.add_argument("--rtt", type=float, default=0, help="added round trip, ms")
    p.add_argument("--mbit", type=float, default=0, help="cap, Mbit/s each way")
    p.add_argument("--first-rounds", type=int, help="rounds of the first sync")
    a = p.parse_args()
    seconds, byte_table = Table(), Table()
    with Scratch() as root:
        src = root / "src"
        count = copy_tree(a.tree, src)
        sshd = Sshd(root)
        proxy = Proxy(sshd.port, a.rtt, a.mbit)
        sshd.write_config(port=proxy.port)
        subjects = [Rsync(root, sshd, src), Ours(root, sshd, src)]

        def measure(row, s):
            before = proxy.bytes
            os.sync()
            seconds.add(row, s.name, timed(s.sync))
            time.sleep(0.05)
            byte_table.add(row, s.name, proxy.bytes - before)

        try:
            for i, s in rounds(a.first_rounds or a.rounds, subjects):
                s.reset()
                measure("first sync", s)
                note("first", i, s.name, seconds.rows["first sync"][s.name][-1])
            for i, s in rounds(a.rounds, subjects):
                measure("no change", s)
            for i in range(a.rounds):
                edit(src, i)
                for _, s in rounds(1, subjects, seed=i):
                    measure("one-line edit", s)
            same = subprocess.run(["diff", "-rq", "--no-dereference", src, sshd.home / "inlay"])
            assert same.returncode == 0, "the target is not the source"
        finally:
            sshd.stop()
            proxy.close()
    print(f"\n{count} files, rtt {a.rtt:g} ms, {a.mbit or 'no'} Mbit cap\n")
    seconds.show("s", "rsync -az", budgets={"first sync": "0.85 at loopback, 0.7 at 20 ms / 100 Mbit",
                               "one-line edit": "1.0"})
    print()
    byte_table.show("B", "rsync -az", budgets={"first sync": "0.92", "one-line edit": "0.15"})


main()
