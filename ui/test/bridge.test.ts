// bridge.test.ts: the bridge under attack, by raw sockets.
import { connect } from "node:net";
import { createServer, get } from "node:http";
import { check, Client, goal, openPage, prepare, quantile, Studio, test, until } from "./harness";

let studio: Studio;

// Status and headers of a request.
function request(path: string, headers: Record<string, string> = {}): Promise<{ status: number; headers: Record<string, any> }> {
  const { port } = new URL(studio.origin);
  return new Promise((resolve, reject) => get({ host: "127.0.0.1", port, path, headers }, (r) => { r.resume(); resolve({ status: r.statusCode!, headers: r.headers }); }).on("error", reject));
}

prepare("bridge:", async () => { studio = await Studio.start(); });

test("bridge: answers carry a strict policy; other paths and hosts get nothing", async () => {
  const { status, headers } = await request("/");
  check(status === 200, `status ${status}`);
  check(/default-src 'none'; script-src 'self';/.test(headers["content-security-policy"]) && !/unsafe/.test(headers["content-security-policy"]), headers["content-security-policy"]);
  check(headers["x-content-type-options"] === "nosniff" && headers["x-frame-options"] === "DENY" && headers["referrer-policy"] === "no-referrer", "headers are missing");
  for (const path of ["/../Makefile", "/..%2f..%2fetc/passwd", "/nothing", "/assets/", "/index.html.gz"]) check((await request(path)).status >= 400, path);
  check((await request("/", { Host: "evil.example" })).status === 403, "a foreign host is served");
});

test("bridge: a foreign or missing origin, host or protocol gets no socket", async () => {
  for (const headers of [{ Origin: "http://evil.example" }, { Origin: "null" }, {}, { Origin: studio.origin + ".evil.example" }, { Origin: studio.origin, Host: "evil.example" }] as Record<string, string>[])
    check((await Client.connect(studio, headers)).closed, `${JSON.stringify(headers)} is let in`);
  check((await Client.connect(studio, { Origin: studio.origin }, "")).closed, "no protocol is let in");
});

test("bridge: a page of another site gets no socket and no text, though it runs in the same browser", async () => {
  const site = createServer((_, answer) => answer.setHeader("content-type", "text/html").end("<p>another site</p>"));
  await new Promise<void>((resolve) => site.listen(0, "127.0.0.1", resolve));
  const page = await openPage(studio);
  await page.goto(`http://127.0.0.1:${(site.address() as { port: number }).port}/`);
  const seen = await page.evaluate(async (origin) => {
    const socket = new WebSocket(`${origin.replace("http", "ws")}/`, "prepack-studio");
    const opened = await new Promise((resolve) => { socket.onopen = () => resolve(true); socket.onclose = () => resolve(false); });
    return { opened, text: await fetch(`${origin}/`).then((r) => r.text(), () => "refused") };
  }, studio.origin);
  check(!seen.opened && seen.text === "refused", JSON.stringify(seen));
  await page.context().close();
  site.close();
});

test("bridge: a wrong token, none, or a used one is turned away", async () => {
  /* A token that was used leaves nothing behind that one could guess. */
  (await Client.ready(studio)).socket.terminate();
  const token = (await studio.link()).split("#")[1];
  const tries: object[] = [{ t: "hello", token: "0".repeat(64) }, { t: "hello", token: "-".repeat(64) }, { t: "hello", token: " ".repeat(64) }, { t: "hello", token: "" }, { t: "hello", token: token.slice(1) }, { t: "open" }, { t: "ask", id: 1, sql: "SELECT 1" }, { t: "run", id: 1, sql: "SELECT 1" }];
  for (const message of tries) {
    const client = await Client.connect(studio);
    client.send(message);
    await until("it is closed", () => client.closed);
    check(client.got.length === 1 && client.got[0].t === "refused" && client.got[0].code === "token", JSON.stringify(client.got));
  }
  const first = await Client.connect(studio);
  first.send({ t: "hello", token });
  const { key } = await first.until("welcome");
  const second = await Client.connect(studio);
  second.send({ t: "hello", token });
  await until("the used token is refused", () => second.closed);
  const again = await Client.connect(studio);
  again.send({ t: "hello", token: key });
  await again.until("welcome");
  for (const c of [first, again]) c.socket.terminate();
});

test("bridge: malformed messages and frames end nothing but their tab", async () => {
  const client = await Client.ready(studio);
  for (const text of ["", "{", "[]", "null", '{"t":"run"}', '{"t":"run","id":"x","sql":"SELECT 1"}', '{"t":"run","id":1,"sql":"a\\u0000b"}', '{"t":"nothing"}', '{"t":"ask","id":1,"sql":"SELECT 1","args":[1]}', '{"t":"ask","id":1,"sql":"SELECT 1","args":["1","2","3","4","5","6","7","8","9"]}', "[".repeat(10000)])
    client.socket.send(text);
  client.send({ t: "run", id: 5, sql: "SELECT 'alive'" });
  await client.until("done");
  check(client.got.filter((m) => m.t === "refused").length === 11, JSON.stringify(client.got.map((m) => m.t)));
  client.socket.send(Buffer.from([1, 2, 3]));
  await until("binary closes", () => client.closed);
  const big = await Client.ready(studio);
  big.socket.send("x".repeat(3 << 20));
  await until("too long closes", () => big.closed);
  for (const bytes of ["GET / HTTP/1.1\r\n\r\n", "\x00\xff\xfe", `GET / HTTP/1.1\r\n${"A: b\r\n".repeat(5000)}\r\n`]) {
    const socket = connect(Number(new URL(studio.origin).port), "127.0.0.1");
    socket.on("error", () => undefined);
    socket.end(bytes, "latin1");
  }
  const bad = await Client.ready(studio);
  (bad.socket as any)._socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
  await until("reserved bits close", () => bad.closed);
  check(studio.running && (await request("/")).status === 200, "prepack-studio ended");
});

// A client's frame as RFC 6455 has it, its length in the shortest form.
function frame(first: number, payload: Buffer): Buffer {
  const size = payload.length < 126 ? Buffer.from([0x80 | payload.length]) : Buffer.from([0xfe, payload.length >> 8, payload.length & 0xff]);
  return Buffer.concat([Buffer.from([first]), size, Buffer.from([1, 2, 3, 4]), payload.map((byte, i) => byte ^ ((i & 3) + 1))]);
}

test("bridge: 300 sockets of damaged frames end nothing but themselves", async () => {
  let seed = 20261124;
  const below = (n: number) => { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; return Math.floor((seed / 2 ** 32) * n); };
  const { port, host } = new URL(studio.origin), token = (await studio.link()).split("#")[1], before = studio.memory();
  const first = await Client.connect(studio);
  first.send({ t: "hello", token });
  const { key } = await first.until("welcome");
  first.socket.terminate();
  const head = `GET / HTTP/1.1\r\nHost: ${host}\r\nOrigin: ${studio.origin}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: prepack-studio\r\n\r\n";
  const messages = [{ t: "open" }, { t: "ask", id: 1, sql: "SELECT 1" }, { t: "run", id: 2, sql: "SELECT repeat('x', 300)" }, { t: "cancel" }];
  let answered = 0;
  for (let i = 0; i < 300; i++) {
    const frames = [frame(0x81, Buffer.from(JSON.stringify({ t: "hello", token: key })))];
    for (const message of messages) frames.push(frame(below(4) ? 0x81 : below(256), Buffer.from(JSON.stringify(message))));
    const bytes = Buffer.concat(frames);
    for (let n = below(4); n > 0; n--) bytes[frames[0].length + below(bytes.length - frames[0].length)] = below(256);
    await new Promise<void>((resolve) => {
      const socket = connect(Number(port), "127.0.0.1", () => socket.write(head));
      socket.once("data", () => { answered++; socket.end(bytes.subarray(0, bytes.length - below(8))); socket.resume(); });
      socket.on("error", () => undefined).on("close", () => resolve()).setTimeout(5000, () => socket.destroy());
    });
  }
  check(answered === 300 && studio.running, `${answered} were answered`);
  check(studio.memory().now - before.now < 24, `memory grew by ${studio.memory().now - before.now} MB`);
  const client = await Client.ready(studio);
  client.send({ t: "run", id: 1, sql: "SELECT 'alive'" });
  await client.until("done");
  client.socket.terminate();
});

test("bridge: NULLs, bytes, errors, notices, many statements, COPY", async () => {
  const client = await Client.ready(studio);
  client.send({ t: "run", id: 1, sql: "SELECT NULL, '', E'\\x01\"\\\\é', repeat('é', 50000); DO $$BEGIN RAISE NOTICE 'hm'; END$$; SELECT 1/0; SELECT 2" });
  await client.until("done");
  const [row] = (await client.until("rows")).rows;
  check(row[0] === null && row[1] === "" && row[2] === '\x01"\\é' && row[3].bytes === 100000 && row[3].cut === "é".repeat(32768), JSON.stringify(row).slice(0, 200));
  check((await client.until("notice")).notice.message === "hm" && (await client.until("error")).error.code === "22012", "no notice or error");
  for (const [id, sql] of [[2, "COPY nation TO STDOUT"], [3, "COPY nation FROM STDIN"]] as const) {
    client.send({ t: "run", id, sql });
    await until("COPY ends", () => client.got.some((m) => m.t === "done" && m.id === id));
    check(client.got.some((m) => m.t === "error" && m.id === id), "COPY gives no error");
  }
  client.send({ t: "run", id: 4, sql: "SELECT 1 AS n WHERE false" });
  await until("an empty result", () => client.got.some((m) => m.t === "done" && m.id === 4));
  check(client.got.some((m) => m.t === "columns" && m.id === 4), "no columns");
  client.send({ t: "ask", id: 9, sql: "SELECT $1 || $2", args: ["a", null] });
  check(JSON.stringify((await client.until("answer")).rows) === "[[null]]", "wrong answer");
  client.socket.terminate();
});

test("bridge: a slow reader of 100 MB holds the server, not memory; closing frees it", async () => {
  const client = await Client.ready(studio), before = studio.memory();
  (client.socket as any)._socket.pause();
  client.send({ t: "run", id: 1, sql: "SELECT repeat('x', 1000) FROM generate_series(1, 100000)" });
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const slow = studio.memory();
  check(slow.peak - before.now < 24, `memory grew by ${slow.peak - before.now} MB`);
  (client.socket as any)._socket.resume();
  await client.until("done", 60);
  const n = client.got.filter((m) => m.t === "rows").reduce((sum, m) => sum + m.rows.length, 0);
  check(n === 100000, `${n} rows came`);
  const after = studio.memory();
  goal("100 MB to a slow reader: growth of prepack-studio", after.peak - before.now, 24, "MB");
  check(after.peak - before.now < 24, `memory grew by ${after.peak - before.now} MB`);
  client.send({ t: "run", id: 2, sql: "SELECT pg_sleep(600)" });
  client.socket.terminate();
  const other = await Client.ready(studio);
  await until("the closed tab's statement is gone", async () => {
    other.got.length = 0;
    other.send({ t: "ask", id: 1, sql: "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%' AND state = 'active'" });
    return (await other.until("answer")).rows[0][0] === "0";
  });
  other.socket.terminate();
});

test("bridge: adds little to a statement", async () => {
  const client = await Client.ready(studio), took: number[] = [];
  for (let i = 0; i < 200; i++) {
    const begin = performance.now();
    client.send({ t: "ask", id: i, sql: "SELECT (1000 * extract(epoch FROM clock_timestamp() - statement_timestamp()))::text" });
    await new Promise<void>((resolve) => client.socket.once("message", () => resolve()));
    took.push(performance.now() - begin - Number(client.got.at(-1).rows[0][0]));
  }
  goal("what bridge and sockets add to a statement, p50", quantile(took, 0.5), 1, "ms");
  client.socket.terminate();
});

test("bridge: no more tabs than are allowed; SIGINT ends it with tabs open", async () => {
  const clients: Client[] = [];
  await until("earlier tabs are closed", async () => {
    const c = await Client.connect(studio);
    clients.push(c);
    return clients.length >= 20;
  });
  await until("some are refused", () => clients.some((c) => c.got.some((m) => m.code === "tabs")));
  check(clients.filter((c) => !c.closed).length <= 16, "too many are open");
  check((await studio.stop("SIGINT")) === 0, "it did not end well");
});
