#!/usr/bin/env python3
"""The oracle: queries answered from speculative tables must equal the same queries without.

	oracle.py [--pairs N] [--seed S] [--dsn DSN] [--keep-going]

Makes random small schemas with many NULLs, builds a table for a random query (exact, or a superset),
then edits the query (constants, conditions, columns, grouping, joins, order, DISTINCT, windows, set
operations, subqueries) and compares rows, column names and types of every edit with speculation on and
off. Costs are ignored, so that every table that matches is used. Ends with "N passed, N failed" and how
often tables were used, by kind; a run in which a kind never happened fails.
"""

import argparse
import collections
import decimal
import random
import sys

import psycopg2

TYPES = {
    "int": ["0", "1", "2", "3", "5", "8", "-1"],
    "bigint": ["0", "1", "2", "10000000000", "-4"],
    "numeric": ["0", "1.0", "1.00", "2.5", "-0.25", "3"],
    "text": ["'a'", "'b'", "'ab'", "'B'", "''", "'c d'"],
    "date": ["date '2024-01-01'", "date '2024-01-02'", "date '2024-02-29'", "date '2023-12-31'"],
    "boolean": ["true", "false"],
    "real": ["0.5", "1.5", "-2", "0", "'-0'"],
}
OPS = ["=", "<>", "<", "<=", ">", ">="]


class Table:
    """A table of a random schema."""

    def __init__(self, rng, name):
        self.name = name
        self.columns = [("id", "int")]
        for i in range(rng.randint(2, 5)):
            self.columns.append((f"{name}{chr(97 + i)}", rng.choice(list(TYPES))))
        self.columns.append(("k", "int"))

    def create(self, rng):
        """The statements that make and fill it."""
        yield f"DROP TABLE IF EXISTS {self.name} CASCADE"
        yield "CREATE TABLE %s (%s%s)" % (self.name, ", ".join(f"{c} {t}" for c, t in self.columns),
                                          rng.choice([", PRIMARY KEY (id)", ", PRIMARY KEY (id)", ""]))
        rows = []
        for i in range(rng.choice([0, 1, 7, 30, 60])):
            values = [str(i)]
            values += [rng.choice(TYPES[t] + ["NULL", "NULL"]) for _, t in self.columns[1:]]
            rows.append("(%s)" % ", ".join(values))
        if rows:
            yield "INSERT INTO %s VALUES %s" % (self.name, ", ".join(rows))
        yield f"ANALYZE {self.name}"

    def references(self, rng, other):
        """Tries to make k a foreign key that is never null; the rows may not allow it."""
        yield f"DELETE FROM {self.name} WHERE k IS NULL OR k NOT IN (SELECT id FROM {other.name})"
        yield f"ALTER TABLE {self.name} ALTER k SET NOT NULL"
        yield f"ALTER TABLE {self.name} ADD FOREIGN KEY (k) REFERENCES {other.name}"


class Item:
    """One item of FROM: a table with an alias."""

    def __init__(self, table, alias):
        self.table, self.alias = table, alias

    def column(self, rng, types=None):
        """A random column as (text, type), or None."""
        fit = [(f"{self.alias}.{c}", t) for c, t in self.table.columns if types is None or t in types]
        return rng.choice(fit) if fit else None


class Query:
    """A block that can be edited and written as text."""

    def __init__(self, rng, tables):
        self.rng, self.tables = rng, tables
        self.items = [Item(rng.choice(tables), "t0")]
        self.joins = []
        for i in range(rng.choice([0, 0, 1, 1, 2])):
            self.add_join()
        self.where = [self.condition() for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        self.grouped = rng.random() < 0.5
        self.groups, self.outputs, self.having = [], [], []
        for _ in range(rng.choice([0, 1, 2, 2]) if self.grouped else 0):
            self.groups.append(self.expression())
        for _ in range(rng.randint(1, 3)):
            self.outputs.append(self.aggregate() if self.grouped else self.expression())
        if self.grouped and rng.random() < 0.25:
            self.having.append(f"count(*) {rng.choice(OPS)} {rng.randint(0, 3)}")
        self.distinct = not self.grouped and rng.random() < 0.15
        self.window = not self.grouped and not self.distinct and rng.random() < 0.1
        self.grouping_sets = self.grouped and len(self.groups) > 1 and rng.random() < 0.1
        self.set_operation = None
        if rng.random() < 0.06 and not self.window:
            self.set_operation = rng.choice(["UNION", "UNION ALL", "INTERSECT", "EXCEPT"])
        self.ordered = rng.random() < 0.3
        self.limit = rng.random() < 0.2
        self.wrap = rng.choice([None] * 8 + ["cte", "subquery"])

    # ---- pieces ----

    def item(self):
        """A random item."""
        return self.rng.choice(self.items)

    def add_join(self):
        """Joins one more table."""
        item = Item(self.rng.choice(self.tables), f"t{len(self.items)}")
        kind = self.rng.choice(["JOIN"] * 4 + ["LEFT JOIN", "RIGHT JOIN", "FULL JOIN", ","])
        other = self.item()
        left, right = self.rng.choice(
            [(f"{other.alias}.k", f"{item.alias}.k"), (f"{other.alias}.k", f"{item.alias}.id"),
             (f"{other.alias}.id", f"{item.alias}.k")])
        self.items.append(item)
        on = f"{left} = {right}"
        if kind != "FULL JOIN" and self.rng.random() < 0.2:
            column, kind_of = item.column(self.rng)
            on += f" AND {column} {self.rng.choice(OPS)} {self.rng.choice(TYPES[kind_of])}"
        self.joins.append((kind, item, on))

    def expression(self):
        """A column, or something made of columns."""
        column, kind = self.item().column(self.rng)
        roll = self.rng.random()
        if roll > 0.25:
            return column
        if kind == "real" or kind == "numeric" and roll < 0.1:
            return f"{column}::text"  # tells values apart that are equal
        if kind in ("int", "bigint", "numeric"):
            return f"{column} + 1" if roll < 0.15 else f"coalesce({column}, 7)"
        if kind == "text":
            return f"upper({column})" if roll < 0.1 else f"{column} || 'x'"
        if kind == "date":
            return f"extract(year from {column})"
        return f"({column} IS NULL)"

    def aggregate(self):
        """A random aggregate."""
        rng = self.rng
        column, kind = self.item().column(rng)
        choices = ["count(*)", f"count({column})", f"count(DISTINCT {column})"]
        if kind in ("int", "bigint", "numeric"):
            choices += [f"sum({column})", f"avg({column})",
                        f"sum({column}) FILTER (WHERE {column} > 0)"] * 2
        if kind != "boolean":
            choices += [f"min({column})", f"max({column})"]
        else:
            choices += [f"bool_or({column})", f"bool_and({column})"]
        return rng.choice(choices)

    def condition(self, depth=0):
        """A random condition."""
        rng = self.rng
        column, kind = self.item().column(rng)
        values = TYPES[kind]
        roll = rng.random()
        if roll < 0.45:
            return f"{column} {rng.choice(OPS)} {rng.choice(values)}"
        if roll < 0.55:
            return f"{column} BETWEEN {rng.choice(values)} AND {rng.choice(values)}"
        if roll < 0.68:
            return "%s IN (%s)" % (column, ", ".join(rng.sample(values, rng.randint(1, min(3, len(values))))))
        if roll < 0.76:
            return f"{column} IS {rng.choice(['', 'NOT '])}NULL"
        if roll < 0.80 and kind == "text":
            return f"{column} LIKE 'a%'"
        if roll < 0.80 and kind == "numeric":
            return f"scale({column}) {rng.choice(OPS)} 1"
        if roll < 0.86 and depth == 0:
            return f"({self.condition(1)} OR {self.condition(1)})"
        if roll < 0.90 and depth == 0:
            return f"NOT ({self.condition(1)} AND {self.condition(1)})"
        if roll < 0.94:
            other = self.item().column(rng, [kind])
            return f"{column} {rng.choice(OPS)} {other[0]}" if other else "true"
        inner = rng.choice(self.tables)
        if roll < 0.97:
            return (f"{rng.choice(['', 'NOT '])}EXISTS (SELECT 1 FROM {inner.name} s WHERE "
                    f"s.k = {self.item().alias}.k AND s.id > {rng.randint(0, 5)})")
        return f"{self.item().alias}.k {rng.choice(['', 'NOT '])}IN (SELECT k FROM {inner.name})"

    # ---- edits ----

    def edit(self):
        """Changes one thing, as a person would."""
        rng = self.rng
        how = rng.choice(["constant", "constant", "constant", "add", "remove", "unjoin", "unjoin", "output",
                          "unoutput", "group",
                          "ungroup", "join", "order", "limit", "distinct", "having", "swap"])
        if how == "constant" and self.where:
            i = rng.randrange(len(self.where))
            words = self.where[i].rsplit(" ", 1)
            if words[0].split(" ")[-1] in OPS and words[1][-1] not in ")":
                for values in TYPES.values():
                    if self.where[i].endswith(tuple(" " + v for v in values)):
                        old = next(v for v in values if self.where[i].endswith(" " + v))
                        self.where[i] = self.where[i][: -len(old)] + rng.choice(values)
                        return
            self.where[i] = self.condition()
        elif how == "add":
            self.where.append(self.condition())
        elif how == "remove" and self.where:
            self.where.pop(rng.randrange(len(self.where)))
        elif how == "output":
            self.outputs.append(self.aggregate() if self.grouped else self.expression())
        elif how == "unoutput" and len(self.outputs) > 1:
            self.outputs.pop(rng.randrange(len(self.outputs)))
        elif how == "group" and self.grouped:
            self.groups.append(self.expression())
        elif how == "ungroup" and self.groups:
            self.groups.pop(rng.randrange(len(self.groups)))
            self.grouping_sets = self.grouping_sets and len(self.groups) > 1
        elif how == "join" and len(self.items) < 4:
            self.add_join()
        elif how == "unjoin" and self.joins:
            self.unjoin()
        elif how == "order":
            self.ordered = not self.ordered
        elif how == "limit":
            self.limit = not self.limit
        elif how == "distinct" and not self.grouped and not self.window:
            self.distinct = not self.distinct
        elif how == "having" and self.grouped:
            self.having = [] if self.having else [f"count(*) > {rng.randint(0, 2)}"]
        elif how == "swap" and len(self.where) > 1:
            rng.shuffle(self.where)

    def unjoin(self):
        """Takes the last table off, with all that mentions it."""
        gone = self.joins.pop()[1]
        self.items.remove(gone)
        dot = gone.alias + "."
        for name in ("where", "groups", "outputs", "having"):
            setattr(self, name, [e for e in getattr(self, name) if dot not in e])
        self.outputs = self.outputs or ["count(*)" if self.grouped else self.items[0].alias + ".id"]
        self.grouping_sets = self.grouping_sets and len(self.groups) > 1

    # ---- text ----

    def sql(self, on_top=True):
        """The query as text. on_top: with order and limit."""
        outputs = [f"{e} AS o{i}" for i, e in enumerate(self.groups + self.outputs)]
        if self.window:
            outputs.append(f"count(*) OVER (PARTITION BY {self.items[0].alias}.k) AS w")
        text = "SELECT %s%s FROM %s %s" % ("DISTINCT " if self.distinct else "", ", ".join(outputs),
                                           self.items[0].table.name, self.items[0].alias)
        where = list(self.where)
        for kind, item, on in self.joins:
            if kind == ",":
                text += f" CROSS JOIN {item.table.name} {item.alias}"
                where.append(on)
            else:
                text += f" {kind} {item.table.name} {item.alias} ON {on}"
        if where:
            text += " WHERE " + " AND ".join(where)
        if self.grouped and self.groups:
            sets = "ROLLUP (%s)" if self.grouping_sets else "%s"
            text += " GROUP BY " + sets % ", ".join(self.groups)
        if self.having:
            text += " HAVING " + " AND ".join(self.having)
        if self.set_operation:
            text = f"{text} {self.set_operation} {text}"
        if self.wrap == "subquery":
            text = f"SELECT * FROM ({text}) z"
        elif self.wrap == "cte":
            text = f"WITH z AS ({text}) SELECT * FROM z"
        if on_top and (self.ordered or self.limit):
            n = len(outputs)
            text += " ORDER BY " + ", ".join(
                f"{i + 1}{self.rng.choice(['', ' DESC', ' NULLS FIRST'])}" for i in range(n))
            if self.limit:
                text += f" LIMIT {self.rng.randint(0, 5)} OFFSET {self.rng.randint(0, 2)}"
        return text


def comparable(row):
    """A row as text in which equal numbers look alike."""
    return repr([v.normalize() + 0 if isinstance(v, decimal.Decimal) else v + 0.0 if isinstance(v, float) else v
                 for v in row])


class Oracle:
    """A connection that runs everything twice."""

    def __init__(self, args):
        self.args = args
        self.connection = psycopg2.connect(args.dsn)
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        self.counts = collections.Counter()
        self.run("SET prepack.test_fault = 'ignore_cost'")
        self.run("SET client_min_messages = error")
        self.run("SET max_parallel_workers_per_gather = 0")

    def run(self, sql):
        """Runs a statement."""
        self.cursor.execute(sql)

    def answer(self, sql):
        """Rows in order, and the columns' names and types; or the error's code."""
        try:
            self.cursor.execute(sql)
        except psycopg2.Error as error:
            return ("error", error.pgcode)
        description = [(d.name, d.type_code, d.precision, d.scale) for d in self.cursor.description]
        return description, self.cursor.fetchall()

    def compare(self, sql, ordered):
        """True when both answers are the same."""
        self.run("SET prepack.use_speculation = on")
        fast = self.answer(sql)
        self.run("SET prepack.use_speculation = off")
        plain = self.answer(sql)
        if plain[0] == "error":
            self.counts["errors without tables, not compared"] += 1
            return True  # it may not happen when the rows that caused it are not read again
        if not ordered and fast[0] != "error":
            fast = (fast[0], sorted(fast[1], key=repr))
            plain = (plain[0], sorted(plain[1], key=repr))
        if repr(fast) == repr(plain):
            return True
        # Of equal numbers written differently (1.0 and 1.00, 0 and -0) any may stand for its group or come first.
        if fast == plain or (fast[0] == plain[0] and sorted(map(comparable, fast[1])) ==
                             sorted(map(comparable, plain[1]))):
            self.counts["equal but for the scale of numbers"] += 1
            return True
        print(f"  with:    {fast}\n  without: {plain}")
        return False

    def hits(self):
        """Counters by kind."""
        self.run("SELECT name, value FROM prepack.pg_stat_prepack_speculation")
        return {n: int(v) for n, v in self.cursor.fetchall()}

    def round(self, rng):
        """One schema: some tables, some queries, some edits of each."""
        self.run("SELECT prepack.reset_speculation()")
        tables = [Table(rng, f"s{i}") for i in range(rng.randint(1, 3))]
        for table in tables:
            for statement in table.create(rng):
                self.run(statement)
        for table in tables[1:] if rng.random() < 0.5 else []:
            try:
                for statement in table.references(rng, rng.choice(tables[:tables.index(table)])):
                    self.run(statement)
            except psycopg2.Error:
                pass  # the other one has no primary key
        for _ in range(4):
            query = Query(rng, tables)
            for superset in rng.choice([(False,), (True,), (False, True)]):
                self.build(query, superset)
            for _ in range(12):
                sql = query.sql()
                self.counts["pairs"] += 1
                if not self.compare(sql, query.ordered or query.limit):
                    self.counts["failed"] += 1
                    print(f"DIFFERENT: {sql}", flush=True)
                    if not self.args.keep_going:
                        return
                query.edit()

    def build(self, query, superset):
        """Builds a table; many queries have none."""
        try:
            self.cursor.execute("SELECT prepack.materialize(%s, %s)", (query.sql(False), superset))
            self.counts["tables"] += 1
        except psycopg2.Error as error:
            self.counts[f"not built: {error.pgcode}"] += 1
            if error.pgcode == "XX000":
                self.counts["failed"] += 1
                print(f"INTERNAL ERROR: {error} in {query.sql(False)}")


def main():
    """Runs rounds until there are enough pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dsn", default="")
    parser.add_argument("--keep-going", action="store_true")
    args = parser.parse_args()
    oracle = Oracle(args)
    before = oracle.hits()
    seed = args.seed
    while oracle.counts["pairs"] < args.pairs and (args.keep_going or not oracle.counts["failed"]):
        rng = random.Random(seed)
        oracle.round(rng)
        if oracle.counts["failed"] and not args.keep_going:
            print(f"seed {seed}")
        seed += 1
    used = {n: v - before.get(n, 0) for n, v in oracle.hits().items() if v > before.get(n, 0)}
    for name, value in sorted(used.items()):
        print(f"  {name:40} {value}")
    for name, value in sorted(oracle.counts.items()):
        print(f"  {name:40} {value}")
    missing = [k for k in ("hit: exact", "hit: range", "hit: rollup") if not used.get(k)]
    for name in missing:
        print(f"never happened: {name}")
    failed = oracle.counts["failed"] + len(missing)
    print(f"oracle: {oracle.counts['pairs'] - oracle.counts['failed']} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
