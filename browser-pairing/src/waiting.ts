/** Waiting that ends: with the caller's signal, or when the SDK's own requests take too long. */
import { RelayError } from "./errors.js";

/** How long the SDK waits for an answer to a request of its own (not the caller's), in milliseconds. */
export const OWN_REQUEST_TIMEOUT = 30_000;

/** The promise, or the signal's reason as soon as it aborts. What is promised goes on by itself. */
export async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  signal.throwIfAborted();
  let stop = () => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** A signal that aborts with the first of those that are there. */
export function anySignal(...signals: (AbortSignal | undefined)[]): AbortSignal {
  return AbortSignal.any(signals.filter((signal) => signal !== undefined));
}

/** Whether this is what {@link AbortSignal.timeout} aborts with. */
function isTimeout(error: unknown): boolean {
  return error instanceof DOMException && error.name === "TimeoutError";
}

/** Runs one of the SDK's own requests with its time-out. @throws RelayError `timeout` */
export async function timed<T>(
  signal: AbortSignal | undefined,
  run: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const timeout = AbortSignal.timeout(OWN_REQUEST_TIMEOUT);
  try {
    return await run(anySignal(signal, timeout));
  } catch (error) {
    if (timeout.aborted && isTimeout(error)) {
      throw new RelayError("timeout", { detail: "The host or the relay did not answer in time. Try again." });
    }
    throw error;
  }
}

/** `setTimeout` as a promise that a signal ends early. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}
