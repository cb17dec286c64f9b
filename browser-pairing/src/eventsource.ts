/** The EventSource's shape over protected exchanges. */
import type { Channel } from "./channel.js";
import { RelayError } from "./errors.js";
import { callHandlers, errorEvent } from "./events.js";
import { EventParser, type ParsedEvent } from "./eventstream.js";
import { fetchOver } from "./fetch.js";
import { anySignal, pause } from "./waiting.js";

/** How long to wait before connecting again until the server says otherwise, in milliseconds. */
const FIRST_RETRY = 3_000;
/** The longest wait while nothing can be reached, in milliseconds. */
const MAX_RETRY = 60_000;
/** Refusals that trying again does not change. */
const FINAL = new Set([
  "not_paired",
  "closed",
  "agent_outdated",
  "sealed_required",
  "handshake_failed",
  "browser_outdated",
  "unsupported_encoding",
  "redirect_refused",
  "header_too_large",
  "uri_too_long",
  "host_access_denied",
  "origin_not_allowed",
  "unauthorized",
]);

/** Has the shape of an `EventSource`; `error` events carry what happened in `error`. */
export class HostEventSource extends EventTarget {
  static readonly CONNECTING = 0;
  static readonly OPEN = 1;
  static readonly CLOSED = 2;
  readonly CONNECTING = 0;
  readonly OPEN = 1;
  readonly CLOSED = 2;

  onopen: ((event: Event) => unknown) | null = null;
  onmessage: ((event: MessageEvent) => unknown) | null = null;
  onerror: ((event: Event) => unknown) | null = null;
  readonly withCredentials = false;
  /** Path and query on the local server. */
  readonly url: string;

  #state = 0;
  #retry = FIRST_RETRY;
  #failures = 0;
  #lastId = "";
  readonly #closing = new AbortController();

  constructor(channel: Channel, target: string, headers: Headers, signal: AbortSignal) {
    super();
    this.url = target;
    callHandlers(this, ["open", "message", "error"]);
    void this.#run(channel, headers, anySignal(this.#closing.signal, signal));
  }

  get readyState(): number {
    return this.#state;
  }

  /** Ends it, on the network too. No more events come. */
  close(): void {
    this.#state = this.CLOSED;
    this.#closing.abort(new RelayError("closed", { detail: "The event source was closed." }));
  }

  async #run(channel: Channel, headers: Headers, signal: AbortSignal): Promise<void> {
    for (;;) {
      let failure: unknown;
      try {
        await this.#connection(channel, headers, signal);
      } catch (error) {
        failure = error;
      }
      if (this.#state === this.CLOSED) return;
      const final = signal.aborted || failure instanceof TypeError || isFinal(failure);
      this.#state = final ? this.CLOSED : this.CONNECTING;
      this.dispatchEvent(errorEvent(failure));
      if (final) return;
      try {
        await pause(this.#delay(), signal);
      } catch {
        this.#state = this.CLOSED;
        return;
      }
    }
  }

  /** The server's wish after a stream that worked; longer, and not in step with others, after failures. */
  #delay(): number {
    if (this.#failures === 0) return this.#retry;
    const most = Math.min(MAX_RETRY, this.#retry * 2 ** Math.min(this.#failures, 10));
    return Math.max(this.#retry, most * (0.5 + Math.random() / 2));
  }

  async #connection(channel: Channel, given: Headers, signal: AbortSignal): Promise<void> {
    const headers = new Headers(given);
    headers.set("accept", "text/event-stream");
    headers.set("cache-control", "no-cache");
    // Header values are bytes; the standard wants the id as UTF-8.
    if (this.#lastId !== "") headers.set("last-event-id", utf8AsLatin1(this.#lastId));
    this.#failures += 1;
    const response = await fetchOver(channel, this.url, { headers }, signal);
    const type = response.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
    if (response.status !== 200 || type !== "text/event-stream" || response.body === null) {
      await response.body?.cancel().catch(() => undefined);
      const detail = `The local server answered ${response.status} and no event stream.`;
      throw new RelayError("bad_answer", { status: response.status, verified: true, detail });
    }
    this.#failures = 0;
    if (this.#state === this.CLOSED) return;
    this.#state = this.OPEN;
    this.dispatchEvent(new Event("open"));
    const parser = new EventParser(this.#lastId);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      for (const event of parser.push(part.value)) this.#emit(event);
      this.#lastId = parser.lastId;
      if (parser.retry !== undefined) this.#retry = Math.min(parser.retry, MAX_RETRY);
    }
  }

  #emit({ type, data, lastEventId }: ParsedEvent): void {
    if (this.#state !== this.OPEN) return;
    this.dispatchEvent(new MessageEvent(type, { data, lastEventId }));
  }
}

/** An answer that is no event stream ends it, as the standard says; so does what cannot get better. */
function isFinal(failure: unknown): boolean {
  return (
    failure instanceof RelayError &&
    (FINAL.has(failure.code) || (failure.code === "bad_answer" && failure.verified))
  );
}

function utf8AsLatin1(text: string): string {
  return Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");
}
