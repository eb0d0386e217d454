// blocks.ts: where statements and query blocks begin and end in a text, finished or not.
//
// A scanner that knows strings, quoted names, dollar quotes and comments; the server decides what a
// block means, this only finds what to outline and what to run.

export interface Range { from: number; to: number }

// The end of the quoted or commented piece that begins at i, or i when none does.
export function skip(text: string, i: number): number {
  const two = text.slice(i, i + 2);
  if (two === "--") {
    const end = text.indexOf("\n", i);
    return end < 0 ? text.length : end;
  }
  if (two === "/*") {
    let depth = 1;
    for (i += 2; i < text.length && depth > 0; i++) {
      const pair = text.slice(i, i + 2);
      if (pair === "/*") { depth++; i++; } else if (pair === "*/") { depth--; i++; }
    }
    return i;
  }
  const c = text[i];
  if (c === "'" || c === '"') {
    const escapes = c === "'" && /(^|[^\w$])[eE]$/.test(text.slice(Math.max(0, i - 2), i));
    for (i++; i < text.length; i++) {
      if (escapes && text[i] === "\\") i++;
      else if (text[i] === c) {
        if (text[i + 1] !== c) return i + 1;
        i++;
      }
    }
    return text.length;
  }
  if (c === "$" && !/[\w$]/.test(text[i - 1] ?? "")) {
    const tag = /^\$(?:[A-Za-z_]\w*)?\$/.exec(text.slice(i, i + 64))?.[0];
    if (tag) {
      const end = text.indexOf(tag, i + tag.length);
      return end < 0 ? text.length : end + tag.length;
    }
  }
  return i;
}

// The statement and the innermost query block around a position.
export function rangesAt(text: string, at: number): { statement: Range; block: Range } {
  const statement = { from: 0, to: text.length };
  let open: number[] = [];
  let block: Range | null = null;
  for (let i = 0; i < text.length;) {
    const next = skip(text, i);
    if (next > i) { i = next; continue; }
    const c = text[i];
    if (c === "(") open.push(i + 1);
    else if (c === ")") {
      const from = open.pop();
      if (from !== undefined && block === null && from <= at && at <= i && isQuery(text.slice(from, i))) block = { from, to: i };
    } else if (c === ";") {
      if (i >= at) { statement.to = i; break; }
      statement.from = i + 1;
      open = [];
      block = null;
    }
    i++;
  }
  if (block === null)
    for (const from of open.reverse())
      if (from <= at && isQuery(text.slice(from, statement.to))) { block = { from, to: statement.to }; break; }
  statement.from += /^\s*/.exec(text.slice(statement.from, statement.to))![0].length;
  return { statement, block: block ?? statement };
}

function isQuery(text: string): boolean {
  return /^\s*(select|with|values|table)\b/i.test(text);
}
