/**
 * One connection to the agent: offer and answer inside protected exchanges (PROTOCOL.md section 6.1), the data
 * channel, and ICE restarts while it is silent.
 */
import { uuid } from "../encoding.js";
import { RelayError } from "../errors.js";
import type { PathHost } from "../path.js";
import { abortable, pause } from "../waiting.js";
import { Carrier } from "./carrier.js";
import {
  bytesArrived,
  type CandidateType,
  chosenCandidate,
  type IceServer,
  MAX_SDP,
  readIceServers,
} from "./ice.js";
import { PeerPath } from "./path.js";
import { realTimers } from "./timers.js";

/** How long candidates are gathered, in milliseconds (PROTOCOL.md section 6.1). */
const GATHER = 2_000;
/** How long all of it may take until the other end has answered a ping, in milliseconds. */
const CONNECT = 20_000;
/** Between two ICE restarts of one stall, in milliseconds. */
const RESTART_PAUSE = 2_000;
/** How long a restart waits for fresh credentials before it goes on with the old ones, in milliseconds. */
const FRESH_SERVERS = 2_000;
const TARGET = "/_relay/webrtc";
const SERVERS = "/v1/relay/ice-servers";

/** The relay's ICE servers. @throws RelayError `not_found` when WebRTC is off there */
async function iceServers(host: PathHost, signal: AbortSignal): Promise<IceServer[]> {
  return readIceServers(await host.link.ask("GET", SERVERS, signal));
}

/** Waits for an event that says that something has come to be. */
async function until(
  target: EventTarget,
  type: string,
  done: () => boolean,
  signal: AbortSignal,
): Promise<void> {
  let listener = () => {};
  const changed = new Promise<void>((resolve) => {
    listener = () => {
      if (done()) resolve();
    };
    target.addEventListener(type, listener);
    listener();
  });
  try {
    await abortable(changed, signal);
  } finally {
    target.removeEventListener(type, listener);
  }
}

export class Peer {
  readonly carrier: Carrier;
  readonly path: PeerPath;
  /** Called when its state or the kind of its way may have changed. */
  onchange: () => void = () => {};

  readonly #connection: RTCPeerConnection;
  readonly #host: PathHost;
  readonly #closing = new AbortController();
  #servers: IceServer[];
  #id: string | undefined;
  #candidate: CandidateType | undefined;
  #restarting: Promise<void> | undefined;

  private constructor(host: PathHost, servers: IceServer[]) {
    this.#host = host;
    this.#servers = servers;
    this.#connection = new RTCPeerConnection({ iceServers: servers });
    const channel = this.#connection.createDataChannel("relay", { protocol: "relay.peer.v1", ordered: true });
    this.carrier = new Carrier(channel, realTimers, async () => bytesArrived(await this.#stats()));
    this.path = new PeerPath(this.carrier);
    this.carrier.onstate = (state) => {
      if (state === "stalled") this.restart();
      if (state === "open") void this.#look();
      if (state === "closed") void this.#end();
      this.onchange();
    };
    this.#connection.addEventListener("connectionstatechange", () => {
      const state = this.#connection.connectionState;
      if (state === "disconnected" || state === "failed") this.carrier.stall();
      if (state === "connected") void this.#look();
    });
  }

  /** Connects. @throws RelayError for refusals; anything else when it does not come about */
  static async connect(host: PathHost, signal: AbortSignal): Promise<Peer> {
    const limited = AbortSignal.any([signal, AbortSignal.timeout(CONNECT)]);
    const peer = new Peer(host, await iceServers(host, limited));
    try {
      await peer.#negotiate(limited);
      await peer.#opened(limited);
      return peer;
    } catch (error) {
      peer.close();
      throw error;
    }
  }

  /** What the agent calls it. */
  get id(): string | undefined {
    return this.#id;
  }

  /** How it goes, as far as the browser has told. */
  get candidate(): CandidateType | undefined {
    return this.#candidate;
  }

  /** Ends it, at the agent too. */
  close(): void {
    const told = this.carrier.state === "open";
    this.carrier.close();
    if (!told && this.#id !== undefined) {
      // Nothing goes over the channel now. When this fails too the agent's own limits end it.
      void this.#host.call("DELETE", `${TARGET}/${this.#id}`, 204).catch(() => undefined);
    }
    void this.#end();
  }

  /** Looks for another way below the same channel, as long as it is silent. */
  restart(): void {
    this.#restarting ??= this.#restarts().finally(() => {
      this.#restarting = undefined;
    });
  }

  async #restarts(): Promise<void> {
    const { signal } = this.#closing;
    while (this.carrier.state === "stalled") {
      try {
        await this.#refresh(signal);
        await this.#negotiate(signal);
      } catch (error) {
        // The agent has forgotten it: nothing will come back.
        if (error instanceof RelayError && error.verified && error.code === "not_found") this.carrier.close();
      }
      if (signal.aborted) return;
      await pause(RESTART_PAUSE, signal).catch(() => undefined);
    }
  }

  /** Credentials may have run out since. */
  async #refresh(signal: AbortSignal): Promise<void> {
    if (this.#servers.length === 0) return;
    const limited = AbortSignal.any([signal, AbortSignal.timeout(FRESH_SERVERS)]);
    const servers = await iceServers(this.#host, limited).catch(() => undefined);
    if (servers === undefined || this.#closing.signal.aborted) return;
    this.#servers = servers;
    this.#connection.setConfiguration({ iceServers: servers });
  }

  async #negotiate(signal: AbortSignal): Promise<void> {
    const connection = this.#connection;
    const again = this.#id !== undefined;
    await connection.setLocalDescription(await connection.createOffer({ iceRestart: again }));
    const gathered = AbortSignal.any([signal, AbortSignal.timeout(GATHER)]);
    const complete = () => connection.iceGatheringState === "complete";
    await until(connection, "icegatheringstatechange", complete, gathered).catch(() => undefined);
    signal.throwIfAborted();
    const sdp = connection.localDescription?.sdp ?? "";
    if (sdp.length > MAX_SDP) throw new Error("the offer is too long");
    const body = { v: 1, sdp, ice_servers: this.#servers, ...(again ? { peer_id: this.#id } : {}) };
    const { json } = await this.#host.call("POST", TARGET, 200, body, signal);
    const id = uuid(json?.["peer_id"]);
    const answer = json?.["sdp"];
    if (id === undefined || typeof answer !== "string" || answer.length > MAX_SDP) {
      throw new RelayError("bad_answer", { verified: true, detail: "The host's answer is no description." });
    }
    this.#id ??= id;
    if (id !== this.#id)
      throw new RelayError("bad_answer", { verified: true, detail: "Another peer's answer." });
    signal.throwIfAborted();
    await connection.setRemoteDescription({ type: "answer", sdp: answer });
  }

  /** Waits until the other end has answered over the channel. */
  async #opened(signal: AbortSignal): Promise<void> {
    const { carrier } = this;
    const states = new EventTarget();
    const onstate = carrier.onstate;
    carrier.onstate = (state) => {
      onstate(state);
      states.dispatchEvent(new Event("state"));
    };
    await until(states, "state", () => carrier.state !== "opening", signal);
    carrier.onstate = onstate;
    if (carrier.state === "closed") throw new Error(`the channel closed: ${carrier.why}`);
  }

  async #look(): Promise<void> {
    try {
      this.#candidate = chosenCandidate(await this.#stats()) ?? this.#candidate;
      this.onchange();
    } catch {
      // It is for people only.
    }
  }

  async #stats(): Promise<Record<string, unknown>[]> {
    const found: Record<string, unknown>[] = [];
    (await this.#connection.getStats()).forEach((entry) => {
      found.push(entry as Record<string, unknown>);
    });
    return found;
  }

  async #end(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new Error("the direct connection was closed"));
    await this.carrier.flushed();
    this.#connection.close();
  }
}
