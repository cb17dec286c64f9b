/**
 * A stand-in for the relay with the agent behind it: one HTTP server on a port of the OS's choice. It
 * records every byte that crosses it, and it can be hostile: whatever a relay could do to a message is a
 * hook here.
 */
import { Buffer } from "node:buffer";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import { Agent, headPayload } from "./agent.js";
import type { AgentAnswer } from "./answers.js";
import { type AgentRequest, fromQuery, Refusal } from "./requests.js";
import type { Records } from "./sealing.js";

/** A message that the relay does not pass on: the connection breaks instead. */
export const DROP = Symbol("drop");

/** An answer in one piece. */
export interface WholeAnswer extends AgentAnswer {
  body: Buffer;
}

/** What a hostile relay does to what passes. */
export interface Hostile {
  /** To a request; with an answer the agent is not asked. */
  request?: (request: AgentRequest) => AgentRequest | WholeAnswer | typeof DROP;
  /** To an answer, which is collected first. */
  answer?: (answer: WholeAnswer, request: AgentRequest) => WholeAnswer | typeof DROP;
  /** To a WebSocket message: what goes on in its place; undefined ends the connection. */
  message?: (data: Buffer, toAgent: boolean) => Buffer[] | undefined;
}

/** A session that was asked to be ended: whether it lived, and how it was asked. */
export interface EndedSession {
  known: boolean;
  headers: Record<string, string>;
}

/** The local server's end of a WebSocket. */
export interface LocalSocket {
  request: AgentRequest;
  send(type: number, payload: Buffer): void;
  /** Breaks the connection without a word. */
  cut(): void;
  /** Called for each verified record of the browser. */
  receive: (type: number, payload: Buffer) => void;
  /** Resolves when the connection has ended. */
  ended: Promise<void>;
}

async function readAll(body: AgentAnswer["body"]): Promise<Buffer> {
  if (Buffer.isBuffer(body)) return body;
  const parts: Buffer[] = [];
  for await (const part of body) parts.push(part);
  return Buffer.concat(parts);
}

/** A relay's own refusal, which nobody signs. */
export function unsignedProblem(status: number, code: string): WholeAnswer {
  const body = Buffer.from(JSON.stringify({ type: "about:blank", status, code, detail: "from the relay" }));
  return { status, headers: { "content-type": "application/problem+json" }, body };
}

export class Relay {
  readonly agent = new Agent();
  /** Every message that crossed, both ways, as the relay saw it. */
  readonly crossed: Buffer[] = [];
  /** The tokens that are good now. */
  readonly tokens = new Set(["token"]);
  /** The browser sessions that live. */
  readonly sessions = new Set<string>();
  /** How many sessions were asked for, granted or not. */
  asked = 0;
  #ended: (session: EndedSession) => void = () => {};
  hostile: Hostile = {};
  /** Files that the relay serves itself, for pages in a real browser. */
  readonly files = new Map<string, { type: string; body: Buffer }>();
  /** The local server's WebSockets: answers the status, 101 to accept. It sends only later. */
  socket: (socket: LocalSocket) => { status: number; protocol?: string } = () => ({ status: 404 });
  readonly #server: Server = createServer((request, response) => {
    this.#serve(request, response).catch(() => response.destroy());
  });
  readonly #sockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (names) => this.#chosen ?? [...names][0] ?? false,
  });
  #chosen: string | undefined;

  async start(): Promise<this> {
    this.#server.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return this;
  }

  /** The next session that the browser ends itself. */
  nextEnded(): Promise<EndedSession> {
    return new Promise((resolve) => {
      this.#ended = resolve;
    });
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    for (const client of this.#sockets.clients) client.terminate();
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const headers = plainHeaders(incoming);
    const url = incoming.url ?? "/";
    const method = incoming.method ?? "";
    this.crossed.push(Buffer.from(`${method} ${url}\n${JSON.stringify(headers)}`), body);

    const file = this.files.get(url);
    if (file !== undefined) return void response.writeHead(200, { "content-type": file.type }).end(file.body);
    const ended = /^\/v1\/relay\/sessions\/([^/]+)$/.exec(url)?.[1];
    if (ended !== undefined && method === "DELETE") {
      this.#ended({ known: this.sessions.delete(ended), headers });
      return void response.writeHead(204).end();
    }
    if (url === `/v1/relay/create/${this.agent.hostId}`) return this.#create(headers, response);
    const target = this.#below(url);
    if (target === undefined) return this.#send(unsignedProblem(401, "session_expired"), response);

    const asked = this.hostile.request?.({ method, target, headers, body }) ?? {
      method,
      target,
      headers,
      body,
    };
    if (asked === DROP) return void response.destroy();
    let answer = "status" in asked ? asked : await this.agent.handle(asked);
    if (this.hostile.answer !== undefined) {
      const whole = { ...answer, body: await readAll(answer.body) };
      const changed = this.hostile.answer(whole, { method, target, headers, body });
      if (changed === DROP) return void response.destroy();
      answer = changed;
    }
    await this.#send(answer, response);
  }

  /** Path and query after the prefix of a session that lives. */
  #below(url: string): string | undefined {
    const found = /^\/v1\/relay\/h\/([^/]+)\/s\/([^/]+)(\/.*)$/.exec(url);
    const [, host, session, target] = found ?? [];
    return host === this.agent.hostId && this.sessions.has(session ?? "") ? target : undefined;
  }

  #create(headers: Record<string, string>, response: ServerResponse): Promise<void> {
    this.asked += 1;
    const token = /^Bearer (.*)$/.exec(headers["authorization"] ?? "")?.[1] ?? "";
    const cookie = headers["x-relay-csrf"] === "1" && /relay_session=good/.test(headers["cookie"] ?? "");
    if (!this.tokens.has(token) && !cookie) return this.#send(unsignedProblem(401, "unauthorized"), response);
    const id = randomUUID();
    this.sessions.add(id);
    const body = Buffer.from(
      JSON.stringify({ session_id: id, expires_at: Math.floor(Date.now() / 1000) + 86_400 }),
    );
    return this.#send({ status: 200, headers: { "content-type": "application/json" }, body }, response);
  }

  async #send(answer: AgentAnswer, response: ServerResponse): Promise<void> {
    response.writeHead(answer.status, answer.headers);
    this.crossed.push(Buffer.from(JSON.stringify(answer.headers)));
    if (Buffer.isBuffer(answer.body)) {
      this.crossed.push(answer.body);
      return void response.end(answer.body);
    }
    const gone = once(response, "close");
    for await (const part of answer.body) {
      this.crossed.push(part);
      if (response.destroyed) return;
      if (!response.write(part)) await Promise.race([once(response, "drain"), gone]);
      if (response.destroyed) return;
    }
    response.end();
  }

  #upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    const url = incoming.url ?? "/";
    this.crossed.push(Buffer.from(`${url}\n${JSON.stringify(plainHeaders(incoming))}`));
    const refuse = (status: number) =>
      socket.end(`HTTP/1.1 ${status} No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
    const target = this.#below(url);
    if (target === undefined) return void refuse(401);
    const headers = plainHeaders(incoming);
    const given = { method: "GET", target, headers, body: Buffer.alloc(0) };
    const asked = this.hostile.request?.(given) ?? given;
    if (asked === DROP || "status" in asked) return void socket.destroy();
    let records: Records;
    let request: AgentRequest;
    let sealed = false;
    try {
      const first = /^\/_relay\/exchange\?relay-exchange=([A-Za-z0-9_-]+)$/.exec(asked.target)?.[1];
      if (first !== undefined) {
        const bytes = Buffer.from(first, "base64url");
        const exchange = this.agent.begin(bytes.subarray(0, 24), bytes.subarray(24));
        const { method, target, websocket } = exchange.head;
        if (websocket !== true || method !== "GET") throw new Refusal(400, "bad_request");
        const headers = Object.fromEntries(exchange.head.headers);
        request = { method, target, headers, body: Buffer.alloc(0) };
        records = exchange.records;
        sealed = true;
      } else {
        const { rest, read } = fromQuery(asked.target);
        request = { ...asked, target: rest };
        const covered = read.names.includes("sec-websocket-protocol");
        if (!covered && "sec-websocket-protocol" in asked.headers) throw new Refusal(400, "uncovered");
        records = this.agent.recordsOf(this.agent.check(request, read), read);
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return void refuse(error.status);
    }
    let raw: WebSocket | undefined;
    const pass = (data: Buffer) => {
      this.crossed.push(data);
      const parts = this.hostile.message === undefined ? [data] : this.hostile.message(data, false);
      if (parts === undefined) return void raw?.terminate();
      for (const part of parts) raw?.send(part);
    };
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const local: LocalSocket = {
      request,
      send: (type, payload) => {
        const record = records.make(type, payload);
        if (raw === undefined) throw new Error("nothing can be sent before the answer");
        pass(record);
      },
      cut: () => raw?.terminate(),
      receive: () => {},
      ended,
    };
    const heads: Buffer[] = [];
    const verdict = this.socket(local);
    const list: [string, string][] =
      verdict.protocol === undefined ? [] : [["sec-websocket-protocol", verdict.protocol]];
    heads.push(records.make(1, headPayload(verdict.status, list)));
    if (verdict.status !== 101) heads.push(records.make(3, Buffer.alloc(0)));
    // The protocol of an exchange is inside of it.
    this.#chosen = sealed ? undefined : verdict.protocol;
    this.#sockets.handleUpgrade(incoming, socket, head, (accepted) => {
      raw = accepted;
      accepted.on("message", (data) => {
        // Closing takes a moment, and what comes within it is nobody's any more.
        if (accepted.readyState !== accepted.OPEN) return;
        const bytes = data as Buffer;
        this.crossed.push(bytes);
        const parts = this.hostile.message === undefined ? [bytes] : this.hostile.message(bytes, true);
        if (parts === undefined) return accepted.terminate();
        for (const part of parts) {
          const record = records.open(part);
          if (record === undefined) return accepted.close(1002);
          local.receive(record.type, record.payload);
        }
      });
      accepted.on("close", end);
      accepted.on("error", () => undefined);
      for (const record of heads) pass(record);
    });
  }
}

function plainHeaders(incoming: IncomingMessage): Record<string, string> {
  return Object.fromEntries(
    Object.entries(incoming.headers).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join(", ") : (value ?? ""),
    ]),
  );
}
