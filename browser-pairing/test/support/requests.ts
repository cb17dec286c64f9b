/**
 * The agent's check of a signed request, written from PROTOCOL.md section 4.2 without the SDK's code, so
 * that a mistake on one side does not hide behind the same mistake on the other.
 */
import { createHash, type KeyObject, verify } from "node:crypto";

/** A request as it reaches the agent: below the prefix, headers in lower case, several joined. */
export interface AgentRequest {
  method: string;
  target: string;
  headers: Record<string, string>;
  body: Buffer;
}

/** What a signature says, once it has been read. */
export interface ReadSignature {
  names: string[];
  created: number;
  keyid: string;
  nonce: string;
  params: string;
  signature: Buffer;
}

/** A refusal with the protocol's code. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly extra: Record<string, unknown> = {},
  ) {
    super(code);
  }
}

const FREE =
  /^(?:accept|accept-encoding|accept-language|cache-control|dnt|origin|pragma|priority|referer|sec-.*|te|trailer|user-agent|traceparent|tracestate|x-forwarded-.*|x-request-id|cookie)$/;

/** Reads `signature-input` and `signature`, or what a WebSocket's query carries in their place. */
export function readSignature(
  input: string | undefined,
  signature: Buffer | undefined,
  tag?: string,
): ReadSignature {
  if (input === undefined || signature === undefined) throw new Refusal(401, "signature_missing");
  const found = /^\(([^()]*)\)((?:;[a-z]+=(?:"[^"]*"|\d+))*)$/.exec(input);
  if (found === null || signature.length !== 64) throw new Refusal(400, "bad_request");
  const names = (found[1] ?? "").split(" ").map((name) => /^"([^"]+)"$/.exec(name)?.[1] ?? "");
  const params = new Map<string, string>();
  for (const [, key = "", text, number] of (found[2] ?? "").matchAll(/;([a-z]+)=(?:"([^"]*)"|(\d+))/g)) {
    if (params.has(key)) throw new Refusal(400, "bad_request");
    params.set(key, text ?? number ?? "");
  }
  const nonce = params.get("nonce") ?? "";
  const malformed =
    names.includes("") ||
    names.length > 64 ||
    new Set(names).size !== names.length ||
    [...params.keys()].sort().join() !== `alg,created,keyid,nonce${tag === undefined ? "" : ",tag"}` ||
    params.get("tag") !== tag ||
    params.get("alg") !== "ed25519" ||
    !/^[A-Za-z0-9+/_=-]{22,64}$/.test(nonce);
  if (malformed) throw new Refusal(400, "bad_request");
  return {
    names,
    created: Number(params.get("created")),
    keyid: params.get("keyid") ?? "",
    nonce,
    params: input,
    signature,
  };
}

/** The two headers, as the SDK writes them. */
export function fromHeaders(headers: Record<string, string>): ReadSignature {
  const input = /^relay=(.*)$/.exec(headers["signature-input"] ?? "")?.[1];
  const value = /^relay=:([A-Za-z0-9+/=]+):$/.exec(headers["signature"] ?? "")?.[1];
  return readSignature(input, value === undefined ? undefined : Buffer.from(value, "base64"));
}

/** Takes the signature off the end of an upgrade's query. */
export function fromQuery(target: string): { rest: string; read: ReadSignature } {
  const found = /^(.*?)([?&])relay-signature-input=([^&]*)&relay-signature=([A-Za-z0-9_-]*)$/.exec(target);
  if (found === null) throw new Refusal(401, "signature_missing");
  const [, rest = "", , input = "", value = ""] = found;
  const read = readSignature(decodeURIComponent(input), Buffer.from(value, "base64url"), "websocket");
  const allowed = ["@method", "@path", "@query", "sec-websocket-protocol"];
  if (!read.names.every((name) => allowed.includes(name))) throw new Refusal(400, "bad_request");
  return { rest, read };
}

/** Checks what must be covered, then the signature. Time, key id and nonce are the caller's. */
export function checkRequest(request: AgentRequest, read: ReadSignature, key: KeyObject): void {
  const at = request.target.indexOf("?");
  const values: Record<string, string | undefined> = {
    ...request.headers,
    "@method": request.method,
    "@path": at === -1 ? request.target : request.target.slice(0, at),
    "@query": at === -1 ? "?" : request.target.slice(at),
  };
  for (const name of ["@method", "@path", "@query"]) {
    if (!read.names.includes(name)) throw new Refusal(400, "uncovered");
  }
  const digest = request.headers["content-digest"];
  if (request.body.length > 0 && !(read.names.includes("content-digest") && digest !== undefined)) {
    throw new Refusal(400, "uncovered");
  }
  const lines = read.names.map((name) => {
    const value = values[name];
    if (value === undefined) throw new Refusal(401, "signature_invalid");
    return `"${name}": ${value.trim()}`;
  });
  const base = Buffer.from([...lines, `"@signature-params": ${read.params}`].join("\n"), "latin1");
  if (!verify(null, base, key, read.signature)) throw new Refusal(401, "signature_invalid");
  if (digest !== undefined) {
    const wanted = `sha-256=:${createHash("sha256").update(request.body).digest("base64")}:`;
    if (digest !== wanted) throw new Refusal(400, "digest_mismatch");
  }
}

/** The headers that the local server may see: those that are covered, and the few that need no cover. */
export function forwarded(request: AgentRequest, read: ReadSignature): Record<string, string> {
  const own =
    /^(?:signature|signature-input|content-digest|x-relay-.*|content-length|transfer-encoding|connection)$/;
  return Object.fromEntries(
    Object.entries(request.headers).filter(
      ([name]) => !own.test(name) && (read.names.includes(name) || FREE.test(name)),
    ),
  );
}
