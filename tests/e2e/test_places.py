# SPDX-License-Identifier: Apache-2.0
"""Where inlay runs: as an ordinary user, at boot, on another architecture; and names of every kind."""
import os
import shutil
import subprocess

import pytest

from conftest import BUILD, INLAY, INLAYD, Inlay, mounts_below, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")


def needs_root():
    if os.geteuid() != 0:
        pytest.skip("needs root")


def as_nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


USER_STORY = r"""
# /dev/fuse is for everybody on an ordinary system; here it may be root's.
mknod "$ROOT/fuse" c 10 229
chmod 666 "$ROOT/fuse"
mount --bind "$ROOT/fuse" /dev/fuse
nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups -- "$@"; }
nobody "$1" sync "$2" "$3" >&2
nobody cat "$3/f"
ls "$3" 2>&1 | grep -o "Permission denied"
echo y >"$2/g"
nobody "$1" sync "$2" "$3" >&2
nobody cat "$3/g"
nobody "$1" status "$3" | grep -o "for its owner only"
pkill -KILL -f "inlayd mount --workspace $ROOT"
for i in $(seq 200); do [ "$(nobody cat "$3/g" 2>/dev/null)" = y ] && break; sleep 0.02; done
nobody cat "$3/g"
nobody "$1" umount "$3" >&2
nobody ls "$3" | wc -l
"""


def test_ordinary_user(root, src):
    """Through fusermount3; nobody else may enter, not even root: that is the kernel's rule for such a mount."""
    needs_root()
    if not shutil.which("fusermount3"):
        pytest.skip("needs fusermount3")
    inlay = Inlay(root)
    write(src / "f", "x\n")
    for path in (root, root / "home", src):
        os.chown(path, 65534, 65534)
    r = in_namespace(USER_STORY, INLAY, src, root / "dst", env=dict(inlay.env, ROOT=str(root)))
    assert r.stdout.split("\n") == ["x", "Permission denied", "y", "for its owner only", "y", "0", ""], r.stderr


def run_as_nobody(*args):
    return subprocess.run(args, preexec_fn=as_nobody, capture_output=True, text=True)


def test_everybody_may_enter_a_mount_of_root(inlay, root, src):
    needs_root()
    write(src / "f", "x\n")
    os.chmod(write(src / "secret", "x\n"), 0o600)
    inlay.sync(src, root / "dst")
    assert run_as_nobody("cat", root / "dst/f").stdout == "x\n"
    r = run_as_nobody("cat", root / "dst/secret")
    assert r.returncode != 0 and "Permission denied" in r.stderr
    options = [line.split()[3] for line in open("/proc/self/mounts") if str(root / "dst") in line][0]
    for o in ("nosuid", "nodev", "default_permissions", "allow_other"):
        assert o in options.split(",")


def in_namespace(script, *args, env):
    """Runs a shell script with mounts of its own."""
    return subprocess.run(["unshare", "-m", "sh", "-ec", script, "sh", *args], env=env, capture_output=True,
                          text=True)


def test_boot_by_systemd(inlay, root, src):
    """The unit is written, enabled, names a command that works, and goes with the last mount."""
    needs_root()
    write(src / "f", "x\n")
    script = """
        mkdir -p /run/systemd /etc/systemd/system
        mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system
        mount -t tmpfs tmpfs /etc/systemd/system
        PATH=/usr/bin:/bin
        "$1" sync --boot "$2" "$3" >&2
        cd /etc/systemd/system
        echo "links: $(ls multi-user.target.wants)"
        sed -n s/ExecStart=//p inlay-*.service
        "$1" umount "$3" >&2
        echo "left: $(find . -name 'inlay*' | wc -l)"
    """
    r = in_namespace(script, INLAY, src, root / "dst", env=inlay.env)
    assert r.returncode == 0, r.stderr
    links, command, left = r.stdout.splitlines()
    assert links.startswith("links: inlay-") and left == "left: 0"
    inlay.end()
    inlay("mount", root / "dst")
    inlay.end()
    keeper = subprocess.Popen(["sh", "-c", "exec " + command])
    try:
        until(lambda: mounts_below(root / "dst") and os.listdir(root / "dst"), what="the mount")
    finally:
        keeper.terminate()
        keeper.wait()


def test_no_boot_says_so(inlay, root, src):
    """Without systemd and cron the sync goes through, and says that nothing mounts it at boot."""
    needs_root()
    write(src / "f", "x\n")
    script = """
        if [ -d /run/systemd ]; then mount -t tmpfs tmpfs /run/systemd; fi
        PATH=/nonexistent "$1" sync --boot "$2" "$3"
    """
    r = in_namespace(script, INLAY, src, root / "dst", env=inlay.env)
    assert r.returncode == 0 and "neither systemd nor cron" in r.stderr, r.stderr


def test_arm64_agent_serves(inlay, root, src):
    """The cross-built binary, run by qemu: store, keeper and session (not the mount, which is the kernel's)."""
    agent, qemu = BUILD / "inlayd-aarch64", shutil.which("qemu-aarch64-static")
    if not agent.exists() or not qemu:
        pytest.skip("needs inlayd-aarch64 (tests/cross-arm64) and qemu-aarch64-static")
    agents = root / "agents"
    agents.mkdir()
    # The name says x86_64, so that it is taken here; the keeper is started by the test.
    run = agents / INLAYD.name
    run.write_text(f'#!/bin/sh\nexec {qemu} {agent} "$@"\n')
    run.chmod(0o755)
    inlay.env["INLAY_AGENTS"] = str(agents)
    for i in range(30):
        write(src / f"d{i % 3}/f{i}", os.urandom(3000 * i))
    keeper = subprocess.Popen([qemu, agent, "keep", "--stay", "--state", inlay.state / "host"])
    try:
        until(lambda: (inlay.state / "host/keeper.sock").exists(), what="the keeper")
        first = inlay.sync(src, root / "dst", "--no-mount")
        assert first["changed"]
        write(src / "d0/f0", "changed")
        assert inlay.sync(src, root / "dst", "--no-mount")["modified"] == 1
        assert inlay("fsck").code == 0
    finally:
        keeper.terminate()
        keeper.wait()
    # The same bytes on the disk: the other architecture's keeper takes the store over.
    inlay.env["INLAY_AGENTS"] = str(BUILD)
    inlay("mount", root / "dst")
    assert tree(root / "dst") == tree(src)


def test_names_of_every_kind(inlay, root, src):
    names = [b"new\nline", b"tab\tquote'\"", b"\xff\xfe not utf-8", b"n" * 255, "nf\u0063\u0327".encode(),
             "nf\u00e7".encode(), b"-dash", b" blank ", b".hidden", b"back\\slash", b"\x1b[31mred"]
    for name in names:
        with open(os.fsencode(src) + b"/" + name, "wb") as f:
            f.write(name)
        os.makedirs(os.fsencode(src) + b"/dir " + name[:250])
    os.symlink(b"\xff target\n", os.fsencode(src) + b"/link")
    r = inlay("sync", "-i", src, root / "dst")
    assert "\x1b" not in r.out and "new\\nline" in r.out
    assert tree(root / "dst") == tree(src)
    names = {row["path"] if isinstance(row["path"], str) else "bytes"
             for row in inlay("diff", "--json", root / "dst").rows}
    assert "new\nline" in names and "bytes" in names


def test_deep_tree(inlay, root, src):
    """Deeper than a path may be long."""
    top = os.open(src, os.O_RDONLY)
    depth = 300
    for i in range(depth):
        os.mkdir(f"directory-{i:04}", dir_fd=top)
        below = os.open(f"directory-{i:04}", os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = below
    with open(os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=top), "w") as f:
        f.write("deep\n")
    os.close(top)
    inlay.sync(src, root / "dst")
    top = os.open(root / "dst", os.O_RDONLY)
    for i in range(depth):
        below = os.open(f"directory-{i:04}", os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = below
    with open(os.open("leaf", os.O_RDONLY, dir_fd=top)) as f:
        assert f.read() == "deep\n"
    os.close(top)
    subprocess.run(["rm", "-rf", src], check=True)


def test_modes_and_times(inlay, root, src):
    for mode in (0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1644, 0o000):
        path = write(src / f"m{mode:o}", "x")
        os.utime(path, ns=(1, 1_600_000_000_123_456_789 + mode))
        os.chmod(path, mode)
    os.utime(write(src / "old", "x"), ns=(1, -5_000_000_001))
    (src / "dir").mkdir()
    os.chmod(src / "dir", 0o1777)
    os.chmod(src, 0o750)
    inlay.sync(src, root / "dst")
    assert tree(root / "dst") == tree(src)
    assert os.stat(root / "dst").st_mode & 0o7777 == 0o750
    # An attribute alone: the same inode shows it.
    ino = os.stat(root / "dst/m644").st_ino
    os.chmod(src / "m644", 0o640)
    inlay.sync(src, root / "dst")
    assert os.stat(root / "dst/m644").st_mode & 0o7777 == 0o640
    assert os.stat(root / "dst/m644").st_ino == ino


def test_same_size_edits_are_seen(inlay, root, src):
    """In the same tick, and with the time put back."""
    path = write(src / "f", "aaaa")
    inlay.sync(src, root / "dst")
    st = os.stat(path)
    for text in ("bbbb", "cccc"):
        path.write_text(text)
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
        inlay.sync(src, root / "dst")
        assert (root / "dst/f").read_text() == text


def test_large_directory(inlay, root, src):
    for i in range(5000):
        (src / f"file-{i}").write_text(str(i))
    inlay.sync(src, root / "dst")
    assert tree(root / "dst") == tree(src)
    (src / "file-77").write_text("changed")
    (src / "file-78").unlink()
    r = inlay.sync(src, root / "dst")
    assert (r["modified"], r["removed"]) == (1, 1)
    assert tree(root / "dst") == tree(src)


def test_a_listing_goes_on_across_a_switch(inlay, root, src):
    """Every name that is in both generations comes exactly once."""
    for i in range(3000):
        (src / f"file-{i}").write_text("")
    inlay.sync(src, root / "dst")
    with os.scandir(root / "dst") as listing:
        seen = [next(listing).name for _ in range(100)]
        for i in range(0, 3000, 3):
            (src / f"file-{i}").unlink()
        for i in range(1000):
            (src / f"new-{i}").write_text("")
        inlay.sync(src, root / "dst")
        seen += [e.name for e in listing]
    kept = [f"file-{i}" for i in range(3000) if i % 3]
    assert len(seen) == len(set(seen))
    assert set(kept) <= set(seen)
