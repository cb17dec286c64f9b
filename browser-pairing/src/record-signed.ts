/**
 * Records in the signed form (PROTOCOL.md section 4.4): an Ed25519 signature binds each to the session, the
 * request or exchange, its direction and its place.
 */
import { concat, u64, utf8 } from "./encoding.js";
import { HEADER, type Sealer, TO_AGENT, TO_BROWSER, type Unsealer } from "./record.js";

type Bytes = Uint8Array<ArrayBuffer>;

const SIGNATURE = 64;

/** What binds the records of one exchange together. */
export interface RecordContext {
  /** The signing session, in lower case. */
  sessionId: string;
  /** SHA-256 of the request's 64 signature bytes, or of what stands for them in an exchange. */
  requestHash: Uint8Array;
}

/** The bytes under a record's signature. */
async function protectedBytes(
  context: RecordContext,
  direction: number,
  sequence: number,
  type: number,
  payload: Bytes,
): Promise<Bytes> {
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

/** Signs records. */
export class RecordSigner implements Sealer {
  constructor(
    readonly context: RecordContext,
    readonly key: CryptoKey,
    readonly direction: number = TO_AGENT,
  ) {}

  async seal(header: Bytes, sequence: number, payload: Bytes): Promise<Bytes> {
    const signed = await protectedBytes(this.context, this.direction, sequence, header[4] ?? 0, payload);
    const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", this.key, signed));
    return concat(header, payload, signature);
  }
}

/** Verifies records. */
export class RecordVerifier implements Unsealer {
  readonly size = SIGNATURE;
  readonly epochs = false;

  constructor(
    readonly context: RecordContext,
    readonly key: CryptoKey,
    readonly direction: number = TO_BROWSER,
  ) {}

  async open(record: Bytes, sequence: number): Promise<Bytes | undefined> {
    const payload = record.subarray(HEADER, record.length - SIGNATURE);
    const signature = record.subarray(record.length - SIGNATURE);
    const signed = await protectedBytes(this.context, this.direction, sequence, record[4] ?? 0, payload);
    return (await crypto.subtle.verify("Ed25519", this.key, signature, signed)) ? payload : undefined;
  }
}
