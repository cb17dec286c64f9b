/**
 * A small stand-in for the relay, so that the portal can be seen without one: a real HTTP server that
 * keeps the state of PROTOCOL.md sections 1 and 1.1 in memory and serves the built portal with the
 * strict policy that the relay sends. It proves nothing about the relay; the whole-system tests do.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import {
  request as ask,
  createServer,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import { type AddressInfo, connect } from "node:net";
import { extname, join, normalize } from "node:path";
import type { Duplex } from "node:stream";

export const CSP = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "form-action 'none'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join("; ");

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

/** Larger bodies are refused, as everywhere. */
const MAX_BODY = 64 * 1024;
/** Wrong passwords in a row before the address has to wait. */
const MAX_WRONG = 5;

export interface StandinHost {
  id: string;
  name: string;
  machine_id: string;
  status: "online" | "offline";
  last_seen_at: number | null;
  agent_version: string | null;
  role: "owner" | "member";
  created_at: number;
}

interface AuthSession {
  id: string;
  name: string;
  kind: "browser" | "device" | "token";
  created_at: number;
  last_used_at: number | null;
}

interface Device {
  user_code: string;
  name: string;
  address: string;
  created_at: number;
  expires_at: number;
  decided?: boolean;
}

export const unixNow = (): number => Math.floor(Date.now() / 1000);

/** Everything that a test may look at or change. */
export class RelayState {
  readonly user = { id: randomUUID(), email: "ada@example.org" };
  password: string | undefined = "correct horse battery";
  readonly links = new Set<string>();
  readonly hosts = new Map<string, StandinHost>();
  readonly authSessions = new Map<string, AuthSession>();
  readonly browserSessions = new Map<
    string,
    { id: string; host_id: string; created_at: number; last_used_at: number; expires_at: number }
  >();
  readonly devices = new Map<string, Device>();
  /** Cookie value to auth session. */
  readonly cookies = new Map<string, string>();
  wrong = 0;
  /** Who else signs people in. */
  providers: { name: string; path: string }[] = [];
  /** While set, the server cuts every connection to /v1. */
  down = false;
  /** Where hosts are reached: an address that answers as the relay's proxy does. None: there is no such path. */
  behind: string | undefined;
  /** Every request's method and address, to look for what must not be there. */
  readonly seen: string[] = [];

  addHost(of: Partial<StandinHost> & { name: string }): StandinHost {
    const host: StandinHost = {
      id: randomUUID(),
      machine_id: randomUUID(),
      status: "online",
      last_seen_at: unixNow() - 30,
      agent_version: "0.2.0",
      role: "owner",
      created_at: unixNow() - 86_400,
      ...of,
    };
    this.hosts.set(host.id, host);
    return host;
  }

  addAuthSession(of: Partial<AuthSession> & { name: string }): AuthSession {
    const session: AuthSession = {
      id: randomUUID(),
      kind: "browser",
      created_at: unixNow() - 3600,
      last_used_at: unixNow() - 60,
      ...of,
    };
    this.authSessions.set(session.id, session);
    return session;
  }

  addBrowserSession(hostId: string) {
    const now = unixNow();
    const session = {
      id: randomUUID(),
      host_id: hostId,
      created_at: now,
      last_used_at: now,
      expires_at: now + 86_400,
    };
    this.browserSessions.set(session.id, session);
    return session;
  }

  addDevice(userCode: string, name: string): Device {
    const now = unixNow();
    const device = {
      user_code: userCode,
      name,
      address: "203.0.113.7",
      created_at: now - 20,
      expires_at: now + 580,
    };
    this.devices.set(userCode, device);
    return device;
  }
}

class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail = "",
    readonly retryAfter?: number,
  ) {
    super(code);
  }
}

type Json = Record<string, unknown>;
interface Answer {
  status: number;
  body?: unknown;
  cookie?: string;
}

export interface Standin {
  readonly state: RelayState;
  readonly origin: string;
  close(): Promise<void>;
}

/** Starts the stand-in on a port that the system chooses. `portal` is the built folder. */
export async function startStandin(portal: string): Promise<Standin> {
  const state = new RelayState();
  const server: Server = createServer((request, response) => {
    void answer(state, portal, request, response);
  });
  server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    upgrade(state, request, socket, head);
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  return {
    state,
    origin: `http://127.0.0.1:${port}`,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        server.closeAllConnections();
      }),
  };
}

async function answer(state: RelayState, portal: string, request: IncomingMessage, response: ServerResponse) {
  const method = request.method ?? "GET";
  const url = new URL(request.url ?? "/", "http://standin");
  state.seen.push(`${method} ${request.url ?? ""}`);
  if (!url.pathname.startsWith("/v1/")) return page(portal, url.pathname, response);
  if (state.down) {
    response.destroy();
    return;
  }
  try {
    const proxied = /^\/v1\/relay\/(create|h)\/([^/]+)/.exec(url.pathname);
    if (state.behind !== undefined && proxied !== null) {
      if (proxied[1] === "create") signedIn(state, request);
      const host = state.hosts.get(proxied[2] ?? "");
      if (host === undefined) throw new Problem(404, "not_found");
      if (host.status === "offline") throw new Problem(503, "host_offline", "Start the agent.", 5);
      pass(state.behind, request, response);
      return;
    }
    const { status, body, cookie } = await api(state, method, url.pathname, request);
    if (cookie !== undefined) response.setHeader("set-cookie", cookie);
    if (body === undefined) return void response.writeHead(status).end();
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  } catch (error) {
    const problem = error instanceof Problem ? error : new Problem(500, "internal");
    if (problem.retryAfter !== undefined) response.setHeader("retry-after", problem.retryAfter);
    const id = randomUUID();
    response
      .writeHead(problem.status, { "content-type": "application/problem+json", "x-request-id": id })
      .end(
        JSON.stringify({
          type: "about:blank",
          title: problem.code,
          status: problem.status,
          code: problem.code,
          detail: problem.detail,
          request_id: id,
        }),
      );
  }
}

async function page(portal: string, path: string, response: ServerResponse) {
  const name = path === "/" || path === "/device" ? "/index.html" : path;
  const file = join(portal, normalize(name));
  try {
    const bytes = await readFile(file);
    response
      .writeHead(200, {
        "content-type": TYPES[extname(file)] ?? "application/octet-stream",
        "content-security-policy": CSP,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
      })
      .end(bytes);
  } catch {
    response.writeHead(404).end();
  }
}

/** Hands a request on as it is. What lies behind knows one token, as a sign-in. */
function pass(behind: string, request: IncomingMessage, response: ServerResponse): void {
  const headers = { ...request.headers, authorization: "Bearer token" };
  const onward = ask(behind + (request.url ?? ""), { method: request.method, headers }, (answered) => {
    response.writeHead(answered.statusCode ?? 502, answered.headers);
    answered.pipe(response);
  });
  onward.on("error", () => response.destroy());
  response.on("close", () => onward.destroy());
  request.pipe(onward);
}

/** The same for an upgrade: two sockets, joined. */
function upgrade(state: RelayState, request: IncomingMessage, socket: Duplex, head: Buffer): void {
  if (state.behind === undefined) {
    socket.destroy();
    return;
  }
  const onward = connect(Number(new URL(state.behind).port), "127.0.0.1", () => {
    const lines = [`GET ${request.url ?? "/"} HTTP/1.1`];
    for (let at = 0; at < request.rawHeaders.length; at += 2) {
      lines.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
    }
    onward.write(`${lines.join("\r\n")}\r\n\r\n`);
    onward.write(head);
    onward.pipe(socket).pipe(onward);
  });
  for (const [end, other] of [
    [onward, socket],
    [socket, onward],
  ] as const) {
    end.on("error", () => other.destroy());
    end.on("close", () => other.destroy());
  }
}

async function json(request: IncomingMessage): Promise<Json> {
  let text = "";
  for await (const chunk of request) {
    text += String(chunk);
    if (text.length > MAX_BODY) throw new Problem(413, "body_too_large");
  }
  try {
    const value: unknown = text === "" ? {} : JSON.parse(text);
    if (typeof value === "object" && value !== null) return value as Json;
  } catch {
    // falls to the refusal
  }
  throw new Problem(400, "bad_request");
}

function cookieOf(request: IncomingMessage): string | undefined {
  return /(?:^|;\s*)relay_session=([^;]+)/.exec(request.headers.cookie ?? "")?.[1];
}

function signedIn(state: RelayState, request: IncomingMessage): AuthSession {
  const cookie = cookieOf(request);
  if (cookie !== undefined && request.headers["x-relay-csrf"] !== "1") throw new Problem(403, "csrf_refused");
  const session = state.authSessions.get(state.cookies.get(cookie ?? "") ?? "");
  if (session === undefined) throw new Problem(401, "unauthorized");
  session.last_used_at = unixNow();
  return session;
}

function makeCookie(state: RelayState, session: AuthSession): string {
  const value = randomBytes(24).toString("base64url");
  state.cookies.set(value, session.id);
  return `relay_session=${value}; HttpOnly; SameSite=Strict; Path=/`;
}

async function api(
  state: RelayState,
  method: string,
  path: string,
  request: IncomingMessage,
): Promise<Answer> {
  const parts = path.split("/").slice(2);
  const id = decodeURIComponent(parts[2] ?? "");
  const call = `${method} ${parts.slice(0, 2).join("/")}${parts.length > 2 ? "/:id" : ""}`;
  switch (call) {
    case "POST auth/login":
      return login(state, await json(request));
    case "GET auth/providers":
      return { status: 200, body: { providers: state.providers } };
    case "POST auth/link": {
      const token = String((await json(request))["token"]);
      if (!state.links.delete(token)) throw new Problem(401, "sign_in_failed");
      return enter(state);
    }
  }
  const me = signedIn(state, request);
  switch (call) {
    case "GET auth/me": {
      const user = { ...state.user, has_password: state.password !== undefined };
      return { status: 200, body: { user, session_id: me.id, expires_at: unixNow() + 3600 } };
    }
    case "POST auth/password": {
      const body = await json(request);
      if (state.password !== undefined && body["current"] !== state.password)
        throw new Problem(401, "sign_in_failed");
      const next = String(body["new"]);
      if (next.length < 10 || next.length > 200)
        throw new Problem(400, "bad_request", "10 to 200 characters.");
      state.password = next;
      return { status: 204 };
    }
    case "POST auth/refresh":
      return { status: 204, cookie: makeCookie(state, me) };
    case "POST auth/logout":
      state.authSessions.delete(me.id);
      return { status: 204, cookie: "relay_session=; Max-Age=0; Path=/" };
    case "GET auth/sessions": {
      const sessions = [...state.authSessions.values()].map((of) => ({ ...of, current: of.id === me.id }));
      return { status: 200, body: { sessions } };
    }
    case "DELETE auth/sessions/:id":
      return gone(state.authSessions.delete(id));
    case "GET relay/hosts":
      return { status: 200, body: { hosts: [...state.hosts.values()] } };
    case "PATCH relay/hosts/:id":
    case "DELETE relay/hosts/:id": {
      const host = state.hosts.get(id);
      if (host === undefined) throw new Problem(404, "not_found");
      if (host.role !== "owner") throw new Problem(403, "host_access_denied");
      if (method === "DELETE") return gone(state.hosts.delete(id));
      host.name = String((await json(request))["name"]);
      return { status: 200, body: host };
    }
    case "GET relay/sessions":
      return { status: 200, body: { sessions: [...state.browserSessions.values()] } };
    case "DELETE relay/sessions/:id":
      return gone(state.browserSessions.delete(id));
    case "GET auth/device/:id":
    case "POST auth/device/:id": {
      const device = state.devices.get(id.toUpperCase().replace(/^([A-Z]{4})[- ]?([A-Z]{4})$/, "$1-$2"));
      if (device === undefined || device.decided !== undefined) throw new Problem(404, "not_found");
      if (method === "GET") return { status: 200, body: device };
      device.decided = (await json(request))["approve"] === true;
      return { status: 204 };
    }
    default:
      throw new Problem(404, "not_found");
  }
}

function gone(was: boolean): Answer {
  if (!was) throw new Problem(404, "not_found");
  return { status: 204 };
}

function login(state: RelayState, body: Json): Answer {
  if (state.wrong >= MAX_WRONG) throw new Problem(429, "rate_limited", "", 90);
  const right =
    state.password !== undefined && body["email"] === state.user.email && body["password"] === state.password;
  if (!right) {
    state.wrong += 1;
    throw new Problem(401, "sign_in_failed");
  }
  state.wrong = 0;
  return enter(state);
}

function enter(state: RelayState): Answer {
  const session = state.addAuthSession({ name: "Chrome on Linux", created_at: unixNow() });
  return { status: 200, body: { user: state.user }, cookie: makeCookie(state, session) };
}
