/**
 * HTTP Message Signatures (RFC 9421), label `relay`, algorithm ed25519: making those of requests and
 * checking those of buffered answers (PROTOCOL.md sections 4.2 and 4.3).
 */
import { base64, fromBase64, latin1 } from "./encoding.js";
import { type Item, type Params, parseDictionary, quoted } from "./structured.js";

/** The only label that is looked at. */
export const LABEL = "relay";
/** At most so many components in one signature. */
export const MAX_COMPONENTS = 64;

/** A component and its value: `@method` and `GET`, or a header's name in lower case and its value. */
export type Component = readonly [name: string, value: string];

/** The parameters of a request's signature. */
export interface SignatureParams {
  /** Unix seconds by the agent's clock. */
  created: number;
  keyid: string;
  /** Base64url, at least 16 random bytes. */
  nonce: string;
}

/** What is signed, and how the header after `relay=` describes it. */
export interface Prepared {
  base: Uint8Array<ArrayBuffer>;
  input: string;
}

/** Header values as RFC 9421 section 2.1 has them. The platform has joined several by `, ` already. */
function trimmed(value: string): string {
  return value.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, "");
}

/** A component as it is written in `signature-input`, parameters and all, and its value. */
export type Line = readonly [identifier: string, value: string];

/** The signature base (RFC 9421 section 2.5); `params` is what stands after the label. */
export function signatureBase(lines: readonly Line[], params: string): Uint8Array<ArrayBuffer> {
  const all: Line[] = [...lines, ['"@signature-params"', params]];
  return latin1(all.map(([identifier, value]) => `${identifier}: ${trimmed(value)}`).join("\n"));
}

/** Writes the signature base of a request. */
export function prepare(components: readonly Component[], params: SignatureParams): Prepared {
  const names = components.map(([name]) => quoted(name)).join(" ");
  const { created, keyid, nonce } = params;
  const input = `(${names});created=${created};keyid=${quoted(keyid)};nonce=${quoted(nonce)};alg="ed25519"`;
  const lines = components.map(([name, value]): Line => [quoted(name), value]);
  return { base: signatureBase(lines, input), input };
}

/** What of an answer the agent has signed. */
export interface CoveredAnswer {
  base: Uint8Array<ArrayBuffer>;
  signature: Uint8Array<ArrayBuffer>;
  /** The headers that are covered; nothing else of the answer's head is to be believed. */
  headers: Headers;
  /** The covered `content-digest`. */
  digest: string;
}

function paramsFit(params: Params, hostId: string): boolean {
  for (const key of params.keys()) {
    if (key !== "created" && key !== "keyid" && key !== "alg") return false;
  }
  const { keyid, created } = { keyid: params.get("keyid"), created: params.get("created") };
  return (
    params.get("alg") === "ed25519" &&
    typeof keyid === "string" &&
    keyid.toLowerCase() === hostId &&
    Number.isSafeInteger(created)
  );
}

/** Whether the item is `"signature";key="relay";req`: the request's signature, by which the two belong together. */
function isRequestSignature(item: Item): boolean {
  const { value, params } = item;
  return (
    value === "signature" && params.size === 2 && params.get("key") === LABEL && params.get("req") === true
  );
}

/** Whether an answer claims to be signed by the agent. Says nothing about whether it is. */
export function claimsSignature(headers: Headers): boolean {
  return parseDictionary(headers.get("signature-input"))?.has(LABEL) === true;
}

/**
 * The signature base of an answer as its `signature-input` describes it, or undefined when that is
 * malformed or covers too little to mean anything.
 */
export function coveredAnswer(
  status: number,
  headers: Headers,
  requestSignature: Uint8Array,
  hostId: string,
): CoveredAnswer | undefined {
  const member = parseDictionary(headers.get("signature-input"))?.get(LABEL);
  const value = parseDictionary(headers.get("signature"))?.get(LABEL)?.value;
  if (member?.items === undefined || typeof value !== "object") return undefined;
  const signature = fromBase64(value.bytes);
  if (signature?.length !== 64 || !paramsFit(member.params, hostId)) return undefined;
  if (member.items.length > MAX_COMPONENTS) return undefined;

  const lines: Line[] = [];
  const seen = new Set<string>();
  const covered = new Headers();
  for (const item of member.items) {
    const name = item.value;
    let line: string;
    if (isRequestSignature(item)) {
      line = `:${base64(requestSignature)}:`;
    } else if (typeof name !== "string" || item.params.size > 0) {
      return undefined;
    } else if (name === "@status") {
      line = String(status);
    } else {
      const given = /^[a-z0-9!#$%&'*+.^_`|~-]+$/.test(name) ? headers.get(name) : null;
      if (given === null) return undefined;
      line = trimmed(given);
      covered.set(name, line);
    }
    const key = isRequestSignature(item) ? "signature;req" : String(name);
    if (seen.has(key)) return undefined;
    seen.add(key);
    lines.push([item.text, line]);
  }
  const digest = covered.get("content-digest");
  if (!seen.has("@status") || !seen.has("signature;req") || digest === null) return undefined;
  return { base: signatureBase(lines, member.text), signature, headers: covered, digest };
}
