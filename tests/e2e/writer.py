# SPDX-License-Identifier: Apache-2.0
"""Writes below a directory of a mount that dies now and then, and knows what must be there.

    writer.py DIR SEED PROGRESS     until SIGTERM; 0 when nothing that was acknowledged got lost

A call that failed because the mount died may have happened, or a write in part. Everything before it must be there.
PROGRESS is a file whose size grows with each call that succeeded.
"""
import errno
import os
import random
import signal
import sys
import time

# ENOENT: for a moment there is no mount at all.
GONE = {errno.ENOTCONN, errno.EIO, errno.ECONNABORTED, errno.ESTALE, errno.ENODEV, errno.EBADF, errno.ENOENT,
        errno.EXDEV}  # one name in the old mount, one in the new
ended = False


def end(*_):
    global ended
    ended = True


def lost(text):
    print(f"writer {sys.argv[2]}: {text}", flush=True)
    sys.exit(1)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def differs(a, b):
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"{len(a)} bytes, not {len(b)}, from {at} on"


def whole(n, text):
    """A call that wrote less than it was given found the mount dead in its middle."""
    if n < len(text):
        raise OSError(errno.EIO, "a short write")


def wait_for_mount(top):
    """Until the directory can be listed again; the old mount gives ENOTCONN, none at all an empty place."""
    for _ in range(6000):
        try:
            os.listdir(top)
            return
        except OSError as e:
            if e.errno not in GONE:
                raise
        time.sleep(0.01)
    lost("the mount does not come back")


class Writer:
    def __init__(self, top, seed, progress):
        self.top, self.random, self.files, self.n = top, random.Random(seed), {}, 0
        self.progress = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.makedirs(top, exist_ok=True)

    def path(self, name):
        return os.path.join(self.top, name)

    def plan(self):
        """A call, and how the files are after it."""
        self.n += 1
        after = dict(self.files)
        name = self.random.choice(sorted(self.files)) if self.files else None
        kind = self.random.choice(["create", "create", "append", "append", "write", "truncate", "rename", "unlink"])
        if name is None or (kind == "create" and len(self.files) < 40):
            name, text = f"n{self.n}", os.urandom(self.random.randrange(1, 20000))
            after[name] = text
            return lambda: self.create(name, text), after, (name, 0, text)
        if kind in ("append", "create"):
            text = os.urandom(self.random.randrange(1, 5000))
            after[name] = self.files[name] + text
            return lambda: self.write(name, None, text), after, (name, len(self.files[name]), text)
        if kind == "write":
            at = self.random.randrange(len(self.files[name]) + 1)
            text = os.urandom(self.random.randrange(1, 5000))
            after[name] = self.files[name][:at] + text + self.files[name][at + len(text):]
            return lambda: self.write(name, at, text), after, (name, at, text)
        if kind == "truncate":
            size = self.random.randrange(len(self.files[name]) + 1)
            after[name] = self.files[name][:size]
            return lambda: os.truncate(self.path(name), size), after, None
        if kind == "rename":
            to = self.random.choice(sorted(self.files) + [f"r{self.n}"])
            after[to] = after.pop(name)
            return lambda: os.rename(self.path(name), self.path(to)), after, None
        del after[name]
        return lambda: os.unlink(self.path(name)), after, None

    def create(self, name, text):
        fd = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            whole(os.write(fd, text), text)
        finally:
            os.close(fd)

    def write(self, name, at, text):
        fd = os.open(self.path(name), os.O_WRONLY | (os.O_APPEND if at is None else 0))
        try:
            if at is None:
                whole(os.write(fd, text), text)
            else:
                whole(os.pwrite(fd, text, at), text)
        finally:
            os.close(fd)

    def look(self):
        return {name: read(self.path(name)) for name in os.listdir(self.top)}

    def part_of(self, found, writing):
        """A write that was cut: its first bytes are there, and nothing else is different."""
        if not writing:
            return False
        name, at, text = writing
        was, is_now = self.files.get(name, b""), found.get(name)
        if is_now is None or {**self.files, name: b""} != {**found, name: b""}:
            return False
        return any(is_now == was[:at] + text[:n] + was[at + n:] for n in range(len(text) + 1))

    def check(self, states, writing=None):
        """The files are as in one of the states, or between them."""
        while True:
            try:
                found = self.look()
                break
            except OSError as e:
                if e.errno not in GONE:
                    lost(f"reading: {e}")
                wait_for_mount(self.top)
        for state in states:
            if found == state:
                self.files = state
                return
        if self.part_of(found, writing):
            self.files = found
            return
        was = states[0]
        lost(f"after call {self.n}: missing {sorted(set(was) - set(found))}, new {sorted(set(found) - set(was))}, "
             f"other bytes {[(n, differs(found[n], was[n])) for n in was if n in found and found[n] != was[n]]}, "
             f"writing {writing and (writing[0], writing[1], len(writing[2]))}")

    def run(self):
        deaths = 0
        while not ended:
            call, after, writing = self.plan()
            try:
                call()
                self.files = after
                os.write(self.progress, b".")
            except OSError as e:
                if e.errno not in GONE:
                    lost(f"call {self.n}: {e}")
                deaths += 1
                wait_for_mount(self.top)
                self.check([self.files, after], writing)
            if self.n % 50 == 0:
                self.check([self.files])
        return deaths


def main():
    signal.signal(signal.SIGTERM, end)
    w = Writer(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    deaths = w.run()
    if w.look() != w.files:
        lost("at the end the files differ")
    print(f"writer {sys.argv[2]}: {w.n} calls, {deaths} failed and were looked after")


main()
