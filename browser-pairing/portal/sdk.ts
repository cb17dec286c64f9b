// The seam between the pages and the SDK: what the pages use of it, and no more. Tests put a stand-in
// here; everybody else gets the SDK itself, with the sign-in cookie of this origin.

import { openHost, type PairedHost, type PairedHostInfo, pairedHosts, pairHost } from "../src/index.js";

export type Paired = Pick<
  PairedHost,
  | "hostId"
  | "name"
  | "fingerprint"
  | "path"
  | "protection"
  | "clientId"
  | "fetch"
  | "webSocket"
  | "eventSource"
  | "browsers"
  | "nextDeviceCode"
  | "forget"
  | "close"
  | "addEventListener"
>;

export interface Sdk {
  /** The pairings that this browser keeps, of every relay. */
  all(): Promise<PairedHostInfo[]>;
  open(hostId: string): Promise<Paired | undefined>;
  pair(hostId: string, code: string, name: string, signal: AbortSignal): Promise<Paired>;
}

/** The SDK for the relay that served this page. */
export function relaySdk(origin: string): Sdk {
  const relay = { url: origin, cookie: true };
  return {
    all: () => pairedHosts(),
    open: (hostId) => openHost({ relay, hostId }),
    pair: (hostId, code, name, signal) => pairHost({ relay, hostId, code, name, signal }),
  };
}
