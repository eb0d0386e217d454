// repair.ts: what prepack would make of an unfinished text, word by word, when the person asks.
import { cellText, type Bridge } from "./bridge";
import type { Editor } from "./editor";

const WORDS_MAX = 600;

// The words of a and b, marked as kept, removed or added: the longest common subsequence.
export function diff(a: string, b: string): { kind: "kept" | "removed" | "added"; text: string }[] {
  const words = (s: string) => (s.match(/\s+|\w+|[^\w\s]/g) ?? []).slice(0, WORDS_MAX);
  const x = words(a), y = words(b), out: { kind: "kept" | "removed" | "added"; text: string }[] = [];
  const length = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1));
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      length[i][j] = x[i] === y[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  let i = 0, j = 0;
  while (i < x.length || j < y.length)
    if (i < x.length && j < y.length && x[i] === y[j]) { out.push({ kind: "kept", text: x[i++] }); j++; }
    else if (j >= y.length || (i < x.length && length[i + 1][j] >= length[i][j + 1])) out.push({ kind: "removed", text: x[i++] });
    else out.push({ kind: "added", text: y[j++] });
  return out;
}

// Shows the repaired blocks; a button takes the one of the whole statement.
export async function repairView(bridge: Bridge, editor: Editor): Promise<void> {
  const box = document.getElementById("repair-view")!, { from, text } = editor.statement();
  box.hidden = false;
  try {
    const found = await bridge.ask("SELECT block, sql, valid, changes FROM prepack.repair_sql($1)", text);
    const main = found.find((r) => cellText(r[0]).startsWith("main")) ?? found[0];
    if (!main) { box.textContent = "There is nothing to repair here."; return; }
    const pre = document.createElement("pre"), take = document.createElement("button"), close = document.createElement("button"), note = document.createElement("p");
    pre.append(...diff(text, cellText(main[1]).trim()).map((d) => {
      const e = document.createElement(d.kind === "added" ? "ins" : d.kind === "removed" ? "del" : "span");
      if (d.kind !== "kept") e.className = d.kind;
      e.textContent = d.text;
      return e;
    }));
    note.textContent = cellText(main[3]) || "Nothing has to change.";
    take.textContent = "Take it";
    close.textContent = "Close";
    for (const b of [take, close]) b.type = "button";
    take.addEventListener("click", () => { editor.replace(editor.text.slice(0, from) + cellText(main[1]).trim() + editor.text.slice(from + text.length)); box.hidden = true; });
    close.addEventListener("click", () => { box.hidden = true; });
    box.replaceChildren(pre, note, take, " ", close);
  } catch (e) { box.textContent = (e as Error).message; }
}
