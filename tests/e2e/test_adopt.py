# SPDX-License-Identifier: Apache-2.0
"""Taking over a folder that was there before."""
import os
import subprocess

import pytest

from conftest import mounts_below, tree, write
from test_delta import MIB, edited, noise, sent, text

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def filled(src, root):
    """A source, and a target that another tool copied some time ago."""
    for i in range(20):
        write(src / f"d/f{i}", text(50, i))
    write(src / "large.bin", noise(MIB))
    write(src / ".gitignore", "build/\n")
    os.symlink("d/f0", src / "link")
    dst = root / "dst"
    subprocess.run(["cp", "-a", src, dst], check=True)
    write(dst / "build/out", "made there")
    write(dst / "only there", "x")
    write(src / "large.bin", edited(noise(MIB), 300_000))
    write(src / "d/f1", edited(text(50, 1), 700))
    write(src / "new", "new")
    return dst


def test_little_travels(inlay, src, filled):
    was = tree(filled)
    r = inlay.sync("--adopt", src, filled)
    assert (r["added"], r["modified"], r["removed"]) == (1, 2, 1)
    assert sent(r) == {"patch": 1, "whole": 2}
    assert r["sent_bytes"] < 20_000
    aside = filled.with_name("dst.before-inlay")
    assert r["aside"] == str(aside)
    assert tree(aside) == was
    assert tree(filled) == tree(src)
    # from here on all is as with any other target, also with the option
    write(src / "large.bin", noise(MIB))
    r = inlay.sync("--adopt", src, filled)
    assert sent(r) == {"delta": 1} and "aside" not in r
    assert tree(filled) == tree(src)


def test_what_was_there_is_a_generation(inlay, src, filled):
    was = tree(filled)
    inlay.sync("--adopt", src, filled)
    assert len(inlay("log", "--json", filled).rows) == 2
    inlay("rollback", filled)
    there = {k: v for k, v in was.items() if not k.startswith(b"build")}
    assert tree(filled) == there


def test_over_ssh(remote, sshd, src, filled):
    os.rename(filled, sshd.home / "dst")
    r = remote("sync", "--adopt", src, "testhost:dst")
    assert "dst.before-inlay" in r.err
    assert tree(sshd.home / "dst") == tree(src)


def test_a_name_that_is_taken(inlay, src, filled):
    before = filled.with_name("dst.before-inlay")
    before.mkdir()
    assert inlay.sync("--adopt", src, filled)["aside"] == f"{before}.2"
    assert not os.listdir(before)


def test_nothing_there(inlay, src, root):
    write(src / "f", "x")
    assert "aside" not in inlay.sync("--adopt", src, root / "fresh/dst")
    assert tree(root / "fresh/dst") == tree(src)


def test_without_the_option_it_stops(inlay, src, filled):
    was = tree(filled)
    assert "--adopt" in inlay("sync", src, filled, code=4).err
    assert tree(filled) == was


def test_a_dry_run_takes_nothing_over(inlay, src, filled):
    was = tree(filled)
    inlay("sync", "-n", "--adopt", src, filled)
    assert tree(filled) == was and not filled.with_name("dst.before-inlay").exists()


def test_a_halt_shows_what_was_there(inlay, src, filled):
    """More than half would go: it is taken over, shown as it was, and not changed."""
    for i in range(200):
        write(filled / f"theirs/f{i}", "x")
    was = {k: v for k, v in tree(filled).items() if not k.startswith(b"build")}
    r = inlay("sync", "--adopt", src, filled, code=4)
    assert "dst.before-inlay" in r.err and "--force" in r.err
    assert tree(filled) == was
    inlay("sync", "--force", src, filled)
    assert tree(filled) == tree(src)


def test_what_cannot_be_taken_over(inlay, src, filled, root):
    file = write(root / "file", "x")
    inlay("sync", "--adopt", src, file, code=1)
    assert file.read_text() == "x"
    if os.geteuid() != 0:
        pytest.skip("needs root for the rest")
    subprocess.run(["mount", "--bind", filled, filled], check=True)
    try:
        was = tree(filled)
        assert "mounted" in inlay("sync", "--adopt", src, filled, code=1).err
        assert tree(filled) == was and len(mounts_below(filled)) == 1
    finally:
        subprocess.run(["umount", filled], check=True)
    inlay.sync("--adopt", src, filled)
    assert tree(filled) == tree(src)
