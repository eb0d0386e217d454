// next.ts: which query may come next, once one was run: offered beside it, in the text only on a click.
//
// Three sources, all open to any editor: what followed the same statement earlier in this tab, how the role
// went on from it before (prepack.completions, source history), and the catalog: another grouping column, of
// the query's tables or of one that a foreign key leads to, and a condition on a common value. The query is
// edited clause by clause in its own text; the server says which of the edits are whole and valid queries
// (prepack.repair_sql), and only those are offered.
import { cellText, type Bridge } from "./bridge";
import { rangesAt, skip } from "./blocks";

export interface Suggestion { label: string; sql: string; source: string }

const KINDS = 2; // suggestions of a kind
const AGGREGATE = /\b(count|sum|avg|min|max|array_agg|string_agg|bool_and|bool_or|stddev|variance)\s*\(/i;
const CLAUSES = ["from", "where", "group", "having", "window", "order", "limit", "offset", "fetch", "for"] as const;
const NAME = String.raw`(?:"x+"|[a-z_]\w*)`;
const TABLE = new RegExp(String.raw`(?:^|,|\bjoin\b)\s*(?:only\s+)?(${NAME}(?:\s*\.\s*${NAME})?)(?:\s+(?:as\s+)?(?!(?:natural|inner|left|right|full|cross|join|on|using|tablesample)\b)(${NAME}))?`, "gi");

interface Piece { from: number; to: number }
interface Query { select: Piece; from: Piece; where?: Piece; group?: Piece; order?: Piece; flat: string }
interface Column { expression: string; name: string; join: string; number: boolean; value: string; share: number }

// The text with what is quoted, commented or in brackets made unreadable, every other character at its place.
function flatten(text: string): string {
  let out = "", depth = 0;
  for (let i = 0; i < text.length;) {
    const next = skip(text, i), c = text[i];
    if (next > i) {
      const n = next - i;
      /* A comment is a gap; a string is none: a clause may end with it. */
      out += depth > 0 ? " ".repeat(n) : c === '"' ? `"${"x".repeat(Math.max(0, n - 2))}"`.slice(0, n) : (c === "'" || c === "$" ? "'" : " ").repeat(n);
      i = next;
      continue;
    }
    if (c === ")" || c === "]") depth = Math.max(0, depth - 1);
    out += depth === 0 || c === "\n" ? c : " ";
    if (c === "(" || c === "[") depth++;
    i++;
  }
  return out;
}

// The clauses of a single SELECT from tables; null for anything else.
export function readQuery(text: string): Query | null {
  const flat = flatten(text), select = /\bselect\b(\s+(all|distinct)\b)?/i.exec(flat);
  if (!select || !/^\s*(select|with)\b/i.test(flat) || /\b(union|intersect|except|into)\b|;\s*\S/i.test(flat)) return null;
  const found: { name: string; at: number; from: number }[] = [];
  let at = select.index + select[0].length;
  for (const name of CLAUSES) {
    const search = new RegExp(String.raw`\b${name}\b${name === "group" || name === "order" ? String.raw`\s+by\b` : ""}`, "gi");
    search.lastIndex = at;
    let m = search.exec(flat);
    while (m && name === "from" && /\bdistinct\s+$/i.test(flat.slice(0, m.index))) m = search.exec(flat); // IS DISTINCT FROM
    if (!m) continue;
    at = m.index + m[0].length;
    found.push({ name, at: m.index, from: at });
  }
  const end = text.length - /[\s;]*$/.exec(flat)![0].length;
  const piece = (name: string): Piece | undefined => {
    const i = found.findIndex((f) => f.name === name);
    if (i < 0) return undefined;
    const to = found[i + 1]?.at ?? end;
    return { from: found[i].from, to: found[i].from + flat.slice(found[i].from, to).trimEnd().length };
  };
  const from = piece("from");
  if (!from) return null;
  const list = select.index + select[0].length;
  return { select: { from: list, to: list + flat.slice(list, found[0].at).trimEnd().length }, from, where: piece("where"), group: piece("group"), order: piece("order"), flat };
}

// The tables that a query names, and what it calls them.
export function tablesOf(text: string, query: Query): { name: string; alias: string }[] {
  const flat = query.flat.slice(query.from.from, query.from.to);
  return [...flat.matchAll(TABLE)].map((m) => {
    const original = (word: string, from: number) => { const at = query.from.from + flat.indexOf(word, from); return text.slice(at, at + word.length); };
    const nameAt = flat.indexOf(m[1], m.index);
    return { name: original(m[1], m.index), alias: m[2] ? original(m[2], nameAt + m[1].length) : "" };
  });
}

// A text with insertions, given by position.
function insert(text: string, edits: { at: number; text: string }[]): string {
  return [...edits].sort((a, b) => b.at - a.at).reduce((out, e) => out.slice(0, e.at) + e.text + out.slice(e.at), text);
}

// The query grouped by one more column; a query without aggregates becomes a count of its rows.
export function groupedBy(text: string, q: Query, column: { expression: string; join: string }): string {
  const gap = /\n|--/.test(text) ? "\n" : " ", rest = (q.where ?? q.from).to, joined = column.join && gap + column.join;
  if (!q.group && !AGGREGATE.test(q.flat.slice(q.select.from, q.select.to)))
    return `${text.slice(0, q.select.from)} ${column.expression}, count(*)${text.slice(q.select.to, q.from.to)}${joined}` +
      `${text.slice(q.from.to, rest)}${gap}GROUP BY ${column.expression}${gap}ORDER BY count(*) DESC`;
  /* Beside the first column, unless columns are called by number. */
  const list = q.flat.slice(q.select.from, q.select.to), numbered = [q.group, q.order].some((p) => p && /(^|,)\s*\d/.test(q.flat.slice(p.from, p.to)));
  const first = !q.group ? 0 : numbered || !list.includes(",") ? list.length : list.indexOf(",");
  const item = q.group ? `, ${column.expression}` : ` ${column.expression},`;
  return insert(text, [{ at: q.select.from + first, text: item }, { at: q.from.to, text: joined },
    q.group ? { at: q.group.to, text: `, ${column.expression}` } : { at: rest, text: `${gap}GROUP BY ${column.expression}` }]);
}

// The query with one more condition.
export function filteredBy(text: string, q: Query, condition: string): string {
  const gap = /\n|--/.test(text) ? "\n" : " ";
  if (!q.where) return insert(text, [{ at: q.from.to, text: `${gap}WHERE ${condition}` }]);
  const either = /\bor\b/i.test(q.flat.slice(q.where.from, q.where.to));
  const start = q.where.from + /^\s*/.exec(q.flat.slice(q.where.from))![0].length;
  return insert(text, [...(either ? [{ at: start, text: "(" }] : []), { at: q.where.to, text: `${either ? ")" : ""}${gap}${gap === "\n" ? "  " : ""}AND ${condition}` }]);
}

// Columns with few values, of the query's tables and of those that their foreign keys lead to; in a table on its own,
// only those whose values come again.
const COLUMNS = `
WITH named AS (SELECT n, name, alias, to_regclass(name)::oid AS relid FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u(name, alias, n)),
near AS (
  SELECT n, relid, alias, '' AS joined FROM named WHERE relid IS NOT NULL
  UNION ALL
  SELECT n, c.confrelid, c.confrelid::regclass::text, format('JOIN %s ON %s', c.confrelid::regclass,
      (SELECT string_agg(format('%s.%I = %s.%I', c.confrelid::regclass, f.attname, coalesce(nullif(alias, ''), name), k.attname), ' AND ' ORDER BY i)
       FROM unnest(c.conkey, c.confkey) WITH ORDINALITY AS p(k, f, i)
       JOIN pg_attribute k ON k.attrelid = c.conrelid AND k.attnum = p.k JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = p.f))
  FROM named JOIN pg_constraint c ON c.conrelid = relid AND c.contype = 'f' WHERE c.confrelid NOT IN (SELECT relid FROM named WHERE relid IS NOT NULL)),
known AS (
  SELECT n, alias, joined, joined = '' AND (SELECT count(*) = 1 FROM named) AS alone, r.reltuples AS rows, a.attname, a.attnum, t.typcategory, (s.most_common_freqs)[1] AS share,
    CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * r.reltuples ELSE s.n_distinct END AS different,
    CASE WHEN a.atttypid = 'bpchar'::regtype THEN rtrim((s.most_common_vals::text::text[])[1]) ELSE (s.most_common_vals::text::text[])[1] END AS value
  FROM near JOIN pg_class r ON r.oid = relid JOIN pg_namespace o ON o.oid = r.relnamespace
  JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_stats s ON s.schemaname = o.nspname AND s.tablename = r.relname AND s.attname = a.attname
  WHERE has_column_privilege(r.oid, a.attnum, 'SELECT'))
SELECT format('%s%I', alias || CASE alias WHEN '' THEN '' ELSE '.' END, attname), attname, joined, typcategory = 'N',
  CASE typcategory WHEN 'N' THEN value ELSE quote_literal(value) END, share
FROM known WHERE different BETWEEN 2 AND 60 AND NOT (alone AND different > rows / 2) ORDER BY typcategory = 'N', n, attnum`;

// What the catalog suggests after a query.
async function fromCatalog(bridge: Bridge, text: string): Promise<Suggestion[]> {
  const q = readQuery(text);
  if (!q) return [];
  const tables = tablesOf(text, q), array = (values: string[]) => `{${values.map((v) => `"${v.replace(/[\\"]/g, "\\$&")}"`).join(",")}}`;
  const rows = await bridge.ask(COLUMNS, array(tables.map((t) => t.name)), array(tables.map((t) => t.alias)));
  const columns: Column[] = rows.map((r) => {
    const [expression, name, join, number, value, share] = r.map(cellText);
    return { expression, name, join, number: number === "t", value, share: Number(share) };
  });
  const names = (p?: Piece) => new Set((p ? text.slice(p.from, p.to) : "").match(/\w+/g) ?? []);
  const grouped = names(q.group), filtered = names(q.where);
  const free = columns.filter((c) => !grouped.has(c.name));
  const by = (c: Column): Suggestion => ({ label: `by ${c.expression}`, sql: groupedBy(text, q, c), source: c.join ? "catalog: a foreign key" : "catalog: a column with few values" });
  const only = (c: Column): Suggestion => ({ label: `only ${c.expression} = ${c.value}`, sql: filteredBy(text, q, `${c.expression} = ${c.value}`), source: `catalog: ${Math.round(c.share * 100)} % of the rows` });
  const near = free.filter((c) => !c.join).slice(0, KINDS);
  const far = free.filter((c) => c.join).filter((c, i, all) => all.findIndex((d) => d.join === c.join) === i).slice(0, KINDS);
  /* Conditions rather on columns that no grouping is offered for, and on words rather than numbers. */
  const rank = (c: Column) => Number(c.number) + 2 * Number(near.includes(c));
  const common = columns.filter((c) => !c.join && c.value && c.share < 0.9 && !filtered.has(c.name)).sort((a, b) => rank(a) - rank(b));
  return [...near.map(by), ...far.map(by), ...common.slice(0, KINDS).map(only)];
}

// What this tab ran after what; constants do not count.
export class Followers {
  private after = new Map<string, string[]>();
  private last = "";

  private key(sql: string): string {
    return sql.replace(/'(?:[^']|'')*'|\b\d+(?:\.\d+)?\b/g, "?").replace(/[\s;]+/g, " ").trim().toLowerCase();
  }

  // A statement was run.
  ran(sql: string): void {
    const key = this.key(sql);
    if (this.last && this.last !== key) this.after.set(this.last, [sql, ...(this.after.get(this.last) ?? []).filter((s) => this.key(s) !== key)].slice(0, 5));
    this.last = key;
  }

  of(sql: string): string[] { return this.after.get(this.key(sql)) ?? []; }
  forget(): void { this.after.clear(); this.last = ""; }
}

// What may come after a statement, each a valid query; history: how the role went on from this text before.
export async function suggest(bridge: Bridge, sql: string, followers: Followers, history: string[]): Promise<Suggestion[]> {
  if (rangesAt(sql, 0).statement.to < sql.replace(/[\s;]+$/, "").length) return [];
  const short = (s: string) => s.replace(/\s+/g, " ").trim();
  const found: Suggestion[] = [
    ...followers.of(sql).slice(0, KINDS).map((s) => ({ label: short(s), sql: s, source: "followed this query before" })),
    ...history.slice(0, KINDS).map((s) => ({ label: short(s), sql: s, source: "history: a longer query that was run before" })),
    ...await fromCatalog(bridge, sql),
  ].filter((s, i, all) => s.sql.trim() !== sql.trim() && all.findIndex((t) => t.sql === s.sql) === i);
  const valid = await bridge.ask("SELECT ord FROM jsonb_array_elements_text($1::jsonb) WITH ORDINALITY AS u(sql, ord) " +
    "WHERE (SELECT bool_and(valid AND coalesce(changes, '') = '') FROM prepack.repair_sql(sql))", JSON.stringify(found.map((s) => s.sql)));
  const good = new Set(valid.map((r) => Number(cellText(r[0])) - 1));
  return found.filter((_, i) => good.has(i));
}
