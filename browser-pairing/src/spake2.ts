/**
 * SPAKE2 as the `spake2` crate's Ed25519 group does it, side A: the browser's.
 *
 * The relay in the middle sees both messages and may replace them; all that it gains is one guess at
 * the code. The constants M and N are that crate's, not RFC 9382's, and so is the way in which the
 * password becomes a scalar and the transcript a key.
 */
import { ed25519 } from "@noble/curves/ed25519.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { concat, utf8 } from "./encoding.js";

const { Point } = ed25519;
const ORDER = Point.Fn.ORDER;
const M = Point.fromHex("15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312");
const N = Point.fromHex("f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3");
const SIDE_A = 0x41;
const SIDE_B = 0x42;
/** A side byte and a compressed point. */
export const MESSAGE_LENGTH = 33;
/** Enough that the remainder modulo the group's order is uniform. */
export const RANDOM_LENGTH = 64;

function bigEndian(bytes: Uint8Array): bigint {
  let value = 0n;
  for (const byte of bytes) value = (value << 8n) | BigInt(byte);
  return value;
}

/**
 * A peer's point, or undefined when the message is no message of side B. A point outside the prime
 * order group is refused: no honest peer sends one, and it would leak the scalar modulo 8.
 */
function readPoint(message: Uint8Array): InstanceType<typeof Point> | undefined {
  if (message.length !== MESSAGE_LENGTH || message[0] !== SIDE_B) return undefined;
  try {
    const point = Point.fromBytes(message.subarray(1));
    return point.isSmallOrder() || !point.isTorsionFree() ? undefined : point;
  } catch {
    return undefined;
  }
}

/** One attempt. The scalars are big integers, which JavaScript cannot wipe: let go of it soon. */
export class Spake2 {
  /** What goes to side B. */
  readonly message: Uint8Array;
  readonly #password: Uint8Array;
  readonly #idA: Uint8Array;
  readonly #idB: Uint8Array;
  readonly #w: bigint;
  readonly #x: bigint;

  /** `random` has {@link RANDOM_LENGTH} bytes, never used before. The caller wipes both arrays. */
  constructor(password: Uint8Array, idA: string, idB: string, random: Uint8Array) {
    if (random.length !== RANDOM_LENGTH) throw new RangeError("64 random bytes are needed");
    this.#password = sha256(password);
    this.#idA = sha256(utf8(idA));
    this.#idB = sha256(utf8(idB));
    const wide = hkdf(sha256, password, new Uint8Array(), utf8("SPAKE2 pw"), 48);
    this.#w = bigEndian(wide) % ORDER;
    wide.fill(0);
    const reversed = random.slice().reverse();
    this.#x = bigEndian(reversed) % ORDER;
    reversed.fill(0);
    const point = Point.BASE.multiply(this.#x).add(M.multiply(this.#w));
    this.message = concat(new Uint8Array([SIDE_A]), point.toBytes());
  }

  /**
   * The shared key of 32 bytes, or undefined when the message is not one that an honest side B sends.
   * Both ends have the same key only when the passwords, the identities and the messages were the same.
   */
  finish(message: Uint8Array): Uint8Array<ArrayBuffer> | undefined {
    const y = readPoint(message);
    if (y === undefined) return undefined;
    const unmasked = y.subtract(N.multiply(this.#w));
    if (unmasked.is0()) return undefined;
    const shared = unmasked.multiply(this.#x);
    if (shared.is0()) return undefined;
    const k = shared.toBytes();
    const transcript = concat(
      this.#password,
      this.#idA,
      this.#idB,
      this.message.subarray(1),
      message.subarray(1),
      k,
    );
    const key = new Uint8Array(sha256(transcript));
    transcript.fill(0);
    k.fill(0);
    this.#password.fill(0);
    return key;
  }
}

/** Whether these 32 bytes are a point that may serve as an Ed25519 key: of no small order. */
export function isSoundEd25519Key(key: Uint8Array): boolean {
  try {
    return key.length === 32 && !Point.fromBytes(key).isSmallOrder();
  } catch {
    return false;
  }
}
