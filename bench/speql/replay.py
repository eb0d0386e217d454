#!/usr/bin/env python3
"""Replays the typing of queries against a database and submits them: what speculation gains.

	replay.py [--dsn DSN] [--queries FILE] [--only 1,6] [--by line|key] [--speed KEYS/S] [--edits]
	          [--out FILE.tsv]

The database holds the TPC-H tables (bench/bench-speql loads them). A trace is a list of (seconds, text): each
text is fed with prepack.speculate() from the connection that submits in the end, as an editor does. After
the last one the typist looks at the text for as long as the query takes cold, then submits. Time is
from submit to the first row. The oracle: the same statement with speculation off must
give the same rows (the same sequence: all these queries are ordered or one row), names and types.

Prints a table, a line per query, and ends with "N passed, N failed"; failures are different answers.
"""

import argparse
import pathlib
import random
import re
import statistics
import sys
import time

import psycopg2

HERE = pathlib.Path(__file__).resolve().parent


def read_queries(path):
    """The queries by number; each begins with a line "-- number"."""
    queries = {}
    for part in re.split(r"(?m)^-- (?=\d+\s*$)", pathlib.Path(path).read_text())[1:]:
        number, text = part.split("\n", 1)
        queries[int(number)] = text.strip().rstrip(";")
    return queries


def by_line(text, speed):
    """Line by line, with the time that typing the line takes (three seconds at most)."""
    lines = text.split("\n")
    for i in range(1, len(lines) + 1):
        yield min(3.0, len(lines[i - 1]) / speed), "\n".join(lines[:i])


def by_key(text, speed, rng):
    """Key by key, with a typo now and then that is taken back, and pauses at the ends of lines."""
    for i in range(1, len(text) + 1):
        if rng.random() < 0.01:
            yield 1 / speed, text[:i - 1] + rng.choice("abcdefgh")
            yield 2 / speed, text[:i - 1]
        yield rng.uniform(0.7, 1.3) / speed + (0.5 if text[i - 1] == "\n" else 0), text[:i]


EDITS = {
    1: [("constant", "interval '90' day", "interval '60' day"),
        ("condition", "GROUP BY", "AND l_linestatus = 'F'\nGROUP BY"),
        ("grouping", "l_returnflag, l_linestatus", "l_returnflag")],
    3: [("constant", "LIMIT 10", "LIMIT 20"),
        ("condition", "GROUP BY", "AND o_orderdate > date '1995-01-01'\nGROUP BY")],
    4: [("condition", "GROUP BY", "AND o_orderpriority <> '5-LOW'\nGROUP BY")],
    5: [("condition", "GROUP BY", "AND n_name <> 'CHINA'\nGROUP BY")],
    6: [("constant", "l_quantity < 24", "l_quantity < 20"), ("constant", "interval '1' year", "interval '6' month")],
    12: [("constant", "'SHIP'", "'AIR'"), ("condition", "GROUP BY", "AND o_orderpriority <> '5-LOW'\nGROUP BY")],
}


class Typist:
    """A person at a connection."""

    def __init__(self, dsn):
        self.connection = psycopg2.connect(dsn)
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        self.run("SET prepack.speculation = materialize")

    def run(self, sql, *args):
        """Runs a statement; rows if there are any."""
        self.cursor.execute(sql, args or None)
        return self.cursor.fetchall() if self.cursor.description else None

    def type(self, trace):
        """Types a trace; returns the time that feeding took, and the number of the last text."""
        took, number = [], None
        for pause, text in trace:
            time.sleep(pause)
            start = time.perf_counter()
            number = self.run("SELECT prepack.speculate(%s)", text)[0][0]
            took.append(time.perf_counter() - start)
        return took, number

    def submit(self, sql, speculation):
        """Runs a query; returns seconds to the first row, and rows with names and types."""
        self.run(f"SET prepack.use_speculation = {'on' if speculation else 'off'}")
        start = time.perf_counter()
        self.cursor.execute(sql)
        rows = self.cursor.fetchall()
        took = time.perf_counter() - start
        return took, ([(d.name, d.type_code, d.scale) for d in self.cursor.description], rows)

    def tables_of(self, sql):
        """How tables answer a query now, as its plan says; nothing when they do not."""
        self.run("SET prepack.use_speculation = on")
        plan = "\n".join(line for line, in self.run("EXPLAIN (COSTS off) " + sql))
        return re.findall(r"\d+ \((\w+)\)", "".join(re.findall(r"^\s*Tables: (.*)$", plan, re.M)))

    def work_ms(self):
        """Milliseconds of building so far."""
        return self.run("SELECT sum(value) FROM prepack.pg_stat_prepack_speculation "
                        "WHERE name = 'built_ms'")[0][0]


def same(a, b):
    """True when two answers are the same; real numbers may be summed in another order."""
    def plain(answer):
        return answer[0], [[float(f"{v:.9g}") if isinstance(v, float) else v for v in r] for r in answer[1]]
    return plain(a) == plain(b)


def one(typist, sql, args, rng):
    """Types and submits one query; returns its line."""
    typist.run("SELECT prepack.reset_speculation()")
    cold = min(typist.submit(sql, False)[0] for _ in range(2))
    work = typist.work_ms()
    trace = by_line(sql, args.speed) if args.by == "line" else by_key(sql, args.speed, rng)
    feeds, number = typist.type(trace)
    time.sleep(max(cold * args.patience, 0.5))
    warm, answer = typist.submit(sql, True)
    hits = typist.tables_of(sql)
    truth = typist.submit(sql, False)[1]
    return {"cold": cold * 1000, "warm": warm * 1000, "same": same(answer, truth), "hits": hits,
            "feed": (statistics.quantiles(feeds, n=20)[18] if len(feeds) > 1 else feeds[0]) * 1000,
            "work": typist.work_ms() - work, "id": number}


def edits_of(typist, number, sql, args):
    """Edits a query after it was submitted, waits, submits: (kind, from tables or not, same answer)."""
    results = []
    for kind, old, new in EDITS.get(number, []):
        edited = sql.replace(old, new)
        if edited == sql:
            continue
        number_of_text = typist.run("SELECT prepack.speculate(%s)", sql)[0][0]
        typist.run("SELECT count(*) FROM prepack.preview(%s, 1, 30000)", number_of_text)
        deadline = time.time() + 60
        while time.time() < deadline and typist.run(
                "SELECT state FROM prepack.speculations WHERE id = %s", number_of_text) != [("idle",)]:
            time.sleep(0.1)
        how = typist.run("SELECT string_agg(reason, ', ') FROM prepack.explain_match(%s) WHERE usable", edited)
        warm, answer = typist.submit(edited, True)
        cold, truth = typist.submit(edited, False)
        results.append({"kind": kind, "how": how[0][0], "same": same(answer, truth), "ratio": cold / warm})
    return results


def report(lines, edits, args):
    """Prints the table and writes the TSV."""
    ratios = [r["cold"] / r["warm"] for r in lines.values()]
    hit = [r for r in lines.values() if r["hits"]]
    rows = [
        ("submit to first row, median", statistics.median(r["warm"] for r in lines.values()), "ms", 20, "<="),
        ("faster than cold, median", statistics.median(ratios), "x", 50, ">="),
        ("faster than cold, worst tenth", sorted(ratios)[len(ratios) // 10], "x", 10, ">="),
        ("answered from tables", 100 * len(hit) / len(lines), "%", 85, ">="),
        ("slowest against cold", 100 / min(ratios) - 100, "%", 5, "<="),
        ("building against the queries themselves",
         sum(r["work"] for r in lines.values()) / sum(r["cold"] for r in lines.values()), "x", 10, "<="),
        ("feed of a text, p95, median of the queries",
         statistics.median(r["feed"] for r in lines.values()), "ms", 5, "<="),
    ]
    if edits:
        answered = 100 * sum(bool(e["how"]) for e in edits) / len(edits)
        rows.append(("edits answered from tables, where algebra allows", answered, "%", 90, ">="))
    cold = statistics.median(r["cold"] for r in lines.values())
    out = ["work\tfigure\tunit\tpeer\tpeer figure\tratio\tgoal\tmet"]
    print(f"\n{'work':45} {'figure':>10} {'goal':>12}")
    for name, figure, unit, goal, way in rows:
        met = figure <= goal if way == "<=" else figure >= goal
        print(f"{name:45} {figure:>10.1f} {way + ' ' + str(goal) + ' ' + unit:>12}  {'met' if met else 'MISSED'}")
        peer = f"without speculation\t{cold:.3f}\t{cold / figure:.2f}" if name.startswith("submit") else "\t\t"
        out.append(f"{name}\t{figure:.3f}\t{unit}\t{peer}\t{way} {goal}\t{'yes' if met else 'no'}")
    if args.out:
        pathlib.Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(args.out).write_text("\n".join(out) + "\n")


def main():
    """Replays all queries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", default="dbname=tpch")
    parser.add_argument("--queries", default=HERE / "tpch_queries.sql")
    parser.add_argument("--only", default="")
    parser.add_argument("--by", choices=["line", "key"], default="line")
    parser.add_argument("--speed", type=float, default=20, help="keys a second")
    parser.add_argument("--patience", type=float, default=1.5, help="times the cold run, before submitting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--edits", action="store_true", help="edit some of them after that")
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    queries = read_queries(args.queries)
    only = [int(n) for n in args.only.split(",") if n] or sorted(queries)
    typist, rng, lines, edits = Typist(args.dsn), random.Random(args.seed), {}, []
    print(f"{'query':>5} {'cold ms':>9} {'warm ms':>9} {'ratio':>8} {'built ms':>9}  answer   from tables")
    for number in only:
        lines[number] = r = one(typist, queries[number], args, rng)
        print(f"{number:>5} {r['cold']:>9.1f} {r['warm']:>9.1f} {r['cold'] / r['warm']:>8.1f} {r['work']:>9.0f}  "
              f"{'same     ' if r['same'] else 'DIFFERENT'} {', '.join(r['hits']) or '-'}", flush=True)
        for e in edits_of(typist, number, queries[number], args) if args.edits else []:
            edits.append(e)
            print(f"      then {e['kind']:10} {e['how'] or 'not answered':30} {e['ratio']:8.1f} "
                  f"{'same' if e['same'] else 'DIFFERENT'}", flush=True)
    report(lines, edits, args)
    failed = sum(not r["same"] for r in [*lines.values(), *edits])
    print(f"replay: {len(lines) + len(edits) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
