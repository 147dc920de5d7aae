# SPDX-License-Identifier: Apache-2.0
"""Over a real sshd and both transports: the agent installs itself, keys and host keys are respected, noise does no harm."""
import os
import shutil
import subprocess

import pytest

from conftest import Inlay, INLAYD, tree, write

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture(params=["openssh", "libssh2"])
def remote(root, sshd, request):
    """inlay against `testhost`, over each transport."""
    return Inlay(root, {"INLAY_SSH": sshd.ssh, "INLAY_TRANSPORT": request.param})


@pytest.fixture
def filled(src):
    for i in range(50):
        write(src / f"d{i % 7}/f{i}.c", f"int f{i};\n" * (i + 1))
    return src


def agents(sshd):
    return sorted(os.listdir(sshd.home / ".cache/inlay"))


def test_agent_installs_itself(remote, sshd, filled):
    target = f"testhost:{sshd.home}/ws"
    r = remote("sync", filled, target)
    assert "installing inlayd on testhost" in r.err
    assert tree(sshd.home / "ws") == tree(filled)
    assert len(agents(sshd)) == 1 and agents(sshd)[0].startswith("inlayd-")
    write(filled / "d0/f0.c", "int changed;\n")
    r = remote("sync", filled, target)
    assert "installing" not in r.err
    assert tree(sshd.home / "ws") == tree(filled)


def test_relative_target_is_below_home(remote, sshd, filled):
    assert remote.sync(filled, "testhost:a/ws")["path"] == f"{sshd.home}/a/ws"
    assert tree(sshd.home / "a/ws") == tree(filled)


def test_versions_live_side_by_side(remote, root, sshd, filled):
    remote.sync(filled, "testhost:ws")
    # Another build: the same program with some bytes behind its end.
    other = root / "other-agents"
    other.mkdir()
    shutil.copy(INLAYD, other)
    with open(other / INLAYD.name, "ab") as f:
        f.write(b"another build")
    second = Inlay(root, dict(INLAY_SSH=sshd.ssh, INLAY_TRANSPORT=remote.env["INLAY_TRANSPORT"]))
    second.env["INLAY_AGENTS"] = str(other)
    write(filled / "d0/f0.c", "int changed;\n")
    second.sync(filled, "testhost:ws")
    assert len(agents(sshd)) == 2
    assert tree(sshd.home / "ws") == tree(filled)
    assert remote.sync(filled, "testhost:ws")["changed"] is False


def test_noise_of_a_login_shell(remote, sshd, filled):
    sshd.rc.write_text('head -c 20000 /dev/urandom; echo "welcome to this host"\n')
    remote.sync(filled, "testhost:ws")
    assert tree(sshd.home / "ws") == tree(filled)


def test_too_much_noise_is_named(remote, sshd, filled):
    sshd.rc.write_text("yes 'motd' | head -c 200000\n")
    r = remote("sync", filled, "testhost:ws", code=None)
    assert r.code == 1 and "something else came first" in r.err


def test_wrong_host_key(remote, sshd, filled):
    sshd.write_config(known="other.pub")
    r = remote("sync", filled, "testhost:ws", code=5)
    assert "Host key verification failed" in r.err


def test_wrong_key(remote, sshd, filled):
    sshd.write_config(key="other")
    r = remote("sync", filled, "testhost:ws", code=5)
    assert "Permission denied" in r.err


def test_no_sshd(remote, sshd, filled):
    sshd.stop()
    r = remote("sync", filled, "testhost:ws", code=5)
    assert "Connection refused" in r.err


def test_no_ssh_program(remote, sshd, filled):
    remote.env["INLAY_SSH"] = "/nonexistent/ssh"
    r = remote("sync", filled, "testhost:ws", code=5)
    assert "/nonexistent/ssh" in r.err


def test_agent_cannot_run_there(remote, sshd, filled):
    cache = sshd.home / ".cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", cache], check=True)
    try:
        r = remote("sync", filled, "testhost:ws", code=1)
        assert "does not run" in r.err
    finally:
        subprocess.run(["umount", "-l", cache], check=True)


def test_history_over_ssh(remote, sshd, filled):
    remote.sync(filled, "testhost:ws")
    (filled / "d0/f0.c").unlink()
    remote.sync(filled, "testhost:ws")
    assert remote("rollback", "--json", "testhost:ws").json["generation"] == 3
    assert (sshd.home / "ws/d0/f0.c").exists()
    assert remote("status", "--json", "testhost:ws").json["mounted"] is True
    remote("umount", "testhost:ws")
    assert not os.listdir(sshd.home / "ws")
    remote("mount", "testhost:ws")
    assert (sshd.home / "ws/d0/f0.c").exists()
