/**
 * HTTP Message Signatures (RFC 9421), label `relay`, algorithm ed25519: making those of requests and
 * checking those of buffered answers (PROTOCOL.md sections 4.2 and 4.3).
 */
import { base64, fromBase64, latin1 } from "./encoding.js";
import { type Item, type Params, parseDictionary, quoted } from "./structured.js";

/** The only label that is looked at. */
export const LABEL = "relay";
/** At most so many components in the signature of a request. */
export const MAX_COMPONENTS = 64;
/** The same for an answer: a local server may send more headers than a page. */
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
  /** Where the address carries the signature, so that the one is never taken for the other. */
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
  const last = tag === undefined ? "" : `;tag=${quoted(tag)}`;
  const input = `(${names});created=${created};keyid=${quoted(keyid)};nonce=${quoted(nonce)};alg="ed25519"${last}`;
  const lines = components.map(([name, value]): Line => [quoted(name), value]);
  return { base: signatureBase(lines, input), input };
}

/** A request as it was sent: its answer must be to this and nothing else. */
export type Asked = {
  method: string;
  /** Path and query, as they were signed. */
  target: string;
} & (
  | {
      /** What stands after `relay=` in its `signature-input`. */
      input: string;
      signature: Uint8Array;
    }
  | {
      /** The prelude of an exchange, in b64 (PROTOCOL.md section 5.3). Such a request has no signature. */
      exchange: string;
    }
);

/** `@path` and `@query` of a target. */
export function splitTarget(target: string): [path: string, query: string] {
  const at = target.indexOf("?");
  return at === -1 ? [target, "?"] : [target.slice(0, at), target.slice(at)];
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

/** In an answer to an exchange: which one it is to. */
const EXCHANGE = "relay-exchange";

/** What an answer may cover of its request (RFC 9421 section 2.4), and must where the request has it. */
const OF_REQUEST = ["@method", "@path", "@query", "signature-input", "signature"] as const;
type OfRequest = (typeof OF_REQUEST)[number];

/** The component of the request that the item names, or undefined when it names none of the five. */
function ofRequest({ value, params }: Item): OfRequest | undefined {
  const name = OF_REQUEST.find((known) => known === value);
  if (name === undefined || params.get("req") !== true) return undefined;
  if (name.startsWith("@")) return params.size === 1 ? name : undefined;
  return params.size === 2 && params.get("key") === LABEL ? name : undefined;
}

/** The components of a request as they were sent, whatever the other end has made of them. */
function asSent(asked: Asked): ReadonlyMap<OfRequest, string> {
  const [path, query] = splitTarget(asked.target);
  const parts = new Map<OfRequest, string>([
    ["@method", asked.method],
    ["@path", path],
    ["@query", query],
  ]);
  if ("signature" in asked) {
    parts.set("signature-input", asked.input);
    parts.set("signature", `:${base64(asked.signature)}:`);
  }
  return parts;
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
  asked: Asked,
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
  const sent = asSent(asked);
  for (const item of member.items) {
    const name = item.value;
    const part = ofRequest(item);
    let line: string;
    if (part !== undefined) {
      const known = sent.get(part);
      if (known === undefined) return undefined;
      line = known;
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
    const key = part === undefined ? String(name) : `${part};req`;
    if (seen.has(key)) return undefined;
    seen.add(key);
    lines.push([item.text, line]);
  }
  const digest = covered.get("content-digest");
  const bound = [...sent.keys()].every((part) => seen.has(`${part};req`));
  if ("exchange" in asked && covered.get(EXCHANGE) !== asked.exchange) return undefined;
  if (!bound || !seen.has("@status") || digest === null) return undefined;
  return { base: signatureBase(lines, member.text), signature, headers: covered, digest };
}
