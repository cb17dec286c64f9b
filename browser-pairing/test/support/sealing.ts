/**
 * The agent's half of sealed sessions, in Node's crypto and from PROTOCOL.md section 5 without the SDK's code:
 * the Noise responder, and records in both forms.
 */
import { Buffer } from "node:buffer";
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  sign,
  verify,
} from "node:crypto";

const SPKI = Buffer.from("302a300506032b656e032100", "hex");

/** An X25519 key from its 32 bytes. */
export function x25519Public(raw: Buffer): KeyObject {
  return createPublicKey({ key: Buffer.concat([SPKI, raw]), format: "der", type: "spki" });
}

/** The 32 bytes of a public key. */
export function rawKey(key: KeyObject): Buffer {
  return Buffer.from((key.export({ format: "jwk" }) as { x: string }).x, "base64url");
}

const sha256 = (...parts: (Uint8Array | string)[]) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};

/** What a handshake gives. */
export interface Keys {
  k0: Buffer;
  k1: Buffer;
  h: Buffer;
}

/** Who answers, and whom it expects. */
export interface Responder {
  psk?: Buffer;
  prologue: string;
  own: KeyObject;
  /** The only browser that may. */
  expected: Buffer;
}

/** Noise's HKDF, as section 4.3 of its specification has it. */
function expand(ck: Buffer, input: Buffer, count: number): Buffer[] {
  const temp = createHmac("sha256", ck).update(input).digest();
  const outputs: Buffer[] = [];
  for (let i = 1; i <= count; i++) {
    const last = outputs.at(-1) ?? Buffer.alloc(0);
    outputs.push(
      createHmac("sha256", temp)
        .update(Buffer.concat([last, Buffer.from([i])]))
        .digest(),
    );
  }
  return outputs;
}

/** Answers the first message; undefined when it does not open, or comes from somebody else. */
export function respond(
  { psk, prologue, own, expected }: Responder,
  message: Buffer,
): (Keys & { message: Buffer }) | undefined {
  const name = `Noise_IK${psk === undefined ? "" : "psk2"}_25519_AESGCM_SHA256`;
  let h: Buffer = Buffer.alloc(32);
  h.write(name);
  let ck: Buffer = Buffer.from(h);
  let key: Buffer = Buffer.alloc(0);
  const mixHash = (data: Uint8Array | string) => {
    h = sha256(h, data);
  };
  const mixKey = (input: Buffer) => {
    const [next, temp] = expand(ck, input, 2);
    ck = next ?? ck;
    key = temp ?? key;
  };
  const dh = (privateKey: KeyObject, publicKey: KeyObject) => diffieHellman({ privateKey, publicKey });
  const open = (sealed: Buffer, n: number): Buffer => {
    const nonce = Buffer.alloc(12);
    nonce.writeUInt8(n, 11);
    const cipher = createDecipheriv("aes-256-gcm", key, nonce).setAAD(h).setAuthTag(sealed.subarray(-16));
    const plain = Buffer.concat([cipher.update(sealed.subarray(0, -16)), cipher.final()]);
    mixHash(sealed);
    return plain;
  };
  if (message.length !== 96) return undefined;
  mixHash(prologue);
  mixHash(rawKey(createPublicKey(own)));
  const re = message.subarray(0, 32);
  mixHash(re);
  if (psk !== undefined) mixKey(re);
  try {
    mixKey(dh(own, x25519Public(re)));
    const rs = open(message.subarray(32, 80), 0);
    if (!rs.equals(expected)) return undefined;
    mixKey(dh(own, x25519Public(rs)));
    open(message.subarray(80), 0);
  } catch {
    return undefined;
  }
  const e = generateKeyPairSync("x25519");
  const raw = rawKey(e.publicKey);
  mixHash(raw);
  if (psk !== undefined) mixKey(raw);
  mixKey(dh(e.privateKey, x25519Public(re)));
  mixKey(dh(e.privateKey, x25519Public(expected)));
  if (psk !== undefined) {
    const [next, mixed, temp] = expand(ck, psk, 3);
    ck = next ?? ck;
    mixHash(mixed ?? "");
    key = temp ?? key;
  }
  const cipher = createCipheriv("aes-256-gcm", key, Buffer.alloc(12)).setAAD(h);
  cipher.final();
  const tag = cipher.getAuthTag();
  mixHash(tag);
  const [k0 = ck, k1 = ck] = expand(ck, Buffer.alloc(0), 2);
  return { k0, k1, h, message: Buffer.concat([raw, tag]) };
}

/** What both ends derive from an exchange's prelude where a signature would stand. */
export function exchangeHash(prelude: Buffer): Buffer {
  return sha256("relay-exchange/1", prelude);
}

/** Makes the agent's records of one exchange, and opens the browser's. */
export interface Records {
  /** Bytes after the payload. */
  readonly size: number;
  make(type: number, payload: Buffer): Buffer;
  /** The record in a message; undefined when the browser did not make it, or not for this place. */
  open(message: Buffer): { type: number; payload: Buffer } | undefined;
}

function header(type: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(payload.length);
  head[4] = type;
  return head;
}

/** Records in the signed form. */
export class SignedRecords implements Records {
  readonly size = 64;
  #sent = 0;
  #received = 0;

  constructor(
    readonly sessionId: string,
    readonly hash: Buffer,
    readonly agentKey: KeyObject,
    readonly browserKey: KeyObject,
  ) {}

  #protected(direction: number, sequence: number, type: number, payload: Buffer): Buffer {
    const place = Buffer.alloc(9);
    place[0] = direction;
    place.writeBigUInt64BE(BigInt(sequence), 1);
    const last = sha256(payload);
    return Buffer.concat([
      Buffer.from(`relay-record/1${this.sessionId}`),
      this.hash,
      place,
      Buffer.from([type]),
      last,
    ]);
  }

  make(type: number, payload: Buffer): Buffer {
    const signature = sign(null, this.#protected(1, this.#sent, type, payload), this.agentKey);
    this.#sent += 1;
    return Buffer.concat([header(type, payload), payload, signature]);
  }

  open(message: Buffer): { type: number; payload: Buffer } | undefined {
    if (message.length < 69 || message.readUInt32BE(0) !== message.length - 69) return undefined;
    const type = message[4] ?? 0;
    const payload = message.subarray(5, -64);
    const signed = this.#protected(0, this.#received, type, payload);
    if (!verify(null, signed, this.browserKey, message.subarray(-64))) return undefined;
    this.#received += 1;
    return { type, payload };
  }
}

/** Records in the sealed form. */
export class SealedRecords implements Records {
  readonly size = 16;
  readonly #sequence = [0, 0];
  readonly #epoch = [0, 0];
  /** Set to go on to the next key with the next record. */
  rekey = false;

  constructor(
    readonly keys: Keys,
    readonly prelude: Buffer,
  ) {}

  #params(direction: 0 | 1): [key: Buffer, nonce: Buffer] {
    const place = Buffer.alloc(5);
    place[0] = direction;
    place.writeUInt32BE(this.#epoch[direction] ?? 0, 1);
    const info = Buffer.concat([Buffer.from("relay-sealed/1 record"), this.prelude, place]);
    const root = direction === 0 ? this.keys.k0 : this.keys.k1;
    const nonce = Buffer.alloc(12);
    nonce.writeBigUInt64BE(BigInt(this.#sequence[direction] ?? 0), 4);
    return [Buffer.from(hkdfSync("sha256", root, this.keys.h, info, 32)), nonce];
  }

  make(type: number, payload: Buffer): Buffer {
    if (this.rekey) this.#epoch[1] = (this.#epoch[1] ?? 0) + 1;
    const head = header(type | (this.rekey ? 0x80 : 0), payload);
    this.rekey = false;
    const cipher = createCipheriv("aes-256-gcm", ...this.#params(1)).setAAD(head);
    this.#sequence[1] = (this.#sequence[1] ?? 0) + 1;
    return Buffer.concat([head, cipher.update(payload), cipher.final(), cipher.getAuthTag()]);
  }

  open(message: Buffer): { type: number; payload: Buffer } | undefined {
    if (message.length < 21 || message.readUInt32BE(0) !== message.length - 21) return undefined;
    const type = message[4] ?? 0;
    if ((type & 0x80) !== 0) this.#epoch[0] = (this.#epoch[0] ?? 0) + 1;
    const cipher = createDecipheriv("aes-256-gcm", ...this.#params(0))
      .setAAD(message.subarray(0, 5))
      .setAuthTag(message.subarray(-16));
    try {
      const payload = Buffer.concat([cipher.update(message.subarray(5, -16)), cipher.final()]);
      this.#sequence[0] = (this.#sequence[0] ?? 0) + 1;
      return { type: type & 0x7f, payload };
    } catch {
      return undefined;
    }
  }
}

/** The records in a stream, whatever is in them; the last may be cut. */
export function split(bytes: Buffer, size: number): Buffer[] {
  const list: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = at + 5 > bytes.length ? bytes.length : bytes.readUInt32BE(at) + 5 + size;
    list.push(bytes.subarray(at, at + length));
    at += length;
  }
  return list;
}
