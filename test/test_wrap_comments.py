#!/usr/bin/env python3
"""test_wrap_comments.py: comments of any shape come out within 100 columns and lose no word."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import summary

LONG = "word " * 21 + "end"  # 108 columns


class WrapComments(unittest.TestCase):
    def wrap(self, text):
        """What the script makes of a file; run twice, it must change nothing more."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.c"
            path.write_text(text)
            subprocess.run(["scripts/wrap-comments", path], check=True)
            once = path.read_text()
            subprocess.run(["scripts/wrap-comments", path], check=True)
            self.assertEqual(path.read_text(), once)
        for line in once.split("\n"):
            self.assertLessEqual(len(line.expandtabs(4)), 100, line)
        return once

    def test_paragraph_flows_on(self):
        self.assertEqual(self.wrap(f"/*\n * {LONG}\n * more.\n *\n * Apart.\n */\n"),
                         "/*\n * " + "word " * 18 + "word\n * word word end more.\n *\n"
                         " * Apart.\n */\n")

    def test_list_keeps_its_indentation(self):
        text = self.wrap(f"/*\n * - {LONG}\n * - next\n */\n")
        self.assertEqual(text.split("\n")[2:4], [" *   word word end", " * - next"])

    def test_end_of_comment_behind_the_text(self):
        self.assertEqual(self.wrap(f"/* a\n * {LONG} */\nint x;\n").split("\n")[2:],
                         [" * word word end */", "int x;", ""])

    def test_one_line_becomes_a_block(self):
        self.assertEqual(self.wrap(f"\t/* {LONG} */\n"),
                         "\t/*\n\t * " + "word " * 17 + "word\n\t * word word word end\n\t */\n")

    def test_comment_behind_code_moves_above(self):
        wide = "\tint number_of_things;" + " " * 60 + "/* how many there are */\n"
        self.assertEqual(self.wrap(wide),
                         "\t/* how many there are */\n\tint number_of_things;\n")

    def test_what_fits_or_is_code_stays(self):
        text = ('/* short */\nint a; /* b */\n/*\n *   a  table   of\n *   three  columns\n */\n'
                'puts("/* no comment, and %s */");\n')
        self.assertEqual(self.wrap(text), text)


if __name__ == "__main__":
    summary.main("wrap_comments")
