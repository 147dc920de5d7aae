# SPDX-License-Identifier: Apache-2.0
"""inlay.yaml: read, checked with places and suggestions, shown; init."""
import json
import os
import re

import pytest

from conftest import write


@pytest.fixture
def project(inlay, root):
    inlay.env["XDG_CONFIG_HOME"] = str(root / "config")

    def use(text, local=None, hosts=None):
        write(root / "p/inlay.yaml", text)
        for path, content in ((root / "p/inlay.local.yaml", local),
                              (root / "config/inlay/hosts.yaml", hosts)):
            path.unlink(missing_ok=True)
            if content is not None:
                write(path, content)
        return root / "p"
    return use


def problems(inlay, where):
    r = inlay("config", "check", "--json", cwd=where, code=2).json
    assert r["ok"] is False
    return r["problems"]


GOOD = """\
version: 1
hosts: [bot1]
components:
  web:
    source: web
    target: ws/web
    needs: [nav]
  nav:
    source: nav
    target: ws/nav
    hosts: ["@lab", bot1]
    run: python3 -m nav
"""


def test_show_resolves_hosts_order_and_what_is_personal(inlay, project):
    where = project(GOOD, local="components: {nav: {env: {LOG: debug}}}\nhosts: [mine]\n",
                    hosts="hosts: {bot2: u@192.0.2.1}\ngroups: {lab: [bot2, '@more'], more: bot3}\n")
    os.makedirs(where / "deep/er")
    shown = json.loads(inlay("config", "show", cwd=where / "deep/er").out)
    assert list(shown["components"]) == ["nav", "web"]
    assert shown["components"]["nav"]["hosts"] == ["bot2", "bot3", "bot1"]
    assert shown["components"]["nav"]["env"] == {"LOG": "debug"}
    assert shown["components"]["web"]["hosts"] == ["mine"]
    assert shown["components"]["web"]["source"] == f"{where}/web"
    assert inlay("config", "check", "--json", cwd=where).json == {
        "schema": 1, "ok": True, "components": 2, "targets": 4}


@pytest.mark.parametrize("text, wanted", [
    ("version: 1\ncomponents:\n  a: {sorce: x, target: t, hosts: h}\n",
     ["inlay.yaml:3:7: the key 'sorce' is not known; did you mean 'source'?"]),
    ("version: 1\ncomponents:\n  a: {source: [x], target: t, hosts: h}\n",
     ["inlay.yaml:3:15: a text is expected here, not a list"]),
    ("version: 2\ncomponents:\n  a: {source: x, target: t, hosts: h}\n",
     ["inlay.yaml:1:10: version 2 is newer than this inlay, which knows 1"]),
    ("version: 1\nwatch: {settle: 5 parsecs}\ncomponents:\n  a: {source: x, target: t, hosts: h}\n",
     ["inlay.yaml:2:17: "]),
    ("version: 1\ncomponents:\n  a: {source: x, target: t, hosts: h, needs: b}\n"
     "  b: {source: x, target: u, hosts: h, needs: [c]}\n  c: {source: x, target: v, hosts: h, needs: a}\n",
     ["components need each other in a circle: a -> b -> c -> a"]),
    ("version: 1\ncomponents:\n  one: {source: x, target: t, hosts: h, needs: twoo}\n"
     "  two: {source: x, target: u, hosts: h}\n", ["did you mean 'two'?"]),
    ("version: 1\ncomponents:\n  a: {source: x, target: ws/t, hosts: h}\n  b: {source: x, target: ./ws//t/, hosts: h}\n",
     ["inlay.yaml:4:3: the targets of 'b' and 'a' on h are the same or inside one another"]),
    ("version: 1\ncomponents:\n  a: {source: x, target: ws, hosts: h}\n  b: {source: x, target: ws/b, hosts: h}\n",
     ["inside one another"]),
    ("version: 1\ncomponents:\n  a: {source: x, target: t, hosts: '@lap'}\n",
     ["inlay.yaml:3:36: there is no group '@lap'; did you mean '@lab'?"]),
    ("version: 1\ncomponents:\n  a: {source: x, target: t}\n", ["component 'a' has no hosts"]),
    ("version: 1\ncomponents:\n  a: {source: x, target: t, hosts: h, reload: [{restart: true}]}\n",
     ["has no program to restart"]),
    ("version: 1\ncomponents:\n  a: {source: x, target: t, hosts: h, run: {command: x, stop-signal: NOPE}}\n",
     ["'NOPE' is no signal"]),
    ("version: 1\ncomponents:\n  a: {source: x, target: ../t, hosts: h}\n", ["leads upwards"]),
    ("version: 1\ncomponents:\n  a: {source: '${UNSET_}', target: t, hosts: h}\n",
     ["the variable UNSET_ is not set"]),
    ("components:\n  a: {source: x, target: t, hosts: h}\n", ["'version' is missing"]),
    ("", ["inlay.yaml is empty or no map"]),
    *[(f"version: 1\nhosts: [h]\ncomponents:\n  a: {{source: x, target: t, {value}}}\n", [f"inlay.yaml:4:{column}: " + why])
      for value, column, why in [
          ("env: [A=b]", 34, "a map of variables is expected here, not a list"),
          ("env: {A: [1]}", 38, "a text is expected here, not a list"),
          ("env: {'A=b': c}", 35, "'A=b' is no name of a variable"),
          ("needs: {b: c}", 36, "a list of texts is expected here, not a map"),
          ("gitignore: maybe", 40, "true or false is expected here, not 'maybe'"),
          ("build: {run: x, timeout: soon}", 54, "'soon'"),
          ("build: {run: {}}", 42, "a command: a text for the shell, or a list of arguments is expected here"),
          ("build: {}", 36, "'run' is missing"),
          ("run: ''", 34, "the command is empty"),
          ("run: {command: x, restart: on-failur}", 56, "the value 'on-failur' is not known; did you mean 'on-failure'?"),
          ("reload: {match: x}", 37, "a list is expected here, not a map"),
          ("reload: [{match: x, restrat: true}]", 49, "the key 'restrat' is not known; did you mean 'restart'?"),
          ("reload: [{match: x}]", 38, "exactly one of run, restart, signal and rebuild-base is wanted here"),
          ("reload: [{rebuild-base: true}]", 38, "'a' has no image that is built: 'image' with 'build' is missing"),
          ("befor: x", 29, "the key 'befor' is not known; did you mean 'before'?"),
          ("back: [{match: x, to: ../y}]", 36, "'to' is a folder inside the project, not '../y'"),
          ("back: [{to: y}]", 36, "'match' is missing"),
          ("hosts: [h, g], back: [{match: x, to: y}]", 51, "'a' is on 2 hosts, whose files would overwrite each other: "
           "put {host} into 'y'"),
          ("devices: video0, run: x", 3, "the device 'video0' is not an absolute path like /dev/video0"),
          ("devices: /dev/video0", 3, "'a' has devices and no program that needs them"),
          ("redirect: [log, a/../..]", 3, "'a/../..' is no directory inside 'a' to redirect"),
          ("timeouts: {conect: 3s}", 40, "the key 'conect' is not known; did you mean 'connect'?"),
          ("timeouts: 3s", 39, "a map is expected here, not a text"),
      ]],
])
def test_what_is_wrong_is_told_with_its_place(inlay, project, text, wanted):
    where = project(text, hosts="groups: {lab: [x]}\n")
    found = problems(inlay, where)
    for w in wanted:
        assert any(w in f for f in found), found
    assert not text or all(re.match(r"(\S*/hosts|inlay)\.yaml:\d+:\d+: ", f) for f in found), found


@pytest.mark.parametrize("text", [
    "a: &x 1\nb: *x\n", "a: !!str x\n", "a: 1\na: 2\n", "a: [1\n", "--- 1\n--- 2\n", "? [a]\n: b\n",
    "[" * 100 + "]" * 100, "a: \xff\n".encode("latin1"), "a: \0"])
def test_what_is_no_configuration_is_refused_with_its_place(inlay, project, text):
    r = inlay("config", "check", cwd=project(text), code=2)
    assert "inlay.yaml:" in r.err, r.err


def test_groups_in_a_circle(inlay, project):
    where = project(GOOD, hosts="groups: {lab: '@other', other: '@lab'}\n")
    assert any("circle" in p for p in problems(inlay, where))


def test_variables(inlay, project):
    inlay.env["WHERE"] = "there"
    where = project("version: 1\ncomponents:\n  a: {source: '${WHERE}', target: 'x/${NO:-dflt}$$', hosts: h,"
                    " run: echo $HOME}\n")
    assert json.loads(inlay("config", "show", cwd=where).out)["components"]["a"]["source"] == \
        f"{where}/there"


def test_no_project(inlay, root):
    assert "inlay init" in inlay("config", "check", cwd=root, code=2).err


def test_schema_knows_every_key(inlay):
    s = json.loads(inlay("config", "schema").out)
    component = s["properties"]["components"]["additionalProperties"]["properties"]
    assert {"source", "target", "hosts", "needs", "run", "reload"} <= set(component)
    assert all("description" in p for p in component.values())
    assert "groups" in json.loads(inlay("config", "schema", "--hosts").out)["properties"]


def test_init_writes_what_check_accepts(inlay, root):
    where = root / "new"
    where.mkdir()
    inlay("init", cwd=where)
    assert inlay("config", "check", "--json", cwd=where).json["components"] == 1
    assert "--force" in inlay("init", cwd=where, code=1).err
    inlay("init", "--force", cwd=where)


def test_init_takes_over_a_compose_file(inlay, root):
    where = root / "compose"
    write(where / "compose.yaml", """\
services:
  web:
    image: web
    command: [node, server.js]
    environment: {LOG: debug, PORT: 8080}
    depends_on: [db, api]
    develop:
      watch:
        - {action: sync+restart, path: ./web, target: /app, ignore: [node_modules/]}
        - {action: sync+exec, path: ./conf, target: /etc/web, exec: {command: nginx -s reload}}
        - {action: rebuild, path: package.json}
  api:
    environment: [MODE=dev, TOKEN]
    develop: {watch: [{action: sync, path: ./api, target: /api}]}
  only-rebuilt: {develop: {watch: [{action: rebuild, path: .}]}}
  db: {image: postgres}
""")
    assert inlay("init", "--json", cwd=where).json["components"] == 3
    shown = json.loads(inlay("config", "show", cwd=where).out)["components"]
    assert shown["web"]["source"] == f"{where}/./web" and shown["web"]["ignore"] == ["node_modules/"]
    assert shown["web"]["run"] == ["node", "server.js"]
    assert shown["web"]["reload"] == [{"restart": "true"}]
    assert shown["web-2"]["reload"] == [{"run": "nginx -s reload"}]
    assert shown["web"]["env"] == {"LOG": "debug", "PORT": "8080"} and shown["web"]["needs"] == ["api"]
    assert shown["api"]["env"] == {"MODE": "dev"} and set(shown) == {"api", "web", "web-2"}
    text = (where / "inlay.yaml").read_text()
    assert "says 'rebuild' for \"package.json\"" in text and "rebuild-base: true" in text
