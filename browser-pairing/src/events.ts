/** Events in the shapes that pages know, also where the platform lacks their classes. */

/** An `error` event that says what happened, in its `error`. */
export function errorEvent(error: unknown): Event {
  return Object.assign(new Event("error"), { error });
}

/** A `close` event. */
export function closeEvent(code: number, reason: string, wasClean: boolean): Event {
  if (typeof CloseEvent === "function") return new CloseEvent("close", { code, reason, wasClean });
  return Object.assign(new Event("close"), { code, reason, wasClean });
}

/** Calls `target.on…` for each of these events, as the platform's own objects do. */
export function callHandlers(target: EventTarget, types: readonly string[]): void {
  for (const type of types) {
    target.addEventListener(type, (event) => {
      const handler = (target as unknown as Record<string, unknown>)[`on${type}`];
      if (typeof handler === "function") handler.call(target, event);
    });
  }
}
