/**
 * Signed requests over the relay (PROTOCOL.md sections 4.2 and 4.3): each goes out signed, and nothing of an
 * answer in one piece goes further before the agent's signature over it, and over what it is an answer to, has
 * been checked. Every session is made by one; where sessions are only signed, everything over the relay is one.
 *
 * What is repeated, once each and never in a loop: the very same request when the relay's session had ended, and
 * a safe request signed anew when the agent itself says that the clock or the session was wrong. Such a refusal
 * is no proof that the request was not done: a relay may have delivered it before. So nothing else is signed anew.
 */
import type { AgentClock } from "./clock.js";
import { contentDigest, digestFits } from "./digest.js";
import { b64, base64 } from "./encoding.js";
import { RelayError } from "./errors.js";
import { Budget, type Outgoing, type RelayLink, readAnswer, unsigned } from "./link.js";
import { isProblem, problemError } from "./problem.js";
import { RECORDS_TYPE } from "./record.js";
import {
  type Asked,
  type Component,
  claimsSignature,
  coveredAnswer,
  LABEL,
  MAX_COMPONENTS,
  prepare,
  splitTarget,
} from "./signature.js";
import type { Pairing } from "./store.js";

/** Requests that do nothing, so that doing them twice is doing them once. */
const SAFE = new Set(["GET", "HEAD", "OPTIONS"]);

/** Whether a request may be done anew after the agent has refused it. */
export function isSafe(method: string): boolean {
  return SAFE.has(method);
}

/** A request for the host. Header names are in lower case, as the platform's `Headers` gives them. */
export interface HostRequest {
  method: string;
  /** Path and query as the URL standard writes them, beginning with `/`. */
  target: string;
  headers: Headers;
  /** Undefined when there is no body at all. */
  body?: Blob | undefined;
  /** Whether the local server is meant, and no path of the agent's own. */
  local: boolean;
}

/** A request with its signature. */
export interface Signed extends Outgoing {
  signature: Uint8Array<ArrayBuffer>;
  /** What stands after `relay=` in `signature-input`. */
  input: string;
  keyid: string;
  /** Whether the answer is to be a record stream. */
  records: boolean;
}

/** An answer in one piece, which is what refusals are. */
export interface Whole {
  status: number;
  headers: Headers;
  body: Uint8Array<ArrayBuffer>;
  signed: Signed;
  /** When the request went out and when all of the answer was there, in milliseconds of this browser. */
  sent: number;
  received: number;
}

/** A body of records, none of which has been looked at. */
export interface Stream {
  stream: ReadableStream<Uint8Array>;
  signed: Signed;
}

/** 22 characters with 16 random bytes behind them. */
function newNonce(): string {
  return b64(crypto.getRandomValues(new Uint8Array(16)));
}

export function altered(status: number): RelayError {
  return new RelayError("tampered", { status, detail: "The answer was altered on the way." });
}

/**
 * An answer in one piece, if the agent signed it for what was asked.
 * @throws RelayError `tampered` when it claims to be and is not, the relay's refusal when it does not claim it
 */
export async function verifyWhole(
  response: Response,
  asked: Asked,
  hostId: string,
  agentKey: CryptoKey,
  signal: AbortSignal | undefined,
): Promise<{ headers: Headers; body: Uint8Array<ArrayBuffer> }> {
  const body = await readAnswer(response, signal);
  if (!claimsSignature(response.headers)) throw unsigned(response, body);
  const covered = coveredAnswer(response.status, response.headers, asked, hostId);
  const fits =
    covered !== undefined &&
    (await crypto.subtle.verify("Ed25519", agentKey, covered.signature, covered.base)) &&
    digestFits(covered.digest, body);
  if (!fits) throw altered(response.status);
  return { headers: covered.headers, body };
}

/** The error in a verified answer that is a refusal of the agent's own; undefined when it is none. */
export function verifiedRefusal(status: number, headers: Headers, body: Uint8Array): RelayError | undefined {
  if (status < 400 || !isProblem(headers)) return undefined;
  return (
    problemError(status, body, headers, true) ??
    new RelayError("bad_answer", {
      status,
      verified: true,
      detail: "The host's answer is not of this protocol.",
    })
  );
}

/** Signs, sends and verifies. */
export class SignedHttp {
  constructor(
    readonly link: RelayLink,
    readonly pairing: Pairing,
    readonly agentKey: CryptoKey,
    readonly clock: AgentClock,
    /** Puts right what the agent says is wrong; false when nothing could be. */
    readonly mend: (refusal: RelayError, answer: Whole) => boolean,
  ) {}

  /** Signs components in the name of a session, or of the client where there is no session yet. */
  async sign(
    components: readonly Component[],
    keyid: string,
    tag?: "websocket",
  ): Promise<{ signature: Uint8Array<ArrayBuffer>; input: string }> {
    if (components.length > MAX_COMPONENTS) {
      throw new RelayError("header_too_large", {
        detail: "A request may have at most 59 headers of its own.",
      });
    }
    const created = this.clock.now();
    const { base, input } = prepare(components, { created, keyid, nonce: newNonce(), tag });
    const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", this.pairing.signingKey, base));
    return { signature, input };
  }

  async #signRequest(request: HostRequest, keyid: string, digest: string | undefined): Promise<Signed> {
    const { method, target, body } = request;
    // An answer to HEAD has no body that could carry records, and the agent's own are in one piece.
    const records = request.local && method !== "HEAD";
    const headers = new Headers(request.headers);
    if (digest !== undefined) headers.set("content-digest", digest);
    if (records) headers.set("x-relay-records", "1");
    const [path, query] = splitTarget(target);
    const components: Component[] = [
      ["@method", method],
      ["@path", path],
      ["@query", query],
    ];
    headers.forEach((value, name) => {
      components.push([name, value]);
    });
    const { signature, input } = await this.sign(components, keyid);
    headers.set("signature-input", `${LABEL}=${input}`);
    headers.set("signature", `${LABEL}=:${base64(signature)}:`);
    return { method, target, headers, body, signature, input, keyid, records };
  }

  /**
   * Sends a request and answers what the agent signed. `keyid` makes or finds the session; without it the
   * request is the one that makes a session.
   * @throws RelayError for refusals, of the agent (`verified`) and of the relay
   */
  async request(
    request: HostRequest,
    signal: AbortSignal | undefined,
    keyid?: () => Promise<string>,
  ): Promise<Whole | Stream> {
    const digest = request.body === undefined ? undefined : await contentDigest(request.body, signal);
    const repeatable = keyid === undefined || isSafe(request.method);
    const budget = new Budget();
    for (;;) {
      const key = keyid === undefined ? this.pairing.clientId : await keyid();
      const signed = await this.#signRequest(request, key, digest);
      const sent = Date.now();
      const response = await this.link.deliver(signed, budget, signal);
      const type = response.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
      if (signed.records && response.status === 200 && type === RECORDS_TYPE && response.body !== null) {
        return { stream: response.body, signed };
      }
      const { status } = response;
      const whole = await verifyWhole(response, signed, this.pairing.hostId, this.agentKey, signal);
      const answer: Whole = { ...whole, status, signed, sent, received: Date.now() };
      const refusal = this.#refusal(answer);
      if (refusal === undefined) {
        // Somebody had the agent sign something that was never asked for.
        if (signed.records) throw altered(status);
        return answer;
      }
      if (!this.mend(refusal, answer) || !repeatable || !budget.spend("signed_anew")) {
        // To a HEAD that the local server itself answers with a problem's head, this is the answer.
        if (request.method === "HEAD") return answer;
        throw refusal;
      }
    }
  }

  #refusal({ status, headers, body, signed }: Whole): RelayError | undefined {
    const refusal = verifiedRefusal(status, headers, body);
    // To a HEAD the agent can give no code. All that could be mended comes with 401.
    if (refusal === undefined || signed.method !== "HEAD") return refusal;
    return status === 401 ? new RelayError("signing_session_expired", { status, verified: true }) : undefined;
  }
}
