# SPDX-License-Identifier: Apache-2.0
"""A newer inlayd comes to a host while an older one works there: the keeper changes, and nothing else."""
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading

import pytest

from conftest import INLAYD, Inlay, is_ours, pids_with, tree, until, write
from test_watch import Watch, filled

pytestmark = pytest.mark.usefixtures("fuse")


def version(text):
    """The program as another version of it: the same, but for what it says of itself."""
    ours = subprocess.run([INLAYD, "version"], capture_output=True, text=True, check=True).stdout.split()[1]
    data = INLAYD.read_bytes()
    old, new = (f"{v}\0".encode() for v in (ours, text))
    assert len(old) == len(new) and old in data
    return data.replace(old, new)


def put(agents, data):
    """As an installer does it."""
    new = agents / "new"
    new.write_bytes(data)
    new.chmod(0o755)
    new.rename(agents / INLAYD.name)


def keepers(sshd):
    return [p for p in pids_with(f"keep --state {sshd.home}") if is_ours(p)]


def workers(sshd):
    return pids_with(f"mount --workspace {sshd.home}")


def program(pid):
    return os.path.basename(os.readlink(f"/proc/{pid}/exe"))


class Reader:
    """Reads through the mount all the time; no read may fail or give anything but a whole content."""

    def __init__(self, path, allowed):
        self.path, self.allowed, self.bad, self.count, self.end = path, allowed, [], 0, False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.end and not self.bad:
            try:
                text = self.path.read_text()
                if text not in self.allowed:
                    self.bad.append(text)
            except OSError as e:
                self.bad.append(e)
            self.count += 1

    def stop(self):
        self.end = True
        self.thread.join()
        assert not self.bad and self.count > 0, self.bad


@pytest.fixture
def agents(root):
    path = root / "agents"
    path.mkdir()
    shutil.copy(INLAYD, path)
    return path


def sessions(sshd):
    out = subprocess.run(["pgrep", "-P", str(sshd.process.pid)], capture_output=True, text=True).stdout
    return [int(p) for p in out.split()]


def somebody_else(root, sshd):
    (root / "else").mkdir()
    return Inlay(root / "else", {"INLAY_SSH": sshd.ssh})


def cut(sshd):
    for pid in sessions(sshd):
        os.kill(pid, signal.SIGKILL)


def test_upgrade_under_a_watch(root, src, sshd, agents):
    filled(src)
    file, shown = src / "d0/f0.c", sshd.home / "ws/d0/f0.c"
    texts = [f"int version{i};\n" * 40 for i in range(4)]
    file.write_text(texts[0])
    remote = Inlay(root, {"INLAY_SSH": sshd.ssh})
    remote.env["INLAY_AGENTS"] = str(agents)
    w = Watch(remote, "--no-boot", src, "testhost:ws")
    reader = None
    try:
        w.visible()
        reader = Reader(shown, texts)
        [first], old_workers = keepers(sshd), workers(sshd)
        installed = program(first)

        # The connection breaks, and inlay was upgraded meanwhile.
        put(agents, version("9.9.9"))
        cut(sshd)
        file.write_text(texts[1])
        w.flush("--timeout", "100s")
        assert shown.read_text() == texts[1] and tree(sshd.home / "ws") == tree(src)
        [second] = keepers(sshd)
        assert second != first and program(second) != installed
        assert workers(sshd) == old_workers
        assert len(os.listdir(sshd.home / ".cache/inlay")) == 2

        # Somebody with the older one: served by the newer keeper, and both go on.
        elder = somebody_else(root, sshd)
        elder.sync(src, "testhost:ws2", "--no-boot")
        assert tree(sshd.home / "ws2") == tree(src) and keepers(sshd) == [second]
        file.write_text(texts[2])
        w.flush("--timeout", "100s")
        assert shown.read_text() == texts[2]
        assert w.rows()[0]["connections"] == 2

        # Back to the older inlay: the keeper stays the newer one.
        put(agents, INLAYD.read_bytes())
        cut(sshd)
        file.write_text(texts[3])
        w.flush("--timeout", "100s")
        assert shown.read_text() == texts[3] and keepers(sshd) == [second]
        assert remote("fsck", "testhost:ws").code == 0
    finally:
        if reader:
            reader.stop()
        assert w.end() == 0


def test_upgrade_by_somebody_else(root, src, sshd, agents):
    """The keeper goes under a watch that keeps its own version: it comes back by itself."""
    filled(src)
    remote = Inlay(root, {"INLAY_SSH": sshd.ssh})
    w = Watch(remote, "--no-boot", src, "testhost:ws")
    try:
        w.visible()
        [first], old_workers = keepers(sshd), workers(sshd)
        put(agents, version("9.9.9"))
        other = somebody_else(root, sshd)
        other.env["INLAY_AGENTS"] = str(agents)
        other.sync(src, "testhost:ws2", "--no-boot")
        until(lambda: w.rows()[0]["connections"] == 2)
        (src / "d0/f0.c").write_text("edit\n")
        w.flush("--timeout", "100s")
        assert tree(sshd.home / "ws") == tree(src)
        [second] = keepers(sshd)
        assert second != first and set(old_workers) < set(workers(sshd))
    finally:
        assert w.end() == 0


def test_a_keeper_that_is_too_new(inlay, src, root):
    """It speaks another protocol and is not pushed out by who is older."""
    write(src / "f", "text\n")
    inlay.sync(src, root / "dst", "--no-boot")
    subprocess.run([INLAYD, "stop", "--state", inlay.state / "host"], check=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.bind(str(inlay.state / "host/keeper.sock"))
        s.listen()
        asked = []

        def answer():
            fd, _ = s.accept()
            asked.append(struct.unpack_from("<II", fd.recv(256)))
            fd.send(struct.pack("<Ii", 9, -71))
            fd.close()
        t = threading.Thread(target=answer)
        t.start()
        write(src / "f", "other\n")
        r = inlay("sync", src, root / "dst", code=None)
        t.join()
    assert r.code != 0 and "of another inlay (its protocol 9" in r.err and "newer one" in r.err
    assert asked == [(1, 1)]
    assert (root / "dst/f").read_text() == "text\n"
    os.unlink(inlay.state / "host/keeper.sock")
    inlay.sync(src, root / "dst", "--no-boot")
    assert (root / "dst/f").read_text() == "other\n"
