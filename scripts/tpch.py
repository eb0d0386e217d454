"""tpch.py: the TPC-H tables, generated at a scale and loaded into a server, for benches and checks.

The rows come from the Python package tpchgen-cli, which pip installs by name into a folder of the caller's;
they are the same for a scale everywhere. The definitions are in bench/speql/tpch_schema.sql.
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLES = ["region", "nation", "part", "supplier", "partsupp", "customer", "orders", "lineitem"]
# On foreign keys, as everybody has them; without them Q17 and Q20 run for hours.
INDEXES = ["lineitem (l_partkey, l_suppkey)", "partsupp (ps_suppkey)", "orders (o_custkey)",
           "customer (c_nationkey)", "supplier (s_nationkey)"]


def generator(out):
    """The program that makes the rows; installed below a folder if it is not there yet."""
    program = out / "tpchgen" / "bin" / "tpchgen-cli"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--root-user-action=ignore",
                        "--target", out / "tpchgen", "tpchgen-cli"], check=True)
    return program


def load(server, database, out, scale):
    """Generates the tables below a folder and loads them, keys unchecked; ends the program on an error."""
    data = out / f"tpch-{scale:g}"
    data.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([generator(out), "csv", "-s", str(scale), f"--output-dir={data}"], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    script = "SET session_replication_role = replica;\n" + (ROOT / "bench/speql/tpch_schema.sql").read_text()
    script += "".join(f"\\copy {table} from '{data / table}.csv' csv header\n" for table in TABLES)
    script += "".join(f"CREATE INDEX ON {index};\n" for index in INDEXES)
    status, text = server.psql(database, script + "VACUUM ANALYZE;", timeout=3600)
    if status or "ERROR" in text:
        sys.exit(text)
