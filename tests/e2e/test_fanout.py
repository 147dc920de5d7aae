# SPDX-License-Identifier: Apache-2.0
"""One source, many hosts: encoded once, nobody waits for another, and who holds a workspace."""
import json
import os
import random
import signal
import socket
import threading
import time

import pytest

from conftest import Inlay, Sshd, free_port, pids_with, tree, until, write
from fleet import Fleet, Near
from test_project import Up
from test_watch import Watch

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def near(root):
    return Near(root)


@pytest.fixture
def inlay(root, near):
    return Inlay(root, {"INLAY_SSH": near.ssh})


@pytest.fixture
def watching(inlay, src):
    """A watch of src on so many hosts, all of which show it."""
    watches = []

    def start(count, *args):
        names = [f"n{i}" for i in range(count)]
        watches.append(Watch(inlay, *args, src, *[f"{n}:ws" for n in names]))
        watches[-1].names = names
        all_show(watches[-1])
        return watches[-1]
    yield start
    for w in watches:
        assert w.end() == 0


def all_show(watch, names=None):
    """The next change set of each of them."""
    left = {f"{n}:ws" for n in names or watch.names}
    events = {}
    while left:
        e = watch.next(lambda e: e["event"] == "visible" and e["target"] in left, 60)
        left.discard(e["target"])
        events[e["target"].split(":")[0]] = e
    return events


def children(pid):
    return [int(p) for t in os.listdir(f"/proc/{pid}/task") for p in open(f"/proc/{pid}/task/{t}/children").read().split()]


def figures(inlay):
    head = next(r for r in inlay("watch", "--list", "--json").rows if r["kind"] == "watch")
    return head["encoded"], head["shared"]


def noise(size, seed):
    return random.Random(seed).randbytes(size)


def same_everywhere(near, names, src):
    for n in names:
        assert tree(near.home(n) / "ws") == tree(src), n


def test_encoded_once_for_all(watching, inlay, near, src):
    for i in range(30):
        write(src / f"d{i % 5}/f{i}.c", f"int f{i};\n" * 200)
    w = watching(5)
    same_everywhere(near, w.names, src)
    made, shared = figures(inlay)
    assert made == 1 and shared == 4
    for i in range(3):
        write(src / "d1/f1.c", f"int f1;\nint edit{i};\n" * 100)
        w.flush(src)
    same_everywhere(near, w.names, src)
    again, more = figures(inlay)
    # A write may be seen in two steps; whatever was made, all others took it.
    assert 1 <= again - made <= 6 and more - shared == 4 * (again - made)


def test_what_does_not_fit_into_memory(watching, inlay, near, src):
    """It is sent while it is made, from a file that has no name."""
    write(src / "large.bin", noise(9 << 20, 1))
    write(src / "small", "x\n")
    w = watching(3)
    same_everywhere(near, w.names, src)
    assert figures(inlay) == (1, 2)


@pytest.mark.parametrize("size", [100_000, 6 << 20])
def test_one_host_lost_what_is_built_on(watching, near, root, src, size):
    """It says NAK and gets its own, over the same connection; nobody else notices."""
    write(src / "f", noise(size, 1))
    write(src / "g", noise(size, 2))
    write(src / "small", "line\n" * 100)
    w = watching(3)
    made = connections(near, root)
    for loose in (near.home("n1") / ".local/state/inlay/host/store").glob("loose/*/*"):
        loose.unlink()
    new = bytearray((src / "f").read_bytes())
    new[5000:5000] = new[-5000:-5000] = b"an edit"
    # Both in one change set; the small one comes first, and stays.
    write(src.parent / "new/small", "line\n" * 101)
    write(src.parent / "new/f", bytes(new))
    for name in ("small", "f"):
        os.rename(src.parent / "new" / name, src / name)
    events = all_show(w)
    assert [events[n]["codecs"]["delta"]["objects"] for n in ("n0", "n2")] == [2, 2]
    assert events["n1"]["codecs"]["whole"]["objects"] >= 1
    w.flush(src)
    assert (near.home("n1") / "ws/f").read_bytes() == bytes(new)
    same_everywhere(near, ["n0", "n2"], src)
    assert made() == []


def test_a_stopped_host_holds_nobody_up(watching, near, src):
    write(src / "f", "0\n")
    w = watching(4)
    keeper, = pids_with(f"keep --state {near.home('n2')}/")
    os.kill(keeper, signal.SIGSTOP)
    others = ["n0", "n1", "n3"]
    try:
        for i in range(1, 8):
            write(src / "f", f"{i}\n")
            seen = all_show(w, others)
            assert max(e["visible_ms"] for e in seen.values()) < 5000
            until(lambda i=i: all((near.home(n) / "ws/f").read_text() == f"{i}\n" for n in others))
    finally:
        os.kill(keeper, signal.SIGCONT)
    w.flush(src)
    assert (near.home("n2") / "ws/f").read_text() == "7\n"
    # The latest state wins: what came in between was not sent one by one.
    row = next(r for r in w.rows() if r["target"] == "n2:ws")
    assert row["change_sets"] <= 5, row


def test_a_folder_that_changes_all_the_time(watching, near, src):
    """What is read may be another content by the time it is sent, to all at once."""
    write(src / "big", noise(5 << 20, 0))
    w = watching(3)
    end = threading.Event()

    def scribble():
        i = 0
        while not end.is_set():
            i += 1
            with open(src / "big", "r+b") as f:
                f.seek(i * 7919 % (5 << 20))
                f.write(noise(4096, i))
    t = threading.Thread(target=scribble)
    t.start()
    for i in range(3):
        write(src / "small", f"{i}\n")
        all_show(w)
    end.set()
    t.join()
    # It was held back while it changed, and is looked at again.
    until(lambda: all((near.home(n) / "ws/big").read_bytes() == (src / "big").read_bytes() for n in w.names), 40)
    same_everywhere(near, w.names, src)


# ---- who holds a workspace ----


@pytest.fixture
def second(root, near):
    """Another dev machine: a state directory of its own."""
    (root / "second").mkdir()
    return Inlay(root / "second", {"INLAY_SSH": near.ssh})


def test_a_workspace_is_held_and_stolen(watching, inlay, second, near, src, root):
    write(src / "f", "first\n")
    other = root / "other"
    write(other / "f", "second\n")
    w = watching(1)
    r = second("sync", "--lock-wait", "0", other, "n0:ws", code=6)
    assert "held by" in r.err and "pid" in r.err and "since" in r.err and "--steal" in r.err, r.err
    assert f"pid {w.process.pid}," in r.err
    second("sync", "--steal", other, "n0:ws")
    told = w.state("halted")
    assert told["exit"] == 6 and "took it over with --steal" in told["why"]
    # It stays so, also when the thief has gone and the folder changes.
    write(src / "f", "third\n")
    assert "--steal" in inlay("flush", src, code=6).err
    assert (near.home("n0") / "ws/f").read_text() == "second\n"
    # Until it is taken back.
    inlay("sync", "--steal", src, "n0:ws")
    assert (near.home("n0") / "ws/f").read_text() == "third\n"
    assert w.rows()[0]["state"] == "in sync"


def test_a_sync_is_robbed(inlay, second, near, src, root):
    """In the middle of its work: it ends, and what it sent is not shown."""
    write(src / "f", noise(3 << 20, 1))
    other = root / "other"
    write(other / "f", "second\n")
    inlay.sync(src, "n0:ws")
    write(src / "g", noise(3 << 20, 2))
    slow = inlay.start("sync", "--bwlimit", "100k", src, "n0:ws")
    until(lambda: second("status", "--json", "n0:ws").json.get("owner"), what="the lock to be held")
    second("sync", "--steal", "--force", other, "n0:ws")
    out, err = slow.communicate(timeout=60)
    assert slow.returncode == 6 and b"took it over with --steal" in err, err
    assert tree(near.home("n0") / "ws") == tree(other)


def test_watches_of_two_machines(watching, second, near, src, root):
    """The second one takes it; the first one says so and does nothing more."""
    write(src / "f", "first\n")
    other = root / "other"
    write(other / "f", "second\n")
    w = watching(2)
    thief = Watch(second, "--steal", other, "n1:ws")
    thief.visible()
    assert w.state("halted")["target"] == "n1:ws"
    write(src / "f", "third\n")
    all_show(w, ["n0"])
    write(other / "f", "fourth\n")
    thief.visible()
    assert (near.home("n1") / "ws/f").read_text() == "fourth\n"
    assert thief.end() == 0
    assert w.flush(src, code=6)
    assert (near.home("n1") / "ws/f").read_text() == "fourth\n"


# ---- one change set to many ----


def test_sync_to_several_targets(inlay, near, src):
    for i in range(20):
        write(src / f"d{i % 3}/f{i}", f"{i}\n" * 100)
    names = [f"n{i}" for i in range(4)]
    targets = [f"{n}:ws" for n in names]
    r = inlay("sync", "--json", src, *targets)
    assert {row["target"] for row in r.rows} == set(targets) and all(row["changed"] for row in r.rows)
    assert all(row["files_read"] == 20 for row in r.rows)           # once for all
    same_everywhere(near, names, src)
    write(src / "d0/f0", "edited\n")
    r = inlay("sync", src, *targets)
    assert len([line for line in r.out.splitlines() if ": generation 2: 1 changed" in line]) == 4, r.out
    same_everywhere(near, names, src)
    assert inlay("sync", "--exit-code", src, *targets).code == 0
    # One that cannot be reached: a line for it, and code 3; when none can, its own code.
    near.before('[ "$2" = gone ] && exit 255')
    r = inlay("sync", src, *targets, "gone:ws", code=3)
    assert "inlay: gone:ws: cannot connect" in r.err and r.out.count("no change") == 4
    inlay("sync", src, "gone:a", "gone:b", code=5)


def test_components_are_scanned_once(inlay, near, root, src):
    """... for all their hosts, and each site has its line."""
    where = root / "project"
    write(where / "inlay.yaml", "version: 1\nhosts: [n1, n2, n3, gone]\ncomponents:\n"
          "  a: {source: a, target: ws/a}\n  b: {source: b, target: ws/b, hosts: [n1]}\n")
    write(where / "a/f", "a\n")
    write(where / "b/f", "b\n")
    near.before('[ "$2" = gone ] && exit 255')
    r = inlay("sync", "--json", cwd=where, code=3)
    rows = {(row["component"], row["host"]): row for row in r.rows}
    assert set(rows) == {("a", "n1"), ("a", "n2"), ("a", "n3"), ("a", "gone"), ("b", "n1")}
    assert rows["a", "gone"]["exit"] == 5 and rows["b", "n1"]["exit"] == 0
    assert (near.home("n3") / "ws/a/f").read_text() == "a\n"
    r = inlay("sync", "--host", "n1", cwd=where)
    assert sorted(line.split(":")[0] for line in r.out.splitlines()) == ["n1 a", "n1 b"], r.out


# ---- many hosts, of which some are not well ----


def scripted(near, name, text):
    """What stands in for ssh does this for one host."""
    near.before(f'if [ "$2" = {name} ]; then\n{text}\nfi')


@pytest.fixture
def ill(root, near):
    """Hosts that fail, each in a way of its own: name -> (target's path, what its line says, exit code)."""
    sshd, silent = Sshd(root), socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()                             # takes connections and says nothing, as a stopped sshd does
    sshd.client()
    config = root / "ill_config"
    common = (sshd.dir / "config").read_text()
    config.write_text("".join(f"Host {name}\n" + "".join(f" {line}\n" for line in lines) for name, lines in {
        "refused": [f"Port {free_port()}"],
        "unknown": ["HostName no-such-host.invalid"],
        "wrongkey": ["HostKeyAlias other-name", f"UserKnownHostsFile {sshd.dir}/wrong_hosts"],
        "nokey": ["PubkeyAuthentication no"],
        "silent": [f"Port {silent.getsockname()[1]}"],
    }.items()) + common.replace("Host testhost", "Host *"))
    (sshd.dir / "wrong_hosts").write_text("other-name " + " ".join((sshd.dir / "other.pub").read_text().split()[:2]) + "\n")
    for name in ("refused", "unknown", "wrongkey", "nokey", "silent"):
        scripted(near, name, f'exec ssh -oBatchMode=yes -oConnectTimeout=2 -F {config} -- "$2" "$3"')
    scripted(near, "hangs", "exec sleep 1000")
    scripted(near, "nospace", "export HOME=/proc XDG_CACHE_HOME=; exec /bin/sh -c \"$3\"")
    scripted(near, "sparc", f"PATH={root}/sparc:$PATH")
    write(root / "sparc/uname", "#!/bin/sh\necho sparc64\n").chmod(0o755)
    write(near.home("isfile") / "file", "x")
    yield {
        "refused": ("ws", "Connection refused", 5),
        "unknown": ("ws", "Could not resolve hostname", 5),
        "wrongkey": ("ws", "Host key verification failed", 5),
        "nokey": ("ws", "Permission denied", 5),
        "silent": ("ws", "timed out", 5),
        "hangs": ("ws", "did not answer", 124),
        "nospace": ("ws", "cannot install inlayd", 1),
        "sparc": ("ws", "there is no inlayd-sparc64", 1),
        "isfile": ("file/ws", "Not a directory", 1),
        "denied": ("/proc/ws", "/proc/ws", 1),
        "stopped": ("ws", "did not answer", 124),
    }
    silent.close()
    sshd.stop()


def test_forty_hosts_of_which_some_fail(inlay, near, ill, src):
    """Each that fails has a line and a code of its own; the others are right, and do not wait for them."""
    for i in range(10):
        write(src / f"f{i}", f"{i}\n" * 50)
    names = [f"n{i}" for i in range(29)]
    # One whose keeper is stopped.
    inlay.sync(src, "stopped:other")
    keeper, = pids_with(f"keep --state {near.home('stopped')}/")
    os.kill(keeper, signal.SIGSTOP)
    targets = [f"{n}:ws" for n in names] + [f"{n}:{path}" for n, (path, _, _) in ill.items()]
    random.Random(1).shuffle(targets)
    begun = time.monotonic()
    came = {}
    try:
        p = inlay.start("sync", "--json", "--connect-timeout", "6s", src, *targets)
        for line in p.stdout:
            row = json.loads(line)
            came[row["target"].split(":")[0]] = (row, time.monotonic() - begun)
        assert p.wait() == 3
        err = p.stderr.read().decode()
        assert "Sanitizer" not in err, err
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert set(came) == set(names) | set(ill)
    for name, (_, says, code) in ill.items():
        error = came[name][0].get("error")
        assert error and says in error["text"] and error["exit"] == code, (name, came[name])
    same_everywhere(near, names, src)
    # The last of the good ones was there before the first of those that only time tells.
    assert max(came[n][1] for n in names) < min(came[n][1] for n in ("hangs", "stopped"))


def test_connections_are_made_some_at_a_time(inlay, near, root, src):
    write(src / "f", "x\n")
    targets = [f"n{i}:ws" for i in range(40)]
    inlay("sync", "-q", src, *targets)              # inlayd is there
    (root / "now").mkdir()
    near.before(f"touch {root}/now/$2; ls {root}/now | wc -l >> {root}/log; sleep 0.2; rm {root}/now/$2")
    inlay("sync", "-q", src, *targets)
    most = max(int(n) for n in (root / "log").read_text().split())
    # 16; on a machine that is very busy some take so long that they do not count any more.
    assert 8 <= most <= 24


def test_groups_of_hosts(inlay, near, root):
    where = root / "project"
    write(root / "home/.config/inlay/hosts.yaml", "groups: {lab: [n1, '@more'], more: [n2], other: [n9]}\n")
    write(where / "inlay.yaml", "version: 1\nhosts: ['@lab', n3]\ncomponents: {a: {source: a, target: ws/a}}\n")
    write(where / "a/f", "a\n")

    def hosts(*args, **kw):
        return {row["host"] for row in inlay("sync", "--json", *args, cwd=where, **kw).rows}
    inlay.env.pop("XDG_CONFIG_HOME", None)
    assert hosts() == {"n1", "n2", "n3"}
    assert hosts("--host", "@lab") == {"n1", "n2"} and hosts("--host", "@more", "--host", "n3") == {"n2", "n3"}
    for nobody in ("n9", "@other", "@nonsense", "n33"):
        assert f"is on '{nobody}'" in inlay("sync", "--host", "n1", "--host", nobody, cwd=where, code=1).err


def test_many_hosts_go_over_libssh2(root, src):
    """Quicker to connect; one or two go over ssh."""
    write(src / "f", "x\n")
    fleet = Fleet(root, 4)
    inlay = Inlay(root, {"INLAY_SSH": fleet.ssh})
    for names, way in ((fleet.names[:2], False), (fleet.names, True)):
        w = Watch(inlay, src, *[f"{n}:ws" for n in names])
        w.names = names
        all_show(w)
        ways = [open(f"/proc/{p}/cmdline").read().split("\0")[1] == "_ssh2" for p in children(w.process.pid)]
        assert ways == [way] * len(names)
        assert w.end() == 0
    fleet.end()


# ---- one connection for a host ----


def connections(near, root):
    """How often each host was connected to, from now on."""
    near.before(f"echo $2 >> {root}/connected")
    return lambda: (root / "connected").read_text().split() if (root / "connected").exists() else []


def test_targets_on_one_host_share_its_connection(inlay, near, root, src):
    for i in range(10):
        write(src / f"f{i}", f"{i}\n" * 100)
    inlay.sync(src, "n1:first")                     # inlayd is there
    made = connections(near, root)
    w = Watch(inlay, src, "n1:a", "n1:b", "n1:c", "n2:a")
    w.visible(timeout=60)
    w.flush(src)
    # n2: it finds no inlayd, brings it, and comes again.
    assert sorted(made()) == ["n1", "n2", "n2", "n2"]
    for i in range(5):
        write(src / "f3", f"edit {i}\n")
        w.flush(src)
        for n in "abc":
            assert (near.home("n1") / n / "f3").read_text() == f"edit {i}\n"
    write(src / "large", noise(12 << 20, 3))
    w.flush(src)
    assert all(tree(near.home("n1") / n) == tree(src) for n in "abc")
    # It breaks for all of them, and is made anew once.
    before = len(made())
    for pid in pids_with(f"{near.homes}/n1/"):
        if b" trunk" in open(f"/proc/{pid}/cmdline", "rb").read().replace(b"\0", b" "):
            os.kill(pid, signal.SIGKILL)
    write(src / "f3", "after\n")
    w.flush(src)
    assert all((near.home("n1") / n / "f3").read_text() == "after\n" for n in "abc")
    assert len(made()) == before + 1
    assert w.end() == 0
    r = inlay("sync", "--json", src, "n1:a", "n1:b", "n1:c")
    assert len(made()) == before + 2 and not any(row["changed"] for row in r.rows)


def test_components_on_one_host_share_its_connection(inlay, near, root):
    where = root / "project"
    write(where / "inlay.yaml", "version: 1\nhosts: [n1]\ncomponents:\n" + "".join(
        f"  c{i}: {{source: c{i}, target: ws/c{i}, after: 'echo done {i}'}}\n" for i in range(4)))
    for i in range(4):
        write(where / f"c{i}/f", f"{i}\n")
    made = connections(near, root)
    r = inlay("sync", "--json", cwd=where)
    assert [row["exit"] for row in r.rows] == [0] * 4
    # The first one finds no inlayd, brings it, and comes again.
    assert made() == ["n1"] * 3
    up = Up(inlay, where, "--trust")
    up.wait(event="ready", timeout=60)
    assert made() == ["n1"] * 4
    write(where / "c2/f", "edited\n")
    up.wait(event="visible", component="c2", generation=2)
    assert (near.home("n1") / "ws/c2/f").read_text() == "edited\n"
    assert up.end()[0] == 0
    assert made() == ["n1"] * 4


def test_a_shared_connection_that_fails(inlay, near, root, src):
    """Each of its sessions says why, as if it had tried alone."""
    write(src / "f", "x\n")
    near.before('[ "$2" = gone ] && { echo "no route to $2" >&2; exit 255; }\n[ "$2" = hangs ] && exec sleep 1000')
    r = inlay("sync", "--json", src, "gone:a", "gone:b", "n1:a", "n1:b", code=3)
    rows = {row["target"]: row for row in r.rows}
    for t in ("gone:a", "gone:b"):
        assert rows[t]["error"]["exit"] == 5
        assert rows[t]["error"]["text"] == "cannot connect to gone: no route to gone"
    assert tree(near.home("n1") / "b") == tree(src)
    r = inlay("sync", "--connect-timeout", "1s", src, "hangs:a", "hangs:b", code=124)
    assert r.err.count("did not answer") == 2, r.err
    # Nobody waits for it at the end either.
    w = Watch(inlay, src, "hangs:a", "hangs:b", "n1:a")
    w.visible("n1:a")
    begun = time.monotonic()
    assert w.end() == 0 and time.monotonic() - begun < 10


def test_a_session_that_does_not_read_stops_no_other(inlay, near, root, src):
    """Nor one that is slow: here by a limit of its bandwidth, which is that of each session."""
    write(src / "large", noise(1 << 20, 1))
    other = root / "other"
    write(other / "f", "x\n")
    write(root / "inlay.yaml", "version: 1\nhosts: [n1]\nbwlimit: 250k\ncomponents:\n"
          f"  big: {{source: {src}, target: ws/big}}\n  small: {{source: {other}, target: ws/small}}\n")
    up = Up(inlay, root)
    try:
        up.wait(event="visible", component="small", timeout=60)
        for i in range(3):
            write(other / "f", f"{i}\n")
            up.wait(event="visible", component="small", generation=i + 2)
        assert not any(e.get("component") == "big" and e["event"] == "visible" for e in up.events)
        up.wait(event="visible", component="big", timeout=60)
        assert tree(near.home("n1") / "ws/big") == tree(src)
    finally:
        up.end()


@pytest.mark.parametrize("way", ["openssh", "libssh2"])
def test_a_line_over_each_transport(root, src, way):
    fleet = Fleet(root, 1)
    inlay = Inlay(root, {"INLAY_SSH": fleet.ssh, "INLAY_TRANSPORT": way})
    write(src / "f", noise(1 << 20, 1))
    w = Watch(inlay, src, "h1:a", "h1:b")
    w.visible(timeout=60)
    w.flush(src)
    line, = children(w.process.pid)
    carrier, = children(line)
    assert ("_ssh2" in open(f"/proc/{carrier}/cmdline").read()) == (way == "libssh2")
    write(src / "g", noise(5 << 20, 2))
    w.flush(src)
    os.kill(carrier, signal.SIGKILL)
    write(src / "f", "after\n")
    w.flush(src)
    assert tree(fleet.home("h1") / "a") == tree(fleet.home("h1") / "b") == tree(src)
    assert w.end() == 0
    fleet.end()
    assert not os.path.exists(f"/proc/{line}")
