# SPDX-License-Identifier: Apache-2.0
"""A project on two hosts: sync of components, up with builds, programs and reloads, build, down."""
import contextlib
import json
import os
import signal
import threading

import pytest

from conftest import PATIENCE, Inlay, Sshd, pids_with, tree, until, write

pytestmark = pytest.mark.usefixtures("fuse")

SERVER = """
import os, signal, sys
print("nav", open("config").read().strip(), os.environ["COLOUR"], flush=True)
signal.signal(signal.SIGHUP, lambda *_: print("hup", open("signalled").read().strip(), flush=True))
while True:
    signal.pause()
"""

PROJECT = """\
version: 1
hosts: [bot1, bot2]
components:
  web:
    source: web
    target: ws/web
    needs: nav
    build: {run: "cat *.txt > ../web.out; sleep 0; echo built $(cat *.txt)", inputs: ["*.txt"]}
    reload:
      - {match: ["*.js"], run: "echo changed: $(tr '\\\\0' ' ' < $INLAY_CHANGED); head -1 $INLAY_CHANGED_JSON"}
  nav:
    source: nav
    target: ws/nav
    env: {COLOUR: blue}
    run: {command: [python3, server.py], stop-timeout: 5s}
    reload:
      - {match: [config, "*.py"], restart: true}
      - {match: [signalled], signal: HUP}
    after: echo after $INLAY_OLD_GENERATION $INLAY_GENERATION
"""


class Up:
    """`inlay up --json` and what it has told so far."""

    def __init__(self, inlay, where, *args):
        self.events, self.changed = [], threading.Condition()
        self.process = inlay.start("up", "--json", *args, cwd=where)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.events.append(json.loads(line))
                self.changed.notify_all()

    def wait(self, timeout=PATIENCE, since=0, **wanted):
        """The first event behind number `since` that has all of these values."""
        def found():
            return next((e for e in self.events[since:]
                         if all(e.get(k) == v for k, v in wanted.items())), None)
        with self.changed:
            assert self.changed.wait_for(found, timeout), \
                f"{wanted} did not come: {self.events[since:]} {self.process.poll()}"
            return found()

    def text(self, since=0, **wanted):
        """All that hooks wrote."""
        return "".join(e["text"] for e in self.events[since:]
                       if e["event"] == "hook-output" and all(e.get(k) == v for k, v in wanted.items()))

    def end(self, sig=signal.SIGINT):
        self.process.send_signal(sig)
        code = self.process.wait(PATIENCE)
        return code, self.process.stderr.read().decode()


@pytest.fixture
def hosts(root):
    both = []
    config = ""
    for name in ("bot1", "bot2"):
        (root / name).mkdir()
        s = Sshd(root / name)
        both.append(s)
        config += (s.dir / "config").read_text().replace("Host testhost", f"Host {name}")
    write(root / "ssh_config", config)
    yield dict(zip(("bot1", "bot2"), both))
    for s in both:
        s.stop()


@pytest.fixture
def project(root, hosts):
    inlay = Inlay(root, {"INLAY_SSH": f"ssh -F {root}/ssh_config"})
    where = root / "project"
    write(where / "inlay.yaml", PROJECT)
    write(where / "web/a.txt", "one\n")
    write(where / "web/b.js", "js\n")
    write(where / "nav/server.py", SERVER)
    write(where / "nav/config", "first\n")
    write(where / "nav/signalled", "x\n")
    inlay.where = where
    yield inlay
    inlay("down", cwd=where, code=None)


def sleeping(seconds, hosts):
    """Processes that sleep so long for one of these hosts."""
    return [p for p in pids_with(f"sleep {seconds}")
            if any(os.fsencode(h.home) in environment(p) for h in hosts.values())]


def environment(pid):
    with contextlib.suppress(OSError):
        return open(f"/proc/{pid}/environ", "rb").read()
    return b""


def home(hosts, name):
    return hosts[name].home


def nav_log(project, host):
    return project("logs", f"{host}:ws/nav", "nav").out


def test_components_to_all_hosts(project, hosts):
    r = project("sync", "--json", cwd=project.where)
    assert {(e["host"], e["component"]) for e in r.rows} == {
        (h, c) for h in ("bot1", "bot2") for c in ("nav", "web")}
    for h in hosts:
        assert tree(home(hosts, h) / "ws/web") == tree(project.where / "web")
    assert len(project("sync", "--host", "bot2", "web", "--json", cwd=project.where).rows) == 1
    assert "no component 'webb'; did you mean 'web'?" in project("sync", "webb", cwd=project.where, code=1).err
    # One host is gone: the other is served, and the exit code says so.
    hosts["bot1"].stop()
    write(project.where / "web/a.txt", "two\n")
    r = project("sync", "web", cwd=project.where, code=3)
    assert "bot1 web: cannot connect" in r.err and "bot2 web: generation 2" in r.out
    assert tree(home(hosts, "bot2") / "ws/web") == tree(project.where / "web")


def test_an_untrusted_project_runs_nothing(project, hosts):
    assert "--trust" in project("up", "--once", cwd=project.where, code=4).err
    assert "--trust" in project("build", cwd=project.where, code=4).err
    assert not (home(hosts, "bot1") / "ws").exists()
    project("up", "--once", "--trust", cwd=project.where)
    project("up", "--once", cwd=project.where)


def test_components_are_places(project, hosts):
    """In a project NAME and NAME@HOST stand for where a component is; a path of that name is ./NAME."""
    def ask(*args, **kw):
        return project(*args, cwd=kw.pop("cwd", project.where), **kw)

    ask("up", "--once", "--trust", "-q")
    before = {r["host"]: r["pid"] for r in ask("ps", "--json").rows}
    assert set(before) == set(hosts)
    assert "nav@bot1 or nav@bot2" in ask("exec", "nav", "--", "pwd", code=2).err
    assert ask("exec", "nav@bot2", "--", "pwd").out == f"{home(hosts, 'bot2')}/ws/nav\n"
    assert "not on host 'bot3'" in ask("exec", "nav@bot3", "--", "pwd", code=2).err
    ask("restart", "nav@bot1")
    after = {r["host"]: r["pid"] for r in ask("ps", "--json", "nav", cwd=project.where / "web").rows}
    assert after["bot1"] != before["bot1"] and after["bot2"] == before["bot2"]
    assert "the NAME of a program is needed" in ask("restart", "bot1:ws/nav", code=2).err
    ask("signal", "nav@bot2", "HUP")
    until(lambda: "bot2 nav | hup x\n" in ask("logs").out and "bot1 nav | nav first blue\n" in ask("logs").out)
    for path in ("./nav", str(project.where / "nav")):
        assert "nothing was ever synced" in ask("exec", path, "--", "true", code=1).err
    assert "nothing was ever synced" in ask("exec", "nav", "--", "true", cwd="/", code=1).err
    assert "there is no inlay.yaml" in ask("ps", cwd="/", code=2).err

    follow = project.start("logs", "-f", "--json", cwd=project.where)
    seen = set()
    for line in follow.stdout:
        seen.add(json.loads(line)["host"])
        if seen == set(hosts):
            break
    follow.terminate()
    follow.wait(PATIENCE)
    assert follow.stdout.read() is not None  # all who could write to it are gone


def test_up_builds_runs_and_reloads(project, hosts):
    up = Up(project, project.where, "--trust")
    up.wait(event="ready")
    for h in hosts:
        up.wait(event="up", host=h, component="nav")
        up.wait(event="up", host=h, component="web")
        # web needs nav.
        order = [e["component"] for e in up.events if e["event"] == "up" and e["host"] == h]
        assert order == ["nav", "web"]
        assert up.text(host=h, component="web", step="build") == "built one\n"
        assert up.text(host=h, component="nav", step="after") == "after 0 1\n"
        until(lambda: "nav first blue" in nav_log(project, h))

    def edit(path, text):
        mark = len(up.events)
        write(project.where / path, text)
        return mark

    # What a build reads, what it does not read, what a rule names.
    mark = edit("web/a.txt", "two\n")
    for h in hosts:
        up.wait(since=mark, event="hook-end", host=h, component="web", step="build", ok=True)
        until(lambda: up.text(since=mark, host=h, component="web") == "built two\n")
    mark = edit("web/b.js", "other\n")
    for h in hosts:
        up.wait(since=mark, event="hook-end", host=h, component="web", step="reload 1", ok=True)
        until(lambda: up.text(since=mark, host=h) ==
                  'changed: b.js\n{"path":"b.js","change":"modified","type":"file"}\n')
        assert not [e for e in up.events[mark:] if e.get("step") == "build"]
    mark = edit("nav/config", "second\n")
    for h in hosts:
        up.wait(since=mark, event="hook-end", host=h, component="nav", step="reload 1", ok=True)
        until(lambda: "nav second blue" in nav_log(project, h))
    mark = edit("nav/signalled", "now\n")
    for h in hosts:
        up.wait(since=mark, event="hook-end", host=h, component="nav", step="reload 2", ok=True)
        until(lambda: "hup now" in nav_log(project, h))
    assert not [e for e in up.events[mark:] if e.get("step") == "reload 1"]

    # Ctrl-C leaves mounts and programs; the next one finds both and builds nothing.
    code, err = up.end()
    assert code == 0, err
    for h in hosts:
        assert (home(hosts, h) / "ws/nav/config").read_text() == "second\n"
        before = project("ps", "--json", f"{h}:ws/nav").rows[0]
        assert before["state"] == "running"
    r = project("up", "--once", "--json", cwd=project.where)
    assert not [e for e in r.rows if e.get("step") == "build"]
    assert project("ps", "--json", f"{h}:ws/nav").rows[0]["pid"] == before["pid"]

    project("down", cwd=project.where)
    for h in hosts:
        assert not os.path.ismount(home(hosts, h) / "ws/nav")
        assert project("ps", "--json", f"{h}:ws/nav").rows[0]["state"] == "stopped"
    project("down", "--purge", cwd=project.where)
    assert project("log", "bot1:ws/nav", code=1)


def failing(project, build):
    where = project.where
    write(where / "inlay.yaml", f"""\
version: 1
hosts: [bot1]
components:
  web:
    source: web
    target: ws/web
    build: {build}
  late: {{source: nav, target: ws/late, needs: web, build: echo never}}
""")
    return where


def test_a_build_that_fails_is_tried_with_the_next_change(project, hosts):
    where = failing(project, "test -e good")
    up = Up(project, where, "--trust")
    up.wait(event="hook-end", step="build", ok=False, exit=1)
    up.wait(event="failed", component="late")
    assert not up.text(component="late")
    write(where / "web/good", "")
    up.wait(event="up", component="web")
    up.wait(event="up", component="late")
    assert up.text(component="late") == "never\n"
    assert up.end()[0] == 0


def test_a_hook_that_hangs_is_ended(project, hosts):
    where = failing(project, "{run: 'trap \"\" TERM; sleep 1000 & wait; sleep 1000', timeout: 300ms}")
    r = project("up", "--once", "--trust", "--json", cwd=where, code=1)
    end, = [e for e in r.rows if e["event"] == "hook-end"]
    assert end["timed_out"] and not end["ok"]
    assert not sleeping(1000, hosts)


def test_a_hook_ends_with_its_client(project, hosts):
    where = failing(project, "'echo here; exec sleep 1001'")
    up = Up(project, where, "--trust")
    up.wait(event="hook-output", component="web")
    up.end()
    until(lambda: not sleeping(1001, hosts))


def test_a_hook_that_floods_is_bounded(project, hosts):
    where = failing(project, "'head -c 20000000 /dev/zero | tr \"\\\\0\" x; echo; echo end'")
    r = project("up", "--once", "--trust", "--json", "web", cwd=where)
    assert sum(len(e["text"]) for e in r.rows if e["event"] == "hook-output") == 4 << 20


def test_a_missing_command_is_named(project, hosts):
    where = failing(project, "[no-such-command]")
    r = project("up", "--once", "--trust", "--json", "web", cwd=where, code=1)
    assert any("no-such-command" in e.get("text", "") for e in r.rows if e["event"] == "failed")


def test_build_now(project, hosts):
    project("sync", cwd=project.where)
    r = project("build", "--trust", "web", "--host", "bot2", cwd=project.where)
    assert "bot2 web | built one" in r.out and "bot1" not in r.out
    assert "bot2 web | built one" in project("build", "web", "--host", "bot2", cwd=project.where).out
    write(project.where / "inlay.yaml", PROJECT.replace("built $(cat *.txt)", "x; exit 3"))
    r = project("build", "web", cwd=project.where, code=1)
    assert "build failed with 3" in r.out


def test_a_host_that_is_gone_delays_no_other(project, hosts):
    hosts["bot1"].stop()
    r = project("up", "--once", "--trust", "--json", cwd=project.where, code=3)
    assert {e["host"] for e in r.rows if e["event"] == "up"} == {"bot2"}
    assert any(e["event"] == "state" and e["host"] == "bot1" for e in r.rows)


BEFORE = """\
version: 1
hosts: [bot1, bot2]
components:
  nav:
    source: nav
    target: ws/nav
    before: {run: 'echo now $(cat config) then $(tr "\\\\0" " " < $INLAY_CHANGED); test -e ../fail || exit 0;
                   test $(cat ../fail) = hang || exit 3; sleep 1002', inputs: [config], timeout: 400ms}
    reload: [{match: [config], run: cat config}]
"""


def test_before_quiesces_and_can_stop_a_change_set(project, hosts):
    where = project.where
    write(where / "inlay.yaml", BEFORE)
    up = Up(project, where, "--trust")
    up.wait(event="ready")
    assert not [e for e in up.events if e.get("step") == "before"]  # nothing was shown yet

    def edit(text, path="nav/config"):
        mark = len(up.events)
        write(where / path, text)
        return mark

    # It runs while the old state is shown, with what is coming, and reload comes behind.
    mark = edit("second\n")
    for h in hosts:
        up.wait(since=mark, event="hook-end", host=h, step="reload 1", ok=True)
        assert up.text(since=mark, host=h, step="before") == "now first then config\n"
        steps = [(e["event"], e.get("step")) for e in up.events[mark:] if e.get("host") == h]
        assert steps.index(("hook-end", "before")) < steps.index(("visible", None)) \
            < steps.index(("hook-begin", "reload 1"))
    # What it does not read does not start it.
    mark = edit("other\n", "nav/signalled")
    for h in hosts:
        up.wait(since=mark, event="visible", host=h)
    assert not [e for e in up.events[mark:] if e.get("step") == "before"]
    # One host refuses: it keeps the old state, the other one goes on.
    write(home(hosts, "bot1") / "ws/fail", "yes")
    mark = edit("third\n")
    up.wait(since=mark, event="visible", host="bot2")
    e = up.wait(since=mark, event="state", host="bot1")
    assert e["state"] == "halted" and "nav.before failed with 3: the change set is not shown" in e["why"]
    assert (home(hosts, "bot1") / "ws/nav/config").read_text() == "second\n"
    assert (home(hosts, "bot2") / "ws/nav/config").read_text() == "third\n"
    hooks = {h["hook"]: h for h in project("status", "--json", "bot1:ws/nav").rows[0]["hooks"]}
    assert hooks["nav.before"]["exit"] == 3 and not hooks["nav.before"]["ok"]
    assert hooks["nav.reload1"]["ok"] and hooks["nav.reload1"]["took_ms"] > 0
    assert "nav.before: failed with 3" in project("status", "bot1:ws/nav").out
    # One that hangs is ended with its time; the next change begins anew and brings all of it.
    write(home(hosts, "bot1") / "ws/fail", "hang")
    mark = edit("fourth\n")
    assert up.wait(since=mark, event="hook-end", host="bot1", step="before")["timed_out"]
    assert "did not end in time" in up.wait(since=mark, event="state", host="bot1")["why"]
    assert not sleeping(1002, hosts)
    up.wait(since=mark, event="hook-end", host="bot2", step="reload 1", ok=True)
    (home(hosts, "bot1") / "ws/fail").unlink()
    mark = edit("fifth\n")
    for h in hosts:  # a hook that is ended with up is one that failed
        up.wait(since=mark, event="hook-end", host=h, step="reload 1", ok=True)
        assert tree(home(hosts, h) / "ws/nav") == tree(where / "nav")
    assert up.end()[0] == 0


def test_a_device_is_looked_at_before_the_start(project, hosts):
    where = project.where
    write(where / "inlay.yaml", """\
version: 1
hosts: [bot1]
components:
  nav: {source: nav, target: ws/nav, env: {COLOUR: red}, run: [python3, server.py],
        devices: [/dev/null, "${DEVICE}"]}
""")
    project.env["DEVICE"] = str(home(hosts, "bot1") / "camera")
    r = project("up", "--once", "--trust", "--json", cwd=where, code=1)
    assert any("'nav' needs" in e["text"] and "camera, which is not there" in e["text"] and "dmesg" in e["text"]
               for e in r.rows if e["event"] == "failed")
    write(home(hosts, "bot1") / "camera", "")
    project("up", "--once", cwd=where)
    until(lambda: "nav first red" in nav_log(project, "bot1"))


BACK = """\
version: 1
hosts: [bot1, bot2]
components:
  nav:
    source: nav
    target: ws/nav
    build: {run: "mkdir -p gen; cat config > gen/table.h; echo x > gen/other", inputs: [config]}
    back: [{match: ["gen/*.h"], to: "built/{host}"}]
"""


def test_results_of_a_build_come_back(project, hosts):
    where = project.where
    write(where / "inlay.yaml", BACK)
    up = Up(project, where, "--trust")
    up.wait(event="ready")
    for h in hosts:
        e = up.wait(event="back", host=h)
        assert (e["brought"], e["conflicts"], e["folder"]) == (1, 0, "built/{host}")
        assert (where / f"built/{h}/gen/table.h").read_text() == "first\n"
        assert not (where / f"built/{h}/gen/other").exists()
    # What is edited here stays, what a build brought is replaced.
    write(where / "built/bot1/gen/table.h", "mine\n")
    mark = len(up.events)
    write(where / "nav/config", "second\n")
    assert up.wait(since=mark, event="back", host="bot1")["conflicts"] == 1
    assert up.wait(since=mark, event="back", host="bot2")["brought"] == 1
    assert (where / "built/bot1/gen/table.h").read_text() == "mine\n"
    assert (where / "built/bot2/gen/table.h").read_text() == "second\n"
    assert up.end()[0] == 0
    # The same by hand; HOST:PATH is as it was.
    assert "1 kept" in project("pull", "nav", "--host", "bot1", cwd=where, code=4).out
    assert "+ gen/table.h" in project("pull", "nav", "-H", "bot1", "--dry-run", cwd=where).out
    r = project("pull", "--force", "--json", cwd=where)
    assert {e["host"]: e["brought"] for e in r.rows if e["event"] == "back"} == {"bot1": 1, "bot2": 0}
    assert (where / "built/bot1/gen/table.h").read_text() == "second\n"
    project("pull", "bot1:ws/nav", where / "all", cwd=where)
    assert (where / "all/gen/other").read_text() == "x\n"
    assert "no component 'na'" in project("pull", "-H", "bot1", "na", cwd=where, code=1).err


def looping(project, inputs, ignore="[]"):
    write(project.where / "nav/x.h", inputs + ignore)
    write(project.where / "nav/x.py", inputs + ignore)
    write(project.where / "inlay.yaml", f"""\
version: 1
hosts: [bot1]
components:
  nav:
    source: nav
    target: ws/nav
    ignore: {ignore}
    build: {{run: date +%N > gen.h, inputs: {inputs}}}
    back: [{{match: [gen.h], to: web}}]
  web:
    source: web
    target: ws/web
    needs: nav
    build: {{run: date +%N > made.h}}
    back: [{{match: [made.h], to: nav}}]
""")
    r = project("up", "--once", "--trust", "--json", cwd=project.where, code=None)
    return r.code, sorted({e["text"] for e in r.rows if e["event"] == "failed"})


def test_builds_that_start_each_other_are_a_loop(project, hosts):
    code, why = looping(project, '["*.h"]')
    assert code == 3 and len(why) == 1
    assert "'back' of 'web' would bring made.h to where it is an input of 'nav'" in why[0]
    assert "web -> nav -> web" in why[0]
    assert not (project.where / "nav/made.h").exists()
    # It is none when the chain is cut.
    assert looping(project, '["*.py"]') == (0, [])
    assert looping(project, '["*.h"]', '["made.h"]') == (0, [])
    write(project.where / "inlay.yaml", """\
version: 1
hosts: [bot1]
components:
  nav: {source: nav, target: ws/nav, build: date +%N > gen.h, back: [{match: "*.h", to: nav}]}
""")
    r = project("build", cwd=project.where, code=1)
    assert "would bring gen.h to where it is an input of its own build" in r.err


def test_a_hook_that_forks_away_holds_nothing_up(project, hosts):
    """What stays in its group ends with it; what left its group is not waited for, and its output is nobody's."""
    where = failing(project, "'sleep 1003 & setsid sh -c \"sleep 0.3; echo late; exec sleep 1004\" & echo begun'")
    try:
        r = project("up", "--once", "--trust", "--json", "web", cwd=where)
        end, = [e for e in r.rows if e["event"] == "hook-end"]
        assert end["ok"] and "".join(e["text"] for e in r.rows if e["event"] == "hook-output") == "begun\n"
        assert not sleeping(1003, hosts)
    finally:
        for pid in sleeping(1004, hosts) + sleeping(0.3, hosts):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("command", [["sync"], ["up", "--once", "--trust"]])
def test_a_redirected_directory_is_local_storage(project, hosts, command):
    where = project.where
    write(where / "inlay.yaml", "version: 1\nhosts: [bot1]\ncomponents:\n"
          "  web: {source: web, target: ws/web, redirect: [log], timeouts: {connect: 30s, push: 1m}}\n")
    project(*command, cwd=where)
    before = project("status", "--json", "bot1:ws/web").rows[0]
    assert before["redirects"] == ["log"]
    write(home(hosts, "bot1") / "ws/web/log/x", "written\n")
    write(home(hosts, "bot1") / "ws/web/y", "written\n")
    after = project("status", "--json", "bot1:ws/web").rows[0]
    assert after["upper_entries"] == before["upper_entries"] + 1


def test_a_source_that_is_none_is_named(project, hosts):
    where = failing(project, "'true'")
    write(where / "inlay.yaml", (where / "inlay.yaml").read_text().replace("source: web", "source: web/a.txt"))
    assert "the watch of 'web' ended: " in project("up", "--once", "--trust", cwd=where, code=None).err
    r = project("up", "--once", cwd=where, code=None)
    assert r.code and "a.txt" in r.err
