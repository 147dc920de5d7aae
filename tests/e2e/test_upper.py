# SPDX-License-Identifier: Apache-2.0
"""Writing through the mount: what is written stays, over syncs, rollbacks, remounts, kills and full disks."""
import contextlib
import errno
import os
import pathlib
import signal
import stat
import subprocess
import threading
import time

import pytest

from conftest import mounts_below, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")


def fill(src):
    write(src / "README.md", "hello\n")
    write(src / "src/main.c", "int main(void) { return 0; }\n")
    write(src / "src/deep/er/x.py", "print(1)\n" * 1000)
    write(src / "big.bin", os.urandom(300_000))
    (src / "empty").mkdir()
    os.symlink("src/main.c", src / "link")


def status(dst):
    return dict(line.split(": ", 1) for line in (dst / ".inlay/status").read_text().splitlines())


def kill_worker(dst):
    pid = int(status(dst)["pid"])
    os.kill(pid, signal.SIGKILL)

    def again():
        with contextlib.suppress(OSError, KeyError):
            return int(status(dst)["pid"]) != pid
    until(again, what="another worker")


def listing(top):
    """Everything that stat and the bytes say, by path."""
    found = {}
    for path, dirs, files in os.walk(top):
        for name in dirs + files:
            p = os.path.join(path, name)
            st = os.lstat(p)
            what = (os.readlink(p) if stat.S_ISLNK(st.st_mode) else
                    pathlib.Path(p).read_bytes() if stat.S_ISREG(st.st_mode) else None)
            found[os.path.relpath(p, top)] = (
                st.st_mode, st.st_nlink, st.st_size if what is not None else 0, st.st_mtime_ns, what)
    return found


@pytest.fixture
def dst(inlay, root, src):
    fill(src)
    inlay.sync(src, root / "dst")
    return root / "dst"


def change_all(dst):
    """A bit of everything."""
    with open(dst / "README.md", "a") as f:
        f.write("more\n")
    with open(dst / "big.bin", "r+b") as f:
        f.seek(100_000)
        f.write(b"changed")
    os.rename(dst / "src/deep", dst / "moved")
    write(dst / "moved/er/new.py", "new\n")
    os.unlink(dst / "link")
    os.symlink("nowhere", dst / "other-link")
    os.mkdir(dst / "empty/made")
    os.link(dst / "src/main.c", dst / "linked.c")
    os.chmod(dst / "src/main.c", 0o600)
    os.truncate(write(dst / "sparse", "x"), 1 << 20)
    os.mkfifo(dst / "fifo")
    os.utime(dst / "other-link", ns=(5, 7), follow_symlinks=False)
    write(dst / ("n" * 255), "long\n")


def test_what_is_written_is_there_and_the_source_is_not_touched(inlay, root, src, dst):
    before = tree(src)
    change_all(dst)
    assert tree(src) == before
    assert (dst / "README.md").read_text() == "hello\nmore\n"
    data = (dst / "big.bin").read_bytes()
    want = bytearray((src / "big.bin").read_bytes())
    want[100_000:100_007] = b"changed"
    assert data == bytes(want)
    assert sorted(os.listdir(dst)) == sorted(
        ["README.md", "big.bin", "empty", "fifo", "linked.c", "moved", "n" * 255, "other-link", "sparse", "src"])
    assert os.listdir(dst / "src") == ["main.c"]
    assert sorted(os.listdir(dst / "moved/er")) == ["new.py", "x.py"]
    st = os.stat(dst / "linked.c")
    assert st.st_nlink == 2 and st.st_ino == os.stat(dst / "src/main.c").st_ino
    assert st.st_mode & 0o777 == 0o600
    assert os.stat(dst / "sparse").st_blocks * 512 < 1 << 20
    assert os.stat(dst).st_nlink == 2 + 3 and os.stat(dst / "src").st_nlink == 2


def test_kill_and_remount_give_it_all_back(inlay, root, dst):
    change_all(dst)
    before = listing(dst)
    kill_worker(dst)
    assert listing(dst) == before
    inlay("umount", dst)
    inlay("mount", dst)
    assert listing(dst) == before


def test_upper_stays_over_syncs(inlay, root, src, dst):
    change_all(dst)
    kept = {p: v for p, v in listing(dst).items() if not p.startswith("empty")}
    write(src / "README.md", "from the source\n")
    (src / "link").unlink()
    write(src / "link", "no link now\n")
    write(src / "src/deep/er/x.py", "changed\n")
    write(src / "linked.c", "another\n")
    write(src / "added", "added\n")
    inlay.sync(src, dst)
    now = listing(dst)
    assert (dst / "added").read_text() == "added\n"
    # What was moved away stays away, and all that was written is as it was.
    assert not (dst / "src/deep").exists()
    for p, v in kept.items():
        if p != "src":
            assert now[p] == v, p
    assert "link" not in now


def test_directory_that_the_source_removes(inlay, root, src, dst):
    write(dst / "src/deep/mine", "mine\n")
    os.unlink(dst / "src/main.c")
    with open(dst / "src/deep/mine") as f:
        subprocess.run(["rm", "-r", src / "src"], check=True)
        inlay.sync(src, dst)
        assert f.read() == "mine\n"
    assert os.listdir(dst / "src") == ["deep"] and os.listdir(dst / "src/deep") == ["mine"]
    write(src / "src/deep/back", "back\n")
    inlay.sync(src, dst)
    assert sorted(os.listdir(dst / "src/deep")) == ["back", "mine"]
    os.unlink(dst / "src/deep/mine")
    os.unlink(dst / "src/deep/back")
    os.rmdir(dst / "src/deep")
    assert os.listdir(dst / "src") == []


def test_source_wins(inlay, root, src, dst):
    inlay("mount", "--upper", "source-wins", dst)
    change_all(dst)
    write(dst / "untouched", "mine\n")
    with open(dst / "README.md") as held:
        write(src / "README.md", "from the source\n")
        (src / "link").unlink()
        write(src / "link", "no link now\n")
        inlay.sync(src, dst)
        assert held.read() == "hello\nmore\n"
    assert (dst / "README.md").read_text() == "from the source\n"
    assert (dst / "link").read_text() == "no link now\n"
    assert (dst / "untouched").read_text() == "mine\n"
    assert (dst / "sparse").exists() and b"changed" in (dst / "big.bin").read_bytes()
    before = listing(dst)
    kill_worker(dst)
    assert listing(dst) == before


def test_source_wins_also_while_unmounted(inlay, root, src, dst):
    write(dst / "early", "mine\n")
    write(src / "early", "from the source\n")
    inlay.sync(src, dst)
    # That was under `keep`, so it is not made up for.
    inlay("mount", "--upper", "source-wins", dst)
    assert (dst / "early").read_text() == "mine\n"
    for name in ("README.md", "src/main.c", "untouched"):
        write(dst / name, "mine\n")
    os.makedirs(dst / "new/dir")
    write(dst / "new/dir/file", "mine\n")
    for round in range(2):
        inlay("umount", dst)
        write(src / "README.md", f"from the source {round}\n")
        write(src / "src/main.c", f"from the source {round}\n")
        (src / "new").mkdir(exist_ok=True)
        write(src / "new/dir", "not a directory\n")
        inlay.sync(src, dst, "--no-mount")
        for other in range(12 * round):  # more than the history has
            write(src / "other", f"{other}\n")
            inlay.sync(src, dst, "--no-mount")
        inlay("gc", "--grace", "0s", dst)
        inlay("mount", dst)
        assert (dst / "README.md").read_text() == f"from the source {round}\n"
        assert (dst / "src/main.c").read_text() == f"from the source {round}\n"
        assert (dst / "new/dir").read_text() == "not a directory\n"
        assert (dst / "early").read_text() == (dst / "untouched").read_text() == "mine\n"
        write(dst / "src/main.c", "mine again\n")
    # What was written over the generation shown stays, whatever became of the mount.
    inlay("umount", dst)
    inlay("mount", dst)
    kill_worker(dst)
    assert (dst / "src/main.c").read_text() == "mine again\n"


def test_policies_are_remembered(inlay, root, dst):
    inlay("mount", "--upper", "read-only", "--xattrs", "on", dst)
    assert status(dst)["upper"] == "read-only"
    with pytest.raises(OSError) as e:
        write(dst / "x", "x")
    assert e.value.errno == errno.EROFS
    inlay("umount", dst)
    inlay("mount", dst)
    assert status(dst)["upper"] == "read-only"
    inlay("mount", "--upper", "keep", dst)
    write(dst / "x", "x")
    os.setxattr(dst / "x", "user.a", b"1")
    kill_worker(dst)
    assert os.getxattr(dst / "x", "user.a") == b"1"


def test_capabilities_end_with_a_write(inlay, root, dst):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    inlay("mount", "--xattrs", "on", dst)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    for name in ("README.md", "made"):
        with open(dst / name, "a") as f:
            f.write("x")
        os.chmod(dst / name, 0o4755)
        os.setxattr(dst / name, "security.capability", capability)
        assert "security.capability" in os.listxattr(dst / name)
        # By somebody without the right to keep them.
        subprocess.run(["setpriv", "--bounding-set=-fsetid", "--inh-caps=-all", "sh", "-c", f"echo x >> {name}"],
                       cwd=dst, check=True)
        assert os.listxattr(dst / name) == []
        assert os.stat(dst / name).st_mode & 0o7777 == 0o755


def test_writes_do_not_ask_for_capabilities(inlay, root, dst):
    """The kernel would ask before each one."""
    inlay("mount", "--xattrs", "on", dst)
    with open(dst / "many", "wb", buffering=0) as f:
        before = int(status(dst)["requests"])
        for _ in range(200):
            f.write(b"x" * 4096)
        assert int(status(dst)["requests"]) - before < 250


def test_owners(inlay, root, src, dst):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.mkdir(dst / "shared")
    os.chmod(dst / "shared", 0o2777)
    os.chown(dst / "shared", 0, 1234)
    subprocess.run(["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c",
                    "echo mine > shared/file && echo more >> shared/file && mkdir shared/dir"], cwd=dst, check=True)
    st = os.stat(dst / "shared/file")
    assert (st.st_uid, st.st_gid) == (1000, 1234)
    st = os.stat(dst / "shared/dir")
    assert (st.st_uid, st.st_gid, st.st_mode & 0o2000) == (1000, 1234, 0o2000)
    kill_worker(dst)
    assert os.stat(dst / "shared/file").st_uid == 1000


def test_write_by_who_held_a_file_over_a_sync(inlay, root, src, dst):
    """As after a rename over the file: the writer has its own, nobody else sees it, nothing is lost of others."""
    with open(dst / "README.md", "r+") as held:
        write(src / "README.md", "new\n")
        inlay.sync(src, dst)
        held.write("HELLO")
        held.flush()
        held.seek(0)
        assert held.read() == "HELLO\n"
        assert os.fstat(held.fileno()).st_nlink == 0
        assert (dst / "README.md").read_text() == "new\n"
        assert status(dst)["orphans written"] == "1"


def test_unlinked_files_live_until_closed(inlay, root, dst):
    upper = next((root / "state/host/ws").iterdir()) / "upper"
    with open(dst / "file", "w+") as f:
        f.write("x" * 10000)
        f.flush()
        os.unlink(dst / "file")
        assert len(os.listdir(upper)) == 1
        f.write("y")
        f.seek(0)
        assert f.read() == "x" * 10000 + "y"
    until(lambda: os.listdir(upper) == [], what="the data file to go")


def test_objects_are_not_changed(inlay, root, dst):
    change_all(dst)
    subprocess.run(["sh", "-c", "for i in 1 2 3; do echo x >> big.bin; done; : > src/main.c"], cwd=dst, check=True)
    assert inlay("fsck", dst).code == 0


def test_gc_keeps_what_the_upper_needs(inlay, root, src, dst):
    os.rename(dst / "src", dst / "kept")
    os.rename(dst / "big.bin", dst / "kept.bin")
    want = listing(dst)
    subprocess.run(["rm", "-r", src / "src", src / "big.bin"], check=True)
    for i in range(12):
        write(src / "README.md", f"{i}\n")
        inlay.sync(src, dst)
    inlay("gc", "--grace", "0s", dst)
    inlay("umount", dst)
    inlay("gc", "--grace", "0s", dst)
    inlay("mount", dst)
    now = listing(dst)
    assert {p: v for p, v in now.items() if p.startswith("kept")} == {
        p: v for p, v in want.items() if p.startswith("kept")}


def test_large_directory_lists_right(inlay, root, src):
    for i in range(1500):
        write(src / f"d/s{i}", "")
    dst = root / "dst"
    inlay.sync(src, dst)
    names = {f"s{i}" for i in range(1500)}
    for i in range(3000):
        os.close(os.open(dst / f"d/u{i}", os.O_CREAT | os.O_WRONLY, 0o644))
        names.add(f"u{i}")
    for i in range(0, 1500, 3):
        os.unlink(dst / f"d/s{i}")
        names.discard(f"s{i}")
    found = os.listdir(dst / "d")
    assert len(found) == len(set(found)) and set(found) == names
    kill_worker(dst)
    found = os.listdir(dst / "d")
    assert len(found) == len(set(found)) and set(found) == names
    subprocess.run(["rm", "-r", dst / "d"], check=True)
    assert os.listdir(dst) == []


def test_directory_entries_while_removing(inlay, root, src):
    """A stream goes on over removals: nothing is lost and nothing comes twice."""
    for i in range(1200):
        write(src / f"d/{i}", "")
    dst = root / "dst"
    inlay.sync(src, dst)
    seen = []
    with os.scandir(dst / "d") as entries:
        for e in entries:
            seen.append(e.name)
            os.unlink(e.path)
    assert sorted(seen, key=int) == [str(i) for i in range(1200)]
    os.rmdir(dst / "d")


def test_torn_record_is_cut(inlay, root, dst):
    write(dst / "a", "1")
    write(dst / "b", "2")
    os.rename(dst / "a", dst / "c")
    inlay("umount", dst)
    journal = next((root / "state/host/ws").iterdir()) / "journal"
    size = journal.stat().st_size
    os.truncate(journal, size - 5)
    inlay("mount", dst)
    # The rename was the last record; without its end it was not made.
    assert (dst / "a").read_text() == "1" and (dst / "b").read_text() == "2"
    assert not (dst / "c").exists()
    write(dst / "d", "3")
    kill_worker(dst)
    assert (dst / "d").read_text() == "3"


def test_full_disk_harms_the_writer_alone(inlay, root, src):
    if os.geteuid() != 0:
        pytest.skip("needs root for a disk of its own")
    fill(src)
    disk = root / "state"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], check=True)
    dst = root / "dst"
    inlay.sync(src, dst)
    write(dst / "before", "before\n")
    with pytest.raises(OSError) as e:
        with open(dst / "fill", "wb", buffering=0) as f:
            while f.write(b"x" * 65536) == 65536:
                pass
            raise OSError(errno.ENOSPC, "short")
    assert e.value.errno == errno.ENOSPC
    assert (dst / "README.md").read_text() == "hello\n"
    assert (dst / "before").read_text() == "before\n"
    # What frees space always goes.
    for i in range(100):
        with contextlib.suppress(OSError):
            write(dst / f"more{i}", "x" * 5000)
    os.unlink(dst / "fill")

    def room():
        with contextlib.suppress(OSError):
            return write(dst / "after", "after\n")
    until(room, what="the kernel to forget the file")
    before = listing(dst)
    kill_worker(dst)
    assert listing(dst) == before


def test_fsync_waits_for_the_generation(inlay, root, src, dst):
    with open(dst / "x", "w") as f:
        f.write("x")
        f.flush()
        os.fsync(f.fileno())
    assert (dst / ".inlay/generation").read_text().split()[0] == "1"
    fd = os.open(dst, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def test_readers_and_writers_over_switches(inlay, root, src, dst):
    """4 readers with open files, 2 writers in the upper, many switches: nothing torn, changed or lost."""
    switches = int(os.environ.get("INLAY_SWITCHES", "12"))
    page = 50_000
    for i in range(8):
        write(src / f"shared/{i}", f"{0:08d}" * (page // 8))
    inlay.sync(src, dst)
    stop, wrong, lost = threading.Event(), [], {}

    def reader(n):
        try:
            while not stop.is_set():
                for i in range(8):
                    with open(dst / f"shared/{i}", "rb") as f:
                        first = f.read()
                        os.listdir(dst / "shared")
                        f.seek(0)
                        if f.read() != first or first != first[:8] * (page // 8):
                            wrong.append((n, i))
        except OSError as e:
            wrong.append(e)

    def writer(n):
        count = 0
        try:
            with open(dst / f"written-{n}", "ab", buffering=0) as f:
                while not stop.is_set():
                    f.write(f"{count:08d}\n".encode())
                    write(dst / f"w{n}/{count % 50}", f"{count}")
                    count += 1
        except OSError as e:
            wrong.append(e)
        lost[n] = count

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(4)]
    threads += [threading.Thread(target=writer, args=(n,)) for n in range(2)]
    for t in threads:
        t.start()
    try:
        for g in range(1, switches + 1):
            for i in range(8):
                write(src / f"shared/{i}", f"{g:08d}" * (page // 8))
            inlay.sync(src, dst)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not wrong, wrong[:5]
    for n in range(2):
        text = (dst / f"written-{n}").read_text().split()
        assert text == [f"{i:08d}" for i in range(lost[n])]
        for i in range(min(50, lost[n])):
            got = int((dst / f"w{n}/{i}").read_text())
            assert got == max(c for c in range(lost[n]) if c % 50 == i)


def test_acknowledged_writes_survive_kills(inlay, root, src, dst):
    """The worker is killed under a writer, again and again; what was answered is there after the remount."""
    kills = int(os.environ.get("INLAY_KILLS", "3"))
    done = []
    below = os.stat(root).st_dev
    stop = threading.Event()

    def writer():
        count = 0
        while not stop.is_set():
            try:
                name = dst / f"k{count}"
                fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
                try:
                    if os.fstat(fd).st_dev == below:
                        continue            # between two mounts: in the bare directory
                    os.write(fd, f"{count}".encode())
                    done.append(count)
                finally:
                    os.close(fd)
            except OSError:
                time.sleep(0.002)           # the mount is being made anew
            finally:
                count += 1

    t = threading.Thread(target=writer)
    t.start()
    try:
        for i in range(kills):
            goal = len(done) + 50
            until(lambda: len(done) > goal, what="writes")
            kill_worker(dst)
            if i % 4 == 3:
                # A worker that dies again and again at once is given up; asked for, it is tried anew.
                inlay("umount", "--lazy", dst)
                inlay("mount", dst)
    finally:
        stop.set()
        t.join()
    for count in done:
        assert (dst / f"k{count}").read_text() == f"{count}"
