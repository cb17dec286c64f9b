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
  sign,
  timingSafeEqual,
  verify,
} from "node:crypto";
import {
  type AgentRequest,
  checkRequest,
  forwarded,
  fromHeaders,
  type ReadSignature,
  Refusal,
} from "./requests.js";
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

/** An answer on its way to the relay. */
export interface AgentAnswer {
  status: number;
  headers: Record<string, string>;
  body: Buffer | AsyncIterable<Buffer>;
}

interface Client {
  id: string;
  name: string;
  key: KeyObject;
  raw: Buffer;
  psk: Buffer;
}

/** The request that an answer is to. */
type Asked = ReadSignature & Pick<AgentRequest, "method" | "target">;

function asked({ method, target, headers }: AgentRequest): Asked {
  return { ...fromHeaders(headers), method, target };
}

/** Where a session's requests are checked, and their records signed. */
export interface Session {
  id: string;
  client: Client;
}

const DER = Buffer.from("302a300506032b6570032100", "hex");

function publicKey(raw: Buffer): KeyObject {
  return createPublicKey({ key: Buffer.concat([DER, raw]), format: "der", type: "spki" });
}

function rawKey(key: KeyObject): Buffer {
  return Buffer.from((key.export({ format: "jwk" }) as { x: string }).x, "base64url");
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
  features = ["records", "websocket"];
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
    let read: Asked | undefined;
    try {
      read = asked(request);
      const session = this.check(request, read, path === "/_relay/session");
      if (path === "/_relay/session") return this.#signed(200, this.#session(read), read);
      if (path.startsWith("/_relay")) return this.#own(request, path, session, read);
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
    const client = forSession ? this.clients.get(read.keyid) : this.sessions.get(read.keyid)?.client;
    if (client === undefined) throw new Refusal(401, forSession ? "not_paired" : "signing_session_expired");
    checkRequest(request, read, client.key);
    if (Math.abs(read.created - this.now) > 60)
      throw new Refusal(401, "clock_skew", { agent_time: this.now });
    if (this.nonces.has(read.nonce)) throw new Refusal(401, "replayed");
    this.nonces.add(read.nonce);
    return { id: read.keyid, client };
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
    const theirs = JSON.parse(claims.toString()) as { client: { id: string; name: string }; ed25519: string };
    const raw = Buffer.from(theirs.ed25519, "base64url");
    const { id, name } = theirs.client;
    this.clients.set(id, { id, name, key: publicKey(raw), raw, psk: side.psk });
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

  #session(read: ReadSignature): Buffer {
    const client = this.clients.get(read.keyid);
    if (client === undefined) throw new Refusal(401, "not_paired");
    const id = randomUUID();
    this.sessions.set(id, { id, client });
    this.sessionsMade += 1;
    return json({
      v: 1,
      session_id: id,
      expires_at: this.now + 3600,
      agent_time: this.now,
      features: this.features,
    });
  }

  #own(request: AgentRequest, path: string, session: Session, read: Asked): AgentAnswer {
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
    if (path === "/_relay/browsers") return this.#signed(200, json({ browsers: list() }), read);
    if (path === "/_relay/pairing/code") {
      this.code = "424242";
      return this.#signed(
        200,
        json({ v: 1, sealed_code: this.#seal(session, read), expires_at: this.now + 300 }),
        read,
      );
    }
    const client = this.clients.get(path.slice("/_relay/browsers/".length));
    if (client === undefined) throw new Refusal(404, "not_found");
    if (request.method === "DELETE") {
      this.revoke(client.id);
      return this.#signed(204, Buffer.alloc(0), read);
    }
    client.name = (JSON.parse(request.body.toString()) as { name: string }).name;
    return this.#signed(200, json(list().find(({ id }) => id === client.id)), read);
  }

  #seal(session: Session, read: ReadSignature): string {
    const salt = createHash("sha256").update(read.signature).digest();
    const key = Buffer.from(hkdfSync("sha256", session.client.psk, salt, "relay-pairing/1 code", 32));
    const cipher = createCipheriv("aes-256-gcm", key, Buffer.alloc(12));
    const sealed = Buffer.concat([cipher.update(this.code ?? ""), cipher.final(), cipher.getAuthTag()]);
    return sealed.toString("base64url");
  }

  async #forward(request: AgentRequest, session: Session, read: Asked): Promise<AgentAnswer> {
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
    return { status: 200, headers: { "content-type": RECORDS }, body: this.#records(local, session, read) };
  }

  async *#records(local: LocalAnswer, session: Session, read: ReadSignature): AsyncGenerator<Buffer> {
    const records = new Records(this, session, read);
    yield records.make(1, headPayload(local.status, local.headers));
    const parts = Buffer.isBuffer(local.body) ? [local.body] : (local.body ?? []);
    try {
      for await (const part of parts) {
        for (let at = 0; at < part.length; at += 65_536)
          yield records.make(2, part.subarray(at, at + 65_536));
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
    { method, target, params: input, signature: signed }: Asked,
    type: string | undefined = "application/json",
    given: Record<string, string> = {},
    uncovered?: string,
  ): AgentAnswer & { body: Buffer } {
    // The answer to a HEAD has no body, whatever it says.
    const digest = `sha-256=:${createHash("sha256")
      .update(method === "HEAD" ? "" : body)
      .digest("base64")}:`;
    const headers: Record<string, string> = { "content-type": type, ...given, "content-digest": digest };
    const lines: [string, string][] = [
      ['"@status"', String(status)],
      ['"@method";req', method],
      ['"@path";req', target.split("?")[0] ?? ""],
      ['"@query";req', `?${target.split("?").slice(1).join("?")}`],
      ['"signature-input";key="relay";req', input],
      ['"signature";key="relay";req', `:${signed.toString("base64")}:`],
      ...Object.entries(headers).map(([name, value]): [string, string] => [`"${name}"`, value]),
    ];
    const at = lines.findIndex(([id]) => id === uncovered);
    if (at !== -1) lines.splice(at, 1);
    const params = `(${lines.map(([id]) => id).join(" ")});created=${this.now};keyid="${this.hostId}";alg="ed25519"`;
    const base = [...lines.map(([id, value]) => `${id}: ${value}`), `"@signature-params": ${params}`].join(
      "\n",
    );
    const signature = sign(null, Buffer.from(base, "latin1"), this.keys.privateKey);
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
}

const PROBLEM = "application/problem+json";
/** The media type of record streams. */
export const RECORDS = "application/vnd.relay.records";

/** Makes the agent's records of one exchange, and checks the browser's. */
export class Records {
  #sent = 0;
  #received = 0;

  constructor(
    readonly agent: Agent,
    readonly session: Session,
    readonly read: ReadSignature,
  ) {}

  #protected(direction: number, sequence: number, type: number, payload: Buffer): Buffer {
    const place = Buffer.alloc(9);
    place[0] = direction;
    place.writeBigUInt64BE(BigInt(sequence), 1);
    return Buffer.concat([
      Buffer.from("relay-record/1"),
      Buffer.from(this.session.id),
      createHash("sha256").update(this.read.signature).digest(),
      place,
      Buffer.from([type]),
      createHash("sha256").update(payload).digest(),
    ]);
  }

  make(type: number, payload: Buffer): Buffer {
    const head = Buffer.alloc(5);
    head.writeUInt32BE(payload.length);
    head[4] = type;
    const signature = sign(null, this.#protected(1, this.#sent, type, payload), this.agent.keys.privateKey);
    this.#sent += 1;
    return Buffer.concat([head, payload, signature]);
  }

  /** The record in a message; undefined when the browser did not make it, or not for this place. */
  open(message: Buffer): { type: number; payload: Buffer } | undefined {
    if (message.length < 69 || message.readUInt32BE(0) !== message.length - 69) return undefined;
    const type = message[4] ?? 0;
    const payload = message.subarray(5, -64);
    const signed = this.#protected(0, this.#received, type, payload);
    if (!verify(null, signed, this.session.client.key, message.subarray(-64))) return undefined;
    this.#received += 1;
    return { type, payload };
  }
}
