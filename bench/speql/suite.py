#!/usr/bin/env python3
"""The oracle over PostgreSQL's own regression tests.

	suite.py SQL_FOLDER [--dsn DSN] [--files NAME ...]

Runs against the database that the tests left (pg_regress, dbname regression). Every SELECT of every
file is typed: fed to a typing session, then built as an exact table and as a superset. Then it is run
with and without the tables, and rows, names and types are compared. Costs are ignored, so that whatever
matches is used; tables stay for the statements that follow. A run that never used a table fails.
"""

import argparse
import collections
import os
import re
import sys

import psycopg2
import psycopg2.extensions

TOKEN = re.compile(r"""
      --[^\n]* | /\*.*?\*/                          # comments, not nested ones
    | [eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*'     # strings
    | "(?:[^"]|"")*"
    | (\$[A-Za-z_]*\$).*?\1                         # dollar quotes
    | ^\\[^\n]* | \\[a-z]+[^\n]*                    # psql's own commands
    | ; | [()] | [^;()'"$\\/\-]+ | .
""", re.S | re.X | re.M)
PAGE = 20  # statements between two resets of the tables


def statements(text):
    """The statements of a file that psql would send as they stand."""
    parts, depth = [], 0
    for match in TOKEN.finditer(text):
        token = match.group(0)
        if token.startswith("\\"):
            parts, depth = [], 0  # \gset, \gexec, COPY data and the like: not ours
            continue
        depth += (token == "(") - (token == ")")
        if token != ";" or depth > 0:
            parts.append("" if token.startswith("--") else token)
            continue
        yield "".join(parts).strip()
        parts, depth = [], 0


def is_select(sql):
    """True for what starts as a query and has no variables of psql."""
    return (re.match(r"\(*\s*(select|with|table|values)\b", sql, re.I) is not None
            and not re.search(r"(^|[^:]):[a-z'\"]", sql) and not re.search(r"\binto\b", sql, re.I))


class Suite:
    """A connection that types, builds, and runs twice."""

    def __init__(self, dsn):
        self.connection = psycopg2.connect(dsn)
        self.connection.autocommit = True
        extensions = psycopg2.extensions  # texts are compared, not what a driver makes of them
        for oid in list(extensions.string_types):
            extensions.register_type(extensions.new_type((oid,), "TEXT", lambda value, _: value), self.connection)
        self.cursor = self.connection.cursor()
        self.counts = collections.Counter()
        for setting in ("prepack.test_fault = 'ignore_cost'", "prepack.speculation = 'plan'",
                        "statement_timeout = '5s'", "client_min_messages = error",
                        "max_parallel_workers_per_gather = 0", "default_transaction_read_only = off"):
            self.cursor.execute("SET " + setting)

    def try_run(self, sql, *values):
        """The error of a statement, or None."""
        try:
            self.cursor.execute(sql, values or None)
        except psycopg2.Error as error:
            return error
        return None

    def answer(self, sql, speculation):
        """Columns and rows, or the error's code."""
        self.cursor.execute("SET prepack.use_speculation = " + speculation)
        error = self.try_run(sql)
        if error is not None:
            return "error", error.pgcode
        if self.cursor.description is None:
            return "nothing", None
        columns = [(d.name, d.type_code, d.precision, d.scale) for d in self.cursor.description]
        return columns, sorted(repr(row) for row in self.cursor.fetchall())

    def hits(self):
        """How often tables answered, by kind."""
        self.cursor.execute("SELECT name, value FROM prepack.pg_stat_prepack_speculation "
                            "WHERE name LIKE 'hit: %'")
        return {name: int(value) for name, value in self.cursor.fetchall()}

    def build(self, sql):
        """Types and builds; False when the statement has effects."""
        self.try_run("SELECT prepack.speculate(%s)", sql)
        for superset in (False, True):
            error = self.try_run("SELECT prepack.materialize(%s, %s)", sql, superset)
            if error is None:
                self.counts["tables"] += 1
            elif error.pgcode == "XX000" and self.answer(sql, "off") != ("error", "XX000"):
                self.counts["failed"] += 1
                print(f"INTERNAL ERROR: {error}  in {sql}")
            elif "volatile" in str(error) or "row security" in str(error):
                return False
        return True

    def check(self, name, sql):
        """One statement."""
        self.counts["statements"] += 1
        if not self.build(sql):
            self.counts["not speculated: volatile, or row security"] += 1
            return
        before = self.hits()
        fast = self.answer(sql, "on")
        used = self.hits() != before
        self.counts["answered from tables"] += used
        if not used:
            return
        plain = self.answer(sql, "off")
        if plain[0] == "error" and fast[0] != "error":
            self.counts["errors only without tables, not compared"] += 1  # rows that raise them are not read
        elif fast == plain:
            self.counts["equal"] += 1
        elif re.search(r"\blimit\b|\bfetch\b|\bdistinct on\b|row_number|rank\s*\(|_value\s*\(|\blag\b|\blead\b|ntile",
                       sql, re.I) and len(fast[1]) == len(plain[1]):
            self.counts["which of equal rows comes first, not compared"] += 1
        else:
            self.counts["failed"] += 1
            print(f"DIFFERENT in {name}: {sql}\n  with:    {str(fast)[:500]}\n  without: {str(plain)[:500]}")

    def file(self, path):
        """All statements of a file."""
        with open(path, encoding="utf-8", errors="replace") as source:
            selects = [s for s in statements(source.read()) if is_select(s)]
        for i, sql in enumerate(selects):
            if i % PAGE == 0:
                self.cursor.execute("SELECT prepack.reset_speculation()")
            self.check(os.path.basename(path), sql)


def main():
    """Runs all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--dsn", default="dbname=regression")
    parser.add_argument("--files", nargs="*")
    args = parser.parse_args()
    suite = Suite(args.dsn)
    before = suite.hits()
    for name in sorted(os.listdir(args.folder)):
        if name.endswith(".sql") and (not args.files or name[:-4] in args.files):
            suite.file(os.path.join(args.folder, name))
    used = {kind: n - before[kind] for kind, n in suite.hits().items()}
    for name, value in sorted({**used, **suite.counts}.items()):
        print(f"  {name:48} {value}")
    failed = suite.counts["failed"] + (suite.counts["answered from tables"] == 0)
    print(f"suite: {suite.counts['equal']} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
