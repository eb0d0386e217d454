#!/usr/bin/env python3
"""test_check_layers.py: trees that break one direction of dependency each, one that breaks none."""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import summary

SCRIPT = pathlib.Path("scripts/check-layers").resolve()


class CheckLayers(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)
        self.write_header("kernels/kernels.h", "#include <stdint.h>\nvoid pp_copy(int32_t *to);")
        self.write_header("src/llm/llm_wire.h", "#include <stdint.h>\ntypedef uint32_t llm_word;")
        self.write_header("src/llm/llm_a.h", '#include "kernels.h"\nint llm_a(int32_t n);')
        self.write("src/llm/llm_a.c",
                   '#include "llm_a.h"\nint llm_a(int32_t n) { pp_copy(&n); return n; }\n')
        self.write_header("src/llm/llm_status.h", "typedef enum llm_status { LLM_OK } llm_status;")
        self.write("src/client.c",
                   '#include "llm/llm_wire.h"\n#include "llm/llm_status.h"\n')

    def write(self, path, text):
        """Puts one file into the tree under test."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def write_header(self, path, text):
        """Puts one header with a guard into the tree under test."""
        self.write(path, f"#ifndef GUARD_H\n#define GUARD_H\n{text}\n#endif\n".replace(
            "GUARD", pathlib.Path(path).stem.upper()))

    def archive(self):
        """Compiles src/llm/llm_a.c of the tree into a library and returns its path."""
        subprocess.run(["cc", "-w", "-Isrc/llm", "-Ikernels", "-c", "-o", "a.o", "src/llm/llm_a.c"],
                       cwd=self.root, check=True)
        subprocess.run(["ar", "rcs", "a.a", "a.o"], cwd=self.root, check=True)
        return "a.a"

    def rules(self, *args):
        """Runs the script; returns the rules it complained about, checked with its status."""
        done = subprocess.run([SCRIPT, "--root", self.root, *args], capture_output=True, text=True)
        self.assertEqual(done.stderr, "")
        found = set(re.findall(r"^\S+?:\d+: (\w+): ", done.stdout, re.MULTILINE))
        self.assertEqual(done.returncode, 1 if found else 0, done.stdout)
        return found

    def test_good_tree(self):
        self.assertEqual(self.rules("--archive", self.archive()), set())

    def test_forbidden_includes(self):
        for path, line in (("src/llm/llm_b.h", "#include <cuda_runtime.h>"),
                           ("kernels/norm.cu", '#include "postgres.h"'),
                           ("kernels/norm.cuh", '#include "../src/prepack.h"'),
                           ("src/batch.c", '#include "llm/llm.h"'),
                           ("src/speql/speql_plan.c", '#include "../../kernels/kernels.h"'),
                           ("src/speql/speql_plan.h", '#include "llm_kv.h"')):
            with self.subTest(path):
                self.write(path, f"  #  {line[1:]}\n")
                self.assertIn("include", self.rules())
                (self.root / path).unlink()

    def test_headers_that_stand_alone(self):
        self.write_header("src/llm/llm_wire.h", '#include "llm_a.h"')
        self.assertEqual(self.rules(), {"include"})

    def test_cuda_where_it_belongs(self):
        self.write_header("src/llm/llm_cuda.h", "#ifdef HAVE\n#include <cuda_runtime.h>\n#endif")
        self.assertEqual(self.rules(), set())

    def test_reach_through_another_header(self):
        self.write("src/llm/postgresql/server/utils.h", "typedef int Datum;\n")
        self.write_header("src/llm/llm_b.h", '#include "postgresql/server/utils.h"')
        self.write("src/llm/llm_a.c", '#include "llm_b.h"\n')
        self.assertLessEqual({"reach"}, self.rules())

    def test_missing_header(self):
        self.write("src/llm/llm_a.c", '#include "llm_none.h"\n')
        self.assertEqual(self.rules(), {"reach"})

    def test_header_that_needs_another(self):
        self.write_header("src/llm/llm_b.h", "int32_t llm_b(void);")
        self.assertEqual(self.rules(), {"header"})

    def test_header_without_a_guard(self):
        self.write("src/llm/llm_b.h", "INLINE int llm_b(void) { return 0; }\n")
        self.assertEqual(self.rules(), {"header"})
        self.write("src/llm/llm_b.h", "/* No include guard: a template. */\nINLINE int f(void);\n")
        self.assertEqual(self.rules(), set())

    def test_symbols(self):
        for call in ("palloc(1)", "errstart(1)", "printf(\"%d\", n)", "abort()", "exit(n)"):
            with self.subTest(call):
                name = call.split("(")[0]
                self.write("src/llm/llm_a.c",
                           f"int {name}();\nint llm_a(int n) {{ return {call}; }}\n")
                self.assertEqual(self.rules("--archive", self.archive()), {"symbol"})

    def test_empty_archive(self):
        (self.root / "a.a").write_bytes(b"!<arch>\n")
        self.assertEqual(self.rules("--archive", "a.a"), {"symbol"})


if __name__ == "__main__":
    summary.main("check_layers")
