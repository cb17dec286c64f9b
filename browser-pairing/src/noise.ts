/**
 * The Noise handshakes IK and IKpsk2 (X25519, AES-GCM, SHA-256; revision 34) as their initiator, which is
 * what a browser is (PROTOCOL.md section 5.1).
 *
 * Private keys and the psk are WebCrypto keys that cannot be read out, and need not be: Noise's HKDF is
 * that of RFC 5869 with an empty info, so the psk is mixed by `deriveBits`. What is in memory for a moment
 * are the handshake's own secrets, and they are wiped.
 */
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { concat, utf8 } from "./encoding.js";

/** The profiles' protocol names. */
export const PROTOCOLS = {
  "noise-ikpsk2": "Noise_IKpsk2_25519_AESGCM_SHA256",
  "noise-ik": "Noise_IK_25519_AESGCM_SHA256",
} as const;
export type Profile = keyof typeof PROTOCOLS;

type Bytes = Uint8Array<ArrayBuffer>;

const KEY = 32;
const TAG = 16;
const EMPTY: Bytes = new Uint8Array();

/** What the two ends share when the handshake is done. The caller wipes the keys. */
export interface Split {
  /** Initiator to responder. */
  k0: Bytes;
  /** Responder to initiator. */
  k1: Bytes;
  /** The handshake hash. */
  h: Bytes;
  /** What the second message carried. */
  payload: Bytes;
}

/** A key pair whose private half stays where it is. */
export interface DhPair {
  privateKey: CryptoKey;
  raw: Bytes;
}

/** Whom the handshake is with, and about what. */
export interface Parties {
  profile: Profile;
  prologue: Bytes;
  own: DhPair;
  theirs: Bytes;
  /** An HKDF key that may derive bits; for `noise-ikpsk2`. */
  psk?: CryptoKey | undefined;
}

/** The message does not open, or a key in it is none. */
export class HandshakeFailed extends Error {
  constructor(cause?: unknown) {
    super("the handshake failed", { cause });
  }
}

async function dh(own: CryptoKey, theirs: Bytes): Promise<Bytes> {
  const key = await crypto.subtle.importKey("raw", theirs, { name: "X25519" }, true, []);
  const secret = new Uint8Array(await crypto.subtle.deriveBits({ name: "X25519", public: key }, own, 256));
  // A point of small order: the secret would depend on nobody.
  if (secret.every((byte) => byte === 0)) throw new HandshakeFailed();
  return secret;
}

/** The pair of a private key that cannot be read out: its public half is that key times the base point. */
export async function dhPair(privateKey: CryptoKey): Promise<DhPair> {
  const base = new Uint8Array(KEY);
  base[0] = 9;
  return { privateKey, raw: await dh(privateKey, base) };
}

/** A pair for one handshake. */
export async function ephemeral(): Promise<DhPair> {
  const pair = (await crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"])) as CryptoKeyPair;
  const raw = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  return { privateKey: pair.privateKey, raw };
}

/** Noise's SymmetricState and CipherState in one (sections 5.1 and 5.2). */
class Symmetric {
  h: Bytes;
  readonly #ck: Bytes;
  #key: CryptoKey | undefined;
  #n = 0;

  constructor(protocol: string) {
    const name = utf8(protocol);
    this.h = new Uint8Array(KEY);
    if (name.length <= KEY) this.h.set(name);
    else this.h.set(sha256(name));
    this.#ck = this.h.slice();
  }

  mixHash(data: Uint8Array): void {
    this.h = new Uint8Array(sha256(concat(this.h, data)));
  }

  /** `HKDF(ck, input, count)`; wipes what it was made of. */
  #expand(input: Bytes, count: 2 | 3): Bytes {
    const output = new Uint8Array(hkdf(sha256, input, this.#ck, EMPTY, count * KEY));
    input.fill(0);
    return output;
  }

  async #useKey(key: Bytes): Promise<void> {
    this.#key = await crypto.subtle.importKey("raw", key, "AES-GCM", false, ["encrypt", "decrypt"]);
    key.fill(0);
    this.#n = 0;
  }

  /** Takes the next chaining key out of what was derived. */
  #chain(output: Bytes): void {
    this.#ck.set(output.subarray(0, KEY));
    output.fill(0, 0, KEY);
  }

  async mixKey(input: Bytes): Promise<void> {
    const output = this.#expand(input, 2);
    this.#chain(output);
    await this.#useKey(output.subarray(KEY));
  }

  /** `MixKeyAndHash` of a key that stays sealed. */
  async mixSealed(psk: CryptoKey): Promise<void> {
    const params = { name: "HKDF", hash: "SHA-256", salt: this.#ck, info: EMPTY };
    const output = new Uint8Array(await crypto.subtle.deriveBits(params, psk, 3 * KEY * 8));
    this.#chain(output);
    this.mixHash(output.subarray(KEY, 2 * KEY));
    output.fill(0, KEY, 2 * KEY);
    await this.#useKey(output.subarray(2 * KEY));
  }

  #cipher(): [AesGcmParams, CryptoKey] {
    if (this.#key === undefined) throw new HandshakeFailed();
    const iv = new Uint8Array(12);
    new DataView(iv.buffer).setBigUint64(4, BigInt(this.#n));
    this.#n += 1;
    return [{ name: "AES-GCM", iv, additionalData: this.h }, this.#key];
  }

  async encryptAndHash(plain: Bytes): Promise<Bytes> {
    const sealed = new Uint8Array(await crypto.subtle.encrypt(...this.#cipher(), plain));
    this.mixHash(sealed);
    return sealed;
  }

  async decryptAndHash(sealed: Bytes): Promise<Bytes> {
    const plain = new Uint8Array(await crypto.subtle.decrypt(...this.#cipher(), sealed));
    this.mixHash(sealed);
    return plain;
  }

  split(): [Bytes, Bytes] {
    const output = this.#expand(EMPTY, 2);
    this.#ck.fill(0);
    // Views: whoever wipes them wipes the bytes.
    return [output.subarray(0, KEY), output.subarray(KEY)];
  }
}

/** One handshake: the first message has been written, the second is awaited. */
export class Initiator {
  private constructor(
    /** The first message. */
    readonly message: Bytes,
    readonly parties: Parties,
    readonly symmetric: Symmetric,
    readonly e: DhPair,
  ) {}

  /** Writes the first message. `e` is fresh for every handshake; only tests give one. */
  static async start(parties: Parties, payload = EMPTY, e?: DhPair): Promise<Initiator> {
    const own = e ?? (await ephemeral());
    const { profile, prologue, theirs } = parties;
    const symmetric = new Symmetric(PROTOCOLS[profile]);
    symmetric.mixHash(prologue);
    symmetric.mixHash(theirs);
    symmetric.mixHash(own.raw);
    if (profile === "noise-ikpsk2") await symmetric.mixKey(own.raw.slice());
    await symmetric.mixKey(await dh(own.privateKey, theirs));
    const s = await symmetric.encryptAndHash(parties.own.raw);
    await symmetric.mixKey(await dh(parties.own.privateKey, theirs));
    const last = await symmetric.encryptAndHash(payload);
    return new Initiator(concat(own.raw, s, last), parties, symmetric, own);
  }

  /** Reads the second message. @throws HandshakeFailed */
  async finish(answer: Bytes): Promise<Split> {
    const { parties, symmetric, e } = this;
    if (answer.length < KEY + TAG) throw new HandshakeFailed();
    const re = answer.slice(0, KEY);
    try {
      symmetric.mixHash(re);
      if (parties.profile === "noise-ikpsk2") await symmetric.mixKey(re.slice());
      await symmetric.mixKey(await dh(e.privateKey, re));
      await symmetric.mixKey(await dh(parties.own.privateKey, re));
      if (parties.profile === "noise-ikpsk2") {
        if (parties.psk === undefined) throw new HandshakeFailed();
        await symmetric.mixSealed(parties.psk);
      }
      const payload = await symmetric.decryptAndHash(answer.slice(KEY));
      const [k0, k1] = symmetric.split();
      return { k0, k1, h: symmetric.h, payload };
    } catch (cause) {
      throw cause instanceof HandshakeFailed ? cause : new HandshakeFailed(cause);
    }
  }
}
