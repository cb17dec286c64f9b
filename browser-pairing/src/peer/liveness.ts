/**
 * Whether a path is alive (PROTOCOL.md section 6.3): what is to be done at a moment, decided from what has been
 * heard until then. Times are milliseconds of one clock that never runs backwards.
 */

/** How often somebody who waits looks, so that a dead path is known soon after it may be called so. */
export const TICK = 250;
/** A ping so often while something waits; the protocol wants one every second at least. */
export const PING_EVERY = 500;
/** Silence that makes a path dead. Pings are so frequent that one has been open for most of it. */
export const DEAD_AFTER = 1500;
/**
 * Looking so late means that this page itself was asleep: silence then says nothing about the path. More than
 * what background tabs wait for their timers.
 */
export const ASLEEP = 2500;

export type Verdict = "rest" | "wait" | "ping" | "dead";

export class Liveness {
  /** Since when silence counts: the last word of the other end, or when somebody began to wait. */
  #since: number | undefined;
  #lastPing: number | undefined;
  #lastLook: number | undefined;

  /** Something came from the other end, or what went out has been acknowledged. */
  heard(now: number): void {
    if (this.#since !== undefined) this.#since = now;
  }

  /** What to do now. `waiting`: something waits for an answer. */
  look(now: number, waiting: boolean): Verdict {
    const slept = this.#lastLook !== undefined && now - this.#lastLook >= ASLEEP;
    this.#lastLook = waiting ? now : undefined;
    if (!waiting || slept) {
      this.#since = undefined;
      this.#lastPing = undefined;
    }
    if (!waiting) return "rest";
    this.#since ??= now;
    if (now - this.#since >= DEAD_AFTER) return "dead";
    if (this.#lastPing !== undefined && now - this.#lastPing < PING_EVERY) return "wait";
    this.#lastPing = now;
    return "ping";
  }
}
