# SPDX-License-Identifier: Apache-2.0
"""Processes die, connections break, disks fill and rot: what was acknowledged stays, the next command cures."""
import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from conftest import PATIENCE, CutProxy, INLAYD, mounts_below, pids_with, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        until(lambda: not os.path.exists(f"/proc/{pid}/exe") or not readable(pid), what=f"{pid} to end")


def readable(pid):
    try:
        os.readlink(f"/proc/{pid}/exe")
        return True
    except OSError:
        return False


@pytest.fixture
def synced(inlay, root, src):
    for i in range(100):
        write(src / f"d{i % 5}/f{i}", f"file {i}\n" * (i + 1))
    inlay.sync(src, root / "dst")
    return root / "dst"


def is_mounted(path):
    try:
        os.listdir(path)
    except OSError:
        return False
    return bool(mounts_below(path))


def test_keeper_dies_and_readers_do_not_notice(inlay, src, synced):
    with open(synced / "d0/f0") as held:
        worker = inlay.worker_pids()
        kill([inlay.keeper_pid()])
        assert tree(synced) == tree(src)
        write(src / "d0/f0", "after\n")
        assert inlay.sync(src, synced)["changed"]
        assert inlay.worker_pids() == worker, "the new keeper took the worker over"
        assert tree(synced) == tree(src)
        assert held.read() == "file 0\n"


def test_worker_dies_and_is_replaced(inlay, src, synced):
    old = inlay.worker_pids()
    kill(old)
    until(lambda: inlay.worker_pids() not in ([], old) and is_mounted(synced), what="a new worker")
    assert tree(synced) == tree(src)
    assert len(mounts_below(synced)) == 1
    write(src / "d0/f0", "after\n")
    inlay.sync(src, synced)
    assert tree(synced) == tree(src)


@pytest.mark.parametrize("cure", ["mount", "sync"])
def test_keeper_and_worker_die(inlay, src, synced, cure):
    kill([inlay.keeper_pid(), *inlay.worker_pids()])
    with pytest.raises(OSError):
        os.listdir(synced)
    if cure == "mount":
        inlay("mount", synced)
    else:
        write(src / "d0/f0", "after\n")
        inlay.sync(src, synced)
    assert tree(synced) == tree(src)
    assert len(mounts_below(synced)) == 1


def test_reboot(inlay, src, synced):
    """What the boot unit runs brings every mount back."""
    kill([inlay.keeper_pid(), *inlay.worker_pids()])
    for point in mounts_below(synced):
        subprocess.run(["umount", "-l", point], check=True)
    keeper = subprocess.Popen([INLAYD, "keep", "--state", inlay.state / "host"])
    try:
        until(lambda: is_mounted(synced), what="the mount")
        assert tree(synced) == tree(src)
    finally:
        keeper.terminate()
        keeper.wait()


def test_unmounted_by_somebody(inlay, src, synced):
    subprocess.run(["umount", synced], check=True)
    until(lambda: not inlay.worker_pids(), what="the worker to end")
    assert inlay("status", "--json", synced).json["mounted"] is False
    inlay.sync(src, synced)
    assert tree(synced) == tree(src)


def test_umount_of_a_busy_mount(inlay, synced):
    with open(synced / "d0/f0") as held:
        r = inlay("umount", synced, code=1)
        assert "busy" in r.err.lower() or "in use" in r.err
        assert is_mounted(synced)
        inlay("umount", "-l", synced)
        assert not mounts_below(synced)
        assert held.read() == "file 0\n"


@pytest.mark.parametrize("victim", ["sender", "serve", "keeper", "worker"])
def test_killed_at_any_moment(inlay, src, synced, victim):
    """The next sync cures it; nothing mixed is ever shown."""
    rnd = random.Random(victim)
    for n in range(12):
        for i in range(20):
            write(src / f"d{i % 5}/f{rnd.randrange(100)}", os.urandom(rnd.randrange(50_000)))
        sender = inlay.start("sync", src, synced)
        time.sleep(rnd.random() * 0.06)  # the moment is the point of this test
        if victim == "sender":
            kill([sender.pid])
        elif victim == "serve":
            kill(pids_with(f"serve --state {inlay.state}/host"))
        elif victim == "keeper":
            kill([p for p in [inlay.keeper_pid()] if p])
        else:
            kill(inlay.worker_pids())
        sender.communicate(timeout=PATIENCE)
        inlay.sync(src, synced)
        assert tree(synced) == tree(src), f"round {n}"


def test_cut_connection_resumes(remote, sshd, src):
    """What arrived before the cut is not sent again."""
    for i in range(300):
        write(src / f"f{i}", os.urandom(100_000))
    size, in_flight = 30_000_000, 5_000_000
    proxy = CutProxy(sshd.port, None)
    sshd.write_config(port=proxy.port)
    remote("sync", src, "testhost:other/agent-is-there", "--exclude", "*")
    proxy.limit = proxy.up + size // 2
    r = remote("sync", src, "testhost:ws", code=5)
    assert "lost" in r.err or "connect" in r.err
    proxy.limit, proxy.up = None, 0
    result = remote.sync(src, "testhost:ws")
    assert tree(sshd.home / "ws") == tree(src)
    assert result["sent_bytes"] < size / 2 + in_flight, result
    proxy.close()


def loop_fs(root, mib):
    """A small ext4 of its own; unmounted with the test's directory."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a loop device")
    image, point = root / "image", root / "small"
    point.mkdir()
    subprocess.run(["truncate", "-s", f"{mib}M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    return point


def test_target_full(inlay, root, src):
    """A clean error, the old generation is served, and after there is space the sync goes through."""
    point = loop_fs(root, 24)
    inlay.state = point / "state"
    inlay.env["INLAY_STATE"] = str(inlay.state)
    write(src / "a", "first\n")
    dst = root / "dst"
    inlay.sync(src, dst)
    write(src / "large", os.urandom(60_000_000))
    write(src / "a", "second\n")
    r = inlay("sync", src, dst, code=7)
    assert "No space left" in r.err
    assert tree(dst) == {b"a": tree(dst)[b"a"]} and (dst / "a").read_text() == "first\n"
    (src / "large").unlink()
    write(src / "b", os.urandom(1_000_000))
    inlay.sync(src, dst)
    assert tree(dst) == tree(src)
    assert inlay("fsck").code == 0


def test_quota(inlay, root, src):
    """A host's store can be limited; what is over it is refused as on a full disk."""
    write(inlay.state / "host/quota", "4M\n")
    write(src / "a", "first\n")
    dst = root / "dst"
    inlay.sync(src, dst)
    write(src / "large", os.urandom(6_000_000))
    r = inlay("sync", src, dst, code=7)
    assert "quota of 4194304 bytes" in r.err
    assert (dst / "a").read_text() == "first\n" and not (dst / "large").exists()
    write(src / "large", os.urandom(1_000_000))
    inlay.sync(src, dst)
    assert tree(dst) == tree(src)


def test_file_that_never_rests(inlay, root, src):
    """It is read again, then named; nothing torn is ever shown."""
    path = write(src / "busy", b"0" * 3_000_000)
    write(src / "good", "x")
    stop = threading.Event()

    def rewrite():
        n = 0
        while not stop.is_set():
            n += 1
            with open(path, "r+b") as f:
                f.write(bytes([48 + n % 10]) * 3_000_000)
    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        r = inlay("sync", src, root / "dst", code=None)
    finally:
        stop.set()
        writer.join()
    if r.code == 0:  # a moment of rest was found
        assert (root / "dst/good").exists()
    else:
        assert r.code == 1 and "busy changes all the time" in r.err, r.err
    inlay.sync(src, root / "dst")
    assert tree(root / "dst") == tree(src)


def flip(path, offset):
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)
        f.seek(offset)
        f.write(bytes([byte[0] ^ 1]))


def test_damaged_object(inlay, root, src):
    """EIO for that file only; the next sync sends it again."""
    write(src / "large", b"L" * 1_000_000)
    write(src / "small", b"needle in the pack " * 20)
    write(src / "good", "good\n")
    dst = root / "dst"
    inlay.sync(src, dst)
    store = inlay.state / "host/store"
    loose = [p for p in (store / "loose").rglob("*") if p.is_file()]
    assert len(loose) == 1
    flip(loose[0], 500_000)
    pack = next((store / "packs").iterdir())
    flip(pack, pack.read_bytes().index(b"needle in the pack") + 40)
    subprocess.run(["sync"], check=True)
    inlay("umount", dst)
    inlay("mount", dst)
    for name in ("large", "small"):
        with pytest.raises(OSError) as e:
            (dst / name).read_bytes()
        assert e.value.errno == 5
    assert (dst / "good").read_text() == "good\n"
    until(lambda: inlay("status", "--json", dst).json["damaged"] == 2, what="the damage to be known")
    inlay.sync(src, dst)
    assert tree(dst) == tree(src)
    assert inlay("status", "--json", dst).json["damaged"] == 0


def test_fsck_finds_what_nobody_read(inlay, root, src):
    write(src / "large", b"L" * 1_000_000)
    write(src / "dir/small", b"needle in the pack " * 20)
    dst = root / "dst"
    inlay.sync(src, dst)
    assert inlay("fsck").code == 0
    loose = [p for p in (inlay.state / "host/store/loose").rglob("*") if p.is_file()]
    flip(loose[0], 999_999)
    r = inlay("fsck", "--json", code=1)
    assert any(loose[0].name[:20] in row.get("finding", "") for row in r.rows), r.out
    assert inlay("status", "--json", dst).json["damaged"] == 1
    inlay.sync(src, dst)
    assert tree(dst) == tree(src)
    assert inlay("fsck").code == 0


def test_damaged_tree_is_sent_again(inlay, root, src):
    for i in range(20):
        write(src / f"dir/f{i}", f"{i}\n")
    dst = root / "dst"
    inlay.sync(src, dst)
    pack = next((inlay.state / "host/store/packs").iterdir())
    data = pack.read_bytes()
    at = -1
    while (at := data.find(b"iTRE", at + 1)) >= 0:
        flip(pack, at + 30)
    assert inlay("fsck", code=1).code == 1
    inlay.sync(src, dst)
    inlay("umount", dst)
    inlay("mount", dst)
    assert tree(dst) == tree(src)
    assert inlay("fsck").code == 0


def test_readers_during_switches(inlay, src, synced):
    """No torn file, no error, no mixture inside a file, while generations come and go."""
    stop, problems, reads = threading.Event(), [], [0]
    for i in range(100):
        write(src / f"d{i % 5}/f{i}", b"0" * 20_000)
    inlay.sync(src, synced)

    def read():
        rnd = random.Random()
        while not stop.is_set():
            i = rnd.randrange(100)
            try:
                data = (synced / f"d{i % 5}/f{i}").read_bytes()
                reads[0] += 1
                if len(set(data)) != 1 or len(data) != 20_000:
                    problems.append(f"f{i}: {len(data)} bytes, {set(data)}")
            except OSError as e:
                problems.append(f"f{i}: {e}")
    readers = [threading.Thread(target=read) for _ in range(4)]
    for t in readers:
        t.start()
    try:
        for generation in range(1, 30):
            for i in range(100):
                write(src / f"d{i % 5}/f{i}", bytes([48 + generation % 10]) * 20_000)
            inlay.sync(src, synced)
    finally:
        stop.set()
        for t in readers:
            t.join()
    assert not problems, problems[:5]
    assert reads[0] > 1000
