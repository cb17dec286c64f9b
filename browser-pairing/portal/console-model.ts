// The request console without its page: what a person typed becomes a request or a complaint, what
// comes back becomes bounded text or hex, and a history keeps the last requests of this page.

/** Text shown of one body; a megabyte is more than anybody reads, and a page stays quick with it. */
export const MAX_TEXT = 1024 * 1024;
/** Hex takes four times the room and is read even less. */
export const MAX_HEX = 64 * 1024;
/** Requests kept in the history. */
export const MAX_HISTORY = 50;
/** Lines kept in a log of events or messages. */
export const MAX_LOG = 500;

export const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] as const;
export type Method = (typeof METHODS)[number];

export interface Draft {
  readonly method: Method;
  readonly path: string;
  /** As typed: one `name: value` a line. */
  readonly headers: string;
  readonly body: string;
}

export type Checked =
  | {
      readonly ok: true;
      readonly path: string;
      readonly headers: readonly (readonly [string, string])[];
      readonly body: string | undefined;
    }
  | { readonly ok: false; readonly field: "path" | "headers" | "body"; readonly complaint: string };

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
/** Tab, printable ASCII and the upper half of Latin-1: what a header value may hold. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;

export function takesBody(method: Method): boolean {
  return method !== "GET" && method !== "HEAD";
}

/** A path of the host: begins with a slash, has no fragment, no spaces, no host name. */
export function checkPath(typed: string): { readonly path: string } | { readonly complaint: string } {
  const path = typed.trim() === "" ? "/" : typed.trim();
  if (!path.startsWith("/")) return { complaint: "A path begins with a slash, as in /api/items?page=1." };
  if (/^\/[/\\]/.test(path))
    return { complaint: "A path begins with one slash: two would name another machine." };
  if (path.includes("#")) return { complaint: "A path has no #: that part never leaves the browser." };
  if (!/^[\x21-\x7e]+$/.test(path))
    return { complaint: "Write spaces and special letters percent-encoded, as in %20." };
  if (path.length > 8192) return { complaint: "This path is longer than 8,192 characters." };
  return { path };
}

export function parseHeaders(
  typed: string,
): { readonly headers: [string, string][] } | { readonly complaint: string } {
  const headers: [string, string][] = [];
  for (const [index, line] of typed.split(/\r?\n/).entries()) {
    if (line.trim() === "") continue;
    const colon = line.indexOf(":");
    const name = line.slice(0, Math.max(colon, 0)).trim();
    const value = line.slice(colon + 1).trim();
    if (colon < 1 || !TOKEN.test(name))
      return { complaint: `Line ${index + 1} is no header. Write name: value.` };
    if (!VALUE.test(value))
      return { complaint: `The value in line ${index + 1} has characters that a header cannot carry.` };
    headers.push([name, value]);
  }
  return { headers };
}

export function check(draft: Draft): Checked {
  const path = checkPath(draft.path);
  if ("complaint" in path) return { ok: false, field: "path", complaint: path.complaint };
  const headers = parseHeaders(draft.headers);
  if ("complaint" in headers) return { ok: false, field: "headers", complaint: headers.complaint };
  if (draft.body !== "" && !takesBody(draft.method)) {
    return {
      ok: false,
      field: "body",
      complaint: `${draft.method} has no body. Empty it, or choose another method.`,
    };
  }
  return {
    ok: true,
    path: path.path,
    headers: headers.headers,
    body: draft.body === "" ? undefined : draft.body,
  };
}

/** Whether a content type says text; undefined when it says nothing, and the bytes decide. */
export function isTextType(contentType: string | null): boolean | undefined {
  const type = (contentType ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  if (type === "" || type === "application/octet-stream") return undefined;
  if (type.startsWith("text/") || /[+/](json|xml|javascript|ecmascript|yaml)$/.test(type)) return true;
  return /^application\/(x-www-form-urlencoded|x-ndjson|graphql|toml|sql)$/.test(type);
}

/** Bytes that no text has. */
export function looksBinary(chunk: Uint8Array): boolean {
  return chunk.subarray(0, 1024).some((byte) => byte < 0x09 || (byte > 0x0d && byte < 0x20 && byte !== 0x1b));
}

/** Rows of 16 bytes: offset, hex, ASCII. `offset` is that of the first byte, a multiple of 16. */
export function hexRows(data: Uint8Array, offset: number): string {
  let rows = "";
  for (let start = 0; start < data.length; start += 16) {
    const row = data.subarray(start, start + 16);
    const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const ascii = Array.from(row, (byte) =>
      byte > 0x1f && byte < 0x7f ? String.fromCharCode(byte) : "·",
    ).join("");
    rows += `${(offset + start).toString(16).padStart(8, "0")}  ${hex.padEnd(47)}  ${ascii}\n`;
  }
  return rows;
}

/** Turns a body that comes in pieces into what is shown of it. Everything is counted, not everything is kept. */
export class BodyView {
  readonly #decoder = new TextDecoder();
  #text: boolean | undefined;
  #row = new Uint8Array(0);
  #shown = 0;
  total = 0;
  /** Whether there was more than is shown. */
  cut = false;

  constructor(contentType: string | null) {
    this.#text = isTextType(contentType);
  }

  get kind(): "text" | "hex" {
    return this.#text === false ? "hex" : "text";
  }

  /** What to append to the shown body for these bytes. */
  push(chunk: Uint8Array): string {
    if (chunk.length > 0) this.#text ??= !looksBinary(chunk);
    const limit = this.#text === false ? MAX_HEX : MAX_TEXT;
    this.total += chunk.length;
    const room = chunk.subarray(0, Math.max(0, limit - this.#shown));
    this.#shown += room.length;
    if (room.length < chunk.length) this.cut = true;
    return this.#text === false ? this.#hex(room) : this.#decoder.decode(room, { stream: true });
  }

  /** What is still to be shown at the end: the last, short row, or a broken character. */
  finish(): string {
    if (this.#text !== false) return this.cut ? "" : this.#decoder.decode();
    const rest = hexRows(this.#row, this.#shown - this.#row.length);
    this.#row = new Uint8Array(0);
    return rest;
  }

  #hex(room: Uint8Array): string {
    const pending = new Uint8Array(this.#row.length + room.length);
    pending.set(this.#row);
    pending.set(room, this.#row.length);
    const whole = pending.length - (pending.length % 16);
    this.#row = pending.slice(whole);
    return hexRows(pending.subarray(0, whole), this.#shown - pending.length);
  }
}

export interface Entry {
  readonly id: number;
  readonly draft: Draft;
  /** The status, a short word for what went wrong, or "…" while it runs. */
  readonly outcome: string;
  readonly totalMs: number | undefined;
}

/** Newest first, bounded; entries are replaced as they end. */
export function remember(history: readonly Entry[], entry: Entry): readonly Entry[] {
  if (history.some((known) => known.id === entry.id))
    return history.map((known) => (known.id === entry.id ? entry : known));
  return [entry, ...history].slice(0, MAX_HISTORY);
}

/** What the usual statuses are called; HTTP/2 and signed heads carry the number alone. */
const REASONS: Readonly<Record<number, string>> = {
  200: "OK",
  201: "Created",
  202: "Accepted",
  204: "No Content",
  206: "Partial Content",
  301: "Moved Permanently",
  302: "Found",
  303: "See Other",
  304: "Not Modified",
  307: "Temporary Redirect",
  308: "Permanent Redirect",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  409: "Conflict",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  422: "Unprocessable Content",
  429: "Too Many Requests",
  500: "Internal Server Error",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
};

/** A status with its words, where it has well-known ones. */
export function statusLine(status: number): string {
  const words = REASONS[status];
  return words === undefined ? String(status) : `${status} ${words}`;
}

/** How a status is coloured; the number and its words stand beside it. */
export function statusKind(status: number): "good" | "moved" | "bad" {
  if (status >= 400) return "bad";
  return status >= 300 ? "moved" : "good";
}
