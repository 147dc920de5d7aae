#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What changed, over a real sshd, against `rsync -az --delete`: edits, relinked programs, large files, real commits.

    tests/bench/delta.py --repo GIT [--rounds 5] [--commits 30] [--only edits,elf,large,replay]

GIT is a git repository of source code (a bare one will do): the tree, the edits and the commits come from it. Seconds are
of the whole command, the way to the host included; bytes are counted on the TCP connection, ssh's handshake (some 4 KB)
included. After each row the targets are compared with the source.
"""
import os
import pathlib
import random
import shutil
import subprocess
import time

from benchlib import Inlay, Proxy, Scratch, Sshd, Table, note, parser, rounds, run, timed

MB = 1_000_000


class Rsync:
    name = "rsync -az"

    def __init__(self, root, sshd, src):
        self.ssh, self.src = sshd.ssh, src
        self.dst = sshd.home / "rsync"

    def sync(self):
        run("rsync", "-az", "--delete", "-e", self.ssh, f"{self.src}/", f"testhost:{self.dst}/")


class Ours:
    name = "inlay sync"

    def __init__(self, root, sshd, src):
        self.src, self.dst = src, sshd.home / "inlay"
        self.inlay = Inlay(root, {"INLAY_SSH": sshd.ssh})

    def sync(self):
        self.inlay("sync", "--no-gitignore", "--force", self.src, f"testhost:{self.dst}", timeout=3600)


class NoBasis(Ours):
    """As when the dev machine does not have the old content any more."""
    name = "inlay, librsync"

    def __init__(self, root, sshd, src):
        super().__init__(root, sshd, src)
        self.dst = sshd.home / "nobasis"
        (root / "second").mkdir()
        self.inlay = Inlay(root / "second", {"INLAY_SSH": sshd.ssh, "INLAY_BASIS_SIZE": "0"})


class Bench:
    def __init__(self, root, a):
        self.root, self.a = root, a
        self.src = root / "src"
        self.sshd = Sshd(root)
        self.proxy = Proxy(self.sshd.port)
        self.sshd.write_config(port=self.proxy.port)
        self.seconds, self.bytes = Table(), Table()
        self.subjects = [c(root, self.sshd, self.src) for c in (Rsync, Ours, NoBasis)]

    def measure(self, row, seed=1, add=False):
        """One sync by each subject. `add`: the figures of several are one row's."""
        for i, (_, s) in enumerate(rounds(1, self.subjects, seed)):
            before = self.proxy.bytes
            os.sync()
            took = timed(s.sync)
            time.sleep(0.02)
            for table, value in ((self.seconds, took), (self.bytes, self.proxy.bytes - before)):
                cell = table.rows[row][s.name]
                if add and cell:
                    cell[-1] += value
                else:
                    cell.append(value)

    def check(self):
        for s in self.subjects:
            r = subprocess.run(["diff", "-rq", "--no-dereference", self.src, s.dst], capture_output=True)
            assert r.returncode == 0, f"{s.name}: {r.stdout.decode()[:500]}"

    def begin(self, fill):
        """A source that fill(src) made, synced once by everybody."""
        self.src.mkdir(exist_ok=True)
        for p in self.src.iterdir():
            shutil.rmtree(p) if p.is_dir() and not p.is_symlink() else p.unlink()
        fill(self.src)
        for s in self.subjects:
            s.sync()
        self.check()
        note("synced once")


# ---- edits

def checkout(repo, commit, src, index):
    run("git", f"--git-dir={repo}", "read-tree", "--reset", "-u", commit,
        env=dict(os.environ, GIT_INDEX_FILE=str(index), GIT_WORK_TREE=str(src)), cwd=src)


def edit_line(path, text):
    lines = path.read_bytes().split(b"\n")
    lines[len(lines) // 2] = text.encode()
    path.write_bytes(b"\n".join(lines))


def edits(b):
    b.begin(lambda src: checkout(b.a.repo, "HEAD", src, b.root / "index"))
    sources = sorted(p for p in b.src.rglob("*") if p.suffix in (".c", ".h", ".cpp", ".hpp", ".py")
                     and p.is_file() and not p.is_symlink() and 1000 < p.stat().st_size < 200_000)
    rnd = random.Random(1)
    for i in range(b.a.rounds):
        edit_line(rnd.choice(sources), f"/* edit {i} */")
        b.measure("one line in one file", i)
        for p in rnd.sample(sources, 100):
            edit_line(p, f"/* edit {i} of a hundred */")
        b.measure("one line in 100 files", i)
    b.check()


# ---- relinked programs

UNIT = """#include <functional>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <unordered_map>
#include <vector>
#include <cstdio>
"""
FUNCTION = """struct Msg{u}_{i} {{ int id; double v[{n}]; std::string name; }};
static std::map<std::string, std::shared_ptr<Msg{u}_{i}>> tab{i};
int node_{u}_{i}(int x, const std::string &s) {{
  std::vector<std::function<int(int)>> fs;
  fs.push_back([x](int y) {{ return x * {k} + y; }});
  auto m = std::make_shared<Msg{u}_{i}>(); m->id = x + {u}00 + {i}; m->name = s + "topic/{u}/{i}";
  tab{i}[m->name] = m; int r = 0; for (auto &g : fs) r += g(m->id);
  if (r % 97 == 5) std::printf("unit {u} callback {i}: %d\\n", r); return r; }}
"""


def build_programs(where, units=7):
    """A C++ program of some 20 MB with debug information: as it is, after a change of code, after one inside a string."""
    where.mkdir()
    for u in range(units):
        (where / f"u{u}.cpp").write_text(
            UNIT + "".join(FUNCTION.format(u=u, i=i, n=i % 7 + 1, k=i + 3) for i in range(10))
            + f'int unit_{u}(int x) {{ std::regex re("u{u}[a-z]+"); int r = std::regex_match(std::to_string(x), re);\n'
            + "".join(f'  r += node_{u}_{i}(x + {i}, "n");\n' for i in range(10)) + "  return r; }\n")
    (where / "main.cpp").write_text(
        "".join(f"int unit_{u}(int);\n" for u in range(units)) + "int main(int c, char **) { int r = c;\n"
        + "".join(f"  r ^= unit_{u}(r);\n" for u in range(units)) + "  return r & 1; }\n")

    def link(name):
        for p in sorted(where.glob("*.cpp")):
            if not p.with_suffix(".o").exists():
                run("g++", "-O1", "-g", "-c", "-o", p.with_suffix(".o"), p)
        run("g++", "-g", "-o", where / name, *sorted(where.glob("*.o")))
        return where / name

    def change(old, new):
        p = where / "u3.cpp"
        assert old in p.read_text()
        p.write_text(p.read_text().replace(old, new, 1))
        p.with_suffix(".o").unlink()

    first = link("v1")
    change("x * 8 + y", "x * 8 + y + (y >> 3)")
    second = link("v2")
    change("callback 7: %d", "callback seven: %d!")
    return first, second, link("v3")


def elf(b):
    where = pathlib.Path(b.a.programs or b.root / "programs")
    versions = [where / f"v{n}" for n in (1, 2, 3)] if where.exists() else build_programs(where)
    size = versions[0].stat().st_size / MB
    note(f"programs of {size:.1f} MB")
    b.begin(lambda src: shutil.copy(versions[0], src / "node"))
    for i in range(b.a.rounds):
        shutil.copy(versions[1], b.src / "node")
        b.measure(f"{size:.0f} MB program relinked: code", i)
        shutil.copy(versions[2], b.src / "node")
        b.measure(f"{size:.0f} MB program relinked: text", i)
        b.check()
        shutil.copy(versions[0], b.src / "node")
        for s in b.subjects:
            s.sync()


# ---- large files

def large(b):
    """Half of it text-like, half noise; edits in ten places, one of which moves what is behind it."""
    rnd = random.Random(1)
    words = [rnd.randbytes(rnd.randrange(3, 12)).hex().encode() for _ in range(5000)]

    def fill(path, size):
        with open(path, "wb") as f:
            while f.tell() < size:
                f.write(rnd.randbytes(MB // 2))
                f.write(b" ".join(rnd.choice(words) for _ in range(MB // 2 // 16)))

    def change(path, i):
        size = path.stat().st_size
        with open(path, "r+b") as f:
            for _ in range(9):
                f.seek(rnd.randrange(size - 100))
                f.write(f"edit {i}".encode())
        data = path.read_bytes()
        at = rnd.randrange(size)
        path.write_bytes(data[:at] + b"inserted" + data[at:])

    b.begin(lambda src: (fill(src / "large", b.a.large * MB), fill(src / "medium", 50 * MB)))
    for i in range(min(b.a.rounds, 3)):
        change(b.src / "large", i)
        b.measure(f"{b.a.large} MB, 10 edits", i)
        change(b.src / "medium", i)
        b.measure("50 MB, 10 edits", i)
    b.check()


# ---- commits

def replay(b):
    ids = subprocess.run(["git", f"--git-dir={b.a.repo}", "rev-list", "--first-parent", f"-{b.a.commits + 1}", "HEAD"],
                         capture_output=True, text=True, check=True).stdout.split()[::-1]
    index = b.root / "index2"
    b.begin(lambda src: checkout(b.a.repo, ids[0], src, index))
    row = f"{len(ids) - 1} commits, one after the other"
    for i, commit in enumerate(ids[1:]):
        checkout(b.a.repo, commit, b.src, index)
        b.measure(row, i, add=True)
    b.check()
    live(b, ids, row)


def live(b, ids, row):
    """The same through a session that is kept. As with any watcher the clock starts when the change is complete; what
    was sent by then counts as bytes."""
    src, index, dst = b.root / "live", b.root / "index3", b.sshd.home / "live"
    (b.root / "third").mkdir()
    src.mkdir()
    inlay = Inlay(b.root / "third", {"INLAY_SSH": b.sshd.ssh})
    checkout(b.a.repo, ids[0], src, index)
    inlay("watch", "-d", "--no-gitignore", src, f"testhost:{dst}")
    inlay("flush", src)
    took, before = 0, b.proxy.bytes
    for commit in ids[1:]:
        checkout(b.a.repo, commit, src, index)
        took += timed(lambda: inlay("flush", src))
        assert subprocess.run(["diff", "-rq", "--no-dereference", src, dst]).returncode == 0
    time.sleep(0.1)
    b.seconds.add(row, "inlay watch", took)
    b.bytes.add(row, "inlay watch", b.proxy.bytes - before)
    inlay("watch", "--stop", src)


def main():
    p = parser(__doc__)
    p.add_argument("--repo", required=True)
    p.add_argument("--commits", type=int, default=30)
    p.add_argument("--programs", help="where the programs are kept, so that a second run need not build them")
    p.add_argument("--large", type=int, default=500, help="MB of the large file")
    p.add_argument("--only", default="edits,elf,large,replay")
    a = p.parse_args()
    a.repo = pathlib.Path(a.repo).resolve()
    with Scratch() as root:
        b = Bench(root, a)
        try:
            for name in a.only.split(","):
                note(name)
                {"edits": edits, "elf": elf, "large": large, "replay": replay}[name](b)
        finally:
            b.sshd.stop()
            b.proxy.close()
    budgets = {row: "0.85 MB" for row in b.bytes.rows if row.endswith("code")}
    budgets |= {row: "4 KB (handshake apart)" for row in b.bytes.rows if row.endswith("text")}
    budgets |= {row: "0.05 through a live session" for row in b.bytes.rows if "commits" in row}
    print()
    b.seconds.show("s", "rsync -az", budgets={r: v for r, v in budgets.items() if "commits" in r})
    print()
    b.bytes.show("B", "rsync -az", budgets=budgets)


main()
