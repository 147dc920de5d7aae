#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a folder of many small files: make-tree.py DIR FILES [--per-dir 100] [--bytes 200] [--seed 1]

The content is words from a small vocabulary, so that it compresses about as source code does; no two files are
the same.
"""
import argparse
import os
import random

WORDS = [f"{a}{b}" for a in ("get", "set", "node", "path", "tree", "buf", "index", "read", "write", "open")
         for b in ("", "_name", "_size", "_count", "_at", "_of", "_all", "_next")]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("dir")
    p.add_argument("files", type=int)
    p.add_argument("--per-dir", type=int, default=100)
    p.add_argument("--bytes", type=int, default=200)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    rnd = random.Random(a.seed)
    text = " ".join(rnd.choice(WORDS) for _ in range(200_000)).encode()
    os.makedirs(a.dir, exist_ok=True)
    for i in range(a.files):
        if i % a.per_dir == 0:
            n = i // a.per_dir
            top = f"{a.dir}/d{n // 100}/e{n % 100}"
            os.makedirs(top, exist_ok=True)
        at = rnd.randrange(len(text) - a.bytes)
        with open(f"{top}/file-{i}.c", "wb") as f:
            f.write(b"/* %d */\n" % i + text[at:at + a.bytes] + b"\n")


main()
