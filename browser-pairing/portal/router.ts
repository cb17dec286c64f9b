// Which page an address means. Pages live behind the hash, so that no server log sees them. Two
// addresses carry something that must not stay in the bar or in the history: the one-time link's token
// and a device's user code. `parse` hands them out once, and the app replaces the address at once.

export type Route =
  | { readonly page: "hosts" }
  | { readonly page: "sign-in"; readonly failed?: SsoFailure }
  | { readonly page: "link"; readonly token: string }
  | { readonly page: "pair"; readonly hostId: string }
  | { readonly page: "host"; readonly hostId: string }
  | { readonly page: "device"; readonly userCode: string }
  | { readonly page: "sessions" }
  | { readonly page: "account" }
  | { readonly page: "missing" };

/** What became of somebody who came back from the provider and did not get in. */
const SSO_FAILURES = ["expired", "refused", "unknown", "taken", "unavailable", "busy"] as const;
export type SsoFailure = (typeof SSO_FAILURES)[number];

/** A page that somebody may want to come back to. */
export type Place = Extract<Route, { page: "pair" | "host" | "device" | "sessions" | "account" }>;

export interface Parsed {
  readonly route: Route;
  /** The address to show instead, when the one given must not stay. */
  readonly replaceBy?: string;
}

/** Longer tokens are no links of ours. */
const MAX_TOKEN = 4096;
/** A user code is 8 letters; a person may add hyphens and spaces. */
const MAX_USER_CODE = 32;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

function decode(part: string): string | undefined {
  try {
    return decodeURIComponent(part);
  } catch {
    return undefined;
  }
}

/** Reads an address: its path, its query with `?` or nothing, its hash with `#` or nothing. */
export function parse(pathname: string, search: string, hash: string): Parsed {
  if (pathname === "/device") {
    const userCode = (new URLSearchParams(search).get("user_code") ?? "").slice(0, MAX_USER_CODE);
    return { route: { page: "device", userCode }, replaceBy: "/#/device" };
  }
  const path = hash.replace(/^#\/?/, "");
  const [name = "", rest = "", ...more] = path.split("/");
  if (name === "link") {
    const token = more.length === 0 ? decode(rest) : undefined;
    const good = token !== undefined && token !== "" && token.length <= MAX_TOKEN;
    return { route: good ? { page: "link", token } : { page: "missing" }, replaceBy: "/#/sign-in" };
  }
  if (name === "sso") {
    const failed = more.length === 0 ? SSO_FAILURES.find((one) => one === rest) : undefined;
    const route: Route = failed === undefined ? { page: "missing" } : { page: "sign-in", failed };
    return { route, replaceBy: "/#/sign-in" };
  }
  if ((name === "pair" || name === "host") && more.length === 0 && UUID.test(rest)) {
    return { route: { page: name, hostId: rest.toLowerCase() } };
  }
  if (rest === "" && more.length === 0) {
    switch (name) {
      case "":
        return { route: { page: "hosts" } };
      case "device":
        return { route: { page: "device", userCode: "" } };
      case "sign-in":
      case "sessions":
      case "account":
        return { route: { page: name } };
    }
  }
  return { route: { page: "missing" } };
}

/** Whether this is such a page. */
export function isPlace(route: Route): route is Place {
  return ["pair", "host", "device", "sessions", "account"].includes(route.page);
}

/** Its address as it is shown: a device's code is not part of it. */
export function addressOf(place: Place): string {
  return place.page === "pair" || place.page === "host" ? links[place.page](place.hostId) : links[place.page];
}

export const links = {
  hosts: "#/",
  sessions: "#/sessions",
  account: "#/account",
  device: "#/device",
  signIn: "#/sign-in",
  host: (id: string) => `#/host/${id}`,
  pair: (id: string) => `#/pair/${id}`,
} as const;
