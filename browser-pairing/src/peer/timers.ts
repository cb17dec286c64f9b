/** Time, as a parameter: tests have their own. */
export interface Timers {
  /** Milliseconds that never run backwards. */
  now(): number;
  /** Runs something once after so many milliseconds; what it answers takes that back. */
  after(milliseconds: number, run: () => void): () => void;
}

export const realTimers: Timers = {
  now: () => performance.now(),
  after: (milliseconds, run) => {
    const timer = setTimeout(run, milliseconds);
    return () => clearTimeout(timer);
  },
};
