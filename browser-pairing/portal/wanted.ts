// Where somebody wanted to go who leaves to sign in at a provider. It is kept in this tab until they come back
// signed in: an address of the portal, which is read by the router again, and is good for as long as the relay
// takes their coming back for an answer.

import { addressOf, isPlace, type Place, parse, type Route } from "./router.js";

const KEY = "relay-wanted";
const LIFE_MS = 15 * 60_000;

/** What of the tab's storage is used. */
export type Kept = Pick<Storage, "getItem" | "setItem" | "removeItem">;

/** Keeps what is wanted. A page where everybody lands replaces nothing: who tries again still wants the first. */
export function keepWanted(route: Route, now: number, storage: () => Kept): void {
  if (!isPlace(route)) return;
  const code = route.page === "device" ? new URLSearchParams({ user_code: route.userCode }) : undefined;
  const wanted = code === undefined ? `/${addressOf(route)}` : `/device?${code}`;
  try {
    storage().setItem(KEY, `${now + LIFE_MS} ${wanted}`);
  } catch {
    // No room, or none allowed: they land on the first page.
  }
}

/** Gives what was kept, once. */
export function takeWanted(now: number, storage: () => Kept): Place | undefined {
  try {
    const kept = storage().getItem(KEY);
    if (kept === null) return undefined;
    storage().removeItem(KEY);
    const [, until, path] = kept.match(/^(\d{1,15}) (\/.*)$/) ?? [];
    if (path === undefined || Number(until) < now) return undefined;
    const { pathname, search, hash } = new URL(path, "https://portal.invalid");
    const { route } = parse(pathname, search, hash);
    return isPlace(route) ? route : undefined;
  } catch {
    return undefined;
  }
}
