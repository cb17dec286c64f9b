/**
 * Sessions with the agent (PROTOCOL.md sections 4.1 and 5.1): how one is made, what protects its records, and
 * when the next one is. Of either form, a session is made once for all who wait for it, and renewed while the
 * old one still serves.
 */
import { exchangeHash } from "./confirmation.js";
import { b64, concat, fromB64, u64, utf8, uuid, uuidBytes } from "./encoding.js";
import { RelayError } from "./errors.js";
import { Lifetime, Stopwatch } from "./lifetime.js";
import { dhPair, HandshakeFailed, Initiator, type Profile, type Split } from "./noise.js";
import type { Json } from "./problem.js";
import type { Sealer, Unsealer } from "./record.js";
import { SealedSealer, SealedUnsealer, type SessionKeys, sealRoots } from "./record-sealed.js";
import { RecordSigner, RecordVerifier } from "./record-signed.js";
import type { Pairing } from "./store.js";
import type { Protection } from "./types.js";
import { abortable } from "./waiting.js";

type Bytes = Uint8Array<ArrayBuffer>;

/** What this SDK knows of the protocol. Only what both ends list is used. */
export const FEATURES = ["records", "websocket", "exchange", "sealed", "webrtc"] as const;
/** A session takes so many exchanges, and no more (PROTOCOL.md section 5.1). */
const MAX_EXCHANGES = 2 ** 20;
/** The next session is made when no more than these are left. */
const FEW_LEFT = 1024;
/** How long nothing is renewed ahead of time after that has failed, in seconds. */
const RENEWAL_PAUSE = 30;
const PROFILE: Profile = "noise-ikpsk2";
/** The second message of the handshake, with nothing in it. */
const ANSWER_LENGTH = 48;

/** A session with the agent. */
export interface Session {
  readonly id: string;
  readonly protection: Protection;
  /** What both ends know. */
  readonly features: ReadonlySet<string>;
  /** Since it was asked for. */
  readonly watch: Stopwatch;
  readonly life: Lifetime;
  /** How many exchanges have begun; the number of the next. */
  exchanges: number;
  /** What protects the browser's records of an exchange. */
  sealer(prelude: Bytes): Sealer;
  /** What checks the agent's. */
  unsealer(prelude: Bytes): Unsealer;
}

/** The number of an exchange, and what its bytes begin with. */
export interface Numbered {
  session: Session;
  prelude: Bytes;
}

/** Sends the request for a session, signed, and answers the JSON that the agent signed. */
export type AskSession = (body: Json) => Promise<Json | undefined>;

function malformed(): RelayError {
  return new RelayError("bad_answer", { detail: "The host's answer is not of this protocol." });
}

function outdated(detail: string): RelayError {
  return new RelayError("agent_outdated", { status: 426, verified: true, detail });
}

/** A handshake whose first message is on its way. */
async function shake(pairing: Pairing): Promise<Initiator> {
  try {
    return await Initiator.start({
      profile: PROFILE,
      prologue: utf8(`relay-sealed/1 ${pairing.hostId} ${pairing.clientId}`),
      own: await dhPair(pairing.exchangeKey),
      theirs: pairing.agentX25519,
      psk: pairing.psk,
    });
  } catch (cause) {
    throw new RelayError("unsupported_browser", {
      detail: "This browser cannot do the handshake of a sealed session. A newer version can.",
      cause,
    });
  }
}

/** The keys that the agent's half of the handshake gives. @throws RelayError */
async function finish(handshake: Initiator, noise: Json): Promise<SessionKeys> {
  const message = fromB64(noise["message"]);
  if (noise["profile"] !== PROFILE || message?.length !== ANSWER_LENGTH) throw malformed();
  let split: Split;
  try {
    split = await handshake.finish(message);
  } catch (cause) {
    if (!(cause instanceof HandshakeFailed)) throw cause;
    throw new RelayError("handshake_failed", {
      verified: true,
      detail: "The host does not hold the keys of this pairing. Pair again.",
      cause,
    });
  }
  return sealRoots(split.h, split.k0, split.k1);
}

/** Reads a difference of two of the agent's times, in seconds. */
function span(from: unknown, to: unknown): number {
  const seconds = typeof from === "number" && typeof to === "number" ? to - from : Number.NaN;
  if (!Number.isFinite(seconds) || seconds <= 0) throw malformed();
  return seconds;
}

/** Makes a session of the wanted form, and never one of the other. @throws RelayError */
export async function makeSession(
  pairing: Pairing,
  agentKey: CryptoKey,
  protection: Protection,
  ask: AskSession,
): Promise<Session> {
  const handshake = protection === "sealed" ? await shake(pairing) : undefined;
  const watch = new Stopwatch();
  const json = await ask({
    v: 1,
    host_id: pairing.hostId,
    features: FEATURES,
    ...(handshake === undefined ? {} : { noise: { profile: PROFILE, message: b64(handshake.message) } }),
  });
  const id = uuid(json?.["session_id"]);
  const listed = json?.["features"];
  if (json === undefined || id === undefined || !Array.isArray(listed)) throw malformed();
  const features: ReadonlySet<string> = new Set(FEATURES.filter((name) => listed.includes(name)));
  if (!features.has("records")) {
    throw outdated("The program on the host is too old for this page. Update it.");
  }
  const common = { id, protection, features, watch, exchanges: 0 };
  const now = json["agent_time"];
  if (handshake === undefined) {
    const context = (prelude: Bytes) => ({ sessionId: id, requestHash: exchangeHash(prelude) });
    return {
      ...common,
      life: Lifetime.signed(span(now, json["expires_at"])),
      sealer: (prelude) => new RecordSigner(context(prelude), pairing.signingKey),
      unsealer: (prelude) => new RecordVerifier(context(prelude), agentKey),
    };
  }
  const noise = json["noise"];
  if (typeof noise !== "object" || noise === null) {
    // The agent has signed this answer, so it is the agent that cannot, and nobody in between.
    throw outdated(
      "The program on the host is too old to seal what passes. Update it, or allow sessions that are only signed.",
    );
  }
  const keys = await finish(handshake, noise as Json);
  return {
    ...common,
    life: Lifetime.sealed(span(now, json["rekey_at"])),
    sealer: (prelude) => new SealedSealer(keys, prelude),
    unsealer: (prelude) => new SealedUnsealer(keys, prelude),
  };
}

/** The session of a host that is open: one, or for a moment two while the next is being made. */
export class Sessions {
  #current: Session | undefined;
  #pending: Promise<Session> | undefined;
  /** Since the last renewal that failed. */
  #failed: Stopwatch | undefined;

  constructor(
    readonly make: () => Promise<Session>,
    /** Called after each new session. */
    readonly onSession: (session: Session) => void,
  ) {}

  /** The one that was made last, if it has not ended. */
  get current(): Session | undefined {
    return this.#current;
  }

  /** A session that can be used. Nobody waits for a renewal that comes ahead of time. */
  async get(signal?: AbortSignal): Promise<Session> {
    const session = this.#current;
    const age = session === undefined ? "over" : ageOf(session);
    if (session === undefined || age === "over") {
      // Whoever waits hears of the failure; the next one tries again.
      return abortable(this.#next(), signal);
    }
    const paused = this.#failed !== undefined && this.#failed.seconds < RENEWAL_PAUSE;
    if (age === "renew" && !paused) {
      this.#next().catch(() => {
        this.#failed = new Stopwatch();
      });
    }
    return session;
  }

  /** The session for an exchange that begins now, with its number: never the same one twice. */
  async number(signal?: AbortSignal): Promise<Numbered> {
    for (;;) {
      const session = await this.get(signal);
      // Others may have taken the last ones while this one waited.
      if (session.exchanges >= MAX_EXCHANGES) {
        this.drop(session.id);
        continue;
      }
      const number = session.exchanges++;
      return { session, prelude: concat(uuidBytes(session.id), u64(number)) };
    }
  }

  /** Made once for all who wait. */
  #next(): Promise<Session> {
    if (this.#pending === undefined) {
      const pending = this.make().then((session) => {
        this.#current = session;
        this.#failed = undefined;
        this.onSession(session);
        return session;
      });
      this.#pending = pending;
      const done = () => {
        if (this.#pending === pending) this.#pending = undefined;
      };
      pending.then(done, done);
    }
    return this.#pending;
  }

  /** Uses it no more. Never waits: the session that is being made may be what asks. */
  drop(id: string): void {
    if (this.#current?.id === id) this.#current = undefined;
  }
}

function ageOf({ life, watch, exchanges }: Session) {
  if (exchanges >= MAX_EXCHANGES) return "over";
  const age = life.age(watch.seconds);
  return age === "fresh" && exchanges >= MAX_EXCHANGES - FEW_LEFT ? "renew" : age;
}
