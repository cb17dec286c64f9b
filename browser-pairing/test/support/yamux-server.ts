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

/** A frame's bytes. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  length: number,
  payload = new Uint8Array(),
): Uint8Array<ArrayBuffer> {
  const bytes = Buffer.alloc(12 + payload.length);
  bytes.writeUInt8(type, 1);
  bytes.writeUInt16BE(flags, 2);
  bytes.writeUInt32BE(stream, 4);
  bytes.writeUInt32BE(length, 8);
  bytes.set(payload, 12);
  return new Uint8Array(bytes);
}

/** All frames in whole messages. */
export function frames(...messages: Uint8Array[]): Frame[] {
  const bytes = Buffer.concat(messages);
  const found: Frame[] = [];
  for (let at = 0; at < bytes.length; ) {
    const [type, flags] = [bytes.readUInt8(at + 1), bytes.readUInt16BE(at + 2)];
    const [stream, length] = [bytes.readUInt32BE(at + 4), bytes.readUInt32BE(at + 8)];
    if (bytes.readUInt8(at) !== 0) throw new Error("another version");
    const size = type === 0 ? length : 0;
    const payload = new Uint8Array(bytes.subarray(at + 12, at + 12 + size));
    if (payload.length !== size) throw new Error("a frame that is cut");
    found.push({ type, flags, stream, length, payload });
    at += 12 + size;
  }
  return found;
}

/** One stream, seen from the server. */
export class ServerStream {
  received = Buffer.alloc(0);
  /** FIN has come. */
  finished = false;
  /** RST has come. */
  broken = false;
  /** What the client may still send; not refilled while `paused`. */
  window = WINDOW;
  paused = false;
  /** What the server may still send. */
  room = WINDOW;
  ondata: () => void = () => {};
  #queue = Buffer.alloc(0);
  #ending = false;

  constructor(
    readonly id: number,
    private readonly server: YamuxServer,
  ) {}

  write(bytes: Uint8Array): void {
    this.#queue = Buffer.concat([this.#queue, bytes]);
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
    while (this.#queue.length > 0 && this.room > 0) {
      const piece = this.#queue.subarray(0, Math.min(32_768, this.room));
      this.#queue = this.#queue.subarray(piece.length);
      this.room -= piece.length;
      this.server.send(frame(0, 0, this.id, piece.length, piece));
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
  #held = Buffer.alloc(0);

  constructor(readonly send: (bytes: Uint8Array<ArrayBuffer>) => void) {}

  receive(message: Uint8Array): void {
    if (message.length > 65_536) throw new Error("a message that is too long");
    this.#held = Buffer.concat([this.#held, message]);
    while (this.#held.length >= 12) {
      const size = this.#held.readUInt8(1) === 0 ? this.#held.readUInt32BE(8) : 0;
      if (this.#held.length < 12 + size) return;
      const [one] = frames(this.#held.subarray(0, 12 + size));
      this.#held = this.#held.subarray(12 + size);
      if (one !== undefined && !this.silent) this.#frame(one);
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
      stream.received = Buffer.concat([stream.received, payload]);
      if (!stream.paused) stream.refill();
    }
    if (flags & FIN) stream.finished = true;
    if (flags & RST) {
      stream.broken = true;
      this.streams.delete(id);
    }
    stream.ondata();
  }
}
