/**
 * How much may wait inside the data channel. What is there goes out before anything new, so on a slow line it
 * would hold up every small request and every ping; on a fast one too little leaves the line idle. So the mark
 * follows the time that it takes to drain.
 */

/** Where the mark may be, and where it begins, in bytes. */
export const LOWEST = 128 * 1024;
export const HIGHEST = 1024 * 1024;
const START = 256 * 1024;
/** Draining faster than this wants more, slower less, in milliseconds. */
const FAST = 20;
const SLOW = 80;

export class Gate {
  #high = START;
  #fullAt: number | undefined;

  /** Nothing is added while so much waits. */
  get high(): number {
    return this.#high;
  }

  /** Adding goes on when so much is left. */
  get low(): number {
    return this.#high / 4;
  }

  /** The mark has been reached. */
  full(now: number): void {
    this.#fullAt ??= now;
  }

  /** What waited has gone down to {@link low}. */
  drained(now: number): void {
    if (this.#fullAt === undefined) return;
    const took = now - this.#fullAt;
    this.#fullAt = undefined;
    if (took < FAST) this.#high = Math.min(HIGHEST, this.#high * 2);
    else if (took > SLOW) this.#high = Math.max(LOWEST, this.#high / 2);
  }
}
