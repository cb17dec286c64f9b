/**
 * A data channel without a network, with a yamux server behind it, and an `RTCPeerConnection` that leads there. A
 * test can cut the line, let it pass again, hold the sender up, and put anything on it.
 */
import type { MessageChannelLike } from "../../src/peer/carrier.js";
import type { Timers } from "../../src/peer/timers.js";
import { type ServerStream, YamuxServer } from "./yamux-server.js";

/** What a sender has on its way before it waits for an acknowledgement, in bytes. */
const FLIGHT = 100_000;

/** Lets everything happen that is due without any time passing. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Time that passes when the test says so. */
export class FakeTimers implements Timers {
  #now = 1000;
  #due: { at: number; run: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  after(milliseconds: number, run: () => void): () => void {
    const entry = { at: this.#now + milliseconds, run };
    this.#due.push(entry);
    return () => {
      this.#due = this.#due.filter((one) => one !== entry);
    };
  }

  /** Lets time pass, and what is due in it happen in its order. */
  async pass(milliseconds: number): Promise<void> {
    const until = this.#now + milliseconds;
    await settle();
    for (;;) {
      const [next] = this.#due.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.#due = this.#due.filter((one) => one !== next);
      this.#now = Math.max(this.#now, next.at);
      next.run();
      await settle();
    }
    this.#now = until;
  }
}

/** The browser's end of a channel, and the wire behind it. */
export class FakeChannel extends EventTarget implements MessageChannelLike {
  readyState = "connecting";
  bufferedAmount = 0;
  bufferedAmountLowThreshold = 0;
  binaryType = "blob";
  readonly server: YamuxServer;
  /** The most that was ever buffered. */
  peak = 0;
  /** Nothing passes in either direction; it is kept, as SCTP keeps it, which takes a little more of it meanwhile. */
  cut = false;
  #flying: Uint8Array[] = [];
  /** Nothing leaves the browser. */
  held = false;
  #out: Uint8Array[] = [];
  #in: Uint8Array[] = [];

  constructor(onstream: (stream: ServerStream) => void = () => {}) {
    super();
    this.server = new YamuxServer((bytes) => {
      this.#in.push(bytes);
      this.#later();
    });
    this.server.onstream = onstream;
  }

  connect(): void {
    this.readyState = "open";
    this.dispatchEvent(new Event("open"));
    this.#later();
  }

  send(data: Uint8Array): void {
    if (this.readyState !== "open") throw new DOMException("not open", "InvalidStateError");
    this.#out.push(data.slice());
    this.bufferedAmount += data.length;
    this.peak = Math.max(this.peak, this.bufferedAmount);
    this.#later();
  }

  close(): void {
    if (this.readyState === "closed") return;
    // What was sent before still goes out.
    if (!this.cut && !this.held) for (const message of this.#out.splice(0)) this.server.receive(message);
    this.readyState = "closed";
    setImmediate(() => this.dispatchEvent(new Event("close")));
  }

  /** Lets everything pass again. */
  mend(): void {
    this.cut = false;
    this.held = false;
    this.#later();
  }

  /** Gives the browser a message, whatever it is. */
  deliver(data: unknown): void {
    this.dispatchEvent(new MessageEvent("message", { data }));
  }

  /** Messages leave the buffer although nobody hears them, until as much is under way as was never acknowledged. */
  #fly(): void {
    let under = this.#flying.reduce((sum, { length }) => sum + length, 0);
    for (let next = this.#out[0]; next !== undefined && under < FLIGHT; next = this.#out[0]) {
      this.#out.shift();
      this.#flying.push(next);
      this.bufferedAmount -= next.length;
      under += next.length;
    }
  }

  #later(): void {
    setImmediate(() => this.#move());
  }

  #move(): void {
    if (this.readyState !== "open") return;
    if (this.cut) {
      this.#fly();
      return;
    }
    for (const message of this.#flying.splice(0)) this.server.receive(message);
    for (const bytes of this.#in.splice(0)) {
      for (let at = 0; at < bytes.length; at += 65_536) {
        this.deliver(bytes.slice(at, at + 65_536).buffer);
      }
    }
    if (this.held) return;
    const message = this.#out.shift();
    if (message === undefined) return;
    const before = this.bufferedAmount;
    this.bufferedAmount -= message.length;
    this.server.receive(message);
    if (before > this.bufferedAmountLowThreshold && this.bufferedAmount <= this.bufferedAmountLowThreshold) {
      this.dispatchEvent(new Event("bufferedamountlow"));
    }
    this.#later();
  }
}

/** What `RTCPeerConnection` does for the SDK, without any of it being real. */
export class FakeConnection extends EventTarget {
  /** All that were made, the last one last. */
  static made: FakeConnection[] = [];
  /** What streams of the next ones do. */
  static onstream: (stream: ServerStream) => void = () => {};
  connectionState = "new";
  iceGatheringState = "new";
  localDescription: { sdp: string } | null = null;
  channel = new FakeChannel(FakeConnection.onstream);
  answers: string[] = [];
  closed = false;
  candidateType = "host";

  constructor(public configuration: RTCConfiguration = {}) {
    super();
    FakeConnection.made.push(this);
  }

  createDataChannel(label: string, { protocol, ordered }: RTCDataChannelInit): FakeChannel {
    if (label !== "relay" || protocol !== "relay.peer.v1" || ordered === false)
      throw new Error("another channel");
    return this.channel;
  }

  async createOffer({ iceRestart }: { iceRestart?: boolean } = {}): Promise<{ sdp: string }> {
    return { sdp: `offer ${this.answers.length}${iceRestart === true ? " again" : ""}` };
  }

  async setLocalDescription(description: { sdp: string }): Promise<void> {
    this.localDescription = description;
    this.iceGatheringState = "gathering";
    setImmediate(() => {
      this.localDescription = { sdp: `${description.sdp} complete` };
      this.iceGatheringState = "complete";
      this.dispatchEvent(new Event("icegatheringstatechange"));
    });
  }

  async setRemoteDescription({ sdp }: { sdp: string }): Promise<void> {
    this.answers.push(sdp);
    if (this.channel.readyState === "connecting") {
      this.connectionState = "connected";
      this.dispatchEvent(new Event("connectionstatechange"));
      this.channel.connect();
    }
  }

  setConfiguration(configuration: RTCConfiguration): void {
    this.configuration = configuration;
  }

  async getStats(): Promise<Map<string, Record<string, unknown>>> {
    const entries = [
      { id: "t", type: "transport", selectedCandidatePairId: "p" },
      { id: "p", type: "candidate-pair", localCandidateId: "l", remoteCandidateId: "r" },
      { id: "l", type: "local-candidate", candidateType: this.candidateType },
      { id: "r", type: "remote-candidate", candidateType: "host" },
    ];
    return new Map(entries.map((entry) => [entry.id, entry]));
  }

  /** Says what ICE says when nothing passes any more. */
  disconnected(): void {
    this.connectionState = "disconnected";
    this.dispatchEvent(new Event("connectionstatechange"));
  }

  close(): void {
    this.closed = true;
    this.channel.close();
  }
}
