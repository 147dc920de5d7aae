#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A million small files over a real sshd: time, bytes, memory of both ends, bytes a node that the worker knows.

    tests/bench/million.py [--files 1000000] [--source-in DIR]
"""
import os
import subprocess
import time

from benchlib import Inlay, Proxy, Scratch, Sshd, note, parser, peak_kb, pss_kb, run, timed
from conftest import INLAY, pids_with

MAKE_TREE = os.path.join(os.path.dirname(__file__), "make-tree.py")


def sync(inlay, src):
    """Seconds and peak KiB of `inlay sync`."""
    start = time.perf_counter()
    p = subprocess.Popen([INLAY, "sync", "-q", src, "testhost:ws"], env=inlay.env)
    _, status, usage = os.wait4(p.pid, 0)
    assert status == 0, status
    return time.perf_counter() - start, usage.ru_maxrss


def main():
    p = parser(__doc__)
    p.add_argument("--files", type=int, default=1_000_000)
    p.add_argument("--source-in", help="where the source is made (/dev/shm spares a slow disk the writing)")
    a = p.parse_args()
    rows = []
    with Scratch() as root, Scratch(a.source_in) as above:
        src = above / "src"
        run(MAKE_TREE, src, a.files)
        os.sync()
        note("made")
        sshd = Sshd(root)
        proxy = Proxy(sshd.port)
        sshd.write_config(port=proxy.port)
        inlay = Inlay(root, {"INLAY_SSH": sshd.ssh})
        try:
            took, first_kb = sync(inlay, src)
            sent = proxy.bytes
            note(f"first sync: {took:.1f} s")
            keeper = pids_with(f"keep --state {sshd.home}")[0]
            worker = pids_with(f"mount --workspace {sshd.home}")[0]
            mount = sshd.home / "ws"
            rows.append(("first sync", f"{took:.1f} s, {sent / 1e6:.0f} MB on the wire", "works"))
            rows.append(("peak memory of the sender", f"{first_kb / 1024:.0f} MiB", "400 MB"))
            rows.append(("peak memory of the keeper", f"{peak_kb(keeper) / 1024:.0f} MiB", "400 MB"))
            took, kb = sync(inlay, src)
            rows.append(("no-op", f"{took:.2f} s, {kb / 1024:.0f} MiB", ""))
            before = pss_kb(worker)
            rows.append(("find, first touch", f"{timed(lambda: run('find', mount)):.1f} s", ""))
            rows.append(("find, warm", f"{timed(lambda: run('find', mount)):.1f} s", ""))
            run("find", mount, "-size", "+100M")            # stat of each
            after = pss_kb(worker)
            nodes = int(dict(line.split(": ") for line in
                             (mount / ".inlay/status").read_text().splitlines() if ": " in line)["nodes"].split()[0])
            rows.append(("the worker after find", f"{(after - before) * 1024 / nodes:.0f} bytes a node, "
                         f"{nodes} nodes, {after / 1024:.0f} MiB (PSS), peak {peak_kb(worker) / 1024:.0f} MiB",
                         "300 bytes, 400 MB"))
            path = next(src.rglob("*.c"))
            path.write_text("edited\n")
            took, kb = sync(inlay, src)
            rows.append(("one edit", f"{took:.2f} s, {kb / 1024:.0f} MiB", ""))
            same = subprocess.run(["diff", "-rq", src, mount], stdout=subprocess.DEVNULL)
            assert same.returncode == 0, "the mount is not the source"
        finally:
            sshd.stop()
            proxy.close()
    print(f"\n{a.files} files\n\n| | | budget |\n|---|---|---|")
    for row in rows:
        print("|", " | ".join(row), "|")


main()
