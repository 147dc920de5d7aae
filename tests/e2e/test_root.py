# SPDX-License-Identifier: Apache-2.0
"""Roots: a project runs in its base image, and what is mounted anew appears in containers that run."""
import contextlib
import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import time

import pytest

import images
from conftest import INLAY, end_below, mounts_below, pids_with, until, write

pytestmark = pytest.mark.usefixtures("fuse")

CONFIG = {"Env": ["PATH=/bin", "FROM=image", "COLOUR=image"], "User": "nav", "WorkingDir": "/home/nav",
          "Entrypoint": ["/bin/entry"], "Cmd": ["sh", "-c", "echo own command in $(pwd); exec sleep 3333"]}
LOOP = "trap 'echo told to end; exit 0' TERM; echo up as $(id -u) in $(cat /etc/marker); " \
       "while :; do cat hello; sleep 0.02; done"


def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])


def gone(pid):
    """Ended, though whoever became its parent may not have looked yet."""
    with contextlib.suppress(FileNotFoundError):
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"
    return True


@pytest.fixture(scope="session")
def runc(tmp_path_factory):
    """Containers can be run here: not every machine lets us, whatever is installed."""
    if os.geteuid() != 0 or not shutil.which("runc") or not images.BUSYBOX.exists():
        pytest.skip("needs root, runc and busybox-static")
    bundle = tmp_path_factory.mktemp("bundle")
    for name in ("bin", "proc"):
        (bundle / "rootfs" / name).mkdir(parents=True)
    shutil.copy(images.BUSYBOX, bundle / "rootfs/bin/true")
    (bundle / "config.json").write_text(json.dumps({
        "ociVersion": "1.0.2", "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/true"], "env": []},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}}))
    r = subprocess.run(["runc", "run", "--bundle", bundle, f"inlay-probe-{os.getpid()}"], capture_output=True, text=True)
    if r.returncode != 0:
        pytest.skip(f"runc runs nothing here: {r.stderr.strip()[-200:]}")


class Robot:
    """A project with one component in an image that lies on the host."""

    def __init__(self, inlay, root):
        self.inlay, self.root, self.ws, self.dir = inlay, root, root / "ws", root / "proj"
        self.id = hashlib.sha256(os.fsencode(self.ws)).hexdigest()[:16]
        self.versions = 0
        write(self.dir / "nav/hello", "hello\n")

    def image(self, marker="one", config=None, name="robot"):
        """Imports it; `up` brings it to the host."""
        self.versions += 1
        archive = images.oci(self.root / f"archive{self.versions}", config or CONFIG, marker)
        return self.inlay("image", "import", "--json", "--name", name, archive).json["manifest"]

    def project(self, nav, image="robot"):
        lines = "".join(f"    {line}\n" for line in nav.splitlines())
        write(self.dir / "inlay.yaml",
              f"version: 1\nhosts: [local]\nimage: {image}\ncomponents:\n"
              f"  nav:\n    source: nav\n    target: {self.ws}\n{lines}")

    def up(self, code=0):
        return self.inlay("up", "--once", "--trust", cwd=self.dir, code=code)

    def sh(self, script, code=0):
        return self.inlay("exec", self.ws, "--", "sh", "-c", script, code=code)

    def start(self, script):
        """In a container of its own: the component must not run a program."""
        return self.inlay.start("exec", self.ws, "--", "sh", "-c", script)

    @property
    def ps(self):
        return {r["program"]: r for r in self.inlay("ps", "--json", self.ws).rows}

    def log(self):
        return [r["text"] for r in self.inlay("logs", "--json", self.ws).rows]

    def wait_for_line(self, text):
        return until(lambda: [t for t in self.log() if text in t], what=f"the line '{text}'")

    @property
    def containers(self):
        """Of this test alone."""
        listed = json.loads(subprocess.run(["runc", "list", "-f", "json"], capture_output=True).stdout
                            or "null") or []
        return [c["id"] for c in listed if str(self.root) in c["bundle"]]

    def end(self):
        if shutil.which("podman"):
            subprocess.run(["podman", "rm", "--force", "--ignore", "--time", "0", f"inlay-{self.id}-nav"],
                           capture_output=True)
        for name in self.containers:
            subprocess.run(["runc", "delete", "--force", name], capture_output=True)
        end_below(self.root)
        for name in self.containers:
            subprocess.run(["runc", "delete", "--force", name], capture_output=True)


@pytest.fixture
def robot(inlay, root, runc):
    r = Robot(inlay, root)
    yield r
    r.end()


def test_a_project_runs_in_its_image(robot):
    robot.image()
    robot.project(f"env: {{COLOUR: blue}}\nbuild: 'id; pwd; echo $FROM $COLOUR $ENTERED; cat $INLAY_CHANGED'\n"
                  f"run: {json.dumps(LOOP)}")
    told = robot.up().out
    assert "uid=1000(nav) gid=1000(nav) groups=20(dialout),44(video)" in told
    assert f"| {robot.ws}\n" in told and "| image blue yes\n" in told and "| hello\\x00" in told
    robot.wait_for_line("up as 1000 in one")
    pid = robot.ps["nav"]["pid"]
    assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid") and len(robot.containers) == 1
    # In the container of the program, with its variables; also by its name.
    assert robot.sh("echo $ENTERED.$INLAY_PROGRAM.$COLOUR; pwd").out == f".nav.blue\n{robot.ws}\n"
    assert robot.inlay("exec", "-p", "nav", robot.ws, "--", "sh", "-c", "exit 7", code=7).out == ""
    # A change set reaches it, and what it writes beside the workspace stays there.
    write(robot.dir / "nav/hello", "changed\n")
    robot.up()
    robot.wait_for_line("changed")
    assert robot.ps["nav"]["pid"] == pid
    robot.sh("echo mine > /tmp/mine")
    assert not os.path.exists("/tmp/mine")
    # It ends in order, and with `down` everything is gone.
    assert "is in use" in robot.inlay("umount", robot.ws, code=1).err
    robot.inlay("down", cwd=robot.dir)
    assert "told to end" in robot.log() and robot.containers == []
    assert mounts_below(robot.root) == []
    robot.up()
    assert robot.sh("cat /tmp/mine").out == "mine\n"
    robot.inlay("down", "--purge", cwd=robot.dir)
    assert mounts_below(robot.root) == [] and list((robot.inlay.state / "host/ws").rglob("roots/*/upper")) == []


def test_the_image_s_own_command_user_and_no_entrypoint(robot):
    robot.image()
    robot.project("run: {}\nentrypoint: []\nuser: 'root:video'")
    robot.up()
    robot.wait_for_line("own command in /home/nav")
    assert robot.sh("id -u; id -g").out == "0\n44\n"
    # It left SIGTERM at its default, which the kernel would not deliver to the first process of a container.
    before = time.monotonic()
    robot.inlay("stop", robot.ws, "nav")
    assert time.monotonic() - before < 8
    # Nor would it to one that tidies up and then sends the signal to itself again, as node does.
    robot.project("run: \"trap 'trap - TERM; kill -TERM $$' TERM; echo ready; while :; do sleep 0.1; done\"")
    robot.up()
    robot.wait_for_line("ready")
    before = time.monotonic()
    robot.inlay("stop", robot.ws, "nav")
    assert time.monotonic() - before < 8
    robot.project("run: {}\nentrypoint: []\nuser: 'root:video'")
    # Without a container to enter, one is made; its exit code is the command's.
    assert robot.sh("echo $FROM; exit 3", code=3).out == "image\n" and robot.containers == []


def test_a_remount_reaches_a_container_that_runs(robot):
    robot.image()
    robot.project("ignore: []")
    robot.up()
    # What lies below the mount would be seen in a moment of nothing.
    robot.inlay("down", cwd=robot.dir)
    below = next((robot.inlay.state / "host/ws").glob("*/roots/*/upper"))
    write(below / str(robot.ws)[1:] / "below", "")
    robot.up()
    # It looks at the workspace by its path only.
    loop = robot.start(f"cd /; w={robot.ws}; echo up; (while :; do [ -e $w/below ] && echo GAP; done) & "
                       "while :; do cat $w/hello $w/seen 2>&1; sleep 0.005; done")
    assert loop.stdout.readline() == b"up\n" and loop.stdout.readline() == b"hello\n"
    for round in range(4):
        # The one of before `down` may still be ending.
        worker, = until(lambda: len(robot.inlay.worker_pids()) == 1 and robot.inlay.worker_pids())
        os.kill(worker, signal.SIGKILL)
        until(lambda: robot.inlay.worker_pids() not in ([], [worker]))
        until(lambda: robot.inlay("status", "--json", robot.ws).json["mounted"])
        if round % 3:
            continue
        write(robot.dir / "nav/seen", f"round {round}\n")
        robot.up()
        line = b""
        while line != f"round {round}\n".encode():
            line = loop.stdout.readline()
            assert line and line != b"GAP\n", loop.stderr.read()
    # One mount for each, not a pile.
    assert len([p for p in mounts_below(robot.root) if p.endswith(b"/ws")]) == 2
    loop.terminate()
    loop.wait()


def test_programs_survive_deaths(robot):
    robot.image()
    robot.project(f"run: {json.dumps(LOOP)}")
    robot.up()
    pid = robot.ps["nav"]["pid"]
    # The keeper dies: nothing changes.
    os.kill(robot.inlay.keeper_pid(), signal.SIGKILL)
    until(lambda: robot.inlay.keeper_pid() is None)
    assert robot.ps["nav"]["pid"] == pid and robot.sh("cat hello").out == "hello\n"
    # The supervisor dies: its container goes before another one starts.
    both = pids_with(f"supervise --dir {robot.inlay.state}/host")
    supervisor, = [p for p in both if parent(p) not in both]
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: gone(pid))
    now = until(lambda: robot.ps["nav"]["pid"] not in (0, pid) and robot.ps["nav"]["pid"])
    assert len(robot.containers) == 1
    # The worker dies: what had its working directory there is started in the new mount.
    os.kill(robot.inlay.worker_pids()[0], signal.SIGKILL)
    until(lambda: robot.ps["nav"]["pid"] not in (0, now))
    assert robot.sh("cat hello").out == "hello\n"
    # All of it at once, and the mounts, as a reboot would have it.
    for old in ([robot.inlay.keeper_pid()] + pids_with(f"supervise --dir {robot.inlay.state}/host")
                + robot.inlay.worker_pids() + [robot.ps["nav"]["pid"]]):
        with contextlib.suppress(OSError):
            os.kill(old, signal.SIGKILL)
    until(lambda: not pids_with(f"--state {robot.inlay.state}/host"))
    for point in mounts_below(robot.root):
        subprocess.run(["umount", "-l", point])
    robot.inlay("status")
    until(lambda: robot.ps["nav"]["state"] == "running")
    assert robot.sh("cat hello /etc/marker").out == "hello\none\n"


def test_another_image_and_back(robot):
    one = robot.image()
    robot.project(f"run: {json.dumps(LOOP)}")
    robot.up()
    robot.wait_for_line("in one")
    robot.sh("echo by hand > /tmp/by-hand")
    two = robot.image("two", dict(CONFIG, User="root", Env=["PATH=/bin", "FROM=two"]))
    assert one != two
    robot.up()
    robot.wait_for_line("up as 0 in two")
    assert robot.sh("cat /tmp/by-hand; echo $FROM", code=0).out == "two\n" and len(robot.containers) == 1
    # Once more changes nothing.
    pid = robot.ps["nav"]["pid"]
    robot.up()
    assert robot.ps["nav"]["pid"] == pid
    robot.inlay("rollback", "--image", robot.ws)
    until(lambda: robot.sh("cat /etc/marker /tmp/by-hand; echo $FROM", code=None).out == "one\nby hand\nimage\n")
    assert len([p for p in mounts_below(robot.root) if p.endswith(b"/m")]) == 1
    robot.image("three")
    robot.up()
    assert robot.sh("cat /etc/marker").out == "three\n"
    # The third one takes the place of the second.
    assert len(list((robot.inlay.state / "host/ws").glob("*/roots/*"))) == 2


def test_without_an_image_again(robot):
    robot.image()
    robot.project(f"run: {json.dumps(LOOP)}")
    robot.up()
    robot.wait_for_line("up as 1000 in one")
    robot.project("run: 'echo outside; exec sleep 3333'")
    path = robot.dir / "inlay.yaml"
    path.write_text(path.read_text().replace("image: robot\n", ""))
    robot.up()
    robot.wait_for_line("outside")
    pid = robot.ps["nav"]["pid"]
    assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid") and robot.containers == []
    assert robot.sh("pwd; cat /etc/marker", code=1).out == f"{robot.ws}\n"
    assert [p for p in mounts_below(robot.root)] == [os.fsencode(robot.ws)]


def test_devices(robot):
    """/dev/fuse: one that a runtime gives nobody unless it is told to."""
    robot.image()
    script = "[ -c /dev/fuse ] && : 3<>/dev/fuse && echo opened; exec sleep 3333"
    for runtime in ("runc", "podman")[:2 if shutil.which("podman") else 1]:
        robot.project(f"runtime: {runtime}\nuser: root\ndevices: [/dev/fuse]\nrun: {json.dumps(script)}")
        robot.up()
        until(lambda: "opened" in robot.log())
        robot.inlay("down", "--purge", cwd=robot.dir)
    robot.project(f"user: root\nrun: {json.dumps(script.replace('&& echo', '|| echo not'))}")
    robot.up()
    robot.wait_for_line("not opened")


def test_a_hook_that_hangs_takes_its_container_along(robot):
    robot.image()
    robot.project("build: {run: 'trap \"\" TERM; echo begun; sleep 3333; sleep 3333', timeout: 300ms}")
    assert "begun" in robot.up(code=1).out
    until(lambda: robot.containers == [])
    assert list((robot.inlay.state / "host/ws").glob("*/once/*")) == []


def test_what_is_refused(robot):
    robot.image()
    robot.project("run: sleep 3333\nuser: nobody-here")
    assert robot.up(code=0)
    robot.wait_for_line("the image has no user 'nobody-here'")
    robot.inlay("down", cwd=robot.dir)
    robot.project("run: sleep 3333", image="other")
    assert "there is no image other for linux/" in robot.up(code=1).err
    robot.project("run: {}", image="{variant: dev}")
    assert "needs a name" in robot.up(code=2).err


def test_links_of_an_image_lead_nowhere(robot):
    """The image has a symlink where the workspace goes: it is followed inside the root, never on the host."""
    outside = robot.root / "outside"
    outside.mkdir()
    robot.image()
    robot.project("build: pwd")
    manifest = robot.image("linked")
    robot.inlay("image", "push", "robot", "local")
    tree = robot.inlay.state / "host/images" / manifest / "root"
    top = str(robot.root).split("/")[1]
    if (tree / top).is_dir():
        shutil.rmtree(tree / top)
    os.symlink("../" * 20 + str(outside)[1:], tree / top)
    robot.up(code=None)
    assert list(outside.iterdir()) == []
    assert not [p for p in mounts_below(outside)]


def test_a_terminal(robot):
    robot.image()
    robot.project("build: pwd")
    robot.up()
    master, slave = pty.openpty()
    p = subprocess.Popen([INLAY, "shell", robot.ws], env=robot.inlay.env, stdin=slave, stdout=slave,
                         stderr=slave, start_new_session=True)
    os.close(slave)
    os.write(master, b"tty; id -u; pwd; exit 5\r")
    said = b""
    with contextlib.suppress(OSError):
        while data := os.read(master, 4096):
            said += data
    os.close(master)
    assert p.wait(20) == 5
    assert b"/dev/pts/0" in said and b"1000" in said and os.fsencode(robot.ws) in said


@pytest.fixture
def podman():
    if not shutil.which("podman"):
        pytest.skip("needs podman")


def test_podman_as_the_runtime(robot, podman):
    robot.image()
    robot.project(f"runtime: podman\nrun: {json.dumps(LOOP)}\nenv: {{COLOUR: blue}}")
    robot.up()
    robot.wait_for_line("up as 1000 in one")
    names = subprocess.run(["podman", "ps", "--format", "{{.Names}}"], capture_output=True, text=True).stdout
    assert names.splitlines().count(f"inlay-{robot.id}-nav") == 1
    assert robot.sh("cat hello; echo $COLOUR").out == "hello\nblue\n"
    # What it runs in sees what is mounted anew: it is started in there.
    os.kill(robot.inlay.worker_pids()[0], signal.SIGKILL)
    until(lambda: robot.log().count("up as 1000 in one") == 2)
    robot.inlay("down", cwd=robot.dir)
    assert "told to end" in robot.log()
    names = subprocess.run(["podman", "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True).stdout
    assert f"inlay-{robot.id}-nav" not in names


def test_a_container_of_somebody_else(inlay, root, src, runc, podman):
    """The line of docs/project.md for docker and compose: -v DIR:/ws:rslave, with DIR a shared mount."""
    tree = root / "tree"
    archive = write(root / "rootfs.tar", images.rootfs())
    inlay("image", "import", archive, tree)
    write(src / "hello", "one\n")
    above = root / "above"
    above.mkdir()

    def shared():
        return [r["text"] for r in inlay("doctor", "--json", code=None).rows if r.get("check") == "shared"]
    subprocess.run(["mount", "--bind", above, above], check=True)
    subprocess.run(["mount", "--make-private", above], check=True)
    inlay.sync(src, above / "nav")
    assert "not on a shared mount" in shared()[0]
    inlay("umount", above / "nav")
    subprocess.run(["mount", "--make-shared", above], check=True)
    inlay("mount", above / "nav")
    assert f"-v {above}:/ws:rslave" in shared()[0] and "not on" not in shared()[0]
    name = f"inlay-test-{root.name}"
    loop = subprocess.Popen(["podman", "--runtime", "runc", "run", "--rm", "--name", name, "--network=host",
                             "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "-v", f"{above}:/ws:rslave", "--rootfs", tree,
                             "sh", "-c", "while :; do cat /ws/nav/hello 2>/dev/null; sleep 0.01; done"],
                            stdout=subprocess.PIPE)
    try:
        assert loop.stdout.readline() == b"one\n"
        worker, = inlay.worker_pids()
        os.kill(worker, signal.SIGKILL)
        until(lambda: inlay.worker_pids() not in ([], [worker]))
        write(src / "hello", "two\n")
        inlay.sync(src, above / "nav")
        line = b""
        while line != b"two\n":
            line = loop.stdout.readline()
            assert line
    finally:
        subprocess.run(["podman", "rm", "--force", "--time", "0", name], capture_output=True)
        loop.wait()


def test_from_a_recipe_to_a_process_on_a_host(remote, root, sshd, runc):
    """One command: built (once), pushed (once), run; then a change of code, for which nothing is built."""
    if not shutil.which("buildah"):
        pytest.skip("needs buildah")
    r = Robot(remote, root)
    recipe = r.dir / "images/robot"
    write(recipe / "rootfs.tar", images.rootfs())
    write(recipe / "Containerfile", "FROM scratch AS prod\nADD rootfs.tar /\nENV PATH=/bin WHICH=one\n"
          "FROM prod AS dev\nENV WHICH=dev\n")
    r.project(f"run: {json.dumps('echo $WHICH; ' + LOOP)}", image="{build: images/robot, variant: dev}")
    path = r.dir / "inlay.yaml"
    path.write_text(path.read_text().replace("[local]", "[testhost]"))
    try:
        inside = ["exec", "-e", sshd.ssh, f"testhost:{r.ws}", "--", "sh", "-c"]
        first = r.up()
        assert "built" in first.out + first.err and " sent, " in first.out + first.err
        assert remote(*inside, "echo $WHICH $(cat hello)").out == "dev hello\n"
        write(r.dir / "nav/hello", "changed\n")
        second = r.up()
        assert "unchanged" in second.out + second.err and " sent, " not in second.out + second.err
        assert remote(*inside, "echo $WHICH $(cat hello)").out == "dev changed\n"
        assert len(r.containers) == 1
    finally:
        r.end()


def test_a_change_that_rebuilds_the_image(inlay, root, runc):
    """While `up` runs: a path that matches builds the image anew, which comes to the host; the program runs in it."""
    if not shutil.which("buildah"):
        pytest.skip("needs buildah")
    r = Robot(inlay, root)
    recipe = r.dir / "images/robot"
    write(recipe / "rootfs.tar", images.rootfs())
    write(recipe / "Containerfile", "FROM scratch\nADD rootfs.tar /\nENV PATH=/bin\n")
    r.project(f"run: {json.dumps(LOOP)}\nreload: [{{match: package.xml, rebuild-base: true}}]", image="{build: images/robot}")
    up = inlay.start("up", "--json", "--trust", cwd=r.dir)
    seen, ends = [], []
    try:
        def read_until(**wanted):
            for line in up.stdout:
                seen.append(json.loads(line))
                if all(seen[-1].get(k) == v for k, v in wanted.items()):
                    return seen[-1]
            raise AssertionError(seen)

        read_until(event="ready")
        r.wait_for_line("in one")
        write(recipe / "rootfs.tar", images.rootfs("two"))
        # What does not match leaves the image alone.
        write(r.dir / "nav/hello", "changed\n")
        read_until(event="done")
        assert not [e for e in seen if e["event"] == "hook-begin"]
        write(r.dir / "nav/package.xml", "<package/>\n")
        ends.append(read_until(event="hook-end", step="reload 1"))
        r.wait_for_line("in two")
        assert r.sh("cat /etc/marker hello").out == "two\nchanged\n"
        # A recipe that does not build is told, and the old image goes on.
        write(recipe / "Containerfile", "FROM scratch\nRUN no\n")
        write(r.dir / "nav/package.xml", "<package>\n")
        ends.append(read_until(event="hook-end", step="reload 1"))
        assert "building the image did not go well" in read_until(event="failed")["text"]
        assert [e["ok"] for e in ends] == [True, False]
        assert r.sh("cat /etc/marker").out == "two\n"
    finally:
        up.terminate()
        up.wait()
        r.end()
