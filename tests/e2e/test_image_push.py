# SPDX-License-Identifier: Apache-2.0
"""A base image goes to hosts: what is laid there is the image in everything, and only what is new travels."""
import hashlib
import os
import pathlib
import random
import shutil
import signal
import stat
import struct
import subprocess

import pytest

from archives import file, oci, tar
from conftest import BUILD, INLAY, INLAYD, CutProxy, Inlay, pids_with, until, write
from test_protocol import COMMIT, DATA, FAILED, HELLO, MAGIC, REQUEST, Peer, frame, hello, open_, xxhash

ROW, END = 21, 22

RND = random.Random(7)
# cap_net_raw=ep, as ping has it
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for owners and capabilities")


def noise(size):
    return RND.randbytes(size)


def make_base(top):
    """A small root filesystem with everything that is easily lost."""
    write(top / "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    write(top / "usr/bin/su", noise(30000))
    os.chown(top / "usr/bin/su", 0, 0)
    (top / "usr/bin/su").chmod(0o4755)
    write(top / "usr/bin/ping", noise(80000))
    os.setxattr(top / "usr/bin/ping", "security.capability", CAPABILITY)
    write(top / "usr/lib/libx.so.1.2.3", noise(300000))
    os.symlink("libx.so.1.2.3", top / "usr/lib/libx.so.1")
    os.lchown(top / "usr/lib/libx.so.1", 3, 4)
    write(top / "usr/lib/driver-a.so", noise(70000))
    for name in ("b", "c"):
        os.link(top / "usr/lib/driver-a.so", top / f"usr/lib/driver-{name}.so")
    os.symlink("usr/lib", top / "lib")
    write(top / "home/u/note", "for u alone\n")
    (top / "home/u/note").chmod(0o600)
    os.chown(top / "home/u/note", 1000, 1000)
    os.chown(top / "home/u", 1000, 1000)
    os.setxattr(top / "home/u/note", "user.colour", b"green")
    (top / "tmp").mkdir()
    (top / "tmp").chmod(0o1777)
    (top / "proc").mkdir(mode=0o555)
    write(top / "srv/read-only/file", "in a folder that nobody may write\n")
    (top / "srv/read-only").chmod(0o555)
    (top / "srv/locked").mkdir()
    write(top / "srv/locked/secret", "0000\n").chmod(0)
    write(top / "empty", "")
    for name, mode in (("twin-a", 0o640), ("twin-b", 0o755)):
        write(top / f"usr/share/{name}", "the same bytes\n").chmod(mode)
    (top / b"bytes-\xff".decode(errors="surrogateescape")).write_text("a name is bytes\n")
    for i in range(60):
        write(top / f"usr/share/doc/p{i}/copyright", f"Copyright {i}\n" + "text that is the same " * 40)
    for path in [p for p in top.rglob("*")]:
        os.utime(path, ns=(0, 1600000000_000000000 + hash(path.name) % 10**9), follow_symlinks=False)


def pack(top, out):
    subprocess.run(["tar", "-C", top, "--xattrs", "--xattrs-include=*", "--format=posix", "--sort=name", "-cf", out, "."],
                   check=True)
    return out


def look(top):
    """Everything of a tree: type, mode, owner, time, xattrs, content; and which names are one file."""
    found, files = {}, {}
    for at, dirs, names in os.walk(os.fsencode(top)):
        for name in dirs + names + ([b""] if at == os.fsencode(top) else []):
            path = os.path.join(at, name)
            st = os.lstat(path)
            rel = os.path.relpath(path, os.fsencode(top))
            xattrs = {} if stat.S_ISLNK(st.st_mode) else {n: os.getxattr(path, n) for n in sorted(os.listxattr(path))}
            what = os.readlink(path) if stat.S_ISLNK(st.st_mode) else None
            if stat.S_ISREG(st.st_mode):
                what = open(path, "rb").read()
                files.setdefault(st.st_ino, []).append(rel)
            found[rel] = (oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, xattrs, what)
    return found, sorted(sorted(names) for names in files.values())


def images_dir(root, local=False):
    return root / ("state/host/images" if local else "remote-home/.local/state/inlay/host/images")


def laid(root, manifest, local=False):
    return images_dir(root, local) / manifest / "root"


@pytest.fixture
def base(root):
    top = root / "base"
    top.mkdir()
    make_base(top)
    yield top
    subprocess.run(["rm", "-rf", top], check=True)


def bring(inlay, root, top, name="robot", n=[0]):
    """The folder as an image; gives its manifest."""
    n[0] += 1
    return inlay("image", "import", "--json", "--name", name, pack(top, root / f"{n[0]}.tar")).json["manifest"]


def push(inlay, *hosts, name="robot", args=(), **kw):
    rows = inlay("image", "push", "--json", *args, name, *(hosts or ("testhost",)), **kw).rows
    return rows[0] if len(rows) == 1 else rows


@needs_root
def test_all_of_it_arrives(root, remote, base):
    manifest = bring(remote, root, base)
    done = push(remote)
    assert done["manifest"] == manifest and done["changed"] and done["xattrs_not_set"] == 0
    assert look(laid(root, manifest)) == look(base)
    # No content is there twice: nothing is left of what came.
    assert sorted(os.listdir(images_dir(root))) == sorted([manifest, "store"])
    assert not list((images_dir(root) / "store/loose").rglob("*"))


@needs_root
def test_the_same_again_sends_nothing(root, remote, base):
    manifest = bring(remote, root, base)
    push(remote)
    again = push(remote)
    assert not again["changed"] and again["sent_bytes"] < 500
    # Built again with the same result: another archive, the same manifest.
    assert bring(remote, root, base) == manifest
    assert not push(remote)["changed"]


@needs_root
def test_an_upgrade_links_what_is_the_same_and_patches_the_rest(root, remote, base):
    first = bring(remote, root, base)
    size = push(remote)["sent_bytes"]
    before = look(laid(root, first))
    # The library gets another name and a few other bytes, a file another time alone, one goes, one comes, one link leaves.
    lib = (base / "usr/lib/libx.so.1.2.3").read_bytes()
    (base / "usr/lib/libx.so.1.2.3").unlink()
    write(base / "usr/lib/libx.so.1.2.4", lib[:150000] + b"new" + lib[150000:])
    su = base / "usr/bin/su"
    su.write_bytes(su.read_bytes()[:-10] + b"0123456789")
    su.chmod(0o4755)
    os.utime(base / "usr/share/doc/p7/copyright", ns=(0, 1700000000_000000000))
    shutil.rmtree(base / "usr/share/doc/p8")
    write(base / "usr/share/new", "new\n")
    (base / "usr/lib/driver-c.so").unlink()
    write(base / "usr/lib/driver-c.so", (base / "usr/lib/driver-a.so").read_bytes())
    second = bring(remote, root, base)
    done = push(remote)
    assert done["had_basis"] and done["ways"]["patched"]["objects"] == 2
    assert done["sent_bytes"] < 8000 < size
    assert look(laid(root, second)) == look(base)
    # The old tree is as it was, and what did not change is the same file.
    assert look(laid(root, first)) == before
    same = "usr/share/doc/p3/copyright"
    assert (laid(root, first) / same).stat().st_ino == (laid(root, second) / same).stat().st_ino
    for other in ("usr/share/doc/p7/copyright", "usr/bin/su", "usr/lib/driver-c.so"):
        assert (laid(root, first) / other).stat().st_ino != (laid(root, second) / other).stat().st_ino
    assert done["written_bytes"] < 450000


@needs_root
def test_another_dev_machine(root, remote, base):
    """It does not know what the host has: contents are asked for, and the host links from what is there."""
    bring(remote, root, base)
    push(remote)
    (root / "other").mkdir()
    other = Inlay(root / "other", {"INLAY_SSH": remote.env["INLAY_SSH"]})
    write(base / "usr/share/new", "new\n")
    manifest = bring(other, root, base)
    done = push(other)
    assert not done["had_basis"] and done["sent_objects"] == 1 and done["shared_files"] > 60
    assert look(laid(root, manifest)) == look(base)


@needs_root
def test_list_inspect_and_rm_on_a_host(root, remote, base):
    first = bring(remote, root, base)
    push(remote)
    write(base / "more", "x")
    second = bring(remote, root, base)
    push(remote)
    rows = remote("image", "list", "--json", "--on", "testhost").rows
    assert [(r["manifest"], r["newest"], r["whole"]) for r in rows] == [(second, True, True), (first, False, True)]
    assert "the one before" in remote("image", "list", "--on", "testhost").out
    assert remote("image", "inspect", "--json", "--on", "testhost", "robot").json["manifest"] == second
    assert (images_dir(root) / second / "image.json").read_bytes().startswith(b'{"config":')
    # A third one: the first has served its time.
    write(base / "more", "y")
    third = bring(remote, root, base)
    push(remote)
    remote("image", "list", "--on", "testhost")
    until(lambda: sorted(os.listdir(images_dir(root))) == sorted([second, third, "store"]), what="the oldest to go")
    # Nothing is taken away that somebody uses.
    mount = root / "lower"
    mount.mkdir()
    subprocess.run(["mount", "--bind", laid(root, second), mount], check=True)
    try:
        r = remote("image", "rm", "--on", "testhost", "robot", code=4)
        assert "in use" in r.err and (laid(root, second) / "more").exists()
    finally:
        subprocess.run(["umount", mount], check=True)
    assert remote("image", "rm", "--json", "--on", "testhost", "robot").json["removed"] == 1
    assert os.listdir(images_dir(root)) == ["store"]
    assert "no such image" in remote("image", "rm", "--on", "testhost", "robot", code=1).err


def test_another_architecture_is_refused(root, inlay):
    (root / "arm.tar").write_bytes(oci([tar(file("bin/x", b"x"))], arch="arm64"))
    inlay("image", "import", "--name", "robot", "--platform", "linux/arm64", root / "arm.tar")
    other = "linux/arm64" if os.uname().machine == "x86_64" else None
    if not other:
        pytest.skip("arm64 is right here")
    args = () if os.geteuid() == 0 else ("--owner", "squash")
    r = inlay("image", "push", *args, "robot", "local", code=4)
    assert "x86_64" in r.err and "linux/arm64" in r.err and "--emulate" in r.err
    assert not (images_dir(root, True) / ".incoming").exists()


@needs_root
def test_with_qemu_another_architecture_is_taken(root, inlay):
    """In namespaces of its own, where the handler is registered with the kernel."""
    if os.uname().machine != "x86_64":
        pytest.skip("arm64 is right here")
    (root / "arm.tar").write_bytes(oci([tar(file("bin/x", b"x"))], arch="arm64"))
    inlay("image", "import", "--name", "robot", "--platform", "linux/arm64", root / "arm.tar")
    magic = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    prepare = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc"
    register = f"printf '%s' ':qemu-aarch64:M::{magic}:{mask}:/bin/true:FLAGS' >/proc/sys/fs/binfmt_misc/register"

    def attempt(script, flag="--emulate"):
        return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec",
                               f"{script}; exec {INLAY} image push {flag} robot local"],
                              env=inlay.env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", prepare],
                      capture_output=True).returncode:
        pytest.skip("no binfmt_misc in a user namespace")
    # A keeper goes on in the namespaces that it was started in.
    for script, flag, code, word in ((prepare, "--emulate", 4, "qemu-user-static"),
                                     (f"{prepare}; {register.replace('FLAGS', '')}", "--emulate", 4, "flag F"),
                                     (f"{prepare}; {register.replace('FLAGS', 'F')}", "-v", 4, "--emulate"),
                                     (f"{prepare}; {register.replace('FLAGS', 'F')}", "--emulate", 0, "manifest")):
        r = attempt(script, flag)
        assert r.returncode == code and word in r.stderr + r.stdout, r
        subprocess.run([INLAYD, "stop", "--state", inlay.state / "host"], check=True)


# ---- what goes wrong ----

def noisy(top, files=60, size=100_000):
    for i in range(files):
        write(top / f"opt/n{i:03}", noise(size))


def incoming(root, local=False):
    path = images_dir(root, local) / ".incoming"
    return [p for p in path.iterdir() if len(p.name) == 64] if path.exists() else []


def served(home):
    return [p for p in pids_with(f"{home}/.cache/inlay") if b"\0serve" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]


@needs_root
def test_a_cut_push_goes_on_where_it_was(root, remote, sshd, base):
    bring(remote, root, base)
    push(remote)  # inlayd is there now
    noisy(base, 150)
    manifest = bring(remote, root, base)
    proxy = CutProxy(sshd.port, 10_000_000)
    sshd.write_config(port=proxy.port)
    r = remote("image", "push", "robot", "testhost", code=5)
    assert "lost" in r.err
    until(lambda: not served(root / "remote-home"), what="the host to see the end")
    came = incoming(root)
    proxy.limit, proxy.up = None, 0
    done = push(remote)
    proxy.close()
    # What was in flight (ssh's window and what is in pipes) is all that is sent twice.
    assert len(came) >= 50 and done["ways"]["whole"]["objects"] <= 150 - len(came)
    assert done["sent_bytes"] < 15_000_000 - 100_000 * len(came) + 100_000
    assert look(laid(root, manifest)) == look(base) and not incoming(root)


@needs_root
def test_a_keeper_that_dies_while_it_lays(root, inlay, base):
    first = bring(inlay, root, base)
    push(inlay, "local")
    before = look(laid(root, first, True))
    for i in range(3000):
        write(base / f"opt/{i % 50}/{i}", b"%d" % i)
    second = bring(inlay, root, base)
    p = inlay.start("image", "push", "--json", "robot", "local")
    laying = images_dir(root, True) / ".laying/root/opt"
    until(lambda: laying.exists() or p.poll() is not None, what="the tree to be laid")
    os.kill(inlay.keeper_pid(), signal.SIGKILL)
    out, err = p.communicate(timeout=60)
    assert p.returncode != 0 and b"lost" in out + err, (out, err)
    assert not laid(root, second, True).exists() and look(laid(root, first, True)) == before
    done = push(inlay, "local")
    assert done["sent_objects"] == 0 and done["changed"]
    assert look(laid(root, second, True)) == look(base)
    assert sorted(os.listdir(images_dir(root, True))) == sorted([first, second, "store"])


@needs_root
def test_killed_at_any_point(root, inlay, base):
    """The keeper dies again and again; a tree that has its name is whole, and in the end all is there."""
    wanted = {bring(inlay, root, base): look(base)}
    push(inlay, "local")
    noisy(base, 30, 200_000)
    manifest = bring(inlay, root, base)
    wanted[manifest] = look(base)
    for i in range(int(os.environ.get("INLAY_KILLS", 6))):
        p = inlay.start("image", "push", "--bwlimit", "8M", "robot", "local")
        goal = RND.randrange(30)
        until(lambda: len(incoming(root, True)) >= goal or p.poll() is not None, what="contents to come")
        pid = inlay.keeper_pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
        p.communicate(timeout=60)
        for name in os.listdir(images_dir(root, True)):
            if len(name) == 64:
                assert look(laid(root, name, True)) == wanted[name]
    push(inlay, "local")
    assert look(laid(root, manifest, True)) == wanted[manifest]


@needs_root
def test_what_came_before_a_power_cut_is_read_again(root, inlay, base):
    """Behind another boot a name in .incoming proves nothing."""
    bring(inlay, root, base)
    push(inlay, "local")
    noisy(base, 20)
    manifest = bring(inlay, root, base)
    p = inlay.start("image", "push", "--bwlimit", "1M", "robot", "local")
    came = until(lambda: len(incoming(root, True)) > 5 and incoming(root, True), what="contents to come")
    p.kill()
    p.communicate()
    (images_dir(root, True) / ".incoming/boot").write_text("another boot\n")
    came[0].write_bytes(came[0].read_bytes()[:-1])
    came[1].write_bytes(b"")
    push(inlay, "local")
    assert look(laid(root, manifest, True)) == look(base)


@needs_root
def test_a_full_disk(root, inlay, base):
    disk = root / "state/host"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", disk], check=True)
    first = bring(inlay, root, base)
    push(inlay, "local")
    before = look(laid(root, first, True))
    # It does not fit, and that is known before anything is sent.
    noisy(base, 50, 1_000_000)
    bring(inlay, root, base)
    r = inlay("image", "push", "robot", "local", code=7)
    assert "MB are missing" in r.err and "image rm" in r.err and not incoming(root, True)
    # It fits, but somebody else takes the space meanwhile: the disk is not left full.
    shutil.rmtree(base / "opt")
    noisy(base, 12, 1_000_000)
    manifest = bring(inlay, root, base)
    p = inlay.start("image", "push", "--bwlimit", "6M", "robot", "local")
    until(lambda: incoming(root, True), what="contents to come")
    with open(disk / "filler", "wb", buffering=0) as f:
        with pytest.raises(OSError):
            while True:
                f.write(bytes(1 << 16))
    out, err = p.communicate(timeout=60)
    assert p.returncode == 7, (out, err)
    assert look(laid(root, first, True)) == before
    until(lambda: not incoming(root, True), what="what came to go")
    (disk / "filler").unlink()
    push(inlay, "local")
    assert look(laid(root, manifest, True)) == look(base)


@needs_root
def test_a_damaged_old_content_costs_a_round(root, inlay, base):
    first = bring(inlay, root, base)
    push(inlay, "local")
    su = base / "usr/bin/su"
    su.write_bytes(su.read_bytes()[:-10] + b"0123456789")
    damaged = laid(root, first, True) / "usr/bin/su"
    damaged.write_bytes(b"X" + damaged.read_bytes()[1:])
    manifest = bring(inlay, root, base)
    done = push(inlay, "local")
    assert done["ways"]["whole"]["objects"] >= 1
    assert (laid(root, manifest, True) / "usr/bin/su").read_bytes() == su.read_bytes()


@needs_root
def test_many_hosts_at_once(root, remote, sshd, base):
    manifest = bring(remote, root, base)
    rows = push(remote, "testhost", "local", "no-such-host.invalid", code=3)
    by = {r["host"]: r for r in rows}
    assert by["testhost"]["exit"] == by["local"]["exit"] == 0 and by["no-such-host.invalid"]["exit"] == 5
    # Encoded once.
    assert by["testhost"]["shared_stream"] + by["local"]["shared_stream"] == 1
    assert look(laid(root, manifest)) == look(base) == look(laid(root, manifest, True))


@needs_root
def test_a_host_that_hangs_delays_no_other(root, remote, base):
    bring(remote, root, base)
    remote("image", "list", "--on", "testhost")
    remote("image", "list", "--on", "local")
    keeper = [p for p in pids_with(f"keep --state {root}/remote-home")][0]
    os.kill(keeper, signal.SIGSTOP)
    try:
        p = remote.start("image", "push", "robot", "testhost", "local")
        assert p.stdout.readline().startswith(b"local: robot")
        assert p.poll() is None
    finally:
        os.kill(keeper, signal.SIGCONT)
    out, err = p.communicate(timeout=60)
    assert out.startswith(b"testhost: robot") and p.returncode == 0, (out, err)


@needs_root
def test_one_push_at_a_time(root, inlay, base):
    bring(inlay, root, base)
    push(inlay, "local")
    noisy(base, 10)
    bring(inlay, root, base)
    p = inlay.start("image", "push", "--bwlimit", "100k", "robot", "local")
    until(lambda: incoming(root, True), what="the first to be under way")
    r = inlay("image", "push", "--lock-wait", "0", "robot", "local", code=6)
    assert f"pid {p.pid}" in r.err
    assert "robot" in inlay("image", "list", "--on", "local").out
    p.kill()
    p.communicate()
    push(inlay, "local")


def test_an_ordinary_user(root):
    """Owners cannot be kept: that is said, and done only when it is agreed to."""
    top = root / "user"
    top.mkdir()
    base = top / "base"
    write(base / "a/f", "x\n")
    (base / "a/f").chmod(0o640)
    write(base / "ro/f", "y\n")
    (base / "ro").chmod(0o555)
    write(base / "shut/f", "z\n")
    (base / "shut").chmod(0)
    inlay = Inlay(top)
    manifest = bring(inlay, top, base)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "65534:65534", top], check=True)
        become = {"user": 65534, "group": 65534, "extra_groups": []}
        agents = top / "agents"
        shutil.copytree(BUILD, agents, ignore=lambda d, names: [n for n in names if not n.startswith("inlayd-") or
                                                                n.endswith(".p")])
        inlay.env["INLAY_AGENTS"] = str(agents)
        program = shutil.copy(INLAY, top / "inlay")
    else:
        become, program = {}, INLAY

    def run(*args):
        return subprocess.run([program, *args], env=inlay.env, capture_output=True, text=True, cwd=top, **become)
    r = run("image", "push", "robot", "local")
    assert r.returncode == 4 and "--owner squash" in r.stderr
    r = run("image", "push", "--owner", "squash", "robot", "local")
    assert r.returncode == 0, r
    root_dir = laid(top, manifest, True)
    assert (root_dir / "ro/f").read_text() == "y\n" and stat.S_IMODE((root_dir / "a/f").stat().st_mode) == 0o640
    assert (root_dir / "a/f").stat().st_uid == top.stat().st_uid
    r = run("image", "rm", "--on", "local", "robot")
    assert r.returncode == 0 and not root_dir.exists(), r


# ---- a peer that keeps to no rule ----

def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def string(b):
    return varint(len(b)) + b


def zframe(data):
    """A zstd frame of raw blocks, without a compressor."""
    assert 256 <= len(data) + 256 < 65536
    data += b"\x03" * max(0, 256 - len(data))  # "end" items
    head = b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", len(data) - 256)
    return head + (1 | len(data) << 3).to_bytes(3, "little") + data


def record(name, mode, id_=bytes(32), size=0, ext=b""):
    return name, mode, id_, size, ext


def tree_id(*entries):
    """The id of a directory without subtrees in subtrees, as docs/format.md says."""
    rows = sorted(entries, key=lambda e: (xxhash.XXH3_64bits_withSeed(e[0], len(e[0]), 0), e[0]))
    records = heap = b""
    for name, mode, id_, size, ext in rows:
        h = xxhash.XXH3_64bits_withSeed(name, len(name), 0)
        records += id_ + struct.pack("<QqIIIHBB", size, 0, mode, len(heap), h >> 32, len(ext), len(name), 0)
        heap += name + ext
    dirs = sum(stat.S_ISDIR(e[1]) for e in entries)
    total = sum(e[3] for e in entries)
    header = b"iTRE" + bytes([1, 1, 0, 0]) + struct.pack("<IIQQII", len(rows), len(heap), len(rows), total, len(rows), dirs)
    return hashlib.sha256(header + records + heap).digest()


DIR_EXT = b"\x02" + struct.pack("<HIQQ", 20, 0, 0, 0)
VERB = {"PUSH": 24, "SPACE": 25, "FINISH": 26, "LIST": 21}


def request(verb, *args, body=b""):
    args = list(args) + [0] * (2 - len(args))
    return frame(REQUEST, bytes([VERB[verb], 0]) + varint(args[0]) + varint(args[1]) + string(body))


def push_body(manifest, origin=b"robot - linux/any", flags=1):
    return manifest + bytes(32) + bytes([flags]) + string(origin) + string(b"tester")


def blob(data):
    return b"\x01" + varint(len(data)) + data + b"\0"


def tree_item(*ops):
    body = b"\0" + varint(len(ops)) + b"".join(ops)
    return b"\x02" + varint(len(body)) + body


def op_file(name, number_ref, size, mode=0o644):
    return bytes([1]) + string(name) + number_ref + varint(size) + b"\0" + varint(mode)


def op_dir(name, number_ref, mode=0o755):
    return bytes([2]) + string(name) + number_ref + b"\0" + varint(mode)


def literal(id_):
    return b"\0" + id_


def sha(data):
    return hashlib.sha256(data).digest()


JSON = b'{"platform":"linux/any"}\n'
EMPTY = tree_id()
GOOD = tree_id(record(b"image.json", 0o100444, sha(JSON), len(JSON)), record(b"root", 0o040755, EMPTY, 0, DIR_EXT))
GOOD_STREAM = (blob(JSON) + tree_item() +
               tree_item(op_file(b"image.json", literal(sha(JSON)), len(JSON), 0o444), op_dir(b"root", varint(3))))
FILE_ROOT = tree_id(record(b"image.json", 0o100444, sha(JSON), len(JSON)), record(b"root", 0o100644, sha(JSON), len(JSON)))
WRONG_SIZE = tree_id(record(b"image.json", 0o100444, sha(JSON), len(JSON)), record(b"x", 0o100644, sha(JSON), 5),
                     record(b"root", 0o040755, EMPTY, 0, DIR_EXT))
BAD = {
    "finish without a push": lambda: [request("FINISH")],
    "space without a push": lambda: [request("SPACE", 1, 1)],
    "an origin that is none": lambda: [request("PUSH", body=push_body(GOOD, b"robot"))],
    "an origin with a path": lambda: [request("PUSH", body=push_body(GOOD, b"../../x - linux/any"))],
    "a push that is cut": lambda: [request("PUSH", body=push_body(GOOD)[:40])],
    "unknown flags": lambda: [request("PUSH", body=push_body(GOOD, flags=0x80))],
    "a second push": lambda: [request("PUSH", body=push_body(GOOD)), request("PUSH", body=push_body(GOOD))],
    "a workspace and a push": lambda: [open_("/tmp/inlay-never"), request("PUSH", body=push_body(GOOD))],
    "rubbish": lambda: [request("PUSH", body=push_body(GOOD)), frame(DATA, b"rubbish" * 99)],
    "a patch": lambda: [request("PUSH", body=push_body(GOOD)), frame(DATA, zframe(b"\x05" + bytes(64) + b"\1\0\0"))],
    "a COMMIT": lambda: [request("PUSH", body=push_body(GOOD)), frame(COMMIT, bytes(79))],
    "finish within a content": lambda: [request("PUSH", body=push_body(GOOD)),
                                        frame(DATA, zframe(b"\x01" + varint(60000))), request("FINISH")],
    "a name with a slash": lambda: [request("PUSH", body=push_body(GOOD)),
                                    frame(DATA, zframe(blob(b"x") + tree_item(op_file(b"../x", literal(sha(b"x")), 1))))],
    "a name that is ..": lambda: [request("PUSH", body=push_body(GOOD)),
                                  frame(DATA, zframe(blob(b"x") + tree_item(op_file(b"..", literal(sha(b"x")), 1))))],
    "a root that is a file": lambda: [
        request("PUSH", body=push_body(FILE_ROOT)),
        frame(DATA, zframe(blob(JSON) + tree_item(op_file(b"image.json", literal(sha(JSON)), len(JSON), 0o444),
                                                  op_file(b"root", literal(sha(JSON)), len(JSON))))), request("FINISH")],
    "no image at all": lambda: [request("PUSH", body=push_body(EMPTY)), frame(DATA, zframe(tree_item())),
                                request("FINISH")],
    "another size than the content has": lambda: [
        request("PUSH", body=push_body(WRONG_SIZE)),
        frame(DATA, zframe(blob(JSON) + tree_item() + tree_item(
            op_file(b"image.json", literal(sha(JSON)), len(JSON), 0o444), op_dir(b"root", literal(EMPTY)),
            op_file(b"x", literal(sha(JSON)), 5)))), request("FINISH")],
    "more than any disk has": lambda: [request("PUSH", body=push_body(GOOD)), request("SPACE", 1 << 60, 1)],
}


def good(inlay):
    return Peer(inlay).say(MAGIC, hello(), request("PUSH", body=push_body(GOOD)), frame(DATA, zframe(GOOD_STREAM)),
                           request("FINISH")).hear()


def test_what_is_bad_here_is_good_otherwise(inlay, root):
    frames = good(inlay)
    assert [kind for kind, _ in frames] == [HELLO, ROW, END, ROW, END] and frames[3][1][0] == 1, frames
    assert os.listdir(laid(root, GOOD.hex(), True)) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_peer_is_refused_with_a_reason(inlay, root, name):
    frames = Peer(inlay).say(MAGIC, hello(), *BAD[name]()).hear()
    assert frames[-1][0] == FAILED and len(frames[-1][1]) > 10, frames
    assert [n for n in os.listdir(images_dir(root, True)) if len(n) == 64] == []
    assert not (images_dir(root, True) / ".laying").exists()
    assert good(inlay)[-1][0] == END


def test_what_is_missing_is_named(inlay, root):
    frames = Peer(inlay).say(MAGIC, hello(), request("PUSH", body=push_body(GOOD)), request("FINISH")).hear()
    assert frames[-2][0] == ROW and frames[-2][1] == b"\x02" + GOOD
