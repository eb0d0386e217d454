// states.test.ts: servers that lack something, and statements that call models.
import { execSync } from "node:child_process";
import { check, openPage, Studio, test, until } from "./harness";
import { runQuery, text, write } from "./page";

// A database that lacks something: the page says what to do, and still runs statements.
async function plainPage(database: string, advice: string): Promise<void> {
  const studio = await Studio.start(database), page = await openPage(studio);
  await until(`advice of "${advice}"`, async () => (await text(page, "#trouble")).includes(advice));
  await runQuery(page, "SELECT 42 AS answer");
  await until("its row", async () => (await text(page, "#grid")).includes("42"));
  check(page.faults.length === 0, page.faults.join("\n"));
  await page.context().close();
  await studio.stop();
}

test("states: a database without the extension is a plain SQL page", () => plainPage("plain", "CREATE EXTENSION prepack"));
test("states: an extension older than previews is a plain SQL page", () => plainPage("older", "ALTER EXTENSION prepack UPDATE"));
test("states: speculation that is off is a plain SQL page", () => plainPage("resting", "Speculation is off"));

test("states: a server that does not preload prepack is a plain SQL page", async () => {
  execSync(process.env.RESTART_BARE!, { stdio: "ignore", cwd: "/tmp" });
  try { await plainPage("postgres", "shared_preload_libraries"); }
  finally { execSync(process.env.RESTART!, { stdio: "ignore", cwd: "/tmp" }); }
});

test("states: no server: the page says so, and is there when it comes", async () => {
  const studio = await Studio.start("postgres", "postgres", "/nowhere"), page = await openPage(studio, { waits: false });
  await until("the reason", async () => (await text(page, "#trouble")).includes("/nowhere"));
  check((await text(page, "#trouble")).includes("Trying again"), await text(page, "#trouble"));
  check(await page.locator("#run").isDisabled(), "a statement can be run");
  await write(page, "SELECT 1");
  check((await text(page, ".cm-content")).includes("SELECT 1"), "nothing can be written");
  await page.context().close();
  await studio.stop();
});

test("states: calls to models: an estimate, progress, Cancel", async () => {
  const studio = await Studio.start(), page = await openPage(studio);
  await write(page, "SELECT prepack.generate(n_name, model => 'dummy') FROM nation");
  await until("rows are estimated", async () => (await text(page, "#estimate")).includes("about 25 rows to the model"));
  await runQuery(page, "SELECT prepack.generate(n_name, model => 'dummy') FROM nation");
  await write(page, "SELECT prepack.generate(n_name, model => 'dummy') FROM nation WHERE n_nationkey >= 0");
  await until("tokens and time are estimated", async () => /rows to the model, [\d,]+ tokens, [\d.]+ m?s/.test(await text(page, "#estimate")));
  await write(page, "SELECT prepack.generate(n_name, model => 'dummy'), prepack.is_true(n_comment, 'x', model => 'dummy') FROM nation");
  await until("each function is estimated", async () => (await text(page, "#estimate")).includes("about 50 rows to the model (generate 25, is_true 25)"));
  check((await text(page, "#estimate")).includes("no earlier call of is_true"), await text(page, "#estimate"));
  await page.keyboard.press("Control+Enter");
  await until("it has run", async () => /^[\d.]+ m?s; 25 rows/.test(await text(page, "#origin")));
  await page.keyboard.type(" ");
  await until("both tell how long", async () => /rows to the model \(generate 25, is_true 25\), [\d,]+ tokens, [\d.]+ m?s$/.test(await text(page, "#estimate")));
  await write(page, "SELECT count(prepack.generate('item ' || i, model => 'dummy')) FROM generate_series(1, 50000000) i");
  await page.keyboard.press("Control+Enter");
  await until("progress", async () => /generate: \d+ of \d+ rows/.test(await text(page, "#origin")));
  await page.click("#cancel");
  await until("it is cancelled", async () => (await text(page, "#messages")).includes("canceling statement"));
  await runQuery(page, "SELECT 'well' AS word");
  await until("its row", async () => (await text(page, "#grid")).includes("well"));
  await page.context().close();
  await studio.stop();
});
