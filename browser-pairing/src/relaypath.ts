/** The path over the relay (PROTOCOL.md section 5.3): a POST for each exchange, an upgrade for those that stay open. */
import { b64 } from "./encoding.js";
import { RelayError } from "./errors.js";
import { Budget, type RelayLink } from "./link.js";
import type { Answered, ExchangePath, RecordSocket } from "./path.js";
import { RECORDS_TYPE } from "./record.js";

/** Where exchanges go. One address and one header that CORS asks about, so that browsers ask once. */
export const EXCHANGE_PATH = "/_relay/exchange";
/** An address is not longer, in characters of b64. */
const MAX_FIRST = 12_288;
/** What has come and waits for its check, in bytes: nothing can slow a WebSocket's sender down. */
const MAX_UNVERIFIED = 64 * 1024 * 1024;

type Bytes = Uint8Array<ArrayBuffer>;

/** A WebSocket whose messages are records. What comes is kept until somebody asks, within a limit. */
export class RelaySocket implements RecordSocket {
  readonly #socket: WebSocket;
  #held: Bytes[] = [];
  #bytes = 0;
  #closed = false;
  #wake: (() => void) | undefined;
  /** Set when something came that cannot be a record. */
  #foul = false;

  /** `address` is http(s), without a fragment. @throws TypeError */
  constructor(address: string, protocols: readonly string[] = []) {
    const url = address.replace(/^http/, "ws");
    if (new URL(url).href !== url) throw new TypeError("the path would leave the host's prefix");
    const socket = new WebSocket(url, [...protocols]);
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", ({ data }) => this.#take(data));
    socket.addEventListener("close", () => {
      this.#closed = true;
      this.#notify();
    });
    // A failure shows as the end.
    socket.addEventListener("error", () => undefined);
    this.#socket = socket;
  }

  #take(data: unknown): void {
    if (data instanceof ArrayBuffer && !this.#foul) {
      this.#held.push(new Uint8Array(data));
      this.#bytes += data.byteLength;
    }
    if (!(data instanceof ArrayBuffer) || this.#bytes > MAX_UNVERIFIED) {
      this.#foul = true;
      this.#socket.close();
    }
    this.#notify();
  }

  #notify(): void {
    this.#wake?.();
    this.#wake = undefined;
  }

  async next(): Promise<Bytes | undefined> {
    for (;;) {
      const message = this.#held.shift();
      if (message !== undefined) {
        this.#bytes -= message.length;
        return message;
      }
      if (this.#foul)
        throw new RelayError("tampered", { detail: "Something came that is no record, or too much of it." });
      if (this.#closed) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  send(record: Bytes): void {
    if (this.#socket.readyState === this.#socket.OPEN) this.#socket.send(record);
  }

  get bufferedAmount(): number {
    return this.#socket.bufferedAmount;
  }

  close(): void {
    this.#socket.close();
  }
}

/** Exchanges over the relay. */
export class RelayPath implements ExchangePath {
  readonly kind = "relay";

  constructor(readonly link: RelayLink) {}

  async send(exchange: Blob, signal: AbortSignal): Promise<Answered> {
    const headers = new Headers({ "content-type": RECORDS_TYPE });
    const request = { method: "POST", target: EXCHANGE_PATH, headers, body: exchange };
    const response = await this.link.deliver(request, new Budget(), signal);
    const type = response.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
    if (response.status === 200 && type === RECORDS_TYPE && response.body !== null) {
      return { kind: "records", body: response.body };
    }
    return { kind: "refusal", response };
  }

  async open(first: Bytes, signal: AbortSignal): Promise<RecordSocket> {
    const text = b64(first);
    if (text.length > MAX_FIRST) {
      throw new RelayError("uri_too_long", {
        detail: "The address of a WebSocket, its sub-protocols and what the browser says have 9 KB at most.",
      });
    }
    const prefix = await this.link.prefix(signal);
    return new RelaySocket(`${prefix}${EXCHANGE_PATH}?relay-exchange=${text}`);
  }
}
