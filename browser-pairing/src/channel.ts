/**
 * Everything that goes to one paired host, over one relay and what bypasses it: the session, and with it what
 * protects each request. Sealed sessions have exchanges alone; signed ones have signed requests over the relay and
 * exchanges on other paths. Nothing of an answer goes further before the agent's protection has been checked.
 *
 * What is not protected by the agent changes neither clock nor session.
 */
import { type Answer, readAnswerHead, wholeAnswer } from "./answer.js";
import { AgentClock } from "./clock.js";
import { requestHash } from "./confirmation.js";
import { concat } from "./encoding.js";
import { RelayError } from "./errors.js";
import { Exchanges } from "./exchange.js";
import { MAX_BUFFERED, type RelayLink } from "./link.js";
import type { PathHost } from "./path.js";
import { Paths } from "./paths.js";
import { type Json, jsonObject } from "./problem.js";
import { RecordOpener, RecordReader, RecordType, type Unsealer, type VerifiedRecord } from "./record.js";
import { RecordVerifier } from "./record-signed.js";
import { RelayPath } from "./relaypath.js";
import { makeSession, type Session, Sessions } from "./session.js";
import { type HostRequest, type Signed, SignedHttp, type Whole } from "./signed.js";
import type { Pairing } from "./store.js";
import type { Protection } from "./types.js";
import { timed } from "./waiting.js";

const SESSION_PATH = "/_relay/session";

/** What the agent answered to {@link Channel.call}, and what it was sealed for if it was. */
export interface AgentAnswer {
  json: Json | undefined;
  salt: Uint8Array<ArrayBuffer>;
}

/** Whose ears are told what happens to a channel. */
export interface Ears {
  /** A new session was made. */
  session: () => void;
  /** The agent says, signed, that it does not know this browser any more. */
  revoked: () => void;
  /** Requests may take another path than before. */
  path: () => void;
}

/** One paired host over one relay. */
export class Channel implements PathHost {
  readonly #clock = new AgentClock();
  readonly #signed: SignedHttp;
  readonly #sessions: Sessions;
  readonly #paths: Paths;
  readonly #exchanges: Exchanges;
  #epoch = 0;

  constructor(
    readonly link: RelayLink,
    readonly pairing: Pairing,
    readonly agentKey: CryptoKey,
    readonly protection: Protection,
    readonly ears: Ears,
    webRtc?: boolean,
  ) {
    this.#signed = new SignedHttp(link, pairing, agentKey, this.#clock, (refusal, answer) =>
      this.#mend(refusal, answer.signed.keyid, answer),
    );
    this.#sessions = new Sessions(
      () => makeSession(pairing, agentKey, protection, (body) => this.#askSession(body)),
      () => {
        this.#epoch += 1;
        ears.session();
      },
    );
    this.#paths = new Paths(new RelayPath(link), this, { webRtc, onchange: ears.path });
    this.#exchanges = new Exchanges(
      pairing,
      agentKey,
      this.#sessions,
      this.#paths,
      ({ session, prelude }) => this.#opener(session, session.unsealer(prelude)),
      (refusal, id) => this.#mend(refusal, id),
    );
  }

  /** Changes whenever what is protected from now on differs from before: a new session, another time. */
  get epoch(): number {
    return this.#epoch;
  }

  get features(): ReadonlySet<string> {
    return this.#sessions.current?.features ?? new Set();
  }

  /** The rooms that open WebSockets. */
  get sessions(): Sessions {
    return this.#sessions;
  }
  get paths(): Paths {
    return this.#paths;
  }
  get signed(): SignedHttp {
    return this.#signed;
  }
  get exchanges(): Exchanges {
    return this.#exchanges;
  }

  async #askSession(body: Json): Promise<Json | undefined> {
    return timed(undefined, async (signal) => {
      const headers = new Headers({ accept: "application/json", "content-type": "application/json" });
      const blob = new Blob([JSON.stringify(body)]);
      const answer = await this.#signed.request(
        { method: "POST", target: SESSION_PATH, headers, body: blob, local: false },
        signal,
      );
      if ("stream" in answer || answer.status !== 200) throw malformed();
      const json = jsonObject(answer.body);
      this.#clock.learn(json?.["agent_time"], answer.sent, answer.received);
      return json;
    });
  }

  /**
   * Does a request, and answers as soon as the head of the answer is there and verified.
   * @throws RelayError for refusals, of the agent (`verified`) and of the relay; the signal's reason
   */
  async request(request: HostRequest, signal: AbortSignal): Promise<Answer> {
    const bySignature = this.protection === "signed" && this.#paths.choose().kind === "relay";
    if (!bySignature) return this.#exchanges.request(request, signal);
    const under: { session?: Session; sent: number } = { sent: 0 };
    const answer = await this.#signed.request(request, signal, async () => {
      under.session = await this.#sessions.get(signal);
      under.sent = under.session.watch.seconds;
      return under.session.id;
    });
    const salt = requestHash(answer.signed.signature);
    const read =
      "stream" in answer
        ? await readAnswerHead(
            new RecordReader(answer.stream, this.signedOpener(answer.signed, under.session)),
            salt,
            signal,
          )
        : wholeAnswer(answer.status, answer.headers, answer.body, salt);
    under.session?.life.used(under.sent);
    this.#paths.succeeded();
    return read;
  }

  /** Puts right what the agent says is wrong; false when nothing could be. */
  #mend(refusal: RelayError, keyid: string, whole?: Whole): boolean {
    switch (refusal.code) {
      case "clock_skew":
        if (whole === undefined) return false;
        this.#clock.learn(jsonObject(whole.body)?.["agent_time"], whole.sent, whole.received);
        this.#epoch += 1;
        return true;
      case "signing_session_expired":
        this.#sessions.drop(keyid);
        return keyid !== this.pairing.clientId;
      case "signing_session_ended":
        // It was under way already, and may have been done.
        this.#sessions.drop(keyid);
        return false;
      case "not_paired":
        this.ears.revoked();
        return false;
      default:
        return false;
    }
  }

  /** Checks records, and notes that the session is used, or has ended. */
  #opener(session: Session, unsealer: Unsealer): RecordOpener {
    const sent = session.watch.seconds;
    return new RecordOpener(unsealer, ({ type, payload }: VerifiedRecord) => {
      const ended = type === RecordType.ERROR && jsonObject(payload)?.["code"] === "signing_session_ended";
      if (ended) this.#sessions.drop(session.id);
      else session.life.used(sent);
    });
  }

  /** For the records that answer a signed request. */
  signedOpener(signed: Pick<Signed, "signature" | "keyid">, session?: Session): RecordOpener {
    const context = { sessionId: signed.keyid, requestHash: requestHash(signed.signature) };
    const verifier = new RecordVerifier(context, this.agentKey);
    return session === undefined ? new RecordOpener(verifier) : this.#opener(session, verifier);
  }

  /** A request to the agent itself; see {@link PathHost.call}. */
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
      const answer = await this.request({ method, target, headers, body: blob, local: false }, limited);
      const pieces: Uint8Array[] = [];
      let length = 0;
      for (let piece = await answer.next(); piece !== undefined; piece = await answer.next()) {
        pieces.push(piece);
        length += piece.length;
        if (length > MAX_BUFFERED) {
          await answer.cancel();
          throw malformed();
        }
      }
      if (answer.status !== wanted) throw malformed();
      return { json: length === 0 ? undefined : jsonObject(concat(...pieces)), salt: answer.salt };
    });
  }

  /** Ends every path but the relay's. */
  close(): void {
    this.#paths.close();
  }
}

function malformed(): RelayError {
  return new RelayError("bad_answer", { detail: "The host's answer is not of this protocol." });
}
