/** Answers in one piece that the agent signs (PROTOCOL.md sections 4.3 and 5.3), from Node's crypto. */
import { Buffer } from "node:buffer";
import { createHash, type KeyObject, sign } from "node:crypto";
import { type AgentRequest, fromHeaders, type ReadSignature } from "./requests.js";

/** An answer on its way to the relay. */
export interface AgentAnswer {
  status: number;
  headers: Record<string, string>;
  body: Buffer | AsyncIterable<Buffer>;
}

/** The request that an answer is to: a signed one, or an exchange. */
export type Asked = Pick<AgentRequest, "method" | "target"> & (ReadSignature | { prelude: Buffer });
export type AskedSigned = Pick<AgentRequest, "method" | "target"> & ReadSignature;

export function asked({ method, target, headers }: AgentRequest): AskedSigned {
  return { ...fromHeaders(headers), method, target };
}

/** Signs an answer. What is `uncovered` is there, but not under the signature. */
export function signAnswer(
  by: { key: KeyObject; hostId: string; now: number },
  status: number,
  body: Buffer,
  request: Asked,
  type = "application/json",
  given: Record<string, string> = {},
  uncovered?: string,
): AgentAnswer & { body: Buffer } {
  const { method, target } = request;
  // The answer to a HEAD has no body, whatever it says.
  const digest = `sha-256=:${createHash("sha256")
    .update(method === "HEAD" ? "" : body)
    .digest("base64")}:`;
  const headers: Record<string, string> = { "content-type": type, ...given, "content-digest": digest };
  if ("prelude" in request) headers["relay-exchange"] = request.prelude.toString("base64url");
  const ofSignature: [string, string][] =
    "prelude" in request
      ? []
      : [
          ['"signature-input";key="relay";req', request.params],
          ['"signature";key="relay";req', `:${request.signature.toString("base64")}:`],
        ];
  const lines: [string, string][] = [
    ['"@status"', String(status)],
    ['"@method";req', method],
    ['"@path";req', target.split("?")[0] ?? ""],
    ['"@query";req', `?${target.split("?").slice(1).join("?")}`],
    ...ofSignature,
    ...Object.entries(headers).map(([name, value]): [string, string] => [`"${name}"`, value]),
  ];
  const at = lines.findIndex(([id]) => id === uncovered);
  if (at !== -1) lines.splice(at, 1);
  const params = `(${lines.map(([id]) => id).join(" ")});created=${by.now};keyid="${by.hostId}";alg="ed25519"`;
  const base = [...lines.map(([id, value]) => `${id}: ${value}`), `"@signature-params": ${params}`].join(
    "\n",
  );
  const signature = sign(null, Buffer.from(base, "latin1"), by.key);
  return {
    status,
    headers: {
      ...headers,
      "signature-input": `relay=${params}`,
      signature: `relay=:${signature.toString("base64")}:`,
    },
    body,
  };
}
