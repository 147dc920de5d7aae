# SPDX-License-Identifier: Apache-2.0
"""What is written on a target: it stays, is listed, given back, brought home; directories on plain storage."""
import json
import os
import shutil
import signal
import subprocess

import pytest

from conftest import INLAY, PATIENCE, mounts_below, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="binds need root")


@pytest.fixture
def dst(inlay, root, src):
    write(src / "keep.txt", "synced\n")
    write(src / "gone.txt", "synced\n")
    write(src / "d/a", "a\n")
    write(src / "d/b", "b\n")
    os.symlink("keep.txt", src / "link")
    inlay.sync(src, root / "dst")
    return root / "dst"


def rows(inlay, dst):
    return {r["path"]: r for r in inlay("diff", "--upper", "--json", dst).rows}


def status(inlay, dst):
    return inlay("status", "--json", dst).json


def test_diff_and_status_tell_what_was_written(inlay, src, dst):
    assert rows(inlay, dst) == {}
    write(dst / "keep.txt", "written here\n")
    write(dst / "new/deep.txt", "new\n")
    os.unlink(dst / "gone.txt")
    os.symlink("deep.txt", dst / "new/link")
    os.mkfifo(dst / "fifo")
    found = rows(inlay, dst)
    assert {p: (r["kind"], r["shadows"]) for p, r in found.items()} == {
        "keep.txt": ("file", True), "gone.txt": ("removed", True), "new": ("directory", False),
        "new/deep.txt": ("file", False), "new/link": ("symlink", False), "fifo": ("special", False)}
    assert found["new/deep.txt"]["size"] == 4 and found["new/link"]["target"] == "deep.txt"
    st = status(inlay, dst)
    assert st["upper_entries"] == 6 and st["shadowed"] == 2
    assert sorted(st["shadowed_paths"]) == ["gone.txt", "keep.txt"]
    text = inlay("status", dst).out
    assert "keep.txt" in text and "2 of them hide" in text
    assert "M keep.txt  (hides what was synced)" in inlay("diff", "--upper", dst).out
    # A path that a later sync brings is hidden, too: a directory that was made here hides a whole one.
    write(src / "new/deep.txt", "from the source\n")
    inlay.sync(src, dst)
    assert (dst / "new/deep.txt").read_text() == "new\n"
    assert "new" in status(inlay, dst)["shadowed_paths"]


def test_keep_survives_syncs_rollback_remount_and_gc(inlay, src, dst):
    write(dst / "keep.txt", "written here\n")
    os.unlink(dst / "gone.txt")
    os.rename(dst / "d", dst / "e")
    write(dst / "own/x", "x\n")

    def check():
        assert (dst / "keep.txt").read_text() == "written here\n"
        assert not (dst / "gone.txt").exists() and not (dst / "d").exists()
        assert sorted(os.listdir(dst / "e")) == ["a", "b"] and (dst / "own/x").read_text() == "x\n"
    check()
    write(src / "keep.txt", "from the source\n")
    write(src / "gone.txt", "from the source\n")
    inlay.sync(src, dst)
    check()
    inlay("rollback", dst)
    check()
    inlay("gc", dst)
    inlay("umount", dst)
    inlay("mount", dst)
    check()


def test_reset_gives_back_what_was_synced(inlay, src, dst):
    write(dst / "keep.txt", "written here\n")
    os.unlink(dst / "gone.txt")
    shutil.rmtree(dst / "d")
    write(dst / "own/x", "x\n")
    held = open(dst / "keep.txt")
    inlay("reset", dst, "keep.txt")
    assert (dst / "keep.txt").read_text() == "synced\n"
    assert held.read() == "written here\n", "an open file keeps its bytes"
    held.close()
    inlay("reset", dst, "./gone.txt", "d/")
    assert (dst / "gone.txt").read_text() == "synced\n" and sorted(os.listdir(dst / "d")) == ["a", "b"]
    assert "nothing was written" in inlay("reset", dst, "keep.txt", code=1).err
    assert (dst / "own/x").exists()
    inlay("reset", dst, "--all")
    assert rows(inlay, dst) == {} and tree(dst) == tree(src)
    inlay("reset", dst, code=2)
    inlay("reset", dst, "", code=1)


@pytest.mark.parametrize("policy", ["keep", "source-wins", "read-only"])
def test_policies(inlay, src, root, policy):
    write(src / "f", "one\n")
    write(src / "other", "one\n")
    dst = root / "dst"
    inlay.sync(src, dst, "--upper", policy)
    assert status(inlay, dst)["upper"] == policy
    if policy == "read-only":
        for change in (lambda: write(dst / "f", "x"), lambda: os.unlink(dst / "f"),
                       lambda: os.mkdir(dst / "d"), lambda: os.truncate(dst / "f", 0)):
            with pytest.raises(OSError) as e:
                change()
            assert e.value.errno == 30
        return
    write(dst / "f", "written\n")
    write(dst / "other", "written\n")
    write(dst / "mine", "mine\n")
    write(src / "f", "two\n")
    inlay.sync(src, dst)
    assert (dst / "f").read_text() == ("written\n" if policy == "keep" else "two\n")
    # Only what the change set changed.
    assert (dst / "other").read_text() == "written\n" and (dst / "mine").read_text() == "mine\n"
    # It is remembered, and changed by mount, too.
    inlay("umount", dst)
    inlay("mount", dst, "--upper", "read-only")
    with pytest.raises(OSError):
        write(dst / "other", "again\n")
    assert (dst / "other").read_text() == "written\n"
    assert status(inlay, dst)["upper"] == "read-only"


def test_bad_options(inlay, src, root):
    write(src / "f", "one\n")
    for bad in (("--upper", "x"), ("--xattrs", "yes"), ("--owner", "me"), ("--redirect", "/abs"),
                ("--redirect", "")):
        inlay("sync", src, root / "dst", *bad, code=2)
    for bad in (["a", "a/b"], ["../x"], [".inlay"], ["a/../b"]):
        options = [x for r in bad for x in ("--redirect", r)]
        assert inlay("sync", src, root / "dst", *options, code=None).code != 0


def test_xattrs(inlay, src, root):
    write(src / "f", "one\n")
    inlay.sync(src, root / "dst")
    with pytest.raises(OSError):
        os.setxattr(root / "dst/f", "user.x", b"1")
    inlay.sync(src, root / "other", "--xattrs", "on")
    os.setxattr(root / "other/f", "user.x", b"1")
    inlay("umount", root / "other")
    inlay("mount", root / "other")
    assert os.getxattr(root / "other/f", "user.x") == b"1"


# ---- pull ----

def pull(inlay, dst, where, *options, code=0):
    r = inlay("pull", "--json", dst, where, *options, code=code)
    return r.rows[-1], r.rows[:-1]


def test_pull_brings_what_was_written(inlay, root, dst):
    write(dst / "out/big.bin", os.urandom(3_000_000))
    write(dst / "out/log.txt", "log\n")
    os.chmod(write(dst / "run.sh", "#!/bin/sh\n"), 0o4755)
    os.utime(dst / "out/log.txt", ns=(10**18, 10**18 + 7))
    os.symlink("/etc/passwd", dst / "out/abs")
    os.mkdir(dst / "empty")
    os.truncate(write(dst / "sparse", ""), 5_000_000)
    os.chmod(dst / "d/a", 0o600)
    os.unlink(dst / "gone.txt")
    os.mkfifo(dst / "fifo")
    home = root / "home-dir"
    total, events = pull(inlay, dst, home)
    assert total["brought"] == 8 and total["skipped"] == 1 and total["removed_there"] == 1
    assert (home / "out/big.bin").read_bytes() == (dst / "out/big.bin").read_bytes()
    assert os.readlink(home / "out/abs") == "/etc/passwd"
    assert (home / "out/log.txt").stat().st_mtime_ns == 10**18 + 7
    assert (home / "run.sh").stat().st_mode & 0o7777 == 0o755, "no set-id bits from a target"
    assert (home / "sparse").stat().st_size == 5_000_000
    assert (home / "d/a").read_text() == "a\n", "only its mode was changed: the bytes are the synced ones"
    assert (home / "empty").is_dir() and not (home / "fifo").exists()
    assert not list(home.rglob(".inlay-pull-*"))
    assert pull(inlay, dst, home)[0]["same"] >= 7


def test_pull_selects(inlay, root, dst):
    for name in ("build/a.json", "build/deep/b.json", "build/a.o", "logs/x/y.log", "c.json"):
        write(dst / name, name)
    home = root / "home-dir"
    pull(inlay, dst, home, "--back", "build/**/*.json", "--back", "/logs/")
    assert sorted(os.path.relpath(os.path.join(d, f), home) for d, _, files in os.walk(home) for f in files) == [
        "build/a.json", "build/deep/b.json", "logs/x/y.log"]


def test_pull_into_a_folder_named_after_the_workspace(inlay, root, dst):
    write(dst / "x", "x\n")
    (root / "cwd").mkdir()
    inlay("pull", dst, cwd=root / "cwd")
    assert (root / "cwd/dst/x").read_text() == "x\n"


def test_pull_overwrites_nobodys_work(inlay, root, src, dst):
    home = root / "home-dir"
    write(dst / "log", "one\n")
    write(dst / "mine", "theirs\n")
    pull(inlay, dst, home)
    # An earlier pull's file, unchanged here: the newer one comes.
    write(dst / "log", "one\ntwo\n")
    write(home / "mine", "edited here\n")
    write(dst / "mine", "edited there\n")
    (home / "conflicting").mkdir()
    write(dst / "conflicting", "a file\n")
    total, events = pull(inlay, dst, home, code=4)
    assert (home / "log").read_text() == "one\ntwo\n"
    assert (home / "mine").read_text() == "edited here\n"
    assert total["conflicts"] == 2 and {e["path"] for e in events if e["event"] == "conflict"} == {
        "mine", "conflicting"}
    # With force files go, directories never.
    total, events = pull(inlay, dst, home, "--force", code=4)
    assert (home / "mine").read_text() == "edited there\n" and (home / "conflicting").is_dir()
    # The source folder: what is as it was synced may be replaced, what was edited since not.
    write(dst / "keep.txt", "written there\n")
    write(dst / "d/a", "written there\n")
    write(src / "d/a", "edited here\n")
    total, events = pull(inlay, dst, src, "--back", "/keep.txt", "--back", "/d/", code=4)
    assert (src / "keep.txt").read_text() == "written there\n"
    assert (src / "d/a").read_text() == "edited here\n"


def test_pull_dry_run_writes_nothing(inlay, root, dst):
    write(dst / "x", "x\n")
    total, events = pull(inlay, dst, root / "home-dir", "-n")
    assert total["brought"] == 1 and total["dry_run"] and not (root / "home-dir").exists()


def test_pull_stays_in_its_folder(inlay, root, dst):
    """Symlinks of the folder and names with a meaning lead nowhere else."""
    home, outside = root / "home-dir", root / "outside"
    home.mkdir()
    outside.mkdir()
    os.symlink(outside, home / "dir")
    os.symlink(outside / "file", home / "file")
    write(dst / "dir/x", "x\n")
    write(dst / "file", "x\n")
    write(dst / ".git/hooks/post-checkout", "#!/bin/sh\n")
    write(dst / "sub/.GIT/config", "x\n")
    total, events = pull(inlay, dst, home, code=1)
    assert os.listdir(outside) == []
    assert not (home / ".git").exists() and not (home / "sub/.GIT").exists()
    assert total["failed"] == 1 and total["conflicts"] == 2 and total["skipped"] >= 2
    # Forced, the symlink itself is replaced, not what it points to.
    pull(inlay, dst, home, "--force", code=1)
    assert not os.path.islink(home / "file") and os.listdir(outside) == []


def test_pull_over_ssh(remote, root, src):
    write(src / "f", "synced\n")
    remote.sync(src, "testhost:ws")
    ws = root / "remote-home/ws"
    write(ws / "f", "written\n")
    write(ws / "out", os.urandom(700_000))
    pull(remote, "testhost:ws", root / "home-dir")
    assert (root / "home-dir/f").read_text() == "written\n"
    assert (root / "home-dir/out").read_bytes() == (ws / "out").read_bytes()


# ---- redirects ----

@needs_root
def test_redirect_is_plain_storage(inlay, root, src):
    write(src / "f", "one\n")
    write(src / "obj/hidden", "hidden below\n")
    dst = root / "dst"
    inlay.sync(src, dst, "--redirect", "build", "--redirect", "./deep/log/", "--redirect", "obj")
    assert status(inlay, dst)["redirects"] == ["build", "deep/log", "obj"]
    assert len(mounts_below(dst)) == 4
    assert os.statvfs(dst / "build").f_flag & (os.ST_NOSUID | os.ST_NODEV) == os.ST_NOSUID | os.ST_NODEV
    write(dst / "build/x.o", "object\n")
    write(dst / "deep/log/y", "log\n")
    assert os.listdir(dst / "obj") == []
    assert os.stat(dst / "build").st_dev != os.stat(dst).st_dev

    def check():
        assert (dst / "build/x.o").read_text() == "object\n" and (dst / "deep/log/y").read_text() == "log\n"
        assert len(mounts_below(dst)) == 4
    # Nothing of it is in the upper but the directories.
    assert {p for p, r in rows(inlay, dst).items() if r["kind"] != "directory"} == set()
    write(src / "f", "two\n")
    inlay.sync(src, dst)
    check()
    # Also where the source has a directory of that name, and then has none any more.
    write(src / "build/from-source", "x\n")
    inlay.sync(src, dst)
    check()
    shutil.rmtree(src / "build")
    shutil.rmtree(src / "obj")
    inlay.sync(src, dst)
    check()
    inlay("rollback", dst)
    inlay("gc", dst)
    check()
    worker = inlay.worker_pids()
    os.kill(worker[0], signal.SIGKILL)
    until(lambda: inlay.worker_pids() not in ([], worker) and len(mounts_below(dst)) == 4, what="a new worker")
    check()
    inlay("umount", dst)
    assert mounts_below(dst) == []
    inlay("mount", dst)
    check()
    # In use it is not unmounted, and nothing of it goes.
    with open(dst / "build/x.o"):
        inlay("umount", dst, code=1)
        check()
    inlay("mount", dst, "--redirect", "build")
    assert len(mounts_below(dst)) == 2 and (dst / "build/x.o").exists()
    inlay("mount", dst, "--no-redirect")
    assert len(mounts_below(dst)) == 1 and not (dst / "build/x.o").exists()
    inlay("mount", dst, "--redirect", "build")
    assert (dst / "build/x.o").read_text() == "object\n", "storage outlives the list"


def test_redirect_through_a_symlink_of_the_tree_is_refused(inlay, root, src):
    (root / "outside").mkdir()
    os.symlink(root / "outside", src / "way")
    write(src / "f", "x\n")
    r = inlay.sync(src, root / "dst", "--redirect", "way/log")
    assert r["mounted"] and "way/log is not redirected" in r["mount_text"]
    assert os.listdir(root / "outside") == []


# ---- an ordinary user ----

@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("fusermount3") or not shutil.which("setpriv"),
                    reason="becomes another user as root")
def test_ordinary_user(inlay, root, src):
    """All of it through fusermount3: writing, redirect by a symlink, reset, pull."""
    write(src / "f", "one\n")
    for path in (root, src, src / "f", root / "home"):
        os.chown(path, 65534, 65534)
    dst = root / "dst"

    def as_user(*args, code=0):
        r = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *map(str, args)],
                           env=inlay.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
        assert r.returncode == code, r.stderr.decode() + r.stdout.decode()
        return r.stdout.decode()

    as_user(INLAY, "sync", src, dst, "--redirect", "build")
    script = "echo two > f && mkdir d && echo new > d/x && echo o > build/x.o && chmod 700 d && mv d e"
    as_user("sh", "-c", f"cd {dst} && {script}")
    st = json.loads(as_user(INLAY, "status", "--json", dst))
    assert not st["everybody"] and st["mounted"] and st["shadowed_paths"] == ["f"]
    storage = root / "state/host/ws" / os.listdir(root / "state/host/ws")[0] / "redirect/build"
    assert (storage / "x.o").read_text() == "o\n"
    assert as_user("readlink", dst / "build").strip() == str(storage)
    as_user(INLAY, "pull", dst, root / "home/pulled")
    assert (root / "home/pulled/e/x").read_text() == "new\n"
    assert not os.path.lexists(root / "home/pulled/build") and "build" not in as_user(INLAY, "diff", "--upper", dst)
    as_user(INLAY, "reset", dst, "f")
    assert as_user("cat", dst / "f") == "one\n"
    as_user(INLAY, "umount", dst)
    as_user(INLAY, "mount", dst)
    assert as_user("cat", dst / "e/x", dst / "build/x.o") == "new\no\n"
    as_user(INLAY, "umount", dst)
