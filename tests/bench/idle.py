#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a workspace costs while nothing happens, and what starting `inlay` costs.

    tests/bench/idle.py [--files 20000] [--seconds 20]
"""
import os
import statistics
import subprocess
import time

from benchlib import Inlay, Scratch, Sshd, parser, pss_kb, run, timed
from conftest import INLAY, pids_with

MAKE_TREE = os.path.join(os.path.dirname(__file__), "make-tree.py")


def switches(pids):
    """How often the threads of the processes went to sleep and were woken."""
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            for line in open(f"/proc/{pid}/task/{task}/status"):
                if "ctxt_switches" in line:
                    total += int(line.split()[1])
    return total


def with_helpers(pids):
    """The processes and what they started."""
    found = list(pids)
    for pid in found:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, open(f"/proc/{pid}/task/{task}/children").read().split())
    return list(dict.fromkeys(found))


def main():
    p = parser(__doc__)
    p.add_argument("--files", type=int, default=20_000)
    p.add_argument("--seconds", type=float, default=20)
    a = p.parse_args()
    with Scratch() as root:
        src = root / "src"
        run(MAKE_TREE, src, a.files)
        sshd = Sshd(root)
        inlay = Inlay(root, {"INLAY_SSH": sshd.ssh})
        inlay("sync", src, "testhost:ws")
        run("find", sshd.home / "ws")
        pids = with_helpers(pids_with(f"keep --state {sshd.home}") + pids_with(f"mount --workspace {sshd.home}"))
        sshd.stop()
        time.sleep(2)
        before = switches(pids)
        time.sleep(a.seconds)
        wakeups = (switches(pids) - before) / a.seconds
        pss = [pss_kb(pid) / 1024 for pid in pids]
        starts = [timed(lambda: subprocess.run([INLAY, "version"], stdout=subprocess.DEVNULL, env=inlay.env,
                                              check=True))
                  for _ in range(31)]
        status = [timed(lambda: subprocess.run([INLAY, "status"], stdout=subprocess.DEVNULL, env=inlay.env,
                                              check=True))
                  for _ in range(31)]
    print(f"\n{a.files} files, mounted and seen by find\n\n| | | budget |\n|---|---|---|")
    parts = " + ".join(f"{n:.1f}" for n in pss)
    print(f"| PSS of keeper, worker and its helper | {parts} = {sum(pss):.1f} MiB | 15 MB |")
    print(f"| wakeups of all | {wakeups:.2f} a second | 1 |")
    print(f"| cold start: inlay version / status | {statistics.median(starts) * 1000:.1f} / "
          f"{statistics.median(status) * 1000:.1f} ms | 20 ms |")


main()
