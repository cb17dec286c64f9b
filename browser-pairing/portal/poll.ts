// Asking again and again, politely: only while the page is seen, slower while the relay does not answer.

/** Between two questions that were answered. */
const BASE_MS = 3000;
/** The longest wait after failures: a relay that restarts is found again within this time. */
const MAX_MS = 60_000;

/** The wait before the next question, after so many failures in a row; `random` in [0, 1) spreads the browsers. */
export function nextDelay(failures: number, random: number): number {
  if (failures === 0) return BASE_MS;
  const full = Math.min(BASE_MS * 2 ** Math.min(failures, 10), MAX_MS);
  return full * (0.75 + random / 4);
}

export interface Poll {
  /** Asks at once. */
  now(): void;
  stop(): void;
}

/** Runs `ask` until stopped. It throws to say that it failed; its signal ends when the poll does. */
export function poll(ask: (signal: AbortSignal) => Promise<void>): Poll {
  const ended = new AbortController();
  let failures = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let asking = false;

  const run = async () => {
    clearTimeout(timer);
    if (asking || ended.signal.aborted || document.hidden) return;
    asking = true;
    try {
      await ask(ended.signal);
      failures = 0;
    } catch {
      failures += 1;
    }
    asking = false;
    if (!ended.signal.aborted) timer = setTimeout(() => void run(), nextDelay(failures, Math.random()));
  };
  const seen = () => {
    if (!document.hidden) void run();
  };
  document.addEventListener("visibilitychange", seen, { signal: ended.signal });
  void run();
  return {
    now: () => void run(),
    stop: () => {
      ended.abort();
      clearTimeout(timer);
    },
  };
}
