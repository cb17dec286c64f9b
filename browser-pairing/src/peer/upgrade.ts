/**
 * The direct connection of one open host, over time: made when it is first wanted, made again after it was lost,
 * and left alone where either side has WebRTC switched off.
 *
 * It is tried again after 2, 4, 8 … 60 seconds, and at once when the network changes. One that was closed because
 * nobody needed it is made again when somebody does.
 */
import { RelayError } from "../errors.js";
import type { ExchangePath, PathHost } from "../path.js";
import type { PathReport } from "../types.js";
import { Backoff } from "./backoff.js";
import { Peer } from "./peer.js";

const NOT_FOUND = 404;
/** Relays that said that they have no WebRTC. Another page may ask again. */
const without = new Set<string>();

/** Events of this page, where it has any, and of its network connection, where the browser tells. */
function listen(signal: AbortSignal, onnetwork: () => void, onleave: () => void): void {
  const page = globalThis as Partial<EventTarget>;
  page.addEventListener?.("online", onnetwork, { signal });
  // A page that goes may never come back, and scripts are told nothing later.
  page.addEventListener?.("pagehide", onleave, { signal });
  const { connection } = (globalThis.navigator ?? {}) as { connection?: EventTarget };
  connection?.addEventListener("change", onnetwork, { signal });
}

export class Upgrade {
  readonly #host: PathHost;
  readonly #onchange: () => void;
  readonly #closing = new AbortController();
  readonly #backoff = new Backoff();
  #peer: Peer | undefined;
  #since = 0;
  #connecting = false;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #wanted = false;
  #off = false;
  /** What went over connections that are no more, in bytes. */
  #sent = 0;
  #received = 0;

  /** Starts at once. `onchange` is called whenever {@link report} may say something else. */
  constructor(host: PathHost, onchange: () => void) {
    this.#host = host;
    this.#onchange = onchange;
    listen(
      this.#closing.signal,
      () => this.#networkChanged(),
      () => this.#peer?.close(),
    );
    this.used();
  }

  /** The path, when exchanges may go over it now. */
  get path(): ExchangePath | undefined {
    return this.#peer?.carrier.usable === true ? this.#peer.path : undefined;
  }

  get report(): PathReport {
    const carrier = this.#peer?.carrier;
    const sent = this.#sent + (carrier?.sent ?? 0);
    const received = this.#received + (carrier?.received ?? 0);
    if (carrier?.state !== "open") return { kind: "relay", sent, received };
    const report: PathReport = { kind: "webrtc", sent, received };
    if (this.#peer?.candidate !== undefined) report.candidate = this.#peer.candidate;
    if (carrier.rtt !== undefined) report.rtt = carrier.rtt;
    return report;
  }

  /** The host was reached: a direct connection is worth having. */
  used(): void {
    this.#wanted = true;
    if (this.#retry === undefined) this.#connect();
  }

  /** Ends it for good. */
  close(): void {
    this.#closing.abort(new RelayError("closed", { detail: "The connection to this host was closed." }));
    clearTimeout(this.#retry);
    this.#peer?.close();
  }

  #connect(): void {
    const impossible = this.#off || this.#closing.signal.aborted || without.has(this.#host.link.base);
    if (impossible || this.#connecting || this.#peer !== undefined) return;
    this.#connecting = true;
    Peer.connect(this.#host, this.#closing.signal)
      .then(
        (peer) => this.#connected(peer),
        (error) => this.#failed(error),
      )
      .finally(() => {
        this.#connecting = false;
      });
  }

  #connected(peer: Peer): void {
    if (peer.carrier.state === "closed") {
      this.#failed(undefined);
      return;
    }
    this.#peer = peer;
    this.#since = Date.now();
    peer.onchange = () => {
      if (peer.carrier.state === "closed") this.#ended(peer);
      this.#onchange();
    };
    this.#onchange();
  }

  #ended(peer: Peer): void {
    if (this.#peer !== peer) return;
    this.#peer = undefined;
    this.#sent += peer.carrier.sent;
    this.#received += peer.carrier.received;
    const lasted = Math.max(0, Date.now() - this.#since);
    // One that nobody needed is made anew when somebody does.
    this.#wanted = !peer.carrier.unused;
    this.#again(this.#backoff.failed(lasted));
  }

  #failed(error: unknown): void {
    let wait = this.#backoff.failed();
    this.#wanted = true;
    if (error instanceof RelayError) {
      // Said by the relay it is about its ICE servers, said by the agent about all of it.
      if (error.status === NOT_FOUND && !error.verified) without.add(this.#host.link.base);
      if (error.status === NOT_FOUND && error.verified) this.#off = true;
      wait = Math.max(wait, (error.retryAfter ?? 0) * 1000);
    }
    this.#again(wait);
  }

  #again(wait: number): void {
    clearTimeout(this.#retry);
    if (this.#closing.signal.aborted) return;
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      if (this.#wanted) this.#connect();
    }, wait);
  }

  #networkChanged(): void {
    if (this.#peer !== undefined) {
      if (this.#peer.carrier.state === "stalled") this.#peer.restart();
      else this.#peer.carrier.probe();
      return;
    }
    if (this.#retry === undefined) return;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#backoff.reset();
    this.#connect();
  }
}
