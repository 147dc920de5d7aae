# SPDX-License-Identifier: Apache-2.0
"""docs/tutorial.md, as it stands: four components that are built, run and reload on two hosts."""
import pathlib
import shlex
import shutil
import subprocess

import pytest

from conftest import INLAY, PATIENCE, Inlay, Sshd, until, write

pytestmark = pytest.mark.usefixtures("fuse")
TOP = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def robot(root):
    for program in ("g++", "make", "node"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    both, config = [], ""
    for name in ("bot1", "bot2"):
        (root / name).mkdir()
        both.append(Sshd(root / name))
        config += (both[-1].dir / "config").read_text().replace("Host testhost", f"Host {name}")
    write(root / "ssh_config", config)
    shutil.copytree(TOP / "tests/founding", root / "robot")
    inlay = Inlay(root, {"INLAY_SSH": f"ssh -F {root}/ssh_config"})
    bin_dir = root / "bin"
    bin_dir.mkdir()
    (bin_dir / "inlay").symlink_to(INLAY)
    inlay.env["PATH"] = f"{bin_dir}:{inlay.env['PATH']}"
    yield inlay
    subprocess.run([INLAY, "down"], cwd=root / "robot", env=inlay.env, capture_output=True, timeout=PATIENCE)
    for s in both:
        s.stop()


def commands():
    for line in (TOP / "docs/tutorial.md").read_text().splitlines():
        if line.startswith("    $ "):
            yield line[6:]


def test_the_tutorial(robot, root):
    said = {}
    lines = list(commands())
    assert len(lines) >= 12

    def logs(host, component):
        return robot("logs", f"{host}:robot/{component}").out

    for line in lines:
        r = subprocess.run(line, shell=True, cwd=root / "robot", env=robot.env, capture_output=True,
                           stdin=subprocess.DEVNULL, timeout=PATIENCE, text=True)
        assert r.returncode == 0, f"{line}:\n{r.stdout}{r.stderr}"
        said[line] = r.stdout
        if "--trust" in line:
            for host in ("bot1", "bot2"):
                for c in ("controller", "planner", "bridge", "dashboard"):
                    until(lambda: f"{c} version 1" in logs(host, c), what=f"{c} on {host}")
        if "topics.json" in line:
            before = {h: logs(h, "bridge") for h in ("bot1", "bot2")}
    for host in ("bot1", "bot2"):
        until(lambda: "controller version 2 settled" in logs(host, "controller"))
        until(lambda: "bridge version 2" in logs(host, "bridge"))
        # A signal is no restart, and what did not change was left alone.
        assert logs(host, "bridge").count("-- started") == before[host].count("-- started") == 1
        assert logs(host, "planner").count("-- started") == 1
    assert 'VERSION "1"' in said["inlay exec controller@bot1 -- grep VERSION pid.h"]
    assert shlex.split(lines[-1]) == ["inlay", "down"]
