# SPDX-License-Identifier: Apache-2.0
"""What programs may expect of a filesystem: the same checks on ext4, on kernel overlayfs and on the mount.

The checks are tests/posix/calls-*.c, one line of output each; the random storm is tests/posix/storm.c. What may differ is in
tests/posix/differences.txt.

INLAY_STORM_STEPS=200000 INLAY_STORM_SEEDS=8 makes the campaign of docs/reliability.md out of the storms.
"""
import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from conftest import BUILD

CALLS, STORM = BUILD / "tests/posix-calls", BUILD / "tests/posix-storm"
DIFFERENCES = pathlib.Path(__file__).resolve().parents[1] / "posix/differences.txt"

STEPS = int(os.environ.get("INLAY_STORM_STEPS", "10000"))
SEEDS = range(1, 1 + int(os.environ.get("INLAY_STORM_SEEDS", "2")))

pytestmark = pytest.mark.skipif(not CALLS.exists(), reason="needs the C programs of tests/posix")


def calls(where):
    """The lines of posix-calls, as {"SUBJECT CHECK": result}."""
    r = subprocess.run([CALLS, where], capture_output=True, timeout=280)
    assert r.returncode == 0, r.stderr.decode(errors="replace")[-2000:]
    lines = r.stdout.decode(errors="backslashreplace").splitlines()
    assert len(lines) > 1000
    return {" ".join(line.split(" ", 2)[:2]): line.split(" ", 2)[2] for line in lines}


def allowed(filesystem):
    names = set()
    for line in DIFFERENCES.read_text().splitlines():
        words = line.split()
        if words[:1] != [filesystem]:
            continue
        if words[1] in ("own", "given"):
            names.add(" ".join(words[1:3]))
        else:
            names |= {f"own {words[1]}", f"given {words[1]}"}
    return names


def assert_like(reference, results, filesystem):
    """The same results, but for the documented differences, of which each must be one."""
    may = allowed(filesystem)
    wrong = [f"{name}: {results.get(name)!r}, ext4 {reference.get(name)!r}"
             for name in sorted(set(reference) | set(results))
             if name not in may and results.get(name) != reference.get(name)]
    assert not wrong, f"{len(wrong)} results differ:\n" + "\n".join(wrong[:60])
    stale = [name for name in may if results.get(name) == reference.get(name)]
    assert not stale, f"differences.txt names what does not differ on {filesystem}: {stale}"


@contextlib.contextmanager
def ext4(size="300M"):
    """A directory on ext4: a loop mount as root, else what the temporary directory is."""
    top = pathlib.Path(tempfile.mkdtemp(prefix="inlay-posix-"))
    os.chmod(top, 0o755)
    mounted = False
    try:
        if os.geteuid() == 0 and shutil.which("mkfs.ext4"):
            image = top / "image"
            subprocess.run(["truncate", "-s", size, image], check=True)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256", image], check=True)
            (top / "disk").mkdir()
            mounted = subprocess.run(["mount", "-o", "loop", image, top / "disk"],
                                     stderr=subprocess.DEVNULL).returncode == 0
        (top / "disk").mkdir(exist_ok=True)
        yield top / "disk"
    finally:
        if mounted:
            subprocess.run(["umount", "-l", top / "disk"], check=False)
        shutil.rmtree(top, ignore_errors=True)


@contextlib.contextmanager
def overlayfs(disk, fill):
    """A kernel overlay whose lower layer `fill` makes."""
    if os.geteuid() != 0:
        pytest.skip("kernel overlayfs needs root")
    for name in ("lower", "upper", "work", "merged"):
        (disk / name).mkdir()
    fill(disk / "lower")
    r = subprocess.run(["mount", "-t", "overlay", "-o",
                        f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work,redirect_dir=on,index=on",
                        "overlay", disk / "merged"], capture_output=True)
    if r.returncode:
        pytest.skip(f"no kernel overlayfs here: {r.stderr.decode().strip()}")
    try:
        yield disk / "merged"
    finally:
        subprocess.run(["umount", "-l", disk / "merged"], check=False)


def fill_calls(where):
    subprocess.run([CALLS, "--fill", where], check=True)


@pytest.fixture(scope="module")
def reference():
    with ext4() as disk:
        fill_calls(disk)
        return calls(disk)


def test_calls_know_what_they_expect(reference):
    """What the program made itself and what it found are the same to ext4."""
    differ = [n for n in reference if n.startswith("own ") and reference[n] != reference["given " + n[4:]]]
    assert not differ
    assert reference["own open.excl.exists"] == "EEXIST" and reference["own unlink.open.nlink"] == "0"


def test_calls_on_overlayfs(reference):
    with ext4() as disk, overlayfs(disk, fill_calls) as merged:
        assert_like(reference, calls(merged), "overlayfs")


def storm(where, seed, steps):
    r = subprocess.run([STORM, where, str(seed), str(steps)], capture_output=True)
    assert r.returncode == 0, r.stderr.decode(errors="replace")[-6000:]
    assert os.listdir(where) == []


def test_storm_model_on_ext4():
    """The model agrees with ext4, so that what it finds elsewhere is not its own mistake."""
    with ext4() as disk:
        work = disk / "work"
        work.mkdir()
        subprocess.run([STORM, "--fill", work, "5"], check=True)
        storm(work, 5, STEPS)


# ---- the mount ----

@pytest.fixture
def mount(inlay, root, src):
    """A mount whose synced generation `fill` makes."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")

    def make(fill, *options):
        fill(src)
        inlay.sync(src, root / "dst", *options)
        return root / "dst"
    return make


def test_calls_on_the_mount(reference, mount):
    assert_like(reference, calls(mount(fill_calls, "--xattrs", "on")), "inlay")


@pytest.mark.timeout(300 + STEPS // 50)
@pytest.mark.parametrize("seed", SEEDS)
def test_storm_on_the_mount(inlay, mount, seed):
    where = mount(lambda src: subprocess.run([STORM, "--fill", src, str(seed)], check=True))
    storm(where, seed, STEPS)
    assert inlay("fsck", where).code == 0, "the store's objects are as they were"


def test_storm_between_switches(inlay, mount, root, src):
    """Generations come while the upper is changed: they touch nothing of it."""
    (src / "synced").mkdir()
    (src / "upper").mkdir()
    where = mount(lambda src: subprocess.run([STORM, "--fill", src / "upper", "3"], check=True))
    runner = subprocess.Popen([STORM, where / "upper", "3", str(STEPS)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE)
    generations = 0
    try:
        while runner.poll() is None:
            generations += 1
            (src / "synced/file").write_text(f"generation {generations}\n")
            (src / f"synced/new-{generations}").write_text("x")
            inlay.sync(src, where)
            assert (where / "synced/file").read_text() == f"generation {generations}\n"
    finally:
        runner.kill()
    errors = runner.stderr.read().decode(errors="replace")
    assert runner.wait() == 0, errors[-6000:]
    assert generations > 2
    assert os.listdir(where / "upper") == []
