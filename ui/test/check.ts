// check.ts: the tests of prepack-studio, in the order of a person's day; see ui/check-ui.
import { closeBrowser, runAll } from "./harness";
import "./bridge.test";
import "./next.test";
import "./page.test";
import "./states.test";

const failed = await runAll();
await closeBrowser();
process.exit(failed > 0 ? 1 : 0);
