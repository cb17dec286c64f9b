/**
 * Signed exchanges with one paired host (PROTOCOL.md section 4): every request goes out signed, and
 * nothing of an answer goes further before the agent's signature has been checked.
 *
 * What is repeated, once each and never in a loop: the very same request when the relay's session had
 * ended, and a safe request (GET, HEAD, OPTIONS) signed anew when the agent itself says that the clock or
 * the signing session was wrong. Such a refusal is no proof that the request was not done: a relay may have
 * delivered it before. So nothing else is signed anew, and sessions are renewed ahead of time instead.
 * What is not signed changes neither clock nor session.
 */
import { AgentClock } from "./clock.js";
import { requestHash } from "./confirmation.js";
import { contentDigest, digestFits } from "./digest.js";
import { b64, base64, uuid } from "./encoding.js";
import { RelayError } from "./errors.js";
import { Budget, type Outgoing, type RelayLink, readLimited, unsigned } from "./link.js";
import { isProblem, type Json, jsonObject, problemError } from "./problem.js";
import {
  RECORDS_TYPE,
  type RecordContext,
  RecordReader,
  RecordType,
  RecordVerifier,
  TO_BROWSER,
  type VerifiedRecord,
} from "./record.js";
import {
  type Component,
  claimsSignature,
  coveredAnswer,
  LABEL,
  MAX_COMPONENTS,
  prepare,
  splitTarget,
} from "./signature.js";
import type { Pairing } from "./store.js";
import { abortable, timed } from "./waiting.js";

/** Buffered answers are not larger (PROTOCOL.md section 4.3). */
const MAX_BUFFERED = 8 * 1024 * 1024;
/** A signing session lives so long after its last use, and in all (PROTOCOL.md section 4.1), in seconds. */
const IDLE_LIFE = 3600;
const WHOLE_LIFE = 24 * 3600;
/** A new one is made so long before the agent ends the old one: what comes too late may not be repeated. */
const MARGIN = 60;
/** Requests that do nothing, so that doing them twice is doing them once. */
const SAFE = new Set(["GET", "HEAD", "OPTIONS"]);
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
  /** When it was signed, by the agent's clock. */
  created: number;
  records: boolean;
}

/** An answer that the agent signed. */
export type Answer =
  | {
      kind: "buffered";
      status: number;
      headers: Headers;
      body: Uint8Array<ArrayBuffer>;
      signed: Signed;
      /** When the request went out and when all of the answer was there, in milliseconds of this browser. */
      sent: number;
      received: number;
    }
  | { kind: "records"; reader: RecordReader };

interface SigningSession {
  id: string;
  /** When the agent ends it if nothing more is asked, and when whatever is asked. By the agent's clock. */
  idleAt: number;
  overAt: number;
}

/** An answer in one piece, which is what refusals are. */
type Whole = Answer & { kind: "buffered" };

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
    tag?: "websocket",
  ): Promise<{ signature: Uint8Array<ArrayBuffer>; input: string; created: number }> {
    if (components.length > MAX_COMPONENTS) {
      throw new RelayError("header_too_large", {
        detail: "A request may have at most 59 headers of its own.",
      });
    }
    const created = this.#clock.now();
    const { base, input } = prepare(components, { created, keyid, nonce: newNonce(), tag });
    const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", this.pairing.signingKey, base));
    return { signature, input, created };
  }

  async #signRequest(request: HostRequest, keyid: string, digest: string | undefined): Promise<Signed> {
    const headers = new Headers(request.headers);
    if (digest !== undefined) headers.set("content-digest", digest);
    if (request.records) headers.set("x-relay-records", "1");
    const [path, query] = splitTarget(request.target);
    const components: Component[] = [
      ["@method", request.method],
      ["@path", path],
      ["@query", query],
    ];
    headers.forEach((value, name) => {
      components.push([name, value]);
    });
    const { signature, input, created } = await this.sign(components, keyid);
    headers.set("signature-input", `${LABEL}=${input}`);
    headers.set("signature", `${LABEL}=:${base64(signature)}:`);
    const { method, target, body, records } = request;
    return { method, target, headers, body, signature, input, keyid, created, records };
  }

  /** A signing session that lives for a while yet, made once for all who wait for it. */
  async session(signal?: AbortSignal): Promise<SigningSession> {
    const known = this.#session;
    if (known !== undefined) {
      const session = await abortable(known, signal);
      if (this.#clock.now() < Math.min(session.idleAt, session.overAt) - MARGIN) return session;
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
      return this.#exchange(request, signal);
    });
    if (answer.kind !== "buffered" || answer.status !== 200) throw malformed();
    const json = jsonObject(answer.body);
    const id = uuid(json?.["session_id"]);
    const idleAt = json?.["expires_at"];
    if (json === undefined || id === undefined || typeof idleAt !== "number") throw malformed();
    const features = json["features"];
    if (!Array.isArray(features) || !features.includes("records")) {
      throw new RelayError("agent_outdated", {
        status: 426,
        verified: true,
        detail: "The program on the host is too old for this page. Update it.",
      });
    }
    this.#clock.learn(json["agent_time"], answer.sent, answer.received);
    this.#epoch += 1;
    this.onSession();
    this.#current = { id, idleAt, overAt: this.#clock.now() + WHOLE_LIFE };
    return this.#current;
  }

  /**
   * Sends a request and answers what the agent signed. Where records were asked for, these are the answer.
   * @throws RelayError for refusals, of the agent (`verified`) and of the relay
   */
  async request(request: HostRequest, signal?: AbortSignal): Promise<Answer> {
    return this.#exchange(request, signal, async () => (await this.session(signal)).id);
  }

  /** `keyid` makes or finds the session; without it the request is the one that makes a session. */
  async #exchange(
    request: HostRequest,
    signal: AbortSignal | undefined,
    keyid?: () => Promise<string>,
  ): Promise<Answer> {
    const digest = request.body === undefined ? undefined : await contentDigest(request.body, signal);
    const repeatable = keyid === undefined || SAFE.has(request.method);
    const budget = new Budget();
    for (;;) {
      const key = keyid === undefined ? this.pairing.clientId : await keyid();
      const signed = await this.#signRequest(request, key, digest);
      const sent = Date.now();
      const response = await this.link.deliver(signed, budget, signal);
      const answer = await this.#verify(response, signed, sent, signal);
      if (answer.kind === "records") return answer;
      const refusal = this.#refusal(answer);
      if (refusal === undefined) {
        // Somebody had the agent sign something that was never asked for.
        if (request.records) throw altered(answer.status);
        this.#used(signed);
        return answer;
      }
      if (!this.#mend(refusal, answer) || !repeatable || !budget.spend("signed_anew")) {
        // To a HEAD that the local server itself answers with a problem's head, this is the answer.
        if (request.method === "HEAD") return answer;
        throw refusal;
      }
    }
  }

  /** The error in a signed answer that is a refusal of the agent's own. */
  #refusal(answer: Whole): RelayError | undefined {
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

  /** Puts right what the agent says is wrong; false when nothing could be. */
  #mend(refusal: RelayError, { signed, body, sent, received }: Whole): boolean {
    switch (refusal.code) {
      case "clock_skew":
        this.#clock.learn(jsonObject(body)?.["agent_time"], sent, received);
        this.#epoch += 1;
        return true;
      case "signing_session_expired":
        this.#dropId(signed.keyid);
        return signed.keyid !== this.pairing.clientId;
      case "signing_session_ended":
        // It was under way already, and may have been done.
        this.#dropId(signed.keyid);
        return false;
      case "not_paired":
        this.onRevoked();
        return false;
      default:
        return false;
    }
  }

  /** The agent has verified a request of this session: it counts from there. */
  #used({ keyid, created }: { keyid: string; created: number }): void {
    const session = this.#current;
    if (session?.id === keyid) session.idleAt = Math.max(session.idleAt, created + IDLE_LIFE);
  }

  /** For the records that answer a signed request. */
  verifier(signed: { signature: Uint8Array; keyid: string; created: number }): RecordVerifier {
    const onVerified = ({ type, payload }: VerifiedRecord) => {
      const ended = type === RecordType.ERROR && jsonObject(payload)?.["code"] === "signing_session_ended";
      if (ended) this.#dropId(signed.keyid);
      else this.#used(signed);
    };
    return new RecordVerifier(this.recordContext(signed), this.agentKey, TO_BROWSER, onVerified);
  }

  /** @throws RelayError `tampered` when the answer is not what the agent signed, the relay's refusal otherwise */
  async #verify(
    response: Response,
    signed: Signed,
    sent: number,
    signal: AbortSignal | undefined,
  ): Promise<Answer> {
    const type = response.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
    if (signed.records && response.status === 200 && type === RECORDS_TYPE && response.body !== null) {
      return { kind: "records", reader: new RecordReader(response.body, this.verifier(signed)) };
    }
    const body = await this.#readBody(response, signal);
    const received = Date.now();
    if (!claimsSignature(response.headers)) throw unsigned(response, body);
    const covered = coveredAnswer(response.status, response.headers, signed, this.pairing.hostId);
    const fits =
      covered !== undefined &&
      (await crypto.subtle.verify("Ed25519", this.agentKey, covered.signature, covered.base)) &&
      digestFits(covered.digest, body);
    if (!fits) throw altered(response.status);
    const { status } = response;
    return { kind: "buffered", status, headers: covered.headers, body, signed, sent, received };
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
   * A request to the agent itself, JSON in and JSON out. Any status but the one that is `wanted` is an error.
   * @throws RelayError
   */
  async call(
    method: string,
    target: string,
    wanted: number,
    body?: Json,
    signal?: AbortSignal,
  ): Promise<AgentAnswer> {
    return timed(signal, async (limited) => {
      const headers = new Headers({ accept: "application/json" });
      if (body !== undefined) headers.set("content-type", "application/json");
      const blob = body === undefined ? undefined : new Blob([JSON.stringify(body)]);
      const answer = await this.request({ method, target, headers, body: blob, records: false }, limited);
      if (answer.kind !== "buffered" || answer.status !== wanted) throw malformed();
      return {
        json: answer.body.length === 0 ? undefined : jsonObject(answer.body),
        signature: answer.signed.signature,
      };
    });
  }
}

function malformed(): RelayError {
  return new RelayError("bad_answer", { detail: "The host's answer is not of this protocol." });
}

function altered(status: number): RelayError {
  return new RelayError("tampered", { status, detail: "The answer was altered on the way." });
}

/** What the agent answered to {@link Channel.call}, with the signature of the request. */
export interface AgentAnswer {
  json: Json | undefined;
  signature: Uint8Array<ArrayBuffer>;
}
