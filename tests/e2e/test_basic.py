# SPDX-License-Identifier: Apache-2.0
"""A folder appears on a target, changes there, goes back, and is mounted again."""
import os
import pathlib
import signal
import subprocess

import pytest

from conftest import mounts_below, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")


def fill(src):
    write(src / "README.md", "hello\n")
    write(src / "src/main.c", "int main(void) { return 0; }\n")
    write(src / "src/deep/er/x.py", "print(1)\n" * 1000)
    write(src / "big.bin", os.urandom(300_000))
    (src / "empty").mkdir()
    os.chmod(write(src / "run.sh", "#!/bin/sh\n"), 0o755)
    os.symlink("src/main.c", src / "link")
    os.symlink("/nowhere", src / "dangling")


def test_first_sync_and_change(inlay, root, src):
    fill(src)
    dst = root / "dst"
    first = inlay.sync(src, dst)
    assert first["changed"] and first["generation"] == 1 and first["mounted"]
    assert tree(dst) == tree(src)
    assert inlay.sync(src, dst)["changed"] is False
    write(src / "src/main.c", "int main(void) { return 1; }\n")
    (src / "big.bin").unlink()
    write(src / "new/file", "new\n")
    second = inlay.sync(src, dst)
    assert (second["added"], second["modified"], second["removed"]) == (2, 1, 1)
    assert tree(dst) == tree(src)


def test_open_files_keep_their_bytes(inlay, root, src):
    fill(src)
    dst = root / "dst"
    inlay.sync(src, dst)
    with open(dst / "src/main.c", "rb") as f:
        ino = os.fstat(f.fileno()).st_ino
        write(src / "src/main.c", "changed\n")
        inlay.sync(src, dst)
        assert f.read() == b"int main(void) { return 0; }\n"
        assert (dst / "src/main.c").read_text() == "changed\n"
        assert os.stat(dst / "src/main.c").st_ino != ino


def test_log_diff_rollback(inlay, root, src):
    fill(src)
    dst = root / "dst"
    inlay.sync(src, dst)
    before = tree(dst)
    write(src / "README.md", "second\n")
    inlay.sync(src, dst)
    assert [g["generation"] for g in inlay("log", "--json", dst).rows] == [2, 1]
    assert [(c["change"], c["path"]) for c in inlay("diff", "--json", dst).rows] == [
        ("modified", "README.md")]
    back = inlay("rollback", "--json", dst).json
    assert back["generation"] == 3
    assert tree(dst) == before
    assert inlay("log", "--json", dst).rows[0]["rollback_of"] == 1


def test_umount_and_mount_again(inlay, root, src):
    fill(src)
    dst = root / "dst"
    inlay.sync(src, dst)
    inlay("umount", dst)
    assert not mounts_below(dst) and not os.listdir(dst)
    inlay("mount", dst)
    assert tree(dst) == tree(src)
    inlay("mount", dst)
    assert len(mounts_below(dst)) == 1


def test_writes_are_refused_when_read_only(inlay, root, src):
    fill(src)
    dst = root / "dst"
    inlay.sync(src, dst)
    inlay("mount", "--upper", "read-only", dst)
    for change in (lambda: (dst / "x").write_text("x"), lambda: os.unlink(dst / "README.md"),
                   lambda: os.mkdir(dst / "d"), lambda: os.rename(dst / "README.md", dst / "R"),
                   lambda: os.chmod(dst / "README.md", 0), lambda: os.truncate(dst / "README.md", 0)):
        with pytest.raises(OSError) as e:
            change()
        assert e.value.errno == 30


def test_control_directory(inlay, root, src):
    fill(src)
    dst = root / "dst"
    inlay.sync(src, dst)
    assert ".inlay" not in os.listdir(dst)
    assert (dst / ".inlay/generation").read_text().split()[0].rstrip("~") == "1"
    write(src / "README.md", "second\n")
    (src / "run.sh").unlink()
    inlay.sync(src, dst)
    until(lambda: (dst / ".inlay/generation").read_text().split()[0] == "2", what="generation 2")
    assert sorted((dst / ".inlay/changes").read_text().splitlines()) == ["- run.sh", "M README.md"]
    assert "requests: " in (dst / ".inlay/status").read_text()
    assert sorted(os.listdir(dst / ".inlay")) == ["changes", "generation", "status"]


def test_file_with_the_bytes_of_a_tree(inlay, root, src):
    """A store's own objects are data like any other: this is the listing of an empty directory."""
    (src / "empty").mkdir()
    write(src / "file", b"iTRE\1\1" + bytes(34))
    inlay.sync(src, root / "dst")
    assert tree(root / "dst") == tree(src)
