/**
 * Yamux frames (version 0): twelve bytes of header, big-endian, and after those of type DATA a payload.
 *
 * The other end is an agent that may be anybody's, so nothing is taken that the protocol has no meaning for, and
 * a payload is handed on as it comes: all that is ever held here is part of a header.
 */

export const FrameType = { DATA: 0, WINDOW_UPDATE: 1, PING: 2, GO_AWAY: 3 } as const;
export const Flag = { SYN: 1, ACK: 2, FIN: 4, RST: 8 } as const;
const ALL_FLAGS = Flag.SYN | Flag.ACK | Flag.FIN | Flag.RST;

export const HEADER_LENGTH = 12;
/** What both ends may send on a stream before the first update, in bytes. */
export const START_WINDOW = 256 * 1024;
/** What one frame carries, at most (PROTOCOL.md section 6.2). */
export const MAX_FRAME = 32 * 1024;
/** One message of the data channel, at most (PROTOCOL.md section 6.2). */
export const MAX_MESSAGE = 65_536;
/** Why a session ends. */
export const GoAway = { NORMAL: 0, PROTOCOL_ERROR: 1, INTERNAL_ERROR: 2 } as const;

/** A frame without its payload. `length` is the payload's, a window's growth, a ping's number or a reason. */
export interface Header {
  type: number;
  flags: number;
  stream: number;
  length: number;
}

/** The other end does not speak the protocol. It ends the session. */
export class Violation extends Error {
  override readonly name = "Violation";
}

/** Writes a header. */
export function writeHeader({ type, flags, stream, length }: Header): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_LENGTH);
  const view = new DataView(bytes.buffer);
  view.setUint8(1, type);
  view.setUint16(2, flags);
  view.setUint32(4, stream);
  view.setUint32(8, length);
  return bytes;
}

/** Reads twelve bytes. What depends on streams is the session's to check. @throws Violation */
export function readHeader(bytes: Uint8Array): Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_LENGTH);
  const type = view.getUint8(1);
  const flags = view.getUint16(2);
  const stream = view.getUint32(4);
  const length = view.getUint32(8);
  if (view.getUint8(0) !== 0) throw new Violation("a frame of another version");
  if (type > FrameType.GO_AWAY) throw new Violation("a frame of an unknown type");
  if ((flags & ~ALL_FLAGS) !== 0) throw new Violation("a frame with unknown flags");
  const ofStream = type === FrameType.DATA || type === FrameType.WINDOW_UPDATE;
  if (ofStream !== (stream !== 0)) throw new Violation("a frame for the wrong kind of stream");
  if (type === FrameType.DATA && length > MAX_FRAME) throw new Violation("a frame that is too long");
  if (type === FrameType.PING && flags !== Flag.SYN && flags !== Flag.ACK) {
    throw new Violation("a ping that neither asks nor answers");
  }
  if (type === FrameType.GO_AWAY && (flags !== 0 || length > GoAway.INTERNAL_ERROR)) {
    throw new Violation("an unknown reason to end");
  }
  return { type, flags, stream, length };
}

/** What a {@link FrameReader} tells. */
export interface FrameEvents {
  /** A header. After one of DATA its payload follows in pieces, and then `end`. */
  header(header: Header): void;
  payload(bytes: Uint8Array<ArrayBuffer>): void;
  /** All of the frame has come. */
  end(header: Header): void;
}

/** Cuts a byte stream into frames, wherever its pieces begin and end. */
export class FrameReader {
  readonly #partial = new Uint8Array(HEADER_LENGTH);
  #held = 0;
  #frame: Header | undefined;
  #missing = 0;

  constructor(private readonly events: FrameEvents) {}

  /** @throws Violation and then this reader is not to be used any more */
  push(bytes: Uint8Array<ArrayBuffer>): void {
    for (let rest = bytes; rest.length > 0; ) {
      if (this.#frame === undefined) {
        const part = rest.subarray(0, HEADER_LENGTH - this.#held);
        this.#partial.set(part, this.#held);
        this.#held += part.length;
        rest = rest.subarray(part.length);
        if (this.#held === HEADER_LENGTH) this.#begin(readHeader(this.#partial));
      } else {
        const part = rest.subarray(0, this.#missing);
        this.#missing -= part.length;
        rest = rest.subarray(part.length);
        this.events.payload(part);
        if (this.#missing === 0) this.#end(this.#frame);
      }
    }
  }

  #begin(header: Header): void {
    this.#held = 0;
    this.#missing = header.type === FrameType.DATA ? header.length : 0;
    this.#frame = header;
    this.events.header(header);
    if (this.#missing === 0) this.#end(header);
  }

  #end(header: Header): void {
    this.#frame = undefined;
    this.events.end(header);
  }
}
