# SPDX-License-Identifier: Apache-2.0
"""The live view of `inlay up` on a real terminal, and what `inlay status` tells of a project without asking anybody."""
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading

import pytest

from conftest import INLAY, PATIENCE, Inlay, until, write

pytestmark = pytest.mark.usefixtures("fuse")

PROJECT = """\
version: 1
hosts: [local]
components:
  nav:
    source: nav
    target: ws/nav
    build: {run: "test $(cat a) != bad && echo built $(cat a)"}
  web: {source: web, target: ws/web, needs: nav}
"""


class Terminal:
    """A pseudo terminal with a screen behind it that knows what the view uses."""

    def __init__(self, inlay, where, rows, columns, *args):
        self.lines, self.row, self.column, self.lock = [""], 0, 0, threading.Lock()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(where)
            os.execve(INLAY, ["inlay", *args], dict(inlay.env, TERM="xterm"))
        self.resize(rows, columns)
        threading.Thread(target=self.read, daemon=True).start()

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self):
        rest = ""
        while True:
            try:
                data = os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                return
            with self.lock:
                rest = self.take(rest + data)

    def take(self, text):
        while text:
            m = re.match(r"\033\[(\d*)([A-Za-z])", text)
            if m:
                self.control(int(m[1] or 0), m[2])
            elif text[0] == "\033":
                if len(text) < 8:
                    return text
                raise AssertionError(f"unknown sequence {text[:10]!r}")
            elif text[0] == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
            elif text[0] == "\r":
                self.column = 0
            else:
                self.put(text[0])
            text = text[len(m[0]) if m else 1:]
        return ""

    def put(self, c):
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[:self.column] + c + line[self.column + 1:]
        self.column += 1

    def control(self, n, what):
        if what == "A":
            self.row -= n
        elif what == "J":
            del self.lines[self.row + 1:]
            self.lines[self.row] = self.lines[self.row][:self.column]
        elif what == "K":
            self.lines[self.row] = ""
        else:
            assert what == "m", what

    def screen(self):
        with self.lock:
            return [line.rstrip() for line in self.lines if line.strip()]

    def row_of(self, *words):
        """The last line with that beginning, split; it stands below all that scrolls."""
        for line in reversed(self.screen()):
            if line.split()[:len(words)] == list(words):
                return line
        return ""

    def wait_row(self, *words, has=""):
        return until(lambda: re.search(has, self.row_of(*words)) and self.row_of(*words), PATIENCE,
                     f"{words} with {has!r}: {self.screen()}")

    def end(self):
        os.kill(self.pid, signal.SIGINT)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def project(root):
    inlay = Inlay(root)
    inlay.where = root / "project"
    write(inlay.where / "inlay.yaml", PROJECT)
    write(inlay.where / "nav/a", "one\n")
    write(inlay.where / "web/b", "two\n")
    yield inlay
    inlay("down", cwd=inlay.where, code=None)


def test_the_view_is_drawn_in_place(project):
    t = Terminal(project, project.where, 24, 100, "up", "--trust", "--no-boot")
    t.wait_row("local", "nav", "up")
    t.wait_row("local", "web", "up")
    head, nav, web = t.screen()[-3:]
    assert head.split() == ["HOST", "COMPONENT", "STATE", "GEN", "LAST", "CHANGE", "P50,", "HOOKS"]
    assert nav.startswith("local nav       up               1  ") and "build ok, " in nav
    # What was told scrolls above, once.
    assert sum("| built one" in line for line in t.screen()) == 1
    assert sum(line.startswith("local nav") for line in t.screen()) == 1
    # A change: generation, counts, latency; and a hook that fails.
    write(project.where / "nav/a", "three\n")
    t.wait_row("local", "nav", "up", "2", has=r"\+0 ~1 -0  [\d.]+ ms  build ok, ")
    until(lambda: any("| built three" in line for line in t.screen()))
    write(project.where / "nav/a", "bad\n")
    t.wait_row("local", "nav", "failed", "3", has="build did not go well")
    until(lambda: sum("build did not go well" in line for line in t.screen()) == 2)
    # Less room: a line for the host. No line is longer than the terminal.
    t.resize(6, 30)
    write(project.where / "nav/a", "good\n")
    t.wait_row("local", "2", "of", "2", "up,")
    assert len(t.row_of("local", "2")) < 30
    assert not t.row_of("local", "nav", "up")
    assert t.end() == 0
    until(lambda: not t.row_of("local", "2"))
    # The same for those who come later, from what is written down.
    site, = [s for s in project("status", "--json").rows if s.get("kind") == "site" and s["component"] == "nav"]
    assert (site["state"], site["generation"], site["runs"], site["host"]) == ("up", 4, False, "local")
    assert site["visible_p50_ms"] > 0 and site["last"].endswith("Z")
    hook, = site["hooks"]
    assert (hook["step"], hook["ok"], hook["exit"]) == ("build", True, 0) and hook["took_ms"] > 0
    assert re.search(r"local nav: up, generation 4, visible .* ms; build ok ", project("status").out)
    project("down", cwd=project.where)
    assert not [s for s in project("status", "--json").rows if s.get("kind") == "site"]


def test_a_project_that_runs_says_so(project):
    t = Terminal(project, project.where, 24, 100, "up", "--trust", "--no-boot")
    t.wait_row("local", "web", "up")
    sites = until(lambda: [s for s in project("status", "--json").rows
                           if s.get("kind") == "site" and s["state"] == "up"][1:])
    assert sites[0]["runs"]
    assert t.end() == 0


def test_lines_are_plain_when_piped(project):
    r = project("up", "--once", "--trust", "--no-boot", cwd=project.where)
    assert "\033" not in r.out and "local nav | built one" in r.out and "all is done" in r.out
