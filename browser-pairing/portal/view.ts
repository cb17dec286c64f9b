// What the app and its pages agree on.

import type { Api, Me } from "./api.js";
import type { Sdk } from "./sdk.js";

export interface Context {
  readonly api: Api;
  readonly sdk: Sdk;
  /** Says something to screen readers that is not where the focus is. */
  announce(text: string): void;
  /** Goes to a page of the portal. */
  go(hash: string): void;
  /** Asks the relay anew who is signed in. */
  renew(): Promise<void>;
  /** The same, and shows the page for it. */
  reload(): Promise<void>;
}

/** What pages behind the sign-in get. */
export interface SignedIn extends Context {
  readonly me: Me;
}

export interface View {
  /** The document's title; the page's h1 says the same or more. */
  readonly title: string;
  readonly element: HTMLElement;
  /** Ends timers, polls and connections of the page. */
  readonly stop?: () => void;
  /** Puts the focus where typing begins; without it the heading gets it. */
  readonly focus?: () => void;
}
