# SPDX-License-Identifier: Apache-2.0
"""Archives of images made by hand, header by header: good ones, odd ones and hostile ones.

`cases()` gives every case: what it is called, a function that makes the bytes, and what has to come of it:
a tree (path -> what is there) or the text that the refusal must contain.
"""
import gzip
import hashlib
import io
import json
import struct

BLOCK = 512


def octal(n, width):
    return b"%0*o\0" % (width - 1, n)


def header(name, size=0, kind=b"0", link=b"", mode=0o644, uid=0, gid=0, mtime=1000, checksum=None,
           magic=b"ustar\x0000", prefix=b"", dev=(0, 0), raw_size=None):
    """One ustar header. Nothing is checked: this is for making bad ones, too."""
    name = name.encode() if isinstance(name, str) else name
    link = link.encode() if isinstance(link, str) else link
    h = bytearray(BLOCK)
    h[0:len(name[:100])] = name[:100]
    h[100:108] = octal(mode, 8)
    h[108:116] = octal(uid, 8)
    h[116:124] = octal(gid, 8)
    h[124:136] = raw_size if raw_size is not None else octal(size, 12)
    h[136:148] = octal(mtime, 12)
    h[148:156] = b" " * 8
    h[156:157] = kind
    h[157:157 + len(link[:100])] = link[:100]
    h[257:265] = magic
    h[329:337] = octal(dev[0], 8)
    h[337:345] = octal(dev[1], 8)
    h[345:345 + len(prefix)] = prefix
    total = sum(h) if checksum is None else checksum
    h[148:156] = b"%06o\0 " % total
    return bytes(h)


def padded(data):
    return data + bytes(-len(data) % BLOCK)


def file(name, data=b"x\n", **kw):
    return header(name, len(data), **kw) + padded(data)


def folder(name, mode=0o755, **kw):
    return header(name, kind=b"5", mode=mode, **kw)


def symlink(name, target, **kw):
    return header(name, kind=b"2", link=target, mode=0o777, **kw)


def hardlink(name, target, **kw):
    return header(name, kind=b"1", link=target, **kw)


def pax_record(key, value):
    key = key.encode() if isinstance(key, str) else key
    value = value.encode() if isinstance(value, str) else value
    rest = b" " + key + b"=" + value + b"\n"
    n = len(rest) + 1
    while len(b"%d" % n) + len(rest) != n:
        n = len(b"%d" % n) + len(rest)
    return b"%d" % n + rest


def pax(records, kind=b"x"):
    body = b"".join(pax_record(k, v) for k, v in records) if isinstance(records, list) else records
    return file("PaxHeaders/x", body, kind=kind)


def gnu_long(kind, text):
    text = text.encode() if isinstance(text, str) else text
    return file("././@LongLink", text + b"\0", kind=kind)


def tar(*parts, end=True):
    return b"".join(parts) + (bytes(2 * BLOCK) if end else b"")


def base256(n, width=12):
    return b"\x80" + n.to_bytes(width - 1, "big")


# ---- images ----

def sha(data):
    return hashlib.sha256(data).hexdigest()


def oci_files(layers, config=None, os="linux", arch="amd64", variant=None, tag=None, pack=None, diff_ids=None,
              tweak=None, compress=gzip.compress):
    """The files of an OCI layout. `tweak` gets and changes the dict of parts before they are written."""
    blobs = [compress(layer) if pack is None or pack[i] else layer for i, layer in enumerate(layers)]
    parts = {
        "blobs": blobs,
        "config": {"architecture": arch, "os": os, "config": config or {},
                   "rootfs": {"type": "layers",
                              "diff_ids": diff_ids or ["sha256:" + sha(x) for x in layers]}},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:" + sha(b),
                    "size": len(b)} for b in blobs],
        "annotations": {"org.opencontainers.image.ref.name": tag} if tag else {},
        "extra": {},
    }
    if variant:
        parts["config"]["variant"] = variant
    if tweak:
        tweak(parts)
    conf = json.dumps(parts["config"]).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": parts.get("config_descriptor",
                            {"mediaType": "application/vnd.oci.image.config.v1+json",
                             "digest": "sha256:" + sha(conf), "size": len(conf)}),
        "layers": parts["layers"]}).encode()
    descriptor = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + sha(manifest),
                  "size": len(manifest), "annotations": parts["annotations"]}
    descriptor.update(parts.get("manifest_descriptor", {}))
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    for blob in parts["blobs"] + [conf, manifest]:
        files["blobs/sha256/" + sha(blob)] = blob
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode()
    files.update(parts["extra"])
    return files


def merge_oci(*layouts):
    """One layout with the images of several."""
    files, manifests = {}, []
    for one in layouts:
        files.update(one)
        manifests += json.loads(one["index.json"])["manifests"]
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    return files


def nest_index(files, depth):
    """Puts the index of a layout behind `depth` others."""
    index = files["index.json"]
    for _ in range(depth):
        files["blobs/sha256/" + sha(index)] = index
        index = json.dumps({"schemaVersion": 2, "manifests": [
            {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha256:" + sha(index),
             "size": len(index)}]}).encode()
    files["index.json"] = index
    return files


def archive_of(files, order=None):
    names = order(files) if order else files
    return tar(*[file(name, files[name]) for name in names])


def oci(layers, order=None, **kw):
    return archive_of(oci_files(layers, **kw), order)


def docker_files(layers, config=None, tags=("robot:1",), names=None, tweak=None, arch="amd64"):
    conf = {"architecture": arch, "os": "linux", "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(x) for x in layers]}}
    names = names or [sha(b"%d" % i) + "/layer.tar" for i in range(len(layers))]
    parts = {"config": conf, "names": list(names), "files": dict(zip(names, layers)), "tags": list(tags)}
    if tweak:
        tweak(parts)
    conf = json.dumps(parts["config"]).encode()
    conf_name = parts.get("config_name", sha(conf) + ".json")
    files = dict(parts["files"])
    files[conf_name] = conf
    files["manifest.json"] = json.dumps(parts.get("manifest") or [
        {"Config": conf_name, "RepoTags": parts["tags"], "Layers": parts["names"]}]).encode()
    return files


def docker(layers, links=(), **kw):
    files = docker_files(layers, **kw)
    return tar(*[file(n, d) for n, d in files.items()], *[symlink(n, t) for n, t in links])


# ---- the cases ----

GOOD = tar(folder("etc"), file("etc/a", b"a\n"))
GOOD_TREE = {"etc": "dir", "etc/a": b"a\n"}
COMBINED, SPLIT = "caf\u00e9", "cafe\u0301"
DEEP = "/".join("d" * 5 for _ in range(600))


def refused(*text):
    return ("refused", text)


def layer_paths():
    """Paths that lead out, and those that only look so."""
    bad = {
        "dotdot": ("../x", "contains .."), "dotdot-inside": ("a/../../x", "contains .."),
        "dotdot-harmless": ("a/../b", "contains .."), "dotdot-alone": ("..", "contains .."),
        "dotdot-end": ("a/..", "contains .."), "dotdot-slashes": ("a//..//..//x", "contains .."),
        "dotdot-after-dot": ("./../x", "contains .."), "dotdot-slash-end": ("a/../", "contains .."),
        "absolute": ("/etc/x", "absolute"), "absolute-slashes": ("///etc/x", "absolute"),
        "absolute-dotdot": ("/../etc/x", "absolute"),
    }
    for name, (path, why) in bad.items():
        yield f"path-{name}", lambda p=path: tar(folder("a"), file(p)), refused(why, path.rstrip("/"))
        yield f"path-{name}-link", lambda p=path: tar(symlink(p, "x")), refused(why)
    yield "path-dotdot-pax", lambda: tar(pax([("path", "../../x")]), file("x")), refused("contains ..")
    yield "path-absolute-pax", lambda: tar(pax([("path", "/etc/x")]), file("x")), refused("absolute")
    yield "path-dotdot-gnu", lambda: tar(gnu_long(b"L", "a/" * 80 + "../" * 90 + "x"), file("x")), refused(
        "contains ..")
    yield "path-dotdot-prefix", lambda: tar(file("x", prefix=b"../..")), refused("contains ..")
    yield "path-dotdot-dir", lambda: tar(folder("../d/")), refused("contains ..")
    yield "path-empty", lambda: tar(pax([("path", "")]), file("")), refused("entry")
    yield "path-file-as-root", lambda: tar(file("./")), refused("./")
    yield "path-link-as-root", lambda: tar(symlink(".", "etc")), refused("root is not a directory")
    yield "path-name-255", lambda: tar(pax([("path", "n" * 255)]), file("x")), {"n" * 255: b"x\n"}
    yield "path-name-256", lambda: tar(pax([("path", "n" * 256)]), file("x")), refused("more than 255 bytes")
    yield "path-name-256-inside", lambda: tar(pax([("path", "a/" + "n" * 256 + "/b")]), file("x")), refused(
        "more than 255 bytes")
    yield "path-deep", lambda: tar(pax([("path", DEEP)]), file("x")), {DEEP: b"x\n"}
    yield "path-too-deep", lambda: tar(pax([("path", "d/" * 1024 + "x")]), file("x")), refused(
        "more than 1024 directories deep")
    yield "path-deepest", lambda: tar(pax([("path", "d/" * 1023 + "x")]), file("x")), {"d/" * 1023 + "x": b"x\n"}
    yield "path-too-long", lambda: tar(pax([("path", ("p" * 200 + "/") * 330 + "x")]), file("x")), refused(
        "more than 65535 bytes")
    yield "path-dots-and-slashes", lambda: tar(file("./a//./b")), {"a": "dir", "a/b": b"x\n"}
    yield "path-looks-like-dotdot", lambda: tar(file("..."), file("..a"), file("a..")), {
        "...": b"x\n", "..a": b"x\n", "a..": b"x\n"}
    yield "path-control-bytes", lambda: tar(file(b"a\x1b[31m\nb\x7f")), {"a\x1b[31m\nb\x7f": b"x\n"}
    yield "path-not-utf8", lambda: tar(file(b"\xff\xfe")), {b"\xff\xfe".decode(errors="surrogateescape"): b"x\n"}
    yield "path-backslash", lambda: tar(file("..\\..\\x")), {"..\\..\\x": b"x\n"}
    yield "path-root-entry", lambda: tar(folder("./", mode=0o700), file("./a")), {"a": b"x\n"}
    yield "path-slash-root", lambda: tar(folder("/"), file("a")), {"a": b"x\n"}


def layer_links():
    out = "/tmp/inlay-outside"
    yield "link-then-write", lambda: tar(symlink("l", "/etc"), file("l/x")), refused("absolute path", "l/x")
    yield "link-then-write-dotdot", lambda: tar(symlink("l", "../.."), file("l/x")), refused("out of the tree")
    yield "link-then-write-deep", lambda: tar(folder("a"), symlink("a/l", "../../../etc"), file("a/l/x")), refused(
        "out of the tree")
    yield "link-then-mkdir", lambda: tar(symlink("l", out), folder("l/d")), refused("absolute path")
    yield "link-then-link", lambda: tar(symlink("l", out), symlink("l/m", "x")), refused("absolute path")
    yield "link-then-hard-link", lambda: tar(file("a"), symlink("l", out), hardlink("l/b", "a")), refused(
        "absolute path")
    yield "link-replaced-by-file", lambda: tar(symlink("l", out), file("l", b"new\n")), {"l": b"new\n"}
    yield "link-replaced-by-dir", lambda: tar(symlink("l", out), folder("l"), file("l/x")), {
        "l": "dir", "l/x": b"x\n"}
    yield "link-chain-out", lambda: tar(symlink("a", "b"), symlink("b", "c"), symlink("c", "../x"),
                                        file("a/y")), refused("out of the tree")
    yield "link-loop", lambda: tar(symlink("a", "b"), symlink("b", "a"), file("a/x")), refused(
        "more than 40 symlinks")
    yield "link-to-itself", lambda: tar(symlink("a", "a"), file("a/x")), refused("more than 40 symlinks")
    yield "link-chain-41", lambda: tar(folder("d"), *[symlink(f"l{i}", f"l{i + 1}") for i in range(41)],
                                       symlink("l41", "d"), file("l0/x")), refused("more than 40 symlinks")
    yield "link-chain-40", lambda: tar(folder("d"), *[symlink(f"l{i}", f"l{i + 1}") for i in range(39)],
                                       symlink("l39", "d"), file("l0/x")), {
        "d": "dir", "d/x": b"x\n", **{f"l{i}": "-> " + (f"l{i + 1}" if i < 39 else "d") for i in range(40)}}
    yield "link-to-file-then-write", lambda: tar(file("f"), symlink("l", "f"), file("l/x")), refused(
        "leads through a file")
    yield "link-usr-merge", lambda: tar(folder("usr"), folder("usr/lib"), symlink("lib", "usr/lib"),
                                        file("lib/x")), {
        "usr": "dir", "usr/lib": "dir", "usr/lib/x": b"x\n", "lib": "-> usr/lib"}
    yield "link-inside-dotdot", lambda: tar(folder("a"), folder("b"), symlink("a/l", "../b"), file("a/l/x")), {
        "a": "dir", "b": "dir", "b/x": b"x\n", "a/l": "-> ../b"}
    yield "link-absolute-is-data", lambda: tar(symlink("l", "/etc/passwd")), {"l": "-> /etc/passwd"}
    yield "link-dotdot-is-data", lambda: tar(symlink("l", "../../../x")), {"l": "-> ../../../x"}
    yield "link-no-target", lambda: tar(symlink("l", "")), refused("without a target")
    yield "link-target-4095", lambda: tar(pax([("linkpath", "t" * 4095)]), symlink("l", "x")), {
        "l": "-> " + "t" * 4095}
    yield "link-target-4096", lambda: tar(pax([("linkpath", "t" * 4096)]), symlink("l", "x")), refused(
        "more than 4095 bytes")
    yield "link-through-file", lambda: tar(file("a"), file("a/b")), refused("leads through a file")


def layer_hard_links():
    yield "hard-link", lambda: tar(file("a"), hardlink("b", "a")), {"a": b"x\n", "b": ("same", "a")}
    yield "hard-link-dot", lambda: tar(file("d/a"), hardlink("b", "./d/a")), {
        "d": "dir", "d/a": b"x\n", "b": ("same", "d/a")}
    yield "hard-link-outside", lambda: tar(hardlink("b", "/etc/passwd")), refused("absolute")
    yield "hard-link-dotdot", lambda: tar(hardlink("b", "../../etc/passwd")), refused("contains ..")
    yield "hard-link-through-link", lambda: tar(symlink("l", "/etc"), hardlink("b", "l/passwd")), refused(
        "absolute path")
    yield "hard-link-to-nothing", lambda: tar(hardlink("b", "a")), refused("which is not there")
    yield "hard-link-before-target", lambda: tar(hardlink("b", "a"), file("a")), refused("which is not there")
    yield "hard-link-to-dir", lambda: tar(folder("d"), hardlink("b", "d")), refused("to the directory")
    yield "hard-link-to-root", lambda: tar(hardlink("b", ".")), refused("to the directory")
    yield "hard-link-to-link", lambda: tar(symlink("l", "/etc/passwd"), hardlink("b", "l")), {
        "l": "-> /etc/passwd", "b": "-> /etc/passwd"}
    yield "hard-link-to-itself", lambda: tar(file("a"), hardlink("a", "a")), {"a": b"x\n"}
    yield "hard-link-over-target-dir", lambda: tar(file("d/a", b"q"), hardlink("d", "d/a")), {"d": b"q"}
    yield "hard-link-with-content", lambda: tar(file("a"), pax([("size", "3")]), hardlink("b", "a"),
                                                padded(b"abc")), refused("content of its own")
    yield "hard-link-pax-out", lambda: tar(pax([("linkpath", "../x")]), hardlink("b", "a")), refused("contains ..")
    yield "hard-link-to-device", lambda: tar(header("n", kind=b"3", dev=(1, 3)), hardlink("b", "n")), refused(
        "which is not there")
    yield "hard-link-as-root", lambda: tar(file("a"), hardlink(".", "a")), refused("root is not a directory")


def layer_devices():
    null = {"skipped": {"devices": 1}}
    yield "device-char", lambda: tar(header("null", kind=b"3", dev=(1, 3))), {"": null}
    yield "device-block", lambda: tar(header("sda", kind=b"4", dev=(8, 0))), {"": null}
    yield "device-whiteout-of-overlayfs", lambda: tar(header("a", kind=b"3", dev=(0, 0))), {"": null}
    yield "device-over-file", lambda: tar(file("a"), header("a", kind=b"3", dev=(1, 3))), {"": null}
    yield "device-fifo", lambda: tar(header("p", kind=b"6")), {"": {"skipped": {"pipes": 1}}}
    yield "device-dotdot", lambda: tar(header("../n", kind=b"3", dev=(1, 3))), refused("contains ..")
    yield "device-then-below", lambda: tar(header("n", kind=b"3"), file("n/x")), {
        "n": "dir", "n/x": b"x\n", "": null}
    # POSIX: a type that is not known is a regular file.
    yield "type-unknown", lambda: tar(file("a", kind=b"Z")), {"a": b"x\n"}
    yield "type-contiguous", lambda: tar(file("a", kind=b"7")), {"a": b"x\n"}
    yield "xattr-of-overlayfs", lambda: tar(pax([("SCHILY.xattr.trusted.overlay.opaque", "y")]), folder("d")), {
        "d": "dir", "": {"skipped": {"xattrs": 1}}}
    yield "xattr-name-256", lambda: tar(pax([("SCHILY.xattr.user." + "n" * 260, "y")]), file("d")), refused(
        "bad name")
    yield "xattr-value-too-long", lambda: tar(pax([("SCHILY.xattr.user.a", "v" * 65537)]), file("d")), refused(
        "more than 65536 bytes")
    yield "xattrs-too-many", lambda: tar(pax([(f"SCHILY.xattr.user.a{i}", "v" * 65000) for i in range(17)]),
                                         file("d")), refused("")


def layer_bytes():
    """Damage, sizes and numbers."""
    good = tar(file("a", b"a" * 1000), file("b", b"b" * 1000))
    yield "hostile-after-content", lambda: tar(file("large", bytes(range(256)) * 1000), file("../x")), refused(
        "contains ..")
    yield "cut-in-content", lambda: good[:700], refused("")
    yield "cut-in-padding", lambda: good[:1512], refused("")
    yield "cut-in-header", lambda: good[:1700], refused("")
    yield "cut-at-entry", lambda: good[:1536], refused("without an end mark", "'a'")
    yield "cut-before-end", lambda: tar(file("a"), end=False), refused("without an end mark")
    yield "one-end-block", lambda: tar(file("a"), bytes(512), end=False), {"a": b"x\n"}
    yield "empty-file", lambda: b"", refused("")
    yield "one-byte", lambda: b"\0", refused("")
    yield "garbage", lambda: bytes(range(256)) * 8, refused("")
    yield "text", lambda: b"hello world\n" * 100, refused("")
    yield "nothing-in-it", lambda: tar(), {}
    yield "wrong-checksum-first", lambda: tar(file("a", checksum=7), file("b")), refused("")
    yield "wrong-checksum-second", lambda: tar(file("a"), file("b", checksum=7)), refused("'a'")
    yield "wrong-checksum-one-bit", lambda: flip(tar(file("a"), file("b")), 1024 + 3), refused("'a'")
    yield "wrong-checksum-pax", lambda: flip(tar(file("a"), pax([("path", "q")]), file("b")), 1024 + 3), refused("")
    yield "zero-block-then-more", lambda: tar(file("a"), bytes(512), file("b")), {"a": b"x\n"}
    yield "size-negative", lambda: tar(header("a", raw_size=b"\xff" * 12)), refused("")
    yield "size-huge", lambda: tar(header("a", raw_size=base256(1 << 62))), refused("")
    yield "size-beyond-end", lambda: tar(header("a", size=1 << 20)), refused("")
    yield "size-2-to-40", lambda: tar(header("a", raw_size=base256((1 << 40) + 1))), refused("more than")
    yield "size-pax-larger", lambda: tar(pax([("size", "5000")]), file("a", b"a" * 100)), refused("")
    yield "size-pax-bad", lambda: tar(pax([("size", "-5")]), file("a")), refused("")
    yield "uid-large", lambda: tar(pax([("uid", str(1 << 32))]), file("a")), refused("owner")
    yield "uid-negative", lambda: tar(pax([("uid", "-1")]), file("a")), refused("owner")
    yield "gid-large", lambda: tar(pax([("gid", str(1 << 40))]), file("a")), refused("owner")
    yield "time-large", lambda: tar(pax([("mtime", "99999999999999")]), file("a")), refused("time")
    yield "time-nanoseconds", lambda: tar(pax([("mtime", "1000.123456789")]), file("a")), {
        "a": ("mtime", 1000123456789)}
    yield "time-before-1970", lambda: tar(pax([("mtime", "-5")]), file("a")), {"a": ("mtime", -5000000000)}
    yield "pax-malformed", lambda: tar(pax(b"99 path=x\n"), file("a")), refused("")
    yield "pax-no-equals", lambda: tar(pax(b"9 pathxx\n"), file("a")), refused("")
    yield "pax-bomb", lambda: tar(header("x", size=(1 << 20) + 1, kind=b"x"), bytes((1 << 20) + 512),
                                  file("a")), refused("")
    yield "pax-bomb-declared", lambda: tar(header("x", raw_size=base256(1 << 40), kind=b"x")), refused("")
    yield "pax-headers-many", lambda: tar(*[pax([("comment", "c")]) for _ in range(100)], file("a")), refused("")
    yield "long-name-bomb", lambda: tar(header("x", size=2 << 20, kind=b"L"), bytes(2 << 20), file("a")), refused("")
    yield "pax-global", lambda: tar(pax([("comment", "c" * 100)], kind=b"g"), file("a")), {"a": b"x\n"}
    yield "twins", lambda: tar(pax([("path", COMBINED)]), file("a", b"1"), pax([("path", SPLIT)]), file("b", b"2")), {
        COMBINED: b"1", SPLIT: b"2"}
    yield "twins-ustar", lambda: tar(file(COMBINED, b"1"), file(SPLIT, b"2")), {COMBINED: b"1", SPLIT: b"2"}
    yield "twins-kelvin", lambda: tar(pax([("path", "\u212a")]), file("a", b"1"), file("K", b"2")), {
        "\u212a": b"1", "K": b"2"}
    yield "duplicate-last-wins", lambda: tar(file("a", b"1"), file("a", b"2")), {"a": b"2"}
    yield "duplicate-dir-keeps", lambda: tar(folder("d"), file("d/a"), folder("d", mode=0o700)), {
        "d": "dir", "d/a": b"x\n"}
    yield "duplicate-file-over-dir", lambda: tar(folder("d"), file("d/a"), file("d", b"f")), {"d": b"f"}
    yield "duplicate-dir-over-file", lambda: tar(file("d"), folder("d"), file("d/a")), {"d": "dir", "d/a": b"x\n"}
    yield "implicit-parents", lambda: tar(file("a/b/c")), {"a": "dir", "a/b": "dir", "a/b/c": b"x\n"}


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def sparse(real, name=b"s"):
    """GNU sparse 1.0: one piece of 512 bytes at the end."""
    table = padded(b"1\n%d\n512\n" % (real - 512))
    return pax([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", name),
                ("GNU.sparse.realsize", str(real))]) + file("GNUSparseFile.0/s", table + b"z" * 512)


def zeros_gz(count):
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0) as f:
        f.write(header("z", raw_size=base256(count)))
        for _ in range(count >> 20):
            f.write(bytes(1 << 20))
        f.write(bytes(1024))
    return out.getvalue()


def layer_bombs():
    packed = gzip.compress(GOOD, mtime=0)
    yield "sparse", lambda: tar(sparse(1 << 20)), {"s": ("size", 1 << 20)}
    yield "sparse-8-gib", lambda: tar(sparse(8 << 30)), refused("more than 1000 times", "'s'")
    yield "sparse-many", lambda: tar(*[sparse(60 << 20, b"s%d" % i) for i in range(2)]), refused(
        "more than 1000 times", "'s1'")
    yield "sparse-bad-map", lambda: tar(pax([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"),
                                             ("GNU.sparse.name", "s"), ("GNU.sparse.realsize", "100")]),
                                        file("x", padded(b"1\n5000\n512\n") + b"z" * 512)), refused("")
    yield "gzip", lambda: packed, GOOD_TREE
    yield "gzip-two-members", lambda: gzip.compress(GOOD[:700]) + gzip.compress(GOOD[700:]), GOOD_TREE
    yield "gzip-cut", lambda: packed[:-20], refused("")
    yield "gzip-no-trailer", lambda: packed[:-8], refused("")
    yield "gzip-wrong-crc", lambda: flip(packed, len(packed) - 6), refused("gzip", "data check")
    yield "gzip-wrong-length", lambda: flip(packed, len(packed) - 2), refused("gzip", "length check")
    yield "gzip-flipped", lambda: flip(packed, len(packed) // 2), refused("")
    yield "gzip-trailing-garbage", lambda: packed + b"garbage!", refused("gzip")
    yield "gzip-of-gzip", lambda: gzip.compress(packed), refused("")
    yield "gzip-header-only", lambda: b"\x1f\x8b", refused("")
    yield "gzip-bomb", lambda: zeros_gz(128 << 20), refused("1000 times", "'z'")
    yield "gzip-bomb-behind-the-end", lambda: gzip.compress(tar(file("a"), bytes(128 << 20)), mtime=0), refused(
        "unpacks to more than 1000 times")
    yield "zstd-header-only", lambda: b"\x28\xb5\x2f\xfd", refused("")
    yield "zstd-garbage", lambda: b"\x28\xb5\x2f\xfd" + bytes(range(200)), refused("zstd")
    # A window of 2 GiB.
    yield "zstd-window", lambda: b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(100), refused("zstd")


def image_whiteouts():
    """Several layers: what the upper ones hide."""
    lower = tar(folder("d"), file("d/a", b"1"), file("d/b", b"2"), file("e", b"3"))
    base = {"d": "dir", "d/a": b"1", "d/b": b"2", "e": b"3"}

    def left(**change):
        return {k: v for k, v in {**base, **change}.items() if v is not None}
    up = {
        "file": ((file("d/.wh.a", b""),), left(**{"d/a": None})),
        "dir": ((file(".wh.d", b""),), {"e": b"3"}),
        "missing": ((file(".wh.nothing", b""),), base),
        "opaque": ((file("d/.wh..wh..opq", b""),), left(**{"d/a": None, "d/b": None})),
        "opaque-last": ((folder("d"), file("d/c", b"4"), file("d/.wh..wh..opq", b"")),
                        left(**{"d/a": None, "d/b": None, "d/c": b"4"})),
        "opaque-first": ((folder("d"), file("d/.wh..wh..opq", b""), file("d/c", b"4")),
                         left(**{"d/a": None, "d/b": None, "d/c": b"4"})),
        "opaque-replaces": ((file("d/a", b"new"), file("d/.wh..wh..opq", b"")),
                            left(**{"d/a": b"new", "d/b": None})),
        "opaque-root": ((file(".wh..wh..opq", b""), file("n", b"5")), {"n": b"5"}),
        "then-again": ((file("d/.wh.a", b""), file("d/a", b"new")), left(**{"d/a": b"new"})),
        "again-then": ((file("d/a", b"new"), file("d/.wh.a", b"")), left(**{"d/a": b"new"})),
        "dir-then-below": ((file(".wh.d", b""), file("d/x", b"6")), {"d": "dir", "d/x": b"6", "e": b"3"}),
        "below-then-dir": ((file("d/x", b"6"), file(".wh.d", b"")), {"d": "dir", "d/x": b"6", "e": b"3"}),
        "of-itself-only": ((file("n", b"5"), file(".wh.n", b"")), left(n=b"5")),
        "as-dir": ((folder(".wh.e"),), left(e=None)),
        "as-link": ((symlink(".wh.e", "/etc/passwd"),), left(e=None)),
        "file-over-dir": ((file("d", b"f"),), {"d": b"f", "e": b"3"}),
        "dir-over-file": ((folder("e"), file("e/x")), left(**{"e": "dir", "e/x": b"x\n"})),
        "below-lower-file": ((file("e/x"),), left(**{"e": "dir", "e/x": b"x\n"})),
        "link-to-lower": ((hardlink("l", "e"),), left(l=("same", "e"))),
        "link-to-lower-then-hide": ((hardlink("l", "e"), file(".wh.e", b"")), left(e=None, l=b"3")),
        "hide-then-link": ((file(".wh.e", b""), hardlink("l", "e")), refused("which is not there")),
        "empty-name": ((file(".wh.", b""),), refused("whiteout of a name that cannot be")),
        "dot": ((file(".wh..", b""),), refused("whiteout of a name that cannot be")),
        "dotdot": ((file("d/.wh...", b""),), refused("whiteout of a name that cannot be")),
        "dotdot-path": ((file("../.wh.e", b""),), refused("contains ..")),
        "through-link": ((symlink("l", "/"), file("l/.wh.e", b"")), refused("absolute path")),
        "metadata": ((folder(".wh..wh.plnk"), file(".wh..wh.aufs", b"")), {**base, "": {"skipped": {"metadata": 2}}}),
        "write-below-name": ((file(".wh.e/x"),), {**base, ".wh.e": "dir", ".wh.e/x": b"x\n"}),
    }
    for name, (parts, want) in up.items():
        yield f"whiteout-{name}", lambda p=parts: oci([lower, tar(*p)]), want
    yield "whiteout-three-layers", lambda: oci([lower, tar(file(".wh.d", b"")), tar(file("d/z"))]), {
        "d": "dir", "d/z": b"x\n", "e": b"3"}
    yield "link-over-layers", lambda: oci([tar(symlink("l", "/etc")), tar(file("l/x"))]), refused("absolute path",
                                                                                                 "layer 2")
    yield "usr-merge-over-layers", lambda: oci([tar(folder("usr/lib"), symlink("lib", "usr/lib")),
                                                tar(file("lib/x"))]), {
        "usr": "dir", "usr/lib": "dir", "usr/lib/x": b"x\n", "lib": "-> usr/lib"}


def image_forms():
    layer2 = tar(file("b", b"2"))
    both = {**GOOD_TREE, "b": b"2"}

    def digest(parts):
        parts["layers"][0]["digest"] = "sha256:" + sha(b"other")
        parts["extra"]["blobs/sha256/" + sha(b"other")] = parts["blobs"][0]

    def size(by):
        def change(parts):
            parts["layers"][0]["size"] += by
        return change

    def config(**kw):
        return lambda parts: parts["config"].update(kw)

    def drop_layer(parts):
        parts["layers"] = []

    def missing(parts):
        parts["blobs"] = parts["blobs"][1:]

    def flipped(parts):
        name = "blobs/sha256/" + sha(parts["blobs"][0])
        parts["extra"][name] = flip(parts["blobs"][0], 20)

    yield "oci", lambda: oci([GOOD, layer2]), both
    yield "oci-backwards", lambda: oci([GOOD, layer2], order=lambda f: list(f)[::-1]), both
    yield "oci-gzip", lambda: gzip.compress(oci([GOOD, layer2])), both
    yield "oci-plain-layers", lambda: oci([GOOD, layer2], pack=[False, True]), both
    yield "oci-no-end-mark", lambda: oci([tar(file("b", b"2"), end=False)]), {"b": b"2"}
    yield "oci-wrong-digest", lambda: oci([GOOD], tweak=digest), refused("another digest", "layer 1")
    yield "oci-flipped-byte", lambda: oci([GOOD], tweak=flipped), refused("layer 1")
    yield "oci-wrong-diff-id", lambda: oci([GOOD], diff_ids=["sha256:" + sha(b"x")]), refused("diff_id")
    yield "oci-size-larger", lambda: oci([GOOD], tweak=size(1)), refused("its descriptor says")
    yield "oci-size-smaller", lambda: oci([GOOD], tweak=size(-1)), refused("its descriptor says")
    yield "oci-size-negative", lambda: oci([GOOD], tweak=size(-10 ** 9)), refused("no size")
    yield "oci-missing-layer", lambda: oci([GOOD, layer2], tweak=missing), refused("missing", "layer 1")
    yield "oci-fewer-layers", lambda: oci([GOOD], tweak=drop_layer), refused("0 layers")
    yield "oci-digest-no-hex", lambda: oci([GOOD], tweak=lambda p: p["layers"][0].update(
        digest="sha256:" + "../" * 21 + "x")), refused("not a sha256 digest")
    yield "oci-digest-upper-path", lambda: oci([GOOD], tweak=lambda p: p["layers"][0].update(
        digest="sha256:../../../../etc/passwd")), refused("not a sha256 digest")
    yield "oci-digest-md5", lambda: oci([GOOD], tweak=lambda p: p["layers"][0].update(digest="md5:00")), refused(
        "not a sha256 digest")
    yield "oci-manifest-size", lambda: oci([GOOD], tweak=lambda p: p.update(
        manifest_descriptor={"size": 5})), refused("its descriptor says")
    yield "oci-manifest-digest", lambda: oci([GOOD], tweak=lambda p: p.update(
        manifest_descriptor={"digest": "sha256:" + sha(b"q")})), refused("missing")
    yield "oci-config-digest", lambda: oci([GOOD], tweak=lambda p: p.update(
        config_descriptor={"digest": "sha256:" + sha(b"q"), "size": 3})), refused("missing")
    yield "oci-config-env-type", lambda: oci([GOOD], config={"Env": "A=b"}), refused("Env")
    yield "oci-config-cmd-type", lambda: oci([GOOD], config={"Cmd": [1]}), refused("Cmd")
    yield "oci-diff-ids-type", lambda: oci([GOOD], tweak=config(rootfs=[])), refused("rootfs")
    yield "oci-no-rootfs", lambda: oci([GOOD], tweak=config(rootfs=None)), refused("1 layers")
    yield "oci-layers-256", lambda: oci([tar(file(f"f{i}")) for i in range(256)]), {
        f"f{i}": b"x\n" for i in range(256)}
    yield "oci-layers-257", lambda: oci([tar(file(f"f{i}")) for i in range(257)]), refused("more than 256 layers")
    yield "oci-index-nested", lambda: archive_of(nest_index(oci_files([GOOD]), 3)), GOOD_TREE
    yield "oci-index-too-deep", lambda: archive_of(nest_index(oci_files([GOOD]), 4)), refused("deep in each other")
    yield "oci-two-platforms", lambda: archive_of(merge_oci(oci_files([layer2], arch="riscv64"),
                                                            oci_files([GOOD], arch="s390x"))), refused(
        "several images", "linux/riscv64", "linux/s390x")
    yield "oci-two-images-same", lambda: archive_of(merge_oci(oci_files([layer2], tag="a"),
                                                              oci_files([GOOD], tag="b"))), refused(
        "several images", "--tag")
    yield "oci-json-deep", lambda: oci([GOOD], tweak=lambda p: p["extra"].update(
        {"index.json": b"[" * 65 + b"]" * 65})), refused("nested more than 64 deep")
    yield "oci-json-deep-in-text", lambda: oci([GOOD], tweak=lambda p: p["config"].update(comment="[" * 500)), GOOD_TREE
    yield "oci-json-large", lambda: oci([GOOD], tweak=lambda p: p["extra"].update(
        {"index.json": b" " * ((4 << 20) + 1)})), refused("more than")
    yield "oci-json-double-key", lambda: oci([GOOD], tweak=lambda p: p["extra"].update(
        {"index.json": b'{"manifests":[],"manifests":[]}'})), refused("index.json is not JSON")
    yield "oci-json-nul", lambda: oci([GOOD], config={"User": "a\0b"}), refused("not JSON")
    yield "oci-json-cut", lambda: oci([GOOD], tweak=lambda p: p["extra"].update({"index.json": b'{"man'})), refused(
        "index.json is not JSON")
    yield "oci-index-empty", lambda: oci([GOOD], tweak=lambda p: p["extra"].update(
        {"index.json": b'{"manifests":[]}'})), refused("no image in it fits")
    yield "oci-duplicate-member", lambda: tar(*[file(n, d) for n, d in oci_files([GOOD]).items()],
                                              file("index.json", b"{}")), refused("there twice")
    yield "oci-member-link-out", lambda: tar(file("oci-layout", b"{}"), symlink("index.json", "/etc/passwd")), refused(
        "out of the archive")
    yield "oci-member-link-loop", lambda: tar(file("oci-layout", b"{}"), symlink("index.json", "manifest.json"),
                                              symlink("manifest.json", "index.json")), refused("link to itself")
    yield "oci-layer-hostile", lambda: oci([tar(file("../x"))]), refused("contains ..", "layer 1")
    # What came before the refusal is in the store by then, and has to go again.
    yield "oci-layer-hostile-late", lambda: oci([tar(file("large", bytes(range(256)) * 1000)),
                                                 tar(file("a", b"a" * 300_000), file("../x"))]), refused(
        "contains ..", "layer 2")
    yield "oci-layer-not-tar", lambda: oci([b"hello" * 300]), refused("layer 1")

    def names(*n):
        return lambda parts: parts.update(names=list(n))

    def wrong(parts):
        parts["files"][parts["names"][0]] = tar(file("evil"))

    yield "docker", lambda: docker([GOOD, layer2]), both
    yield "docker-packed-layer", lambda: docker([GOOD], tweak=lambda p: p["files"].update(
        {p["names"][0]: gzip.compress(GOOD)})), GOOD_TREE
    yield "docker-gzip", lambda: gzip.compress(docker([GOOD, layer2])), both
    yield "docker-wrong-layer", lambda: docker([GOOD], tweak=wrong), refused("diff_id")
    yield "docker-wrong-config", lambda: docker([GOOD], tweak=lambda p: p.update(config_name=sha(b"q") + ".json")), refused(
        "another digest")
    yield "docker-layer-dotdot", lambda: docker([GOOD], tweak=names("../../../etc/passwd")), refused(
        "leads out of the archive")
    yield "docker-layer-absolute", lambda: docker([GOOD], tweak=names("/etc/passwd")), refused(
        "leads out of the archive")
    yield "docker-layer-missing", lambda: docker([GOOD], tweak=names("nothing/layer.tar")), refused("missing")
    yield "docker-config-absolute", lambda: docker([GOOD], tweak=lambda p: p.update(manifest=[
        {"Config": "/etc/passwd", "RepoTags": [], "Layers": []}])), refused("leads out of the archive")
    yield "docker-not-a-list", lambda: docker([GOOD], tweak=lambda p: p.update(manifest={"a": 1})), refused(
        "not a list")
    yield "docker-two-images", lambda: docker([GOOD], tweak=lambda p: p.update(manifest=[
        {"Config": "a", "Layers": []}, {"Config": "b", "Layers": []}])), refused("2 images")
    yield "docker-layer-link", lambda: docker(
        [GOOD], names=[sha(b"1") + "/layer.tar"], links=[(sha(b"2") + "/layer.tar", "../" + sha(b"1") + "/layer.tar")],
        tweak=lambda p: (p["names"].append(sha(b"2") + "/layer.tar"),
                         p["config"]["rootfs"]["diff_ids"].append("sha256:" + sha(GOOD)))), GOOD_TREE
    yield "docker-25", lambda: archive_of(docker_25([GOOD, layer2])), both
    yield "docker-25-manifest-without-layers", lambda: archive_of(docker_25([GOOD, layer2], empty=True)), both
    yield "docker-more-layers", lambda: docker([GOOD], tweak=lambda p: p["names"].append(p["names"][0])), refused(
        "2 layers")


def docker_25(layers, empty=False):
    """docker save since 25: an OCI layout with docker's manifest.json beside it."""
    files = oci_files(layers, pack=[False] * len(layers))
    conf = next(n for n, d in files.items() if d.startswith(b"{") and b"diff_ids" in d)
    files["manifest.json"] = json.dumps([{"Config": conf, "RepoTags": ["robot:25"],
                                          "Layers": ["blobs/sha256/" + sha(x) for x in layers]}]).encode()
    if empty:
        manifest = json.dumps({"schemaVersion": 2, "layers": [],
                               "config": {"digest": "sha256:" + conf.split("/")[-1], "size": len(files[conf])}}).encode()
        files["blobs/sha256/" + sha(manifest)] = manifest
        files["index.json"] = json.dumps({"manifests": [{"digest": "sha256:" + sha(manifest),
                                                         "size": len(manifest)}]}).encode()
    return files


def cases():
    for group in (layer_paths, layer_links, layer_hard_links, layer_devices, layer_bytes, layer_bombs, image_whiteouts,
                  image_forms):
        yield from group()
