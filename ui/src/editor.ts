// editor.ts: CodeMirror with PostgreSQL's SQL, ghost text, the outlined block and quiet underlines.
//
// Ghost text is a widget beside the cursor. It is in the text only once a key takes it; typing what it
// says shortens it, anything else sends it away.
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { PostgreSQL, sql } from "@codemirror/lang-sql";
import { bracketMatching, HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { EditorState, Prec, StateEffect, StateField, Transaction, type ChangeSpec } from "@codemirror/state";
import { Decoration, drawSelection, EditorView, keymap, lineNumbers, placeholder, WidgetType, type DecorationSet } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { rangesAt } from "./blocks";

interface Ghost { at: number; text: string }

const setGhost = StateEffect.define<Ghost | null>();
const setWrong = StateEffect.define<{ from: number; to: number } | null>();

class GhostWidget extends WidgetType {
  constructor(readonly text: string) { super(); }
  eq(other: GhostWidget): boolean { return other.text === this.text; }
  toDOM(): HTMLElement {
    const span = document.createElement("span");
    span.className = "cm-ghost";
    span.setAttribute("aria-hidden", "true");
    span.textContent = this.text;
    return span;
  }
}

// What is left of the ghost after a change: typing its own characters goes through it.
function after(ghost: Ghost, tr: Transaction): Ghost | null {
  let left: Ghost | null = null;
  let n = 0;
  tr.changes.iterChanges((fromA, toA, _fromB, toB, inserted) => {
    const typed = inserted.toString();
    if (++n === 1 && fromA === ghost.at && toA === fromA && ghost.text.startsWith(typed) && typed.length < ghost.text.length)
      left = { at: toB, text: ghost.text.slice(typed.length) };
    else left = null;
  });
  return n === 1 ? left : null;
}

const ghostField = StateField.define<Ghost | null>({
  create: () => null,
  update(ghost, tr) {
    for (const e of tr.effects) if (e.is(setGhost)) return e.value;
    if (ghost && tr.docChanged) ghost = after(ghost, tr);
    return ghost && tr.state.selection.main.empty && tr.state.selection.main.head === ghost.at ? ghost : null;
  },
  provide: (field) => EditorView.decorations.from(field, (ghost) =>
    ghost ? Decoration.set(Decoration.widget({ widget: new GhostWidget(ghost.text), side: 1 }).range(ghost.at)) : Decoration.none),
});

const wrongField = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(marks, tr) {
    for (const e of tr.effects)
      if (e.is(setWrong)) return e.value ? Decoration.set(Decoration.mark({ class: "cm-wrong" }).range(e.value.from, e.value.to)) : Decoration.none;
    return tr.docChanged ? Decoration.none : marks;
  },
  provide: (field) => EditorView.decorations.from(field),
});

// Lines of the block under the cursor, when it is not the whole text.
const blockField = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(marks, tr) {
    if (!tr.docChanged && !tr.selection) return marks;
    const doc = tr.state.doc;
    const { block } = rangesAt(doc.toString(), tr.state.selection.main.head);
    const lines = [];
    const first = doc.lineAt(block.from).number, last = doc.lineAt(Math.min(block.to, doc.length)).number;
    for (let i = first; i <= last && doc.length > 0; i++) lines.push(Decoration.line({ class: "cm-block" }).range(doc.line(i).from));
    return Decoration.set(lines);
  },
  provide: (field) => EditorView.decorations.from(field),
});

// Takes the ghost, or its first word.
function accept(view: EditorView, wordOnly: boolean): boolean {
  const ghost = view.state.field(ghostField);
  if (!ghost) return false;
  const text = wordOnly ? /^\s*(\w+|[^\w\s]+)?/.exec(ghost.text)![0] || ghost.text : ghost.text;
  const rest = ghost.text.slice(text.length);
  const change: ChangeSpec = { from: ghost.at, insert: text };
  view.dispatch({
    changes: change, selection: { anchor: ghost.at + text.length }, userEvent: "input.complete",
    effects: setGhost.of(rest ? { at: ghost.at + text.length, text: rest } : null),
  });
  return true;
}

const colours = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--accent)", fontWeight: "600" },
  { tag: [tags.string, tags.special(tags.string)], color: "light-dark(#27602e, #9bd6a1)" },
  { tag: tags.number, color: "light-dark(#8a3b00, #f0b27a)" },
  { tag: tags.comment, color: "var(--quiet)", fontStyle: "italic" },
]);

export interface EditorEvents { changed(text: string, cursor: number): void; run(): void }

export class Editor {
  readonly view: EditorView;

  constructor(parent: HTMLElement, text: string, events: EditorEvents) {
    const nonce = document.querySelector<HTMLMetaElement>("meta[property=csp-nonce]")?.nonce ?? "";
    const run = () => { events.run(); return true; };
    this.view = new EditorView({
      parent,
      state: EditorState.create({
        doc: text,
        extensions: [
          EditorView.cspNonce.of(nonce), lineNumbers(), history(), drawSelection(), bracketMatching(),
          EditorView.lineWrapping, placeholder("SELECT …"), sql({ dialect: PostgreSQL }), syntaxHighlighting(colours),
          ghostField, wrongField, blockField,
          EditorView.contentAttributes.of({ "aria-label": "SQL editor", "aria-describedby": "estimate" }),
          Prec.highest(keymap.of([
            { key: "Mod-Enter", run },
            { key: "Tab", run: (v) => accept(v, false) }, { key: "ArrowRight", run: (v) => accept(v, false) },
            { key: "Mod-ArrowRight", run: (v) => accept(v, true) },
            { key: "Escape", run: (v) => { const had = v.state.field(ghostField) !== null; v.dispatch({ effects: setGhost.of(null) }); return had; } },
          ])),
          keymap.of([...defaultKeymap, ...historyKeymap, indentWithTab]),
          EditorView.updateListener.of((u) => {
            if (u.docChanged || u.selectionSet) events.changed(u.state.doc.toString(), u.state.selection.main.head);
          }),
          EditorView.theme({
            "&": { color: "var(--ink)", fontSize: "14px" }, ".cm-content": { caretColor: "var(--ink)" },
            ".cm-cursor": { borderLeftColor: "var(--ink)" }, ".cm-scroller": { fontFamily: "ui-monospace, monospace" },
            ".cm-gutters": { background: "var(--soft)", color: "var(--quiet)", border: "none" },
            ".cm-placeholder": { color: "var(--quiet)" },
            "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { background: "color-mix(in srgb, var(--accent) 30%, transparent) !important" },
          }),
        ],
      }),
    });
  }

  get text(): string { return this.view.state.doc.toString(); }
  get cursor(): number { return this.view.state.selection.main.head; }

  // What Run would run: the selection, or the statement under the cursor.
  statement(): { from: number; text: string } {
    const selected = this.view.state.selection.main;
    if (!selected.empty) return { from: selected.from, text: this.view.state.sliceDoc(selected.from, selected.to) };
    let { statement } = rangesAt(this.text, this.cursor);
    if (statement.from >= statement.to) statement = rangesAt(this.text, this.text.trimEnd().length - 1).statement;
    return { from: statement.from, text: this.text.slice(statement.from, statement.to) };
  }

  showGhost(at: number, text: string): void { this.view.dispatch({ effects: setGhost.of(text ? { at, text } : null) }); }

  // Underlines the word at a position.
  showWrong(from: number): void {
    const length = /^(\w+|\S|)/.exec(this.text.slice(from))![0].length || 1;
    const to = Math.min(this.text.length, from + length);
    this.view.dispatch({ effects: setWrong.of(from < to ? { from, to } : null) });
  }

  // Replaces the text, as one change that can be undone.
  replace(text: string): void {
    this.view.dispatch({ changes: { from: 0, to: this.view.state.doc.length, insert: text }, selection: { anchor: text.length } });
    this.view.focus();
  }
}
