# SPDX-License-Identifier: Apache-2.0
"""check-ignore answers like git's, why tells where a path is, and what is ignored is not walked."""
import contextlib
import os
import subprocess

import pytest

from conftest import INLAY, tree, until, write
from test_watch import Watch

GIT_ENV = dict(os.environ, GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL="/dev/null", HOME="/nonexistent", LC_ALL="C")


@pytest.fixture
def repo(src):
    write(src / ".gitignore", "# objects\n*.o\n!keep.o\n/build/\n\\#odd\ntrail \\ \ndoc/*.txt\n**/deep/x\n[a-c]z\n")
    write(src / "sub/.gitignore", "!*.o\nlocal\n/only-here\r\n")
    write(src / "sub/more/.gitignore", "a.o\n")
    for name in ["a.o", "keep.o", "build/out.c", "sub/a.o", "sub/local", "sub/more/a.o", "sub/more/b.o", "#odd",
                 "doc/a.txt", "doc/x/a.txt", "p/deep/x", "bz", "dz", "plain.c", "sub/only-here", "build/deep/y"]:
        write(src / name, name)
    return src


PATHS = ["a.o", "keep.o", "build", "build/", "build/out.c", "build/deep/y", "sub/a.o", "sub/local", "sub/more/a.o",
         "sub/more/b.o", "#odd", "doc/a.txt", "doc/x/a.txt", "p/deep/x", "bz", "dz", "plain.c", "sub/only-here",
         "not/there.o", "not/there.c", "trail  ", "./a.o", "sub/../a.o", "sub"]


def git(src, *args, cwd=None, **kw):
    subprocess.run(["git", "init", "-q", src], check=True, env=GIT_ENV)
    return subprocess.run(["git", "check-ignore", *args], cwd=cwd or src, env=GIT_ENV, capture_output=True, **kw)


@pytest.mark.parametrize("options", [[], ["-v"], ["-v", "-n"]])
def test_like_git(inlay, repo, options):
    theirs = git(repo, *options, *PATHS)
    ours = inlay("check-ignore", *options, *PATHS, cwd=repo, code=theirs.returncode)
    assert ours.out == theirs.stdout.decode()
    for path in PATHS:
        want = git(repo, *options, path)
        one = inlay("check-ignore", *options, path, cwd=repo, code=want.returncode)
        assert one.out == want.stdout.decode(), path


def test_like_git_in_a_subfolder_and_from_stdin(inlay, repo):
    paths = b"a.o\nlocal\nmore/a.o\nmore/b.o\n../a.o\n../plain.c\n"
    theirs = git(repo, "-v", "-n", "--stdin", cwd=repo / "sub", input=paths)
    ours = subprocess.run([INLAY, "check-ignore", "-v", "-n", "--stdin"], cwd=repo / "sub", env=inlay.env,
                          input=paths, capture_output=True)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)
    odd = b"odd\nname.o\0plain.c\0\xff\xfe.o\0"
    theirs = git(repo, "-v", "-n", "-z", "--stdin", input=odd)
    ours = subprocess.run([INLAY, "check-ignore", "-v", "-n", "-z", "--stdin"], cwd=repo, env=inlay.env,
                          input=odd, capture_output=True)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)


def test_beyond_git(inlay, repo):
    """What git does not know: .inlayignore, options and the built-in list."""
    git(repo)
    write(repo / ".inlayignore", "!a.o\nplain.c\n")

    def verbose(*args, code=0):
        return inlay("check-ignore", "-v", *args, cwd=repo, code=code).out

    assert verbose("a.o") == ".inlayignore:1:!a.o\ta.o\n"
    assert inlay("check-ignore", "a.o", cwd=repo, code=1).out == ""
    assert verbose("plain.c") == ".inlayignore:2:plain.c\tplain.c\n"
    assert verbose("dz", "--exclude", "d*") == "--exclude::d*\tdz\n"
    assert verbose("bz", "--include", "bz") == "--exclude::!bz\tbz\n"
    assert verbose(".git/config") == "built-in::.git\t.git/config\n"
    assert verbose("sub/.file.swp") == "built-in::.*.swp\tsub/.file.swp\n"
    assert verbose(".inlay/x") == "built-in::/.inlay\t.inlay/x\n"
    assert verbose("keep.o", "--no-gitignore", code=1) == ""
    row = inlay("check-ignore", "--json", "plain.c", cwd=repo).json
    assert (row["ignored"], row["source"], row["line"], row["pattern"]) == (True, ".inlayignore", 2, "plain.c")


def test_failures(inlay, repo, root):
    git(repo)
    assert "outside" in inlay("check-ignore", "--root", repo, "/etc/passwd", code=128).err
    assert inlay("check-ignore", code=2).err
    assert "not a folder" in inlay("check-ignore", "--root", repo / "a.o", "x", code=128).err
    (repo / "link").symlink_to("sub")
    assert "symlink" in inlay("check-ignore", "link/a.o", cwd=repo, code=128).err
    assert inlay("check-ignore", "-v", "-n", "link", cwd=repo, code=1).out == "::\tlink\n"
    (repo / "sub/more/.gitignore").unlink()
    (repo / "sub/more/.gitignore").symlink_to("../.gitignore")
    assert "sub/more/.gitignore" in inlay("check-ignore", "sub/more/a.o", cwd=repo, code=128).err


def test_the_verdict_is_the_syncs(inlay, repo, root, fuse):
    """Every path of the folder: what check-ignore leaves out is not on the target, the rest is."""
    git(repo)
    inlay("sync", repo, root / "dst")
    there = {os.fsdecode(p) for p in tree(root / "dst")}
    for path in map(os.fsdecode, tree(repo)):
        ignored = inlay("check-ignore", path, cwd=repo, code=None).code == 0
        assert ignored == (path not in there), path


def test_ignored_folders_are_not_walked(inlay, src, root, fuse):
    write(src / ".gitignore", "/out\n")
    write(src / "a", "a")
    write(src / "out/x", "x")
    os.mkfifo(src / "out/fifo")
    assert inlay.sync(src, root / "dst")["skipped_special"] == 0
    (src / ".gitignore").unlink()
    assert inlay.sync(src, root / "dst")["skipped_special"] == 1


def test_ignored_folders_are_not_watched(inlay, src, root, fuse):
    write(src / ".gitignore", "node_modules\n")
    for i in range(20):
        write(src / f"d/node_modules/m{i}/x.js", "x")
        write(src / f"s{i}/x.c", "x")
    w = Watch(inlay, "--no-boot", src, root / "dst")
    try:
        w.visible()

        def watched():
            """Inodes that the watch has inotify watches on."""
            found = set()
            for info in os.listdir(f"/proc/{w.process.pid}/fdinfo"):
                # Others of its descriptors come and go.
                with contextlib.suppress(FileNotFoundError):
                    for line in open(f"/proc/{w.process.pid}/fdinfo/{info}"):
                        if line.startswith("inotify"):
                            found.add(int(line.split("ino:")[1].split()[0], 16))
            return found

        dirs = {p.stat().st_ino for p in [src, src / "d", *src.glob("s*")]}
        ignored = {p.stat().st_ino for p in [src / "d/node_modules", *(src / "d/node_modules").iterdir()]}
        until(lambda: dirs <= watched(), what="all folders to be watched")
        assert not watched() & ignored
        (src / ".gitignore").unlink()
        until(lambda: ignored <= watched(), what="the folders that are not ignored any more to be watched")
    finally:
        w.end()


def test_why(inlay, src, root, fuse):
    write(src / ".gitignore", "*.o\n")
    write(src / "a.c", "one")
    write(src / "d/b.c", "two")
    write(src / "x.o", "object")
    (src / "link").symlink_to("a.c")
    os.mkfifo(src / "fifo")
    inlay("sync", src, root / "first")
    write(src / "a.c", "changed")
    write(src / "new.c", "new")
    inlay("sync", src, root / "second")
    (src / "d/b.c").unlink()
    (src / "link").unlink()
    (src / "link").symlink_to("new.c")

    def why(path):
        j = inlay("why", "--json", path, cwd=src).json
        return j["why"], {os.path.basename(t["target"]): t["state"] for t in j["targets"]}, j

    assert why("a.c")[:2] == ("synced", {"first": "content", "second": "same"})
    assert why("new.c")[:2] == ("synced", {"first": "missing", "second": "same"})
    assert why("d/b.c")[:2] == ("absent", {"first": "extra", "second": "extra"})
    assert why("d")[:2] == ("synced", {"first": "same", "second": "same"})
    assert why("link")[:2] == ("synced", {"first": "content", "second": "content"})
    assert why("fifo")[:2] == ("special", {"first": "missing", "second": "missing"})
    verdict, targets, j = why("x.o")
    assert (verdict, j["synced"], j["rule"]["line"]) == ("ignored", False, 1)
    assert all(t["generation"] == 1 for t in j["targets"])
    text = inlay("why", src / "x.o").out
    assert ".gitignore:1: *.o" in text and "does not have it" in text and str(root / "first") in text


def test_why_without_anything_remembered(inlay, src):
    write(src / "a", "a")
    write(src / "build/x", "x")
    write(src / ".gitignore", "build/\n")
    r = inlay("why", "--json", "--root", src, src / "a").json
    assert r["why"] == "synced" and r["targets"] == []
    assert inlay("why", "--json", "--root", src, src / "build/x").json["why"] == "ignored-above"
    assert "outside" in inlay("why", "--root", src, "/etc", code=1).err
