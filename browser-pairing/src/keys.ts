/**
 * This browser's keys. Private keys and the psk are WebCrypto keys that no script can read out, not
 * even ours: whoever takes over the page can use them while it is open, but cannot take them along.
 */

import { fromUtf8, utf8 } from "./encoding.js";
import { RelayError } from "./errors.js";

/** One pair of a kind for one host. */
export interface Identity {
  signingKey: CryptoKey;
  exchangeKey: CryptoKey;
  ed25519: Uint8Array<ArrayBuffer>;
  x25519: Uint8Array<ArrayBuffer>;
}

/** @throws RelayError `insecure_context` when the page has no WebCrypto. */
export function requireSecureContext(): void {
  if (globalThis.crypto?.subtle === undefined) {
    throw new RelayError("insecure_context", {
      detail: "Pairing needs a page that was loaded over https, or from localhost.",
    });
  }
}

function unsupported(cause: unknown): RelayError {
  return new RelayError("unsupported_browser", {
    detail: "This browser cannot make the keys that pairing needs (Ed25519 and X25519). A newer version can.",
    cause,
  });
}

async function pair(
  name: "Ed25519" | "X25519",
  usages: KeyUsage[],
): Promise<[CryptoKey, Uint8Array<ArrayBuffer>]> {
  const keys = (await crypto.subtle.generateKey({ name }, false, usages)) as CryptoKeyPair;
  return [keys.privateKey, new Uint8Array(await crypto.subtle.exportKey("raw", keys.publicKey))];
}

/**
 * Makes the keys for one host.
 * @throws RelayError `insecure_context`, `unsupported_browser`
 */
export async function newIdentity(): Promise<Identity> {
  requireSecureContext();
  try {
    const [signingKey, ed25519] = await pair("Ed25519", ["sign", "verify"]);
    const [exchangeKey, x25519] = await pair("X25519", ["deriveBits"]);
    return { signingKey, exchangeKey, ed25519, x25519 };
  } catch (cause) {
    throw unsupported(cause);
  }
}

/** The agent's key for checking, or undefined when the bytes cannot be one. Whether it is sound, pairing checks. */
export async function verifyingKey(raw: Uint8Array<ArrayBuffer>): Promise<CryptoKey | undefined> {
  return crypto.subtle.importKey("raw", raw, "Ed25519", true, ["verify"]).catch(() => undefined);
}

/** Whether an X25519 key gives a secret that depends on both ends. */
export async function isSoundX25519Key(raw: Uint8Array<ArrayBuffer>, own: CryptoKey): Promise<boolean> {
  if (raw.length !== 32) return false;
  try {
    const theirs = await crypto.subtle.importKey("raw", raw, { name: "X25519" }, true, []);
    const secret = new Uint8Array(
      await crypto.subtle.deriveBits({ name: "X25519", public: theirs }, own, 256),
    );
    const sound = secret.some((byte) => byte !== 0);
    secret.fill(0);
    return sound;
  } catch {
    return false;
  }
}

/** Puts the psk where it can only be derived from, and wipes the bytes. */
export async function sealPsk(psk: Uint8Array<ArrayBuffer>): Promise<CryptoKey> {
  try {
    return await crypto.subtle.importKey("raw", psk, "HKDF", false, ["deriveBits", "deriveKey"]);
  } finally {
    psk.fill(0);
  }
}

/**
 * Opens a code that the agent sealed for the request or exchange with this hash (PROTOCOL.md section 3.2);
 * undefined when it was sealed for anything else.
 */
export async function unsealCode(
  psk: CryptoKey,
  sealed: Uint8Array<ArrayBuffer>,
  salt: Uint8Array<ArrayBuffer>,
): Promise<string | undefined> {
  let opened: Uint8Array;
  try {
    const key = await crypto.subtle.deriveKey(
      { name: "HKDF", hash: "SHA-256", salt, info: utf8("relay-pairing/1 code") },
      psk,
      { name: "AES-GCM", length: 256 },
      false,
      ["decrypt"],
    );
    // The key is used once, so the nonce may be zero.
    const iv = new Uint8Array(12);
    opened = new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, key, sealed));
  } catch {
    return undefined;
  }
  const code = fromUtf8(opened);
  return code !== undefined && /^[0-9]{6}$/.test(code) ? code : undefined;
}
