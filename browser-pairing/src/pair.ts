/**
 * Pairing (PROTOCOL.md section 3). The code itself is never sent: SPAKE2 proves on both sides that it
 * is known, and nothing is kept before the agent's proof has been verified.
 *
 * It is loaded when it is needed: most visits to a page find a pairing that was made before.
 */
import {
  agentIdentity,
  agentProved,
  BROWSER_IDENTITY,
  fingerprint,
  pairingKeys,
  proof,
} from "./confirmation.js";
import { describeDevice } from "./device.js";
import { b64, fromB64, utf8, uuid } from "./encoding.js";
import { RelayError } from "./errors.js";
import {
  type Identity,
  isSoundX25519Key,
  newIdentity,
  requireSecureContext,
  sealPsk,
  verifyingKey,
} from "./keys.js";
import { Budget, RelayLink, readLimited, unsigned } from "./link.js";
import { type Json, jsonObject } from "./problem.js";
import { FEATURES } from "./session.js";
import { isSoundEd25519Key, RANDOM_LENGTH, Spake2 } from "./spake2.js";
import { type Pairing, persist, probe, save } from "./store.js";
import type { PairOptions } from "./types.js";
import { timed } from "./waiting.js";

/** Pairing messages are not larger (PROTOCOL.md section 3). */
const MAX_MESSAGE = 64 * 1024;
/** Claims are not larger, in bytes, and their texts not longer, in characters. */
const MAX_CLAIMS = 4096;
const MAX_TEXT = 100;

/** A pairing that has been stored, and what was made on the way. */
export interface Paired {
  pairing: Pairing;
  link: RelayLink;
  agentKey: CryptoKey;
}

/** A pairing that both ends have confirmed but that could not be kept. */
export class Unkept extends Error {
  constructor(
    readonly paired: Paired,
    override readonly cause: unknown,
  ) {
    super("the pairing could not be stored");
  }
}

/** The six digits, without what people put between them. @throws TypeError */
function digits(code: string): Uint8Array {
  const plain = code.replace(/[\s-]/g, "");
  if (!/^[0-9]{6}$/.test(plain)) throw new TypeError("a pairing code has six digits");
  return utf8(plain);
}

async function post(link: RelayLink, target: string, message: Json, signal: AbortSignal): Promise<Json> {
  const headers = new Headers({ accept: "application/json", "content-type": "application/json" });
  const body = new Blob([JSON.stringify(message)]);
  const response = await link.deliver({ method: "POST", target, headers, body }, new Budget(), signal);
  const bytes = await readLimited(response, MAX_MESSAGE);
  const json = response.ok ? jsonObject(bytes) : undefined;
  if (response.ok && json === undefined) throw malformed();
  if (json === undefined) throw unsigned(response, bytes);
  return json;
}

function malformed(): RelayError {
  return new RelayError("bad_answer", { detail: "The answer is not of this protocol." });
}

/** The agent answered the proof with one that does not fit: whoever it is does not know the code. */
function unproved(): RelayError {
  return new RelayError("pairing_failed", {
    detail:
      "The other end could not prove that it knows the code. Somebody may be in between. Nothing was kept.",
  });
}

/** What the agent has proved about itself. */
interface AgentClaims {
  name: string;
  clientId: string;
  ed25519: Uint8Array<ArrayBuffer>;
  x25519: Uint8Array<ArrayBuffer>;
  agentKey: CryptoKey;
}

/** A text of at most 100 characters, none of them a control character. */
function isPlainText(value: unknown): value is string {
  return typeof value === "string" && Array.from(value).length <= MAX_TEXT && !/\p{Cc}/u.test(value);
}

/** @throws RelayError `bad_answer` */
export async function readClaims(
  bytes: Uint8Array,
  hostId: string,
  ownX25519: CryptoKey,
): Promise<AgentClaims> {
  const claims = bytes.length > MAX_CLAIMS ? undefined : jsonObject(bytes);
  const ed25519 = fromB64(claims?.["ed25519"]);
  const x25519 = fromB64(claims?.["x25519"]);
  const clientId = uuid(claims?.["client_id"]);
  const { name, version } = (claims?.["agent"] ?? {}) as Json;
  const sound = ed25519 !== undefined && isSoundEd25519Key(ed25519);
  const agentKey = sound ? await verifyingKey(ed25519) : undefined;
  if (
    ed25519 === undefined ||
    x25519 === undefined ||
    clientId === undefined ||
    agentKey === undefined ||
    !isPlainText(name) ||
    !isPlainText(version) ||
    uuid(claims?.["host_id"]) !== hostId ||
    !(await isSoundX25519Key(x25519, ownX25519))
  ) {
    throw new RelayError("bad_answer", {
      verified: true,
      detail: "The host's answer is not of this protocol.",
    });
  }
  return { name: name.trim() || hostId, clientId, ed25519, x25519, agentKey };
}

/**
 * Pairs and stores.
 * @throws Unkept when everything went well but the storing
 */
export async function pair({ relay, hostId, code, name, signal }: PairOptions): Promise<Paired> {
  requireSecureContext();
  const id = uuid(hostId);
  if (id === undefined) throw new TypeError("a host's id is a UUID");
  const password = digits(code);
  const link = new RelayLink(relay, id);
  const identity = await newIdentity();
  await probe(identity);
  const progress = { proofSent: false };
  try {
    return await timed(signal, (limited) => confirm(link, id, password, name, identity, progress, limited));
  } catch (error) {
    if (error instanceof RelayError && progress.proofSent) throw usedUp(error);
    throw error;
  }
}

/**
 * After the proof has gone out a code is never to be typed again, whatever came back: nothing of pairing is
 * signed, and whoever is in between would have one guess for each time.
 */
function usedUp(error: RelayError): RelayError {
  const { code, status, verified, retryAfter, requestId } = error;
  const detail = `${error.detail} Regard the code as used up: make a new one on the host.`.trim();
  const init = { status, verified, retryAfter, requestId, codeUsed: true };
  return new RelayError(code, { ...init, detail, cause: error });
}

async function confirm(
  link: RelayLink,
  hostId: string,
  password: Uint8Array,
  name: string | undefined,
  identity: Identity,
  progress: { proofSent: boolean },
  signal: AbortSignal,
): Promise<Paired> {
  const random = crypto.getRandomValues(new Uint8Array(RANDOM_LENGTH));
  const spake = new Spake2(password, BROWSER_IDENTITY, agentIdentity(hostId), random);
  random.fill(0);
  password.fill(0);

  const started = await post(
    link,
    "/_relay/pairing/start",
    { v: 1, features: FEATURES, message: b64(spake.message) },
    signal,
  );
  const pairingId = uuid(started["pairing_id"]);
  const answer = fromB64(started["message"]);
  // The proofs are over the id as it was written.
  if (
    started["v"] !== 1 ||
    answer === undefined ||
    pairingId === undefined ||
    pairingId !== started["pairing_id"]
  ) {
    throw malformed();
  }
  const key = spake.finish(answer);
  if (key === undefined) throw malformed();
  const keys = pairingKeys(key, hostId, spake.message, answer);
  key.fill(0);

  const claims = utf8(
    JSON.stringify({
      host_id: hostId,
      client: { id: crypto.randomUUID(), ...describeDevice(name, globalThis.navigator) },
      ed25519: b64(identity.ed25519),
      x25519: b64(identity.x25519),
    }),
  );
  progress.proofSent = true;
  const finished = await post(
    link,
    "/_relay/pairing/finish",
    { pairing_id: pairingId, claims: b64(claims), proof: b64(proof(keys.confirmBrowser, pairingId, claims)) },
    signal,
  );
  const theirs = fromB64(finished["claims"]);
  const given = fromB64(finished["proof"]);
  const proved =
    theirs !== undefined &&
    given !== undefined &&
    finished["pairing_id"] === pairingId &&
    agentProved(keys, pairingId, claims, theirs, given);
  keys.confirmBrowser.fill(0);
  keys.confirmAgent.fill(0);
  if (!proved) {
    keys.psk.fill(0);
    throw unproved();
  }
  const agent = await readClaims(theirs, hostId, identity.exchangeKey);
  const now = Math.floor(Date.now() / 1000);
  const pairing: Pairing = {
    v: 1,
    hostId,
    relayUrl: link.base,
    name: agent.name,
    fingerprint: fingerprint(agent.ed25519, identity.ed25519),
    clientId: agent.clientId,
    pairedAt: now,
    lastUsedAt: now,
    agentEd25519: agent.ed25519,
    agentX25519: agent.x25519,
    signingKey: identity.signingKey,
    exchangeKey: identity.exchangeKey,
    psk: await sealPsk(keys.psk),
  };
  const paired: Paired = { pairing, link, agentKey: agent.agentKey };
  await save(pairing).catch((cause) => {
    throw new Unkept(paired, cause);
  });
  await persist();
  return paired;
}
