# SPDX-License-Identifier: Apache-2.0
"""Programs that a host runs for a workspace: run, ps, stop, restart, signal, logs; and exec, shell."""
import json
import os
import pty
import select
import signal
import subprocess

import pytest

from conftest import INLAY, pids_with, until, write

pytestmark = pytest.mark.usefixtures("fuse")

# Says what it hears; `count` tells one start from the next.
SERVICE = """
import os, signal, sys, time
def hear(number, frame):
    print("heard", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(0)
for s in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(s, hear)
print("up in", os.getcwd(), os.environ.get("COLOUR"), flush=True)
print("on stderr", file=sys.stderr, flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def ws(inlay, root, src):
    write(src / "service.py", SERVICE)
    write(src / "sub/keep", "")
    inlay.sync(src, root / "ws")
    return root / "ws"


def ps(inlay, ws):
    return {r["program"]: r for r in inlay("ps", "--json", ws).rows}


def log(inlay, ws, *args):
    return [r["text"] for r in inlay("logs", "--json", *args, ws).rows]


def run(inlay, ws, name, *command, options=()):
    inlay("run", *options, ws, name, "--", *command)


def wait_for_line(inlay, ws, text):
    return until(lambda: [t for t in log(inlay, ws) if text in t], what=f"the line '{text}'")


def test_a_program_runs_and_stops_in_order(inlay, ws):
    run(inlay, ws, "svc", "python3", "service.py", options=("-E", "COLOUR=blue"))
    assert wait_for_line(inlay, ws, "up in")[0] == f"up in {ws} blue"
    one = ps(inlay, ws)["svc"]
    assert one["state"] == "running" and one["starts"] == 1 and os.path.exists(f"/proc/{one['pid']}")
    streams = {r["text"]: r["stream"] for r in inlay("logs", "--json", ws).rows}
    assert streams["on stderr"] == "stderr"
    inlay("signal", ws, "svc", "HUP")
    wait_for_line(inlay, ws, "heard SIGHUP")
    inlay("stop", ws, "svc")
    assert not os.path.exists(f"/proc/{one['pid']}")
    assert ps(inlay, ws)["svc"]["state"] == "stopped"
    assert "heard SIGTERM" in log(inlay, ws)
    inlay("restart", ws, "svc")
    assert ps(inlay, ws)["svc"]["state"] == "running"
    inlay("stop", "--forget", ws, "svc")
    assert ps(inlay, ws) == {}
    assert inlay("logs", ws, "svc", code=None).code == 1


def test_it_goes_on_without_its_keeper(inlay, ws):
    run(inlay, ws, "svc", "python3", "service.py")
    pid = ps(inlay, ws)["svc"]["pid"]
    os.kill(inlay.keeper_pid(), signal.SIGKILL)
    until(lambda: inlay.keeper_pid() is None)
    assert ps(inlay, ws)["svc"]["pid"] == pid
    # Its supervisor dies: the program goes with it, and the keeper starts both again, once.
    wait_for_line(inlay, ws, "up in")
    supervisor, = pids_with(f"supervise --dir {inlay.state}/host")
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    now = until(lambda: ps(inlay, ws)["svc"]["state"] == "running" and ps(inlay, ws)["svc"]["pid"])
    assert now != pid and len(pids_with("service.py")) >= 1


def test_it_starts_after_a_reboot(inlay, ws):
    """A reboot: no process is left; whoever starts the keeper gets everything back."""
    run(inlay, ws, "svc", "python3", "service.py")
    run(inlay, ws, "not-wanted", "python3", "service.py")
    inlay("stop", ws, "not-wanted")
    # The keeper first: it would unmount what a dead worker leaves.
    for pid in ([inlay.keeper_pid()] + pids_with(f"supervise --dir {inlay.state}/host")
                + inlay.worker_pids()):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not pids_with(f"--state {inlay.state}/host"))
    subprocess.run(["umount", "-l", ws], check=True)
    inlay("status")
    until(lambda: ps(inlay, ws)["svc"]["state"] == "running")
    assert ps(inlay, ws)["not-wanted"]["state"] == "stopped"
    wait_for_line(inlay, ws, f"up in {ws}")


def test_restarts_and_backoff(inlay, ws):
    run(inlay, ws, "dies", "sh", "-c", "echo once; exit 7")
    until(lambda: ps(inlay, ws)["dies"]["starts"] >= 3)
    one = ps(inlay, ws)["dies"]
    assert one["ended"] == "7" and log(inlay, ws).count("once") >= 3
    inlay("stop", ws, "dies")
    run(inlay, ws, "good", "true", options=("--restart", "on-failure"))
    until(lambda: ps(inlay, ws)["good"]["state"] == "ended")
    assert ps(inlay, ws)["good"]["starts"] == 1
    run(inlay, ws, "missing", "no-such-program", options=("--restart", "never"))
    until(lambda: ps(inlay, ws)["missing"]["state"] == "ended")
    assert ps(inlay, ws)["missing"]["ended"] == "127"
    assert any("cannot run no-such-program" in t for t in log(inlay, ws))


def test_one_that_does_not_end_is_killed_with_all_it_started(inlay, ws, root):
    write(root / "stubborn.sh", "trap '' TERM\nsetsid sleep 1234 &\necho $! > " + str(root / "child") +
          "\necho ready\nwhile :; do sleep 1235; done\n")
    run(inlay, ws, "stubborn", "sh", root / "stubborn.sh", options=("--stop-timeout", "200ms"))
    wait_for_line(inlay, ws, "ready")
    child = int((root / "child").read_text())
    pid = ps(inlay, ws)["stubborn"]["pid"]
    inlay("stop", ws, "stubborn")
    assert not os.path.exists(f"/proc/{pid}") and not os.path.exists(f"/proc/{child}")
    assert any("did not end in time" in t for t in log(inlay, ws))


def test_a_flood_of_lines_is_bounded(inlay, ws):
    run(inlay, ws, "flood", "python3", "-c",
        "for i in range(200000): print('line', i, 'x' * 60)\nprint('y' * 30000)\nprint('end')",
        options=("--restart", "never"))
    until(lambda: ps(inlay, ws)["flood"]["state"] == "ended")
    place = next((inlay.state / "host/ws").glob("*/run/flood"))
    sizes = {p.name: p.stat().st_size for p in place.glob("log*")}
    assert set(sizes) == {"log", "log.1"} and all(s <= 4 << 20 for s in sizes.values())
    lines = log(inlay, ws, "-n", "1000000")
    assert lines[-2] == "end"
    assert sorted(len(t) for t in lines if t.startswith("y")) == [30000 - 3 * 8192, 8192, 8192, 8192]
    numbers = [int(t.split()[1]) for t in lines if t.startswith("line")]
    assert numbers == list(range(numbers[0], 200000))
    assert log(inlay, ws, "-n", "3")[0].startswith("y") or len(log(inlay, ws, "-n", "3")) == 3


def test_logs_are_followed(inlay, ws):
    run(inlay, ws, "svc", "python3", "service.py")
    wait_for_line(inlay, ws, "up in")
    p = inlay.start("logs", "-f", "-n", "1", "--json", ws)
    try:
        first = json.loads(p.stdout.readline())
        assert first["program"] == "svc"
        inlay("signal", ws, "svc", "HUP")
        while json.loads(p.stdout.readline())["text"] != "heard SIGHUP":
            pass
    finally:
        p.terminate()
        p.communicate()


def test_a_program_follows_a_remount(inlay, ws):
    """What it holds open is dead with the worker: it is started again in the new mount."""
    run(inlay, ws, "svc", "python3", "service.py")
    pid = ps(inlay, ws)["svc"]["pid"]
    worker, = inlay.worker_pids()
    os.kill(worker, signal.SIGKILL)
    until(lambda: ps(inlay, ws)["svc"]["pid"] not in (0, pid))
    assert (ws / "service.py").exists()


def test_exec_passes_everything_on(inlay, ws, remote, sshd, src):
    where = remote.sync(src, "testhost:ws")["path"]
    for i, target in ((inlay, ws), (remote, "testhost:ws")):
        r = i("exec", target, "--", "sh", "-c", "pwd; echo \"$1\"; cat service.py | wc -l; exit 42", "sh",
              "a 'b' \"c\" $d\n*", code=42)
        assert r.out.splitlines()[1:3] == ["a 'b' \"c\" $d", "*"]
        assert r.out.splitlines()[0] == (str(ws) if target == ws else where)
        assert i("exec", target, "--", "sh", "-c", "exit 86", code=86)
        assert "nothing was ever synced" in i("exec", f"{target}-other", "--", "true", code=1).err
    run(inlay, ws, "svc", "sleep", "1000", options=("-C", "sub", "-E", "COLOUR=red"))
    r = inlay("exec", "-p", "svc", ws, "--", "sh", "-c", "pwd; echo $COLOUR")
    assert r.out.splitlines() == [f"{ws}/sub", "red"]
    inlay("stop", ws, "svc")


def test_exec_brings_the_agent(remote, sshd, src, root):
    remote.sync(src, "testhost:ws")
    for p in (sshd.home / ".cache/inlay").iterdir():
        p.unlink()
    assert remote("exec", "testhost:ws", "--", "echo", "there").out == "there\n"


def test_shell_has_a_terminal_that_can_be_resized(remote, sshd, src):
    remote.sync(src, "testhost:ws")
    remote.env["SHELL"] = "/bin/sh"
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(INLAY, ["inlay", "shell", "testhost:ws"], remote.env)
    said = b""

    def see(text):
        nonlocal said

        def more():
            nonlocal said
            if select.select([fd], [], [], 0.05)[0]:
                said += os.read(fd, 65536)
            return text in said
        until(more, what=f"{text} in {said}")
    try:
        os.write(fd, b"PS1='> '; tty; echo wo''rd\n")
        see(b"word")
        assert b"/dev/pts/" in said
        import fcntl
        import struct
        import termios
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))

        def resized():
            os.write(fd, b"stty size\n")
            for _ in range(20):
                if select.select([fd], [], [], 0.05)[0]:
                    nonlocal_add(os.read(fd, 65536))
            return b"33 99" in said

        def nonlocal_add(more):
            nonlocal said
            said += more
        until(resized, what="the new size")
        os.write(fd, b"exit 5\n")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 5
    finally:
        os.close(fd)


def test_bad_words(inlay, ws):
    assert inlay("run", ws, "a/b", "--", "true", code=2)
    assert inlay("run", ws, "x", code=2)
    assert inlay("run", "--restart", "sometimes", ws, "x", "--", "true", code=2)
    assert inlay("run", "--stop-signal", "NOPE", ws, "x", "--", "true", code=2)
    assert inlay("stop", ws, "none", code=1)
    assert inlay("signal", ws, "none", "HUP", code=1)
    run(inlay, ws, "gone", "true", options=("--restart", "never"))
    until(lambda: ps(inlay, ws)["gone"]["state"] == "ended")
    assert "does not run" in inlay("signal", ws, "gone", "HUP", code=1).err
