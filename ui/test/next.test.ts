// next.test.ts: the edits that suggest a next query, without a server.
import { filteredBy, groupedBy, readQuery, tablesOf } from "../src/next";
import { check, test } from "./harness";

function same(got: string | undefined, wanted: string): void { check(got === wanted, `got ${got}, not ${wanted}`); }

const column = { expression: "b", join: "" };

test("next: a condition joins others as they bind", async () => {
  const edits: [string, string][] = [
    ["SELECT a FROM t", "SELECT a FROM t WHERE x = 1"],
    ["SELECT a FROM t;", "SELECT a FROM t WHERE x = 1;"],
    ["SELECT a FROM t WHERE c ORDER BY a", "SELECT a FROM t WHERE c AND x = 1 ORDER BY a"],
    ["SELECT a FROM t WHERE c OR d LIMIT 5", "SELECT a FROM t WHERE (c OR d) AND x = 1 LIMIT 5"],
    ["SELECT a FROM t WHERE c = ' or ' GROUP BY a", "SELECT a FROM t WHERE c = ' or ' AND x = 1 GROUP BY a"],
    ["SELECT a FROM t WHERE (c OR d)", "SELECT a FROM t WHERE (c OR d) AND x = 1"],
    ["WITH w AS (SELECT 1 FROM u WHERE v) SELECT a FROM w", "WITH w AS (SELECT 1 FROM u WHERE v) SELECT a FROM w WHERE x = 1"],
    ["SELECT a IS DISTINCT FROM b FROM t", "SELECT a IS DISTINCT FROM b FROM t WHERE x = 1"],
    ["SELECT a FROM t -- all\n", "SELECT a FROM t\nWHERE x = 1 -- all\n"],
  ];
  for (const [sql, wanted] of edits) same(filteredBy(sql, readQuery(sql)!, "x = 1"), wanted);
});

test("next: a grouping goes into the list and the clause", async () => {
  const edits: [string, string][] = [
    ["SELECT a, count(*) FROM t GROUP BY a", "SELECT a, b, count(*) FROM t GROUP BY a, b"],
    ["SELECT a, count(*) FROM t GROUP BY 1 ORDER BY 2", "SELECT a, count(*), b FROM t GROUP BY 1, b ORDER BY 2"],
    ["SELECT count(*) FROM t WHERE c", "SELECT b, count(*) FROM t WHERE c GROUP BY b"],
    ["SELECT * FROM t WHERE c LIMIT 5", "SELECT b, count(*) FROM t WHERE c GROUP BY b ORDER BY count(*) DESC"],
  ];
  for (const [sql, wanted] of edits) same(groupedBy(sql, readQuery(sql)!, column), wanted);
  const sql = "SELECT a, count(*) FROM t WHERE c GROUP BY a";
  same(groupedBy(sql, readQuery(sql)!, { expression: "u.b", join: "JOIN u ON u.id = t.u" }), "SELECT a, u.b, count(*) FROM t JOIN u ON u.id = t.u WHERE c GROUP BY a, u.b");
});

test("next: what is no single SELECT from tables is left alone; tables and aliases are read", async () => {
  for (const sql of ["SELECT 1", "INSERT INTO t VALUES (1)", "SELECT a FROM t UNION SELECT b FROM u", "SELECT a INTO u FROM t", "SELECT 1 FROM t; SELECT 2", "VALUES (1)"])
    check(readQuery(sql) === null, sql);
  const sql = 'SELECT 1 FROM a.t AS x, "order by" JOIN u y ON y.i = x.i LEFT JOIN v USING (i), (SELECT 1 FROM w) z WHERE true';
  same(JSON.stringify(tablesOf(sql, readQuery(sql)!)), JSON.stringify([{ name: "a.t", alias: "x" }, { name: '"order by"', alias: "" }, { name: "u", alias: "y" }, { name: "v", alias: "" }]));
});
