#!/usr/bin/env python3
"""Measures what a person feels while typing, and what others feel beside it.

	live.py --pgbench PATH --host SOCKETS [--database NAME] [--model NAME] [--seconds S] [--out FILE.tsv]

Works on the TPC-H tables that bench/bench-speql loads, as the user postgres:

preview      keystroke to preview of a block whose table is there: the text is edited below the block
completion   keystroke to the first completions, at the ends of words of the TPC-H queries; with --model also
             to those that the model has ranked
foreground   p95 of pgbench -S alone and beside a session that types the queries, in turns
quota        bytes of all speculative tables, on disk and as charged, against a quota of 8 MB

Adds its lines to the file of bench/speql/replay.py: work, figure, unit, peer, peer figure, ratio, goal, met.
"""

import argparse
import itertools
import pathlib
import re
import select
import statistics
import subprocess
import tempfile
import threading
import time

import psycopg2

from replay import HERE, Typist, by_line, read_queries

QUOTA_MB = 8
PREVIEWED = [1, 4, 6, 12, 14, 19]   # their answers are tables of a few rows


def p90(times):
    """The value that nine tenths do not exceed."""
    return statistics.quantiles(times, n=10)[8] if len(times) > 1 else times[0]


def wait_idle(typist, number, limit=60):
    """Waits until all work for a text is done."""
    deadline = time.time() + limit
    while time.time() < deadline and typist.run("SELECT state FROM prepack.speculations WHERE id = %s",
                                                number) not in ([("idle",)], []):
        time.sleep(0.05)


def keystroke(typist, text):
    """Feeds a text; returns its number and when."""
    start = time.perf_counter()
    return typist.run("SELECT prepack.speculate(%s)", text)[0][0], start


def previews(typist, queries):
    """Milliseconds from a keystroke to the preview of a block that has a table."""
    times = []
    for number in PREVIEWED:
        text = queries[number]
        wait_idle(typist, keystroke(typist, text)[0])
        for tail in (" ", "\nL", "\nLIMIT 1", "\nLIMIT 10", "\nLIMIT 10 "):
            fed, start = keystroke(typist, text + tail)
            rows = typist.run("SELECT state FROM prepack.preview(%s, 20, 10000) WHERE block LIKE '%%*'", fed)
            took = (time.perf_counter() - start) * 1000
            if rows == [("ready",)]:
                times.append(took)
            time.sleep(0.2)
    return times


def events_of(typist, fed, start, wanted, limit=5.0):
    """Milliseconds until each of the first events of a text of some kind, by LISTEN."""
    connection, times = typist.connection, []
    while len(times) < wanted and time.perf_counter() - start < limit:
        if select.select([connection], [], [], 0.05)[0]:
            connection.poll()
        while connection.notifies:
            event = connection.notifies.pop(0).payload
            if f'"id": {fed},' in event and '"completions"' in event:
                times.append((time.perf_counter() - start) * 1000)
    return times


def completions(typist, queries, model):
    """Milliseconds from a keystroke to the first completions, and to those ranked by the model."""
    typist.run("LISTEN prepack_speculation")
    typist.run("SET prepack.speculation = suggest")
    first, ranked = [], []
    for number in (3, 5, 10, 12):
        for end in [m.end() for m in re.finditer(r"\w+[ ,]", queries[number])][4::6]:
            fed, start = keystroke(typist, queries[number][:end])
            times = events_of(typist, fed, start, 2 if model else 1)
            first += times[:1]
            ranked += times[1:2]
            time.sleep(0.2)
    typist.run("UNLISTEN *")
    typist.run("SET prepack.speculation = materialize")
    return first, ranked


def pgbench_p95(args, seconds):
    """p95 in milliseconds of pgbench -S."""
    with tempfile.TemporaryDirectory() as logs:
        subprocess.run([args.pgbench, "-h", args.host, "-U", "postgres", "-S", "-n", "-c", "1", "-T", str(seconds),
                        "-l", f"--log-prefix={logs}/log", args.database], check=True, capture_output=True)
        lines = [line for log in pathlib.Path(logs).iterdir() for line in log.read_text().splitlines()]
    return statistics.quantiles([int(line.split()[2]) / 1000 for line in lines], n=20)[18]


class Typing(threading.Thread):
    """Somebody who types queries, line by line, until told to stop."""

    def __init__(self, args, queries):
        super().__init__()
        self.typist, self.queries, self.ended = Typist(args.dsn), queries, threading.Event()

    def run(self):
        """Types."""
        for text in itertools.cycle(self.queries.values()):
            for pause, part in by_line(text, 20):
                if self.ended.wait(pause):
                    return
                self.typist.run("SELECT prepack.speculate(%s)", part)

    def stop(self):
        """Ends the session."""
        self.ended.set()
        self.join()
        self.typist.connection.close()


def foreground(args, queries):
    """p95 of pgbench alone and beside typing; medians of three turns."""
    subprocess.run([args.pgbench, "-h", args.host, "-U", "postgres", "-i", "-q", "-s", "5", args.database], check=True,
                   capture_output=True)
    alone, beside = [], []
    for _ in range(3):
        alone.append(pgbench_p95(args, args.seconds))
        typing = Typing(args, queries)
        typing.start()
        beside.append(pgbench_p95(args, args.seconds))
        typing.stop()
    return statistics.median(alone), statistics.median(beside)


class Watch(threading.Thread):
    """Looks at what the tables take."""

    def __init__(self, args):
        super().__init__()
        self.session, self.most, self.ended = Typist(args.dsn), 0, threading.Event()

    def run(self):
        """Looks until told to stop."""
        while not self.ended.wait(0.02):
            rows = self.session.run(
                "SELECT coalesce(sum(bytes), 0) FROM prepack.speculation_tables WHERE state <> 'dead' UNION ALL "
                "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class "
                r"WHERE relname LIKE 'speculation\_%' AND relkind = 'r' AND relnamespace = 'prepack'::regnamespace")
            self.most = max(self.most, *(int(r[0]) for r in rows))


def quota(args):
    """The most that all tables took, in percent of the quota."""
    typist, watch = Typist(args.dsn), Watch(args)
    typist.run("SELECT prepack.reset_speculation()")
    typist.run(f"ALTER SYSTEM SET prepack.speculation_max_bytes = '{QUOTA_MB}MB'")
    typist.run("SELECT pg_reload_conf()")
    time.sleep(0.5)
    watch.start()
    for where in ("l_shipdate < date '1992-03-01'", "l_quantity < 2", "l_discount = 0.07", "l_linenumber = 7"):
        for columns in ("l_orderkey, l_partkey, l_shipdate", "l_orderkey, l_comment"):
            wait_idle(typist, keystroke(typist, f"SELECT {columns} FROM lineitem WHERE {where}")[0])
    watch.ended.set()
    watch.join()
    typist.run("ALTER SYSTEM RESET prepack.speculation_max_bytes")
    typist.run("SELECT pg_reload_conf()")
    return 100 * watch.most / (QUOTA_MB * 1024 * 1024)


def main():
    """Measures all, prints, and adds to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pgbench", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--database", default="postgres")
    parser.add_argument("--model", default="")
    parser.add_argument("--seconds", type=int, default=10, help="of each turn of pgbench")
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    args.dsn = f"host={args.host} user=postgres dbname={args.database}"
    queries = read_queries(HERE / "tpch_queries.sql")
    typist = Typist(args.dsn)
    shown = previews(typist, queries)
    first, ranked = completions(typist, queries, args.model)
    typist.connection.close()
    alone, beside = foreground(args, queries)
    rows = [("keystroke to preview, table ready, median", statistics.median(shown), "ms", "", "", 50),
            ("… 90 of 100", p90(shown), "ms", "", "", 0),
            ("keystroke to first completion, median", statistics.median(first), "ms", "", "", 15),
            ("… 90 of 100", p90(first), "ms", "", "", 0)]
    if ranked:
        rows += [("keystroke to the model's completion, median", statistics.median(ranked), "ms", "", "", 400),
                 ("… 90 of 100", p90(ranked), "ms", "", "", 0)]
    rows += [("pgbench p95 beside typing", beside, "ms", "alone", alone, 1.05 * alone),
             ("space of tables, most, of the quota", quota(args), "%", "", "", 101)]
    lines = []
    print(f"\n{len(shown)} previews, {len(first)} completions, {len(ranked)} of them ranked by the model")
    for work, figure, unit, peer, of_peer, goal in rows:
        met = "" if not goal else "yes" if figure <= goal else "no"
        ratio = f"{figure / of_peer:.3f}" if of_peer else ""
        print(f"{work:45} {figure:>10.2f} {unit:3} {f'<= {goal:.4g}' if goal else '':>12}  {met}")
        limit = f"<= {goal:.4g}" if goal else ""
        lines.append("\t".join([work, f"{figure:.3f}", unit, peer, str(of_peer), ratio, limit, met]))
    if args.out:
        with open(args.out, "a", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
