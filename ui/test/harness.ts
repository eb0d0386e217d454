// harness.ts: what the tests share: the bridge as a child, a browser, raw WebSockets, a list of tests.
import { spawn, type ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import { chromium, type Browser, type Page } from "playwright-core";
import WebSocket from "ws";

export const SOCKETS = process.env.SOCKETS!;

// What is true at some moment soon; fails after a generous time.
export async function until(what: string, test: () => Promise<boolean> | boolean, seconds = 30): Promise<void> {
  const end = Date.now() + seconds * 1000;
  while (!(await test())) {
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// A figure beside its goal. scripts/run-tests prints such lines even when all is well.
export function goal(name: string, value: number, limit: number, unit: string, least = false): void {
  const met = least ? value >= limit : value <= limit, digits = value < 1 ? 2 : 1;
  console.log(`GOAL ${name}: ${value.toFixed(digits)} ${unit} (goal: ${least ? "at least" : "at most"} ${limit}; ${met ? "met" : "MISSED"})`);
}

// The value below which a part q of all lies.
export const quantile = (values: number[], q: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * q))];

export function check(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

// prepack-studio as a child.
export class Studio {
  private words = "";
  private used = 0;

  private constructor(private child: ChildProcess) {
    child.stdout!.on("data", (piece) => { this.words += piece; });
    child.stderr!.on("data", (piece) => { this.words += piece; });
  }

  static async start(database = "postgres", user = "postgres", host = SOCKETS): Promise<Studio> {
    /* Under ASan, freed memory must not count as held. */
    const env = { ASAN_OPTIONS: "quarantine_size_mb=2", ...process.env };
    const child = spawn(process.env.STUDIO!, ["--ui", "dist", `host=${host} user=${user} dbname=${database}`], { env });
    const studio = new Studio(child);
    await until("a link is printed", () => studio.words.includes("#"));
    return studio;
  }

  // The newest link that no tab has used.
  async link(): Promise<string> {
    const links = () => this.words.match(/http:\S+#\w{64}/g) ?? [];
    await until("another link is printed", () => links().length > this.used);
    this.used = links().length;
    return links()[this.used - 1];
  }

  get output(): string { return this.words; }
  get origin(): string { return /http:\/\/[\d.]+:\d+/.exec(this.words)![0]; }
  get running(): boolean { return this.child.exitCode === null && this.child.signalCode === null; }

  // Resident memory, and its peak, in MB.
  memory(): { now: number; peak: number } {
    const status = readFileSync(`/proc/${this.child.pid}/status`, "utf8");
    const of = (name: string) => Number(new RegExp(`${name}:\\s*(\\d+)`).exec(status)![1]) / 1024;
    return { now: of("VmRSS"), peak: of("VmHWM") };
  }

  // Ends it; its exit status.
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<number | null> {
    this.child.kill(signal);
    await until("prepack-studio ends", () => !this.running);
    return this.child.exitCode;
  }
}

// A raw client of the bridge.
export class Client {
  readonly got: any[] = [];
  closed = false;

  private constructor(readonly socket: WebSocket) {
    socket.on("message", (data) => this.got.push(JSON.parse(String(data))));
    socket.on("close", () => { this.closed = true; });
    socket.on("error", () => { this.closed = true; });
  }

  static async connect(studio: Studio, headers: Record<string, string> = { Origin: studio.origin }, protocol = "prepack-studio"): Promise<Client> {
    const socket = new WebSocket(studio.origin.replace("http", "ws") + "/", protocol ? [protocol] : [], { headers });
    const client = new Client(socket);
    await until("the socket opens or is refused", () => socket.readyState === WebSocket.OPEN || client.closed);
    return client;
  }

  // A client that is let in and logged in.
  static async ready(studio: Studio): Promise<Client> {
    const token = (await studio.link()).split("#")[1], client = await Client.connect(studio);
    client.send({ t: "hello", token });
    client.send({ t: "open" });
    await client.until("ready");
    return client;
  }

  send(message: object): void { this.socket.send(JSON.stringify(message)); }

  async until(kind: string, seconds = 30): Promise<any> {
    await until(`a message ${kind} (got ${this.got.map((m) => m.t).slice(-5).join(" ")})`, () => this.got.some((m) => m.t === kind), seconds);
    return this.got.find((m) => m.t === kind);
  }
}

let browser: Browser | null = null;

// A page of its own context.
export async function openPage(studio: Studio, { width = 1280, height = 720, dark = false, waits = true } = {}): Promise<Page & { faults: string[] }> {
  browser ??= await chromium.launch({ executablePath: process.env.CHROMIUM, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] });
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", permissions: ["clipboard-read", "clipboard-write"] });
  const page = watched(await context.newPage());
  await page.goto(await studio.link());
  if (waits) await settled(page);
  return page;
}

// A page that notes its errors.
export function watched(page: Page): Page & { faults: string[] } {
  const faults: string[] = [];
  page.on("pageerror", (e) => faults.push(String(e)));
  page.on("console", (m) => { if (m.type() === "error" && !m.text().includes("WebSocket")) faults.push(m.text()); });
  return Object.assign(page, { faults });
}

// A session is there, or the question who the person is; a tab that has just opened may have no page yet.
export async function settled(page: Page): Promise<void> {
  // Not waitForFunction: it may evaluate a string, which the content policy forbids.
  await until("the page is ready", () => page.evaluate(() => {
    const run = document.getElementById("run") as HTMLButtonElement | null;
    return run !== null && (!run.disabled || !document.getElementById("login")!.hidden);
  }));
}

export async function closeBrowser(): Promise<void> { await browser?.close(); browser = null; }

const tests: { name: string; body: () => Promise<void> }[] = [];
export function test(name: string, body: () => Promise<void>): void { tests.push({ name, body }); }

// What the tests of one prefix need; done before the first of them that runs.
const needs: { prefix: string; body: () => Promise<void>; done: boolean }[] = [];
export function prepare(prefix: string, body: () => Promise<void>): void { needs.push({ prefix, body, done: false }); }

// Runs them in order; prints a line each and the sum; returns the number of failures.
export async function runAll(): Promise<number> {
  const chosen = tests.filter((t) => t.name.includes(process.env.ONLY ?? ""));
  let failed = 0;
  for (const t of chosen)
    try {
      for (const n of needs)
        if (!n.done && t.name.startsWith(n.prefix)) { n.done = true; await n.body(); }
      await t.body();
      console.log(`ok   ${t.name}`);
    } catch (e) {
      failed++;
      console.log(`FAIL ${t.name}: ${(e as Error).stack}`);
    }
  console.log(`ui: ${chosen.length - failed} passed, ${failed} failed`);
  return failed;
}
