# SPDX-License-Identifier: Apache-2.0
"""Many hosts behind one real sshd: each address of 127/8 is a host with a home, a keeper and mounts of its own."""
import os
import shlex

from conftest import Sshd


class Fleet:
    """Hosts h1, h2, ... of an ssh configuration; `home(name)` is what each has for a home directory."""

    def __init__(self, root, count):
        self.root = root
        self.sshd = Sshd(root)
        self.names = [f"h{i + 1}" for i in range(count)]
        self.homes = root / "homes"
        login = self.sshd.dir / "login"
        login.write_text(login.read_text().replace(
            f"export HOME='{self.sshd.home}'", f"set -- $SSH_CONNECTION\nexport HOME={shlex.quote(str(self.homes))}/$3"))
        path = self.sshd.dir / "sshd_config"
        path.write_text(path.read_text().replace("ListenAddress 127.0.0.1:", "ListenAddress 0.0.0.0:"))
        self.sshd.stop()
        self.sshd.start()
        self.own = {}
        for name in self.names:
            os.makedirs(self.home(name))
        (self.homes / "127.0.0.1").mkdir()
        self.write()

    def address(self, name):
        n = self.names.index(name) + 2
        return f"127.9.{n // 250}.{n % 250 + 1}"

    def home(self, name):
        return self.homes / self.address(name)

    def set(self, name, *lines):
        """Lines of the configuration that one host has before all else."""
        self.own[name] = lines
        self.write()

    def write(self):
        """What a host has before is not overruled by what comes behind: the first value counts."""
        text = ""
        for name in self.names:
            text += f"Host {name}\n" + "".join(f" {line}\n" for line in self.own.get(name, ()))
            text += f" HostName {self.address(name)}\n"
        self.sshd.write_config()
        common = (self.sshd.dir / "config").read_text().replace("Host testhost\n HostName 127.0.0.1\n", "Host h*\n")
        self.config = self.root / "fleet_config"
        self.config.write_text(text + common)
        self.ssh = f"ssh -F {self.config}"

    def end(self):
        self.sshd.stop()


class Near:
    """Hosts behind a stand-in for ssh that runs the command here, in a home directory for each: many, and cheap."""

    def __init__(self, root):
        self.homes = root / "homes"
        self.script = root / "nearssh"
        self.script.write_text("#!/bin/sh\n"
                               "while [ \"$1\" != -- ]; do shift; done\n"
                               "# before\n"
                               f"export HOME={shlex.quote(str(self.homes))}/$2 "
                               "INLAY_STATE= XDG_STATE_HOME= XDG_CACHE_HOME=\n"
                               'mkdir -p "$HOME" && cd "$HOME" && exec /bin/sh -c "$3"\n')
        self.script.chmod(0o755)
        self.ssh = str(self.script)

    def before(self, text):
        """Lines of shell that come first; $2 is the host, $3 the command."""
        self.script.write_text(self.script.read_text().replace("# before\n", f"# before\n{text}\n"))

    def home(self, name):
        return self.homes / name
