/**
 * Bytes that wait, in their order. What it holds costs at most twice what it counts: the other end decides how
 * small the pieces are, and a piece of one byte must not keep the 64 KiB alive that it came in.
 */

/** Pieces smaller than this are copied together, in bytes. */
const BLOCK = 16 * 1024;

/** A queue of bytes. */
export class ByteQueue {
  #pieces: Uint8Array<ArrayBuffer>[] = [];
  /** The last piece's block when more may be copied behind it. */
  #open: ArrayBuffer | undefined;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Keeps the bytes; a large piece as it is, so its owner must not change it any more. */
  push(bytes: Uint8Array<ArrayBuffer>): void {
    this.#length += bytes.length;
    if (bytes.length >= BLOCK) {
      this.#open = undefined;
      this.#pieces.push(2 * bytes.length >= bytes.buffer.byteLength ? bytes : bytes.slice());
      return;
    }
    for (let rest = bytes; rest.length > 0; ) rest = rest.subarray(this.#copy(rest));
  }

  /** Copies as much as the open block takes. */
  #copy(bytes: Uint8Array<ArrayBuffer>): number {
    let last = this.#pieces.at(-1);
    if (this.#open === undefined || last === undefined) {
      this.#open = new ArrayBuffer(BLOCK);
      last = new Uint8Array(this.#open, 0, 0);
      this.#pieces.push(last);
    }
    const end = last.byteOffset + last.length;
    const part = bytes.subarray(0, BLOCK - end);
    new Uint8Array(this.#open, end, part.length).set(part);
    this.#pieces[this.#pieces.length - 1] = new Uint8Array(
      this.#open,
      last.byteOffset,
      last.length + part.length,
    );
    if (end + part.length === BLOCK) this.#open = undefined;
    return part.length;
  }

  /** The first bytes, at least one and at most `most`; undefined when there are none. */
  take(most: number): Uint8Array<ArrayBuffer> | undefined {
    const first = this.#pieces[0];
    if (first === undefined || most <= 0) return undefined;
    const taken = first.subarray(0, most);
    if (taken.length < first.length) {
      this.#pieces[0] = first.subarray(taken.length);
    } else {
      this.#pieces.shift();
      if (this.#pieces.length === 0) this.#open = undefined;
    }
    this.#length -= taken.length;
    return taken;
  }

  clear(): void {
    this.#pieces = [];
    this.#open = undefined;
    this.#length = 0;
  }
}
