// grid.ts: results of any length: rows kept as the text they came in, a grid that draws what is in view.
import { cellText, type Cell, type Column } from "./bridge";

const ROW = 26, HEAD = 42;
const SPACE_MAX = 12_000_000; // browsers draw no taller boxes; beyond, a pixel of scrolling is more than one row
const KEEP = 6;               // chunks that stay parsed

const NUMBERS = new Set([20, 21, 23, 26, 700, 701, 790, 1700]);
const TIMES = new Set([1082, 1114, 1184]);
const NAMES: Record<number, string> = {
  16: "boolean", 17: "bytea", 18: "char", 19: "name", 20: "bigint", 21: "smallint", 23: "integer", 25: "text", 26: "oid",
  114: "json", 700: "real", 701: "double precision", 790: "money", 1042: "character", 1043: "varchar", 1082: "date",
  1083: "time", 1114: "timestamp", 1184: "timestamptz", 1186: "interval", 1700: "numeric", 2950: "uuid", 3802: "jsonb", 705: "unknown",
};

export const isNumber = (c: Column): boolean => NUMBERS.has(c.type);
export const isTime = (c: Column): boolean => TIMES.has(c.type);
export const typeName = (type: number): string | undefined => NAMES[type];
export function nameType(type: number, name: string): void { NAMES[type] = name; }

// The type whose name, as format_type writes it, is known; others get numbers of their own, below zero.
const numbers = new Map(Object.entries(NAMES).map(([type, name]) => [name, Number(type)]));
for (const [name, type] of [["character varying", 1043], ["time without time zone", 1083], ["timestamp without time zone", 1114], ["timestamp with time zone", 1184]] as const)
  numbers.set(name, type);
export function typeNumber(name = "text"): number {
  const plain = name.replace(/\([\d,]*\)/, "");
  if (!numbers.has(plain)) { const made = -numbers.size; numbers.set(plain, made); nameType(made, plain); }
  return numbers.get(plain)!;
}

interface Chunk { text: string; first: number; n: number }

// The rows of one result.
export class Rows {
  private chunks: Chunk[] = [];
  private parsed = new Map<Chunk, Cell[][]>();
  length = 0;
  chars = 0;

  constructor(readonly columns: Column[]) {}

  add(text: string, n: number): void {
    this.chunks.push({ text, first: this.length, n });
    this.length += n;
    this.chars += text.length;
  }

  row(i: number): Cell[] {
    let low = 0, high = this.chunks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.chunks[middle].first <= i) low = middle; else high = middle - 1;
    }
    const chunk = this.chunks[low];
    let rows = this.parsed.get(chunk);
    if (!rows) {
      rows = JSON.parse(chunk.text).rows as Cell[][];
      this.parsed.set(chunk, rows);
      if (this.parsed.size > KEEP) this.parsed.delete(this.parsed.keys().next().value!);
    }
    return rows[i - chunk.first];
  }

  // All rows as CSV or as a table of Markdown.
  copy(format: "csv" | "markdown"): string {
    const csv = (s: string | null) => (s === null ? "" : s === "" || /[",\r\n]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s);
    const markdown = (s: string | null) => (s === null ? "" : s.replaceAll("\\", "\\\\").replaceAll("|", "\\|").replaceAll("<", "&lt;").replace(/\r?\n/g, "<br>"));
    const line = (cells: (string | null)[]) => format === "csv" ? cells.map(csv).join(",") : `| ${cells.map(markdown).join(" | ")} |`;
    const lines = [line(this.columns.map((c) => c.name))];
    if (format === "markdown") lines.push(`|${this.columns.map((c) => (isNumber(c) ? "---:" : "---")).join("|")}|`);
    for (let i = 0; i < this.length; i++) lines.push(line(this.row(i).map((c) => (c === null ? null : cellText(c)))));
    return lines.join("\n") + "\n";
  }
}

// A grid with a cursor: arrows, Page, Home, End move it; Enter shows a whole value; Ctrl+C copies it.
export class Grid {
  private box = document.createElement("div");
  private head = document.createElement("div");
  private space = document.createElement("div");
  private drawn = new Map<number, HTMLElement>();
  private rows = new Rows([]);
  private widths: number[] = [];
  private at = { row: 0, column: 0 };
  private asked = 0;
  private scrolling = 0;

  constructor(parent: HTMLElement, label: string, private open: (text: string) => void) {
    this.box.className = "grid";
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "grid");
    this.box.setAttribute("aria-label", label);
    this.box.setAttribute("aria-readonly", "true");
    this.space.className = "grid-space";
    this.space.setAttribute("role", "rowgroup");
    this.head.className = "grid-head";
    this.head.setAttribute("role", "row");
    this.box.append(this.head, this.space);
    this.box.hidden = true;
    parent.append(this.box);
    this.box.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.box.addEventListener("keydown", (e) => this.key(e));
    this.box.addEventListener("click", (e) => this.click(e));
    this.box.addEventListener("dblclick", () => this.show());
    new ResizeObserver(() => this.draw()).observe(parent);
  }

  set(rows: Rows): void {
    this.rows = rows;
    this.at = { row: 0, column: 0 };
    this.widths = [];
    for (const element of this.drawn.values()) element.remove();
    this.drawn.clear();
    this.mark(); /* not of a cell that is gone, until the next frame draws others */
    this.box.scrollTop = 0;
    this.grown();
  }

  // More rows have come: at most one drawing a frame.
  grown(): void {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.box.hidden = this.rows.columns.length === 0;
      this.box.setAttribute("aria-rowcount", String(this.rows.length + 1));
      this.box.setAttribute("aria-colcount", String(this.rows.columns.length));
      if (this.widths.length === 0) this.layout();
      this.space.style.height = `${Math.max(1, this.height())}px`;
      this.draw();
    });
  }

  // However many events a frame has, it is drawn once.
  private scrolled(): void {
    if (this.scrolling) return;
    this.scrolling = requestAnimationFrame(() => { this.scrolling = 0; this.draw(); });
  }

  refreshHead(): void { this.widths = []; this.grown(); }

  private height(): number { return Math.min(SPACE_MAX, this.rows.length * ROW); }

  // Widths from the first rows; the header.
  private layout(): void {
    const sample = Math.min(this.rows.length, 50);
    this.widths = this.rows.columns.map((c, i) => {
      let n = Math.max(c.name.length, (typeName(c.type) ?? "").length * 0.85, 4);
      for (let r = 0; r < sample; r++) n = Math.max(n, Math.min(48, cellText(this.rows.row(r)[i]).length));
      return Math.ceil(n * 8 + 20);
    });
    this.head.replaceChildren(...this.rows.columns.map((c, i) => {
      const cell = this.cell(c.name, i, "columnheader");
      const type = document.createElement("span");
      type.className = "grid-type";
      type.textContent = typeName(c.type) ?? `type ${c.type}`;
      cell.append(type);
      return cell;
    }));
    if (sample === 0) this.widths = [];
  }

  private cell(text: string, column: number, role: string): HTMLElement {
    const cell = document.createElement("div");
    cell.className = "grid-cell";
    cell.setAttribute("role", role);
    cell.setAttribute("aria-colindex", String(column + 1));
    cell.style.width = `${this.widths[column] ?? 80}px`;
    cell.textContent = text;
    if (isNumber(this.rows.columns[column])) cell.classList.add("number");
    return cell;
  }

  // The first row in view, as a fraction.
  private top(): number {
    const scroll = this.height() - (this.box.clientHeight - HEAD);
    const last = this.rows.length - (this.box.clientHeight - HEAD) / ROW;
    return this.rows.length * ROW <= SPACE_MAX ? this.box.scrollTop / ROW : (this.box.scrollTop / scroll) * last;
  }

  private draw(): void {
    // All that is measured comes first: a read after a write would lay the page out anew for each row.
    const scrolled = this.box.scrollTop, top = Math.max(0, this.top()), first = Math.max(0, Math.floor(top) - 4);
    const last = Math.min(this.rows.length, Math.ceil(top + this.box.clientHeight / ROW) + 4);
    const fresh = document.createDocumentFragment();
    for (const [i, element] of this.drawn)
      if (i < first || i >= last) { element.remove(); this.drawn.delete(i); }
    for (let i = first; i < last; i++) {
      let element = this.drawn.get(i);
      if (!element) { element = this.line(i); this.drawn.set(i, element); fresh.append(element); }
      element.style.transform = `translateY(${scrolled + (i - top) * ROW}px)`;
    }
    this.space.append(fresh);
    this.mark();
  }

  private line(i: number): HTMLElement {
    const line = document.createElement("div");
    line.className = "grid-row";
    line.setAttribute("role", "row");
    line.setAttribute("aria-rowindex", String(i + 2));
    line.append(...this.rows.row(i).map((value, column) => {
      const text = cellText(value);
      const cell = this.cell(value === null ? "NULL" : text.length > 300 ? `${text.slice(0, 300)}…` : text, column, "gridcell");
      cell.id = `cell-${this.box.getAttribute("aria-label")}-${i}-${column}`.replaceAll(" ", "");
      if (value === null) cell.classList.add("null");
      return cell;
    }));
    return line;
  }

  private mark(): void {
    this.box.querySelector(".at")?.classList.remove("at");
    const cell = this.drawn.get(this.at.row)?.children[this.at.column];
    cell?.classList.add("at");
    if (cell) this.box.setAttribute("aria-activedescendant", cell.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  private move(row: number, column: number): void {
    this.at = { row: Math.max(0, Math.min(this.rows.length - 1, row)), column: Math.max(0, Math.min(this.rows.columns.length - 1, column)) };
    const view = (this.box.clientHeight - HEAD) / ROW, top = this.top();
    let want = top;
    if (this.at.row < top) want = this.at.row;
    else if (this.at.row + 1 > top + view) want = this.at.row + 1 - view;
    if (want !== top) {
      const all = this.rows.length * ROW;
      this.box.scrollTop = all <= SPACE_MAX ? want * ROW : (want / (this.rows.length - view)) * (this.height() - view * ROW);
    }
    this.draw();
    this.drawn.get(this.at.row)?.children[this.at.column]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  private key(e: KeyboardEvent): void {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 2), { row, column } = this.at;
    const moves: Record<string, [number, number]> = {
      ArrowDown: [row + 1, column], ArrowUp: [row - 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      PageDown: [row + page, column], PageUp: [row - page, column],
      Home: e.ctrlKey ? [0, 0] : [row, 0], End: e.ctrlKey ? [this.rows.length - 1, column] : [row, this.rows.columns.length - 1],
    };
    if (moves[e.key]) this.move(...moves[e.key]);
    else if (e.key === "Enter") this.show();
    else if (e.key === "c" && (e.ctrlKey || e.metaKey) && this.rows.length > 0)
      void navigator.clipboard.writeText(cellText(this.rows.row(this.at.row)[this.at.column]));
    else return;
    e.preventDefault();
  }

  private click(e: MouseEvent): void {
    const cell = (e.target as Element).closest(".grid-row > .grid-cell");
    for (const [i, line] of this.drawn)
      if (cell && line.contains(cell)) this.move(i, Number(cell.getAttribute("aria-colindex")) - 1);
  }

  private show(): void {
    if (this.rows.length === 0) return;
    const value = this.rows.row(this.at.row)[this.at.column];
    const cut = value !== null && typeof value !== "string" ? `\n… (${value.bytes} bytes in all)` : "";
    this.open(value === null ? "NULL" : cellText(value) + cut);
  }
}
