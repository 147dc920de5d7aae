# SPDX-License-Identifier: Apache-2.0
"""Completion in real shells: Tab is pressed in bash and zsh on a terminal, fish is asked what it would offer."""
import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BUILD, write
from test_man import helps, options_of

PROMPT = "@ready@"
PROJECT = """\
version: 1
hosts: [bot1, "@lab"]
components:
  nav: {source: nav, target: ws/nav}
  web: {source: web, target: ws/web}
"""


@pytest.fixture
def place(inlay, root):
    """A project, hosts of ssh, a folder; the shells find inlay."""
    inlay.env.update(PATH=f"{BUILD}:{os.environ['PATH']}", TERM="dumb", EDITOR="emacs",
                     XDG_CONFIG_HOME=str(root / "config"))
    write(root / "p/inlay.yaml", PROJECT)
    write(root / "config/inlay/hosts.yaml", "groups: {lab: [bot2]}\n")
    write(root / "home/.ssh/config", "Host robot1 *.example\n  User me\nhost=depot\n")
    os.makedirs(root / "p/some-folder/inner")
    write(root / "p/some-file", "")
    return root / "p"


class Terminal:
    """An interactive shell on a terminal of its own."""

    def __init__(self, argv, env, cwd):
        ours, theirs = pty.openpty()
        self.fd = ours
        self.process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=cwd,
                                        start_new_session=True)
        os.close(theirs)

    def send(self, text, until):
        os.write(self.fd, text.encode())
        got, end = "", time.monotonic() + 30
        while not (found := re.search(until, got, re.S)):
            left = end - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], f"{text!r} gave {got!r}"
            got += os.read(self.fd, 65536).decode(errors="replace")
        return found

    def close(self):
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.fd)

    def tab(self, line):
        """The words that the line has become: printf is put in front of it, and tells."""
        found = self.send(f"{line}\001printf '%s|' '[' \r", r"\[\|(.*?)\|[^|]*" + PROMPT)
        return found[1].split("|")


STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "PS1=@rea'dy@'; source <(inlay completion bash)\r"),
    "zsh": (["zsh", "-f", "-i"], "PROMPT=@rea'dy@'; unsetopt prompt_sp prompt_cr auto_remove_slash; bindkey -e; autoload -U compinit; "
            "compinit -u -D; source <(inlay completion zsh)\r"),
}
CASES = [
    ("inlay watc\t", ["inlay", "watch"]),
    ("inlay image insp\t", ["inlay", "image", "inspect"]),
    ("inlay image build --refr\t", ["inlay", "image", "build", "--refresh-base"]),
    ("inlay sync --exclude-f\tx so\t", ["inlay", "sync", "--exclude-from", "x", "some-folder/"]),
    ("inlay config sch\t", ["inlay", "config", "schema"]),
    ("inlay up --once n\tw\t", ["inlay", "up", "--once", "nav", "web"]),
    ("inlay up -H bot1 --host bot2 --host=@l\t", ["inlay", "up", "-H", "bot1", "--host", "bot2", "--host=@lab"]),
    ("inlay log rob\tws", ["inlay", "log", "robot1:ws"]),
    ("inlay sync --state=some-fol\t", ["inlay", "sync", "--state=some-folder/"]),
    ("inlay exec depot:ws -- some-fi\t", ["inlay", "exec", "depot:ws", "--", "some-file"]),
    ("inlay run --restart on\t--stop-t\t5s", ["inlay", "run", "--restart", "on-failure", "--stop-timeout", "5s"]),
    ("inlay nothing x\t", ["inlay", "nothing", "x"]),
]


@pytest.mark.parametrize("shell", sorted(STARTS))
def test_tab(inlay, place, shell):
    argv, start = STARTS[shell]
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    terminal = Terminal(argv, inlay.env, place)
    try:
        terminal.send(start, PROMPT)
        assert [terminal.tab(line) for line, _ in CASES] == [words for _, words in CASES]
    finally:
        terminal.close()


def test_fish(inlay, place):
    if not shutil.which("fish"):
        pytest.skip("needs fish")

    def offered(line):
        r = subprocess.run(["fish", "--no-config", "-c", "inlay completion fish | source; complete -C $argv[1]", line],
                           env=inlay.env, cwd=place, capture_output=True, text=True, check=True)
        return [row.split("\t")[0] for row in r.stdout.splitlines()]

    assert offered("inlay watc") == ["watch"]
    assert offered("inlay image build --refr") == ["--refresh-base"]
    assert offered("inlay up --once ") == ["nav", "web"]
    assert offered("inlay up --host=@l") == ["--host=@lab"]
    assert offered("inlay log rob") == ["robot1:"]
    assert offered("inlay sync some") == ["some-folder/"]
    assert "some-file" in offered("inlay exec depot:ws -- some-f")
    assert offered("inlay watch -d")[:1] == ["-d"]


def words(inlay, *typed, **kw):
    return [row.split("\t")[0] for row in inlay("_complete", *typed, **kw).out.splitlines()]


def test_options_are_those_of_the_help(inlay):
    known = helps(inlay)
    del known["image"], known["why --build"]
    for name, text in known.items():
        assert set(words(inlay, *name.split(), "-")) == options_of(text), name
    assert set(words(inlay, "")) | {"image"} == {n for n in known if " " not in n} | {"image"}


def test_targets_that_were_synced_are_offered(inlay, place, src, root):
    write(src / "f", "x")
    inlay("sync", "--no-mount", src, root / "shown here")
    inlay("sync", "--no-mount", src, root / "would be\na line")
    assert words(inlay, "log", "") == [str(root / "shown here"), "robot1:", "depot:", ":dirs"]
    assert words(inlay, "watch", "--exclude", "") == []
    assert words(inlay, "watch", src, "x", "rob") == ["robot1:", ":dirs"]
    assert words(inlay, "log", src, "") == []


def test_values_that_a_help_text_lists(inlay):
    assert words(inlay, "sync", "--transport", "") == ["auto", "openssh", "libssh2"]
    assert words(inlay, "run", "--restart=") == ["--restart=always", "--restart=on-failure", "--restart=never"]
    assert words(inlay, "mount", "--owner", "") == ["squash", "keep"]
    assert words(inlay, "sync", "--xattrs", "") == ["on", "off"]
    assert words(inlay, "image", "build", "--builder", "d") == ["docker"]
    for typed in (("sync", "--bwlimit"), ("watch", "--poll"), ("image", "build", "--platform"), ("run", "-E")):
        assert words(inlay, *typed, "") == []


def test_odd_places_offer_nothing(inlay, place):
    for typed in ([], ["sync", "--nothing=", ""], ["x" * 5000, ""], ["sync", "--" + "x" * 5000 + "="],
                  ["image", "x", ""], ["\x1b[2J", ""]):
        assert words(inlay, *typed) in ([], [":dirs"]), typed
    write(place / "inlay.yaml", "version: [")
    assert words(inlay, "up", "", cwd=place) == []
    assert inlay("completion", "tcsh", code=2).err.startswith("inlay completion: bash, zsh or fish")
