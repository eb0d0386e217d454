// bridge.ts: the page's end of the WebSocket, as PROTOCOL.md describes it.
//
// The token of the link is taken out of the address at once. The key that it is exchanged for lives in
// sessionStorage, which belongs to this tab and ends with it. Lost sockets are opened anew.

export type Cell = string | null | { cut: string; bytes: number };
export interface ServerError {
  message: string; severity?: string; code?: string; detail?: string; hint?: string; position?: string; context?: string;
}
export interface Column { name: string; type: number; mod: number }
export interface Ready { pid: number; side_pid: number; version: number; user: string; database: string }

export interface Listener {
  ready(session: Ready): void;
  login(message: string): void;
  lost(message: string, retryMs: number): void;
  notify(channel: string, payload: string): void;
  columns(columns: Column[]): void;
  rows(text: string, n: number): void;
  end(tag: string, rows: number): void;
  error(error: ServerError): void;
  notice(notice: ServerError): void;
  done(ms: number, firstMs: number, transaction: string): void;
  refused(code: string, message: string): void;
}

interface Waiting { resolve(rows: Cell[][]): void; reject(error: Error): void }

// An error of the server as an Error.
export class AskError extends Error {
  constructor(readonly server: ServerError) { super(server.message); }
}

// The text of a cell.
export function cellText(cell: Cell): string {
  return cell === null ? "" : typeof cell === "string" ? cell : cell.cut;
}

export class Bridge {
  private socket: WebSocket | null = null;
  private waiting = new Map<number, Waiting>();
  private tickets: ((token: string) => void)[] = [];
  private quiet = new Map<number, () => void>();
  private lastId = 0;
  private runId = 0;
  private tries = 0;
  private token: string;

  constructor(private listener: Listener) {
    this.token = location.hash.slice(1) || sessionStorage.getItem("key") || "";
    history.replaceState(null, "", location.pathname);
    this.connect();
  }

  // Opens the socket and shows the token.
  private connect(): void {
    const socket = new WebSocket(`ws://${location.host}/`, "prepack-studio");
    this.socket = socket;
    socket.onopen = () => this.send({ t: "hello", token: this.token });
    socket.onmessage = (event) => this.receive(String(event.data));
    socket.onclose = () => this.closed();
  }

  // Fails what waits, and tries again with growing pauses.
  private closed(): void {
    this.socket = null;
    for (const w of this.waiting.values()) w.reject(new Error("the connection was lost"));
    this.waiting.clear();
    this.giveUpQuiet();
    if (this.tries < 0) return;
    const pause = Math.min(8000, 250 * 2 ** this.tries++);
    this.listener.lost("prepack-studio does not answer", pause);
    setTimeout(() => this.connect(), pause);
  }

  private send(message: object): boolean {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  // Rows stay text until they are looked at: a million of them would not fit otherwise.
  private receive(text: string): void {
    if (text.startsWith('{"t":"rows"')) {
      const n = Number(/"n":(\d+)\}$/.exec(text.slice(-24))?.[1] ?? 0);
      if (text.startsWith(`{"t":"rows","id":${this.runId},`)) this.listener.rows(text, n);
      return;
    }
    const m = JSON.parse(text);
    switch (m.t) {
      case "welcome":
        this.token = m.key;
        sessionStorage.setItem("key", m.key);
        this.tries = 0;
        this.open();
        break;
      case "ticket": this.tickets.shift()?.(m.token); break;
      case "answer": this.answer(m); break;
      case "ready": this.listener.ready(m); break;
      case "login": this.giveUpQuiet(); this.listener.login(m.message); break;
      case "lost": this.giveUpQuiet(); this.listener.lost(m.message, m.retry_ms); break;
      case "notify": this.listener.notify(m.channel, m.payload); break;
      case "refused":
        if (m.code === "token" || m.code === "tabs") this.tries = -1;
        this.listener.refused(m.code, m.message);
        break;
      default:
        if (m.t === "done") { this.quiet.get(m.id)?.(); this.quiet.delete(m.id); }
        if (m.id !== this.runId) break;
        if (m.t === "columns") this.listener.columns(m.columns);
        else if (m.t === "end") this.listener.end(m.tag, m.rows);
        else if (m.t === "error") this.listener.error(m.error);
        else if (m.t === "notice") this.listener.notice(m.notice);
        else if (m.t === "done") this.listener.done(m.ms, m.first_ms, m.transaction);
    }
  }

  private answer(m: { id: number; rows?: Cell[][]; error?: ServerError }): void {
    const w = this.waiting.get(m.id);
    this.waiting.delete(m.id);
    if (m.error) w?.reject(new AskError(m.error));
    else w?.resolve(m.rows ?? []);
  }

  // Logs in; what is left out is as the command line says.
  open(user?: string, password?: string, database?: string): void {
    this.send({ t: "open", user: user || null, password: password || null, database: database || null });
  }

  // Asks the side connection.
  ask(sql: string, ...args: (string | null)[]): Promise<Cell[][]> {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      if (!this.send({ t: "ask", id, sql, args })) {
        this.waiting.delete(id);
        reject(new Error("there is no connection"));
      }
    });
  }

  // Runs statements on the main connection.
  run(sql: string): boolean {
    this.runId = ++this.lastId;
    return this.send({ t: "run", id: this.runId, sql });
  }

  // Whoever waits for a quiet statement goes on without it.
  private giveUpQuiet(): void {
    for (const resolve of this.quiet.values()) resolve();
    this.quiet.clear();
  }

  // Runs a statement on the main connection, which must be free, and shows nothing of it.
  runQuietly(sql: string): Promise<void> {
    const id = ++this.lastId;
    return new Promise((resolve) => {
      this.quiet.set(id, resolve);
      if (!this.send({ t: "run", id, sql })) this.giveUpQuiet();
    });
  }

  cancel(): void { this.send({ t: "cancel" }); }

  // A token for another tab.
  ticket(): Promise<string> {
    return new Promise((resolve) => { this.tickets.push(resolve); this.send({ t: "ticket" }); });
  }
}
