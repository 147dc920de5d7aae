#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the corpus of fuzz-image from the cases of the end to end tests: make-image-corpus.py DIR"""
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import archives  # noqa: E402
from archives import file, folder, hardlink, symlink, tar  # noqa: E402

WANTED = """path-dotdot path-dotdot-pax link-usr-merge link-chain-40 link-loop hard-link hard-link-to-nothing
device-char xattr-of-overlayfs time-nanoseconds pax-malformed pax-global twins duplicate-file-over-dir sparse
sparse-bad-map gzip gzip-two-members gzip-wrong-crc zstd-window size-huge uid-large oci oci-backwards oci-gzip
oci-index-nested oci-wrong-digest oci-config-env-type oci-member-link-loop docker docker-layer-link docker-25
docker-25-manifest-without-layers""".split()
RIGHT_SUMS, LAYERS = 1, 2


def layered(*tars):
    return bytes([RIGHT_SUMS | LAYERS, len(tars) - 1]) + b"".join(
        struct.pack("<H", len(t) // 512) for t in tars[:-1]) + b"".join(tars)


def main():
    out = pathlib.Path(sys.argv[1])
    made = {name: make for name, make, _ in archives.cases()}
    for name in WANTED:
        data = made[name]()
        # A trailing block of zeros says nothing to a fuzzer.
        (out / name).write_bytes(bytes([RIGHT_SUMS]) + (data[:-512] if data.endswith(bytes(1024)) else data))
    lower = tar(folder("d"), file("d/a"), file("e"), hardlink("f", "e"), end=False)
    (out / "layers-whiteout").write_bytes(layered(lower, tar(file("d/.wh.a", b""), file(".wh.f", b""), end=False)))
    (out / "layers-opaque").write_bytes(layered(lower, tar(file("d/n"), file("d/.wh..wh..opq", b""), end=False)))
    (out / "layers-types").write_bytes(layered(lower, tar(file("d"), folder("e"), file("e/x"), end=False),
                                               tar(symlink("e", "d"), hardlink("d2", "d"), end=False)))
    (out / "layers-links").write_bytes(layered(tar(folder("u/l"), symlink("l", "u/l"), end=False),
                                               tar(file("l/x"), hardlink("y", "l/x"), end=False)))


main()
