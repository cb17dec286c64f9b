/**
 * Pair a browser with a program on somebody's own machine and reach it through a relay.
 *
 * @packageDocumentation
 */

import type {
  DeviceCode,
  EventSourceOptions,
  PairedBrowsers,
  PairedHostInfo,
  PairOptions,
  RelayAccess,
} from "./types.js";

export { type LocalCode, RelayError } from "./errors.js";
export type * from "./types.js";

export declare function pairHost(options: PairOptions): Promise<PairedHost>;
export declare function pairedHosts(): Promise<PairedHostInfo[]>;
export declare function openHost(options: {
  relay: RelayAccess;
  hostId: string;
}): Promise<PairedHost | undefined>;
export declare class PairedHost extends EventTarget {
  private constructor();
  readonly hostId: string;
  readonly name: string;
  readonly fingerprint: string;
  readonly clientId: string;
  fetch(input: string | URL | Request, init?: RequestInit): Promise<Response>;
  webSocket(path: string | URL, protocols?: string | string[]): WebSocket;
  eventSource(path: string | URL, init?: EventSourceOptions): EventSource;
  browsers(): PairedBrowsers;
  nextDeviceCode(): Promise<DeviceCode>;
  rename(name: string): Promise<void>;
  forget(options?: { revoke?: boolean }): Promise<void>;
  close(): void;
}
