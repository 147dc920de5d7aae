# SPDX-License-Identifier: Apache-2.0
"""The libssh2 transport: keys, known_hosts, what it leaves to ssh, its jail, and much data through rekeying."""
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import threading

import pytest

from conftest import BUILD, INLAY, PATIENCE, Inlay, tree, until, write
from test_watch import Watch


@pytest.fixture
def remote(root, sshd):
    return Inlay(root, {"INLAY_SSH": sshd.ssh, "INLAY_TRANSPORT": "libssh2"})


def keygen(sshd, name, *args, passphrase=""):
    subprocess.run(["ssh-keygen", "-q", "-N", passphrase, "-f", sshd.dir / name, *args], check=True)
    with open(sshd.dir / "authorized_keys", "a") as f:
        f.write((sshd.dir / f"{name}.pub").read_text())


def status(remote, **kw):
    """A question that needs no workspace: any answer from the host will do."""
    return remote("status", "testhost:never-synced", **kw)


def reached(result):
    return "nothing was ever synced" in result.err


@pytest.fixture
def child(root, sshd):
    """Starts the transport's process by itself, with a command of the test's."""
    started = []

    def start(command, **kw):
        answer = subprocess.run([*sshd.ssh.split(), "-G", "testhost"], capture_output=True, check=True).stdout
        fd = os.memfd_create("settings", 0)
        os.write(fd, b"inlay-command " + command.encode() + b"\n" + answer)

        def give():
            os.dup2(fd, 3)

        p = subprocess.Popen([INLAY, "_ssh2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, preexec_fn=give, pass_fds=[3], **kw)
        os.close(fd)
        started.append(p)
        return p

    yield start
    for p in started:
        p.kill()
        p.wait()


@pytest.mark.parametrize("bits", ["256", "384", "521"])
def test_ecdsa_keys(remote, sshd, bits):
    keygen(sshd, "ecdsa", "-t", "ecdsa", "-b", bits)
    keygen(sshd, "ecdsahost", "-t", "ecdsa", "-b", bits)
    sshd.configure(f"HostKey {sshd.dir}/ecdsahost")
    sshd.write_config(key="ecdsa", known="ecdsahost.pub")
    assert reached(status(remote, code=1))


def test_pem_key(remote, sshd):
    keygen(sshd, "pem", "-t", "ecdsa", "-m", "PEM")
    sshd.write_config(key="pem")
    assert reached(status(remote, code=1))


def test_the_host_shows_the_key_that_is_known(remote, sshd):
    """It has an ed25519 key as well, which libssh2 would like better."""
    keygen(sshd, "ecdsahost", "-t", "ecdsa")
    sshd.configure(f"HostKey {sshd.dir}/ecdsahost")
    sshd.write_config(known="ecdsahost.pub")
    assert reached(status(remote, code=1))
    sshd.write_config(known="host.pub")
    assert reached(status(remote, code=1))


@pytest.fixture
def agent(root, remote, sshd):
    """An ssh-agent with the user's key, which then has no file any more."""
    path = root / "agent"
    p = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    until(path.exists, what="the agent")
    env = dict(os.environ, SSH_AUTH_SOCK=str(path))
    subprocess.run(["ssh-add", "-q", sshd.dir / "other"], env=env, check=True)
    subprocess.run(["ssh-add", "-q", sshd.dir / "user"], env=env, check=True)
    (sshd.dir / "user").unlink()
    remote.env["SSH_AUTH_SOCK"] = str(path)
    yield path
    p.terminate()
    p.wait()


def test_agent(remote, sshd, agent):
    assert reached(status(remote, code=1))


def test_agent_of_the_configuration(remote, sshd, agent):
    del remote.env["SSH_AUTH_SOCK"]
    sshd.client(f"IdentityAgent {agent}")
    assert reached(status(remote, code=1))
    sshd.client("IdentityAgent none")
    assert "Permission denied" in status(remote, code=5).err


def test_agent_with_identities_only(remote, sshd, agent):
    """Of the agent's keys only the one whose .pub is configured."""
    sshd.write_config(key="other")
    r = status(remote, code=5)
    assert "Permission denied" in r.err and "in the agent" in r.err
    sshd.client("IdentitiesOnly no")
    assert reached(status(remote, code=1))


def test_hashed_known_hosts(remote, sshd):
    known = sshd.dir / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, stderr=subprocess.DEVNULL)
    assert known.read_text().startswith("|1|")
    assert reached(status(remote, code=1))
    sshd.write_config(known="other.pub")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, stderr=subprocess.DEVNULL)
    r = status(remote, code=5)
    assert "Host key verification failed" in r.err and "find out why" in r.err


def test_the_port_is_part_of_the_name(remote, sshd):
    """Without HostKeyAlias a host on another port is [name]:port, and the bare name does not count."""
    key = " ".join((sshd.dir / "host.pub").read_text().split()[:2])
    config = sshd.dir / "config"
    config.write_text(config.read_text().replace("HostKeyAlias inlay-test", ""))
    (sshd.dir / "known_hosts").write_text(f"127.0.0.1 {key}\n")
    assert "is not in known_hosts" in status(remote, code=5).err
    (sshd.dir / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {key}\n")
    assert reached(status(remote, code=1))


def test_unknown_host(remote, sshd):
    (sshd.dir / "known_hosts").write_text("")
    r = status(remote, code=5)
    assert "is not in known_hosts" in r.err and "Connect once with ssh" in r.err


@pytest.mark.parametrize("line,word", [
    ("@revoked inlay-test {other}", "@revoked"), ("@cert-authority inlay-* {other}", "@cert-authority"),
    ("@revoked |1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= {other}", "@revoked"),
    ("inlay-t?st {host}", "a pattern")])
def test_what_only_ssh_understands(remote, sshd, line, word):
    keys = {n: " ".join((sshd.dir / f"{n}.pub").read_text().split()[:2]) for n in ("host", "other")}
    known = sshd.dir / "known_hosts"
    known.write_text(known.read_text() + line.format(**keys) + "\n")
    r = status(remote, code=5)
    assert word in r.err and "openssh" in r.err
    # Of another host it says nothing.
    sshd.write_config()
    if "|" not in line:
        known.write_text(known.read_text() + line.replace("inlay-", "other-").format(**keys) + "\n")
        assert reached(status(remote, code=1))


def test_a_revoked_key_is_refused_in_auto(remote, sshd):
    key = " ".join((sshd.dir / "host.pub").read_text().split()[:2])
    (sshd.dir / "known_hosts").write_text(f"inlay-test {key}\n@revoked inlay-test {key}\n")
    remote.env["INLAY_TRANSPORT"] = "auto"
    r = remote("status", *3 * ["testhost:x"], code=5)
    assert "using ssh" in r.err and "Host key verification failed" in r.err


@pytest.mark.parametrize("how,word", [
    (["-t", "rsa", "-b", "2048"], "ssh-rsa"), (["-t", "rsa", "-b", "2048", "-m", "PEM"], "ssh-rsa"),
    (["-t", "ed25519"], "passphrase"), (["-t", "ecdsa", "-m", "PEM"], "passphrase")])
def test_keys_that_it_cannot_use(remote, sshd, how, word):
    keygen(sshd, "odd", *how, passphrase="secret" if word == "passphrase" else "")
    sshd.write_config(key="odd")
    r = status(remote, code=5)
    assert "cannot use your keys" in r.err and word in r.err


def test_rsa_key_goes_over_ssh_in_auto(remote, sshd):
    keygen(sshd, "rsa", "-t", "rsa", "-b", "2048")
    sshd.write_config(key="rsa")
    remote.env["INLAY_TRANSPORT"] = "auto"
    r = remote("status", *3 * ["testhost:x"], code=1)
    assert r.err.count("using ssh") == 1 and reached(r)


HARD = ["Ciphers aes128-gcm@openssh.com,chacha20-poly1305@openssh.com",
        "MACs hmac-sha2-256-etm@openssh.com", "KexAlgorithms sntrup761x25519-sha512@openssh.com"]


@pytest.mark.parametrize("line", HARD)
def test_hardened_server(remote, sshd, line):
    sshd.configure(line)
    r = status(remote, code=5)
    assert "have no cipher, MAC or key exchange in common" in r.err and "--transport" in r.err
    # The client's own configuration may be as hard.
    sshd.client(line)
    assert "of those that your ssh configuration allows" in status(remote, code=5).err
    remote.env["INLAY_TRANSPORT"] = "auto"
    r = remote("status", *3 * ["testhost:x"], code=1)
    assert r.err.count("using ssh") == 1 and reached(r)


@pytest.mark.parametrize("line,word", [
    ("ProxyJump other", "ProxyJump"), ("ProxyCommand nc %h %p", "ProxyCommand"),
    ("ControlPath /tmp/none-%C", "ControlPath"), ("CertificateFile /nonexistent", "CertificateFile"),
    ("RevokedHostKeys /nonexistent", "RevokedHostKeys"), ("PubkeyAuthentication no", "Pubkey"),
    ("IdentityFile ~/%h", "token")])
def test_configuration_that_it_cannot_honour(remote, sshd, line, word):
    sshd.client(line)
    r = status(remote, code=5)
    assert word in r.err and "openssh" in r.err


def test_which_transport(remote, sshd):
    remote.env["INLAY_TRANSPORT"] = "carrier-pigeon"
    assert "carrier-pigeon" in status(remote, code=2).err
    remote.env["INLAY_TRANSPORT"] = "local"
    assert "is a host" in status(remote, code=2).err
    r = status(remote, code=1) if remote.env.update(INLAY_TRANSPORT="") else remote(
        "status", "--transport", "libssh2", "testhost:x", code=1)
    assert reached(r)


def test_a_stand_in_for_ssh_is_used_in_auto(remote, sshd, root):
    """A program that is no ssh cannot be asked with -G."""
    script = write(root / "connect", f"#!/bin/sh\necho used >>{root}/used\nexec {sshd.ssh} \"$@\"\n")
    script.chmod(0o755)
    remote.env.update(INLAY_SSH=str(script), INLAY_TRANSPORT="auto")
    remote("status", *3 * ["testhost:x"], code=1)
    assert (root / "used").read_text().count("used") == 5    # two more to bring the agent


def test_many_hosts_take_libssh2(remote, sshd, root):
    """ssh is asked for its configuration and not used for anything else."""
    script = write(root / "bin/ssh", f"#!/bin/sh\nprintf '%s\\n' \"$*\" >>{root}/used\nexec {sshd.ssh} \"$@\"\n")
    script.chmod(0o755)
    remote.env.update(INLAY_SSH=str(script), INLAY_TRANSPORT="auto")
    assert reached(remote("status", *3 * ["testhost:x"], code=1))
    assert all("-G" in line for line in (root / "used").read_text().splitlines())


def test_mute_server(remote, sshd):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        sshd.write_config(port=s.getsockname()[1])
        sshd.client("ConnectTimeout 1")
        assert "timed out during the key exchange" in status(remote, code=5).err


def test_no_such_name(remote, sshd):
    sshd.client("HostName nonexistent.invalid")
    assert "Could not resolve hostname" in status(remote, code=5).err


def test_ipv6(remote, sshd):
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as s:
        s.bind(("::1", sshd.port))
        s.close()
        sshd.configure(f"ListenAddress [::1]:{sshd.port}")
        sshd.client("HostName ::1")
        assert reached(status(remote, code=1))
        return
    pytest.skip("no IPv6 here")


def test_jail(child, sshd):
    p = child("echo ready; cat")
    assert p.stdout.readline() == b"ready\n"
    text = open(f"/proc/{p.pid}/status").read()
    if os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):
        assert re.search(r"^Seccomp:\s*2$", text, re.M)
    assert re.search(r"^NoNewPrivs:\s*1$", text, re.M)
    limits = open(f"/proc/{p.pid}/limits").read()
    assert re.search(r"^Max open files\s+16\s+16", limits, re.M)
    # The standard streams and the socket: no key, no directory, no agent is open.
    kinds = sorted(os.readlink(f"/proc/{p.pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{p.pid}/fd"))
    assert kinds == ["pipe", "pipe", "pipe", "socket"], kinds
    p.stdin.close()
    assert p.wait() == 0


def test_exit_codes_and_streams(child, sshd):
    p = child("cat >&2; exit 7")
    out, err = p.communicate(b"to standard error", timeout=PATIENCE)
    assert (p.returncode, out, err) == (7, b"", b"to standard error")
    p = child("kill -9 $$")
    _, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 255 and b"signal KILL" in err


def test_much_data_both_ways_with_rekeying(child, sshd):
    """The server asks for new keys after every 4 MiB, while both directions are full."""
    sshd.configure("RekeyLimit 4M")
    p = child("cat")
    block = os.urandom(1 << 20)

    def feed():
        for _ in range(64):
            p.stdin.write(block)
        p.stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    for i in range(64):
        assert p.stdout.read(1 << 20) == block, i
    feeder.join()
    assert p.stdout.read() == b"" and p.wait(PATIENCE) == 0


def test_slow_reader(child, sshd):
    """What is not taken stays with the server; what is sent goes on arriving."""
    p = child("head -c 40000000 /dev/zero; sha256sum >&2")
    p.stdin.write(b"x" * 500_000)
    p.stdin.close()
    rss = max(int(re.search(r"VmRSS:\s*(\d+)", open(f"/proc/{p.pid}/status").read())[1]) for _ in range(5))
    assert len(p.stdout.read()) == 40_000_000
    assert p.wait(PATIENCE) == 0 and len(p.stderr.read()) > 64
    assert rss < 400_000


def test_nothing_is_left_lying(child):
    """What comes while the transport looks at the other stream is not left there until more comes, which with
    Debian's BatchMode (ServerAliveInterval 300) is five minutes."""
    p = child("while read t; do sleep $t; echo $t; done", env=dict(
        os.environ, LD_PRELOAD=str(BUILD / "tests/slow-stderr.so"),
        ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"))
    for ms in [0, *range(4, 28, 3)]:
        p.stdin.write(f"0.{ms:03}\n".encode())
        p.stdin.flush()
        assert select.select([p.stdout], [], [], 60)[0]
        assert p.stdout.readline() == f"0.{ms:03}\n".encode(), p.stderr.read()
    p.stdin.close()
    assert p.wait(PATIENCE) == 0


def sessions(sshd):
    """The daemon's children: one for each connection, which has its keys and its socket."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout.splitlines()
    return [int(pid) for pid, ppid in map(str.split, lines) if int(ppid) == sshd.process.pid]


def test_lost_connection(child, sshd):
    p = child("echo ready; cat")
    assert p.stdout.readline() == b"ready\n"
    for pid in sessions(sshd):
        os.kill(pid, signal.SIGKILL)
    assert p.wait(PATIENCE) == 255
    assert b"was lost" in p.stderr.read()


def test_quiet_connection_is_kept(child, sshd):
    """Silence for longer than a dead host is given (6 s); the answers to keepalives count."""
    sshd.client("ServerAliveInterval 1", "ServerAliveCountMax 2")
    p = child("sleep 8; cat")
    out, err = p.communicate(b"still there", timeout=PATIENCE)
    assert (p.returncode, out, err) == (0, b"still there", b"")


def test_dead_host(child, sshd):
    sshd.client("ServerAliveInterval 1", "ServerAliveCountMax 2")
    p = child("echo ready; cat")
    assert p.stdout.readline() == b"ready\n"
    stopped = sessions(sshd)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert p.wait(PATIENCE) == 255
        assert b"does not answer any more" in p.stderr.read()
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("fuse")
def test_watch_reconnects(remote, sshd, src, root):
    """A live session over three targets takes libssh2; cut, it comes back."""
    script = write(root / "bin/ssh", f"#!/bin/sh\nprintf '%s\\n' \"$*\" >>{root}/used\nexec {sshd.ssh} \"$@\"\n")
    script.chmod(0o755)
    remote.env.update(INLAY_SSH=str(script), INLAY_TRANSPORT="auto")
    write(src / "a", "one")
    targets = [f"testhost:ws{i}" for i in range(3)]
    w = Watch(remote, "--no-boot", src, *targets)
    try:
        shown = lambda text: all((sshd.home / f"ws{i}/a").exists() and (sshd.home / f"ws{i}/a").read_text() == text
                                 for i in range(3))
        until(lambda: shown("one"), what="the first change set")
        for pid in sessions(sshd):
            os.kill(pid, signal.SIGKILL)
        write(src / "a", "two")
        until(lambda: shown("two"), what="the change set after the cut")
    finally:
        assert w.end() == 0
    assert all("-G" in line for line in (root / "used").read_text().splitlines())


@pytest.mark.usefixtures("fuse")
def test_bulk_sync(remote, sshd, src):
    sshd.configure("RekeyLimit 1M")
    for i in range(8):
        write(src / f"f{i}", os.urandom(3_000_000))
    remote.sync(src, "testhost:ws")
    assert tree(sshd.home / "ws") == tree(src)


@pytest.mark.usefixtures("fuse")
@pytest.mark.parametrize("count", [2, 3])
def test_components_on_many_hosts(remote, sshd, root, count):
    """ssh connects for two hosts; for three it is asked for its configuration only, by whatever name they go."""
    (sshd.dir / "config").write_text((sshd.dir / "config").read_text().replace("Host testhost", "Host testhost*"))
    script = write(root / "bin/ssh", f"#!/bin/sh\nprintf '%s\\n' \"$*\" >>{root}/used\nexec {sshd.ssh} \"$@\"\n")
    script.chmod(0o755)
    remote.env.update(INLAY_SSH=str(script), INLAY_TRANSPORT="auto")
    hosts = [f"testhost{i}" for i in range(count)]
    write(root / "project/nav/a", "nav")
    write(root / "project/web/a", "web")
    components = "".join(f"  {c}:\n    source: {c}\n    target: {c}-ws\n    hosts: [{h}]\n"
                         for c, h in zip(["nav", "web", "more"], hosts))
    write(root / "project/more/a", "more")
    write(root / "project/inlay.yaml", f"version: 1\nhosts: [{', '.join(hosts)}]\ncomponents:\n{components}")
    remote("sync", "--no-boot", cwd=root / "project")
    assert (sshd.home / "nav-ws/a").read_text() == "nav" and (sshd.home / "web-ws/a").read_text() == "web"
    connects = [line for line in (root / "used").read_text().splitlines() if "-G" not in line]
    assert bool(connects) == (count == 2), connects
