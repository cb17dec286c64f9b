/** The HEAD of a request in an exchange (PROTOCOL.md section 5.2): what a browser would have said itself. */
import { utf8 } from "./encoding.js";
import { RelayError } from "./errors.js";
import { MAX_HEAD } from "./record.js";

/** What scripts can decode in every browser. */
const CODINGS = "gzip, deflate";
/** As many as browsers list. */
const MAX_LANGUAGES = 6;

/** The part of `navigator` that a request tells. */
export interface Asker {
  userAgent?: string | undefined;
  languages?: readonly string[] | undefined;
  /** Of the page. */
  origin?: string | undefined;
}

/** Who asks, on this page. */
export function thisBrowser(): Asker {
  const { navigator, location } = globalThis;
  return { userAgent: navigator?.userAgent, languages: navigator?.languages, origin: location?.origin };
}

/** `de-CH, de;q=0.9, en;q=0.8` */
function acceptLanguage(languages: readonly string[]): string {
  return languages
    .slice(0, MAX_LANGUAGES)
    .map((name, i) => (i === 0 ? name : `${name};q=${(1 - i / 10).toFixed(1)}`))
    .join(", ");
}

/** The caller's headers and what a browser puts beside them; what the caller may say too is the caller's. */
export function browserHeaders(
  method: string,
  given: Headers,
  asker: Asker,
  websocket: boolean,
): [string, string][] {
  const headers = new Headers(given);
  const unlessGiven = (name: string, value: string | undefined) => {
    if (value !== undefined && value !== "" && !headers.has(name)) headers.set(name, value);
  };
  if (!websocket) {
    unlessGiven("accept", "*/*");
    headers.set("accept-encoding", CODINGS);
  }
  unlessGiven("accept-language", acceptLanguage(asker.languages ?? []));
  unlessGiven("user-agent", asker.userAgent);
  const plain = method === "GET" || method === "HEAD";
  if (websocket || !plain) unlessGiven("origin", asker.origin);
  const list: [string, string][] = [];
  headers.forEach((value, name) => {
    list.push([name, value]);
  });
  return list;
}

/** What is asked, as the payload of a HEAD record. @throws RelayError `header_too_large` */
export function requestHead(
  method: string,
  target: string,
  headers: [string, string][],
  websocket = false,
): Uint8Array<ArrayBuffer> {
  const head = utf8(JSON.stringify({ method, target, headers, ...(websocket ? { websocket } : {}) }));
  if (head.length > MAX_HEAD) {
    throw new RelayError("header_too_large", { detail: "Path and headers may have 256 KiB at most." });
  }
  return head;
}
