/** SPAKE2's side B and the key schedule, as the agent does them (PROTOCOL.md section 3). */
import { createHash, createHmac, hkdfSync, randomBytes } from "node:crypto";
import { ed25519 } from "@noble/curves/ed25519.js";

const { Point } = ed25519;
const ORDER = Point.Fn.ORDER;
const M = Point.fromHex("15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312");
const N = Point.fromHex("f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3");

const sha256 = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest();
const number = (bytes: Uint8Array) => BigInt(`0x${Buffer.from(bytes).toString("hex")}`);

/** The keys of one attempt. */
export interface SideB {
  message: Buffer;
  confirmBrowser: Buffer;
  confirmAgent: Buffer;
  psk: Buffer;
}

/** Answers a browser's message. */
export function answer(code: string, hostId: string, messageA: Buffer): SideB {
  const idA = "relay-pairing/1 browser";
  const idB = `relay-pairing/1 agent ${hostId}`;
  const w = number(new Uint8Array(hkdfSync("sha256", code, "", "SPAKE2 pw", 48))) % ORDER;
  const y = number(randomBytes(64)) % ORDER;
  const point = Point.BASE.multiply(y).add(N.multiply(w)).toBytes();
  const message = Buffer.concat([Buffer.from("B"), point]);
  const x = Point.fromBytes(messageA.subarray(1));
  const shared = x.subtract(M.multiply(w)).multiply(y).toBytes();
  const key = sha256(
    Buffer.concat([sha256(code), sha256(idA), sha256(idB), messageA.subarray(1), point, shared]),
  );
  const strings = [Buffer.from("1"), Buffer.from(idA), Buffer.from(idB), messageA, message];
  const transcript = sha256(
    Buffer.concat(strings.flatMap((part) => [Buffer.from([part.length >> 8, part.length & 0xff]), part])),
  );
  const derive = (name: string) =>
    Buffer.from(hkdfSync("sha256", key, transcript, `relay-pairing/1 ${name}`, 32));
  return {
    message,
    confirmBrowser: derive("confirm browser"),
    confirmAgent: derive("confirm agent"),
    psk: derive("psk"),
  };
}

/** A proof over a pairing id and claims. */
export function prove(key: Buffer, pairingId: string, ...claims: Buffer[]): Buffer {
  return createHmac("sha256", key)
    .update(Buffer.concat([Buffer.from(pairingId), ...claims]))
    .digest();
}

/** What both ends show. */
export function fingerprint(agentKey: Buffer, browserKey: Buffer): string {
  const digest = sha256(Buffer.concat([Buffer.from("relay-pairing/1 fingerprint"), agentKey, browserKey]));
  return (digest.toString("hex").slice(0, 16).match(/.{4}/g) ?? []).join(" ");
}
