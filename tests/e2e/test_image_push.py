# SPDX-License-Identifier: Apache-2.0
"""A base image goes to hosts: what is laid there is the image in everything, and only what is new travels."""
import os
import random
import shutil
import stat
import struct
import subprocess

import pytest

from archives import file, oci, tar
from conftest import CutProxy, Inlay, until, write

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
