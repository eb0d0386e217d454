// chart.ts: a chart that fits the columns, as plain SVG: time series, bars, scatter or histogram.
import { cellText, type Column } from "./bridge";
import { isNumber, isTime, type Rows } from "./grid";

export type Kind = "time series" | "bars" | "scatter" | "histogram";

const POINTS_MAX = 2000, BARS_MAX = 40, BINS = 24;
const W = 800, H = 320, LEFT = 70, BOTTOM = 46, TOP = 12, RIGHT = 14;

const firstWhere = (columns: Column[], test: (c: Column) => boolean, from = 0): number =>
  columns.findIndex((c, i) => i >= from && test(c));

// The charts that columns allow, the most fitting first.
export function kinds(columns: Column[]): Kind[] {
  const numbers = columns.filter(isNumber).length, found: Kind[] = [];
  if (numbers > 0 && columns.some(isTime)) found.push("time series");
  if (numbers > 0 && columns.some((c) => !isNumber(c) && !isTime(c))) found.push("bars");
  if (numbers > 1) found.push("scatter");
  if (numbers > 0) found.push("histogram");
  return found;
}

function element(name: string, attributes: Record<string, string | number>, text?: string): SVGElement {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, String(value));
  if (text !== undefined) e.textContent = text;
  return e;
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

// The pairs of two columns, evenly thinned; NULLs left out.
function pairs(rows: Rows, x: (i: number) => number, y: number, most: number): [number, number][] {
  const step = Math.max(1, Math.ceil(rows.length / most)), out: [number, number][] = [];
  for (let i = 0; i < rows.length; i += step) {
    const cell = rows.row(i)[y], px = x(i), py = cell === null ? NaN : Number(cellText(cell));
    if (Number.isFinite(px) && Number.isFinite(py)) out.push([px, py]);
  }
  return out;
}

// Axes with the ends of both scales; returns where a value lies.
function axes(svg: SVGElement, x: [string, string, string], low: number, high: number, name: string): (v: number) => number {
  if (low === high) { low -= 1; high += 1; }
  const place = (v: number) => TOP + (H - TOP - BOTTOM) * (1 - (v - low) / (high - low));
  for (let i = 0; i <= 4; i++) {
    const v = low + ((high - low) * i) / 4;
    svg.append(element("line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: place(v), y2: place(v) }),
      element("text", { x: LEFT - 6, y: place(v) + 4, "text-anchor": "end" }, compact.format(v)));
  }
  svg.append(element("text", { x: LEFT, y: H - 24 }, x[0]), element("text", { x: W - RIGHT, y: H - 24, "text-anchor": "end" }, x[1]),
    element("text", { x: (LEFT + W - RIGHT) / 2, y: H - 6, "text-anchor": "middle" }, `${name} by ${x[2]}`));
  return place;
}

function points(svg: SVGElement, rows: Rows, kind: Kind): void {
  const time = kind === "time series", columns = rows.columns;
  const x = firstWhere(columns, time ? isTime : isNumber);
  const y = firstWhere(columns, isNumber, time ? 0 : x + 1);
  const value = (i: number) => { const t = rows.row(i)[x]; return t === null ? NaN : time ? Date.parse(cellText(t).replace(" ", "T")) : Number(cellText(t)); };
  const all = pairs(rows, value, y, POINTS_MAX);
  if (all.length === 0) return;
  if (time) all.sort((a, b) => a[0] - b[0]);
  const xs = all.map((p) => p[0]), ys = all.map((p) => p[1]), left = Math.min(...xs), right = Math.max(...xs);
  const name = (v: number) => (time ? new Date(v).toISOString().slice(0, 10) : compact.format(v));
  const place = axes(svg, [name(left), name(right), columns[x].name], Math.min(0, ...ys), Math.max(...ys), columns[y].name);
  const across = (v: number) => LEFT + ((W - LEFT - RIGHT) * (v - left)) / (right - left || 1);
  if (time) svg.append(element("polyline", { class: "path", points: all.map((p) => `${across(p[0]).toFixed(1)},${place(p[1]).toFixed(1)}`).join(" ") }));
  else for (const p of all) svg.append(element("circle", { class: "mark", cx: across(p[0]), cy: place(p[1]), r: 3, "fill-opacity": 0.6 }));
}

function boxes(svg: SVGElement, labels: string[], values: number[], by: string, name: string): void {
  const place = axes(svg, [labels[0] ?? "", labels.length > 1 ? labels[labels.length - 1] : "", by], Math.min(0, ...values), Math.max(0, ...values), name);
  const width = (W - LEFT - RIGHT) / Math.max(1, values.length);
  values.forEach((v, i) => {
    const bar = element("rect", { class: "mark", x: LEFT + i * width + width * 0.08, width: width * 0.84, y: Math.min(place(0), place(v)), height: Math.abs(place(v) - place(0)) });
    bar.append(element("title", {}, `${labels[i]}: ${v}`));
    svg.append(bar);
  });
}

function bars(svg: SVGElement, rows: Rows): void {
  const label = firstWhere(rows.columns, (c) => !isNumber(c) && !isTime(c)), y = firstWhere(rows.columns, isNumber);
  const labels: string[] = [], values: number[] = [];
  for (let i = 0; i < Math.min(rows.length, BARS_MAX); i++) {
    const cell = rows.row(i)[y];
    labels.push(cellText(rows.row(i)[label]).slice(0, 24));
    values.push(cell === null ? 0 : Number(cellText(cell)) || 0);
  }
  boxes(svg, labels, values, rows.columns[label].name, rows.columns[y].name);
}

function histogram(svg: SVGElement, rows: Rows): void {
  const y = firstWhere(rows.columns, isNumber), all = pairs(rows, (i) => i, y, 50_000).map((p) => p[1]);
  if (all.length === 0) return;
  let low = Infinity, high = -Infinity;
  for (const v of all) { low = Math.min(low, v); high = Math.max(high, v); }
  const counts = new Array<number>(BINS).fill(0), width = (high - low) / BINS || 1;
  for (const v of all) counts[Math.min(BINS - 1, Math.floor((v - low) / width))]++;
  boxes(svg, counts.map((_, i) => compact.format(low + i * width)), counts, rows.columns[y].name, "rows");
}

// Draws a result; the caption tells what was left out.
export function chart(rows: Rows, kind: Kind): SVGElement {
  const label = `${kind} of ${rows.columns.map((c) => c.name).join(", ")}, ${rows.length} rows`;
  const svg = element("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
  if (kind === "bars") bars(svg, rows);
  else if (kind === "histogram") histogram(svg, rows);
  else points(svg, rows, kind);
  const most = kind === "bars" ? BARS_MAX : kind === "histogram" ? 50_000 : POINTS_MAX;
  if (rows.length > most) svg.append(element("text", { x: LEFT, y: TOP + 6 }, kind === "bars" ? `the first ${most} of ${rows.length} rows` : `every ${Math.ceil(rows.length / most)}th row`));
  return svg;
}
