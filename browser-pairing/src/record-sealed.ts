/**
 * Records in the sealed form (PROTOCOL.md section 5.2): AES-256-GCM under keys of this exchange, this direction
 * and this epoch. The session's two root keys only ever derive; no key can be read out.
 */
import { concat, u32, utf8 } from "./encoding.js";
import { HEADER, NEXT_EPOCH, type Sealer, TO_AGENT, TO_BROWSER, tampered, type Unsealer } from "./record.js";

type Bytes = Uint8Array<ArrayBuffer>;

const TAG = 16;
/** At most so many records under one key. */
const MAX_RECORDS = 2 ** 20;
/** And for so long, in milliseconds. */
const MAX_AGE = 3_600_000;

/** When a sender takes a new key. Only tests have other limits. */
export interface KeyLimits {
  records: number;
  age: number;
}
const LIMITS: KeyLimits = { records: MAX_RECORDS, age: MAX_AGE };

/** What a handshake gave. */
export interface SessionKeys {
  /** The handshake hash. */
  h: Bytes;
  /** Root keys by direction: to the agent, to the browser. */
  roots: readonly [CryptoKey, CryptoKey];
}

/** Puts the keys of a handshake where they can only be derived from, and wipes the bytes. */
export async function sealRoots(h: Bytes, k0: Bytes, k1: Bytes): Promise<SessionKeys> {
  const root = async (key: Bytes) => {
    try {
      return await crypto.subtle.importKey("raw", key, "HKDF", false, ["deriveKey"]);
    } finally {
      key.fill(0);
    }
  };
  return { h, roots: await Promise.all([root(k0), root(k1)]) };
}

/** One direction of one exchange: its keys, one after the other. */
class Chain {
  epoch = 0;
  #key: Promise<CryptoKey>;

  constructor(
    readonly keys: SessionKeys,
    readonly prelude: Bytes,
    readonly direction: number,
    readonly usage: "encrypt" | "decrypt",
  ) {
    this.#key = this.#derive();
  }

  #derive(): Promise<CryptoKey> {
    const { keys, prelude, direction, usage } = this;
    const place = concat(prelude, new Uint8Array([direction]), u32(this.epoch));
    const info = concat(utf8("relay-sealed/1 record"), place);
    const key = crypto.subtle.deriveKey(
      { name: "HKDF", hash: "SHA-256", salt: keys.h, info },
      keys.roots[direction === TO_AGENT ? 0 : 1],
      { name: "AES-GCM", length: 256 },
      false,
      [usage],
    );
    // Whoever asks for it hears of a failure.
    key.catch(() => undefined);
    return key;
  }

  next(): void {
    this.epoch += 1;
    this.#key = this.#derive();
  }

  get key(): Promise<CryptoKey> {
    return this.#key;
  }
}

function params(sequence: number, header: Bytes): AesGcmParams {
  const iv = new Uint8Array(12);
  new DataView(iv.buffer).setBigUint64(4, BigInt(sequence));
  return { name: "AES-GCM", iv, additionalData: header };
}

/** Seals records. */
export class SealedSealer implements Sealer {
  readonly #chain: Chain;
  #count = 0;
  #since = performance.now();

  constructor(
    keys: SessionKeys,
    prelude: Bytes,
    direction: number = TO_AGENT,
    readonly limits: KeyLimits = LIMITS,
  ) {
    this.#chain = new Chain(keys, prelude, direction, "encrypt");
  }

  async seal(header: Bytes, sequence: number, payload: Bytes): Promise<Bytes> {
    const now = performance.now();
    if (this.#count >= this.limits.records || now - this.#since >= this.limits.age) {
      header[4] = (header[4] ?? 0) | NEXT_EPOCH;
      this.#chain.next();
      this.#count = 0;
      this.#since = now;
    }
    this.#count += 1;
    const key = await this.#chain.key;
    return concat(
      header,
      new Uint8Array(await crypto.subtle.encrypt(params(sequence, header), key, payload)),
    );
  }
}

/** Opens sealed records. */
export class SealedUnsealer implements Unsealer {
  readonly size = TAG;
  readonly epochs = true;
  readonly #chain: Chain;
  #count = 0;

  constructor(
    keys: SessionKeys,
    prelude: Bytes,
    direction: number = TO_BROWSER,
    readonly limits: Pick<KeyLimits, "records"> = LIMITS,
  ) {
    this.#chain = new Chain(keys, prelude, direction, "decrypt");
  }

  async open(record: Bytes, sequence: number): Promise<Bytes | undefined> {
    if (((record[4] ?? 0) & NEXT_EPOCH) !== 0) {
      this.#chain.next();
      this.#count = 0;
    }
    if (this.#count >= this.limits.records) throw tampered("too many records came under one key");
    this.#count += 1;
    const key = await this.#chain.key;
    const header = record.subarray(0, HEADER);
    try {
      const sealed = record.subarray(HEADER);
      return new Uint8Array(await crypto.subtle.decrypt(params(sequence, header), key, sealed));
    } catch {
      return undefined;
    }
  }
}
