# SPDX-License-Identifier: Apache-2.0
"""What was written on a target and acknowledged is there after kills, power cuts and on full disks.

INLAY_ROUNDS=100 makes the campaign of docs/reliability.md out of it.
"""
import contextlib
import errno
import fcntl
import mmap
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys

import pytest

from conftest import PATIENCE, Inlay, end_below, mounts_below, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")
ROUNDS = int(os.environ.get("INLAY_ROUNDS", "0"))
WRITER = pathlib.Path(__file__).with_name("writer.py")
needs_loop = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mkfs.ext4"), reason="needs loop devices")


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_worker_killed_under_readers_and_writers(inlay, root, src):
    for i in range(20):
        write(src / f"synced/f{i}", f"file {i}\n" * 1000)
    dst = root / "dst"
    inlay.sync(src, dst)
    expect = {f"f{i}": (src / f"synced/f{i}").read_bytes() for i in range(20)}
    progress = [root / f"progress{k}" for k in range(2)]
    writers = [subprocess.Popen([sys.executable, WRITER, dst / f"w{k}", str(k), progress[k]], stdout=subprocess.PIPE)
               for k in range(2)]
    reads = 0
    try:
        for n in range(ROUNDS or 6):
            before = [p.stat().st_size if p.exists() else 0 for p in progress]

            def all_wrote():
                assert all(w.poll() is None for w in writers), [w.stdout.read() for w in writers if w.poll()]
                return all(p.exists() and p.stat().st_size >= b + 20 for p, b in zip(progress, before))
            until(all_wrote, what=f"writers after kill {n}")
            old = inlay.worker_pids()
            kill(old)
            # Several deaths in a row make the keeper give up; the command always mounts.
            until(lambda: inlay.worker_pids() != old, what="the worker's end")
            inlay("mount", dst)

            def shows():
                # What asks the dead worker before the keeper knows of its death gets ENOTCONN or ECONNABORTED.
                with contextlib.suppress(OSError):
                    return mounts_below(dst) and os.listdir(dst / "synced")
            until(shows, what="the mount")
            for name, data in expect.items():
                reads += 1
                assert (dst / "synced" / name).read_bytes() == data
    finally:
        for w in writers:
            w.terminate()
    for w in writers:
        out, _ = w.communicate(timeout=PATIENCE)
        assert w.returncode == 0, out.decode()
    assert inlay("fsck", dst).code == 0


@contextlib.contextmanager
def disk(root, size):
    """A state directory on an ext4 of its own."""
    image, where = root / "image", root / "disk"
    subprocess.run(["truncate", "-s", size, image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", image], check=True)
    where.mkdir(exist_ok=True)

    def mount():
        r = subprocess.run(["mount", "-o", "loop", image, where], capture_output=True)
        if r.returncode:
            pytest.skip(f"no loop mount here: {r.stderr.decode().strip()}")

    def mount_copy():
        """The disk as it is now: elsewhere the old mount may live on, in somebody's mount namespace."""
        nonlocal image
        old, image = image, image.with_name(image.name + "+")
        subprocess.run(["cp", "--sparse=always", old, image], check=True)
        old.unlink()
        if len(image.name) > 200:
            image = image.rename(root / "image")
        mount()
    mount()
    try:
        yield where, mount_copy
    finally:
        end_below(root)
        subprocess.run(["umount", "-l", where], stderr=subprocess.DEVNULL)


def inlay_with(root, state):
    inlay = Inlay(root)
    inlay.state = state
    inlay.env["INLAY_STATE"] = str(state)
    return inlay


def synced_write(path, data):
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def cut_power(inlay, where, mount, dst):
    fd = os.open(where, os.O_RDONLY)
    fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 2))  # FS_IOC_SHUTDOWN without a flush
    os.close(fd)
    kill([*inlay.worker_pids(), inlay.keeper_pid()])
    for point in mounts_below(dst):
        subprocess.run(["umount", "-l", os.fsdecode(point)], check=True)
    until(lambda: subprocess.run(["umount", where], stderr=subprocess.DEVNULL).returncode == 0,
          what="the disk to be unmounted")
    mount()
    inlay("mount", dst)


@needs_loop
def test_power_cut(root, src):
    """After a power cut everything that was fsynced is there, and nothing is half of something."""
    write(src / "f", "synced\n")
    write(src / "big", os.urandom(200_000))
    with disk(root, "200M") as (where, mount):
        inlay = inlay_with(root, where / "state")
        dst = root / "dst"
        inlay.sync(src, dst)
        kept = {}
        for n in range(ROUNDS or 3):
            top = dst / f"round{n}"
            top.mkdir()
            for i in range(10):
                kept[f"round{n}/s{i}"] = os.urandom(1000 * (i + 1))
                synced_write(top / f"s{i}", kept[f"round{n}/s{i}"])
            # A rename-over, an append and a truncation of what was there; the last fsync covers them.
            synced_write(top / "temp", b"new bytes\n")
            os.rename(top / "temp", top / "s0")
            kept[f"round{n}/s0"] = b"new bytes\n"
            with open(dst / "f", "ab") as f:
                f.write(b"line %d\n" % n)
                f.flush()
                os.fsync(f.fileno())
            kept["f"] = (dst / "f").read_bytes()
            os.truncate(top / "s9", 5000)
            kept[f"round{n}/s9"] = kept[f"round{n}/s9"][:5000]
            fd = os.open(dst / "big", os.O_RDWR)
            os.pwrite(fd, b"%08d" % n, 100_000)
            os.fsync(fd)
            os.close(fd)
            kept["big"] = (dst / "big").read_bytes()
            fd = os.open(top / "s9", os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            sync_dir(top)
            write(top / "unsynced", os.urandom(50_000))  # may be there or not
            cut_power(inlay, where, mount, dst)
            for name, data in kept.items():
                assert (dst / name).read_bytes() == data, f"round {n}: {name}"
        assert inlay("fsck", dst).code == 0
        inlay("umount", dst)


@needs_loop
@pytest.mark.parametrize("killed", [False, True], ids=["", "after-a-kill"])
def test_power_cut_after_a_replacement(root, src, killed):
    """What was fsynced and then replaced is the old or the new one: the disk may know of the removal first."""
    write(src / "f", "synced\n")
    with disk(root, "200M") as (where, mount):
        inlay = inlay_with(root, where / "state")
        dst = root / "dst"
        inlay.sync(src, dst)
        synced_write(dst / "config", b"old\n")
        sync_dir(dst)
        upper = next((where / "state/host/ws").glob("*/upper"))
        old = {p.name for p in upper.iterdir()}
        synced_write(dst / "config.new", b"new\n")
        os.rename(dst / "config.new", dst / "config")
        if killed:
            kill(inlay.worker_pids())
        until(lambda: not old & {p.name for p in upper.iterdir()}, what="the old bytes to be removed")
        synced_write(where / "other", b"x")  # ext4 commits what it knows
        cut_power(inlay, where, mount, dst)
        assert (dst / "config").read_bytes() in (b"old\n", b"new\n")
        inlay("umount", dst)


@needs_loop
@pytest.mark.parametrize("how", ["rename", "truncate"])
def test_power_cut_after_an_unsynced_replacement(root, src, how):
    """As on ext4: somebody else's fsync does not make an empty file of what was fsynced and then replaced."""
    write(src / "f", "old\n")
    with disk(root, "200M") as (where, mount):
        inlay = inlay_with(root, where / "state")
        dst = root / "dst"
        inlay.sync(src, dst)
        synced_write(dst / "config", b"old\n")
        for name in ("config", "f"):
            if how == "rename":
                write(dst / f"{name}.new", "new\n")
                os.rename(dst / f"{name}.new", dst / name)
            else:
                write(dst / name, "new\n")
        synced_write(dst / "other", b"x")
        cut_power(inlay, where, mount, dst)
        for name in ("config", "f"):
            assert (dst / name).read_bytes() in (b"old\n", b"new\n"), name
        inlay("umount", dst)


@needs_loop
def test_full_disk(root, src):
    """A full disk is ENOSPC for the writer, and harms nothing else."""
    write(src / "f", "synced\n")
    write(src / "d/g", os.urandom(300_000))
    with disk(root, "48M") as (where, mount):
        inlay = inlay_with(root, where / "state")
        dst = root / "dst"
        inlay.sync(src, dst)
        write(dst / "mine", "mine\n")
        worker = inlay.worker_pids()
        for round in range(2):
            count, code = 0, None
            with open(dst / f"filler{round}", "wb", buffering=0) as f:
                try:
                    while count < 100_000_000:
                        count += f.write(b"x" * 100_000)
                except OSError as e:
                    code = e.errno
            assert code == errno.ENOSPC and count > 5_000_000
            assert os.stat(dst / f"filler{round}").st_size == count
            # Names come to an end, too, and then a change of a synced file.
            failed = 0
            for i in range(20000):
                try:
                    os.mkdir(dst / f"dir{round}-{i}")
                except OSError as e:
                    assert e.errno == errno.ENOSPC
                    failed += 1
                    break
            with pytest.raises(OSError) as e, open(dst / "d/g", "r+b", buffering=0) as f:
                while True:
                    f.seek(0, os.SEEK_END)
                    f.write(b"y" * 1_000_000)
            assert e.value.errno == errno.ENOSPC
            assert (dst / "f").read_text() == "synced\n" and (dst / "mine").read_text() == "mine\n"
            assert (dst / "d/g").read_bytes()[:300_000] == (src / "d/g").read_bytes()
            # Removing needs no space.
            os.unlink(dst / f"filler{round}")
            # ... and gives what was removed at once.
            write(dst / "again", "there is room again\n" * 200_000)
            os.unlink(dst / "again")
            for name in os.listdir(dst):
                if name.startswith(f"dir{round}-"):
                    os.rmdir(dst / name)
            if (dst / "d/g").stat().st_size != 300_000:
                os.truncate(dst / "d/g", 300_000)
            write(dst / "again", "there is room again\n")
            assert (dst / "again").read_text() == "there is room again\n"
        assert inlay.worker_pids() == worker
        write(src / "f", "synced again\n")
        inlay.sync(src, dst)
        assert (dst / "f").read_text() == "synced again\n"
        before = tree(dst)
        inlay("umount", dst)
        inlay("mount", dst)
        assert tree(dst) == before
        assert inlay("fsck", dst).code == 0
        inlay("umount", dst)


def test_objects_are_never_changed(inlay, root, src):
    """Whatever is done to a synced file through the mount, the store's objects stay as they are."""
    write(src / "big", os.urandom(3_000_000))
    write(src / "small", os.urandom(3000))
    dst = root / "dst"
    inlay.sync(src, dst)
    store = {p: p.read_bytes() for p in (root / "state/host/store").rglob("*") if p.is_file()}
    for name in ("big", "small"):
        with open(dst / name, "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
            m[0:10] = b"0123456789"
            m.flush()
            os.pwrite(f.fileno(), b"x" * 5000, 1000)
            os.posix_fallocate(f.fileno(), 0, 4_000_000)
            os.ftruncate(f.fileno(), 5000)
        os.truncate(dst / name, 0)
        os.link(dst / name, dst / f"{name}-link")
        write(dst / f"{name}-link", "other\n")
        os.rename(dst / name, dst / f"{name}-moved")
        os.unlink(dst / f"{name}-moved")
    for path, data in store.items():
        assert path.read_bytes()[:len(data)] == data, path
    assert inlay("fsck", dst).code == 0
    inlay("reset", dst, "--all")
    assert tree(dst) == tree(src)
