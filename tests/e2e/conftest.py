# SPDX-License-Identifier: Apache-2.0
"""End to end: the built programs, real mounts, a real sshd on a port of its own.

Nothing here waits by sleeping: `until` asks again until a condition holds or its deadline passes. Every
process, mount and directory that a test makes is ended with it, also when it fails.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

BUILD = pathlib.Path(os.environ.get("INLAY_BUILD", "build")).resolve()
INLAY = BUILD / "inlay"
MACHINE = os.uname().machine
INLAYD = BUILD / f"inlayd-{MACHINE}"


PATIENCE = 120  # seconds until what is waited for counts as never coming; no test measures time


def pytest_configure(config):
    config.addinivalue_line("markers", "release: long; not in the sanitized round of tests/run")


def until(condition, timeout=PATIENCE, what="it to happen"):
    """Polls a condition; what it gives is returned once it is true."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(0.005)


def mounts_below(path):
    """Mount points below a path, the deepest first, as the kernel lists them."""
    points = []
    for line in open("/proc/self/mountinfo", "rb"):
        point = line.split()[4].decode("unicode_escape").encode("latin1")
        if point == os.fsencode(path) or point.startswith(os.fsencode(path) + b"/"):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def pids_with(text):
    """Processes of ours whose command line contains the text."""
    found = []
    for p in os.listdir("/proc"):
        if p.isdigit() and int(p) != os.getpid():
            with contextlib.suppress(OSError):
                if text in open(f"/proc/{p}/cmdline", "rb").read().replace(b"\0", b" ").decode(
                        errors="replace"):
                    found.append(int(p))
    return found


class Result:
    def __init__(self, process):
        self.code = process.returncode
        self.out = process.stdout.decode(errors="surrogateescape")
        self.err = process.stderr.decode(errors="surrogateescape")

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def rows(self):
        return [json.loads(line) for line in self.out.splitlines()]


class Inlay:
    """The command line with a state directory and a home of its own."""

    def __init__(self, root, env=None):
        self.root = root
        self.state = root / "state"
        self.env = dict(os.environ, HOME=str(root / "home"), INLAY_STATE=str(self.state),
                        INLAY_AGENTS=str(BUILD), LC_ALL="C.UTF-8", **(env or {}))
        (root / "home").mkdir(exist_ok=True)

    def start(self, *args, **kw):
        return subprocess.Popen([str(INLAY), *map(os.fspath, args)], env=self.env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **kw)

    def __call__(self, *args, code=0, timeout=PATIENCE, **kw):
        """Runs a command; the exit code must be the given one (None: any)."""
        process = subprocess.run([str(INLAY), *map(os.fspath, args)], env=self.env,
                                 stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, **kw)
        r = Result(process)
        assert code is None or r.code == code, f"{args}: {r.code}\n{r.out}{r.err}"
        assert "Sanitizer" not in r.err, r.err
        return r

    def sync(self, src, dst, *args, **kw):
        """A sync with --json, parsed."""
        return self("sync", "--json", src, dst, *args, **kw).json

    @property
    def keeper_log(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.state / "host" / "keeper.log").read_text()
        return ""

    def keeper_pid(self):
        pids = pids_with(f"keep --state {self.state}/host")
        return pids[0] if pids else None

    def worker_pids(self):
        return pids_with(f"mount --workspace {self.state}/host/")

    def end(self):
        """Ends the keeper, the mounts and the workers of this state directory."""
        end_below(self.root)


def end_below(root):
    """Unmounts what is mounted below root and ends inlayd processes that work there."""
    for point in mounts_below(root):
        subprocess.run(["umount", "-l", os.fsdecode(point)], stderr=subprocess.DEVNULL)
    for pid in pids_with(str(root)):
        with contextlib.suppress(OSError):
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith(("inlayd", "sshd", "inlay")):
                os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        left = [p for p in pids_with(str(root)) if is_ours(p)]
        if not left:
            return
        time.sleep(0.01)
    for pid in pids_with(str(root)):
        if is_ours(pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def is_ours(pid):
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith(("inlay", "sshd"))
    return False


def sanitizer_reports(root):
    """What sanitizers said in the logs below root."""
    found = []
    for path in root.rglob("keeper.log*"):
        text = path.read_text(errors="replace")
        if "Sanitizer" in text or "runtime error" in text:
            found.append(f"{path}:\n{text}")
    return found


@pytest.fixture
def root():
    path = pathlib.Path(tempfile.mkdtemp(prefix="inlay-test-"))
    os.chmod(path, 0o755)
    yield path
    reports = None
    try:
        end_below(path)
        reports = sanitizer_reports(path)
    finally:
        for point in mounts_below(path):
            subprocess.run(["umount", "-l", os.fsdecode(point)])
        shutil.rmtree(path, ignore_errors=True)
    assert not reports, "\n".join(reports)


@pytest.fixture
def inlay(root):
    return Inlay(root)


@pytest.fixture
def src(root):
    path = root / "src"
    path.mkdir()
    return path


@pytest.fixture
def fuse():
    """The test needs to mount."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    if os.geteuid() != 0 and not shutil.which("fusermount3"):
        pytest.skip("needs root or fusermount3")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Sshd:
    """A real sshd on loopback with keys of its own; nothing of the user's ~/.ssh is touched."""

    def __init__(self, root):
        self.dir = root / "ssh"
        self.dir.mkdir()
        self.home = root / "remote-home"
        self.home.mkdir()
        for name in ("host", "user", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.dir / name],
                           check=True)
        shutil.copy(self.dir / "user.pub", self.dir / "authorized_keys")
        self.port = free_port()
        self.rc = self.dir / "rc"
        self.rc.write_text("")
        login = self.dir / "login"
        login.write_text("#!/bin/sh\n"
                         f"export HOME='{self.home}' INLAY_STATE= XDG_STATE_HOME= XDG_CACHE_HOME=\n"
                         f". '{self.rc}'\n"
                         'cd "$HOME" && exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
        login.chmod(0o755)
        (self.dir / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.dir}/host\n"
            f"AuthorizedKeysFile {self.dir}/authorized_keys\nStrictModes no\nUsePAM no\n"
            f"PidFile {self.dir}/sshd.pid\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"MaxStartups 100\nPrintMotd no\nUseDNS no\nLogLevel ERROR\nForceCommand {login}\n")
        self.write_config()
        os.makedirs("/run/sshd", exist_ok=True)
        self.process = None
        self.start()

    def write_config(self, key="user", port=None, known="host.pub"):
        host_key = (self.dir / known).read_text().split()[:2]
        (self.dir / "known_hosts").write_text("inlay-test " + " ".join(host_key) + "\n")
        (self.dir / "config").write_text(
            f"Host testhost\n HostName 127.0.0.1\n Port {port or self.port}\n HostKeyAlias inlay-test\n"
            f" IdentityFile {self.dir}/{key}\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {self.dir}/known_hosts\n BatchMode yes\n LogLevel ERROR\n")
        self.ssh = f"ssh -F {self.dir}/config"

    def configure(self, *lines):
        """Starts it again with these lines before its configuration (the first one counts)."""
        path = self.dir / "sshd_config"
        path.write_text("".join(line + "\n" for line in lines) + path.read_text())
        self.stop()
        self.start()

    def client(self, *lines):
        """Puts lines into the client's configuration of `testhost`."""
        path = self.dir / "config"
        path.write_text("Host testhost\n" + "".join(f" {line}\n" for line in lines) + path.read_text())

    def start(self):
        self.process = subprocess.Popen(
            [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", self.dir / "sshd_config"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.dir / "log", "a"))

        def listens():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True
        until(listens, what="sshd to listen")

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None


@pytest.fixture
def sshd(root):
    if not (shutil.which("sshd") or os.path.exists("/usr/sbin/sshd")):
        pytest.skip("needs sshd")
    s = Sshd(root)
    yield s
    s.stop()


@pytest.fixture
def remote(root, sshd):
    """inlay against `testhost`."""
    return Inlay(root, {"INLAY_SSH": sshd.ssh})


def tree(path, times=True):
    """Everything below a path, by name as bytes: type, mode, content or target, and mtime of files."""
    path = os.fsencode(path)
    found = {}
    for top, dirs, files in os.walk(path):
        for name in dirs + files:
            full = os.path.join(top, name)
            st = os.lstat(full)
            rel = os.path.relpath(full, path)
            kind = st.st_mode >> 12
            if kind == 0o12:
                found[rel] = ("link", os.readlink(full))
            elif kind == 0o4:
                found[rel] = ("dir", st.st_mode & 0o7777)
            else:
                with open(full, "rb") as f:
                    found[rel] = ("file", st.st_mode & 0o7777, f.read(),
                                  st.st_mtime_ns if times else 0)
    return found


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


class CutProxy:
    """Forwards to a port and cuts the connection after so many bytes towards it."""

    def __init__(self, port, limit):
        self.limit, self.target, self.up = limit, port, 0
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.open += [near, far]
                threading.Thread(target=self.pump, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self.pump, args=(far, near, False), daemon=True).start()

    def pump(self, source, sink, counted):
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if counted:
                    self.up += len(data)
                    if self.limit is not None and self.up > self.limit:
                        self.cut()
                        return
                sink.sendall(data)
        self.end(source)
        self.end(sink)

    @staticmethod
    def end(s):
        with contextlib.suppress(OSError):
            s.shutdown(socket.SHUT_RDWR)

    def cut(self):
        for s in self.open:
            self.end(s)

    def close(self):
        self.end(self.listener)
        self.listener.close()
        self.cut()
