#!/usr/bin/env python3
"""test_packaging.py: what packages say agrees with the tree.

The image itself cannot be built here: its files, targets and packages are checked against the tree, and its
entry point is run with stand-ins for initdb and postgres.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import summary

ROOT = pathlib.Path(__file__).resolve().parent.parent


def read(path):
    """A file of the tree."""
    return (ROOT / path).read_text()


class Versions(unittest.TestCase):
    VERSION = json.loads(read("META.json"))["version"]

    def test_one_version_everywhere(self):
        short = self.VERSION.rsplit(".", 1)[0]
        self.assertIn(f"default_version = '{short}'", read("prepack.control"))
        self.assertIn(f"prepack ({self.VERSION}-", read("debian/changelog").split("\n", maxsplit=1)[0])
        self.assertIn(f"## {self.VERSION}", read("CHANGELOG.md"))
        self.assertIn(f'#define PP_VERSION "{short}"', read("src/prepack.h"))
        self.assertIn(f"prepack--{short}.sql", read("extension.mk"))


class Pgxn(unittest.TestCase):
    META = json.loads(read("META.json"))

    def test_required_members(self):
        for name in ("name", "abstract", "version", "maintainer", "license", "provides", "meta-spec"):
            self.assertIn(name, self.META)
        self.assertRegex(self.META["version"], r"^\d+\.\d+\.\d+$")

    def test_files_exist(self):
        for provided in self.META["provides"].values():
            self.assertTrue((ROOT / provided["file"]).is_file(), provided["file"])
            self.assertTrue((ROOT / provided["docfile"]).is_file(), provided["docfile"])


class Debian(unittest.TestCase):
    def test_control_is_made_from_its_template(self):
        versions = read("debian/pgversions").split()
        head, *packages = read("debian/control.in").split("\n\n")
        made = [head]
        for package in packages:
            made += [package.replace("PGVERSION", v) for v in versions] if "PGVERSION" in package else [package]
        self.assertEqual("\n\n".join(made), read("debian/control"))
        for v in versions:
            self.assertIn(f"postgresql-server-dev-{v}", head)

    def test_builds_from_what_install_deps_installs(self):
        needed = re.search(r'^packages="([^"]*)"', read("scripts/install-deps"), re.M).group(1).split()
        for package in needed:
            if package.startswith("lib"):
                self.assertIn(package, read("debian/control").split("\n\n", maxsplit=1)[0])
                self.assertIn(package, read("docs/building.md"))

    def test_rules_call_targets_that_exist(self):
        check_targets(self, read("debian/rules"), r"\$\(MAKE\) ([\w -]+?)(?= \w+=|;|\n| \\)")


def check_targets(test, text, pattern):
    """Every target that a text calls stands in the Makefile."""
    targets = set(re.findall(r"^([a-z][\w-]*)(?=[ \w-]*:)", read("Makefile"), re.M))
    called = {name for words in re.findall(pattern, text) for name in words.split() if not name.startswith("-")}
    test.assertTrue(called)
    test.assertLessEqual(called, targets)


class Image(unittest.TestCase):
    TEXT = re.sub(r"\\\n", " ", read("Dockerfile"))

    def test_copied_files_exist(self):
        copies = re.findall(r"^COPY (?!--from)(.+)$", self.TEXT, re.M)
        sources = [source for line in copies for source in line.split()[:-1]]
        self.assertTrue(sources)
        for source in sources:
            self.assertTrue((ROOT / source).exists(), source)

    def test_made_targets_exist(self):
        check_targets(self, self.TEXT, r"\bmake (?:-j\S+ )?([a-z-]+)")

    def test_runs_are_shell(self):
        runs = re.findall(r"^RUN (.+)$", self.TEXT, re.M)
        self.assertEqual(len(runs), 3)
        for run in runs:
            subprocess.run(["sh", "-n", "-c", run], check=True)

    def test_does_not_run_as_root(self):
        self.assertLess(self.TEXT.index("USER postgres"), self.TEXT.index("ENTRYPOINT"))


class InstallDeps(unittest.TestCase):
    """The script with stand-ins for the package tools: no package is installed, what is asked for is printed."""

    def asked(self, *commands):
        """The packages asked for where only these commands are there."""
        with tempfile.TemporaryDirectory() as folder:
            fakes = {"apt-cache": "", "dpkg-query": "", "apt-get": '[ "$1" != install ] || echo "$@" >&2',
                     "sudo": '"$@"', **dict.fromkeys(commands, "")}
            for name, text in fakes.items():
                path = pathlib.Path(folder) / name
                path.write_text(f"#!/bin/sh\n{text}\n")
                path.chmod(0o755)
            for tool in ("sh", "sed", "head", "grep", "id"):
                (pathlib.Path(folder) / tool).symlink_to(shutil.which(tool))
            done = subprocess.run(["sh", ROOT / "scripts/install-deps", "ui"], env={"PATH": folder},
                                  capture_output=True, text=True, check=True)
            return done.stderr.split()

    def test_bare_machine_gets_node(self):
        self.assertLessEqual({"nodejs", "npm", "chromium"}, set(self.asked()))

    def test_node_from_elsewhere_stays_alone(self):
        asked = self.asked("node", "npm")
        self.assertIn("chromium", asked)
        self.assertFalse({"nodejs", "npm"} & set(asked))


class EntryPoint(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.data = pathlib.Path(self.folder.name) / "data"
        fakes = pathlib.Path(self.folder.name) / "bin"
        fakes.mkdir()
        # As the real one it takes an empty folder only, and writes PG_VERSION long before it is done.
        (fakes / "initdb").write_text('#!/bin/sh\nset -e\nmkdir -p "$2/base"; echo 15 >"$2/PG_VERSION"\n'
                                      '[ -z "${INTERRUPTED-}" ] || kill -9 $PPID $$\n'
                                      'for a; do case $a in --pwfile=*) cat "${a#*=}";; esac; done\n')
        (fakes / "postgres").write_text('#!/bin/sh\necho "postgres $* [${POSTGRES_PASSWORD-}]"\n')
        for fake in fakes.iterdir():
            fake.chmod(0o755)
        self.env = {"PATH": f"{fakes}:{os.environ['PATH']}", "PGDATA": str(self.data)}

    def start(self, *args, **env):
        """Runs the entry point."""
        return subprocess.run([ROOT / "scripts/docker-entrypoint", *args], env={**self.env, **env},
                              capture_output=True, text=True, check=False)

    def test_first_start_needs_a_password(self):
        done = self.start()
        self.assertEqual(done.returncode, 1)
        self.assertIn("POSTGRES_PASSWORD", done.stderr)
        self.assertFalse(self.data.exists())

    def test_first_start_configures(self):
        done = self.start("-c", "work_mem=8MB", POSTGRES_PASSWORD="secret word")
        self.assertEqual(done.stdout, f"secret word\npostgres -D {self.data} -c work_mem=8MB []\n")
        conf = (self.data / "postgresql.conf").read_text()
        self.assertIn("shared_preload_libraries = 'prepack'\n", conf)
        self.assertIn("scram-sha-256", (self.data / "pg_hba.conf").read_text())

    def test_interrupted_first_start_begins_again(self):
        self.assertNotEqual(self.start(POSTGRES_PASSWORD="x", INTERRUPTED="1").returncode, 0)
        self.assertEqual(self.start().returncode, 1)
        self.test_first_start_configures()
        self.assertEqual(sorted(p.name for p in self.data.iterdir()),
                         ["PG_VERSION", "base", "pg_hba.conf", "postgresql.conf"])

    def test_interrupted_move_goes_on(self):
        self.start(POSTGRES_PASSWORD="x")
        new = self.data / "first-start"
        new.mkdir()
        for name in ("PG_VERSION", "pg_hba.conf"):
            (self.data / name).rename(new / name)
        (self.data / "first-start.done").touch()
        self.assertEqual(self.start().stdout, f"postgres -D {self.data} []\n")
        self.assertEqual(sorted(p.name for p in self.data.iterdir()),
                         ["PG_VERSION", "base", "pg_hba.conf", "postgresql.conf"])

    def test_second_start_leaves_the_data_alone(self):
        self.start(POSTGRES_PASSWORD="x")
        before = (self.data / "postgresql.conf").read_text()
        self.assertEqual(self.start().stdout, f"postgres -D {self.data} []\n")
        self.assertEqual((self.data / "postgresql.conf").read_text(), before)


if __name__ == "__main__":
    summary.main("packaging")
