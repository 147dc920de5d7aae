#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Base images: import against what reading and hashing alone cost, memory, and a build with nothing to do.

    image.py [--archive FILE] [--rounds N]

Without --archive the dev variant of images/robot is built first, with mmdebstrap (some minutes, some GB in TMPDIR).
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("INLAY_BUILD", TOP / "build")).resolve()
WATCH = """import json, resource, subprocess, sys
r = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
u = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"code": r.returncode, "out": r.stdout.decode(), "rss": u.ru_maxrss, "cpu": u.ru_utime + u.ru_stime}))"""


def run(*args, **env):
    """Seconds, CPU seconds, peak memory in MB, output."""
    start = time.monotonic()
    r = json.loads(subprocess.run(["/usr/bin/python3", "-c", WATCH, *map(str, args)], check=True, stdout=subprocess.PIPE,
                                  env=dict(os.environ, **env)).stdout)
    assert r["code"] == 0, args
    return time.monotonic() - start, r["cpu"], r["rss"] / 1024, r["out"]


def make_archive(work):
    out = work / "robot.tar"
    recipe = (TOP / "images/robot/mmdebstrap").read_text().splitlines()
    packages = [p for line in recipe if line.startswith(("include ", "include[dev] ")) for p in line.split()[1:]]
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--include=" + ",".join(packages), "bookworm", out],
                   check=True, env=dict(os.environ, SOURCE_DATE_EPOCH="1750000000"))
    return out


def imports(archive, work, rounds):
    floor, floor_cpu, whole, cpu, rss = [], [], [], [], []
    for i in range(rounds + 1):
        seconds, used, _, _ = run(BUILD / "tests/bench-image", archive)
        state = work / f"state-{i}"
        t, c, m, _ = run(BUILD / "inlay", "image", "import", "-q", "--name", "x", archive, INLAY_STATE=str(state))
        shutil.rmtree(state)
        if i > 0:  # the first one reads the archive from the disk
            floor.append(seconds)
            floor_cpu.append(used)
            whole.append(t)
            cpu.append(c)
            rss.append(m)
    ratio = statistics.median(w / f for w, f in zip(whole, floor))
    print(f"{archive.name}: {archive.stat().st_size / 1e6:.0f} MB")
    print(f"  read + sha256 alone   {statistics.median(floor):6.2f} s  ({min(floor):.2f} to {max(floor):.2f}), "
          f"{statistics.median(floor_cpu):.2f} s CPU")
    print(f"  import                {statistics.median(whole):6.2f} s  ({min(whole):.2f} to {max(whole):.2f}), "
          f"{statistics.median(cpu):.2f} s CPU, {max(rss):.0f} MB")
    print(f"  ratio                 {ratio:6.2f}")


def unchanged(work, rounds):
    context = work / "context"
    shutil.copytree(TOP / "images/base", context)
    program = work / "bin/buildah"
    program.parent.mkdir()
    # Whatever it would do is not what is measured: it must not be started a second time.
    small = work / "small.tar"
    subprocess.run(["tar", "-C", TOP, "-cf", small, "docs"], check=True)
    builder = f"#!/bin/sh\nfor a; do case $a in *.id) echo id >$a;; oci-archive:*) cp {small} ${{a#oci-archive:}};; esac; done\n"
    program.write_text(builder)
    program.chmod(0o755)
    env = {"INLAY_STATE": str(work / "state-build"), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    command = (BUILD / "inlay", "image", "build", "-q", "--build-arg", "BASE=x@sha256:" + "a" * 64, context)
    run(*command, **env)
    program.write_text("#!/bin/sh\nexit 1\n" + " " * (program.stat().st_size - 17))
    os.utime(program, (1, 1))
    run_once = subprocess.run([str(a) for a in command], env=dict(os.environ, **env), stderr=subprocess.DEVNULL)
    assert run_once.returncode == 1, "another builder has to be noticed"
    program.write_text(builder)
    run(*command, **env)
    times = []
    for _ in range(rounds):
        start = time.monotonic()
        subprocess.run([str(a) for a in command], check=True, env=dict(os.environ, **env))
        times.append(time.monotonic() - start)
    print(f"unchanged image build   {statistics.median(times) * 1000:6.1f} ms  (up to {max(times) * 1000:.1f})")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--archive", type=pathlib.Path)
    p.add_argument("--rounds", type=int, default=9)
    o = p.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="inlay-bench-"))
    try:
        unchanged(work, o.rounds)
        imports(o.archive or make_archive(work), work, o.rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)


sys.exit(main())
