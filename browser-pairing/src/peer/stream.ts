/**
 * One yamux stream, seen from the end that opened it: what waits to be sent, what has come and not been read, and
 * the two windows. It neither sends nor waits; {@link Yamux} moves its bytes.
 */
import { ByteQueue } from "./bytes.js";
import { MAX_FRAME, START_WINDOW, Violation } from "./frames.js";

/** What a stream's owner may queue before it should wait, in bytes: two frames, so that none waits for the next. */
export const SEND_QUEUE = 2 * MAX_FRAME;
/** What a window grows to for a reader that keeps up: 20 MB/s at 50 ms. */
export const FULL_WINDOW = 1024 * 1024;
const MAX_U32 = 0xffff_ffff;

/**
 * Why nothing more comes: `finished` by the other end in order, `reset` by it, `dropped` by this end, or `lost`
 * with the session.
 */
export type StreamEnd = "finished" | "reset" | "dropped" | "lost";

/** What a stream asks of its session. */
export interface StreamHost {
  /** The stream has something to send now, or something small that should not wait its turn. */
  wants(stream: YamuxStream, urgent: boolean): void;
  /** True when the receiving window may grow by so much. */
  mayGrow(bytes: number): boolean;
  /** The stream is over at this end; the other one has to be `told` or knows. */
  over(stream: YamuxStream, told: boolean): void;
}

export class YamuxStream {
  /** Called when there may be something to read, room to write, or an end. */
  onchange: () => void = () => {};

  readonly #inbox = new ByteQueue();
  readonly #outbox = new ByteQueue();
  #sendWindow = START_WINDOW;
  /** What the other end may still send. */
  #window = START_WINDOW;
  /** What the window is filled up to. */
  #target = START_WINDOW;
  #end: StreamEnd | undefined;
  #touched = false;
  #finishing = false;
  #finished = false;
  #synSent = false;
  /** Nothing may be sent any more. */
  #dead = false;

  /** @internal {@link Yamux.open} makes streams. */
  constructor(
    readonly id: number,
    private readonly host: StreamHost,
    private readonly fullWindow: number = FULL_WINDOW,
  ) {}

  /** Why nothing more will come, once that is known; what came before may still be read. */
  get end(): StreamEnd | undefined {
    return this.#end;
  }

  /** Whether any byte has come. */
  get touched(): boolean {
    return this.#touched;
  }

  /** How much may be written before the writer should wait; never negative. */
  get room(): number {
    return Math.max(0, SEND_QUEUE - this.#outbox.length);
  }

  /** What was written and has not left, in bytes. */
  get waiting(): number {
    return this.#outbox.length;
  }

  /** What has come, in its order; undefined when there is nothing now. */
  read(): Uint8Array<ArrayBuffer> | undefined {
    const bytes = this.#inbox.take(Number.POSITIVE_INFINITY);
    if (bytes !== undefined && this.#end === undefined && this.#owed >= this.#target / 2) {
      this.#grow();
      this.host.wants(this, true);
    }
    return bytes;
  }

  /** Queues bytes, which are not to be changed any more. Writers wait for {@link room}. */
  write(bytes: Uint8Array<ArrayBuffer>): void {
    if (this.#finishing || this.#dead) return;
    this.#outbox.push(bytes);
    if (this.#sendWindow > 0) this.host.wants(this, false);
  }

  /** Ends this direction after what was written. */
  finish(): void {
    if (this.#finishing || this.#dead) return;
    this.#finishing = true;
    if (this.#outbox.length === 0) this.host.wants(this, false);
  }

  /** Breaks off both directions, and forgets what waits in either. */
  reset(): void {
    this.#inbox.clear();
    this.stop();
  }

  /** Breaks off, but what has come may still be read. After the other end's end in order that is whole. */
  stop(): void {
    if (this.#dead || this.#isOver) return;
    this.#end ??= "dropped";
    this.#die();
    this.host.over(this, true);
  }

  /** What the other end may have on its way, in bytes. */
  get window(): number {
    return this.#window;
  }

  /** What the window was enlarged by. */
  get grown(): number {
    return this.#target - START_WINDOW;
  }

  /** What has been read and not been given back to the window. */
  get #owed(): number {
    return this.#target - this.#window - this.#inbox.length;
  }

  /** A reader that has taken half a window keeps up: it may have a larger one. */
  #grow(): void {
    const more = this.fullWindow - this.#target;
    if (more > 0 && this.host.mayGrow(more)) this.#target = this.fullWindow;
  }

  #die(): void {
    this.#dead = true;
    this.#outbox.clear();
  }

  get #isOver(): boolean {
    return this.#end === "finished" && this.#finished;
  }

  // What the session calls.

  /** @internal A frame of so many bytes begins. @throws Violation */
  expect(length: number): void {
    if (length === 0) return;
    if (this.#end !== undefined) throw new Violation("data after the end of a stream");
    if (length > this.#window) throw new Violation("more data than the window allows");
    this.#window -= length;
  }

  /** @internal */
  take(bytes: Uint8Array<ArrayBuffer>): void {
    this.#touched = true;
    this.#inbox.push(bytes);
    this.onchange();
  }

  /** @internal @throws Violation */
  widen(by: number): void {
    if (by > MAX_U32 - this.#sendWindow) throw new Violation("a window that grew too large");
    this.#sendWindow += by;
    if (by > 0 && this.#outbox.length > 0) this.host.wants(this, false);
  }

  /** @internal The other end has nothing more to say. @throws Violation when it had said so before */
  ended(): void {
    if (this.#end !== undefined) throw new Violation("a stream that ends twice");
    this.#end = "finished";
    if (this.#isOver) this.host.over(this, false);
    this.onchange();
  }

  /** @internal What had been said to its end before stays said. */
  broken(end: "reset" | "lost"): void {
    if (this.#dead) return;
    this.#end ??= end;
    this.#die();
    if (end === "reset") this.host.over(this, false);
    this.onchange();
  }

  /** @internal Whether the other end has been told of it. */
  get announced(): boolean {
    return this.#synSent;
  }

  /** @internal The small frames that go first: the opening, and what the window is given back. */
  urgent(): { syn: boolean; update: number } {
    const syn = !this.#synSent;
    this.#synSent = true;
    const owed = this.#end === undefined ? this.#owed : 0;
    const update = owed >= this.#target / 2 ? owed : 0;
    this.#window += update;
    return { syn, update };
  }

  /** @internal The next piece of data, at most so much. */
  next(most: number): Uint8Array<ArrayBuffer> | undefined {
    const piece = this.#outbox.take(Math.min(most, MAX_FRAME, this.#sendWindow));
    if (piece === undefined) return undefined;
    this.#sendWindow -= piece.length;
    return piece;
  }

  /** @internal Whether another turn would send something. */
  get sendable(): boolean {
    return (this.#outbox.length > 0 && this.#sendWindow > 0) || this.finDue;
  }

  /** @internal Whether FIN is due. */
  get finDue(): boolean {
    return this.#finishing && !this.#finished && this.#outbox.length === 0;
  }

  /** @internal FIN has gone out. */
  finSent(): void {
    this.#finished = true;
    if (this.#isOver) this.host.over(this, false);
  }
}
