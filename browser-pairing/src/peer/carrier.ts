/**
 * A data channel that carries a yamux session: moves messages between the two, as much as the channel takes, and
 * notices when the other end has fallen silent.
 *
 * Its life: `opening` until the other end has answered a ping, `open`, `stalled` while it is silent, and `closed`.
 * A stall that ends within {@link RESTART_WITHIN} is none for streams whose answer has begun; those of which no
 * byte has come are dropped as soon as it begins, because they may go another way.
 */
import { Gate } from "./gate.js";
import { Liveness, PING_EVERY, TICK } from "./liveness.js";
import type { YamuxStream } from "./stream.js";
import { realTimers, type Timers } from "./timers.js";
import { Yamux } from "./yamux.js";

/** How long an answer that has begun waits for the path to come back, in milliseconds (PROTOCOL.md section 6.3). */
export const RESTART_WITHIN = 15_000;
/** Without a stream for so long it closes, in milliseconds (PROTOCOL.md section 6.1). */
export const IDLE_CLOSE = 5 * 60_000;
/** What was heard longer ago than this says nothing about now, in milliseconds. */
const STALE = 30_000;
/**
 * So many bytes wait in a channel only when it may not send: below, it lets go of them by itself, also when nobody
 * hears them.
 */
const FULL = 32 * 1024;
/**
 * How long packets alone are a sign of life, in milliseconds: what they carry may wait for one that was lost, and
 * some SCTP stacks take seconds to send that again. Longer, and the other end does not work.
 */
const MUTE = 6_000;
/** How long a channel that closes may take to send what it has, in milliseconds. */
const FLUSH = 1_000;

export type CarrierState = "opening" | "open" | "stalled" | "closed";

/** What is used of an `RTCDataChannel`. */
export interface MessageChannelLike {
  readonly readyState: string;
  readonly bufferedAmount: number;
  bufferedAmountLowThreshold: number;
  binaryType: string;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(): void;
  addEventListener(type: string, listener: (event: Event) => void): void;
}

export class Carrier {
  /** Called after each change of {@link state}. */
  onstate: (state: CarrierState) => void = () => {};

  readonly #channel: MessageChannelLike;
  readonly #yamux: Yamux;
  readonly #gate = new Gate();
  readonly #liveness = new Liveness();
  readonly #streams = new Set<YamuxStream>();
  #state: CarrierState = "opening";
  #looking: (() => void) | undefined;
  #giveUp: (() => void) | undefined;
  #idle: (() => void) | undefined;
  #pumping = false;
  #probe = false;
  #unused = false;
  #heardAt = 0;
  #sent = 0;
  #received = 0;
  /** How much had left the channel when somebody last looked, and whether more waited in it than it takes at once. */
  #left = 0;
  #wasFull = false;
  /** Since when nothing has come over the channel while something waited. */
  #quietSince: number | undefined;
  #arrived: number | undefined;
  #why = "";

  constructor(
    channel: MessageChannelLike,
    private readonly timers: Timers = realTimers,
    /** How many bytes have come in packets, whatever they carried; undefined where the browser does not tell. */
    private readonly arrivals: () => Promise<number | undefined> = async () => undefined,
  ) {
    this.#channel = channel;
    channel.binaryType = "arraybuffer";
    this.#yamux = new Yamux({
      onwants: () => this.#wants(),
      onend: (end) => {
        if (this.#why === "") this.#why = end.kind === "violation" ? end.why : end.kind;
        this.#unused = this.#streams.size === 0 && this.#state === "open";
        // The last word goes out after this.
        queueMicrotask(() => this.#closed());
      },
    });
    channel.addEventListener("open", () => this.#look());
    channel.addEventListener("message", (event) => this.#message((event as MessageEvent).data));
    channel.addEventListener("bufferedamountlow", () => {
      this.#gate.drained(this.timers.now());
      this.#pump();
    });
    for (const type of ["close", "error", "closing"]) channel.addEventListener(type, () => this.#lost(type));
    if (channel.readyState === "open") this.#look();
  }

  get state(): CarrierState {
    return this.#state;
  }

  /** Why it closed, for people. */
  get why(): string {
    return this.#why;
  }

  /** Whether it was closed while nothing needed it. */
  get unused(): boolean {
    return this.#unused;
  }

  /** The last round trip, in milliseconds. */
  get rtt(): number | undefined {
    return this.#yamux.rtt;
  }

  /** Bytes that have gone into the channel, and come out of it. */
  get sent(): number {
    return this.#sent;
  }

  get received(): number {
    return this.#received;
  }

  /**
   * Whether a new stream may be trusted to it now. When nothing has been heard for long the answer is no, and a
   * ping finds out: waiting for a path that has died while nobody looked would cost the caller more.
   */
  get usable(): boolean {
    if (this.#state !== "open") return false;
    if (this.timers.now() - this.#heardAt < STALE) return true;
    this.probe();
    return false;
  }

  /** Asks the other end for a sign of life, although nothing waits. */
  probe(): void {
    this.#probe = true;
    this.#look();
  }

  /** Opens a stream; undefined when there can be none now. */
  open(): YamuxStream | undefined {
    if (this.#state !== "open") return undefined;
    const stream = this.#yamux.openStream();
    if (stream === undefined) return undefined;
    this.#idle?.();
    this.#streams.add(stream);
    if (this.#looking === undefined) this.#look();
    return stream;
  }

  /** The stream's user has done with it. */
  done(stream: YamuxStream): void {
    this.#streams.delete(stream);
    if (this.#streams.size === 0) this.#rest();
  }

  /** Something below says that nothing comes through any more. */
  stall(): void {
    if (this.#state === "open") this.#stall();
  }

  /** Ends in order. What streams have not finished is lost. */
  close(): void {
    this.#yamux.close();
  }

  #set(state: CarrierState): void {
    if (this.#state === state || this.#state === "closed") return;
    this.#state = state;
    this.onstate(state);
  }

  #rest(): void {
    this.#idle?.();
    if (this.#state !== "closed") this.#idle = this.timers.after(IDLE_CLOSE, () => this.close());
  }

  #wants(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    // Whatever is written at once goes into one message.
    queueMicrotask(() => {
      this.#pumping = false;
      this.#pump();
    });
  }

  #pump(): void {
    const channel = this.#channel;
    try {
      while (channel.readyState === "open" && channel.bufferedAmount < this.#gate.high) {
        const message = this.#yamux.pull();
        if (message === undefined) return;
        this.#sent += message.length;
        channel.send(message);
      }
      if (channel.readyState !== "open") return;
      this.#gate.full(this.timers.now());
      channel.bufferedAmountLowThreshold = this.#gate.low;
    } catch {
      this.#lost("send");
    }
  }

  #message(data: unknown): void {
    if (this.#state === "closed") return;
    if (!(data instanceof ArrayBuffer)) {
      this.#why = "a message that is not binary";
      this.#yamux.close();
      return;
    }
    this.#received += data.byteLength;
    this.#yamux.receive(new Uint8Array(data), this.timers.now());
    if (this.#yamux.end === undefined) this.#heard();
  }

  #heard(): void {
    this.#heardAt = this.timers.now();
    this.#quietSince = undefined;
    this.#arrived = undefined;
    this.#probe = false;
    this.#liveness.heard(this.timers.now());
    if (this.#state === "open") return;
    this.#giveUp?.();
    this.#set("open");
    if (this.#streams.size === 0) this.#rest();
  }

  /** Looks now, and again as long as something waits. */
  #look(): void {
    this.#looking?.();
    this.#looking = undefined;
    if (this.#state === "closed" || this.#channel.readyState !== "open") return;
    const { bufferedAmount } = this.#channel;
    const left = this.#sent - bufferedAmount;
    // What a full channel lets go of has room because something else was acknowledged.
    if (left > this.#left && this.#wasFull) this.#liveness.heard(this.timers.now());
    this.#left = left;
    this.#wasFull = bufferedAmount >= FULL;
    const waiting = this.#streams.size > 0 || this.#probe || this.#state !== "open";
    const verdict = this.#liveness.look(this.timers.now(), waiting);
    if (verdict === "rest") {
      this.#quietSince = undefined;
      return;
    }
    void this.#lookBelow();
    if (verdict === "ping") this.#yamux.ping(this.timers.now());
    if (verdict === "dead") {
      this.#stall();
      this.#liveness.heard(this.timers.now());
    }
    this.#looking = this.timers.after(TICK, () => this.#look());
  }

  /** Packets that come are a sign of life for a while, although the channel has nothing to give. */
  async #lookBelow(): Promise<void> {
    this.#quietSince ??= this.timers.now();
    const quiet = this.#quietSince;
    if (this.timers.now() - quiet < PING_EVERY / 2) return;
    const arrived = await this.arrivals().catch(() => undefined);
    // Something has come over the channel itself meanwhile.
    if (this.#quietSince !== quiet) return;
    const more = arrived !== undefined && this.#arrived !== undefined && arrived > this.#arrived;
    this.#arrived = arrived;
    if (more && this.timers.now() - quiet < MUTE) this.#liveness.heard(this.timers.now());
  }

  #stall(): void {
    if (this.#state !== "open") return;
    this.#giveUp = this.timers.after(RESTART_WITHIN, () => this.#lost("silent"));
    this.#set("stalled");
    for (const stream of this.#streams) {
      if (!stream.touched) {
        stream.reset();
        stream.onchange();
      }
    }
    if (this.#looking === undefined) this.#look();
  }

  /** The channel is gone, or as good as. */
  #lost(why: string): void {
    if (this.#why === "") this.#why = why;
    if (this.#yamux.end === undefined) this.#yamux.close();
    this.#closed();
  }

  #closed(): void {
    if (this.#state === "closed") return;
    for (const stop of [this.#looking, this.#giveUp, this.#idle]) stop?.();
    this.#pump();
    this.#streams.clear();
    this.#channel.close();
    this.#set("closed");
  }

  /** Waits until a closed channel has sent what it had, but not for long. */
  async flushed(): Promise<void> {
    if (this.#channel.readyState === "closed") return;
    await new Promise<void>((resolve) => {
      const stop = this.timers.after(FLUSH, resolve);
      this.#channel.addEventListener("close", () => {
        stop();
        resolve();
      });
    });
  }
}
