/**
 * HTTP Message Signatures (RFC 9421), label `relay`, algorithm ed25519: making those of requests and
 * checking those of buffered answers (PROTOCOL.md sections 4.2 and 4.3).
 */
import { base64, fromBase64, latin1 } from "./encoding.js";
import { type Item, type Params, parseDictionary, quoted } from "./structured.js";

/** The only label that is looked at. */
export const LABEL = "relay";
/** At most so many components in a request's signature. */
export const MAX_COMPONENTS = 64;
/** The same for an answer, which may have more headers than a browser sends. */
const MAX_ANSWER_COMPONENTS = 256;

/** A component and its value: `@method` and `GET`, or a header's name in lower case and its value. */
export type Component = readonly [name: string, value: string];

/** The parameters of a request's signature. */
export interface SignatureParams {
  /** Unix seconds by the agent's clock. */
  created: number;
  keyid: string;
  /** Base64url, at least 16 random bytes. */
  nonce: string;
  /** `websocket` where the signature stands in the query, nothing elsewhere: so one is not taken for the other. */
  tag?: "websocket" | undefined;
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
  const { created, keyid, nonce, tag } = params;
  const stamp = `created=${created};keyid=${quoted(keyid)};nonce=${quoted(nonce)};alg="ed25519"`;
  const input = `(${names});${stamp}${tag === undefined ? "" : `;tag=${quoted(tag)}`}`;
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

/** The request that an answer has to fit: as it was sent, so that an answer to anything else does not verify. */
export interface AskedRequest {
  method: string;
  /** `@path` */
  path: string;
  /** `@query`, with its `?` */
  query: string;
  /** What stands after `relay=` in `signature-input`. */
  input: string;
  signature: Uint8Array;
}

/** The components that are the request's (RFC 9421 section 2.4): all of them have to be covered. */
const OF_THE_REQUEST = ["@method", "@path", "@query", "signature-input", "signature"] as const;

/** What a component of the request is worth; undefined when the item is none of those that are known. */
function ofTheRequest(item: Item, request: AskedRequest): string | undefined {
  const { value, params } = item;
  if (params.get("req") !== true) return undefined;
  if (params.size === 1) {
    if (value === "@method") return request.method;
    if (value === "@path") return request.path;
    if (value === "@query") return request.query;
  }
  if (params.size === 2 && params.get("key") === LABEL) {
    if (value === "signature-input") return request.input;
    if (value === "signature") return `:${base64(request.signature)}:`;
  }
  return undefined;
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
  request: AskedRequest,
  hostId: string,
): CoveredAnswer | undefined {
  const member = parseDictionary(headers.get("signature-input"))?.get(LABEL);
  const value = parseDictionary(headers.get("signature"))?.get(LABEL)?.value;
  if (member?.items === undefined || typeof value !== "object") return undefined;
  const signature = fromBase64(value.bytes);
  if (signature?.length !== 64 || !paramsFit(member.params, hostId)) return undefined;
  if (member.items.length > MAX_ANSWER_COMPONENTS) return undefined;

  const lines: Line[] = [];
  const seen = new Set<string>();
  const covered = new Headers();
  for (const item of member.items) {
    const name = item.value;
    const asked = ofTheRequest(item, request);
    let line: string;
    if (asked !== undefined) {
      line = asked;
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
    const key = asked === undefined ? String(name) : `${String(name)};req`;
    if (seen.has(key)) return undefined;
    seen.add(key);
    lines.push([item.text, line]);
  }
  const digest = covered.get("content-digest");
  const whole = OF_THE_REQUEST.every((component) => seen.has(`${component};req`));
  if (!seen.has("@status") || !whole || digest === null) return undefined;
  return { base: signatureBase(lines, member.text), signature, headers: covered, digest };
}
