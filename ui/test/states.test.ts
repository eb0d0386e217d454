// states.test.ts: servers that lack something, and statements that call models.
import { execSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import type { Page } from "playwright-core";
import { check, openPage, SOCKETS, Studio, test, until } from "./harness";
import { runQuery, text, write } from "./page";

// A database that lacks something: the page says what to do, and still runs statements; then what the person does.
async function plainPage(database: string, advice: string, then: (page: Page) => Promise<void> = async () => undefined): Promise<void> {
  const studio = await Studio.start(database), page = await openPage(studio);
  await until(`advice of "${advice}"`, async () => (await text(page, "#trouble")).includes(advice));
  await runQuery(page, "SELECT 42 AS answer");
  await until("its row", async () => (await text(page, "#grid")).includes("42"));
  await then(page);
  check(page.faults.length === 0, page.faults.join("\n"));
  await page.context().close();
  await studio.stop();
}

// Previews have come to a page that had none.
async function previewComes(page: Page): Promise<void> {
  await until("the advice goes", async () => page.locator("#trouble").isHidden());
  await write(page, "SELECT relname, relkind FROM pg_class WHERE");
  await page.waitForSelector("#preview-grid .grid-row");
}

test("states: a database without the extension is a plain SQL page; following the advice gives previews", () =>
  plainPage("plain", "CREATE EXTENSION prepack", async (page) => {
    await runQuery(page, "CREATE EXTENSION prepack");
    await previewComes(page);
    await runQuery(page, "DROP EXTENSION prepack");
    await until("the advice is back", async () => (await text(page, "#trouble")).includes("CREATE EXTENSION prepack"));
  }));
test("states: an extension older than previews is a plain SQL page", () => plainPage("older", "ALTER EXTENSION prepack UPDATE"));
test("states: speculation that is off is a plain SQL page; choosing a level turns it on, for statements too", () =>
  plainPage("resting", "Speculation is off", async (page) => {
    await page.selectOption("#level", "materialize");
    await previewComes(page);
    await runQuery(page, "SHOW prepack.speculation");
    await until("the statements' connection knows", async () => (await text(page, "#grid")).includes("materialize"));
    await runQuery(page, "SET prepack.speculation = plan");
    await until("the page knows", async () => (await page.inputValue("#level")) === "plan");
  }));

test("states: a server that does not preload prepack is a plain SQL page", async () => {
  execSync(process.env.RESTART_BARE!, { stdio: "ignore", cwd: "/tmp" });
  try {
    await plainPage("postgres", "shared_preload_libraries");
    await plainPage("plain", "CREATE EXTENSION prepack", async (page) => {
      await runQuery(page, "CREATE EXTENSION prepack");
      await until("what else is needed", async () => (await text(page, "#trouble")).includes("shared_preload_libraries"));
      await runQuery(page, "SELECT 43 AS answer");
      await until("its row", async () => (await text(page, "#grid")).includes("43"));
      await runQuery(page, "DROP EXTENSION prepack");
    });
  }
  finally { execSync(process.env.RESTART!, { stdio: "ignore", cwd: "/tmp" }); }
});

test("states: no server: the page says so, and is there when it comes", async () => {
  const folder = mkdtempSync(`${tmpdir()}/studio-`), place = `${folder}/later`;
  const studio = await Studio.start("postgres", "postgres", place), page = await openPage(studio, { waits: false });
  await until("the reason", async () => (await text(page, "#trouble")).includes(place));
  check((await text(page, "#trouble")).includes("Trying again"), await text(page, "#trouble"));
  check(await page.locator("#run").isDisabled(), "a statement can be run");
  await write(page, "SELECT 1");
  check((await text(page, ".cm-content")).includes("SELECT 1"), "nothing can be written");
  check(!existsSync(place), "the server is there already");
  symlinkSync(SOCKETS, place);
  await runQuery(page, "SELECT 44 AS answer");
  await until("its row", async () => (await text(page, "#grid")).includes("44"));
  rmSync(folder, { recursive: true });
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
