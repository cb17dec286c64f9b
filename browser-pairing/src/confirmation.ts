/**
 * What both ends derive from the SPAKE2 key, and how each proves that it has it (PROTOCOL.md section 3).
 */
import { hkdf } from "@noble/hashes/hkdf.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { concat, equalBytes, hex, u16, utf8 } from "./encoding.js";

/** The identity of every browser in SPAKE2. */
export const BROWSER_IDENTITY = "relay-pairing/1 browser";

/** The identity of a host in SPAKE2; the id in lower case. */
export function agentIdentity(hostId: string): string {
  return `relay-pairing/1 agent ${hostId}`;
}

/** Three keys with one purpose each. */
export interface PairingKeys {
  confirmBrowser: Uint8Array<ArrayBuffer>;
  confirmAgent: Uint8Array<ArrayBuffer>;
  psk: Uint8Array<ArrayBuffer>;
}

/** Derives the keys from the SPAKE2 key and everything that both ends have seen. */
export function pairingKeys(
  key: Uint8Array,
  hostId: string,
  messageA: Uint8Array,
  messageB: Uint8Array,
): PairingKeys {
  const strings = [utf8("1"), utf8(BROWSER_IDENTITY), utf8(agentIdentity(hostId)), messageA, messageB];
  const salt = sha256(concat(...strings.flatMap((part) => [u16(part.length), part])));
  const derive = (name: string) =>
    new Uint8Array(hkdf(sha256, key, salt, utf8(`relay-pairing/1 ${name}`), 32));
  return {
    confirmBrowser: derive("confirm browser"),
    confirmAgent: derive("confirm agent"),
    psk: derive("psk"),
  };
}

/** The browser's proof over its claims, or the agent's over the browser's and its own. */
export function proof(key: Uint8Array, pairingId: string, ...claims: Uint8Array[]): Uint8Array {
  return hmac(sha256, key, concat(utf8(pairingId), ...claims));
}

/** Whether the agent has proved that it knows the code, and means these claims. */
export function agentProved(
  keys: PairingKeys,
  pairingId: string,
  browserClaims: Uint8Array,
  agentClaims: Uint8Array,
  given: Uint8Array,
): boolean {
  return equalBytes(proof(keys.confirmAgent, pairingId, browserClaims, agentClaims), given);
}

/** What both ends show: `3f2a 91bc 07de 55a1`. */
export function fingerprint(agentEd25519: Uint8Array, browserEd25519: Uint8Array): string {
  const digest = sha256(concat(utf8("relay-pairing/1 fingerprint"), agentEd25519, browserEd25519));
  return (hex(digest.subarray(0, 8)).match(/.{4}/g) ?? []).join(" ");
}

/** What stands for the hash of a signature in everything that is bound to one exchange. */
export function exchangeHash(prelude: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(sha256(concat(utf8("relay-exchange/1"), prelude)));
}

/** The salt of everything that is bound to one signed request. */
export function requestHash(signature: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(sha256(signature));
}
