/** Content-Digest (RFC 9530) with sha-256: of a body that goes out, and against one that came in. */
import { sha256, sha512 } from "@noble/hashes/sha2.js";
import { base64, equalBytes, fromBase64 } from "./encoding.js";
import { parseDictionary } from "./structured.js";

/** Up to here WebCrypto hashes in one go, which is the fastest. Above it memory matters more. */
const ONE_GO = 4 * 1024 * 1024;
/** Large bodies are read in pieces of this size, so that a file need not fit into memory. */
const SLICE = 1024 * 1024;

async function hashBlob(body: Blob, signal: AbortSignal | undefined): Promise<Uint8Array> {
  if (body.size <= ONE_GO) {
    return new Uint8Array(await crypto.subtle.digest("SHA-256", await body.arrayBuffer()));
  }
  const hash = sha256.create();
  for (let at = 0; at < body.size; at += SLICE) {
    signal?.throwIfAborted();
    hash.update(new Uint8Array(await body.slice(at, at + SLICE).arrayBuffer()));
  }
  return hash.digest();
}

/** The value of `content-digest` for a body. */
export async function contentDigest(body: Blob, signal?: AbortSignal): Promise<string> {
  return `sha-256=:${base64(await hashBlob(body, signal))}:`;
}

/** The algorithms that count. */
const HASHES = new Map<string, (body: Uint8Array) => Uint8Array>([
  ["sha-256", sha256],
  ["sha-512", sha512],
]);

/** Whether the body is the one that the header speaks of: all digests that are there must be right. */
export function digestFits(header: string, body: Uint8Array): boolean {
  const digests = parseDictionary(header);
  if (digests === undefined || digests.size === 0) return false;
  for (const [name, { value, params }] of digests) {
    const hash = HASHES.get(name);
    const given = typeof value === "object" ? fromBase64(value.bytes) : undefined;
    if (hash === undefined || given === undefined || params.size > 0) return false;
    if (!equalBytes(given, hash(body))) return false;
  }
  return true;
}
