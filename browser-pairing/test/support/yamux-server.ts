/**
 * The other end of a yamux session, written for tests and from the specification alone: it shares nothing with
 * the client that it tests. Byte arrays in, byte arrays out; it can also say what no honest server would.
 */

/** A frame as it came. */
export interface Frame {
  type: number;
  flags: number;
  stream: number;
  length: number;
  payload: Uint8Array;
}

export const SYN = 1;
export const ACK = 2;
export const FIN = 4;
export const RST = 8;
const WINDOW = 256 * 1024;

function joined(pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** A frame's bytes. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  length: number,
  payload = new Uint8Array(),
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(12 + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(1, type);
  view.setUint16(2, flags);
  view.setUint32(4, stream);
  view.setUint32(8, length);
  bytes.set(payload, 12);
  return bytes;
}

/** The first frame and how long it is; undefined when not all of it is there. */
function firstFrame(bytes: Uint8Array): { one: Frame; size: number } | undefined {
  if (bytes.length < 12) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint8(0) !== 0) throw new Error("another version");
  const [type, flags, stream, length] = [
    view.getUint8(1),
    view.getUint16(2),
    view.getUint32(4),
    view.getUint32(8),
  ];
  const size = 12 + (type === 0 ? length : 0);
  if (bytes.length < size) return undefined;
  return { one: { type, flags, stream, length, payload: bytes.slice(12, size) }, size };
}

/** All frames in whole messages. */
export function frames(...messages: Uint8Array[]): Frame[] {
  const found: Frame[] = [];
  for (let rest: Uint8Array = joined(messages); rest.length > 0; ) {
    const next = firstFrame(rest);
    if (next === undefined) throw new Error("a frame that is cut");
    found.push(next.one);
    rest = rest.subarray(next.size);
  }
  return found;
}

/** One stream, seen from the server. */
export class ServerStream {
  /** All that came. */
  readonly pieces: Uint8Array[] = [];
  /** FIN has come. */
  finished = false;
  /** RST has come. */
  broken = false;
  /** What the client may still send; not refilled while `paused`. */
  window = WINDOW;
  paused = false;
  /** What the server may still send. */
  room = WINDOW;
  /** Called for every frame, with what it carries. */
  ondata: (payload: Uint8Array) => void = () => {};
  #queue: Uint8Array[] = [];
  #ending = false;

  constructor(
    readonly id: number,
    private readonly server: YamuxServer,
  ) {}

  get received(): Uint8Array<ArrayBuffer> {
    return joined(this.pieces);
  }

  write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += 32_768) this.#queue.push(bytes.subarray(at, at + 32_768));
    this.flush();
  }

  end(): void {
    this.#ending = true;
    this.flush();
  }

  reset(): void {
    this.server.send(frame(1, RST, this.id, 0));
    this.server.streams.delete(this.id);
  }

  flush(): void {
    for (let next = this.#queue[0]; next !== undefined && this.room > 0; next = this.#queue[0]) {
      const piece = next.subarray(0, this.room);
      if (piece.length < next.length) this.#queue[0] = next.subarray(piece.length);
      else this.#queue.shift();
      this.room -= piece.length;
      this.server.send(frame(0, 0, this.id, piece.length, piece.slice()));
    }
    if (this.#ending && this.#queue.length === 0) {
      this.#ending = false;
      this.server.send(frame(1, FIN, this.id, 0));
    }
  }

  /** Gives the client its window back. */
  refill(): void {
    if (this.window >= WINDOW / 2) return;
    this.server.send(frame(1, 0, this.id, WINDOW - this.window));
    this.window = WINDOW;
  }
}

/** A server that does what the specification says, unless a test makes it do something else. */
export class YamuxServer {
  readonly streams = new Map<number, ServerStream>();
  onstream: (stream: ServerStream) => void = () => {};
  away: number | undefined;
  /** Does not answer, not even to pings. */
  silent = false;
  pings = 0;
  #held = new Uint8Array();

  constructor(readonly send: (bytes: Uint8Array<ArrayBuffer>) => void) {}

  receive(message: Uint8Array): void {
    if (message.length > 65_536) throw new Error("a message that is too long");
    this.#held = this.#held.length === 0 ? message.slice() : joined([this.#held, message]);
    for (let next = firstFrame(this.#held); next !== undefined; next = firstFrame(this.#held)) {
      this.#held = this.#held.subarray(next.size);
      if (!this.silent) this.#frame(next.one);
    }
  }

  #frame({ type, flags, stream: id, length, payload }: Frame): void {
    if (type === 2) {
      this.pings += 1;
      if (flags === SYN) this.send(frame(2, ACK, 0, length));
      return;
    }
    if (type === 3) {
      this.away = length;
      return;
    }
    if (flags & SYN) {
      if (this.streams.has(id) || id % 2 === 0) throw new Error(`stream ${id} is opened wrongly`);
      const opened = new ServerStream(id, this);
      this.streams.set(id, opened);
      this.send(frame(1, ACK, id, 0));
      this.onstream(opened);
    }
    const stream = this.streams.get(id);
    if (stream === undefined) return;
    if (type === 1) {
      stream.room += length;
      stream.flush();
    } else {
      if (length > stream.window || length > 32_768)
        throw new Error("more than the window or a frame allows");
      stream.window -= length;
      if (payload.length > 0) stream.pieces.push(payload);
      if (!stream.paused) stream.refill();
    }
    if (flags & FIN) stream.finished = true;
    if (flags & RST) {
      stream.broken = true;
      this.streams.delete(id);
    }
    stream.ondata(payload);
  }
}
