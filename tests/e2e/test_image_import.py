# SPDX-License-Identifier: Apache-2.0
"""Archives become images or are refused with the entry named, and a refused one changes nothing."""
import gzip
import io
import json
import os
import pathlib
import shutil
import stat
import subprocess
import tarfile

import pytest

import archives
from archives import file, folder, hardlink, header, oci, oci_files, pax, symlink, tar
from conftest import INLAY, Inlay

CASES = list(archives.cases())


def bytes_of(path):
    return os.fsencode(path)


def look(top):
    """Everything below a directory without following links."""
    found = {}
    stack = [(os.open(top, os.O_RDONLY | os.O_DIRECTORY), "")]
    while stack:
        fd, at = stack.pop()
        for name in os.listdir(fd):
            path = at + name
            st = os.lstat(name, dir_fd=fd)
            if stat.S_ISLNK(st.st_mode):
                found[path] = "-> " + os.readlink(name, dir_fd=fd)
            elif stat.S_ISDIR(st.st_mode):
                found[path] = "dir"
                stack.append((os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd), path + "/"))
            else:
                assert stat.S_ISREG(st.st_mode), path
                f = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
                found[path] = (os.read(f, 1 << 20) if st.st_size < 1 << 20 else None, st)
                os.close(f)
        os.close(fd)
    return found


def compare(found, want):
    implied = {"/".join(p.split("/")[:i]) for p in want if p for i in range(1, p.count("/") + 1)}
    assert set(found) == {p for p in want if p} | implied
    for path, what in want.items():
        if not path:
            continue
        have = found[path]
        if isinstance(what, bytes):
            assert have[0] == what, path
        elif isinstance(what, str):
            assert have == what, path
        elif what[0] == "same":
            assert have[1].st_ino == found[what[1]][1].st_ino
        elif what[0] == "mtime":
            assert have[1].st_mtime_ns == what[1]
        else:
            assert have[1].st_size == what[1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One state directory for all cases, with an image in it."""
    root = tmp_path_factory.mktemp("images")
    inlay = Inlay(root)
    (root / "keep.tar").write_bytes(tar(file("kept", b"kept" * 20000)))
    inlay("image", "import", root / "keep.tar")
    return inlay


def store_of(inlay):
    """The refs, and which large objects there are."""
    store = inlay.state / "dev/images/store"
    return ({p.name: p.read_bytes() for p in (store / "refs").iterdir()}, sorted((store / "loose").glob("*/*")))


@pytest.fixture
def place(tmp_path):
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path], check=True)


@pytest.mark.parametrize("name,make,want", CASES, ids=[c[0] for c in CASES])
def test_case(bench, place, name, make, want):
    archive = place / "case.tar"
    archive.write_bytes(make())
    before = set(os.listdir(archive.parent))
    out = archive.parent / "out"
    if isinstance(want, tuple):
        for args in ([archive, out], [archive]):
            kept = store_of(bench)
            r = bench("image", "import", "--json", *args, code=None)
            assert r.code in (1, 7), (r.code, r.out, r.err)
            error = r.json["error"]["text"]
            assert "case.tar" in error
            for text in want[1]:
                assert text in error, error
            # Nothing was changed, and nothing is left behind.
            assert set(os.listdir(archive.parent)) == before
            assert store_of(bench) == kept
        return
    r = bench("image", "import", "--json", archive, out).json
    found = look(out)
    compare(found, want)
    for key, count in want.get("", {}).get("skipped", {}).items():
        assert r["skipped"][key] == count
    if not want.get(""):
        assert not any(r["skipped"].values())


def test_enough_cases():
    hostile = [c for c in CASES if isinstance(c[2], tuple)]
    assert len(hostile) >= 100 and len({c[0] for c in CASES}) == len(CASES)


def test_store_is_whole_after_all(bench, root):
    """What was refused left no damage: the image that was there can still be read."""
    bench("image", "inspect", "keep")
    (root / "again.tar").write_bytes(tar(file("kept", b"kept" * 20000)))
    assert bench("image", "import", "--json", "--name", "keep", root / "again.tar").json["changed"] is False


def test_metadata(inlay, root):
    """Owners, modes, times, attributes, links: all of it comes back."""
    cap = bytes.fromhex("0100000200200000000000000000000000000000")
    data = tar(
        folder("d", mode=0o1777, uid=5, gid=6, mtime=777),
        file("d/su", b"s", mode=0o4755, uid=0, gid=7),
        pax([("SCHILY.xattr.security.capability", cap), ("SCHILY.xattr.user.note", b"a\0b"),
             ("mtime", "12.000000003")]), file("ping", b"p", mode=0o755),
        hardlink("d/ping2", "ping"), symlink("l", "ping", uid=8, gid=9, mtime=888),
        folder("closed", mode=0o500, mtime=5), file("closed/x", mode=0o000))
    (root / "a.tar").write_bytes(data)
    r = inlay("image", "import", "--json", root / "a.tar", root / "out").json
    out = root / "out"
    assert r["links"] == 1
    if os.geteuid() != 0:
        pytest.skip("needs root")
    d, su, l = os.lstat(out / "d"), os.lstat(out / "d/su"), os.lstat(out / "l")
    assert (d.st_mode & 0o7777, d.st_uid, d.st_gid, d.st_mtime) == (0o1777, 5, 6, 777)
    assert (su.st_mode & 0o7777, su.st_uid, su.st_gid) == (0o4755, 0, 7)
    assert (l.st_uid, l.st_gid, l.st_mtime) == (8, 9, 888)
    assert os.getxattr(out / "ping", "security.capability") == cap
    assert os.lstat(out / "ping").st_mtime_ns == 12000000003
    assert os.lstat(out / "ping").st_ino == os.lstat(out / "d/ping2").st_ino
    assert os.lstat(out / "closed").st_mode & 0o777 == 0o500 and os.lstat(out / "closed").st_mtime == 5
    if r["xattrs_not_set"] == 0:
        assert os.getxattr(out / "ping", "user.note") == b"a\0b"


def test_oci_directory(inlay, root):
    """A layout as files; nothing in it is followed out of it."""
    layout = root / "layout"
    for name, data in oci_files([archives.GOOD], config={"Env": ["A=1"], "WorkingDir": "/w", "User": "robot",
                                                         "Entrypoint": ["/e"], "Cmd": ["c"]},
                                tag="robot:9", arch="arm64", variant="v8").items():
        (layout / name).parent.mkdir(parents=True, exist_ok=True)
        (layout / name).write_bytes(data)
    assert inlay("image", "import", "--json", layout).json["changed"]
    shown = inlay("image", "inspect", "--json", "robot:9").json
    assert shown["platform"] == "linux/arm64"
    assert shown["config"] == {"Env": ["A=1"], "WorkingDir": "/w", "User": "robot", "Entrypoint": ["/e"],
                               "Cmd": ["c"]}
    blob = next((layout / "blobs/sha256").iterdir())
    shutil.move(blob, root / "elsewhere")
    blob.symlink_to(root / "elsewhere")
    assert "blobs/sha256" in inlay("image", "import", layout, code=1).err


def test_platform_is_chosen(inlay, root):
    two = archives.merge_oci(oci_files([tar(file("amd"))], arch="amd64"),
                             oci_files([tar(file("arm"))], arch="arm64", variant="v8"))
    (root / "two.tar").write_bytes(archives.archive_of(two))
    for platform, name in (("linux/arm64", "arm"), ("linux/amd64", "amd"), ("aarch64", "arm")):
        inlay("image", "import", "--platform", platform, root / "two.tar", root / (platform.replace("/", "-")))
        assert os.listdir(root / platform.replace("/", "-")) == [name]
    assert "riscv64" in inlay("image", "import", "--platform", "riscv64", root / "two.tar", code=1).err
    # Without a word, the one for this machine.
    r = inlay("image", "import", "--json", root / "two.tar").json
    assert r["platform"] == {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[os.uname().machine]


def test_list_inspect_rm(inlay, root):
    (root / "a.tar").write_bytes(tar(file("a", b"a" * 100_000), file("shared", b"s" * 100_000)))
    (root / "b.tar").write_bytes(tar(file("b", b"b" * 100_000), file("shared", b"s" * 100_000)))
    assert inlay("image", "list").out == ""
    inlay("image", "import", "--name", "base", "--variant", "dev", "--platform", "linux/arm64", root / "a.tar")
    inlay("image", "import", "--name", "base", "--variant", "prod", "--platform", "linux/arm64", root / "b.tar")
    rows = inlay("image", "list", "--json").rows
    assert [(r["name"], r["variant"], r["platform"], r["entries"]) for r in rows] == [
        ("base", "dev", "linux/arm64", 3), ("base", "prod", "linux/arm64", 3)]
    assert "choose one" in inlay("image", "inspect", "base", code=1).err
    inlay("image", "inspect", "base", "--variant", "dev")
    freed = inlay("image", "rm", "--json", "base", "--variant", "dev").json["freed_bytes"]
    assert 100_000 <= freed < 150_000
    assert inlay("image", "import", "--json", "--name", "base", "--variant", "prod", "--platform", "linux/arm64",
                 root / "b.tar").json["changed"] is False
    inlay("image", "rm", "base")
    assert inlay("image", "list").out == ""
    inlay("image", "rm", "base", code=1)
    assert not list((inlay.state / "dev/images/store/loose").rglob("*/*"))


def test_new_version_is_a_generation(inlay, root):
    """Rebuilt alike is nothing new; changed is one more."""
    (root / "a.tar").write_bytes(oci([tar(file("a"))], tweak=lambda p: p["config"].update(created="2026-01-01")))
    first = inlay("image", "import", "--json", "--name", "x", root / "a.tar").json
    (root / "a.tar").write_bytes(oci([tar(file("a"))], tweak=lambda p: p["config"].update(created="2027-01-01")))
    again = inlay("image", "import", "--json", "--name", "x", root / "a.tar").json
    assert first["changed"] and not again["changed"] and again["manifest"] == first["manifest"]
    (root / "a.tar").write_bytes(oci([tar(file("a"))], config={"Env": ["A=1"]}))
    third = inlay("image", "import", "--json", "--name", "x", root / "a.tar").json
    assert third["changed"] and third["generation"] == first["generation"] + 1


def test_dir_is_not_overwritten(inlay, root):
    (root / "a.tar").write_bytes(tar(file("a")))
    (root / "full").mkdir()
    (root / "full/mine").write_text("mine")
    (root / "empty").mkdir()
    (root / "link").symlink_to("full")
    assert inlay("image", "import", root / "a.tar", root / "full", code=4).err
    assert os.listdir(root / "full") == ["mine"]
    inlay("image", "import", root / "a.tar", root / "link", code=4)
    inlay("image", "import", root / "a.tar", root / "empty")
    assert os.listdir(root / "empty") == ["a"]
    inlay("image", "import", root / "a.tar", root / "missing/dir", code=1)


def test_names_are_bytes_in_any_locale(inlay, root):
    (root / "a.tar").write_bytes(tar(pax([("path", archives.COMBINED)]), file("a", b"1"),
                                     pax([("path", archives.SPLIT)]), file("b", b"2")))
    for locale in ("C", "C.UTF-8", "POSIX"):
        inlay.env["LC_ALL"] = locale
        inlay("image", "import", root / "a.tar", root / locale)
        assert len(os.listdir(bytes_of(root / locale))) == 2


def test_like_tar(inlay, root):
    """A tar that tar made, with everything in it, unpacks to what tar unpacks."""
    src = root / "src"
    (src / "a/b").mkdir(parents=True)
    for i in range(1100):
        (src / "a" / f"f{i}").write_bytes(b"%d" % i * (i % 50))
    (src / "a/b/big").write_bytes(os.urandom(300_000))
    os.link(src / "a/f1", src / "a/b/l1")
    (src / "ln").symlink_to("a/b")
    with open(src / "holes", "wb") as f:
        f.seek(3 << 20)
        f.write(b"end")
    for kind in ("posix", "gnu"):
        for pack in ("--gzip", "--zstd"):
            archive = root / f"{kind}{pack}.tar"
            subprocess.run(["tar", "-C", src, "--sparse", f"--format={kind}", pack, "-cf", archive, "."], check=True)
            out = root / f"{kind}{pack}"
            inlay("image", "import", archive, out)
            assert subprocess.run(["diff", "-r", "--no-dereference", src, out]).returncode == 0
            assert os.lstat(out / "a/f1").st_ino == os.lstat(out / "a/b/l1").st_ino
            assert {n: v[1].st_mtime_ns for n, v in look(out).items() if isinstance(v, tuple)} == {
                n: (v[1].st_mtime_ns if kind == "posix" else v[1].st_mtime_ns // 10**9 * 10**9)
                for n, v in look(src).items() if isinstance(v, tuple)}


def test_not_more_memory_than_it_should(inlay, root):
    """Streaming: a large archive costs no more memory than a small one."""
    with gzip.open(root / "a.tar.gz", "wb", compresslevel=1) as f:
        for i in range(48):
            f.write(file(f"f{i}", os.urandom(1 << 16) * 16))
        f.write(bytes(1024))
    peak = subprocess.run(["/usr/bin/python3", "-c", "import resource, subprocess, sys; "
                           "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
                           "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)",
                           str(INLAY), "image", "import", str(root / "a.tar.gz")], env=inlay.env, check=True,
                          capture_output=True, text=True).stdout
    if b"asan" not in subprocess.run(["ldd", INLAY], capture_output=True).stdout:
        assert int(peak) < 32 << 10
