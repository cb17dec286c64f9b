/**
 * A yamux session (version 0), client end: it opens streams, and whatever the other end opens is reset.
 *
 * Messages go in by {@link Yamux.receive} and come out by {@link Yamux.pull}, each at most 65,536 bytes; nothing
 * here waits, has a timer or touches a network. Streams take turns of one frame, so that a large upload does not
 * hold up a small request; what is small and urgent (pings, windows, ends) goes before all data.
 *
 * The other end may be anybody. Memory is bounded by the windows that it was given and by fixed numbers; what is
 * not of the protocol ends the session, with GoAway, as `lost` for every stream. Nothing throws.
 */
import {
  Flag,
  FrameReader,
  FrameType,
  GoAway,
  HEADER_LENGTH,
  type Header,
  MAX_MESSAGE,
  START_WINDOW,
  Violation,
  writeHeader,
} from "./frames.js";
import { YamuxStream } from "./stream.js";

/** Streams that may be open at once (PROTOCOL.md section 6.2). */
export const MAX_STREAMS = 256;
/** By how much all receiving windows together may exceed where they start, in bytes. */
const MAX_GROWTH = 32 * 1024 * 1024;
/** Answers that wait for the transport: pings and resets that the other end asked for. Beyond, it floods. */
const MAX_ANSWERS = 256;
/** Pings that have not been answered. More are not sent: they would say nothing new. */
const MAX_PINGS = 16;
const LAST_ID = 0xffff_ffff;
/** The type of frame that opens, ends and breaks off streams. */
const SIGNAL = FrameType.WINDOW_UPDATE;
/** A piece of data smaller than this waits for the next message rather than be cut again. */
const SMALLEST_CUT = 4096;

/** How a session ended: by the other end's GoAway, by a call here, or because the other end lied. */
export type SessionEnd =
  | { kind: "away"; code: number }
  | { kind: "closed" }
  | { kind: "violation"; why: string };

export class Yamux {
  readonly #streams = new Map<number, YamuxStream>();
  readonly #reader: FrameReader;
  #nextId = 1;
  /** The highest id that the other end has used for a stream of its own. */
  #lastForeign = 0;
  /** What may still come for streams that this end has reset. */
  #debt = 0;
  #growth = 0;
  /** Small frames that wait for the transport: this end's own, and those that the other end made it say. */
  #own: Uint8Array<ArrayBuffer>[] = [];
  #answers: Uint8Array<ArrayBuffer>[] = [];
  readonly #urgent = new Set<YamuxStream>();
  readonly #ready = new Set<YamuxStream>();
  readonly #pings = new Map<number, number>();
  #pingId = 0;
  #rtt: number | undefined;
  #end: SessionEnd | undefined;
  #receiving: YamuxStream | undefined;
  #now = 0;

  constructor(
    private readonly options: {
      /** There is something to {@link pull}. */
      onwants?: () => void;
      /** Called once. */
      onend?: (end: SessionEnd) => void;
      /** What receiving windows grow to for readers that keep up, in bytes. */
      fullWindow?: number;
    } = {},
  ) {
    this.#reader = new FrameReader({
      header: (header) => this.#header(header),
      payload: (bytes) => this.#receiving?.take(bytes),
      end: (header) => this.#frameEnd(header),
    });
  }

  /** How it ended, if it has. */
  get end(): SessionEnd | undefined {
    return this.#end;
  }

  /** Streams that are open. */
  get open(): number {
    return this.#streams.size;
  }

  /** The last round trip, in the unit of the clock that {@link ping} and {@link receive} were given. */
  get rtt(): number | undefined {
    return this.#rtt;
  }

  /** Opens a stream; undefined when the session has ended or has as many as it may. */
  openStream(): YamuxStream | undefined {
    if (this.#end !== undefined || this.#streams.size >= MAX_STREAMS || this.#nextId >= LAST_ID)
      return undefined;
    const stream = new YamuxStream(this.#nextId, this.#host, this.options.fullWindow);
    this.#nextId += 2;
    this.#streams.set(stream.id, stream);
    this.#wants(stream, true);
    return stream;
  }

  /** Asks the other end for a sign of life; false when enough such questions are open. */
  ping(now: number): boolean {
    if (this.#end !== undefined || this.#pings.size >= MAX_PINGS) return false;
    this.#pingId = (this.#pingId + 1) >>> 0;
    this.#pings.set(this.#pingId, now);
    this.#say({ type: FrameType.PING, flags: Flag.SYN, stream: 0, length: this.#pingId });
    return true;
  }

  /** Ends the session in order: GoAway is the last that {@link pull} gives. */
  close(): void {
    this.#finish({ kind: "closed" }, GoAway.NORMAL);
  }

  /** Takes one message of the transport. */
  receive(message: Uint8Array<ArrayBuffer>, now: number): void {
    if (this.#end !== undefined) return;
    this.#now = now;
    try {
      if (message.length > MAX_MESSAGE) throw new Violation("a message that is too long");
      this.#reader.push(message);
    } catch (error) {
      const why = error instanceof Violation ? error.message : "a frame that could not be handled";
      this.#finish({ kind: "violation", why }, GoAway.PROTOCOL_ERROR);
    }
  }

  /** The next message for the transport, 1 to 65,536 bytes; undefined when there is nothing to send now. */
  pull(): Uint8Array<ArrayBuffer> | undefined {
    const message = new Message();
    this.#own.splice(0, message.takeSome(this.#own));
    this.#answers.splice(0, message.takeSome(this.#answers));
    for (const stream of this.#urgent) {
      // The opening and an update at the most.
      if (message.room < 2 * HEADER_LENGTH) break;
      this.#urgent.delete(stream);
      const { syn, update } = stream.urgent();
      if (syn || update > 0) message.signal(stream.id, syn ? Flag.SYN : 0, update);
    }
    // Each stream that has its turn goes to the end of the row.
    for (const stream of this.#ready) {
      if (this.#urgent.has(stream)) continue;
      if (message.room < HEADER_LENGTH + SMALLEST_CUT) break;
      this.#ready.delete(stream);
      this.#turn(stream, message);
    }
    return message.bytes;
  }

  #turn(stream: YamuxStream, message: Message): void {
    const piece = stream.next(message.room - HEADER_LENGTH);
    if (piece !== undefined) {
      const last = stream.finDue;
      message.data(stream.id, last ? Flag.FIN : 0, piece);
      if (last) stream.finSent();
      else if (stream.sendable) this.#ready.add(stream);
      // A writer may have waited for room.
      stream.onchange();
    } else if (stream.finDue) {
      message.signal(stream.id, Flag.FIN, 0);
      stream.finSent();
    }
  }

  readonly #host = {
    wants: (stream: YamuxStream, urgent: boolean) => this.#wants(stream, urgent),
    mayGrow: (bytes: number) => {
      if (this.#growth + bytes > MAX_GROWTH) return false;
      this.#growth += bytes;
      return true;
    },
    over: (stream: YamuxStream, told: boolean) => this.#over(stream, told),
  };

  #wants(stream: YamuxStream, urgent: boolean): void {
    if (this.#end !== undefined || this.#streams.get(stream.id) !== stream) return;
    (urgent ? this.#urgent : this.#ready).add(stream);
    this.options.onwants?.();
  }

  /** Forgets a stream. What may still be on its way to it counts as owed. */
  #over(stream: YamuxStream, told: boolean): void {
    if (!this.#streams.delete(stream.id)) return;
    this.#growth -= stream.grown;
    this.#urgent.delete(stream);
    this.#ready.delete(stream);
    if (!told) return;
    this.#debt += stream.window;
    // A stream of which nothing has gone out was never there.
    if (stream.announced) this.#say({ type: SIGNAL, flags: Flag.RST, stream: stream.id, length: 0 });
  }

  #say(header: Header): void {
    this.#own.push(writeHeader(header));
    this.options.onwants?.();
  }

  /** What the other end makes this end say. @throws Violation */
  #answer(header: Header): void {
    if (this.#answers.length >= MAX_ANSWERS) throw new Violation("more questions than can be answered");
    this.#answers.push(writeHeader(header));
    this.options.onwants?.();
  }

  #header(header: Header): void {
    this.#receiving = undefined;
    if (header.type === FrameType.PING) this.#pinged(header);
    else if (header.type !== FrameType.GO_AWAY) this.#ofStream(header);
  }

  #pinged({ flags, length }: Header): void {
    if (flags === Flag.SYN) {
      this.#answer({ type: FrameType.PING, flags: Flag.ACK, stream: 0, length });
      return;
    }
    const sent = this.#pings.get(length);
    if (sent === undefined) throw new Violation("an answer to a ping that nobody sent");
    this.#pings.delete(length);
    this.#rtt = Math.max(0, this.#now - sent);
  }

  #ofStream(header: Header): void {
    const { type, flags, stream: id, length } = header;
    if (id % 2 === 0) {
      this.#foreign(header);
      return;
    }
    if (id >= this.#nextId) throw new Violation("a frame for a stream that nobody opened");
    if ((flags & Flag.SYN) !== 0) throw new Violation("a stream that is opened by the wrong end");
    const stream = this.#streams.get(id);
    if (type === FrameType.WINDOW_UPDATE) {
      stream?.widen(length);
    } else if (stream === undefined) {
      this.#owe(length);
    } else {
      stream.expect(length);
      this.#receiving = stream;
    }
  }

  /** A stream of the other end: it is reset, and what comes for it until it knows is left. */
  #foreign({ type, flags, stream: id, length }: Header): void {
    if ((flags & Flag.SYN) !== 0) {
      if (id <= this.#lastForeign) throw new Violation("a stream that is opened twice");
      this.#lastForeign = id;
      this.#debt += START_WINDOW;
      this.#answer({ type: SIGNAL, flags: Flag.RST, stream: id, length: 0 });
    } else if (id > this.#lastForeign) {
      throw new Violation("a frame for a stream that nobody opened");
    }
    if (type === FrameType.DATA) this.#owe(length);
  }

  #owe(length: number): void {
    if (length > this.#debt) throw new Violation("data for a stream that is over");
    this.#debt -= length;
  }

  #frameEnd(header: Header): void {
    this.#receiving = undefined;
    if (header.type === FrameType.GO_AWAY) this.#finish({ kind: "away", code: header.length }, undefined);
    if (header.stream % 2 === 0) return;
    const stream = this.#streams.get(header.stream);
    if ((header.flags & Flag.RST) !== 0) stream?.broken("reset");
    else if ((header.flags & Flag.FIN) !== 0) stream?.ended();
  }

  #finish(end: SessionEnd, code: number | undefined): void {
    if (this.#end !== undefined) return;
    this.#end = end;
    this.#own = [];
    this.#answers = [];
    this.#urgent.clear();
    this.#ready.clear();
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    if (code !== undefined) this.#say({ type: FrameType.GO_AWAY, flags: 0, stream: 0, length: code });
    this.options.onend?.(end);
    for (const stream of streams) stream.broken("lost");
  }
}

/** A message that is being put together. */
class Message {
  readonly #parts: Uint8Array[] = [];
  #length = 0;

  get room(): number {
    return MAX_MESSAGE - this.#length;
  }

  /** Adds as many of the frames as there is room for, and says how many. */
  takeSome(frames: readonly Uint8Array[]): number {
    const count = Math.min(frames.length, Math.floor(this.room / HEADER_LENGTH));
    for (const frame of frames.slice(0, count)) this.#add(frame);
    return count;
  }

  signal(stream: number, flags: number, length: number): void {
    this.#add(writeHeader({ type: SIGNAL, flags, stream, length }));
  }

  data(stream: number, flags: number, payload: Uint8Array): void {
    this.#add(writeHeader({ type: FrameType.DATA, flags, stream, length: payload.length }));
    this.#add(payload);
  }

  #add(part: Uint8Array): void {
    this.#parts.push(part);
    this.#length += part.length;
  }

  get bytes(): Uint8Array<ArrayBuffer> | undefined {
    if (this.#length === 0) return undefined;
    const whole = new Uint8Array(this.#length);
    let at = 0;
    for (const part of this.#parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }
}
