/**
 * The record layer in its signed form (PROTOCOL.md section 4.4): every record carries an Ed25519
 * signature that binds it to the session, the request, its direction and its place.
 */
import { concat, u64, utf8 } from "./encoding.js";
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
const MAX_HEAD = 256 * 1024;
/** A piece of a body, the trailers and a problem, at most. */
const MAX_PIECE = 65_536;
const HEADER = 5;
const PROTECTION = 64;

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

/** A record whose signature has been checked. */
export interface VerifiedRecord {
  type: RecordType;
  payload: Uint8Array<ArrayBuffer>;
}

/** What binds the records of one exchange together. */
export interface RecordContext {
  /** The signing session, in lower case. */
  sessionId: string;
  /** SHA-256 of the request's 64 signature bytes. */
  requestHash: Uint8Array;
}

/** The bytes under a record's signature. */
export async function protectedBytes(
  context: RecordContext,
  direction: number,
  sequence: number,
  type: number,
  payload: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  return concat(
    utf8("relay-record/1"),
    utf8(context.sessionId),
    context.requestHash,
    new Uint8Array([direction]),
    u64(sequence),
    new Uint8Array([type]),
    new Uint8Array(await crypto.subtle.digest("SHA-256", payload)),
  );
}

function tampered(detail: string): RelayError {
  return new RelayError("tampered", { detail });
}

/**
 * The length of the record that begins here, or undefined while its first five bytes are not there.
 * @throws RelayError `tampered` for unknown types and lengths that are not allowed.
 */
export function recordLength(bytes: Uint8Array): number | undefined {
  if (bytes.length < HEADER) return undefined;
  const length = new DataView(bytes.buffer, bytes.byteOffset, HEADER).getUint32(0);
  const type = bytes[4] ?? 0;
  const limit = LIMITS.get(type);
  if (limit === undefined) throw tampered("a record of an unknown type came");
  if (length > limit || (type === RecordType.DATA && length === 0)) {
    throw tampered("a record came that is longer or shorter than its type allows");
  }
  return HEADER + length + PROTECTION;
}

/** Checks the records of one direction, in order. */
export class RecordVerifier {
  #sequence = 0;

  constructor(
    readonly context: RecordContext,
    readonly agentKey: CryptoKey,
    readonly direction: number = TO_BROWSER,
    /** Called for each record that has been verified. */
    readonly onVerified: (record: VerifiedRecord) => void = () => {},
  ) {}

  /**
   * The record in these bytes, which are exactly one. Not to be called again before it has answered.
   * @throws RelayError `tampered`
   */
  async verify(bytes: Uint8Array<ArrayBuffer>): Promise<VerifiedRecord> {
    if (recordLength(bytes) !== bytes.length) throw tampered("a message came that is not one record");
    const type = (bytes[4] ?? 0) as RecordType;
    const payload = bytes.subarray(HEADER, bytes.length - PROTECTION);
    const signature = bytes.subarray(bytes.length - PROTECTION);
    const signed = await protectedBytes(this.context, this.direction, this.#sequence, type, payload);
    if (!(await crypto.subtle.verify("Ed25519", this.agentKey, signature, signed))) {
      throw tampered("a record was altered, repeated or left out on the way");
    }
    this.#sequence += 1;
    const record = { type, payload };
    this.onVerified(record);
    return record;
  }
}

/** Makes the records of one direction, in order. */
export class RecordSigner {
  #sequence = 0;

  constructor(
    readonly context: RecordContext,
    readonly key: CryptoKey,
    readonly direction: number = TO_AGENT,
  ) {}

  /** The record's bytes. Not to be called again before it has answered. */
  async sign(type: RecordType, payload: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
    const header = new Uint8Array(HEADER);
    new DataView(header.buffer).setUint32(0, payload.length);
    header[4] = type;
    const signed = await protectedBytes(this.context, this.direction, this.#sequence, type, payload);
    const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", this.key, signed));
    this.#sequence += 1;
    return concat(header, payload, signature);
  }
}

/** Reads verified records from a response's body, one at a time and never ahead of its reader. */
export class RecordReader {
  readonly #source: ReadableStreamDefaultReader<Uint8Array>;
  readonly #verifier: RecordVerifier;
  #chunks: Uint8Array[] = [];
  #held = 0;
  #ended = false;

  constructor(body: ReadableStream<Uint8Array>, verifier: RecordVerifier) {
    this.#source = body.getReader();
    this.#verifier = verifier;
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
    const length = recordLength(this.#first(HEADER, false));
    if (length === undefined || !(await this.#fill(length))) {
      throw new RelayError("truncated", { detail: "the stream ended within a record" });
    }
    return this.#verifier.verify(this.#first(length, true));
  }

  /** Tells the network that nothing more is wanted. */
  async cancel(): Promise<void> {
    await this.#source.cancel().catch(() => undefined);
  }
}
