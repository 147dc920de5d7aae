#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a root costs: starting a process and importing modules in one, against a bare directory with the same tree.

    tests/bench/root.py --archive FILE [--rounds 9]

FILE is an archive of an image with python3, numpy and yaml, such as

    mmdebstrap --variant=minbase --include=python3,python3-numpy,python3-yaml bookworm FILE
"""
import json
import os
import pathlib
import subprocess
import sys

from benchlib import Inlay, Scratch, Table, note, parser, rounds, run, timed, until

BUDGET = 1.1
IMPORT = "import numpy, yaml; numpy.ones(3).sum()"
CONFIG = {
    "ociVersion": "1.0.2",
    "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"],
                "capabilities": {}},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
               {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}],
    "linux": {"rootfsPropagation": "rslave", "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}]},
}


def bundle(where, root, args):
    where.mkdir()
    config = json.loads(json.dumps(CONFIG))
    config["root"] = {"path": str(root)}
    config["process"]["args"] = args
    (where / "config.json").write_text(json.dumps(config))
    return where


def main():
    p = parser(__doc__)
    p.add_argument("--archive", required=True, type=pathlib.Path)
    p.add_argument("--where", help="directory to work in (default: TMPDIR)")
    o = p.parse_args()
    table = Table()
    with Scratch(o.where) as top:
        inlay = Inlay(top)
        project = top / "project"
        (project / "nav").mkdir(parents=True)
        (project / "nav/part.py").write_text("".join(f"def f{i}(): return {i}\n" for i in range(200)))
        (project / "inlay.yaml").write_text(
            f"version: 1\nhosts: [local]\nimage: bench\ncomponents:\n  nav: {{source: nav, target: {top}/ws}}\n")
        inlay("image", "import", "-q", "--name", "bench", o.archive, timeout=600)
        inlay("up", "--once", "--trust", cwd=project, timeout=600)
        root, = (inlay.state / "host/ws").glob("*/roots/*/m")
        bare = top / "bare"
        run("cp", "-a", next((inlay.state / "host/images").glob("*/root")), bare)
        (bare / str(top)[1:]).mkdir(parents=True)
        run("cp", "-a", project / "nav", bare / str(top)[1:] / "ws")
        note("both are there")
        subjects = {"bare directory": bare, "root": root}
        work = {"import numpy, yaml": [], "import a module of the workspace": [], "runc run /bin/true": [],
                "runc run: import numpy, yaml": []}
        bundles = {}
        for name, path in subjects.items():
            for row, args in (("runc run /bin/true", ["/bin/true"]),
                              ("runc run: import numpy, yaml", ["python3", "-c", IMPORT])):
                bundles[name, row] = bundle(top / f"bundle-{len(bundles)}", path, args)
        env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", PATH="/usr/bin:/bin")

        def once(row, name):
            path = subjects[name]
            if row == "import numpy, yaml":
                run("/usr/sbin/chroot", path, "python3", "-c", IMPORT, env=env)
            elif row == "import a module of the workspace":
                run("/usr/sbin/chroot", path, "python3", "-c",
                    f"import sys; sys.path.insert(0, '{top}/ws'); import part; assert part.f7() == 7", env=env)
            else:
                run("runc", "run", "--bundle", bundles[name, row], f"inlay-bench-{os.getpid()}-{hash(name) % 9}")
        for row in work:
            for name in subjects:
                once(row, name)
        for i, name in rounds(o.rounds, subjects):
            for row in work:
                table.add(row, name, timed(lambda: once(row, name)))
        inlay("down", cwd=project)
        until(lambda: not subprocess.run(["grep", "-q", str(inlay.state), "/proc/self/mountinfo"]).returncode == 0)
    print("load", *os.getloadavg())
    table.show(base="bare directory", budgets={row: f"{BUDGET}" for row in work})


sys.exit(main())
