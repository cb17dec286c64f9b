/**
 * How long a session may still be used: pure, in seconds since it was asked for. Time is the later of this
 * browser's two clocks, because the steady one may stand still while a machine sleeps, and the other can be
 * set back.
 */

/** A signing session lives so long after its last use, and in all (PROTOCOL.md section 4.1). */
const IDLE_LIFE = 3600;
const WHOLE_LIFE = 24 * 3600;
/** It is given up so long before the agent ends it: what comes too late may not be repeated. */
const MARGIN = 60;
/** The next one is made so long before that, while this one still serves. Also for short-lived ones: a tenth. */
const AHEAD = 300;

/** Seconds that have passed, whatever happens to either clock. */
export class Stopwatch {
  readonly #wall = Date.now();
  readonly #steady = performance.now();

  get seconds(): number {
    return Math.max(Date.now() - this.#wall, performance.now() - this.#steady) / 1000;
  }
}

/** What is to be done with a session. */
export type Age = "fresh" | "renew" | "over";

/** The life of one session. */
export class Lifetime {
  #end: number;

  private constructor(
    end: number,
    readonly last: number,
    readonly prolongs: boolean,
  ) {
    this.#end = end;
  }

  /** A signed session: use prolongs it. `idle` is what the agent said at first. */
  static signed(idle: number): Lifetime {
    return new Lifetime(Math.min(idle, IDLE_LIFE), WHOLE_LIFE, true);
  }

  /** A sealed session: new exchanges until it is to be replaced. */
  static sealed(rekey: number): Lifetime {
    return new Lifetime(rekey, WHOLE_LIFE, false);
  }

  age(now: number): Age {
    const end = Math.min(this.#end, this.last);
    const margin = Math.min(MARGIN, end / 10);
    if (now >= end - margin) return "over";
    return now >= end - margin - Math.min(AHEAD, end / 10) ? "renew" : "fresh";
  }

  /** The agent has verified something that was sent at that time. */
  used(sent: number): void {
    if (this.prolongs) this.#end = Math.max(this.#end, sent + IDLE_LIFE);
  }
}
