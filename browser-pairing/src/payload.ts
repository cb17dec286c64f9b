/** What is inside HEAD, END and CLOSE records. It is the agent's word; only its form is checked here. */
import { fromUtf8, latin1 } from "./encoding.js";
import { RelayError } from "./errors.js";
import { jsonObject } from "./problem.js";

/** A header's name as HTTP/2 writes it. */
const NAME = /^[a-z0-9!#$%&'*+.^_`|~-]+$/;
/**
 * Whether a CLOSE may name a code (RFC 6455 section 7.4): 1004 to 1006 and 1015 stand for closes that no
 * message made, others below 3000 are nobody's.
 */
function isCloseCode(code: number): boolean {
  return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

/** The status and headers of the local server's answer. */
export interface Head {
  status: number;
  headers: Headers;
}

/** What a CLOSE says; `code` is undefined when it says nothing. */
export interface Close {
  code: number | undefined;
  reason: string;
}

function malformed(what: string): RelayError {
  return new RelayError("bad_answer", { verified: true, detail: `The host sent a malformed ${what}.` });
}

/** Headers from the pairs of a record, or undefined when they are none. */
function readHeaders(list: unknown): Headers | undefined {
  if (!Array.isArray(list)) return undefined;
  const headers = new Headers();
  for (const entry of list as unknown[]) {
    const [name, value] = Array.isArray(entry) && entry.length === 2 ? (entry as unknown[]) : [];
    if (typeof name !== "string" || typeof value !== "string" || !NAME.test(name)) return undefined;
    try {
      latin1(value);
      headers.append(name, value);
    } catch {
      return undefined;
    }
  }
  return headers;
}

/** Reads a HEAD. Statuses that the platform has no `Response` for are refused. @throws RelayError `bad_answer` */
export function readHead(payload: Uint8Array): Head {
  const json = jsonObject(payload);
  const status = json?.["status"];
  const headers = readHeaders(json?.["headers"]);
  if (typeof status !== "number" || !Number.isInteger(status) || status < 100 || status > 599) {
    throw malformed("head");
  }
  if (headers === undefined) throw malformed("head");
  return { status, headers };
}

/** Checks an END. The trailers in it have no place in a `Response`. @throws RelayError `bad_answer` */
export function checkEnd(payload: Uint8Array): void {
  if (payload.length > 0 && readHeaders(jsonObject(payload)?.["trailers"]) === undefined)
    throw malformed("end");
}

/** Reads a CLOSE. @throws RelayError `bad_answer` */
export function readClose(payload: Uint8Array): Close {
  if (payload.length === 0) return { code: undefined, reason: "" };
  const code = ((payload[0] ?? 0) << 8) | (payload[1] ?? 0);
  const reason = fromUtf8(payload.subarray(2));
  if (payload.length < 2 || payload.length > 125 || reason === undefined || !isCloseCode(code)) {
    throw malformed("close");
  }
  return { code, reason };
}
