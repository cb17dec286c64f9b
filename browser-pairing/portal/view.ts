// What the app and its pages agree on.

import type { Api, Me } from "./api.js";
import type { Child } from "./dom.js";
import type { Sdk } from "./sdk.js";
import type { Tone } from "./ui.js";

export interface Context {
  readonly api: Api;
  readonly sdk: Sdk;
  /** Says something to screen readers that is not where the focus is. */
  announce(text: string): void;
  /** Shows a notice above the page, until the next page. */
  tell(tone: Tone, ...content: Child[]): void;
  /** Somebody leaves to sign in at a provider, and comes back to this page. */
  leaves(): void;
  /** Goes to a page of the portal. */
  go(hash: string): void;
  /**
   * Asks the relay anew who is signed in. False says that it is another account than the page was made
   * for, as when another tab signed in; the page is then already replaced by that account's.
   */
  renew(): Promise<boolean>;
  /** Asks the same and shows the page for it in any case. */
  reload(): Promise<Me | undefined>;
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
