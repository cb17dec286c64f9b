/** When to try again after something that failed. */

/** The first wait and the longest, in milliseconds (PROTOCOL.md section 6.3). */
const FIRST = 2_000;
const LONGEST = 60_000;
/** So much is added at random, so that many browsers do not come at once. */
const JITTER = 0.25;
/** What held for so long did not fail: waits begin anew after it, in milliseconds. */
const STABLE = 30_000;

export class Backoff {
  #failures = 0;

  /** It has failed, or has ended after so many milliseconds. How long to wait now, in milliseconds. */
  failed(lasted = 0, random: () => number = Math.random): number {
    if (lasted >= STABLE) this.#failures = 0;
    const wait = Math.min(LONGEST, FIRST * 2 ** this.#failures);
    this.#failures += 1;
    return wait * (1 + JITTER * random());
  }

  /** What it failed for is over. */
  reset(): void {
    this.#failures = 0;
  }
}
