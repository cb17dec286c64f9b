/** A stand-in for the agent: pairing, sessions, verification and signed answers, from PROTOCOL.md. */
import { Buffer } from "node:buffer";
import {
  createCipheriv,
  createHash,
  createPublicKey,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  randomUUID,
  timingSafeEqual,
} from "node:crypto";
import { type AgentAnswer, type Asked, type AskedSigned, asked, signAnswer } from "./answers.js";
import { type AgentRequest, checkRequest, forwarded, type ReadSignature, Refusal } from "./requests.js";
import {
  exchangeHash,
  type Keys,
  type Records,
  rawKey,
  respond,
  SealedRecords,
  SignedRecords,
  split,
} from "./sealing.js";
import { answer, fingerprint, prove, type SideB } from "./sideb.js";

/** What the local server is asked. */
export interface LocalRequest {
  method: string;
  target: string;
  headers: Record<string, string>;
  body: Buffer;
  clientId: string;
}

/** What it answers. A body that is made piece by piece goes out piece by piece. */
export interface LocalAnswer {
  status: number;
  headers: [string, string][];
  body?: Buffer | AsyncIterable<Buffer>;
}

interface Client {
  id: string;
  name: string;
  key: KeyObject;
  raw: Buffer;
  x25519: Buffer;
  psk: Buffer;
  /** What the local server has set, as the agent keeps it for each browser. */
  jar: string[];
}

/** Where a session's requests are checked, and their records signed. */
export interface Session {
  id: string;
  client: Client;
  /** Of a sealed session. */
  keys?: Keys;
  /** The numbers that were used. */
  used: Set<bigint>;
}

/** An exchange whose first record has opened. */
export interface Exchange {
  session: Session;
  prelude: Buffer;
  records: Records;
  head: { method: string; target: string; headers: [string, string][]; websocket?: boolean };
}

const DER = Buffer.from("302a300506032b6570032100", "hex");

function publicKey(raw: Buffer): KeyObject {
  return createPublicKey({ key: Buffer.concat([DER, raw]), format: "der", type: "spki" });
}

const json = (value: unknown) => Buffer.from(JSON.stringify(value));

/** The payload of a HEAD record. */
export function headPayload(status: number, headers: [string, string][]): Buffer {
  return json({ status, headers });
}

export class Agent {
  readonly hostId = randomUUID();
  readonly keys = generateKeyPairSync("ed25519");
  readonly x25519 = generateKeyPairSync("x25519");
  readonly clients = new Map<string, Client>();
  readonly sessions = new Map<string, Session>();
  readonly nonces = new Set<string>();
  /** What reached the local server, in order. */
  readonly forwarded: LocalRequest[] = [];
  /** How many sessions have been made. */
  sessionsMade = 0;
  /** Seconds that this clock is ahead of the real one. */
  ahead = 0;
  code: string | undefined;
  features = ["records", "websocket", "exchange", "sealed"];
  /** Seconds until a sealed session takes no more exchanges. */
  rekeyAfter = 3600;
  /** Whether sealed sessions are known at all. */
  seals = true;
  /** Makes the sealed records of an answer use a new key for every one of them. */
  rekeyAlways = false;
  local: (request: LocalRequest) => LocalAnswer | Promise<LocalAnswer> = () => ({ status: 404, headers: [] });
  readonly #pairings = new Map<string, SideB>();

  get now(): number {
    return Math.floor(Date.now() / 1000) + this.ahead;
  }

  get rawKey(): Buffer {
    return rawKey(this.keys.publicKey);
  }

  /** What a request is answered. `cut` tells that the caller has gone. */
  async handle(request: AgentRequest): Promise<AgentAnswer> {
    const path = request.target.split("?")[0] ?? "";
    try {
      if (path === "/_relay/pairing/start") return this.#plain(this.#start(request.body));
      if (path === "/_relay/pairing/finish") return this.#plain(this.#finish(request.body));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return this.#problem(error);
    }
    if (path === "/_relay/exchange") return this.#exchange(request.body);
    let read: AskedSigned | undefined;
    try {
      read = asked(request);
      const session = this.check(request, read, path === "/_relay/session");
      if (path === "/_relay/session") return this.#signed(200, this.#session(read, request.body), read);
      if (session.keys !== undefined) throw new Refusal(403, "sealed_required");
      if (path.startsWith("/_relay")) {
        const salt = createHash("sha256").update(read.signature).digest();
        const own = this.#own(request.method, path, request.body, session, salt);
        return this.#signed(own.status, own.body, read);
      }
      return await this.#forward(request, session, read);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const { status, code, extra } = error;
      if (read === undefined) return this.#problem(error);
      return this.#signed(status, json({ type: "about:blank", status, code, ...extra }), read, PROBLEM);
    }
  }

  /** The order of checks of section 4.2. */
  check(request: AgentRequest, read: ReadSignature, forSession = false): Session {
    const known = this.sessions.get(read.keyid);
    const client = forSession ? this.clients.get(read.keyid) : known?.client;
    if (client === undefined) throw new Refusal(401, forSession ? "not_paired" : "signing_session_expired");
    checkRequest(request, read, client.key);
    if (Math.abs(read.created - this.now) > 60)
      throw new Refusal(401, "clock_skew", { agent_time: this.now });
    if (this.nonces.has(read.nonce)) throw new Refusal(401, "replayed");
    this.nonces.add(read.nonce);
    return known ?? { id: read.keyid, client, used: new Set() };
  }

  /** What no agent may ever do: signs whatever is wanted in answer to whatever comes, unverified. */
  oracle(
    request: AgentRequest,
    status: number,
    body: Buffer,
    type = "application/json",
    uncovered?: string,
  ): AgentAnswer & { body: Buffer } {
    return this.#signed(status, body, asked(request), type, {}, uncovered);
  }

  /** The same for an exchange: a refusal, or whatever is wanted, in one piece. */
  exchangeOracle(
    prelude: Buffer,
    status: number,
    body: Buffer,
    type = PROBLEM,
    uncovered?: string,
  ): AgentAnswer & { body: Buffer } {
    const read = { method: "POST", target: "/_relay/exchange", prelude };
    return this.#signed(status, body, read, type, {}, uncovered);
  }

  /** Forgets a browser and its sessions. */
  revoke(clientId: string): void {
    this.clients.delete(clientId);
    for (const [id, session] of this.sessions) if (session.client.id === clientId) this.sessions.delete(id);
  }

  #start(body: Buffer): Buffer {
    if (this.code === undefined) throw new Refusal(409, "pairing_not_open");
    const { v, message } = JSON.parse(body.toString()) as { v: number; message: string };
    const bytes = Buffer.from(message, "base64url");
    if (v !== 1 || bytes.length !== 33 || bytes[0] !== 0x41) throw new Refusal(400, "bad_request");
    const id = randomUUID();
    let side: SideB;
    try {
      side = answer(this.code, this.hostId, bytes);
    } catch {
      throw new Refusal(400, "bad_request");
    }
    this.#pairings.set(id, side);
    return json({ v: 1, pairing_id: id, message: side.message.toString("base64url") });
  }

  #finish(body: Buffer): Buffer {
    const sent = JSON.parse(body.toString()) as { pairing_id: string; claims: string; proof: string };
    const side = this.#pairings.get(sent.pairing_id);
    if (side === undefined || this.code === undefined) throw new Refusal(409, "pairing_not_open");
    const claims = Buffer.from(sent.claims, "base64url");
    const given = Buffer.from(sent.proof, "base64url");
    const wanted = prove(side.confirmBrowser, sent.pairing_id, claims);
    // One guess, right or wrong.
    this.code = undefined;
    this.#pairings.clear();
    if (given.length !== 32 || !timingSafeEqual(given, wanted)) throw new Refusal(401, "pairing_failed");
    const theirs = JSON.parse(claims.toString()) as {
      client: { id: string; name: string };
      ed25519: string;
      x25519: string;
    };
    const raw = Buffer.from(theirs.ed25519, "base64url");
    const { id, name } = theirs.client;
    const x25519 = Buffer.from(theirs.x25519, "base64url");
    this.clients.set(id, { id, name, key: publicKey(raw), raw, x25519, psk: side.psk, jar: [] });
    const own = json({
      host_id: this.hostId,
      agent: { name: "stand-in", version: "1", features: [] },
      ed25519: this.rawKey.toString("base64url"),
      x25519: rawKey(this.x25519.publicKey).toString("base64url"),
      client_id: id,
    });
    const proof = prove(side.confirmAgent, sent.pairing_id, claims, own);
    return json({
      pairing_id: sent.pairing_id,
      claims: own.toString("base64url"),
      proof: proof.toString("base64url"),
    });
  }

  #session(read: ReadSignature, body: Buffer): Buffer {
    const client = this.clients.get(read.keyid);
    if (client === undefined) throw new Refusal(401, "not_paired");
    const id = randomUUID();
    const session: Session = { id, client, used: new Set() };
    const answer: Record<string, unknown> = {
      v: 1,
      session_id: id,
      expires_at: this.now + 3600,
      agent_time: this.now,
      features: this.features,
    };
    const { noise } = JSON.parse(body.toString()) as { noise?: { profile: string; message: string } };
    if (noise !== undefined && this.seals) {
      if (noise.profile !== "noise-ikpsk2") throw new Refusal(400, "bad_request");
      const prologue = `relay-sealed/1 ${this.hostId} ${client.id}`;
      const { psk, x25519: expected } = client;
      const responder = { psk, prologue, own: this.x25519.privateKey, expected };
      const shaken = respond(responder, Buffer.from(noise.message, "base64url"));
      if (shaken === undefined) throw new Refusal(400, "handshake_failed");
      session.keys = shaken;
      answer["noise"] = { profile: noise.profile, message: shaken.message.toString("base64url") };
      answer["rekey_at"] = this.now + this.rekeyAfter;
    }
    this.sessions.set(id, session);
    this.sessionsMade += 1;
    return json(answer);
  }

  /** Begins an exchange with its prelude and its first record. @throws Refusal */
  begin(prelude: Buffer, first: Buffer): Exchange {
    const hex = prelude.subarray(0, 16).toString("hex");
    const id = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
    const session = this.sessions.get(id);
    if (session === undefined) throw new Refusal(401, "signing_session_expired");
    const number = prelude.readBigUInt64BE(16);
    const records =
      session.keys === undefined
        ? new SignedRecords(id, exchangeHash(prelude), this.keys.privateKey, session.client.key)
        : new SealedRecords(session.keys, prelude);
    const opened = records.open(first);
    if (opened?.type !== 1) throw new Refusal(401, "signature_invalid");
    if (session.used.has(number)) throw new Refusal(401, "replayed");
    session.used.add(number);
    return { session, prelude, records, head: JSON.parse(opened.payload.toString()) as Exchange["head"] };
  }

  async #exchange(bytes: Buffer): Promise<AgentAnswer> {
    const prelude = bytes.subarray(0, 24);
    let exchange: Exchange;
    let rest: Buffer[];
    try {
      if (prelude.length < 24) throw new Refusal(400, "bad_request");
      const size = this.#sizeFor(prelude);
      const [first = Buffer.alloc(0), ...others] = split(bytes.subarray(24), size);
      exchange = this.begin(prelude, first);
      rest = others;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const read = { method: "POST", target: "/_relay/exchange", prelude };
      const { status, code, extra } = error;
      return this.#signed(status, json({ type: "about:blank", status, code, ...extra }), read, PROBLEM);
    }
    const body = this.#exchanged(exchange, rest);
    return { status: 200, headers: { "content-type": RECORDS }, body };
  }

  #sizeFor(prelude: Buffer): number {
    const id = prelude.subarray(0, 16).toString("hex");
    const session = [...this.sessions.values()].find((one) => one.id.replaceAll("-", "") === id);
    return session === undefined || session.keys !== undefined ? 16 : 64;
  }

  /** Everything after the first record. The local server sees nothing of a request that is not whole. */
  async *#exchanged({ session, prelude, records, head }: Exchange, rest: Buffer[]): AsyncGenerator<Buffer> {
    const refuse = (status: number, code: string) => records.make(4, json({ status, code }));
    const parts: Buffer[] = [];
    let ended = false;
    for (const bytes of rest) {
      const record = records.open(bytes);
      if (ended || record === undefined || (record.type !== 2 && record.type !== 3)) {
        return void (yield refuse(400, "bad_request"));
      }
      if (record.type === 2) parts.push(record.payload);
      else ended = true;
    }
    if (!ended) return void (yield refuse(400, "bad_request"));
    const { method, target } = head;
    const body = Buffer.concat(parts);
    const path = target.split("?")[0] ?? "";
    if (path.startsWith("/_relay")) {
      try {
        const own = this.#own(method, path, body, session, exchangeHash(prelude));
        yield records.make(1, headPayload(own.status, [["content-type", "application/json"]]));
        if (own.body.length > 0) yield records.make(2, own.body);
        yield records.make(3, Buffer.alloc(0));
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        yield refuse(error.status, error.code);
      }
      return;
    }
    const headers = Object.fromEntries(head.headers.filter(([name]) => !HOPS.test(name)));
    if (session.client.jar.length > 0) headers["cookie"] = session.client.jar.join("; ");
    const request = { method, target, body, headers, clientId: session.client.id };
    this.forwarded.push(request);
    const local = await this.local(request);
    for (const [name, value] of local.headers) {
      if (name === "set-cookie") session.client.jar.push(value.split(";")[0] ?? "");
    }
    const seen = local.headers.filter(([name]) => name !== "set-cookie");
    const bare = method === "HEAD" ? { status: local.status, headers: seen } : { ...local, headers: seen };
    yield* this.#records(bare, records);
  }

  #own(
    method: string,
    path: string,
    body: Buffer,
    session: Session,
    salt: Buffer,
  ): { status: number; body: Buffer } {
    const list = () =>
      [...this.clients.values()].map(({ id, name, raw }) => ({
        id,
        name,
        browser: "",
        os: "",
        device: "computer",
        fingerprint: fingerprint(this.rawKey, raw),
        created_at: this.now,
        last_used_at: this.now,
        current: id === session.client.id,
      }));
    if (path === "/_relay/browsers") return { status: 200, body: json({ browsers: list() }) };
    if (path === "/_relay/pairing/code") {
      this.code = "424242";
      const sealed = this.#seal(session, salt);
      return { status: 200, body: json({ v: 1, sealed_code: sealed, expires_at: this.now + 300 }) };
    }
    const client = this.clients.get(path.slice("/_relay/browsers/".length));
    if (client === undefined) throw new Refusal(404, "not_found");
    if (method === "DELETE") {
      this.revoke(client.id);
      return { status: 204, body: Buffer.alloc(0) };
    }
    client.name = (JSON.parse(body.toString()) as { name: string }).name;
    return { status: 200, body: json(list().find(({ id }) => id === client.id)) };
  }

  #seal(session: Session, salt: Buffer): string {
    const key = Buffer.from(hkdfSync("sha256", session.client.psk, salt, "relay-pairing/1 code", 32));
    const cipher = createCipheriv("aes-256-gcm", key, Buffer.alloc(12));
    const sealed = Buffer.concat([cipher.update(this.code ?? ""), cipher.final(), cipher.getAuthTag()]);
    return sealed.toString("base64url");
  }

  async #forward(request: AgentRequest, session: Session, read: AskedSigned): Promise<AgentAnswer> {
    const { method, target, body } = request;
    const localRequest = {
      method,
      target,
      body,
      headers: forwarded(request, read),
      clientId: session.client.id,
    };
    this.forwarded.push(localRequest);
    const local = await this.local(localRequest);
    if (!read.names.includes("x-relay-records")) {
      if (!(local.body === undefined || Buffer.isBuffer(local.body)))
        throw new Refusal(502, "response_too_large");
      const headers = Object.fromEntries(local.headers.filter(([name]) => name !== "location"));
      const bytes = method === "HEAD" ? Buffer.alloc(0) : (local.body ?? Buffer.alloc(0));
      return this.#signed(local.status, bytes, read, undefined, headers);
    }
    return {
      status: 200,
      headers: { "content-type": RECORDS },
      body: this.#records(local, this.recordsOf(session, read)),
    };
  }

  /** The records of a signed request. */
  recordsOf(session: Session, { signature }: ReadSignature): Records {
    const hash = createHash("sha256").update(signature).digest();
    return new SignedRecords(session.id, hash, this.keys.privateKey, session.client.key);
  }

  async *#records(local: LocalAnswer, records: Records): AsyncGenerator<Buffer> {
    if (this.rekeyAlways && records instanceof SealedRecords) records.rekey = true;
    yield records.make(1, headPayload(local.status, local.headers));
    const parts = Buffer.isBuffer(local.body) ? [local.body] : (local.body ?? []);
    try {
      for await (const part of parts) {
        for (let at = 0; at < part.length; at += 65_536) {
          if (this.rekeyAlways && records instanceof SealedRecords) records.rekey = true;
          yield records.make(2, part.subarray(at, at + 65_536));
        }
      }
    } catch (error) {
      const ended = error instanceof Error && error.message === "signing_session_ended";
      const problem = ended
        ? { status: 401, code: "signing_session_ended" }
        : { status: 502, code: "local_server_failed", detail: "It broke off." };
      yield records.make(4, json(problem));
      return;
    }
    yield records.make(3, Buffer.alloc(0));
  }

  #plain(body: Buffer): AgentAnswer {
    return { status: 200, headers: { "content-type": "application/json" }, body };
  }

  #problem({ status, code, extra }: Refusal): AgentAnswer {
    return { status, headers: { "content-type": PROBLEM }, body: json({ status, code, ...extra }) };
  }

  #signed(
    status: number,
    body: Buffer,
    request: Asked,
    type?: string,
    given?: Record<string, string>,
    uncovered?: string,
  ): AgentAnswer & { body: Buffer } {
    const by = { key: this.keys.privateKey, hostId: this.hostId, now: this.now };
    return signAnswer(by, status, body, request, type, given, uncovered);
  }
}

const PROBLEM = "application/problem+json";
/** The media type of record streams. */
export const RECORDS = "application/vnd.relay.records";
/** Left out of what the local server sees of an exchange's headers. */
const HOPS =
  /^(?:host|connection|content-length|expect|cookie|signature|signature-input|forwarded|x-forwarded-.*|x-real-ip|x-relay-.*|x-relayed|keep-alive|te|trailer|transfer-encoding|upgrade|proxy-.*)$/;
