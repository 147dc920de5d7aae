# SPDX-License-Identifier: Apache-2.0
"""How contents travel: against what both sides have, against what the target alone has, or whole; and what
happens when one side has lost it."""
import random
import shutil

import pytest

from conftest import Inlay, tree, write

pytestmark = pytest.mark.usefixtures("fuse")

MIB = 1 << 20


def noise(size, seed=1):
    """Bytes that do not compress, so that what travels shows what was found."""
    return random.Random(seed).randbytes(size)


def text(lines, seed=1):
    rnd = random.Random(seed)
    return b"".join(b"line %d of %x\n" % (i, rnd.getrandbits(200)) for i in range(lines))


def edited(data, at, by=b"edited"):
    return data[:at] + by + data[at + 3:]


def sent(result):
    """Objects by codec, without those that no file is."""
    return {c: v["objects"] for c, v in result["codecs"].items() if v["objects"] and c != "trees"}


@pytest.fixture
def synced(inlay, root, src):
    write(src / "small.c", text(200))
    write(src / "dir/other.c", text(300, 2))
    write(src / "large.bin", noise(MIB))
    first = inlay.sync(src, root / "dst")
    assert sent(first) == {"whole": 3}
    return root / "dst"


def test_edits_travel_as_differences(inlay, src, synced):
    write(src / "small.c", edited(text(200), 5000))
    write(src / "dir/other.c", edited(text(300, 2), 7000))
    write(src / "large.bin", edited(edited(noise(MIB), 500_000), 900_000))
    r = inlay.sync(src, synced)
    assert sent(r) == {"delta": 3}
    assert r["codecs"]["delta"]["bytes"] > MIB and r["codecs"]["delta"]["wire_bytes"] < 2000
    assert tree(synced) == tree(src)
    # what the edit made is what the next one builds on
    write(src / "large.bin", edited(noise(MIB), 500_000, b"once more, in one place") + b"appended")
    r = inlay.sync(src, synced)
    assert sent(r) == {"delta": 1} and r["codecs"]["delta"]["wire_bytes"] < 1000
    assert tree(synced) == tree(src)
    # one place only: head and tail are copied
    data = (src / "large.bin").read_bytes()
    write(src / "large.bin", edited(data, 700_000))
    write(src / "small.c", edited(text(200), 1000))
    r = inlay.sync(src, synced)
    assert sent(r) == {"delta": 2} and r["codecs"]["delta"]["wire_bytes"] < 400
    assert tree(synced) == tree(src)


def test_renames_and_copies(inlay, src, synced):
    (src / "dir").rename(src / "moved")
    (src / "large.bin").rename(src / "moved/large.bin")
    r = inlay.sync(src, synced)
    assert sent(r) == {"known": 2}
    (src / "small.c").unlink()
    write(src / "moved/small_new.c", edited(text(200), 3000))
    shutil.copy(src / "moved/small_new.c", src / "copy.c")
    r = inlay.sync(src, synced)
    # the copy is the same object
    assert sent(r) == {"delta": 1} and r["codecs"]["delta"]["wire_bytes"] < 500
    assert tree(synced) == tree(src)


def test_many_small_edits_cost_little(inlay, src, root):
    for i in range(100):
        write(src / f"d{i % 7}/file{i}.c", text(150, i))
    inlay.sync(src, root / "dst")
    for i in range(100):
        write(src / f"d{i % 7}/file{i}.c", edited(text(150, i), 4000, b"/* edit */"))
    r = inlay.sync(src, root / "dst")
    assert sent(r) == {"delta": 100}
    assert r["codecs"]["delta"]["wire_bytes"] < 40 * 100
    assert r["sent_bytes"] < 8000
    assert tree(root / "dst") == tree(src)


def test_stats_tell(inlay, src, synced):
    write(src / "small.c", edited(text(200), 5000))
    out = inlay("sync", "--stats", src, synced).out
    line = next(line for line in out.splitlines() if line.startswith("Travelled as delta"))
    assert "1 objects" in line and "on the wire" in line


@pytest.mark.parametrize("loss", ["deleted", "damaged", "none kept"])
def test_the_sender_lost_the_old_content(inlay, src, synced, loss):
    """Then the target's is used: librsync where it pays, whole where it does not."""
    basis = next(inlay.state.glob("dev/sources/*/basis"))
    if loss == "deleted":
        shutil.rmtree(basis)
    elif loss == "damaged":
        for f in [*basis.glob("packs/*.pack"), *basis.glob("loose/*/*")]:
            data = bytearray(f.read_bytes())
            for at in range(200, len(data), 500):
                data[at] ^= 0xff
            f.write_bytes(data)
    else:
        inlay.env["INLAY_BASIS_SIZE"] = "0"
    write(src / "small.c", edited(text(200), 5000))
    write(src / "large.bin", edited(noise(MIB), 500_000))
    r = inlay.sync(src, synced)
    # a damaged one is found only when it is read; then it goes whole
    assert sent(r) == ({"whole": 2} if loss == "damaged" else {"patch": 2})
    assert tree(synced) == tree(src)
    if loss != "damaged":
        assert r["codecs"]["patch"]["wire_bytes"] < 8000
    write(src / "large.bin", edited(noise(MIB), 600_000))
    r = inlay.sync(src, synced)
    assert sent(r) == ({"patch": 1} if loss == "none kept" else {"delta": 1})
    assert tree(synced) == tree(src)


@pytest.mark.parametrize("loss", ["nothing", "sums", "damaged sums", "none kept"])
def test_both_too_large_for_memory(inlay, src, root, loss):
    """Old and new content together above 128 MiB: the sums that were kept tell what moved, or the target's signature."""
    if loss == "none kept":
        inlay.env["INLAY_BASIS_SIZE"] = "0"
    data = noise(66 * MIB)
    write(src / "huge", data)
    inlay.sync(src, root / "dst")
    kept = list(inlay.state.glob("dev/sources/*/blocks/*"))
    assert len(kept) == (loss != "none kept")
    if loss == "sums":
        kept[0].unlink()
    elif loss == "damaged sums":
        sums = bytearray(kept[0].read_bytes())
        sums[100] ^= 1
        kept[0].write_bytes(sums)
    for at in (40, 3) if loss == "nothing" else (40,):
        data = edited(data, at * MIB)
        write(src / "huge", data)
        r = inlay.sync(src, root / "dst")
        # with sums the difference is made while the file is hashed; damaged ones are found only when they are read
        assert sent(r) == {{"nothing": "delta", "damaged sums": "whole"}.get(loss, "patch"): 1}
        if loss == "nothing":
            assert r["sent_bytes"] < 20_000 and r["received_bytes"] < 1000
        elif loss != "damaged sums":
            assert r["sent_bytes"] < 100_000 and r["received_bytes"] < 400_000
        assert (root / "dst/huge").read_bytes() == data


def test_a_large_file_that_the_target_lost(inlay, src, root):
    """It is patched by sums of what is not there any more: asked for, and sent whole."""
    data = noise(66 * MIB)
    write(src / "huge", data)
    inlay.sync(src, root / "dst")
    for f in (inlay.state / "host/store/loose").rglob("*"):
        if f.is_file() and f.stat().st_size > MIB:
            f.unlink()
    data = edited(data, 40 * MIB)
    write(src / "huge", data)
    r = inlay.sync(src, root / "dst")
    assert r["sent_bytes"] > 60 * MIB and (root / "dst/huge").read_bytes() == data


@pytest.fixture
def counted(root, sshd):
    """inlay over ssh, and how many connections it made."""
    log = root / "connections"
    script = root / "count-ssh"
    script.write_text(f"#!/bin/sh\necho >>{log}\nexec {sshd.ssh} \"$@\"\n")
    script.chmod(0o755)
    inlay = Inlay(root, {"INLAY_SSH": str(script)})
    inlay.connections = lambda: len(log.read_text())
    return inlay


def damage(path):
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 100):
        data[at] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_the_target_lost_the_old_content(counted, sshd, src, how):
    """It is told with the first COMMIT; the same connection then brings what is needed, whole."""
    inlay = counted
    for i in range(5):
        write(src / f"f{i}", noise(100_000, i))
    write(src / "first.c", text(200))
    inlay.sync(src, "testhost:dst")
    store = sshd.home / ".local/state/inlay/host/store"
    loose = sorted(store.glob("loose/*/*"))
    assert len(loose) == 5
    for f in loose[:2]:
        if how == "gone":
            f.unlink()
        else:
            damage(f)
    for i in range(5):
        write(src / f"f{i}", edited(noise(100_000, i), 50_000))
    write(src / "first.c", edited(text(200), 100))
    before = inlay.connections()
    r = inlay.sync(src, "testhost:dst")
    assert inlay.connections() == before + 1
    assert r["codecs"]["whole"]["objects"] == 2
    assert tree(sshd.home / "dst") == tree(src)


@pytest.mark.parametrize("kept", [True, False])
def test_the_target_lost_the_old_content_of_a_patch(counted, sshd, src, kept):
    """Of one that is made without asking, and of one that it is asked a signature for."""
    inlay = counted
    if not kept:
        inlay.env["INLAY_BASIS_SIZE"] = "0"
    write(src / "f", noise(MIB))
    inlay.sync(src, "testhost:dst")
    damage(next((sshd.home / ".local/state/inlay/host/store").glob("loose/*/*")))
    write(src / "f", edited(noise(MIB), 500_000))
    before = inlay.connections()
    r = inlay.sync(src, "testhost:dst")
    assert inlay.connections() == before + 1
    assert sent(r) == ({"delta": 1, "whole": 1} if kept else {"whole": 1})
    assert tree(sshd.home / "dst") == tree(src)


def test_a_second_target_gets_differences_too(inlay, src, synced, root):
    """What was read for one target is there for all."""
    inlay.sync(src, root / "dst2")
    write(src / "large.bin", edited(noise(MIB), 1000))
    assert sent(inlay.sync(src, root / "dst")) == {"delta": 1}
    assert sent(inlay.sync(src, root / "dst2")) == {"delta": 1}
    assert tree(root / "dst2") == tree(src)


def test_the_cap_is_kept(inlay, src, root):
    inlay.env["INLAY_BASIS_SIZE"] = "1M"
    for i in range(40):
        write(src / f"f{i}", noise(50_000, i))
    inlay.sync(src, root / "dst")
    basis = next(inlay.state.glob("dev/sources/*/basis"))
    size = sum(f.stat().st_size for d in (basis, basis.with_name("basis.old")) for f in d.rglob("*.pack"))
    assert 300_000 < size <= MIB
    write(src / "f0", edited(noise(50_000, 0), 10))
    r = inlay.sync(src, root / "dst")
    assert sent(r) == {"patch": 1}
    assert tree(root / "dst") == tree(src)
    inlay.env["INLAY_BASIS_SIZE"] = "lots"
    assert "INLAY_BASIS_SIZE" in inlay("sync", src, root / "dst", code=1).err
