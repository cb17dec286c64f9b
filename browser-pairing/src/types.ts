/** What callers hand in and get back. */

/** How to reach a relay, and as whom. */
export interface RelayAccess {
  /** Where the relay is, `https://relay.example`. Without credentials, query or fragment. */
  url: string;
  /**
   * Gives the Bearer token of the web app's user. It is asked before each browser session is made
   * (about once a day) and once more when the relay refuses the token: give a fresh one then.
   */
  token?: () => string | Promise<string>;
  /** For pages that the relay itself serves: the sign-in cookie goes along instead of a token. */
  cookie?: boolean;
}

/**
 * What protects everything between this browser and the host. `sealed`: the relay can neither read nor change it.
 * `signed`: the relay can read but not change it; for hosts whose program cannot do more.
 */
export type Protection = "sealed" | "signed";

/** What {@link openHost} needs. */
export interface OpenOptions {
  relay: RelayAccess;
  /** The host's id, a hyphenated UUID in either case. */
  hostId: string;
  /**
   * `sealed` unless you say otherwise. It is never lowered: with a host that cannot seal, requests fail with
   * `agent_outdated`.
   */
  protection?: Protection;
  /**
   * False leaves everything to the relay. Otherwise, after the first request that succeeded, a direct connection
   * to the host is made where that is possible, and used while it works; what passes is protected in the same
   * way. It is never waited for.
   */
  webRtc?: boolean;
}

/** What {@link pairHost} needs. */
export interface PairOptions extends OpenOptions {
  /** The six digits; spaces and hyphens between them do not matter. */
  code: string;
  /** What the host's list shall call this browser, 1 to 100 characters. Default: made from the user agent. */
  name?: string;
  /** Ends the attempt. Once the proof is on its way the code is used up, whatever happens. */
  signal?: AbortSignal;
}

/** A pairing that this browser keeps. */
export interface PairedHostInfo {
  hostId: string;
  /** The relay over which it was last opened or paired. */
  relayUrl: string;
  /** This browser's own name for the host; at first the one that the agent gave. */
  name: string;
  /** Four groups of four hex digits. The agent shows the same. */
  fingerprint: string;
  /** The id under which the agent knows this browser. */
  clientId: string;
  /** Unix seconds, by this browser's clock. */
  pairedAt: number;
  /** Unix seconds, by this browser's clock; to about an hour. */
  lastUsedAt: number;
}

/** A paired browser, as the agent lists it. */
export interface PairedBrowser {
  id: string;
  name: string;
  browser: string;
  os: string;
  device: string;
  fingerprint: string;
  /** Unix seconds. */
  createdAt: number;
  /** Unix seconds; undefined when it was never used. */
  lastUsedAt: number | undefined;
  /** True for the browser that asks. */
  current: boolean;
}

/** The host's list of paired browsers. */
export interface PairedBrowsers {
  /** @throws RelayError */
  list(): Promise<PairedBrowser[]>;
  /** Gives a paired browser another name, 1 to 100 characters. @throws RelayError `not_found` */
  rename(id: string, name: string): Promise<PairedBrowser>;
  /** Ends a pairing; the browser's sessions and streams end at once. @throws RelayError `not_found` */
  revoke(id: string): Promise<void>;
}

/** What {@link PairedHost.eventSource} takes beside the path. */
export interface EventSourceOptions {
  /** Headers for the local server, beside `accept` and `last-event-id`. */
  headers?: HeadersInit;
}

/** A code for the user's next device. */
export interface DeviceCode {
  /** Six digits. */
  code: string;
  /** Unix seconds, by the agent's clock. */
  expiresAt: number;
}

/** Which way requests to a host take. */
export interface PathReport {
  /** Through the relay, or directly to the host (`webrtc`). Both are as safe; the direct one is faster. */
  kind: "relay" | "webrtc";
  /**
   * How a direct way was found: in the same network (`host`), through routers (`srflx`, `prflx`), or over a TURN
   * server (`relay`). Absent until the browser has told.
   */
  candidate?: "host" | "srflx" | "prflx" | "relay";
  /** The last round trip of a direct way, in milliseconds. */
  rtt?: number;
  /** Bytes that went over direct connections to this host since it was opened, protection and framing included. */
  sent: number;
  received: number;
}
