/** The Fetch API's shape over protected exchanges. */
import type { Answer } from "./answer.js";
import { decoded, decoders, pullStream, streamFailure } from "./body.js";
import type { Channel } from "./channel.js";
import { RelayError } from "./errors.js";
import type { Head } from "./payload.js";
import { respond } from "./response.js";
import { abortable } from "./waiting.js";

/**
 * Stands for the local server while the platform resolves addresses. It is never looked up: `.invalid`
 * has no addresses (RFC 2606).
 */
const LOCAL = "http://local.invalid";
/** As in the Fetch standard. */
const MAX_REDIRECTS = 20;
const NULL_BODY = new Set([204, 205, 304]);
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** Go with the body when a redirect turns the request into a GET. */
const BODY_HEADERS = [
  "content-encoding",
  "content-language",
  "content-location",
  "content-type",
  "content-length",
];
/**
 * Set on the way by the browser, the relay or the agent, so that signing what the caller gave would
 * make the request fail. They are left out, as the platform leaves out forbidden headers.
 */
const NOT_THE_CALLERS =
  /^(?:x-relay-.*|x-relayed|x-vk-relayed|x-forwarded-.*|forwarded|x-real-ip|x-request-id|signature|signature-input|content-digest|user-agent|accept-encoding|cookie|host|connection|keep-alive|te|trailer|transfer-encoding|content-length|upgrade|expect|origin|referer|date|via|dnt|proxy-.*|sec-.*)$/;

/** The agent's own paths (PROTOCOL.md section 3), which the local server may not have this browser ask for. */
const AGENTS_OWN = /^\/_relay(?:\/|$)/i;

/**
 * The path and query that a caller means. Paths are the local server's own; what names another origin
 * is refused, except the page's own, because that is what the platform puts before a path in a `Request`. So is
 * what the agent itself would answer: a redirect must not lead there with this browser's authority.
 * @throws TypeError
 */
export function localTarget(input: string | URL, base = "/"): string {
  const url = new URL(input, new URL(base, LOCAL));
  const page = globalThis.location?.origin;
  const relative = typeof input === "string" && url.origin === LOCAL;
  if (!relative && url.origin !== LOCAL && (page === undefined || page === "null" || url.origin !== page)) {
    throw new TypeError(`not a path of the local server: ${url.origin}`);
  }
  if (url.username !== "" || url.password !== "") throw new TypeError("the address has credentials");
  if (AGENTS_OWN.test(url.pathname))
    throw new TypeError("not a path of the local server: it is the agent's own");
  return url.pathname + url.search;
}

interface Call {
  method: string;
  target: string;
  headers: Headers;
  body: Blob | undefined;
}

/** Lets the platform make method, headers and body out of what the caller gave. */
async function normalised(
  input: string | URL | Request,
  init: RequestInit,
  signal: AbortSignal,
): Promise<Call & { redirect: RequestRedirect }> {
  const picked: RequestInit & { duplex?: "half" } = {};
  if (init.method !== undefined) picked.method = init.method;
  if (init.headers !== undefined) picked.headers = init.headers;
  if (init.redirect !== undefined) picked.redirect = init.redirect;
  if (init.body !== undefined && init.body !== null) picked.body = init.body;
  if (init.body instanceof ReadableStream) picked.duplex = "half";
  const target = localTarget(input instanceof Request ? input.url : input);
  const request = input instanceof Request ? new Request(input, picked) : new Request(LOCAL + target, picked);

  const headers = new Headers();
  request.headers.forEach((value, name) => {
    if (!NOT_THE_CALLERS.test(name)) headers.set(name, value);
  });
  // Not every browser has `Request.body`; there an empty body stands for none.
  const mayHave = request.method !== "GET" && request.method !== "HEAD";
  const hasBody = mayHave && (picked.body !== undefined || (input instanceof Request && input.body !== null));
  const body = hasBody ? await abortable(request.blob(), signal) : undefined;
  return { method: request.method, target, headers, body, redirect: request.redirect };
}

/** The answer's head, and its body when there can be one. */
interface Received extends Head {
  body: ReadableStream<Uint8Array<ArrayBuffer>> | null;
}

/** Whether the caller wants redirects followed, and this is one. */
function isFollowed(head: Head, mode: RequestRedirect): boolean {
  return mode !== "manual" && REDIRECTS.has(head.status) && head.headers.has("location");
}

async function receive(
  answer: Answer,
  method: string,
  mode: RequestRedirect,
  signal: AbortSignal,
): Promise<Received> {
  const { status, headers, next, cancel } = answer;
  try {
    if (NULL_BODY.has(status) || method === "HEAD") {
      if ((await next()) !== undefined) {
        throw new RelayError("bad_answer", { status, verified: true, detail: "A body where there is none." });
      }
      return { status, headers, body: null };
    }
    const unread = isFollowed({ status, headers }, mode);
    const through = unread ? [] : decoders(headers.get("content-encoding"));
    if (through.length === 0) return { status, headers, body: pullStream(next, cancel) };
    headers.delete("content-encoding");
    headers.delete("content-length");
    const plain = decoded(next, through, cancel);
    return { status, headers, body: pullStream(plain, plain.cancel) };
  } catch (cause) {
    await cancel();
    throw streamFailure(cause, signal);
  }
}

/** The call that a redirect asks for, as the Fetch standard's HTTP-redirect fetch has it. */
export function redirectedCall(call: Call, status: number, location: string): Call {
  let target: string;
  try {
    const url = new URL(location, LOCAL + call.target);
    if (url.origin !== LOCAL) throw new TypeError("another origin");
    target = localTarget(location, call.target);
  } catch (cause) {
    const detail = 'The local server redirects to another site. Use redirect: "manual" to see where.';
    throw new RelayError("redirect_refused", { status, verified: true, detail, cause });
  }
  const toGet =
    ((status === 301 || status === 302) && call.method === "POST") ||
    (status === 303 && call.method !== "GET" && call.method !== "HEAD");
  if (!toGet) return { ...call, target };
  const headers = new Headers(call.headers);
  for (const name of BODY_HEADERS) headers.delete(name);
  return { method: "GET", target, headers, body: undefined };
}

/** `Location` is not under the signature of an answer in one piece, which in signed sessions a HEAD gets. */
const UNSIGNED = "The local server redirects a HEAD, and where to is not signed. Use GET.";

function refusedRedirect(status: number, detail: string): RelayError {
  return new RelayError("redirect_refused", { status, verified: true, detail });
}

/** What {@link PairedHost.fetch} does; see there. `signal` ends the call and its body. */
export async function fetchOver(
  channel: Channel,
  input: string | URL | Request,
  init: RequestInit,
  signal: AbortSignal,
): Promise<Response> {
  signal.throwIfAborted();
  const first = await normalised(input, init, signal);
  let call: Call = first;
  for (let redirects = 0; ; redirects++) {
    const answer = await channel.request({ ...call, local: true }, signal);
    const { status, headers, body } = await receive(answer, call.method, first.redirect, signal);
    if (!answer.located && REDIRECTS.has(status) && first.redirect !== "manual")
      throw refusedRedirect(status, UNSIGNED);
    const location = headers.get("location");
    if (!isFollowed({ status, headers }, first.redirect) || location === null)
      return respond(status, headers, body, call.target, redirects > 0);
    await answer.cancel();
    if (first.redirect === "error") throw refusedRedirect(status, "The local server redirects.");
    if (redirects === MAX_REDIRECTS) throw refusedRedirect(status, "The local server redirects too often.");
    call = redirectedCall(call, status, location);
  }
}
