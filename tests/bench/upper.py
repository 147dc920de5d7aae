#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writing through the mount against native ext4 and kernel overlayfs; reading beside an upper of 10,000 names.

    tests/bench/upper.py [--rounds 9] [--units 300] [--where DIR] [--only TEXT]      (as root: it mounts)

Native is a folder on the same disk (of --where); the overlay has the same tree as its lower directory.
"""
import os
import pathlib
import random
import shutil
import subprocess

from benchlib import BUILD, Inlay, Scratch, Table, note, parser, rounds, run, timed

HELPER = BUILD / "tests/touch-files"
SMALL = 10_000


class Native:
    name = "native"

    def __init__(self, root, src):
        self.path = root / "native"
        run("cp", "-a", src, self.path)


class Overlay:
    name = "overlayfs"

    def __init__(self, root, src):
        self.path = root / "ovl"
        for d in ("ovl", "ovl-upper", "ovl-work"):
            (root / d).mkdir()
        run("mount", "-t", "overlay", "overlay", "-o",
            f"lowerdir={src},upperdir={root}/ovl-upper,workdir={root}/ovl-work", self.path)


class Ours:
    name = "inlay"

    def __init__(self, root, src):
        self.path = root / "inlay"
        Inlay(root)("sync", "--redirect", "code/out", src, self.path, timeout=600)


def write_blocks(size, count):
    block = os.urandom(size)

    def work(s):
        path = s.path / "written"

        def go():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            for _ in range(count):
                os.write(fd, block)
            os.close(fd)
        value = timed(go)
        path.unlink()
        return value
    return work


def small_files(s):
    top = s.path / "small"
    top.mkdir()
    names = [str(top / str(i)) for i in range(SMALL)]

    def go():
        for n in names:
            fd = os.open(n, os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, b"x" * 100)
            os.close(fd)
        for n in names:
            os.unlink(n)
    value = timed(go)
    top.rmdir()
    return value


def make_sources(src, units):
    """Short C units with a header each, and a Makefile."""
    code = src / "code"
    code.mkdir(parents=True)
    for i in range(units):
        (code / f"u{i}.h").write_text(f"int f{i}(int x);\n")
        uses = "".join(f'#include "u{(i * 7 + k) % units}.h"\n' for k in range(5))
        (code / f"u{i}.c").write_text(f'#include "u{i}.h"\n{uses}int f{i}(int x) {{ return x * {i}; }}\n')
    (code / "Makefile").write_text(
        "OUT := .\nOBJ := $(patsubst %.c,$(OUT)/%.o,$(wildcard *.c))\nall: $(OUT)/lib.a\n"
        "$(OUT)/lib.a: $(OBJ)\n\tar rcs $@ $^\n"
        "$(OUT)/%.o: %.c\n\tcc -O0 -c -o $@ $<\nclean:\n\trm -f $(OUT)/*.o $(OUT)/lib.a\n")


def make_repository(where, files):
    """Two branches; every file differs."""
    env = dict(os.environ, GIT_CONFIG_GLOBAL="/dev/null", GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b",
               GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b")
    run("git", "init", "-q", "-b", "one", where, env=env)
    for branch in ("one", "two"):
        if branch == "two":
            run("git", "checkout", "-q", "-b", "two", cwd=where, env=env)
        for i in range(files):
            path = where / f"d{i % 40}" / f"f{i}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{branch} {i}\n" * 40)
        run("git", "add", "-A", cwd=where, env=env)
        run("git", "commit", "-q", "-m", branch, cwd=where, env=env)


def make_package(where, files):
    """An archive that npm installs; its path."""
    for i in range(files):
        path = where / f"lib/d{i % 40}/m{i}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"module.exports = {{ n: {i} }};\n" * 20)
    (where / "package.json").write_text('{"name": "made", "version": "1.0.0", "main": "lib/d0/m0.js"}\n')
    run("npm", "pack", "--silent", cwd=where)
    return where / "made-1.0.0.tgz"


def main():
    p = parser(__doc__)
    p.add_argument("--where", help="the directory to work in (default: that of temporary files)")
    p.add_argument("--only", default="", help="only the works whose name contains this")
    p.add_argument("--units", type=int, default=300)
    a = p.parse_args()
    table = Table()
    with Scratch(a.where) as root:
        src = root / "src"
        run("cp", "-a", a.tree or "/usr/include", src)
        make_sources(src, a.units)
        repository, archive = root / "repository", root / "archive.tar"
        make_repository(repository, 1000)
        run("tar", "cf", archive, "-C", a.tree or "/usr/include", ".")
        package = make_package(root / "package", 1000)
        subjects = [k(root, src) for k in (Native, Overlay, Ours)]
        for s in subjects:
            (s.path / "code/out").mkdir(exist_ok=True)
            shutil.copytree(repository, s.path / "repository", symlinks=True)

        def checkout(s):
            return timed(lambda: [run("git", "checkout", "-q", b, cwd=s.path / "repository")
                                  for b in ("one", "two")])

        def unpack(s):
            (s.path / "unpacked").mkdir()
            value = timed(lambda: run("tar", "xf", archive, "-C", s.path / "unpacked"))
            shutil.rmtree(s.path / "unpacked")
            return value

        def install(s):
            top = s.path / "app"
            top.mkdir()
            (top / "package.json").write_text('{"name": "app", "version": "1.0.0"}\n')
            value = timed(lambda: run("npm", "install", "--silent", "--offline", "--no-audit", "--no-fund",
                                      "--cache", root / "npm-cache", package, cwd=top))
            assert (top / "node_modules/made/lib/d7/m7.js").exists()
            shutil.rmtree(top)
            return value

        def build(s, out="."):
            run("make", "-s", "clean", f"OUT={out}", cwd=s.path / "code")
            return timed(lambda: run("make", "-s", "-j2", f"OUT={out}", cwd=s.path / "code"))

        def build_nothing(s):
            return timed(lambda: run("make", "-s", cwd=s.path / "code"))

        work = {"256 MB in 1 MiB writes": (write_blocks(1 << 20, 256), "1.3"),
                "64 MB in 4 KiB writes": (write_blocks(4096, 16384), "4"),
                f"create, write, unlink {SMALL:,} files": (small_files, "1.5 x overlayfs"),
                "git checkout, 1,000 files, twice": (checkout, "2"),
                "unpack an archive": (unpack, "2"),
                "npm install, 1,000 files": (install, "2")}
        builds = {f"build of {a.units} units": (build, "1.1"),
                  "make with nothing to do": (build_nothing, "1.5"),
                  "build, objects in a redirected directory": (lambda s: build(s, "out"), "1.05")}
        budgets = {name: budget for name, (_, budget) in (work | builds).items()}
        for which, count in ((work, a.rounds), (builds, max(3, a.rounds // 3))):
            for i, s in rounds(count, subjects):
                for name, (fn, _) in which.items():
                    if a.only in name:
                        table.add(name, s.name, fn(s))
            note("done:", ", ".join(name for name in which if a.only in name))
        # The synced tree again, beside an upper of many names.
        files = [os.path.relpath(os.path.join(top, n), src) for top, _, names in os.walk(src)
                 for n in names if not top.startswith(str(src / "code"))]
        small = [f for f in files if not os.path.islink(src / f) and 0 < os.lstat(src / f).st_size < 65536]
        random.Random(1).shuffle(files)
        some = random.Random(2).sample(small, min(5000, len(small)))
        for s in subjects:
            (s.path / "many").mkdir()
            for i in range(SMALL):
                (s.path / "many" / str(i)).write_bytes(b"x")

        def helper(what, names):
            data = "\0".join(names).encode() + b"\0"
            return lambda s: float(subprocess.run([HELPER, what, s.path], input=data, check=True,
                                                  stdout=subprocess.PIPE).stdout)
        reads = {"find": (lambda s: timed(lambda: run("find", ".", cwd=s.path)), "1.0"),
                 "stat walk": (helper("stat", files), "1.45"),
                 "open+read+close": (helper("read", some), "1.35"),
                 "ls of the 10,000": (lambda s: timed(lambda: os.listdir(s.path / "many")), ""),
                 "stat of the 10,000": (helper("stat", [f"many/{i}" for i in range(SMALL)]), "")}
        reads = {f"beside 10,000 names: {name}": how for name, how in reads.items()}
        for s in subjects:
            for name, (fn, _) in reads.items():
                if a.only in name:
                    fn(s)
                    fn(s)
        for i, s in rounds(a.rounds, subjects):
            for name, (fn, budget) in reads.items():
                if a.only in name:
                    table.add(name, s.name, fn(s))
                    budgets[name] = budget
    table.show("s", "native", budgets)


if __name__ == "__main__":
    main()
