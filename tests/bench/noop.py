#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A sync that finds nothing to do, over a real sshd: seconds and CPU of the sender, and round trips.

    tests/bench/noop.py [--files 100000] [--rounds 9]

Round trips: what a way with 400 ms more of them adds to the time, less what it adds to `ssh HOST true`
(of the fastest of all rounds: the machine may be shared).
"""
import os
import resource
import subprocess

from benchlib import Inlay, Proxy, Scratch, Sshd, Table, note, parser, rounds, run, timed

MAKE_TREE = os.path.join(os.path.dirname(__file__), "make-tree.py")
RTT_MS = 400


def cpu(fn):
    """CPU seconds of the children that fn runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    fn()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Subject:
    def __init__(self, name, sync):
        self.name, self.sync = name, sync


def main():
    p = parser(__doc__)
    p.add_argument("--files", type=int, default=100_000)
    a = p.parse_args()
    seconds, cpus, trips = Table(), Table(), Table()
    with Scratch() as root:
        src = root / "src"
        run(MAKE_TREE, src, a.files)
        sshd = Sshd(root)
        near, far = Proxy(sshd.port), Proxy(sshd.port, rtt_ms=RTT_MS)
        inlay = Inlay(root, {"INLAY_SSH": sshd.ssh})
        rsync = ["rsync", "-az", "--delete", "-e", sshd.ssh, f"{src}/", f"testhost:{sshd.home}/rsync/"]
        subjects = [Subject("rsync -az", lambda: run(*rsync)),
                    Subject("inlay", lambda: inlay("sync", src, "testhost:ws")),
                    Subject("ssh true", lambda: run(*sshd.ssh.split(), "testhost", "true"))]
        try:
            sshd.write_config(port=near.port)
            for s in subjects:                                   # first sync, then once more for the caches
                s.sync()
                s.sync()
            note("synced")
            for _, s in rounds(a.rounds, subjects):
                sshd.write_config(port=near.port)
                seconds.add("no change", s.name, timed(s.sync))
                cpus.add("CPU of the sender", s.name, cpu(s.sync) * 1e6 / a.files)
                sshd.write_config(port=far.port)
                trips.add("with a longer way", s.name, timed(s.sync))
        finally:
            sshd.stop()
            near.close()
            far.close()
    print(f"\n{a.files} files\n")
    seconds.show("s", "rsync -az")
    print()
    cpus.show("us/file", "rsync -az", {"CPU of the sender": "2.0 us a file, inlay"})

    def added(name):
        return (min(trips.rows["with a longer way"][name]) - min(seconds.rows["no change"][name])) * 1000 / RTT_MS
    print(f"\nround trips beside ssh's own: inlay {added('inlay') - added('ssh true'):.1f}, "
          f"rsync {added('rsync -az') - added('ssh true'):.1f} (budget 1)")


main()
