# SPDX-License-Identifier: Apache-2.0
"""What is in use while generations come and go: descriptors, maps, working directories, watches, binds."""
import ctypes
import mmap
import os
import select
import struct
import subprocess

import pytest

from conftest import mounts_below, pids_with, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def synced(inlay, root, src):
    for i in range(300):
        write(src / f"d{i % 6}/f{i}", f"file {i} of the first generation\n")
    inlay.sync(src, root / "dst")
    return root / "dst"


def status(mount):
    lines = (mount / ".inlay/status").read_text().splitlines()
    return {k: v for k, v in (line.split(": ", 1) for line in lines)}


def test_mapped_file_keeps_its_bytes(inlay, src, synced):
    with open(synced / "d0/f0", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        for n in range(3):
            write(src / "d0/f0", f"{n}\n")          # shorter: a mapping that followed would give SIGBUS
            inlay.sync(src, synced)
        (src / "d0/f0").unlink()
        inlay.sync(src, synced)
        assert bytes(m) == b"file 0 of the first generation\n"
    assert not (synced / "d0/f0").exists()


def test_working_directory_goes_on(inlay, src, synced):
    """A process that stands in a directory sees each generation there; its `..` is right."""
    p = subprocess.Popen(["sh", "-c", "while read name; do cat $name; cat ../d1/f1; done"], cwd=synced / "d0",
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for n in range(3):
        write(src / "d0/f0", f"{n}\n")
        write(src / f"d0/new{n}", f"new {n}\n")
        inlay.sync(src, synced)
        p.stdin.write(f"f0\nnew{n}\n")
        p.stdin.flush()
        assert [p.stdout.readline() for _ in range(4)] == [
            f"{n}\n", "file 1 of the first generation\n", f"new {n}\n", "file 1 of the first generation\n"]
    p.stdin.close()
    p.wait()
    p.stdout.close()


def test_a_process_in_a_directory_that_goes(inlay, src, synced):
    """It stands in a directory without a name, as after rmdir; the others are not disturbed."""
    p = subprocess.Popen(["cat"], cwd=synced / "d5", stdin=subprocess.PIPE)
    for f in list((src / "d5").iterdir()):
        f.unlink()
    (src / "d5").rmdir()
    inlay.sync(src, synced)
    assert not (synced / "d5").exists()
    assert tree(synced) == tree(src)
    write(src / "d5/again", "x")
    inlay.sync(src, synced)
    assert tree(synced) == tree(src)
    p.stdin.close()
    p.wait()


def test_watches_stay(inlay, src, synced):
    """An inotify watch on a directory of the mount outlives the switches: it is not ignored or unmounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    watch = libc.inotify_add_watch(fd, os.fsencode(synced / "d0"), 0x00000fff)
    assert watch > 0
    for n in range(3):
        write(src / "d0/f0", f"{n}\n")
        inlay.sync(src, synced)
    while select.select([fd], [], [], 0)[0]:
        data = os.read(fd, 65536)
        while data:
            _, mask, _, size = struct.unpack_from("iIII", data)
            assert not mask & 0x0000a000, "IN_UNMOUNT or IN_IGNORED"
            data = data[16 + size:]
    assert libc.inotify_rm_watch(fd, watch) == 0
    os.close(fd)


def test_binds_follow(inlay, root, src, synced):
    if os.geteuid() != 0:
        pytest.skip("needs root for a bind mount")
    bound = root / "bound"
    bound.mkdir()
    subprocess.run(["mount", "--bind", synced / "d2", bound], check=True)
    write(src / "d2/f2", "second\n")
    write(src / "d2/new", "new\n")
    inlay.sync(src, synced)
    assert tree(bound) == tree(src / "d2")
    subprocess.run(["umount", bound], check=True)


def test_exactly_what_changed_is_told(inlay, src, synced):
    """The kernel keeps all it knows but the names that changed: reading the rest costs no request."""
    for _ in range(2):                       # all names, attributes, listings and pages are known
        tree(synced)
    before = status(synced)
    write(src / "d0/f0", "changed\n")
    inlay.sync(src, synced)
    # The name and its directory; the files of .inlay.
    assert int(status(synced)["kernel notes"]) - int(before["kernel notes"]) <= 8
    tree(synced)
    # What they cost to be known again; and reading the status above. All 300 files would be 600 requests.
    assert int(status(synced)["requests"]) - int(before["requests"]) <= 30
    assert tree(synced) == tree(src)


def test_keeper_survives_the_session(remote, sshd, src):
    """Nothing of it belongs to the ssh session: not the process group, not a descriptor, not the parent."""
    write(src / "f", "x\n")
    remote.sync(src, "testhost:ws")
    keeper, = pids_with(f"keep --state {sshd.home}")
    worker, = pids_with(f"mount --workspace {sshd.home}")
    sshd.stop()
    until(lambda: not pids_with(f"sshd: {os.environ.get('USER', 'root')}@notty {sshd.port}"))
    for pid in (keeper, worker):
        stat = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        assert int(stat[3]) != os.getsid(0), "a session of its own"
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
            assert not path.startswith("pipe:") and "/ssh" not in path, path
    assert int(open(f"/proc/{keeper}/stat").read().rsplit(")", 1)[1].split()[1]) == 1
    assert (sshd.home / "ws/f").read_text() == "x\n"
    assert mounts_below(sshd.home)


def test_gc_keeps_what_is_in_use(inlay, src, synced):
    """Histories are bounded; what only an open file needs stays until it is closed."""
    first = os.urandom(300_000)
    write(src / "large", first)
    inlay.sync(src, synced)
    held = os.open(synced / "large", os.O_RDONLY)
    for n in range(12):
        write(src / "large", os.urandom(300_000))
        inlay.sync(src, synced)
    assert len(inlay("log", "--json", synced).rows) == 10
    freed = inlay("gc", "--json", "--grace", "0", synced).json
    assert freed["removed"] > 0 and freed["freed_bytes"] >= 300_000
    os.posix_fadvise(held, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(held, 400_000, 0) == first
    os.close(held)
    assert tree(synced) == tree(src)
    oldest = inlay("log", "--json", synced).rows[-1]["generation"]
    inlay("rollback", synced, str(oldest))
    assert inlay("fsck", synced).code == 0
