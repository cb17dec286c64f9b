/**
 * The record layer (PROTOCOL.md sections 4.4 and 5.2): types, limits, order and framing. What protects a
 * record is one of two things behind one interface, `record-signed.ts` and `record-sealed.ts`.
 */
import { concat } from "./encoding.js";
import { RelayError } from "./errors.js";

/** What a record is. */
export const RecordType = {
  HEAD: 1,
  DATA: 2,
  END: 3,
  ERROR: 4,
  TEXT: 5,
  BINARY: 6,
  PING: 7,
  PONG: 8,
  CLOSE: 9,
} as const;
export type RecordType = (typeof RecordType)[keyof typeof RecordType];

/** The media type of a record stream. */
export const RECORDS_TYPE = "application/vnd.relay.records";
/** Which way a record goes. */
export const TO_AGENT = 0;
export const TO_BROWSER = 1;

/** One WebSocket message, at most. */
export const MAX_MESSAGE = 4 * 1024 * 1024;
/** A head, at most. */
export const MAX_HEAD = 256 * 1024;
/** A piece of a body, the trailers and a problem, at most. */
export const MAX_PIECE = 65_536;
/** Length and type. */
export const HEADER = 5;
/** In a type: its sender goes on with the next key from this record on. */
export const NEXT_EPOCH = 0x80;

/** The largest payload of each type; a type that is not here is none. */
const LIMITS: ReadonlyMap<number, number> = new Map<number, number>([
  [RecordType.HEAD, MAX_HEAD],
  [RecordType.DATA, MAX_PIECE],
  [RecordType.END, MAX_PIECE],
  [RecordType.ERROR, MAX_PIECE],
  [RecordType.TEXT, MAX_MESSAGE],
  [RecordType.BINARY, MAX_MESSAGE],
  [RecordType.PING, 125],
  [RecordType.PONG, 125],
  [RecordType.CLOSE, 125],
]);

/** A record that has been checked. */
export interface VerifiedRecord {
  type: RecordType;
  payload: Uint8Array<ArrayBuffer>;
}

/** Protects the records of one direction, in their order. Which kind it is, the session decides. */
export interface Sealer {
  /** The whole record. `header` holds the payload's length and type; the highest bit of the type may be set. */
  seal(header: Uint8Array<ArrayBuffer>, sequence: number, payload: Bytes): Promise<Bytes>;
}

/** The other end of a {@link Sealer}. */
export interface Unsealer {
  /** How many bytes of a record come after its payload. */
  readonly size: number;
  /** Whether the type's highest bit may say that the sender has a new key. */
  readonly epochs: boolean;
  /** The payload, or undefined when this is not what the other end protected for this place. */
  open(record: Bytes, sequence: number): Promise<Bytes | undefined>;
}

type Bytes = Uint8Array<ArrayBuffer>;

export function tampered(detail: string): RelayError {
  return new RelayError("tampered", { detail });
}

/**
 * The length of the record that begins here, or undefined while its first five bytes are not there.
 * @throws RelayError `tampered` for unknown types and lengths that are not allowed.
 */
export function recordLength(
  bytes: Uint8Array,
  { size, epochs }: Pick<Unsealer, "size" | "epochs">,
): number | undefined {
  if (bytes.length < HEADER) return undefined;
  const length = new DataView(bytes.buffer, bytes.byteOffset, HEADER).getUint32(0);
  const type = (bytes[4] ?? 0) & (epochs ? ~NEXT_EPOCH : 0xff);
  const limit = LIMITS.get(type);
  if (limit === undefined) throw tampered("a record of an unknown type came");
  if (length > limit || (type === RecordType.DATA && length === 0)) {
    throw tampered("a record came that is longer or shorter than its type allows");
  }
  return HEADER + length + size;
}

/** Makes the records of one direction, in order. */
export class RecordSender {
  #sequence = 0;

  constructor(readonly sealer: Sealer) {}

  /** The record's bytes. Not to be called again before it has answered. */
  async make(type: RecordType, payload: Bytes): Promise<Bytes> {
    const header = new Uint8Array(HEADER);
    new DataView(header.buffer).setUint32(0, payload.length);
    header[4] = type;
    return this.sealer.seal(header, this.#sequence++, payload);
  }
}

/** Checks the records of one direction, in order. */
export class RecordOpener {
  #sequence = 0;

  constructor(
    readonly unsealer: Unsealer,
    /** Called for each record that has been verified. */
    readonly onVerified: (record: VerifiedRecord) => void = () => {},
  ) {}

  /**
   * The record in these bytes, which are exactly one. Not to be called again before it has answered.
   * @throws RelayError `tampered`
   */
  async open(bytes: Bytes): Promise<VerifiedRecord> {
    if (recordLength(bytes, this.unsealer) !== bytes.length) {
      throw tampered("a message came that is not one record");
    }
    const payload = await this.unsealer.open(bytes, this.#sequence);
    if (payload === undefined) throw tampered("a record was altered, repeated or left out on the way");
    this.#sequence += 1;
    const record = { type: ((bytes[4] ?? 0) & ~NEXT_EPOCH) as RecordType, payload };
    this.onVerified(record);
    return record;
  }
}

/** Reads verified records from a response's body, one at a time and never ahead of its reader. */
export class RecordReader {
  readonly #source: ReadableStreamDefaultReader<Uint8Array>;
  readonly #opener: RecordOpener;
  #chunks: Uint8Array[] = [];
  #held = 0;
  #ended = false;

  constructor(body: ReadableStream<Uint8Array>, opener: RecordOpener) {
    this.#source = body.getReader();
    this.#opener = opener;
  }

  /** Makes one array of what is held, at least `wanted` bytes of it; false when the stream ends before. */
  async #fill(wanted: number): Promise<boolean> {
    while (this.#held < wanted && !this.#ended) {
      const { done, value } = await this.#source.read();
      if (done) this.#ended = true;
      else if (value.length > 0) {
        this.#chunks.push(value);
        this.#held += value.length;
      }
    }
    return this.#held >= wanted;
  }

  /** The first `length` held bytes, which stay held unless they are `taken`. */
  #first(length: number, taken: boolean): Uint8Array<ArrayBuffer> {
    const first = this.#chunks[0];
    if (first === undefined || first.length < length) this.#chunks = [concat(...this.#chunks)];
    const whole = this.#chunks[0] ?? new Uint8Array();
    if (taken) {
      this.#held -= length;
      if (whole.length === length) this.#chunks.shift();
      else this.#chunks[0] = whole.subarray(length);
    }
    return whole.subarray(0, length) as Uint8Array<ArrayBuffer>;
  }

  /**
   * The next record; undefined when the network's stream ends between two records.
   * @throws RelayError `tampered`, `truncated`
   */
  async next(): Promise<VerifiedRecord | undefined> {
    if (!(await this.#fill(HEADER))) {
      if (this.#held === 0) return undefined;
      throw new RelayError("truncated", { detail: "the stream ended within a record" });
    }
    const length = recordLength(this.#first(HEADER, false), this.#opener.unsealer);
    if (length === undefined || !(await this.#fill(length))) {
      throw new RelayError("truncated", { detail: "the stream ended within a record" });
    }
    return this.#opener.open(this.#first(length, true));
  }

  /** Tells the network that nothing more is wanted. */
  async cancel(): Promise<void> {
    await this.#source.cancel().catch(() => undefined);
  }
}
