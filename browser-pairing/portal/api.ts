// Typed calls to the relay's own interface (PROTOCOL.md sections 1 and 1.1). Whatever comes back is
// looked at before it is believed: the views get values of the declared types or an error. The sign-in
// is an HttpOnly cookie that no script sees; `x-relay-csrf` on every call keeps other sites from using it.

/** A call is given up after this time; nothing here computes for longer than a password hash. */
const TIMEOUT_MS = 20_000;
/** No answer of these endpoints is longer. */
const MAX_ANSWER = 1024 * 1024;

export interface User {
  readonly id: string;
  readonly email: string;
}

export interface Me {
  readonly user: User & { readonly has_password: boolean };
  readonly session_id: string;
  readonly expires_at: number;
}

/** Somebody else who can say who a person is. `path` is where a navigation begins. */
export interface Provider {
  readonly name: string;
  readonly path: string;
}

export interface Host {
  readonly id: string;
  readonly name: string;
  readonly machine_id: string;
  readonly status: "online" | "offline";
  readonly last_seen_at: number | null;
  readonly agent_version: string | null;
  readonly role: "owner" | "member";
  readonly created_at: number;
}

export interface BrowserSession {
  readonly id: string;
  readonly host_id: string;
  readonly created_at: number;
  readonly last_used_at: number | null;
  readonly expires_at: number;
}

export interface AuthSession {
  readonly id: string;
  readonly name: string;
  readonly kind: "browser" | "device" | "token";
  readonly created_at: number;
  readonly last_used_at: number | null;
  readonly current: boolean;
}

export interface DeviceRequest {
  readonly user_code: string;
  readonly name: string;
  readonly address: string;
  readonly created_at: number;
  readonly expires_at: number;
}

/** The relay refused. `code` is the protocol's; `detail` is what the relay says a person can do. */
export class Refused extends Error {
  override readonly name = "Refused";
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
    /** Seconds to wait, when the relay said so. */
    readonly retryAfter: number | undefined,
    readonly requestId: string | undefined,
  ) {
    super(`${status} ${code}`);
  }
}

/** No answer that makes sense: no network, no relay, or something else that answers in its place. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
}

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function wrong(what: string): never {
  throw new Unreachable(`the relay's answer has no ${what}`);
}
const object = (value: unknown, what: string): Json => (isObject(value) ? value : wrong(what));
const text = (from: Json, key: string): string => {
  const value = from[key];
  return typeof value === "string" ? value : wrong(key);
};
const time = (from: Json, key: string): number => {
  const value = from[key];
  return typeof value === "number" && Number.isFinite(value) ? value : wrong(key);
};
const timeOrNull = (from: Json, key: string): number | null =>
  from[key] === null || from[key] === undefined ? null : time(from, key);
const oneOf = <T extends string>(from: Json, key: string, values: readonly T[]): T =>
  values.find((value) => value === from[key]) ?? wrong(key);
const list = (from: Json, key: string): readonly Json[] => {
  const value = from[key];
  return Array.isArray(value) ? value.map((entry: unknown) => object(entry, key)) : wrong(key);
};

const readUser = (from: Json): User => ({ id: text(from, "id"), email: text(from, "email") });

export function readHost(value: unknown): Host {
  const from = object(value, "host");
  return {
    id: text(from, "id").toLowerCase(),
    name: text(from, "name"),
    machine_id: text(from, "machine_id"),
    status: oneOf(from, "status", ["online", "offline"]),
    last_seen_at: timeOrNull(from, "last_seen_at"),
    agent_version:
      from["agent_version"] === null || from["agent_version"] === undefined
        ? null
        : text(from, "agent_version"),
    role: oneOf(from, "role", ["owner", "member"]),
    created_at: time(from, "created_at"),
  };
}

/** Seconds of a Retry-After header; the date form is not used by the relay. */
export function retryAfter(header: string | null): number | undefined {
  if (header === null || !/^\d{1,6}$/.test(header.trim())) return undefined;
  return Number(header.trim());
}

/** Makes the error of an answer that is not a success. */
export function refusal(status: number, headers: Headers, body: unknown): Refused | Unreachable {
  if (!isObject(body) || typeof body["code"] !== "string" || !/^[a-z_]{1,64}$/.test(body["code"])) {
    return new Unreachable(`status ${status} without a problem from the relay`);
  }
  const detail = typeof body["detail"] === "string" ? body["detail"].slice(0, 500) : "";
  const id = typeof body["request_id"] === "string" ? body["request_id"].slice(0, 100) : undefined;
  return new Refused(status, body["code"], detail, retryAfter(headers.get("retry-after")), id);
}

export type Fetch = (input: string, init: RequestInit) => Promise<Response>;

type Method = "GET" | "POST" | "PATCH" | "DELETE";

export class Api {
  readonly #fetch: Fetch;
  /** Called when the sign-in turned out to have ended. */
  onSignedOut: () => void = () => undefined;
  #clockOffset = 0;
  #refreshing: Promise<void> | undefined;

  constructor(fetch: Fetch) {
    this.#fetch = fetch;
  }

  /** The relay's time in Unix seconds, so that "2 minutes ago" is right where the browser's clock is not. */
  now(): number {
    return Date.now() / 1000 + this.#clockOffset;
  }

  /** Calls; when the sign-in has run out, renews it and calls once more: what was refused was not done. */
  async #call(method: Method, path: string, body?: Json, signal?: AbortSignal): Promise<unknown> {
    try {
      return await this.#once(method, path, body, signal);
    } catch (error) {
      if (!isSignedOut(error)) throw error;
    }
    try {
      await this.refresh();
      return await this.#once(method, path, body, signal);
    } catch (error) {
      if (isSignedOut(error)) this.onSignedOut();
      throw error;
    }
  }

  async #once(method: Method, path: string, body?: Json, signal?: AbortSignal): Promise<unknown> {
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    const init: RequestInit = {
      method,
      credentials: "same-origin",
      redirect: "error",
      cache: "no-store",
      referrerPolicy: "no-referrer",
      headers: {
        "x-relay-csrf": "1",
        accept: "application/json",
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    };
    let response: Response;
    let raw: string;
    try {
      response = await this.#fetch(path, init);
      raw = await response.text();
    } catch (error) {
      if (signal?.aborted === true) throw error;
      throw new Unreachable("no answer from the relay", { cause: error });
    }
    this.#learnTime(response.headers.get("date"));
    const answer = parseJson(raw);
    if (response.ok) return answer;
    throw refusal(response.status, response.headers, answer);
  }

  #learnTime(date: string | null): void {
    const stated = date === null ? Number.NaN : Date.parse(date) / 1000;
    if (Number.isFinite(stated)) this.#clockOffset = stated - Date.now() / 1000;
  }

  async login(email: string, password: string): Promise<User> {
    const answer = object(await this.#call("POST", "/v1/auth/login", { email, password }), "user");
    return readUser(object(answer["user"], "user"));
  }

  /** Who else signs people in here; nobody, when it cannot be found out: the password form works without. */
  async providers(): Promise<Provider[]> {
    try {
      const answer = object(await this.#once("GET", "/v1/auth/providers"), "providers");
      return list(answer, "providers")
        .map((from) => ({ name: text(from, "name"), path: text(from, "path") }))
        .filter(({ path }) => /^\/v1\/auth\/[a-z]+$/.test(path));
    } catch {
      return [];
    }
  }

  async link(token: string): Promise<void> {
    await this.#call("POST", "/v1/auth/link", { token });
  }

  async me(): Promise<Me> {
    const answer = object(await this.#call("GET", "/v1/auth/me"), "user");
    const user = object(answer["user"], "user");
    return {
      user: { ...readUser(user), has_password: user["has_password"] === true },
      session_id: text(answer, "session_id"),
      expires_at: time(answer, "expires_at"),
    };
  }

  async setPassword(current: string | undefined, next: string): Promise<void> {
    await this.#call("POST", "/v1/auth/password", {
      ...(current === undefined ? {} : { current }),
      new: next,
    });
  }

  /** Renews the cookie. Those who ask at the same time share one renewal. */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#once("POST", "/v1/auth/refresh")
      .then(() => undefined)
      .finally(() => {
        this.#refreshing = undefined;
      });
    return this.#refreshing;
  }

  async logout(): Promise<void> {
    await this.#call("POST", "/v1/auth/logout");
  }

  async authSessions(signal?: AbortSignal): Promise<AuthSession[]> {
    const answer = object(await this.#call("GET", "/v1/auth/sessions", undefined, signal), "sessions");
    return list(answer, "sessions").map((from) => ({
      id: text(from, "id"),
      name: typeof from["name"] === "string" ? from["name"] : "",
      kind: oneOf(from, "kind", ["browser", "device", "token"]),
      created_at: time(from, "created_at"),
      last_used_at: timeOrNull(from, "last_used_at"),
      current: from["current"] === true,
    }));
  }

  async endAuthSession(id: string): Promise<void> {
    await this.#call("DELETE", `/v1/auth/sessions/${encodeURIComponent(id)}`);
  }

  async browserSessions(signal?: AbortSignal): Promise<BrowserSession[]> {
    const answer = object(await this.#call("GET", "/v1/relay/sessions", undefined, signal), "sessions");
    return list(answer, "sessions").map((from) => ({
      id: text(from, "id"),
      host_id: text(from, "host_id").toLowerCase(),
      created_at: time(from, "created_at"),
      last_used_at: timeOrNull(from, "last_used_at"),
      expires_at: time(from, "expires_at"),
    }));
  }

  async endBrowserSession(id: string): Promise<void> {
    await this.#call("DELETE", `/v1/relay/sessions/${encodeURIComponent(id)}`);
  }

  async hosts(signal?: AbortSignal): Promise<Host[]> {
    const answer = object(await this.#call("GET", "/v1/relay/hosts", undefined, signal), "hosts");
    return list(answer, "hosts").map(readHost);
  }

  async renameHost(id: string, name: string): Promise<Host> {
    return readHost(await this.#call("PATCH", `/v1/relay/hosts/${encodeURIComponent(id)}`, { name }));
  }

  async deleteHost(id: string): Promise<void> {
    await this.#call("DELETE", `/v1/relay/hosts/${encodeURIComponent(id)}`);
  }

  async device(userCode: string): Promise<DeviceRequest> {
    const from = object(
      await this.#call("GET", `/v1/auth/device/${encodeURIComponent(userCode)}`),
      "request",
    );
    return {
      user_code: text(from, "user_code"),
      name: typeof from["name"] === "string" ? from["name"] : "",
      address: typeof from["address"] === "string" ? from["address"] : "",
      created_at: time(from, "created_at"),
      expires_at: time(from, "expires_at"),
    };
  }

  async decideDevice(userCode: string, approve: boolean): Promise<void> {
    await this.#call("POST", `/v1/auth/device/${encodeURIComponent(userCode)}`, { approve });
  }
}

export function isSignedOut(error: unknown): boolean {
  return error instanceof Refused && error.code === "unauthorized";
}

function parseJson(raw: string): unknown {
  if (raw === "" || raw.length > MAX_ANSWER) return undefined;
  try {
    return JSON.parse(raw) as unknown;
  } catch {
    return undefined;
  }
}
