/**
 * Signed exchanges with one paired host (PROTOCOL.md section 4): every request goes out signed, and
 * nothing of an answer goes further before the agent's signature has been checked.
 *
 * What is repeated, once each and never in a loop: the very same request when the relay's session had
 * ended, and a request signed anew when the agent itself says that the clock or the signing session
 * was wrong. What is not signed changes neither clock nor session.
 */
import { requestHash } from "./confirmation.js";
import { contentDigest, digestFits } from "./digest.js";
import { b64, base64, uuid } from "./encoding.js";
import { RelayError } from "./errors.js";
import { Budget, type Outgoing, type RelayLink, readLimited, unsigned } from "./link.js";
import { isProblem, type Json, jsonObject, problemError } from "./problem.js";
import { RECORDS_TYPE, type RecordContext, RecordReader, RecordVerifier } from "./record.js";
import {
  type Component,
  claimsSignature,
  coveredAnswer,
  LABEL,
  MAX_COMPONENTS,
  prepare,
} from "./signature.js";
import type { Pairing } from "./store.js";
import { abortable, timed } from "./waiting.js";

/** Buffered answers are not larger (PROTOCOL.md section 4.3). */
const MAX_BUFFERED = 8 * 1024 * 1024;
/** The SDK makes a new signing session a little before the agent ends the old one, in seconds. */
const IDLE_LIFE = 55 * 60;
const WHOLE_LIFE = 23 * 3600;
const SESSION_PATH = "/_relay/session";

/** A request for the host. Header names are in lower case, as the platform's `Headers` gives them. */
export interface HostRequest {
  method: string;
  /** Path and query as the URL standard writes them, beginning with `/`. */
  target: string;
  headers: Headers;
  /** Undefined when there is no body at all. */
  body?: Blob | undefined;
  /** Whether the answer shall be a record stream. */
  records: boolean;
}

/** A request with its signature. */
export interface Signed extends Outgoing {
  signature: Uint8Array<ArrayBuffer>;
  /** What stands after `relay=` in `signature-input`. */
  input: string;
  keyid: string;
  records: boolean;
}

/** An answer that the agent signed. */
export type Answer =
  | { kind: "buffered"; status: number; headers: Headers; body: Uint8Array<ArrayBuffer>; signed: Signed }
  | { kind: "records"; reader: RecordReader; signed: Signed };

/** The agent's clock, as far as this browser knows it. */
class AgentClock {
  #offset = 0;
  /** Unix seconds. */
  now(): number {
    return Math.floor(Date.now() / 1000 + this.#offset);
  }
  /** Takes over what the agent has signed. */
  set(agentTime: unknown): void {
    if (typeof agentTime === "number" && Number.isFinite(agentTime))
      this.#offset = agentTime - Date.now() / 1000;
  }
}

interface SigningSession {
  id: string;
  madeAt: number;
  usedAt: number;
}

/** `@path` and `@query` of a target. */
function split(target: string): [path: string, query: string] {
  const at = target.indexOf("?");
  return at === -1 ? [target, "?"] : [target.slice(0, at), target.slice(at)];
}

/** 22 characters with 16 random bytes behind them. */
function newNonce(): string {
  return b64(crypto.getRandomValues(new Uint8Array(16)));
}

/** One paired host over one relay. */
export class Channel {
  readonly #clock = new AgentClock();
  #session: Promise<SigningSession> | undefined;
  /** The session that was made last. */
  #current: SigningSession | undefined;
  #epoch = 0;

  constructor(
    readonly link: RelayLink,
    readonly pairing: Pairing,
    readonly agentKey: CryptoKey,
    /** Called after each new signing session. */
    readonly onSession: () => void = () => {},
    /** Called when the agent says, signed, that it does not know this browser any more. */
    readonly onRevoked: () => void = () => {},
  ) {}

  /** Changes whenever what is signed from now on differs from before: a new session, another time. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Signs components in the name of a session, or of the client where there is no session yet. */
  async sign(
    components: readonly Component[],
    keyid: string,
  ): Promise<{ signature: Uint8Array<ArrayBuffer>; input: string }> {
    if (components.length > MAX_COMPONENTS) {
      throw new RelayError("header_too_large", {
        detail: "A request may have at most 59 headers of its own.",
      });
    }
    const { base, input } = prepare(components, { created: this.#clock.now(), keyid, nonce: newNonce() });
    const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", this.pairing.signingKey, base));
    return { signature, input };
  }

  async #signRequest(request: HostRequest, keyid: string, digest: string | undefined): Promise<Signed> {
    const headers = new Headers(request.headers);
    if (digest !== undefined) headers.set("content-digest", digest);
    if (request.records) headers.set("x-relay-records", "1");
    const [path, query] = split(request.target);
    const components: Component[] = [
      ["@method", request.method],
      ["@path", path],
      ["@query", query],
    ];
    headers.forEach((value, name) => {
      components.push([name, value]);
    });
    const { signature, input } = await this.sign(components, keyid);
    headers.set("signature-input", `${LABEL}=${input}`);
    headers.set("signature", `${LABEL}=:${base64(signature)}:`);
    const { method, target, body, records } = request;
    return { method, target, headers, body, signature, input, keyid, records };
  }

  /** A signing session that lives, made once for all who wait for it. */
  async session(signal?: AbortSignal): Promise<SigningSession> {
    const known = this.#session;
    if (known !== undefined) {
      const session = await abortable(known, signal);
      const now = this.#clock.now();
      if (now < session.usedAt + IDLE_LIFE && now < session.madeAt + WHOLE_LIFE) {
        session.usedAt = Math.max(session.usedAt, now);
        return session;
      }
      this.#drop(known);
    }
    if (this.#session === undefined) {
      const pending = this.#newSession();
      this.#session = pending;
      pending.catch(() => this.#drop(pending));
    }
    return abortable(this.#session, signal);
  }

  #drop(session: Promise<SigningSession>): void {
    if (this.#session === session) this.#session = undefined;
  }

  /** Never waits: the session that is being made may be what asks. */
  #dropId(id: string): void {
    if (this.#current?.id !== id) return;
    this.#current = undefined;
    this.#session = undefined;
  }

  async #newSession(): Promise<SigningSession> {
    const answer = await timed(undefined, async (signal) => {
      const body = new Blob([
        JSON.stringify({ v: 1, host_id: this.pairing.hostId, features: ["records", "websocket"] }),
      ]);
      const headers = new Headers({ accept: "application/json", "content-type": "application/json" });
      const request: HostRequest = { method: "POST", target: SESSION_PATH, headers, body, records: false };
      return this.#exchange(request, new Budget(), signal, async () => this.pairing.clientId);
    });
    const json = answer.kind === "buffered" && answer.status === 200 ? jsonObject(answer.body) : undefined;
    const id = uuid(json?.["session_id"]);
    if (json === undefined || id === undefined) {
      throw new RelayError("bad_answer", { detail: "The host's answer is not of this protocol." });
    }
    const features = json["features"];
    if (!Array.isArray(features) || !features.includes("records")) {
      throw new RelayError("agent_outdated", {
        status: 426,
        verified: true,
        detail: "The program on the host is too old for this page. Update it.",
      });
    }
    this.#clock.set(json["agent_time"]);
    this.#epoch += 1;
    this.onSession();
    const now = this.#clock.now();
    this.#current = { id, madeAt: now, usedAt: now };
    return this.#current;
  }

  /**
   * Sends a request and answers what the agent signed.
   * @throws RelayError for refusals, of the agent (`verified`) and of the relay
   */
  async request(request: HostRequest, signal?: AbortSignal): Promise<Answer> {
    return this.#exchange(request, new Budget(), signal, async () => (await this.session(signal)).id);
  }

  async #exchange(
    request: HostRequest,
    budget: Budget,
    signal: AbortSignal | undefined,
    keyid: () => Promise<string>,
  ): Promise<Answer> {
    const digest = request.body === undefined ? undefined : await contentDigest(request.body, signal);
    for (;;) {
      const signed = await this.#signRequest(request, await keyid(), digest);
      const response = await this.link.deliver(signed, budget, signal);
      const answer = await this.#verify(response, signed, signal);
      if (answer.kind === "records") return answer;
      const refusal = this.#refusal(answer);
      if (refusal === undefined) return answer;
      if (!this.#mend(refusal, answer, budget)) {
        // To a HEAD that the local server itself answers with a problem's head, this is the answer.
        if (request.method === "HEAD") return answer;
        throw refusal;
      }
    }
  }

  /** The error in a signed answer that is a refusal of the agent's own. */
  #refusal(answer: Answer & { kind: "buffered" }): RelayError | undefined {
    if (answer.status < 400 || !isProblem(answer.headers)) return undefined;
    const { status, body, headers } = answer;
    // To a HEAD the agent can give no code. All that could be mended comes with 401.
    if (answer.signed.method === "HEAD") {
      return status === 401
        ? new RelayError("signing_session_expired", { status, verified: true })
        : undefined;
    }
    return (
      problemError(status, body, headers, true) ??
      new RelayError("bad_answer", {
        status,
        verified: true,
        detail: "The host's answer is not of this protocol.",
      })
    );
  }

  /** Puts right what the agent says is wrong; false when nothing can be, or it has been tried. */
  #mend(refusal: RelayError, answer: Answer & { kind: "buffered" }, budget: Budget): boolean {
    switch (refusal.code) {
      case "clock_skew":
        if (!budget.spend("clock_skew")) return false;
        this.#clock.set(jsonObject(answer.body)?.["agent_time"]);
        this.#epoch += 1;
        return true;
      case "signing_session_expired":
        if (answer.signed.keyid === this.pairing.clientId || !budget.spend("signing_session")) return false;
        this.#dropId(answer.signed.keyid);
        return true;
      case "not_paired":
        this.onRevoked();
        return false;
      default:
        return false;
    }
  }

  /** @throws RelayError `tampered` when the answer is not what the agent signed, the relay's refusal otherwise */
  async #verify(response: Response, signed: Signed, signal: AbortSignal | undefined): Promise<Answer> {
    const type = response.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
    if (signed.records && response.status === 200 && type === RECORDS_TYPE && response.body !== null) {
      const verifier = new RecordVerifier(this.recordContext(signed), this.agentKey);
      return { kind: "records", reader: new RecordReader(response.body, verifier), signed };
    }
    const body = await this.#readBody(response, signal);
    if (!claimsSignature(response.headers)) throw unsigned(response, body);
    const covered = coveredAnswer(response.status, response.headers, signed.signature, this.pairing.hostId);
    const fits =
      covered !== undefined &&
      (await crypto.subtle.verify("Ed25519", this.agentKey, covered.signature, covered.base)) &&
      (signed.method === "HEAD" ? body.length === 0 : digestFits(covered.digest, body));
    if (!fits) {
      throw new RelayError("tampered", {
        status: response.status,
        detail: "The answer was altered on the way.",
      });
    }
    return { kind: "buffered", status: response.status, headers: covered.headers, body, signed };
  }

  async #readBody(response: Response, signal: AbortSignal | undefined): Promise<Uint8Array<ArrayBuffer>> {
    try {
      return await readLimited(response, MAX_BUFFERED);
    } catch (cause) {
      if (signal?.aborted) throw signal.reason;
      if (cause instanceof RelayError) throw cause;
      throw new RelayError("truncated", { status: response.status, detail: "The answer broke off.", cause });
    }
  }

  /** What binds records to a signed request. */
  recordContext(signed: { signature: Uint8Array; keyid: string }): RecordContext {
    return { sessionId: signed.keyid, requestHash: requestHash(signed.signature) };
  }

  /**
   * A request to the agent itself, JSON in and JSON out.
   * @throws RelayError
   */
  async call(method: string, target: string, body?: Json, signal?: AbortSignal): Promise<AgentAnswer> {
    return timed(signal, async (limited) => {
      const headers = new Headers({ accept: "application/json" });
      if (body !== undefined) headers.set("content-type", "application/json");
      const blob = body === undefined ? undefined : new Blob([JSON.stringify(body)]);
      const answer = await this.request({ method, target, headers, body: blob, records: false }, limited);
      if (answer.kind !== "buffered" || answer.status >= 300) {
        throw new RelayError("bad_answer", { detail: "The host's answer is not of this protocol." });
      }
      return {
        json: answer.body.length === 0 ? undefined : jsonObject(answer.body),
        signature: answer.signed.signature,
      };
    });
  }
}

/** What the agent answered to {@link Channel.call}, with the signature of the request. */
export interface AgentAnswer {
  json: Json | undefined;
  signature: Uint8Array<ArrayBuffer>;
}
