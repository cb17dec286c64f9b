/** A paired host, as the SDK's users hold it. */
import { Channel } from "./channel.js";
import { fromB64, uuid } from "./encoding.js";
import { RelayError } from "./errors.js";
import { HostEventSource } from "./eventsource.js";
import { fetchOver, localTarget } from "./fetch.js";
import { requireSecureContext, unsealCode, verifyingKey } from "./keys.js";
import { RelayLink } from "./link.js";
import type { Paired } from "./pair.js";
import type { Json } from "./problem.js";
import { all, load, type Pairing, remove, update } from "./store.js";
import type {
  DeviceCode,
  EventSourceOptions,
  OpenOptions,
  PairedBrowser,
  PairedBrowsers,
  PairedHostInfo,
  PairOptions,
  PathReport,
  Protection,
} from "./types.js";
import { anySignal } from "./waiting.js";
import { HostWebSocket } from "./websocket.js";

const MAX_NAME = 100;
/** Only {@link pairHost} and {@link openHost} make hosts. */
const INSIDE = Symbol("inside");

function malformed(): RelayError {
  return new RelayError("bad_answer", {
    verified: true,
    detail: "The host's answer is not of this protocol.",
  });
}

/** @throws TypeError */
function checkedName(name: string): string {
  const plain = name.trim();
  if (plain === "" || Array.from(plain).length > MAX_NAME)
    throw new TypeError("a name has 1 to 100 characters");
  return plain;
}

function readBrowser(entry: unknown): PairedBrowser {
  const json = (typeof entry === "object" && entry !== null ? entry : {}) as Json;
  const id = uuid(json["id"]);
  if (id === undefined) throw malformed();
  const text = (name: string) => (typeof json[name] === "string" ? json[name] : "");
  const time = (name: string) => (typeof json[name] === "number" ? json[name] : undefined);
  return {
    id,
    name: text("name"),
    browser: text("browser"),
    os: text("os"),
    device: text("device"),
    fingerprint: text("fingerprint"),
    createdAt: time("created_at") ?? 0,
    lastUsedAt: time("last_used_at"),
    current: json["current"] === true,
  };
}

/**
 * A host that this browser is paired with. Everything that goes through it is sealed, or signed where you chose
 * that; everything that comes back has been verified before you see it.
 *
 * An event `revoked` is dispatched when the host says, signed, that it does not know this browser any
 * more. What was under way has then failed with `not_paired`; `forget()` clears what is kept here.
 *
 * An event `path` is dispatched when requests go another way than before; {@link PairedHost.path} says which.
 */
export class PairedHost extends EventTarget {
  readonly #channel: Channel;
  readonly #closing = new AbortController();
  #name: string;
  /** What the last `path` event told, or nothing has changed since the beginning. */
  #lastPath = "relay undefined";

  /** @internal Use {@link pairHost} or {@link openHost}. */
  constructor(
    inside: symbol,
    { pairing, link, agentKey }: Paired,
    { protection = "sealed", webRtc }: Pick<OpenOptions, "protection" | "webRtc"> = {},
  ) {
    super();
    if (inside !== INSIDE) throw new TypeError("use pairHost or openHost");
    this.#name = pairing.name;
    const { clientId, hostId } = pairing;
    const session = () => {
      const lastUsedAt = Math.floor(Date.now() / 1000);
      // For the list only: not worth failing a request.
      update(clientId, hostId, { lastUsedAt, relayUrl: link.base }).catch(() => undefined);
    };
    const revoked = () => this.dispatchEvent(new Event("revoked"));
    const path = () => {
      const { kind, candidate } = this.path;
      const now = `${kind} ${candidate}`;
      if (now === this.#lastPath) return;
      this.#lastPath = now;
      this.dispatchEvent(new Event("path"));
    };
    this.#channel = new Channel(link, pairing, agentKey, protection, { session, revoked, path }, webRtc);
  }

  /** The host's id, a UUID in lower case. */
  get hostId(): string {
    return this.#channel.pairing.hostId;
  }

  /** This browser's own name for the host; at first the one that the agent gave. */
  get name(): string {
    return this.#name;
  }

  /** `3f2a 91bc 07de 55a1`. The agent shows the same for this browser. */
  get fingerprint(): string {
    return this.#channel.pairing.fingerprint;
  }

  /** What protects everything that passes; as it was asked for, and never less. */
  get protection(): Protection {
    return this.#channel.protection;
  }

  /**
   * The way that a request would take now. Its `kind` and `candidate` change with a `path` event; the round trip
   * and the bytes are as of now.
   */
  get path(): PathReport {
    return this.#channel.paths.report;
  }

  /** The id under which the agent knows this browser. */
  get clientId(): string {
    return this.#channel.pairing.clientId;
  }

  /**
   * `fetch` of the Fetch standard, against the local server.
   *
   * `input` is a path, `"/api?x=1"`; a `URL` or a `Request` of the page's own origin stands for its path.
   * Method, headers, body, redirect and signal are as in the standard, with these differences:
   * the body is collected before it is sent, because it is sealed or its digest is signed; headers that the
   * browser, the relay or the agent own cannot be set (`user-agent`, `x-forwarded-*`, `x-relay-*` …); a redirect
   * under `manual` is answered as it is; `cache`, `credentials`, `mode`, `integrity` and `keepalive` mean
   * nothing; `Response.url` is the path. In signed sessions at most 59 headers.
   *
   * The answer's body is read from the network only as fast as you read it, and every piece is verified
   * before you get it. When the connection breaks off, reading fails: what ends without an error is whole.
   *
   * Nothing is done twice but GET, HEAD and OPTIONS, once, after a session or the clock has been renewed. Other
   * requests fail with `signing_session_expired` or `clock_skew` then, which is rare. No refusal proves that the
   * request was not done, whatever its code and although the host itself made it: a hostile relay may have
   * had the host refuse something else under the same number, and deliver the request besides. Send what is unsafe
   * again only if doing it twice is no harm.
   *
   * @throws RelayError a refusal of the agent or the relay, `network_error`, `tampered`, `truncated`,
   *   `redirect_refused`, `unsupported_encoding`, `closed`
   * @throws TypeError for what can be no request; the signal's reason when it aborts
   */
  async fetch(input: string | URL | Request, init: RequestInit = {}): Promise<Response> {
    const own = init.signal ?? (input instanceof Request ? input.signal : undefined);
    return fetchOver(this.#channel, input, init, anySignal(own, this.#closing.signal));
  }

  /**
   * A WebSocket to the local server, in the shape of the platform's. `path` as in {@link fetch}.
   * Messages have at most 4 MiB. `error` events carry a {@link RelayError} in `error`. The close code is
   * 1006 when the end was not announced by the host, whatever the network says.
   * @throws DOMException `SyntaxError` for malformed sub-protocols; TypeError for a foreign address
   */
  webSocket(path: string | URL, protocols: string | string[] = []): WebSocket {
    const socket = new HostWebSocket(this.#channel, localTarget(path), protocols, this.#closing.signal);
    return socket as unknown as WebSocket;
  }

  /**
   * An EventSource on the local server, in the shape of the platform's: it connects again by itself with
   * `last-event-id`, after the time that `retry:` says (3 s at first, longer after failures, 60 s at most).
   * `error` events carry what happened in `error`. `path` as in {@link fetch}.
   */
  eventSource(path: string | URL, init: EventSourceOptions = {}): EventSource {
    const headers = new Headers(init.headers);
    const source = new HostEventSource(this.#channel, localTarget(path), headers, this.#closing.signal);
    return source as unknown as EventSource;
  }

  /** The host's list of paired browsers. */
  browsers(): PairedBrowsers {
    const path = (id: string) => {
      const checked = uuid(id);
      if (checked === undefined) throw new TypeError("a browser's id is a UUID");
      return `/_relay/browsers/${checked}`;
    };
    return {
      list: async () => {
        const { json } = await this.#call("GET", "/_relay/browsers", 200);
        const entries = json?.["browsers"];
        if (!Array.isArray(entries)) throw malformed();
        return entries.map(readBrowser);
      },
      rename: async (id, name) => {
        const { json } = await this.#call("PATCH", path(id), 200, { name: checkedName(name) });
        return readBrowser(json);
      },
      revoke: async (id) => {
        await this.#call("DELETE", path(id), 204);
      },
    };
  }

  /**
   * A code with which the user's next device can be paired. Only this browser and the host know it.
   * @throws RelayError `rate_limited` after 10 codes an hour
   */
  async nextDeviceCode(): Promise<DeviceCode> {
    const { json, salt } = await this.#call("POST", "/_relay/pairing/code", 200, { v: 1 });
    const sealed = fromB64(json?.["sealed_code"]);
    const expiresAt = json?.["expires_at"];
    const { psk } = this.#channel.pairing;
    const code = sealed === undefined ? undefined : await unsealCode(psk, sealed, salt);
    if (code === undefined || typeof expiresAt !== "number") throw malformed();
    return { code, expiresAt };
  }

  /** Gives the host another name in this browser only. @throws TypeError unless it has 1 to 100 characters */
  async rename(name: string): Promise<void> {
    const checked = checkedName(name);
    await update(this.clientId, this.hostId, { name: checked });
    this.#name = checked;
  }

  /**
   * Removes the keys from this browser and closes; the session at the relay is ended if that is possible.
   * With `revoke` the host is told first; when it cannot be told nothing is removed, and the error says why.
   * @throws RelayError
   */
  async forget({ revoke = false }: { revoke?: boolean } = {}): Promise<void> {
    if (revoke) {
      await this.#call("DELETE", `/_relay/browsers/${this.clientId}`, 204).catch((error) => {
        const gone =
          error instanceof RelayError && error.verified && ["not_paired", "not_found"].includes(error.code);
        if (!gone) throw error;
      });
    }
    await remove(this.clientId, this.hostId);
    this.close();
    void this.#channel.link.end();
  }

  /** Ends everything that is under way. The pairing stays; {@link openHost} opens it again. */
  close(): void {
    this.#closing.abort(
      new RelayError("closed", { detail: "The connection to this host was closed by the page." }),
    );
    this.#channel.close();
  }

  #call(method: string, path: string, wanted: number, body?: Json) {
    return this.#channel.call(method, path, wanted, body, this.#closing.signal);
  }
}

/**
 * Pairs this browser with a host by the six digits that the host shows, and keeps the pairing.
 *
 * A code is good for one guess: after `pairing_failed` a new one is needed. Pairing again with the same
 * host replaces the old pairing in this browser.
 *
 * @throws RelayError `insecure_context`, `unsupported_browser`, `storage_unavailable` (nothing has happened
 *   yet); `pairing_not_open`, `pairing_expired`, `pairing_failed`, `rate_limited`, `host_offline` and the
 *   other refusals of the relay and the agent; `storage_failed` when the host accepted but this browser
 *   could not keep the keys. With `codeUsed` the code must be regarded as used up, whatever the failure:
 *   make a new one, never type the same again
 * @throws TypeError when the code has no six digits or the host's id is no UUID
 */
export async function pairHost(options: PairOptions): Promise<PairedHost> {
  const { pair, Unkept } = await import("./pair.js").catch((cause) => {
    throw new RelayError("network_error", {
      detail: "A part of this page cannot be loaded. Load the page again. The code has not been used.",
      cause,
    });
  });
  try {
    return new PairedHost(INSIDE, await pair(options), options);
  } catch (error) {
    if (!(error instanceof Unkept)) throw error;
    // The keys are still in memory, so the host can be told that they lead nowhere.
    const host = new PairedHost(INSIDE, error.paired, options);
    const revoked = await host
      .browsers()
      .revoke(host.clientId)
      .then(() => true)
      .catch(() => false);
    host.close();
    const rest = revoked ? "The host has been told." : `Revoke ${host.clientId} on the host.`;
    throw new RelayError("storage_failed", {
      verified: true,
      detail: `The host accepted this browser, but the browser could not store the keys. ${rest} Make space, then pair again with a new code.`,
      cause: error.cause,
    });
  }
}

function info(pairing: Pairing): PairedHostInfo {
  const { hostId, relayUrl, name, fingerprint, clientId, pairedAt, lastUsedAt } = pairing;
  return { hostId, relayUrl, name, fingerprint, clientId, pairedAt, lastUsedAt };
}

/** The hosts that this origin is paired with in this browser. @throws RelayError `storage_unavailable` */
export async function pairedHosts(): Promise<PairedHostInfo[]> {
  return (await all()).map(info);
}

/**
 * Opens a pairing that was made before. Nothing is sent yet.
 * @returns undefined when this browser is not paired with the host
 * @throws RelayError `insecure_context`, `unsupported_browser`, `storage_unavailable`
 */
export async function openHost(options: OpenOptions): Promise<PairedHost | undefined> {
  requireSecureContext();
  const hostId = uuid(options.hostId);
  const pairing = hostId === undefined ? undefined : await load(hostId);
  if (hostId === undefined || pairing === undefined) return undefined;
  const agentKey = await verifyingKey(pairing.agentEd25519);
  if (agentKey === undefined) {
    throw new RelayError("unsupported_browser", {
      detail: "This browser cannot check the host's signatures any more.",
    });
  }
  const paired = { pairing, link: new RelayLink(options.relay, hostId), agentKey };
  return new PairedHost(INSIDE, paired, options);
}
