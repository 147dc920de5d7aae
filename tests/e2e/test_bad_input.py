# SPDX-License-Identifier: Apache-2.0
"""Sources and targets that are wrong, and the safety halts: nothing changes, and the message helps."""
import os
import shutil
import socket
import subprocess

import pytest

from conftest import INLAY, mounts_below, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")


def as_nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


@pytest.fixture
def synced(inlay, root, src):
    for i in range(300):
        write(src / f"d{i % 5}/f{i}", f"file {i}\n")
    inlay.sync(src, root / "dst")
    return root / "dst"


def test_source_is_a_file(inlay, root):
    r = inlay("sync", write(root / "file", "x"), root / "dst", code=1)
    assert "not a folder" in r.err and not (root / "dst").exists()


def test_source_is_missing(inlay, root):
    r = inlay("sync", root / "nothing", root / "dst", code=1)
    assert "No such file" in r.err and not (root / "dst").exists()


def test_target_inside_source(inlay, src):
    write(src / "f", "x")
    r = inlay("sync", src, src / "sub/dst", code=2)
    assert "inside each other" in r.err and not (src / "sub").exists()


def test_source_inside_target(inlay, root, src):
    r = inlay("sync", src, root, code=2)
    assert "inside each other" in r.err


def test_source_contains_a_mount_of_ours(inlay, root, src, synced):
    other = root / "other"
    other.mkdir()
    inlay.sync(src, other / "inner")
    r = inlay("sync", other, root / "dst2", code=1)
    assert "inner" in r.err and "exclude" in r.err
    inlay("sync", other, root / "dst2", "--exclude", "/inner")


def test_target_is_not_empty(inlay, root, src):
    write(src / "f", "x")
    write(root / "dst/precious", "data")
    r = inlay("sync", src, root / "dst", code=4)
    assert "not empty" in r.err
    assert (root / "dst/precious").read_text() == "data" and not mounts_below(root)


def test_target_is_a_file(inlay, root, src):
    write(src / "f", "x")
    write(root / "dst", "data")
    inlay("sync", src, root / "dst", code=1)
    assert (root / "dst").read_text() == "data"


def test_unreadable_file_and_directory(root, src):
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    from conftest import Inlay
    write(src / "good", "x")
    write(src / "secret", "x").chmod(0)
    os.chown(root, 65534, 65534)
    (root / "home").mkdir()
    os.chown(root / "home", 65534, 65534)
    for p in (src, src / "good"):
        os.chown(p, 65534, 65534)
    inlay = Inlay(root)
    r = inlay("sync", "--no-mount", src, root / "dst", code=1, preexec_fn=as_nobody)
    assert "secret" in r.err and "Permission denied" in r.err
    (src / "secret").unlink()
    (src / "dir").mkdir(mode=0)
    r = inlay("sync", "--no-mount", src, root / "dst", code=1, preexec_fn=as_nobody)
    assert "dir" in r.err and "Permission denied" in r.err
    inlay("sync", "--no-mount", src, root / "dst", "--exclude", "dir", preexec_fn=as_nobody)


def test_specials_are_counted(inlay, root, src):
    os.mkfifo(src / "fifo")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(src / "socket"))
    write(src / "f", "x")
    r = inlay("sync", src, root / "dst")
    assert "2 fifos, sockets or devices left out" in r.err and "fifo" in r.err
    assert os.listdir(root / "dst") == ["f"]


def test_hard_links_become_files(inlay, root, src):
    """And that is said, once."""
    write(src / "a", "x")
    os.link(src / "a", src / "b")
    assert "2 files have several links" in inlay("sync", src, root / "dst").err
    write(src / "c", "x")
    assert "links" not in inlay("sync", src, root / "dst").err
    assert tree(root / "dst") == tree(src)
    assert os.stat(root / "dst/a").st_nlink == 1


def test_source_vanished(inlay, src, synced):
    before = tree(synced)
    shutil.rmtree(src)
    inlay("sync", src, synced, code=1)
    assert tree(synced) == before


def test_source_emptied(inlay, src, synced):
    before = tree(synced)
    for name in os.listdir(src):
        shutil.rmtree(src / name)
    r = inlay("sync", src, synced, code=4)
    assert "empty" in r.err and "--force" in r.err
    assert tree(synced) == before
    inlay("sync", "--force", src, synced)
    assert os.listdir(synced) == []


def test_source_became_another_folder(inlay, root, src, synced):
    before = tree(synced)
    src.rename(root / "old")
    write(src / "f", "x")
    r = inlay("sync", src, synced, code=4)
    assert "another folder" in r.err
    assert tree(synced) == before


def test_source_became_a_file(inlay, src, synced):
    before = tree(synced)
    shutil.rmtree(src)
    write(src, "now a file")
    inlay("sync", src, synced, code=1)
    assert tree(synced) == before


def test_more_than_half_gone(inlay, src, synced):
    before = tree(synced)
    for i in range(3):
        shutil.rmtree(src / f"d{i}")
    r = inlay("sync", src, synced, code=4)
    assert "more than half" in r.err
    assert tree(synced) == before
    # Known by numbers alone when what was sent is not remembered.
    shutil.rmtree(inlay.state / "dev")
    inlay("sync", src, synced, code=4)
    assert tree(synced) == before
    inlay("sync", "--force", src, synced)
    assert tree(synced) == tree(src)


def test_dry_run_changes_nothing(inlay, root, src, synced):
    before = tree(synced)
    write(src / "d0/f0", "changed and longer")
    (src / "d1/f1").unlink()
    write(src / "new", "x")
    r = inlay("sync", "-n", "-i", src, synced)
    assert ">fcst...... d0/f0" in r.out and "*deleting   d1/f1" in r.out and ">f+++++++++ new" in r.out
    assert tree(synced) == before
    assert inlay("log", "--json", synced).rows[0]["generation"] == 1
    r = inlay("sync", "-n", src, root / "elsewhere")
    assert not (root / "elsewhere").exists()


def test_no_delete(inlay, root, src, synced):
    (src / "d0/f0").unlink()
    shutil.rmtree(src / "d1")
    write(src / "d2/f2", "changed")
    kept = dict(tree(synced))
    inlay.sync(src, synced, "--no-delete")
    kept[b"d2/f2"] = tree(src)[b"d2/f2"]
    assert tree(synced) == kept
    # The same when what was sent is not remembered.
    shutil.rmtree(inlay.state / "dev")
    write(src / "d3/f3", "changed")
    inlay.sync(src, synced, "--no-delete")
    kept[b"d3/f3"] = tree(src)[b"d3/f3"]
    assert tree(synced) == kept
    inlay.sync(src, synced)
    assert tree(synced) == tree(src)


def test_two_syncs_of_one_folder(inlay, root, src, synced):
    """One waits for the other; nothing is lost."""
    write(src / "a", os.urandom(3_000_000))
    procs = [inlay.start("sync", src, synced) for _ in range(4)]
    for p in procs:
        out, err = p.communicate(timeout=60)
        assert p.returncode == 0, err
    assert tree(synced) == tree(src)


def test_two_folders_to_one_target(inlay, root, src, synced):
    """A second sender waits for the lock, or ends with 6 when it may not."""
    write(src / "a", os.urandom(20_000_000))
    other = root / "other"
    for i in range(200):
        write(other / f"o{i}", "x")
    slow = inlay.start("sync", "--bwlimit", "2000", src, synced)
    until(lambda: inlay("status", "--json", synced).json.get("owner"), what="the lock to be held")
    r = inlay("sync", "--lock-wait", "0", other, synced, "--force", code=6)
    assert "is held by" in r.err
    slow.kill()
    slow.communicate()
    inlay("sync", other, synced, "--force")
    assert tree(synced) == tree(other)


def test_usage_errors(inlay, src):
    for args in (["sync"], ["sync", src], ["sync", src, "-oProxy=x:y"], ["sync", "--bwlimit", "x", src, "a"],
                 ["nonsense"], [], ["sync", "--no-such-option", src, "a"], ["log"], ["rollback", "a", "b"]):
        r = inlay(*args, code=2)
        assert r.err


def test_no_dev_fuse(inlay, root, src):
    """What was sent stays; the sync says what is missing."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a mount namespace")
    write(src / "f", "x")
    script = "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && exec \"$@\""
    r = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", str(INLAY),
                        "sync", src, root / "dst"], env=inlay.env, capture_output=True, text=True)
    assert r.returncode == 1 and "synced, but not mounted" in r.stderr and "/dev/fuse" in r.stderr, r.stderr
    inlay.end()
    inlay("mount", root / "dst")
    assert tree(root / "dst") == tree(src)
