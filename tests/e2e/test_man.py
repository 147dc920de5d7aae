# SPDX-License-Identifier: Apache-2.0
"""The manual says what the programs say of themselves: neither less nor more. What `ninja install` lays works."""
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import BUILD, INLAYD, MACHINE, Inlay

TOP = pathlib.Path(__file__).resolve().parents[2]
MAN = TOP / "docs/man"
OPTION = re.compile(r"(?:^ +|  |, )(-[A-Za-z]|--[a-z][a-z-]*)(?=[ ,]|$)")
PAGES = sorted(p.name for p in MAN.iterdir())


def options_of(text):
    """What a help text lists."""
    return {o for line in text.splitlines() if re.match("  +[^ ]", line) and not re.match(" +inlay", line)
            for o in OPTION.findall(line)}


def helps(inlay):
    """The help of each command, verb and form that has one."""
    found = {}
    for name in re.findall(r"^  ([a-z-]+) ", inlay("--help").out, re.M):
        found[name] = inlay(name, "--help").out
    for verb in re.findall(r"^  ([a-z]+) ", found["image"], re.M):
        found[f"image {verb}"] = inlay("image", verb, "--help").out
    found["why --build"] = inlay("why", "--build", "--help").out
    return found


def sections(page, macro, part=None):
    """The text below each heading; of one .Sh only, if it is given."""
    text = (MAN / page).read_text()
    if part:
        text = re.search(rf"^\.Sh {part}\n(.*?)(?=^\.Sh |\Z)", text, re.M | re.S)[1]
    pieces = re.split(rf"^\.{macro} (.*)\n", text, flags=re.M)
    return dict(zip(pieces[1::2], pieces[2::2]))


def flags(text):
    return {"-" + f for line in re.findall(r"^\.It (.*)", text, re.M) for f in re.findall(r"\bFl (\S+)", line)}


def forms(text):
    """The lines of usage, one after the other."""
    head = text.split("\n\n")[0].replace("usage:", "      ")
    return [re.sub(r"   +.*", "", line.strip()) for line in head.splitlines()]


def test_every_command_and_option_stands_in_inlay_1(inlay):
    known = helps(inlay)
    common = set.intersection(*(options_of(t) for n, t in known.items() if n != "image"))
    assert "--json" in common and "-h" in common
    assert flags(sections("inlay.1", "Sh")["OPTIONS"]) == common
    told = sections("inlay.1", "Ss", "COMMANDS")
    assert list(told) == sorted(told, key=list(told).index) and set(told) == set(known)
    for name, text in known.items():
        assert flags(told[name]) == options_of(text) - common, name
        assert re.search(r"^\.Bd .*\n((?:.*\n)*?)\.Ed", told[name], re.M)[1].splitlines() == forms(text), name


def test_every_verb_and_option_stands_in_inlayd_8():
    usage = subprocess.run([INLAYD, "--help"], capture_output=True, text=True, check=True).stdout
    text = (MAN / "inlayd.8").read_text()
    assert set(re.findall(r"^\.It Cm (\S+)", text, re.M)) == set(re.findall(r"inlayd ([a-z]+) ?.*$", usage, re.M)) - {"is"}
    assert flags(text) == set(re.findall(r"\[(--[a-z-]+)", usage))


def maps(schema, path, found):
    """The keys of each map of a schema, by its path."""
    for one in schema.get("anyOf", []):
        maps(one, path, found)
    if "items" in schema:
        maps(schema["items"], path, found)
    if isinstance(schema.get("additionalProperties"), dict):
        maps(schema["additionalProperties"], f"{path}.NAME", found)
    if "properties" in schema:
        found[path] = set(schema["properties"])
        for name, inner in schema["properties"].items():
            maps(inner, f"{path}.{name}".removeprefix("top."), found)
    return found


@pytest.mark.parametrize("top, part, args", [("inlay.yaml", r"INLAY\.YAML", []), ("hosts.yaml", r"HOSTS\.YAML", ["--hosts"])])
def test_every_key_stands_in_inlay_yaml_5(inlay, top, part, args):
    known = maps(json.loads(inlay("config", "schema", *args).out), "top", {})
    known[top] = known.pop("top")
    told = {}
    for title, text in sections("inlay.yaml.5", "Ss", part).items():
        for path in title.split(" and "):
            told[path] = set(re.findall(r"^\.It Cm (\S+)", text, re.M))
    assert told == known


def test_every_variable_of_a_hook_stands_in_inlay_hooks_7():
    told = set(re.findall(r"^\.It Ev (\S+)", (MAN / "inlay-hooks.7").read_text(), re.M))
    code = set(re.findall(r'"(INLAY_[A-Z_]+)=', (TOP / "sync/session/servehook.c").read_text()))
    rows = re.findall(r"^\| `INLAY.*", (TOP / "docs/project.md").read_text(), re.M)
    assert told == code == set(re.findall(r"INLAY_[A-Z_]+", "".join(rows)))


def test_every_exit_code_stands_in_inlay_1():
    text = sections("inlay.1", "Sh")["EXIT STATUS"]
    code = set(re.findall(r"INLAY_EXIT_[A-Z_]+ = (\d+)", (TOP / "include/inlay/error.h").read_text()))
    # sync --exit-code has one of its own.
    assert set(re.findall(r"^\.It (\d+)", text, re.M)) == code | {"10"}


def test_the_environment_of_inlay_1_is_what_the_source_reads():
    code = set()
    for path in TOP.glob("sync/**/*.c"):
        code |= set(re.findall(r'getenv\("(INLAY_[A-Z_]+)"\)', path.read_text()))
    assert set(re.findall(r"^\.It Ev (\S+)", (MAN / "inlay.1").read_text(), re.M)) == code


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_well_formed(page):
    if not shutil.which("mandoc") or not shutil.which("groff"):
        pytest.skip("needs mandoc and groff")
    lint = subprocess.run(["mandoc", "-Tlint", "-Wwarning", MAN / page], capture_output=True, text=True)
    assert (lint.returncode, lint.stdout) == (0, "")
    groff = subprocess.run(["groff", "-ww", "-mdoc", "-Tutf8", MAN / page], capture_output=True, text=True)
    assert (groff.returncode, groff.stderr) == (0, "")
    # Each page refers to pages that are here, or that everybody has.
    refers = re.findall(r"^\.Xr (\S+) (\d)", (MAN / page).read_text(), re.M)
    assert {f"{n}.{s}" for n, s in refers if n.startswith("inlay")} <= set(PAGES)


def test_what_is_installed_finds_its_inlayd(root):
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root / "d"], check=True,
                   stdout=subprocess.DEVNULL)
    program = next((root / "d").glob("**/bin/inlay"))
    prefix = program.parents[1]
    env = dict(Inlay(root).env)
    del env["INLAY_AGENTS"]
    version = json.loads(subprocess.run([program, "version", "--json"], env=env, capture_output=True, check=True).stdout)
    here = [a for a in version["agents"] if a["machine"] == MACHINE]
    assert os.path.realpath(here[0]["path"]) == os.path.realpath(prefix / f"libexec/inlay/inlayd-{MACHINE}")
    for page in PAGES:
        assert (prefix / f"share/man/man{page[-1]}/{page}").read_text() == (MAN / page).read_text()
    for shell, name in (("bash", "bash-completion/completions/inlay.bash"), ("zsh", "zsh/site-functions/_inlay"),
                        ("fish", "fish/vendor_completions.d/inlay.fish")):
        printed = subprocess.run([program, "completion", shell], capture_output=True, check=True).stdout
        assert (prefix / "share" / name).read_bytes() == printed
