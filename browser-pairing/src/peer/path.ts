/**
 * Exchanges over a data channel (PROTOCOL.md section 6.2): each is one stream, prelude and records there, records
 * back, and FIN when the agent has said everything.
 *
 * A stream that ends before a byte of the answer has come is {@link PathLost}: the very same bytes may go over the
 * relay. After that the answer is `truncated`, because nobody can tell which part of it is missing.
 */
import { RelayError } from "../errors.js";
import { type Answered, type ExchangePath, PathLost, type RecordSocket } from "../path.js";
import { MAX_MESSAGE as MAX_RECORD } from "../record.js";
import { ByteQueue } from "./bytes.js";
import type { Carrier } from "./carrier.js";
import type { YamuxStream } from "./stream.js";

/** A body is read from the browser's store in pieces of this size: fewer are faster, larger cost memory. */
const SLICE = 256 * 1024;
/** How long the agent may take to end a stream that has been closed here, in milliseconds. */
const CLOSE_WITHIN = 3_000;
/** The exchange's session and number. */
const PRELUDE = 24;
/** A record's length and type. */
const RECORD_HEADER = 5;

/** A stream's changes, for any number of waiters. */
class Waited {
  #waiters: (() => void)[] = [];

  constructor(
    readonly stream: YamuxStream,
    done: () => void,
  ) {
    stream.onchange = () => {
      if (stream.end !== undefined) {
        // No end half-closes: what the agent has finished is finished here, too.
        if (stream.end === "finished" && stream.waiting === 0) stream.finish();
        else stream.stop();
        done();
      }
      const waiters = this.#waiters;
      this.#waiters = [];
      for (const wake of waiters) wake();
    };
  }

  /** Resolves at the next change. */
  change(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiters.push(resolve);
    });
  }

  /** The next bytes; undefined at the end, whichever it is. */
  async read(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    for (;;) {
      const bytes = this.stream.read();
      if (bytes !== undefined || this.stream.end !== undefined) return bytes;
      await this.change();
    }
  }

  /** Hands bytes over when there is room; false when nobody wants them any more. */
  async write(bytes: Uint8Array<ArrayBuffer>): Promise<boolean> {
    while (this.stream.room === 0 && this.stream.end === undefined) await this.change();
    if (this.stream.end !== undefined) return false;
    this.stream.write(bytes);
    return true;
  }
}

/** The path over one data channel. */
export class PeerPath implements ExchangePath {
  readonly kind = "webrtc";

  constructor(readonly carrier: Carrier) {}

  #open(): Waited {
    const stream = this.carrier.open();
    if (stream === undefined) throw new PathLost("the direct connection takes no more streams");
    return new Waited(stream, () => this.carrier.done(stream));
  }

  /** @inheritdoc */
  async send(exchange: Blob, signal: AbortSignal): Promise<Answered> {
    signal.throwIfAborted();
    const waited = this.#open();
    const { stream } = waited;
    let failure: unknown;
    const stop = () => {
      failure = signal.reason;
      this.#drop(stream);
    };
    signal.addEventListener("abort", stop, { once: true });
    const settled = () => signal.removeEventListener("abort", stop);
    void upload(waited, exchange).catch((cause) => {
      failure ??= cause;
      this.#drop(stream);
    });
    while (!stream.touched && stream.end === undefined) await waited.change();
    if (!stream.touched) {
      settled();
      throw failure ?? new PathLost(`the direct connection gave no answer: ${stream.end}`);
    }
    const body = new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          const bytes = await waited.read();
          if (bytes !== undefined) return controller.enqueue(bytes);
          settled();
          if (stream.end === "finished") controller.close();
          else controller.error(failure ?? brokenOff());
        },
        cancel: () => {
          settled();
          this.#drop(stream);
        },
      },
      // Nothing is taken out of the window that nobody has asked for.
      { highWaterMark: 0 },
    );
    return { kind: "records", body };
  }

  /** @inheritdoc */
  async open(first: Uint8Array<ArrayBuffer>, signal: AbortSignal): Promise<RecordSocket> {
    signal.throwIfAborted();
    const waited = this.#open();
    waited.stream.write(first);
    return new StreamSocket(waited, protectionOf(first), () => this.#drop(waited.stream));
  }

  #drop(stream: YamuxStream): void {
    stream.reset();
    stream.onchange();
  }
}

function brokenOff(): RelayError {
  return new RelayError("truncated", { detail: "The direct connection broke off within an answer." });
}

/** Writes a body piece by piece, as the stream takes it. */
async function upload(waited: Waited, exchange: Blob): Promise<void> {
  for (let at = 0; at < exchange.size; at += SLICE) {
    const piece = new Uint8Array(await exchange.slice(at, at + SLICE).arrayBuffer());
    if (!(await waited.write(piece))) return;
  }
}

/** How long the protection of each record is: what is left of the first one behind its payload. */
function protectionOf(first: Uint8Array): number {
  const view = new DataView(first.buffer, first.byteOffset, first.byteLength);
  return first.length - PRELUDE - RECORD_HEADER - view.getUint32(PRELUDE);
}

/** A stream that stays open, as whole records. */
class StreamSocket implements RecordSocket {
  readonly #held = new ByteQueue();
  #queued = 0;

  constructor(
    private readonly waited: Waited,
    private readonly protection: number,
    private readonly drop: () => void,
  ) {}

  /** @inheritdoc */
  async next(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const header = await this.#exactly(RECORD_HEADER);
    if (header === undefined) return undefined;
    const length = new DataView(header.buffer, header.byteOffset, RECORD_HEADER).getUint32(0);
    if (length > MAX_RECORD) {
      this.drop();
      throw new RelayError("tampered", { detail: "a record came that is longer than its type allows" });
    }
    const rest = await this.#exactly(length + this.protection);
    if (rest === undefined) return undefined;
    const record = new Uint8Array(RECORD_HEADER + rest.length);
    record.set(header);
    record.set(rest, RECORD_HEADER);
    return record;
  }

  /** So many bytes; undefined when the stream ends before. */
  async #exactly(length: number): Promise<Uint8Array<ArrayBuffer> | undefined> {
    while (this.#held.length < length) {
      const bytes = await this.waited.read();
      if (bytes === undefined) return undefined;
      this.#held.push(bytes);
    }
    const whole = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const piece = this.#held.take(length - at);
      if (piece === undefined) return undefined;
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }

  /** @inheritdoc */
  async send(record: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#queued += record.length;
    try {
      await this.waited.write(record);
    } finally {
      this.#queued -= record.length;
    }
  }

  /** @inheritdoc */
  get bufferedAmount(): number {
    return this.#queued + this.waited.stream.waiting;
  }

  /** @inheritdoc */
  close(): void {
    const { stream } = this.waited;
    stream.finish();
    if (stream.end === undefined) setTimeout(this.drop, CLOSE_WITHIN);
  }
}
