/** The WebSocket's shape over protected records. */
import { recordError } from "./body.js";
import type { Channel } from "./channel.js";
import { concat, fromUtf8, u16, utf8 } from "./encoding.js";
import { RelayError } from "./errors.js";
import { callHandlers, closeEvent, errorEvent } from "./events.js";
import { readClose } from "./payload.js";
import { MAX_MESSAGE, RecordType } from "./record.js";
import { type Opened, openSocket } from "./upgrade.js";
import { timed } from "./waiting.js";

/** What a CLOSE can say beside its code, in bytes. */
const MAX_REASON = 123;
/** How long the other end may take to answer a CLOSE, in milliseconds. */
const CLOSE_TIMEOUT = 5_000;
const ABNORMAL = 1006;
const NO_STATUS = 1005;
const PROTOCOL_ERROR = 1002;
const TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;

function checkedProtocols(given: string | string[]): string[] {
  const list = typeof given === "string" ? [given] : [...given];
  if (new Set(list).size !== list.length || !list.every((name) => TOKEN.test(name))) {
    throw new DOMException("the sub-protocols are malformed or come twice", "SyntaxError");
  }
  return list;
}

/** Has the shape of a `WebSocket`; `error` events carry a {@link RelayError} in `error`. */
export class HostWebSocket extends EventTarget {
  static readonly CONNECTING = 0;
  static readonly OPEN = 1;
  static readonly CLOSING = 2;
  static readonly CLOSED = 3;
  readonly CONNECTING = 0;
  readonly OPEN = 1;
  readonly CLOSING = 2;
  readonly CLOSED = 3;

  onopen: ((event: Event) => unknown) | null = null;
  onmessage: ((event: MessageEvent) => unknown) | null = null;
  onerror: ((event: Event) => unknown) | null = null;
  onclose: ((event: Event) => unknown) | null = null;
  /** `blob` as everywhere, or `arraybuffer`. */
  binaryType: BinaryType = "blob";
  /** Path and query on the local server. */
  readonly url: string;
  readonly extensions = "";

  #state = 0;
  #protocol = "";
  #queued = 0;
  #opened: Opened | undefined;
  #outbox: Promise<void> = Promise.resolve();
  #closeSent = false;
  #giveUp: ReturnType<typeof setTimeout> | undefined;
  readonly #ending = new AbortController();
  readonly #abort: AbortSignal;

  constructor(channel: Channel, target: string, protocols: string | string[], signal: AbortSignal) {
    super();
    this.url = target;
    const list = checkedProtocols(protocols);
    callHandlers(this, ["open", "message", "error", "close"]);
    this.#abort = signal;
    signal.addEventListener("abort", this.#stop, { once: true });
    void this.#run(channel, list);
  }

  get readyState(): number {
    return this.#state;
  }

  /** The sub-protocol that the local server chose. */
  get protocol(): string {
    return this.#protocol;
  }

  /** Bytes of messages that have not left this browser: not protected yet, or not sent. */
  get bufferedAmount(): number {
    return this.#queued + (this.#opened?.socket.bufferedAmount ?? 0);
  }

  /**
   * Sends a message of at most 4 MiB.
   * @throws DOMException `InvalidStateError` while connecting
   * @throws RangeError when the message is larger
   */
  send(data: string | ArrayBuffer | ArrayBufferView | Blob): void {
    if (this.#state === this.CONNECTING) throw new DOMException("not open yet", "InvalidStateError");
    const text = typeof data === "string" ? utf8(data) : undefined;
    const size = text?.length ?? (data instanceof Blob ? data.size : (data as ArrayBuffer).byteLength);
    if (size > MAX_MESSAGE) throw new RangeError("a message may have 4 MiB at most");
    if (this.#state !== this.OPEN) return;
    const bytes = text ?? (data instanceof Blob ? data : copied(data as ArrayBuffer | ArrayBufferView));
    this.#queued += size;
    this.#enqueue(async () => {
      const payload = bytes instanceof Blob ? new Uint8Array(await bytes.arrayBuffer()) : bytes;
      await this.#transmit(text === undefined ? RecordType.BINARY : RecordType.TEXT, payload);
      this.#queued -= size;
    });
  }

  /**
   * Closes after what was sent before.
   * @throws DOMException `InvalidAccessError` for codes other than 1000 and 3000 to 4999, `SyntaxError`
   *   for a reason of more than 123 bytes
   */
  close(code?: number, reason = ""): void {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException("not a code that a page may use", "InvalidAccessError");
    }
    const text = utf8(reason);
    if (text.length > MAX_REASON) throw new DOMException("the reason is too long", "SyntaxError");
    if (this.#state >= this.CLOSING) return;
    const connecting = this.#state === this.CONNECTING;
    this.#state = this.CLOSING;
    if (connecting) {
      this.#ending.abort(new RelayError("closed", { detail: "Closed before it was open." }));
      return;
    }
    this.#sendClose(code === undefined && reason === "" ? new Uint8Array() : concat(u16(code ?? 1000), text));
  }

  readonly #stop = () => this.#fail(this.#abort.reason);

  async #run(channel: Channel, protocols: string[]): Promise<void> {
    try {
      const signal = AbortSignal.any([this.#ending.signal, this.#abort]);
      const opened = await timed(signal, (limited) => openSocket(channel, this.url, protocols, limited));
      if (signal.aborted) {
        opened.socket.close();
        throw signal.reason;
      }
      this.#opened = opened;
      this.#protocol = opened.protocol;
      this.#state = this.OPEN;
      this.dispatchEvent(new Event("open"));
      await this.#receive(opened);
    } catch (error) {
      this.#fail(error);
    }
  }

  async #receive({ socket, opener }: Opened): Promise<void> {
    for (;;) {
      const message = await socket.next();
      if (message === undefined) return this.#finish(ABNORMAL, "", false);
      const { type, payload } = await opener.open(message);
      if (this.#state === this.CLOSED) return;
      switch (type) {
        case RecordType.TEXT: {
          const text = fromUtf8(payload);
          if (text === undefined)
            throw new RelayError("bad_answer", { verified: true, detail: "Text that is not UTF-8." });
          this.#deliver(text);
          break;
        }
        case RecordType.BINARY:
          this.#deliver(this.binaryType === "blob" ? new Blob([payload]) : payload.slice().buffer);
          break;
        case RecordType.PING:
          this.#enqueue(() => this.#transmit(RecordType.PONG, payload));
          break;
        case RecordType.PONG:
          break;
        case RecordType.CLOSE:
          return this.#closedByPeer(payload);
        case RecordType.ERROR:
          throw recordError({ type, payload });
        default:
          throw new RelayError("tampered", { detail: "A record came where it does not belong." });
      }
    }
  }

  #deliver(data: unknown): void {
    if (this.#state === this.OPEN) this.dispatchEvent(new MessageEvent("message", { data }));
  }

  #closedByPeer(payload: Uint8Array<ArrayBuffer>): void {
    const { code = NO_STATUS, reason } = readClose(payload);
    if (this.#state === this.OPEN) this.#state = this.CLOSING;
    this.#sendClose(payload);
    void this.#outbox.then(() => this.#finish(code, reason, true));
  }

  #sendClose(payload: Uint8Array<ArrayBuffer>): void {
    if (this.#closeSent) return;
    this.#closeSent = true;
    this.#enqueue(() => this.#transmit(RecordType.CLOSE, payload));
    this.#giveUp = setTimeout(() => this.#finish(ABNORMAL, "", false), CLOSE_TIMEOUT);
  }

  #enqueue(job: () => Promise<void>): void {
    this.#outbox = this.#outbox.then(job).catch((error) => this.#fail(error));
  }

  async #transmit(type: RecordType, payload: Uint8Array<ArrayBuffer>): Promise<void> {
    const { socket, sender } = this.#opened ?? {};
    if (socket === undefined || sender === undefined || this.#state === this.CLOSED) return;
    await socket.send(await sender.make(type, payload));
  }

  /** Ends at once. The peer is told by a CLOSE record, because browsers may not send 1002 themselves. */
  #fail(error: unknown): void {
    if (this.#state === this.CLOSED) return;
    const { socket, sender } = this.#opened ?? {};
    const tell = !this.#closeSent && socket !== undefined && sender !== undefined;
    this.#closeSent = true;
    this.#state = this.CLOSED;
    if (tell) {
      void this.#outbox
        .then(() => sender.make(RecordType.CLOSE, u16(PROTOCOL_ERROR)))
        .then((record) => socket.send(record))
        .catch(() => undefined)
        .finally(() => socket.close());
    }
    this.#ending.abort(error);
    this.dispatchEvent(errorEvent(error));
    this.#finish(ABNORMAL, "", false, !tell);
  }

  #done = false;

  #finish(code: number, reason: string, wasClean: boolean, closeSocket = true): void {
    if (this.#done) return;
    this.#done = true;
    clearTimeout(this.#giveUp);
    this.#abort.removeEventListener("abort", this.#stop);
    this.#state = this.CLOSED;
    if (closeSocket) this.#opened?.socket.close();
    this.dispatchEvent(closeEvent(code, reason, wasClean));
  }
}

function copied(data: ArrayBuffer | ArrayBufferView): Uint8Array<ArrayBuffer> {
  if (data instanceof ArrayBuffer) return new Uint8Array(data.slice(0));
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice() as Uint8Array<ArrayBuffer>;
}
