#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reading through the mount against native ext4, kernel overlayfs and fuse-overlayfs: warm, cold, first touch.

    tests/bench/mount.py [--tree DIR] [--rounds 9]      (as root: it mounts, and drops caches)

Native is a plain copy on the same disk; the overlays have that copy as their lower directory.
"""
import os
import pathlib
import random
import shutil
import subprocess

from benchlib import BUILD, Inlay, Scratch, Table, copy_tree, note, parser, rounds, run, timed

HELPER = BUILD / "tests/touch-files"


class Native:
    name = "native"

    def __init__(self, root, src):
        self.path = src

    def fresh(self):
        pass


class Overlay:
    name = "overlayfs"

    def __init__(self, root, src):
        self.path, self.src, self.dir = root / "ovl", src, root
        for d in ("ovl", "ovl-upper", "ovl-work"):
            (root / d).mkdir()
        self.mount()

    def mount(self):
        run("mount", "-t", "overlay", "overlay", "-o",
            f"lowerdir={self.src},upperdir={self.dir}/ovl-upper,workdir={self.dir}/ovl-work", self.path)

    def fresh(self):
        run("umount", self.path)
        self.mount()


class FuseOverlay(Overlay):
    name = "fuse-overlayfs"

    def __init__(self, root, src):
        self.path, self.src, self.dir = root / "fovl", src, root
        for d in ("fovl", "fovl-upper", "fovl-work"):
            (root / d).mkdir()
        self.mount()

    def mount(self):
        run("fuse-overlayfs", "-o",
            f"lowerdir={self.src},upperdir={self.dir}/fovl-upper,workdir={self.dir}/fovl-work", self.path)


class Ours:
    name = "inlay"

    def __init__(self, root, src):
        self.path = root / "inlay"
        self.inlay = Inlay(root)
        self.inlay("sync", "--no-gitignore", src, self.path, timeout=600)

    def fresh(self):
        self.inlay("umount", self.path)
        self.inlay("mount", self.path)


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def main():
    a = parser(__doc__).parse_args()
    table = Table()
    with Scratch() as root:
        src = root / "src"
        count = copy_tree(a.tree, src)
        git = root / "git"
        env = dict(os.environ, GIT_DIR=str(git), GIT_CONFIG_GLOBAL="/dev/null")
        run("git", "init", "-q", "--bare", git)
        run("git", "config", "core.bare", "false", env=env)
        run("git", "add", "-A", "-f", env=dict(env, GIT_WORK_TREE=str(src)), cwd=src,
            stderr=subprocess.DEVNULL)
        files = [os.path.relpath(os.path.join(top, n), src) for top, _, names in os.walk(src)
                 for n in names]
        rnd = random.Random(1)
        small = [f for f in files if 0 < os.lstat(src / f).st_size < 65536
                 and not os.path.islink(src / f)]
        chosen = rnd.sample(small, min(5000, len(small)))
        rnd.shuffle(files)
        every, some = ("\0".join(x).encode() + b"\0" for x in (files, chosen))
        subjects = [k(root, src) for k in (Native, Overlay, FuseOverlay, Ours)]

        def helper(what, names):
            return lambda s: float(subprocess.run([HELPER, what, s.path], input=names, check=True,
                                                  stdout=subprocess.PIPE).stdout)

        def command(*args):
            return lambda s: timed(lambda: subprocess.run(args, cwd=s.path, stdout=subprocess.DEVNULL))

        def git_status(s):
            e = dict(env, GIT_WORK_TREE=str(s.path), GIT_INDEX_FILE=str(root / f"index-{s.name}"))
            return timed(lambda: run("git", "status", "--porcelain", env=e, cwd=s.path))

        work = {"find": command("find", "."), "stat walk": helper("stat", every),
                "open+read+close": helper("read", some),
                "grep -r": command("grep", "-r", "needle-that-is-not-there", "."),
                "git status": git_status}
        budgets = dict(zip(work, ("1.0", "1.45", "1.35", "1.2", "1.0")))
        for s in subjects:
            shutil.copy(git / "index", root / f"index-{s.name}")
        for name, fn in work.items():                       # warm up twice
            for s in subjects:
                fn(s)
                fn(s)
        for i, s in rounds(a.rounds, subjects):
            for name, fn in work.items():
                table.add(name, s.name, fn(s))
        note("warm done")
        first = {"find": "4", "open+read+close": "12", "grep -r": "6"}
        for i, s in rounds(a.rounds, subjects):
            for name in first:
                s.fresh()
                if s.name == "native":
                    value = table.rows[name]["native"][i]   # compared with native warm
                else:
                    value = work[name](s)
                table.add(f"first touch: {name}", s.name, value)
                budgets[f"first touch: {name}"] = first[name]
        note("first touch done")
        cold = {"grep -r": "1.2", "find": "0.8"}
        for i, s in rounds(max(3, a.rounds // 2), subjects):
            for name in cold:
                drop_caches()
                table.add(f"cold: {name}", s.name, work[name](s))
                budgets[f"cold: {name}"] = cold[name]
    print(f"\n{count} files; (n) = x native\n")
    table.show("s", "native", budgets)


main()
