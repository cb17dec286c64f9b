/**
 * The way to a host over one relay: browser sessions, and sending below their prefix.
 *
 * Nothing here is verified. The relay may answer what it likes; all that its unsigned words can do is
 * to make this link ask for a browser session again, once for each request.
 */

import { uuid } from "./encoding.js";
import { RelayError } from "./errors.js";
import { isProblem, type Json, jsonObject, problemError } from "./problem.js";
import type { RelayAccess } from "./types.js";
import { abortable, timed } from "./waiting.js";

/** Problems and the SDK's own answers are not larger. */
const MAX_SMALL_ANSWER = 64 * 1024;
/** Answers of the agent in one piece are not larger (PROTOCOL.md section 4.3). */
export const MAX_BUFFERED = 8 * 1024 * 1024;

/** What one call of the SDK's user may still repeat. Each kind once, so that nothing ever loops. */
export class Budget {
  readonly #spent = new Set<string>();

  /** True the first time for each kind. */
  spend(kind: "relay_session" | "signed_anew"): boolean {
    if (this.#spent.has(kind)) return false;
    this.#spent.add(kind);
    return true;
  }
}

/** A request that is ready to be sent, and can be sent again as it is. */
export interface Outgoing {
  method: string;
  /** Path and query, as they were signed. */
  target: string;
  headers: Headers;
  body?: Blob | undefined;
}

/** Reads a body that must be small. @throws RelayError `bad_answer` when it is not */
export async function readLimited(response: Response, limit: number): Promise<Uint8Array<ArrayBuffer>> {
  const reader = response.body?.getReader();
  const chunks: Uint8Array[] = [];
  let length = 0;
  if (reader !== undefined) {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      length += part.value.length;
      if (length > limit) {
        await reader.cancel().catch(() => undefined);
        throw new RelayError("bad_answer", { status: response.status, detail: "The answer is too large." });
      }
      chunks.push(part.value);
    }
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

/** Reads an answer in one piece. @throws RelayError `truncated`, `bad_answer`; the signal's reason */
export async function readAnswer(
  response: Response,
  signal: AbortSignal | undefined,
): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await readLimited(response, MAX_BUFFERED);
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    if (cause instanceof RelayError) throw cause;
    throw new RelayError("truncated", { status: response.status, detail: "The answer broke off.", cause });
  }
}

/** The relay's address without a slash at its end. @throws TypeError */
export function relayBase(text: string): string {
  const url = new URL(text);
  if (url.protocol !== "https:" && url.protocol !== "http:")
    throw new TypeError("the relay's URL is not http(s)");
  if (url.username !== "" || url.password !== "" || url.search !== "" || url.hash !== "") {
    throw new TypeError("the relay's URL has credentials, a query or a fragment");
  }
  return url.origin + url.pathname.replace(/\/+$/, "");
}

/** The error for an answer that nobody signed. */
export function unsigned(response: Response, body: Uint8Array): RelayError {
  if (isProblem(response.headers)) {
    const error = problemError(response.status, body, response.headers, false);
    if (error !== undefined) return error;
  }
  if (response.ok) {
    return new RelayError("tampered", {
      status: response.status,
      detail: "The answer is not signed by the host.",
    });
  }
  return new RelayError("bad_answer", {
    status: response.status,
    detail: `Something between this browser and the host answered with status ${response.status}.`,
  });
}

/** Fetches, with the network's failures as our own. */
async function send(url: string, init: RequestInit, signal: AbortSignal | undefined): Promise<Response> {
  try {
    return await fetch(url, { ...init, signal: signal ?? null, cache: "no-store", redirect: "manual" });
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    throw new RelayError("network_error", {
      detail: "The relay cannot be reached, or does not allow this page's origin.",
      cause,
    });
  }
}

/** The address below which a host is reached, while it is being asked for and after. */
interface Place {
  prefix: Promise<string> | undefined;
}

/**
 * The browser sessions of this page: opening a host again makes no further one. They hang on the access
 * that the page gave, so that one user's session is never another's.
 */
const places = new WeakMap<RelayAccess, Map<string, Place>>();

function placeOf(access: RelayAccess, base: string, hostId: string): Place {
  const known = places.get(access) ?? new Map<string, Place>();
  places.set(access, known);
  const key = `${base} ${hostId}`;
  const place = known.get(key) ?? { prefix: undefined };
  known.set(key, place);
  return place;
}

/** One relay, one host. */
export class RelayLink {
  readonly base: string;
  readonly hostId: string;
  readonly #access: RelayAccess;
  readonly #place: Place;

  constructor(access: RelayAccess, hostId: string) {
    this.base = relayBase(access.url);
    this.#access = access;
    this.hostId = hostId;
    this.#place = placeOf(access, this.base, hostId);
  }

  /** Ends the browser session at the relay, if there is one. What fails here ends by itself within a day. */
  async end(): Promise<void> {
    const pending = this.#place.prefix;
    this.#place.prefix = undefined;
    try {
      const id = (await pending)?.split("/").at(-1);
      if (id === undefined) return;
      await timed(undefined, async (signal) => {
        const headers = await abortable(this.#authorization(), signal);
        const url = `${this.base}/v1/relay/sessions/${id}`;
        await send(url, { ...this.#as, method: "DELETE", headers, keepalive: true }, signal);
      });
    } catch {
      // Best effort: the pairing has gone already, and with it what the session was good for.
    }
  }

  /** The relay's own paths are asked with its cookie, or with none. */
  get #as(): { credentials: RequestCredentials } {
    return { credentials: this.#access.cookie === true ? "same-origin" : "omit" };
  }

  async #authorization(): Promise<Headers> {
    const headers = new Headers({ accept: "application/json" });
    const { token, cookie } = this.#access;
    if (token !== undefined) headers.set("authorization", `Bearer ${await token()}`);
    if (cookie === true) headers.set("x-relay-csrf", "1");
    return headers;
  }

  /**
   * Asks the relay itself, as the page's user, and answers the JSON. A refused token is asked for once more.
   * @throws RelayError
   */
  async ask(method: string, path: string, outer?: AbortSignal): Promise<Json | undefined> {
    return timed(outer, async (signal) => {
      for (let attempt = 0; ; attempt++) {
        const headers = await abortable(this.#authorization(), signal);
        const response = await send(this.base + path, { ...this.#as, method, headers }, signal);
        const body = await readLimited(response, MAX_SMALL_ANSWER);
        if (response.ok) return jsonObject(body);
        const error = unsigned(response, body);
        const again = error.code === "unauthorized" && this.#access.token !== undefined && attempt === 0;
        if (!again) throw error;
      }
    });
  }

  /** Makes a browser session. */
  async #create(): Promise<string> {
    const id = uuid((await this.ask("POST", `/v1/relay/create/${this.hostId}`))?.["session_id"]);
    if (id === undefined) {
      throw new RelayError("bad_answer", { detail: "The relay's answer is not of this protocol." });
    }
    return `${this.base}/v1/relay/h/${this.hostId}/s/${id}`;
  }

  /**
   * The address under which the host is reached now, without a slash at its end. Made once for all who
   * wait for it. The relay's word on when it ends is not looked at: this browser's clock may be wrong,
   * and a refusal says it better. `stale` is an address that has just been refused.
   */
  async prefix(signal?: AbortSignal, stale?: string): Promise<string> {
    if (stale !== undefined && this.#place.prefix !== undefined) {
      const current = this.#place.prefix;
      const prefix = await abortable(current, signal).catch(() => stale);
      signal?.throwIfAborted();
      if (prefix === stale && this.#place.prefix === current) this.#place.prefix = undefined;
    }
    if (this.#place.prefix === undefined) {
      const pending = this.#create();
      this.#place.prefix = pending;
      // Whoever waits hears of the failure; the next one tries again.
      pending.catch(() => {
        if (this.#place.prefix === pending) this.#place.prefix = undefined;
      });
    }
    return abortable(this.#place.prefix, signal);
  }

  /**
   * Sends a request, and when the relay says that the browser session has ended the very same once more
   * over a new one: the agent does it at most once because its signature is the same.
   */
  async deliver(request: Outgoing, budget: Budget, signal?: AbortSignal): Promise<Response> {
    let stale: string | undefined;
    for (;;) {
      const prefix = await this.prefix(signal, stale);
      const url = prefix + request.target;
      if (new URL(url).href !== url) throw new TypeError("the path would leave the host's prefix");
      const response = await send(
        url,
        {
          method: request.method,
          headers: request.headers,
          body: request.body ?? null,
          credentials: "same-origin",
        },
        signal,
      );
      if (response.type === "opaqueredirect") {
        throw new RelayError("tampered", { detail: "The relay redirects what the host should answer." });
      }
      if (response.status !== 401 || stale !== undefined) return response;
      const sessionEnded = await this.#sessionEnded(request.method, response);
      if (!sessionEnded || !budget.spend("relay_session")) return response;
      await response.body?.cancel().catch(() => undefined);
      stale = prefix;
    }
  }

  /** Whether the relay says so; leaves the response's body unread. */
  async #sessionEnded(method: string, response: Response): Promise<boolean> {
    // To a HEAD the relay can give no code: then what is not signed is taken for it.
    if (method === "HEAD") return response.headers.get("signature-input") === null;
    if (!isProblem(response.headers)) return false;
    const body = await readLimited(response.clone(), MAX_SMALL_ANSWER);
    return jsonObject(body)?.["code"] === "session_expired";
  }
}
