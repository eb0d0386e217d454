#!/usr/bin/env python3
"""test_check_docs.py: pages are taken apart rightly, and an output that differs is seen."""

import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import summary

ROOT = pathlib.Path(__file__).resolve().parent.parent
loader = importlib.machinery.SourceFileLoader("check_docs", str(ROOT / "scripts/check-docs"))
sys.dont_write_bytecode = True
docs = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_docs", loader))
loader.exec_module(docs)

PAGE = """# Title

<!-- needs: a.gguf b -->
<!-- sql
CREATE TABLE hidden ();
-->

```sql
SELECT 1;
```

```text
 1
```

Words between.

```text
not an output
```

<!-- not run: it would stop the server -->
```sql
SELECT 2;
```

```sql
SELECT 3;
```
"""


class Pages(unittest.TestCase):
    def page(self, text=PAGE):
        return docs.Page(pathlib.Path("x.md"), text)

    def test_blocks_in_order(self):
        page = self.page()
        self.assertEqual([b.sql for b in page.blocks],
                         ["CREATE TABLE hidden ();\n", "SELECT 1;\n", "SELECT 3;\n"])
        self.assertEqual([b.line for b in page.blocks], [4, 8, 27])
        self.assertEqual(page.needs, ["a.gguf", "b"])
        self.assertEqual(page.not_run, [(23, "it would stop the server")])

    def test_only_the_next_block_is_an_output(self):
        self.assertEqual([b.expected for b in self.page().blocks], [None, " 1\n", None])

    def test_span_is_that_of_the_output(self):
        page = self.page()
        start, end = page.blocks[1].span
        self.assertEqual(PAGE[start:end], " 1\n")

    def test_sql_outside_of_a_block(self):
        self.assertIsNone(self.page().stray_sql())
        self.assertEqual(self.page("Do\n\n    SELECT 4;\n").stray_sql(), "SELECT 4;")


    def test_links(self):
        other = docs.Page(pathlib.Path("docs/o.md"), "# Two words: more\n")
        page = docs.Page(pathlib.Path("p.md"), "[a](docs/o.md#two-words-more) [b](docs/o.md#no)\n"
                         "[c](none.md) [d](#x)\n# X\n")
        report = docs.Report()
        with contextlib.redirect_stdout(io.StringIO()) as words:
            docs.check_links([page, other], report)
        self.assertEqual((report.passed, report.failed), (2, 2), words.getvalue())


class Outputs(unittest.TestCase):
    def test_equal(self):
        self.assertTrue(docs.matches(" a \n---\n 1\n", " a\n---\n 1\n\n"))

    def test_different(self):
        self.assertFalse(docs.matches(" 1\n", " 2\n"))
        self.assertFalse(docs.matches(" 1\n", " 1\n 2\n"))
        self.assertFalse(docs.matches(" 1\n 2\n", " 1\n"))
        self.assertFalse(docs.matches(" 1\n", ""))

    def test_ellipsis_in_a_line(self):
        self.assertTrue(docs.matches("pid | …\n", "pid | 4711\n"))
        self.assertTrue(docs.matches(" pid \n-----\n …\n", "  pid  \n-------\n 47112\n"))
        self.assertTrue(docs.matches(" a | …\n", " a |\n"))
        self.assertFalse(docs.matches("pid | …\n", "uid | 4711\n"))
        self.assertFalse(docs.matches("a …\n", "a 1\nb\n"))

    def test_ellipsis_for_lines(self):
        self.assertTrue(docs.matches("a\n…\nd\n", "a\nb\nc\nd\n"))
        self.assertTrue(docs.matches("a\n…\nd\n", "a\nd\n"))
        self.assertFalse(docs.matches("a\n…\nd\n", "a\nb\n"))

    def test_errors_are_seen(self):
        self.assertTrue(docs.FAILED.search("x\nERROR:  no\n"))
        self.assertFalse(docs.FAILED.search(" an ERROR: in a value\n"))


REFERENCE = """
```sql
SELECT 1;
```

```
f(a text, b text[] DEFAULT NULL,
    c interval DEFAULT '00:01:00') → SETOF (x real, y text)
g() → text
```

**`prepack.a`** (`integer`, default `1`, session) – words
"""


class Catalogue(unittest.TestCase):
    def faults(self, functions):
        """What check_reference finds when the catalogue holds these functions."""
        answers = {docs.docs_catalogue.FUNCTIONS: functions,
                   docs.docs_catalogue.SETTINGS: [("prepack.a", "integer", "1", "user")]}
        report = docs.Report()
        with contextlib.redirect_stdout(io.StringIO()) as words:
            docs.docs_catalogue.check_reference(REFERENCE, lambda query: answers.get(query, []), report)
        return words.getvalue().splitlines()

    F = ("f", "a text, b text[] DEFAULT NULL::text[], c interval DEFAULT '00:01:00'::interval, OUT x real,"
         " OUT y text", "SETOF record")

    def test_agreement(self):
        self.assertEqual(self.faults([self.F, ("g", "", "text")]), [])

    def test_what_is_missing_or_too_much(self):
        self.assertEqual(self.faults([self.F, ("h", "", "text")]),
                         ["FAILED: docs: function g() → text is documented but does not exist",
                          "FAILED: docs: function h() → text is not documented"])

    def test_messages(self):
        source = 'errmsg("a \\"%s\\" of " INT64_FORMAT\n " or %d%%", x), errmsg_internal("%s", y)'
        self.assertEqual(list(docs.docs_catalogue.messages(source)), ['a "…" of … or …%'])


if __name__ == "__main__":
    summary.main("check_docs")
