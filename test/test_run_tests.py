#!/usr/bin/env python3
"""test_run_tests.py: what run-tests makes of programs that pass, fail, skip, die or hang."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import summary

SCRIPT = "scripts/run-tests"


class RunTests(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.results = pathlib.Path(self.folder.name) / "results"

    def run_tests(self, *args):
        """Runs the script; returns its exit status and the lines of its output."""
        done = subprocess.run([SCRIPT, "--results", self.results, *args], capture_output=True,
                              text=True)
        return done.returncode, done.stdout.splitlines()

    def verdict(self, script, *options):
        """Runs one shell snippet as the test program; returns exit status and the last line."""
        status, lines = self.run_tests("--name", "one", *options, "sh -c '%s'" % script)
        return status, lines[-1]

    def test_pass(self):
        self.assertEqual(self.verdict("echo t: 3 passed, 0 failed"),
                         (0, "one: 3 passed, 0 failed, 0 skipped"))

    def test_failure_is_counted_and_shown(self):
        status, lines = self.run_tests("--name", "one",
                                       "sh -c 'echo why; echo t: 3 passed, 2 failed; exit 1'")
        self.assertEqual((status, lines[-1]), (1, "one: 3 passed, 2 failed, 0 skipped"))
        self.assertIn("why", lines)

    def test_failure_with_status_zero(self):
        self.assertEqual(self.verdict("echo t: 3 passed, 2 failed"),
                         (1, "one: 3 passed, 2 failed, 0 skipped"))

    def test_skip_is_no_pass(self):
        status, lines = self.run_tests(
            "--name", "one", "sh -c 'echo SKIP: no model; echo t: 0 passed, 0 failed, 1 skipped'")
        self.assertEqual((status, lines[-1]), (0, "one: 0 passed, 0 failed, 1 skipped"))
        self.assertIn("    SKIP: no model", lines)

    def test_figures_are_shown(self):
        status, lines = self.run_tests(
            "--name", "one", "sh -c 'echo words; echo GOAL size: 3 MB; echo t: 1 passed, 0 failed'")
        self.assertEqual((status, lines[-1]), (0, "one: 1 passed, 0 failed, 0 skipped"))
        self.assertIn("    GOAL size: 3 MB", lines)
        self.assertNotIn("    words", lines)

    def test_death_after_the_summary(self):
        self.assertEqual(self.verdict("echo t: 3 passed, 0 failed; kill -9 $$"),
                         (1, "one: 3 passed, 1 failed, 0 skipped"))

    def test_silence(self):
        self.assertEqual(self.verdict("true"),
                         (1, "one: 0 passed, 1 failed, 0 skipped"))

    def test_missing_program(self):
        status, lines = self.run_tests("--name", "one", "build/no-such-program")
        self.assertEqual((status, lines[-1]), (1, "one: 0 passed, 1 failed, 0 skipped"))

    def test_over_time(self):
        self.assertEqual(self.verdict("exec sleep 30", "--timeout", "0.2"),
                         (1, "one: 0 passed, 1 failed, 0 skipped"))

    def test_nothing_to_run(self):
        status, lines = self.run_tests("--name", "one")
        self.assertEqual((status, lines[-1]), (1, "one: 0 passed, 1 failed, 0 skipped"))

    def test_total(self):
        self.run_tests("--name", "a", "echo t: 3 passed, 0 failed",
                       "echo u: 4 passed, 0 failed, 1 skipped")
        self.run_tests("--name", "b", "echo t: 5 passed, 0 failed")
        status, lines = self.run_tests("--total")
        self.assertEqual((status, lines[-1]), (0, "12 passed, 0 failed"))
        self.run_tests("--name", "b", "echo t: 5 passed, 1 failed")
        status, lines = self.run_tests("--total")
        self.assertEqual((status, lines[-1]), (1, "12 passed, 1 failed"))

    def test_total_of_nothing_fails(self):
        self.assertEqual(self.run_tests("--total")[0], 1)


if __name__ == "__main__":
    summary.main("run_tests")
