"""temp_server.py: a PostgreSQL server for one run of a script, with a psql to talk to it.

initdb refuses root, so root runs the server as the user postgres. The data folder lies under the folder
that is given, the socket in a short path of its own (107 bytes are all that a socket's path may have), and
nothing listens on TCP.
"""

import os
import pathlib
import pwd
import select
import shutil
import subprocess
import sys
import tempfile
import time


def models_folder(root):
    """Where the weights lie."""
    return pathlib.Path(os.environ.get("PREPACK_MODELS") or root / "models").resolve()


class Server:
    """A temporary server; a context manager: started on entry, gone on exit."""

    def __init__(self, out, settings):
        config = os.environ.get("PG_CONFIG") or "pg_config"
        self.bin = subprocess.run([config, "--bindir"], check=True, capture_output=True,
                                  text=True).stdout.strip()
        self.out, self.data, self.settings = out, out / "data", settings
        self.sockets = tempfile.mkdtemp(prefix="prepack-server-")
        self.owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def call(self, program, *args):
        """Runs one of PostgreSQL's programs as the server's owner; its words go to a log."""
        with open(self.out / "programs.log", "a", encoding="utf-8") as words:
            return subprocess.run([*self.owner, f"{self.bin}/{program}", *map(str, args)], cwd="/tmp",
                                  stdin=subprocess.DEVNULL, stdout=words, stderr=words).returncode

    def client(self, program, database, *args):
        """The command line of a client program."""
        return [f"{self.bin}/{program}", "-h", self.sockets, "-U", "postgres", *map(str, args), database]

    def psql(self, database, script, timeout=600, **env):
        """Feeds a script to psql; returns its status and all it printed, errors in their places."""
        done = subprocess.run(self.client("psql", database, "-X", "-q"), input=script.encode(), cwd="/tmp",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                              env={**os.environ, "PGCLIENTENCODING": "UTF8", **env})
        return done.returncode, done.stdout.decode(errors="replace")

    def __enter__(self):
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        if self.owner:
            who = pwd.getpwnam("postgres")
            for path in (self.out, self.sockets):
                os.chown(path, who.pw_uid, who.pw_gid)
        if self.call("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"):
            sys.exit((self.out / "programs.log").read_text())
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(f"{self.settings}\nlisten_addresses = ''\nfsync = off\n"
                       f"unix_socket_directories = '{self.sockets}'\n")
        if self.call("pg_ctl", "-D", self.data, "-l", self.out / "log", "-w", "start"):
            self.__exit__()
            sys.exit((self.out / "log").read_text())
        return self

    def __exit__(self, *_):
        self.call("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(self.sockets, ignore_errors=True)


class Session:
    """One psql that stays open, for what is about connections and their times."""

    END = "-- end of statement --"

    def __init__(self, server, database):
        self.child = subprocess.Popen(server.client("psql", database, "-X", "-q", "-A", "-t"), cwd="/tmp",
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.seen = b""

    def send(self, sql):
        """Starts a statement."""
        self.child.stdin.write(f"{sql}\n\\echo '{self.END}'\n".encode())
        self.child.stdin.flush()

    def receive(self, timeout=600):
        """Waits for a statement's end; returns what it printed."""
        end, deadline = f"{self.END}\n".encode(), time.monotonic() + timeout
        while end not in self.seen:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self.child.stdout.fileno(), 65536) if ready else b""
            if not piece:
                raise TimeoutError(self.seen.decode(errors="replace"))
            self.seen += piece
        output, self.seen = self.seen.split(end, 1)
        return output.decode(errors="replace").strip()

    def run(self, sql):
        """Runs a statement; returns what it printed and the seconds it took."""
        start = time.monotonic()
        self.send(sql)
        output = self.receive()
        return output, time.monotonic() - start

    def close(self):
        """Ends the session."""
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.wait()
