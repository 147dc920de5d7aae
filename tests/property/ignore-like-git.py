#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Random ignore files and trees: the verdict on each path, and the rule and the line that gave it,
must be those of `git check-ignore`. Usage: ignore-like-git.py HELPER [PATHS] [SEED]"""

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

NAMES = [b"a", b"b", b"ab", b"abc", b"aab", b"foo", b"foo.o", b"a.o", b"b.c", b"foobar", b"x-y",
         b"A", b"Z9", b"build", b".x", b"a b", b"a ", b" a", b"!a", b"#a", b"*", b"a*b", b"[a]",
         b"a\\b", b"\\", b"?", b"c", b":", b"[", b"x", b"a\nb", b"\xff\xfe",
         b"\xc3\xa4", b"a\xcc\x88", b"a]b", b"-", b"^",
         b"\t", b"a\r", b"\x0b", b"\x7f", b"{a,b}"]
BITS = [b"*", b"**", b"***", b"?", b"/", b"//", b"\\", b"\\/", b"[a-c]", b"[!a]", b"[^a]", b"[]a]",
        b"[a", b"[[:alpha:]]", b"[[:digit:]_]", b"[[:space:]]", b"[[:punct:]]", b"[[:bogus:]]",
        b"[[:alpha]]", b"[a-]", b"[-a]", b"[\\]]", b"[a\\-z]", b"[z-a]", b"[\\", b"[a/b]", b"[",
        b"]", b"!", b"#", b" ", b"\\ ", b"a", b"b", b"o", b".", b"x", b"-", b"^", b"\xff", b"\r",
        b"[\x80-\xff]", b"[[:upper:]-z]", b"[a-[:digit:]]", b"[a-b-z]", b"[[:digit:]-z]",
        b"[[:ab]", b"[[:]", b"\\*", b"\\a", b"\0", b"\t"]
CLASSES = ["alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
           "upper", "xdigit"]

# Each is compared for every byte that a name can have.
BRACKETS = [b"[%s[:%s:]]" % (n, c.encode()) for n in (b"", b"!") for c in CLASSES] + [
    b"[a-c-z]", b"[[:digit:]-z]", b"[a[:digit:]-z]", b"[[:ab]", b"[a-[:digit:]]", b"[a-\\c]",
    b"[\\a-c]", b"[]-a]", b"[!]a]",
    b"[^]-a]", b"[--a]", b"[a-]", b"[-a]", b"[+--]", b"[a-b-c-z]", b"[[-a]", b"[[a]", b"[[:]",
    b"[[:]]", b"[[:a:]", b"[[::]]", b"[[:alpha:][:digit:]]", b"[[:alpha:]", b"[!!]", b"[!^]",
    b"[^^]", b"[\\]]", b"[\\\\]", b"[\x80-\xff]", b"[z-a]", b"[a", b"[", b"[!", b"[]", b"[!]",
    b"[\\", b"[a-", b"[a-\\", b"[[:alpha:", b"[/-a]", b"[\001-\377]", b"?", b"\\a", b"*",
]

# Up to git 2.51 "foo**/bar" was taken as "foo" and then "**/bar". Since 2.52 a "**" counts only
# between slashes, as the manual always said and as we do it.
LATE_STARS = re.compile(rb"^!?/?[^*?\[\\]*[^*?\[\\/]\*\*")


# Each alone, for each path of one tree.
PATTERNS = [a + b + c for a in (b"", b"/", b"!") for b in (
    b"a", b"a/b", b"**/b", b"**/a/b", b"a/**", b"a/**/b", b"a/**\\/b", b"a\\/**/b", b"**", b"**/**",
    b"a/***/b", b"a/*", b"a/*/b", b"a/*/*", b"*/b", b"*/*", b"**b", b"a**", b"a**/b", b"a/**b",
    b"a/b**", b"**/a/**", b"**/a/**/b", b"a/**/**/b", b"**\\/b", b"a//b", b"a/?/b", b"a[/]b",
    b"a\\/b", b"a/b\\", b"\\a", b"", b"**/", b"a/**/*", b"*a*/b", b"a/**/b/**/a", b"**/*/**/b",
    b"?**/b", b"[a]**/b", b"\\a**/b",
) for c in (b"", b"/")]


def late_stars(line):
    return b"/" in line.rstrip(b"/") and LATE_STARS.match(line)


class Generator:
    def __init__(self, rnd, old_git):
        self.rnd = rnd
        self.old_git = old_git

    def tree(self):
        """Directories and names that are asked for, relative to the root of the case."""
        rnd = self.rnd
        dirs = [b""]
        for _ in range(rnd.randrange(2, 7)):
            above = rnd.choice(dirs)
            if above.count(b"/") < 5:
                dirs.append(above + rnd.choice(NAMES) + b"/")
        dirs = sorted(set(dirs))
        asked = {d[:-1] for d in dirs if d}
        while len(asked) < 40:
            asked.add(rnd.choice(dirs) + rnd.choice(NAMES))
        return dirs, sorted(asked)

    def component(self, name):
        rnd = self.rnd
        kind = rnd.randrange(14)
        if kind < 3:
            return name
        if kind == 3:
            return b"*"
        if kind == 4:
            return rnd.choice([b"**", b"**", b"**\\"])
        if kind == 5:
            return b"*" + name[rnd.randrange(len(name)):]
        if kind == 6:
            return name[:rnd.randrange(len(name) + 1)] + b"*"
        if kind == 7:
            return b"".join(b"\\" + bytes([c]) for c in name)
        if kind == 8:
            at = rnd.randrange(len(name))
            return name[:at] + b"?" + name[at + 1:]
        if kind == 9:
            at = rnd.randrange(len(name))
            return name[:at] + b"[" + name[at:at + 1] + b"-z]" + name[at + 1:]
        if kind == 10:
            at = rnd.randrange(len(name))
            cls = rnd.choice(CLASSES).encode()
            return name[:at] + b"[[:" + cls + b":]]" + name[at + 1:]
        if kind == 11:
            at = rnd.randrange(len(name) + 1)
            return name[:at] + b"**" + name[at:]
        at = rnd.randrange(len(name) + 1)
        return name[:at] + rnd.choice(BITS) + name[at:]

    def pattern(self, paths):
        rnd = self.rnd
        if rnd.randrange(6) == 0:
            p = b"".join(rnd.choice(BITS) for _ in range(rnd.randrange(1, 7)))
        else:
            parts = rnd.choice(paths).split(b"/")
            start = rnd.randrange(len(parts))
            end = rnd.randrange(start, len(parts)) + 1
            parts = [self.component(p) for p in parts[start:end]]
            if rnd.randrange(5) == 0:
                parts.insert(rnd.randrange(len(parts) + 1), b"**")
            p = b"/".join(parts)
            if rnd.randrange(4) == 0:
                p = b"/" + p
        if rnd.randrange(4) == 0:
            p += b"/"
        if rnd.randrange(4) == 0:
            p = b"!" + p
        if rnd.randrange(12) == 0:
            p += rnd.choice([b" ", b"  ", b"\\ ", b"\\", b" \\  ", b"\t"])
        return p

    def ignore_file(self, paths):
        rnd = self.rnd
        lines = []
        for _ in range(rnd.randrange(1, 14)):
            kind = rnd.randrange(20)
            if kind == 0:
                lines.append(b"")
            elif kind == 1:
                lines.append(b"#" + self.pattern(paths))
            else:
                p = self.pattern(paths)
                lines.append(p)
        if self.old_git:
            lines = [b"x" if late_stars(p) else p for p in b"\n".join(lines).split(b"\n")]
        ends = rnd.choice([b"\n", b"\n", b"\n", b"\r\n"])
        text = ends.join(lines)
        if rnd.randrange(4):
            text += ends
        if rnd.randrange(12) == 0:
            text = b"\xef\xbb\xbf" + text
        return text


def git_is_old(git, env):
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([git, "init", "-q", d], check=True, env=env)
        with open(d + "/.gitignore", "w") as f:
            f.write("foo**/bar\n")
        r = subprocess.run([git, "-C", d, "check-ignore", "-q", "foox/y/bar"], env=env)
        if r.returncode not in (0, 1):
            sys.exit("git check-ignore failed")
        return r.returncode == 0


def parse(out):
    fields = out.split(b"\0")[:-1]
    assert len(fields) % 4 == 0, fields[-8:]
    return [tuple(fields[i:i + 4]) for i in range(0, len(fields), 4)]


def make_case(root, gen):
    dirs, asked = gen.tree()
    for d in dirs:
        os.makedirs(root + b"/" + d, exist_ok=True)
    files = {}
    for d in dirs:
        if d == b"" or gen.rnd.randrange(3) == 0:
            below = [p[len(d):] for p in asked if p.startswith(d) and p != d[:-1]] or [b"a"]
            files[d + b".gitignore"] = gen.ignore_file(below)
    for name, text in files.items():
        with open(root + b"/" + name, "wb") as f:
            f.write(text)
    return asked, files


def ask(git, env, helper, top, to_git, to_us):
    r = subprocess.run([git, "-C", top, "check-ignore", "-z", "-v", "-n", "--stdin"],
                       input=b"".join(to_git), capture_output=True, env=env)
    if r.returncode not in (0, 1):
        sys.exit("git failed: %r" % r.stderr)
    ours = subprocess.run([helper], input=b"".join(to_us), capture_output=True, check=True)
    return parse(r.stdout), parse(ours.stdout)


def batch(git, env, helper, gen, cases):
    """One repository with many cases, so that git is started once. Gives the number of paths."""
    top = tempfile.mkdtemp(prefix="inlay-ignore-").encode()
    try:
        subprocess.run([git, "init", "-q", top], check=True, env=env)
        to_git, to_us, made = [], [], []
        for i in range(cases):
            sub = b"c%d" % i
            asked, files = make_case(top + b"/" + sub, gen)
            made.append((sub, asked, files))
            to_git += [sub + b"/" + p + b"\0" for p in asked]
            to_us += [b"R" + top + b"/" + sub + b"\0"] + [b"P" + p + b"\0" for p in asked]
        theirs, ours = ask(git, env, helper, top, to_git, to_us)
        compare(made, theirs, ours)
        return len(to_git)
    finally:
        shutil.rmtree(top)


def compare(made, theirs, ours):
    at = 0
    for sub, asked, files in made:
        for p in asked:
            source, line, pattern, path = theirs[at]
            if source:
                assert source.startswith(sub + b"/"), source
                source = source[len(sub) + 1:]
            want = (source, line, pattern, path[len(sub) + 1:])
            if want != ours[at]:
                print("path   ", p, "\ngit    ", want, "\nours   ", ours[at])
                for name, text in files.items():
                    print(name, text)
                sys.exit(1)
            at += 1
    assert at == len(theirs) == len(ours)


def brackets_have_gits_bytes(git, env, helper):
    top = tempfile.mkdtemp(prefix="inlay-ignore-").encode()
    try:
        subprocess.run([git, "init", "-q", top], check=True, env=env)
        names = [bytes([c]) for c in range(1, 256) if chr(c) not in "/."]
        to_git, to_us, made = [], [], []
        for i, bracket in enumerate(BRACKETS):
            sub = b"%d" % i
            text = bracket + b"\n" + bracket + b"q\n/x" + bracket + b"y\n"
            os.mkdir(top + b"/" + sub)
            with open(top + b"/" + sub + b"/.gitignore", "wb") as f:
                f.write(text)
            asked = names + [c + b"q" for c in names] + [b"x" + c + b"y" for c in names]
            made.append((sub, asked, {b".gitignore": text}))
            to_git += [sub + b"/" + p + b"\0" for p in asked]
            to_us += [b"R" + top + b"/" + sub + b"\0"] + [b"P" + p + b"\0" for p in asked]
        theirs, ours = ask(git, env, helper, top, to_git, to_us)
        compare(made, theirs, ours)
        return len(to_git)
    finally:
        shutil.rmtree(top)


def every_shape_of_stars(git, env, helper, old_git):
    top = tempfile.mkdtemp(prefix="inlay-ignore-").encode()
    try:
        subprocess.run([git, "init", "-q", top], check=True, env=env)
        levels = [[b"a"], [b"a", b"b"], [b"a", b"b"], [b"a", b"b"]]
        dirs = [b""]
        for names in levels:
            dirs += [d + n + b"/" for d in dirs for n in names]
        dirs = sorted(set(dirs))
        asked = sorted({d[:-1] for d in dirs if d} | {d + n for d in dirs for n in (b"x", b"ab")})
        to_git, to_us, made = [], [], []
        for i, pattern in enumerate(PATTERNS):
            if old_git and late_stars(pattern):
                continue
            sub = b"%d" % i
            for d in dirs:
                os.makedirs(top + b"/" + sub + b"/" + d, exist_ok=True)
            with open(top + b"/" + sub + b"/.gitignore", "wb") as f:
                f.write(pattern)
            made.append((sub, asked, {b".gitignore": pattern}))
            to_git += [sub + b"/" + p + b"\0" for p in asked]
            to_us += [b"R" + top + b"/" + sub + b"\0"] + [b"P" + p + b"\0" for p in asked]
        theirs, ours = ask(git, env, helper, top, to_git, to_us)
        compare(made, theirs, ours)
        return len(to_git)
    finally:
        shutil.rmtree(top)


def main():
    helper = sys.argv[1]
    paths = int(sys.argv[2]) if len(sys.argv) > 2 else 40000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 20261121
    git = os.environ.get("GIT") or shutil.which("git")
    if not git:
        print("skipped: git is not installed")
        return 77
    env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1",
           "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent",
           "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "core.excludesFile",
           "GIT_CONFIG_VALUE_0": "/dev/null", "GIT_CONFIG_KEY_1": "core.ignoreCase",
           "GIT_CONFIG_VALUE_1": "false"}
    gen = Generator(random.Random(seed), git_is_old(git, env))
    done = brackets_have_gits_bytes(git, env, helper)
    done += every_shape_of_stars(git, env, helper, gen.old_git)
    while done < paths:
        done += batch(git, env, helper, gen, 50)
    print("%d paths, seed %d, %s git: as git" % (done, seed, "old" if gen.old_git else "new"))
    return 0


sys.exit(main())
