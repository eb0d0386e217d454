#!/usr/bin/env python3
"""test_bench_llm.py: the table that bench-llm makes of an engine's and a peer's figures."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import summary

# Both stand-ins print fixed figures for the work they are asked for.
ENGINE = """#!/bin/sh
case "$*" in
*prefill*) printf 'prefill\\t800\\ttok/s\\nmemory/accounted\\t1\\tB\\n' ;;
*decode*) printf 'decode\\t90\\ttok/s\\n' ;;
*padded*) printf 'classify\\t20\\ttexts/s\\n' ;;
*sorted*) printf 'classify\\t40\\ttexts/s\\n' ;;
*unshared*) exit 3 ;;
*classify*) printf 'classify\\t50\\ttexts/s\\n' ;;
*pack*) printf 'pack/first-fit\\t90\\t%%\\npack/worst-fit\\t60\\t%%\\n' ;;
esac
"""
PEER = """#!/bin/sh
case "$*" in
*--plain*) printf 'plain/prefill/own\\t50\\ttok/s\\nplain/decode\\t30\\ttok/s\\n' ;;
*prefill*) printf '# peer 1.0\\nprefill/own\\t100\\ttok/s\\nprefill/q4_0\\t400\\ttok/s\\n' ;;
*decode*) printf 'decode\\t45\\ttok/s\\n' ;;
*classify*) printf 'classify/whole\\t1\\ttexts/s\\nclassify/cached\\t4\\ttexts/s\\n'
            printf 'classify/batched\\t25\\ttexts/s\\n' ;;
esac
"""


class BenchLlm(unittest.TestCase):
    def bench(self, only):
        """Runs the driver over the stand-ins; returns status, rows by (work, peer), output."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in (("engine", ENGINE), ("peer", PEER)):
                (root / name).write_text(text)
                (root / name).chmod(0o755)
            done = subprocess.run(
                ["bench/bench-llm", "--engine", root / "engine", "--out", root / "out", "--only",
                 only], capture_output=True, text=True,
                env={**os.environ, "PREPACK_PEER_PYTHON": str(root / "peer")})
            self.assertNotIn("Traceback", done.stderr)
            lines = (root / "out/llm.tsv").read_text().splitlines()
            self.assertEqual(len((root / "out/texts.txt").read_text().splitlines()), 1000)
        rows = [line.split("\t") for line in lines[1:]]
        self.assertEqual({len(r) for r in rows}, {8})
        return done.returncode, {(r[0], r[3]): r for r in rows}, done.stdout

    def test_ratios_and_goals(self):
        status, rows, _ = self.bench("prefill,decode")
        self.assertEqual(status, 0)
        work = "prefill 512, Q4_1"
        self.assertEqual(rows[work, "llama.cpp, same file"][4:], ["100", "8", ">= 8", "yes"])
        self.assertEqual(rows[work, "llama.cpp, same file, no AMX"][4:], ["50", "16", ">= 8", "yes"])
        self.assertEqual(rows[work, "llama.cpp, fastest format"][4:], ["400", "2", ">= 3", "no"])
        self.assertEqual(rows["decode, one stream", "llama.cpp, same file"][4:],
                         ["45", "2", ">= 1.5", "yes"])

    def test_memory_over_the_goal(self):
        _, rows, _ = self.bench("prefill")
        self.assertEqual(rows["peak memory, prefill", "weights + KV in use"][6:], ["<= 1.5", "no"])

    def test_best_peer_own_modes_and_a_mode_that_fails(self):
        status, rows, said = self.bench("classify")
        work = "classify 1,000 texts"
        self.assertEqual(rows[work, "llama.cpp, prompt cache"][4:], ["25", "2", ">= 5", "no"])
        self.assertEqual(rows[work, "llama.cpp, no cache"][4:], ["1", "50", ">= 20", "yes"])
        self.assertEqual(rows[work, "own padded mode"][4:], ["20", "2.5", "", ""])
        self.assertEqual(rows[work, "own, prefix not shared"][4:], ["-", "-", "", ""])
        self.assertEqual(status, 1)
        self.assertIn("--mode unshared: status 3", said)

    def test_packing(self):
        status, rows, _ = self.bench("pack")
        work = "fixed shapes, first-fit"
        self.assertEqual(status, 0)
        self.assertEqual(rows[work, "worst-fit, as the paper"][1:], ["90", "%",
                         "worst-fit, as the paper", "60", "1.5", "", ""])
        self.assertEqual(rows[work, "padded"][4:], ["-", "-", "", ""])


if __name__ == "__main__":
    summary.main("bench_llm")
