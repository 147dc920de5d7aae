# SPDX-License-Identifier: Apache-2.0
"""A base image for tests: busybox and a handful of files, by hand, so that nothing has to be built or fetched."""
import io
import json
import os
import pathlib
import tarfile

BUSYBOX = pathlib.Path("/bin/busybox")
APPLETS = ["sh", "cat", "echo", "env", "id", "ls", "mkdir", "pwd", "rm", "sleep", "touch", "true", "tty", "trap",
           "grep", "kill", "readlink", "stty", "test"]
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnav:x:1000:1000::/home/nav:/bin/sh\n"
GROUP = "root:x:0:\nnav:x:1000:\ndialout:x:20:nav\nvideo:x:44:other,nav\n"


def rootfs(marker="one"):
    """The tar of a root filesystem; `marker` tells one version from another."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        def add(name, data=None, mode=0o755, kind=None, link=""):
            t = tarfile.TarInfo(name)
            t.mode, t.mtime = mode, 1000
            t.type = kind or (tarfile.DIRTYPE if data is None else tarfile.REGTYPE)
            t.linkname = link
            t.size = len(data or b"")
            tar.addfile(t, io.BytesIO(data or b""))
        for name in ("bin", "etc", "home", "home/nav", "proc", "root", "tmp", "usr"):
            add(name, mode=0o1777 if name == "tmp" else 0o755)
        add("bin/busybox", BUSYBOX.read_bytes())
        for name in APPLETS:
            add(f"bin/{name}", b"", 0o777, tarfile.SYMTYPE, "busybox")
        add("etc/passwd", PASSWD.encode(), 0o644)
        add("etc/group", GROUP.encode(), 0o644)
        add("etc/marker", (marker + "\n").encode(), 0o644)
        add("bin/entry", b'#!/bin/sh\nENTERED=yes exec "$@"\n')
    return out.getvalue()


def oci(path, config=None, marker="one"):
    """An image of it as an OCI layout, with a configuration."""
    import hashlib
    layer = rootfs(marker)
    path.mkdir(parents=True)
    (path / "blobs/sha256").mkdir(parents=True)

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (path / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    one = blob(layer)
    conf = blob(json.dumps({"architecture": arch, "os": "linux", "config": config or {},
                            "rootfs": {"type": "layers", "diff_ids": [one["digest"]]}}).encode())
    manifest = blob(json.dumps({
        "schemaVersion": 2, "config": dict(conf, mediaType="application/vnd.oci.image.config.v1+json"),
        "layers": [dict(one, mediaType="application/vnd.oci.image.layer.v1.tar")]}).encode())
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({
        "schemaVersion": 2,
        "manifests": [dict(manifest, mediaType="application/vnd.oci.image.manifest.v1+json")]}))
    return path
