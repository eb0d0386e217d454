// page.ts: what the tests of the page do with it.
import type { Page } from "playwright-core";
import { until } from "./harness";

// What an element shows.
export const text = (page: Page, selector: string): Promise<string> => page.locator(selector).innerText();

// Puts a text into the editor as typing does, in place of what is there.
export async function write(page: Page, sql: string): Promise<void> {
  await page.locator(".cm-content").click();
  await page.keyboard.press("Control+A");
  await page.keyboard.press("Delete");
  await page.keyboard.insertText(sql);
}

// Runs what is written and waits for its end.
export async function runQuery(page: Page, sql: string): Promise<void> {
  await until("nothing runs", async () => !(await page.locator("#run").isDisabled()));
  await write(page, sql);
  await page.keyboard.press("Control+Enter");
  await until(`the end of ${sql.slice(0, 40)}`, async () => /^(failed after )?[\d.]+ m?s/.test(await text(page, "#origin")), 60);
}
