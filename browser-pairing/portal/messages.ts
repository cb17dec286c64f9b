// What a failed call to the relay means to the person in front of it.

import { Refused, Unreachable } from "./api.js";
import { duration } from "./format.js";
import type { SsoFailure } from "./router.js";

const wait = (error: Refused) =>
  error.retryAfter === undefined
    ? "Wait a little, then try again."
    : `Try again in ${duration(error.retryAfter)}.`;

/** A text for an error of the relay's interface; `doing` completes "Could not …". */
export function apiMessage(error: unknown, doing: string): string {
  if (error instanceof Unreachable)
    return `Could not ${doing}: the relay does not answer. Check your connection, then try again.`;
  if (!(error instanceof Refused))
    return `Could not ${doing}: something went wrong in this page. Load it again.`;
  switch (error.code) {
    case "sign_in_failed":
      return "That did not sign you in. Check the address and the password; capital letters count.";
    case "rate_limited":
    case "too_many_connections":
      return `Too many attempts. ${wait(error)}`;
    case "unauthorized":
      return "Your sign-in has ended. Sign in again.";
    case "host_access_denied":
      return `Could not ${doing}: only the owner may do that.`;
    case "not_found":
      return `Could not ${doing}: the relay does not know it any more.`;
    case "csrf_refused":
      return `Could not ${doing}: the relay did not recognise this page as its own. Open the relay at its public address.`;
    case "draining":
    case "store_unavailable":
    case "provider_unavailable":
    case "relays_unavailable":
    case "too_many_streams":
      return `The relay is busy or restarting. ${wait(error)}`;
    default:
      return `Could not ${doing}: the relay refused (${error.code}).${error.detail === "" ? "" : ` ${error.detail}`}`;
  }
}

/** Whether a one-time link was refused for good: to try again is of no use. */
export function linkIsDead(error: unknown): boolean {
  return (
    error instanceof Refused &&
    (error.code === "sign_in_failed" || error.code === "bad_request" || error.code === "not_found")
  );
}

/** A text for what became of a one-time link. */
export function linkMessage(error: unknown): string {
  if (linkIsDead(error)) {
    return "This link no longer works: each one signs in once, within 15 minutes. Ask for a new one.";
  }
  return apiMessage(error, "use the link");
}

/** The same for a new password. */
export function passwordMessage(error: unknown): string {
  if (error instanceof Refused && error.code === "sign_in_failed")
    return "The current password is not right.";
  return apiMessage(error, "change the password");
}

/** A text for somebody who came back from the provider and did not get in. */
export function ssoMessage(failed: SsoFailure): string {
  switch (failed) {
    case "expired":
      return "That took too long, or was begun in another browser. Try again here.";
    case "refused":
      return "The provider did not confirm the sign-in. Try again, and agree to it there.";
    case "unknown":
      return "The provider knows you, but this relay has no account for you. Ask whoever runs it to link one to you.";
    case "taken":
      return "Your address belongs to an account here that is not linked to the provider. Ask whoever runs this relay to link it, or sign in with its password.";
    case "unavailable":
      return "The provider does not answer as it should. Try again in a moment; if it stays so, tell whoever runs this relay.";
    case "busy":
      return "Too many attempts, or the relay is busy. Wait a little, then try again.";
  }
}
