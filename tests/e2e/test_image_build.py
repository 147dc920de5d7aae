# SPDX-License-Identifier: Apache-2.0
"""Images from recipes: real builders where they can run; what is unchanged starts none."""
import os
import pathlib
import shutil
import stat
import subprocess
import time

import pytest

import archives
from conftest import write

TOP = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def context(root):
    path = root / "ctx"
    write(path / "Containerfile", "ARG BASE=localhost/root:1\nFROM ${BASE} AS prod\nCOPY hello /hello\nENV A=1\n"
          "CMD [\"/hello\"]\nFROM prod AS dev\nCOPY hello /hello2\n")
    write(path / "hello", "hello\n")
    write(path / ".dockerignore", "*.log\nsecret/\n")
    write(path / "noise.log", "1\n")
    return path


@pytest.fixture
def fake(root, inlay):
    """A builder that notes how it is called and gives a fixed image: for what the real ones need no run to show."""
    path = root / "bin"
    out = root / "image.tar"
    out.write_bytes(archives.oci([archives.tar(archives.file("built"))]))
    for name in ("buildah", "docker"):
        program = write(path / name, f"""#!/bin/sh
[ "$1" = push ] || echo "$@" >> {root}/calls
case $1 in
push) cp {out} "${{4#oci-archive:}}" ;;
inspect|image) echo "sha256:$(cat {root}/digest)" ;;
pull) ;;
*)
    echo "from $$"
    for a; do case $a in
    *.id) echo id > "$a" ;;
    --output=type=oci,dest=*) cp {out} "${{a#--output=type=oci,dest=}}" ;;
    --file=*) cp "${{a#--file=}}" {root}/recipe ;;
    esac; done
    [ ! -e {root}/fail ] ;;
esac
""")
        program.chmod(0o755)
    (root / "digest").write_text("ab" * 32)
    inlay.env["PATH"] = f"{path}:{os.environ['PATH']}"
    return root


def calls(root):
    path = root / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def build(inlay, context, *args, **kw):
    return {r["variant"]: r["result"] for r in inlay("image", "build", "--json", "--name", "x", context, *args,
                                                     **kw).rows if "variant" in r}


def test_unchanged_starts_nothing(inlay, fake, context):
    assert build(inlay, context) == {"prod": "built", "dev": "built"}
    assert len(calls(fake)) == 3  # the tag was resolved once, for both
    assert (context / "inlay.lock").read_text() == f"localhost/root:1 linux/{host()} sha256:{'ab' * 32}\n"
    assert f"FROM localhost/root@sha256:{'ab' * 32} AS prod\n" in (fake / "recipe").read_text()
    start = time.monotonic()
    assert build(inlay, context) == {"prod": "unchanged", "dev": "unchanged"}
    assert time.monotonic() - start < 2
    assert calls(fake) == []
    # The same content at another time, and what the builder does not get, change nothing.
    os.utime(context / "hello", (5, 5))
    write(context / "noise.log", "2\n")
    write(context / "secret/key", "k\n")
    (fake / "digest").write_text("cd" * 32)
    assert build(inlay, context) == {"prod": "unchanged", "dev": "unchanged"}
    assert build(inlay, context, "--force") == {"prod": "built alike", "dev": "built alike"}
    assert len(calls(fake)) == 2


def host():
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


@pytest.mark.parametrize("change,line", [
    (lambda c: write(c / "hello", "other\n"), "file hello"),
    (lambda c: os.chmod(c / "hello", 0o755), "file hello"),
    (lambda c: write(c / "new", ""), "file new"),
    (lambda c: (c / "hello").unlink(), "file hello"),
    (lambda c: (c / "dir").mkdir(), "folder dir"),
    (lambda c: (c / "link").symlink_to("hello"), "file link"),
    (lambda c: write(c / "Containerfile", "FROM scratch AS prod\nFROM scratch AS dev\n"), "recipe Containerfile"),
    (lambda c: write(c / ".dockerignore", "*.log\n!x\n"), "file noise.log"),
    (lambda c: write(c / "inlay.lock", f"localhost/root:1 linux/{host()} sha256:{'ef' * 32}\n"), "base localhost/root:1"),
])
def test_what_changed_is_named(inlay, fake, context, change, line):
    build(inlay, context)
    assert "unchanged" in inlay("why", "--build", "--name", "x", context).out
    change(context)
    calls(fake)
    rows = inlay("why", "--build", "--json", "--name", "x", context).rows
    assert calls(fake) == []
    assert all(r["state"] == "changed" for r in rows)
    assert any(d["input"].startswith(line) for r in rows for d in r["differs"]), rows
    assert set(build(inlay, context).values()) == {"built alike"}


def test_arguments_builder_and_refresh(inlay, fake, context):
    build(inlay, context, "--build-arg", "X=1")
    assert build(inlay, context, "--build-arg", "X=1")["prod"] == "unchanged"
    assert build(inlay, context, "--build-arg", "X=2")["prod"] == "built alike"
    assert build(inlay, context, "--build-arg", "X=2", "--builder", "docker")["prod"] == "built alike"
    assert "buildx build" in calls(fake)[-1]
    (fake / "digest").write_text("cd" * 32)
    assert build(inlay, context, "--build-arg", "X=2", "--builder", "docker", "--refresh-base")["prod"] == "built alike"
    assert "cd" * 32 in (context / "inlay.lock").read_text()
    build(inlay, context, "--build-arg", f"BASE=localhost/other@sha256:{'aa' * 32}")
    assert f"FROM localhost/other@sha256:{'aa' * 32} AS prod" in (fake / "recipe").read_text()


def test_platforms_side_by_side(inlay, fake, context):
    """Each line says whose it is; a failed build leaves the rest, and is built again."""
    r = inlay("image", "build", "--name", "x", "--platform", "linux/amd64,linux/arm64", "--builder", "docker", context,
              code=None)
    # The image that this builder gives is for amd64: the other two are refused.
    assert r.code == 1 and "no image in it fits linux/arm64" in r.err
    assert "[dev linux/amd64] from " in r.err or "[prod linux/amd64] from " in r.err
    (fake / "fail").touch()
    r = inlay("image", "build", "--name", "y", context, code=1)
    assert "2 of 2 builds failed" in r.err and r.out.count("failed") == 2
    (fake / "fail").unlink()
    assert inlay("image", "build", "--json", "--name", "y", context).rows[0]["result"] == "built"
    assert not list((inlay.state / "dev/images").glob("*.tar")) and not list((inlay.state / "dev/images").glob("*.recipe"))


def test_removed_image_is_built_again(inlay, fake, context):
    build(inlay, context)
    inlay("image", "rm", "x")
    assert build(inlay, context) == {"prod": "built", "dev": "built"}


def test_bad_recipes(inlay, fake, root, context):
    assert "no Containerfile" in inlay("image", "build", root / "bin", code=1).err
    assert "no builder" in inlay("image", "build", "--builder", "make", context, code=1).err
    inlay("image", "build", root / "nothing", code=1)
    (context / "Containerfile").write_text("FROM ${NOTHING}\n")
    assert "FROM nothing" in inlay("image", "build", context, code=1).err
    for text, why in (("suite x\nboot y\n", "line 2: 'boot' is not understood"), ("include a\n", "names no suite"),
                      ("suite x\ninclude --hook\n", "is no package")):
        (context / "mmdebstrap").write_text(text)
        program = write(root / "bin/mmdebstrap", "#!/bin/sh\n")
        program.chmod(0o755)
        assert why in inlay("image", "build", "--builder", "mmdebstrap", context, code=1).err


def test_our_own_recipes_are_understood(inlay, fake, root):
    """Every recipe in images/ names its variants; base and robot install in the same way."""
    program = write(root / "bin/mmdebstrap", f"#!/bin/sh\necho \"$@\" >> {root}/calls\nexit 1\n")
    program.chmod(0o755)
    for name in ("base", "robot"):
        shutil.copytree(TOP / "images" / name, root / name)
        rows = inlay("why", "--build", "--json", root / name).rows
        assert [r["variant"] for r in rows] == ["prod", "dev"]
        inlay("image", "build", "-q", "--builder", "mmdebstrap", "--platform", "linux/arm64", root / name, code=1)
        lines = calls(root)
        assert len(lines) == 2 and all("--architectures=arm64" in x and "ca-certificates" in x for x in lines)
        assert ["gdb" in x for x in sorted(lines, key=len)] == [False, True]
    assert (TOP / "images/base/install").read_bytes() == (TOP / "images/robot/install").read_bytes()


@pytest.fixture
def there(root, inlay, sshd, fake):
    """The fake builder stands on a host; here there is none."""
    (root / "tmp").mkdir()
    sshd.rc.write_text(f"export PATH={root}/bin:/usr/bin:/bin TMPDIR={root}/tmp\n")
    empty = root / "no-builder"
    empty.mkdir()
    for name in ("ssh", "tar", "sh", "uname"):
        (empty / name).symlink_to(shutil.which(name))
    inlay.env.update(INLAY_SSH=sshd.ssh, PATH=str(empty))
    return root


def test_on_a_host(inlay, sshd, there, context):
    """The context goes there, the image comes back, nothing stays; what is unchanged starts nothing."""
    (context / "it's a name").mkdir()
    assert "is there" in inlay("image", "build", context, code=1).err
    assert build(inlay, context, "--on", "testhost") == {"prod": "built", "dev": "built"}
    lines = calls(there)
    assert len(lines) == 3 and all("--file=recipe context" in x for x in lines[1:])
    assert f"localhost/root@sha256:{'ab' * 32}" in (there / "recipe").read_text()
    assert inlay("image", "list", "--json").rows[0]["platform"] == f"linux/{host()}"
    assert build(inlay, context, "--on", "testhost") == {"prod": "unchanged", "dev": "unchanged"}
    assert inlay("why", "--build", "--json", "--name", "x", "--on", "testhost", context).rows[0]["state"] == "unchanged"
    assert calls(there) == []
    (there / "fail").touch()
    r = inlay("image", "build", "--name", "x", "--on", "testhost", "--force", context, code=1)
    assert "2 of 2 builds failed" in r.err and f"[dev linux/{host()}] from " in r.err
    assert os.listdir(there / "tmp") == []
    assert not [x for x in os.listdir(inlay.state / "dev/images") if x.endswith((".tar", ".recipe"))]


def test_on_a_host_that_cannot(inlay, sshd, there, context):
    sshd.rc.write_text(f"export PATH={there}/no-builder\n")
    assert "is there" in inlay("image", "build", "--on", "testhost", context, code=1).err
    sshd.stop()
    assert "ask testhost what it can build" in inlay("image", "build", "--on", "testhost", context, code=5).err


@pytest.mark.parametrize("on", [(), ("--on", "testhost")])
def test_real_buildah(inlay, root, sshd, context, on):
    """A real builder on a real context, from nothing, here and on a host."""
    if not shutil.which("buildah") or os.geteuid() != 0:
        pytest.skip("needs buildah and root")
    env = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot", "XDG_RUNTIME_DIR": str(root / "run"),
           "CONTAINERS_STORAGE_CONF": str(root / "storage.conf")}
    inlay.env.update(env, INLAY_SSH=sshd.ssh)
    sshd.rc.write_text("".join(f"export {k}={v}\n" for k, v in env.items()))
    (root / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\nrunroot = "{root}/run"\ngraphroot = "{root}/graph"\n')
    (context / "Containerfile").write_text("FROM scratch AS prod\nCOPY hello /hello\nENV A=1\nCMD [\"/hello\"]\n"
                                           "FROM prod AS dev\nCOPY hello /hello2\n")
    assert build(inlay, context, *on) == {"prod": "built", "dev": "built"}
    config = inlay("image", "inspect", "--json", "x", "--variant", "dev").json["config"]
    assert config["Cmd"] == ["/hello"] and "A=1" in config["Env"]
    assert build(inlay, context, *on) == {"prod": "unchanged", "dev": "unchanged"}
    # What the builder has in its cache, whole.
    assert build(inlay, context, *on, "--force") == {"prod": "built alike", "dev": "built alike"}
    write(context / "hello", "other\n")
    assert build(inlay, context, *on) == {"prod": "built", "dev": "built"}
