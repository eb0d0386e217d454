// speculation.ts: what is typed goes to prepack.speculate; what comes of it is shown.
//
// One text is on its way at a time, the newest next: typing fast costs no more than the server can
// answer. NOTIFY tells when there is something to fetch; nothing polls but the side view, once in two
// seconds, and only while the page is seen.
import { AskError, cellText, type Bridge, type Cell } from "./bridge";
import type { Editor } from "./editor";
import { Rows, typeNumber, type Grid } from "./grid";

const by = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
export const bytes = (n: number): string => n < 1024 ? `${n} B` : n < 1 << 20 ? `${(n / 1024).toFixed(0)} kB` : `${(n / (1 << 20)).toFixed(1)} MB`;
export const duration = (ms: number): string => ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`;

export interface Table { id: string; state: string; kind: string; definition: string; rows: number; bytes: number; builtMs: number; ageMs: number; hits: number; savedMs: number; reason: string }

interface Fed { text: string; cursor: number }

// The measured times that the tests print; the latest 500 of each.
export const times: Record<"ghost" | "preview", number[]> = { ghost: [], preview: [] };
function note(kind: keyof typeof times, since: number): void {
  requestAnimationFrame(() => { times[kind].push(performance.now() - since); if (times[kind].length > 500) times[kind].shift(); });
}

export class Speculation {
  private next: Fed | null = null;
  private feeding = false;
  private id = "";
  private fed: Fed = { text: "", cursor: 0 };
  private typedAt = 0;
  private early = new Map<string, Set<string>>();
  on = false;

  constructor(private bridge: Bridge, private editor: Editor, private grid: Grid) {
    setInterval(() => { if (this.on && !document.hidden) this.refresh(); }, 2000);
  }

  // A session began: is prepack there, and does it speculate? At the level that was chosen here, if any was.
  async begin(chosen: string | null): Promise<string> {
    this.on = false;
    this.feeding = false;
    const found = await this.bridge.ask(
      "SELECT current_setting('prepack.speculation', true), (SELECT extversion FROM pg_extension WHERE extname = 'prepack'), " +
      "to_regprocedure('prepack.speculate(text,integer)') IS NOT NULL");
    const [given, version, speculates] = found[0].map(cellText), level = chosen ?? given;
    if (!version) return "This database has no prepack: CREATE EXTENSION prepack; turns previews on. Statements run all the same.";
    if (speculates !== "t") return `prepack ${version} here is older than previews are: ALTER EXTENSION prepack UPDATE. Statements run all the same.`;
    /* A line in postgresql.conf gives the setting a value even where nothing is loaded: only prepack itself can tell. */
    try { await this.bridge.ask("SELECT count(*) FROM prepack.speculations"); }
    catch (error) {
      if (!(error instanceof AskError)) throw error;
      return `${error.message}. ${error.server.code === "55000" ? "Put prepack into shared_preload_libraries and restart the server. " : ""}Statements run all the same.`;
    }
    await this.bridge.ask("LISTEN prepack_speculation");
    if (chosen !== null) await this.bridge.ask("SELECT set_config('prepack.speculation', $1, false)", chosen);
    by<HTMLSelectElement>("level").value = level;
    this.on = true;
    this.feed(this.editor.text, this.editor.cursor);
    this.refresh();
    return level === "off" ? "Speculation is off: choose suggest or materialize above for previews." : "";
  }

  // A newer text.
  feed(text: string, cursor: number): void {
    this.typedAt = performance.now();
    this.next = { text, cursor };
    if (this.on && !this.feeding) void this.push();
  }

  private async push(): Promise<void> {
    this.feeding = true;
    while (this.next && this.on) {
      const fed = this.next;
      this.next = null;
      if (fed.text.trim() === "") continue;
      try {
        /* Positions of JavaScript are UTF-16 units, those of PostgreSQL are characters. */
        const answer = await this.bridge.ask("SELECT prepack.speculate($1, $2::int)", fed.text, String([...fed.text.slice(0, fed.cursor)].length));
        this.id = cellText(answer[0][0]);
        this.fed = fed;
        for (const event of this.early.get(this.id) ?? []) this.fetch(event);
        this.early.clear();
      } catch (error) {
        by("work").textContent = (error as Error).message;
      }
    }
    this.feeding = false;
  }

  // NOTIFY may be there before the answer that names the id.
  notify(payload: string): void {
    const event = JSON.parse(payload) as { id: number; event: string };
    if (String(event.id) === this.id) this.fetch(event.event);
    else if (this.feeding && this.early.size < 16) {
      const events = this.early.get(String(event.id)) ?? new Set();
      this.early.set(String(event.id), events.add(event.event));
    }
  }

  private fetch(event: string): void {
    const id = this.id;
    const fail = () => undefined; /* a newer text has taken its place */
    if (event === "completions") void this.complete(id).catch(fail);
    else if (event === "preview" || event === "done") void this.preview(id).catch(fail);
    if (event === "table") this.refresh();
  }

  private async complete(id: string): Promise<void> {
    const fed = this.fed, typed = this.typedAt;
    const rows = await this.bridge.ask("SELECT insert_text, full_sql, source, probability FROM prepack.completions($1::bigint) LIMIT 8", id);
    if (id !== this.id || this.editor.text !== fed.text) return;
    const first = rows.map((r) => cellText(r[0])).find((text) => text.trim() !== "") ?? "";
    if (this.editor.cursor === fed.cursor && (fed.cursor === fed.text.length || /^[\s);]/.test(fed.text.slice(fed.cursor)))) {
      this.editor.showGhost(fed.cursor, first);
      if (first) note("ghost", typed);
    }
    const whole = rows.filter((r) => cellText(r[1]) !== "").slice(0, 5);
    by("next").replaceChildren(...whole.map((r) => this.suggestion(r)));
    by("next-part").hidden = whole.length === 0;
  }

  private suggestion(row: Cell[]): HTMLElement {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    const sql = cellText(row[1]);
    button.textContent = sql.length > 72 ? `…${sql.slice(-70)}` : sql;
    button.title = `${sql}\n(from ${cellText(row[2])})`;
    button.addEventListener("click", () => this.editor.replace(cellText(row[1])));
    item.append(button);
    return item;
  }

  private async preview(id: string): Promise<void> {
    const since = performance.now();
    const rows = await this.bridge.ask("SELECT block, sql, state, sampled, columns, rows, total_rows, elapsed_ms FROM prepack.preview($1::bigint, 50)", id);
    const shown = rows.find((r) => cellText(r[0]).endsWith("*") && r[5] !== null) ?? rows.find((r) => r[5] !== null);
    if (id !== this.id) return;
    this.showBlocks(rows);
    const line = by("preview-line");
    if (!shown) {
      if (rows.length > 0) line.textContent = rows.map((r) => `${cellText(r[0])}: ${cellText(r[2])}`).join("; ");
      return;
    }
    const [block, sql, , sampled, columns, cells, total, ms] = shown.map(cellText);
    const head = (JSON.parse(columns) as ({ name: string; type?: string } | string)[]);
    const store = new Rows(head.map((c) => ({ name: typeof c === "string" ? c : c.name, type: typeof c === "string" ? 25 : typeNumber(c.type), mod: -1 })));
    const data = (JSON.parse(cells) as unknown[][]).map((r) => r.map((v) => (v === null ? null : typeof v === "string" ? v : JSON.stringify(v))));
    store.add(JSON.stringify({ rows: data }), data.length);
    line.textContent = `${block.replace(" *", "")}${sampled === "t" ? " · from a sample" : ""} · ${total || data.length} rows · ${duration(Number(ms))} · ${sql}`;
    line.title = sql;
    this.grid.set(store);
    note("preview", since);
  }

  // The blocks of the text in the side view: what became of each.
  private showBlocks(rows: Cell[][]): void {
    by("blocks-part").hidden = rows.length === 0;
    by("blocks").replaceChildren(...rows.map((r) => {
      const [block, sql, state, sampled, , , total, ms] = r.map(cellText), item = document.createElement("li"), here = block.endsWith("*");
      const facts = [block.replace(/ ?\*$/, ""), state, total && `${Number(total).toLocaleString("en")} rows`, sampled === "t" && "from a sample", ms && duration(Number(ms))];
      item.textContent = facts.filter(Boolean).join(" · ");
      item.title = sql;
      if (here) item.setAttribute("aria-current", "true");
      return item;
    }));
  }

  // How the role went on from the text that is there, in queries it ran before.
  async history(): Promise<string[]> {
    const rows = await this.bridge.ask("SELECT full_sql FROM prepack.completions($1::bigint) WHERE source = 'history'", this.id).catch(() => []);
    return rows.map((r) => cellText(r[0]));
  }

  // The speculative tables that the role sees.
  async tables(): Promise<Table[]> {
    const rows = await this.bridge.ask(
      "SELECT id, state, kind, definition, rows, bytes, built_ms, 1000 * extract(epoch FROM age), hits, saved_ms, reason FROM prepack.speculation_tables ORDER BY id DESC LIMIT 50");
    return rows.map((r) => {
      const [id, state, kind, definition, n, size, built, age, hits, saved, reason] = r.map(cellText);
      return { id, state, kind, definition, rows: Number(n), bytes: Number(size), builtMs: Number(built), ageMs: Number(age), hits: Number(hits), savedMs: Number(saved), reason };
    });
  }

  // Draws the side view anew; a connection that was lost meanwhile is told of elsewhere.
  private refresh(): void { void this.look().catch(() => undefined); }

  // Draws the side view.
  private async look(): Promise<void> {
    const tables = await this.tables();
    const counters = await this.bridge.ask("SELECT name, value FROM prepack.pg_stat_prepack_speculation WHERE value > 0");
    const more = await this.bridge.ask("SELECT pg_size_bytes(current_setting('prepack.speculation_max_bytes')), (SELECT string_agg(state, ', ') FROM prepack.speculations)");
    const used = tables.reduce((sum, t) => sum + t.bytes, 0);
    by("budget").textContent = `${bytes(used)} of ${bytes(Number(cellText(more[0][0])))}`;
    by("work").textContent = `worker: ${cellText(more[0][1]) || "resting"}`;
    by("tables").replaceChildren(...tables.map((t) => {
      const item = document.createElement("li"), code = document.createElement("code");
      item.textContent = `${t.id} · ${t.kind} · ${t.state}${t.state === "dead" ? ` (${t.reason})` : ""} · ${t.rows.toLocaleString("en")} rows · ${bytes(t.bytes)} · ${t.hits} hits`;
      item.title = code.textContent = t.definition;
      item.append(code);
      return item;
    }));
    by("counters").replaceChildren(...counters.flatMap((r) => {
      const name = document.createElement("dt"), value = document.createElement("dd");
      name.textContent = cellText(r[0]);
      value.textContent = Number(cellText(r[1])).toLocaleString("en", { maximumFractionDigits: 1 });
      return [name, value];
    }));
  }
}
