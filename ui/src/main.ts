// main.ts: the page: what its parts say to each other.
import { AskError, Bridge, cellText, type Column, type ServerError } from "./bridge";
import { chart, kinds, type Kind } from "./chart";
import { Editor } from "./editor";
import { Grid, nameType, Rows, typeName } from "./grid";
import { Followers, suggest } from "./next";
import { modelRows, planTree, type Plan } from "./plan";
import { repairView } from "./repair";
import { duration, Speculation, times, type Table } from "./speculation";

const CHARS_MAX = 160_000_000; // of a result's text; what comes after is not fetched
const MODEL_CALLS = /\bprepack\s*\.\s*(generate|generate_json|stream|classify\w*|is_true|score|extract|embed|similarity|relevance|rank|log_likelihood)\s*\(/gi;

const by = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T;
const view = by<HTMLSelectElement>("view"), chartKind = by<HTMLSelectElement>("chart-kind");

let rows = new Rows([]);
let running: { from: number; sql: string; before: Map<string, Table> } | null = null;
let offered: { text: string; from: number; sql: string } | null = null; // what the suggested queries would replace
let timer = 0, pid = 0, estimateTimer = 0, failed = false;

const showCell = (text: string): void => { by("cell").querySelector("pre")!.textContent = text; by<HTMLDialogElement>("cell").showModal(); };
const grid = new Grid(by("grid"), "Result rows", showCell);
const previewGrid = new Grid(by("preview-grid"), "Preview rows", showCell);

const editor = new Editor(by("editor"), sessionStorage.getItem("text") ?? "", {
  changed(text, cursor) {
    if (offered && text !== offered.text) offer(null);
    speculation.feed(text, cursor);
    clearTimeout(estimateTimer);
    estimateTimer = window.setTimeout(() => { sessionStorage.setItem("text", editor.text); void estimate(); }, 300);
  },
  run: () => void run(),
});

const bridge = new Bridge({
  ready(session) {
    pid = session.pid;
    if (role !== `${session.user}@${session.database}`) { followers.forget(); level = null; }
    role = `${session.user}@${session.database}`;
    by("session").textContent = `${session.user} on ${session.database}, PostgreSQL ${Math.floor(session.version / 10000)}.${session.version % 10000}`;
    closeLogin();
    trouble("");
    connected(true);
    void begin();
  },
  login(message) {
    connected(false);
    by("session").textContent = "not connected";
    openLogin(message.trim());
    by<HTMLInputElement>("login-password").value = "";
  },
  lost(message, retryMs) {
    connected(false);
    by("session").textContent = "reconnecting…";
    trouble(`There is no connection: ${message.trim()}. Trying again in ${duration(retryMs)}.`);
  },
  refused(code, message) {
    if (code === "busy" || code === "offline") finished();
    trouble(code === "token" ? `Open the link that prepack-studio printed last: ${message}.` : message);
  },
  notify(channel, payload) { if (channel === "prepack_speculation") speculation.notify(payload); },
  columns(columns) { rows = new Rows(columns); grid.set(rows); void names(columns).catch(() => undefined); by("origin").textContent = "reading…"; },
  rows(text, n) {
    if (rows.chars > CHARS_MAX) return;
    rows.add(text, n);
    grid.grown();
    if (rows.chars > CHARS_MAX) { bridge.cancel(); say(`Only the first ${rows.length.toLocaleString("en")} rows fit this page; the rest was not fetched.`); }
  },
  end(tag) {
    const command = tag.split(" ")[0];
    if (!tag.startsWith("SELECT")) say(tag);
    /* What the side connection completes and previews must mean the same as here. */
    if (running && (command === "SET" || command === "RESET")) void bridge.ask(running.sql).then(showLevel).catch(() => undefined);
  },
  error(error) { failed = true; report(error); },
  notice(notice) { say(`${notice.severity ?? "NOTICE"}: ${notice.message}`); },
  done(ms, firstMs, transaction) {
    const was = running;
    void origin(ms, firstMs, transaction);
    finished();
    draw();
    if (was && !failed) { followers.ran(was.sql); void offer(was); }
    /* What was missing may be there now. */
    if (was && /\bextension\b/i.test(was.sql) && transaction === "idle") void begin();
  },
});

const speculation = new Speculation(bridge, editor, previewGrid);
const followers = new Followers();
let role = "";
let level: string | null = null;  // of speculation, as chosen here; outlives a lost connection
let levelTold = true;             // to the main connection, too

// A session, or what prepack is in it, is new: tells what is missing, or turns previews on.
async function begin(): Promise<void> {
  levelTold = level === null;
  try {
    trouble(await speculation.begin(level));
    by<HTMLSelectElement>("level").disabled = !speculation.on;
    await estimate();
  } catch (e) { trouble((e as Error).message); }
}

// Chooses how far to speculate. The main connection hears of it before its next statement, for it may be busy now.
async function choose(wanted: string): Promise<void> {
  level = wanted;
  levelTold = false;
  trouble("");
  await bridge.ask("SELECT set_config('prepack.speculation', $1, false)", wanted).catch((e: Error) => trouble(e.message));
  speculation.feed(editor.text, editor.cursor);
}

// Shows the level that a SET of the person's own has made.
async function showLevel(): Promise<void> {
  if (!speculation.on) return;
  const now = await bridge.ask("SELECT current_setting('prepack.speculation')");
  by<HTMLSelectElement>("level").value = cellText(now[0][0]);
}

// Asks who the person is; the message says why.
function openLogin(why: string): void {
  by("login-why").textContent = why;
  by("login").hidden = false;
  by("login-close").hidden = by<HTMLButtonElement>("explain").disabled; /* there is no session to go back to */
  by("login-user").focus();
}

function closeLogin(): void {
  const inside = by("login").contains(document.activeElement);
  by("login").hidden = true;
  if (inside) editor.view.focus();
}

function trouble(text: string): void { by("trouble").textContent = text; by("trouble").hidden = text === ""; }

function connected(yes: boolean): void {
  for (const id of ["run", "explain", "repair", "another", "level"]) by<HTMLButtonElement>(id).disabled = !yes;
  if (!yes) { speculation.on = false; finished(); }
}

function say(text: string, kind = ""): void {
  const line = document.createElement("div");
  line.className = kind;
  line.textContent = text;
  by("messages").append(line);
  while (by("messages").childElementCount > 100) by("messages").firstChild!.remove();
}

// An error in words, and a quiet line under its place.
function report(error: ServerError): void {
  say([`${error.severity ?? "ERROR"}: ${error.message}`, error.detail, error.hint && `Hint: ${error.hint}`].filter(Boolean).join("\n"), "error");
  if (running && error.position)
    editor.showWrong(running.from + [...running.sql].slice(0, Number(error.position) - 1).join("").length);
}

// Type names that are not built in.
async function names(columns: Column[]): Promise<void> {
  const unknown = [...new Set(columns.map((c) => c.type))].filter((t) => typeName(t) === undefined);
  if (unknown.length === 0) return;
  for (const r of await bridge.ask("SELECT t, format_type(t, NULL) FROM unnest($1::oid[]) t", `{${unknown.join(",")}}`)) nameType(Number(r[0]), cellText(r[1]));
  grid.refreshHead();
}

async function hits(): Promise<Table[]> {
  return speculation.on ? speculation.tables().catch(() => []) : [];
}

async function run(): Promise<void> {
  if (running || by<HTMLButtonElement>("run").disabled) return;
  const { from, text } = editor.statement();
  if (text.trim() === "") return;
  by<HTMLButtonElement>("run").disabled = true;
  by<HTMLButtonElement>("cancel").disabled = false;
  by("messages").replaceChildren();
  by("origin").textContent = "running…";
  failed = false;
  running = { from, sql: text, before: new Map((await hits()).map((t) => [t.id, t])) };
  rows = new Rows([]);
  grid.set(rows);
  if (!levelTold) {
    levelTold = true;
    await bridge.runQuietly(`SET prepack.speculation = '${by<HTMLSelectElement>("level").value}'`);
  }
  if (!running || !bridge.run(text)) { finished(); return; }
  const began = performance.now();
  timer = window.setInterval(() => void progress(began), 300);
}

// What the running statement has done so far.
async function progress(began: number): Promise<void> {
  const waited = duration(performance.now() - began), so = rows.length > 0 ? `, ${rows.length.toLocaleString("en")} rows` : "";
  let calls = "";
  if (running && running.sql.search(MODEL_CALLS) >= 0) {
    const queue = await bridge.ask("SELECT function, sum(rows_done), sum(rows) FROM prepack.queue WHERE pid = $1::int GROUP BY 1", String(pid)).catch(() => []);
    calls = queue.map((r) => `; ${cellText(r[0])}: ${cellText(r[1])} of ${cellText(r[2])} rows of this batch`).join("");
  }
  if (running) by("origin").textContent = `running for ${waited}${so}${calls}`;
}

// Queries that may come next; a click puts one in the place of the statement that was run.
async function offer(was: { from: number; sql: string } | null): Promise<void> {
  const list = by("follow"), text = editor.text, at = was ? text.indexOf(was.sql, was.from) : -1;
  offered = null;
  list.replaceChildren();
  by("follow-part").hidden = true;
  if (!was || at !== was.from || !speculation.on) return;
  const mine = (offered = { text, ...was });
  const found = await suggest(bridge, was.sql, followers, await speculation.history()).catch(() => []);
  if (offered !== mine) return; /* the text went on */
  by("follow-part").hidden = found.length === 0;
  list.replaceChildren(...found.map((s) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = s.label;
    button.title = `${s.sql}\n(${s.source})`;
    button.addEventListener("click", () => editor.replace(text.slice(0, was.from) + s.sql + text.slice(was.from + was.sql.length)));
    item.append(button);
    return item;
  }));
}

function finished(): void {
  clearInterval(timer);
  running = null;
  by<HTMLButtonElement>("cancel").disabled = true;
  by<HTMLButtonElement>("run").disabled = by<HTMLButtonElement>("explain").disabled;
  for (const id of ["csv", "markdown"]) by<HTMLButtonElement>(id).disabled = rows.columns.length === 0;
}

// Where the answer came from and what it cost.
async function origin(ms: number, firstMs: number, transaction: string): Promise<void> {
  const was = running, before = was?.before ?? new Map<string, Table>();
  const parts = [failed ? `failed after ${duration(ms)}` : duration(ms)];
  if (rows.columns.length > 0) parts.push(`${rows.length.toLocaleString("en")} rows`);
  if (ms > 200 && rows.length > 0) parts.push(`first row after ${duration(firstMs)}`);
  const line = () => { by("origin").textContent = parts.join("; ") + (transaction === "idle" ? "" : `; transaction ${transaction}`); };
  line();
  if (failed || !speculation.on || !was || !/^\s*(select|with|values|table)\b/i.test(was.sql)) return;
  const used = (await hits()).filter((t) => t.hits > (before.get(t.id)?.hits ?? 0));
  if (used.length > 0) {
    // What the server thinks that its tables saved this query, from costs and from what building took.
    const saved = used.reduce((sum, t) => sum + t.savedMs - (was.before.get(t.id)?.savedMs ?? 0), 0);
    parts.push(`would have taken about ${duration(ms + saved)}`);
    parts.push(`from ${used.map((t) => `table ${t.id}, ${duration(t.ageMs)} old`).join(" and ")}`);
  } else {
    const why = await bridge.ask("SELECT DISTINCT reason FROM prepack.explain_match($1) WHERE NOT usable LIMIT 1", was.sql).catch(() => []);
    if (why.length > 0) parts.push(`no table answers: ${cellText(why[0][0])}`);
  }
  line();
}

// Rows, tokens and time that calls to models will take, function by function, before they run. Asked of the side
// connection: the other may be amid a statement or a failed transaction, and an estimate must not wait or add to it.
// So a table that only an open transaction knows gives none.
async function estimate(): Promise<void> {
  const { text } = editor.statement(), line = by("estimate");
  line.textContent = "";
  const called = [...new Set([...text.matchAll(MODEL_CALLS)].map((m) => m[1].toLowerCase()))];
  if (!speculation.on || called.length === 0) return;
  try {
    const wanted = modelRows(await explain(text), called), names = [...wanted.keys()];
    const past = await bridge.ask("SELECT function, sum(prompt_tokens - shared_prefix_tokens + output_tokens) / sum(rows), sum(prefill_ms + decode_ms) / sum(rows) " +
      "FROM prepack.pg_stat_prepack WHERE function = ANY ($1::text[]) GROUP BY 1 HAVING sum(rows) > 0", `{${names.join(",")}}`);
    const known = new Map(past.map((r) => [cellText(r[0]), r.slice(1).map((c) => Number(cellText(c)))]));
    const count = (n: number) => Math.round(n).toLocaleString("en");
    const sum = (of: (name: string) => number) => names.reduce((all, name) => all + of(name), 0);
    const parts = [`about ${count(sum((f) => wanted.get(f)!))} rows to the model`];
    if (names.length > 1) parts[0] += ` (${names.map((f) => `${f} ${count(wanted.get(f)!)}`).join(", ")})`;
    if (known.size > 0) parts.push(`${count(sum((f) => wanted.get(f)! * (known.get(f)?.[0] ?? 0)))} tokens`, duration(sum((f) => wanted.get(f)! * (known.get(f)?.[1] ?? 0))));
    const untold = names.filter((f) => !known.has(f));
    line.textContent = parts.join(", ") + (untold.length > 0 ? `; no earlier call of ${untold.join(" or ")} tells how long` : "");
  } catch { /* it does not plan yet */ }
}

async function explain(sql: string): Promise<Plan> {
  const answer = await bridge.ask(`EXPLAIN (FORMAT JSON) ${sql}`);
  return JSON.parse(answer.map((r) => cellText(r[0])).join("\n"))[0].Plan as Plan;
}

async function showPlan(): Promise<void> {
  view.value = "plan";
  draw();
  try { by("plan").replaceChildren(planTree(await explain(editor.statement().text))); }
  catch (e) { by("plan").textContent = e instanceof AskError ? e.server.message : String(e); }
}

// Shows the view that is chosen.
function draw(): void {
  const possible = kinds(rows.columns);
  by("grid").hidden = view.value !== "grid";
  by("chart").hidden = view.value !== "chart";
  by("plan").hidden = view.value !== "plan";
  by("chart-kind-label").hidden = view.value !== "chart";
  if (view.value === "grid") grid.grown();
  if (view.value !== "chart") return;
  if (!possible.includes(chartKind.value as Kind) || chartKind.childElementCount !== possible.length)
    chartKind.replaceChildren(...possible.map((k) => new Option(k, k)));
  if (possible.length === 0 || rows.length === 0) by("chart").textContent = "There is no number here to draw.";
  else by("chart").replaceChildren(chart(rows, chartKind.value as Kind));
}

async function copy(format: "csv" | "markdown"): Promise<void> {
  try {
    await navigator.clipboard.writeText(rows.copy(format));
    say(`${rows.length.toLocaleString("en")} rows copied.`);
  } catch (e) { say((e as Error).message, "error"); }
}

by("run").addEventListener("click", () => void run());
by("cancel").addEventListener("click", () => bridge.cancel());
by("explain").addEventListener("click", () => void showPlan());
by("repair").addEventListener("click", () => void repairView(bridge, editor));
by("role").addEventListener("click", () => openLogin(""));
by("login-close").addEventListener("click", closeLogin);
by("login").addEventListener("keydown", (e) => { if (e.key === "Escape" && !by("login-close").hidden) closeLogin(); });
by("csv").addEventListener("click", () => void copy("csv"));
by("markdown").addEventListener("click", () => void copy("markdown"));
view.addEventListener("change", () => (view.value === "plan" ? void showPlan() : draw()));
chartKind.addEventListener("change", draw);
by("another").addEventListener("click", async () => { const token = await bridge.ticket(); window.open(`/#${token}`, "_blank", "noopener"); });
by("level").addEventListener("change", () => void choose(by<HTMLSelectElement>("level").value));
by("login").addEventListener("submit", (e) => {
  e.preventDefault();
  const value = (id: string) => by<HTMLInputElement>(id).value;
  bridge.open(value("login-user"), value("login-password"), value("login-database"));
  by<HTMLInputElement>("login-password").value = "";
});
document.addEventListener("keydown", (e) => {
  if (e.key !== "F6") return;
  const parts = ["top", "write", "preview", "result", "side"].map((id) => by(id));
  const at = Math.max(0, parts.findIndex((p) => p.contains(document.activeElement)));
  const next = parts[(at + (e.shiftKey ? parts.length - 1 : 1)) % parts.length];
  if (next.id === "write") editor.view.focus(); else next.focus();
  e.preventDefault();
});
editor.view.focus();

// For the tests and for whoever measures.
Object.assign(window, { prepackStudio: { times, rows: () => rows.length } });
