// What the SDK's errors mean to a person. What the agent signed is told as the host's word; what only
// the relay can have said is told as the relay's, since it may be invented.

import { type Child, h } from "./dom.js";
import { duration } from "./format.js";

/** The parts of the SDK's error that matter here. */
export interface Failure {
  readonly code: string;
  readonly detail: string;
  readonly verified: boolean;
  /** 0 when the SDK itself found the fault. */
  readonly status: number;
  readonly retryAfter?: number;
  /** Pairing failed after the proof had gone out, whatever the failure. */
  readonly codeUsed?: boolean;
}

export function failure(error: unknown): Failure {
  if (error instanceof Error && "code" in error && typeof error.code === "string") {
    const from = error as Error & Partial<Failure> & { code: string };
    const base = {
      code: from.code,
      detail: typeof from.detail === "string" ? from.detail : "",
      verified: from.verified === true,
      status: typeof from.status === "number" ? from.status : 0,
    };
    return {
      ...base,
      ...(typeof from.retryAfter === "number" ? { retryAfter: from.retryAfter } : {}),
      ...(from.codeUsed === true ? { codeUsed: true } : {}),
    };
  }
  if (error instanceof Error && error.name === "AbortError")
    return { code: "aborted", detail: "", verified: false, status: 0 };
  return { code: "internal", detail: "", verified: false, status: 0 };
}

const wait = (of: Failure) =>
  of.retryAfter === undefined ? "Wait a little, then try again." : `Try again in ${duration(of.retryAfter)}.`;

/** Who refused, as far as that is known. */
function refused(of: Failure): string {
  const who = of.verified ? "the host" : "the relay";
  return `${who} refused (${of.code}).${of.detail === "" ? "" : ` ${of.detail}`}`;
}

/** Texts that are the same wherever they happen. */
function common(of: Failure): string | undefined {
  switch (of.code) {
    case "host_offline":
      return "The host is offline. Start the agent on the machine, or check the machine's connection.";
    case "agent_unresponsive":
    case "tunnel_lost":
    case "response_timeout":
    case "timeout":
      return "The host did not answer in time. Its connection to the relay may just be breaking or coming back; try again.";
    case "rate_limited":
    case "too_many_connections":
    case "too_many_streams":
      return `Too many attempts. ${wait(of)}`;
    case "agent_outdated":
      return "The agent on the machine is too old for this page. Update local-agent-client there, then try again.";
    case "handshake_failed":
      return "The host does not hold the keys of this pairing. Forget the host in this browser, then pair again.";
    case "browser_outdated":
      return "This page is too old for the agent on the machine. Load the page again; if that does not help, the relay needs an update.";
    case "insecure_context":
      return "This page was loaded without https, so the browser does not let it use keys. Open the relay by its https address (or on localhost).";
    case "unsupported_browser":
      return "This browser cannot sign with Ed25519. Use a current version of Chrome, Edge, Firefox or Safari.";
    case "storage_unavailable":
      return "This browser does not let the page keep keys. Leave the private window, or allow site data for this address.";
    case "network_error":
      return "The relay could not be reached. Check your connection, then try again.";
    case "unauthorized":
    case "session_expired":
      return "Your sign-in at the relay has ended. Load the page again and sign in.";
    case "host_access_denied":
      return "The relay does not let your account reach this host.";
    case "not_found":
      return of.verified ? undefined : "The relay does not know this host any more.";
    case "draining":
    case "store_unavailable":
    case "provider_unavailable":
    case "relays_unavailable":
      return `The relay is busy or restarting. ${wait(of)}`;
    case "bad_answer":
    case "internal":
      return `Something answered that does not speak this protocol.${of.detail === "" ? " Load the page again." : ` ${of.detail}`}`;
    case "unsupported_encoding":
      return "The app compresses its answer in a way that this browser cannot undo.";
    case "response_too_large":
      return "The answer is too large for the way it was asked for.";
    case "aborted":
      return "Cancelled.";
    default:
      return undefined;
  }
}

/** Whether a new code is needed before another attempt makes sense. */
export function needsNewCode(of: Failure): boolean {
  const spent = ["pairing_failed", "pairing_expired", "pairing_not_open", "tampered", "storage_failed"];
  return of.codeUsed === true || spent.includes(of.code);
}

/** Something went wrong after the proof had gone out: who got it is not known. */
function codeUsed(text: string): Child[] {
  return [
    h("strong", {}, "Make a new code before you try again. "),
    text,
    " The proof had gone out already, so regard the code as used up. Check on the machine with ",
    h("code", {}, "local-agent-client browsers list"),
    " that no stranger is listed, and make a new code there with ",
    h("code", {}, "local-agent-client pair"),
    ".",
  ];
}

export function pairingMessage(of: Failure): Child[] {
  const again = h("code", {}, "local-agent-client pair");
  // With a status the machine said that our proof was wrong; without one its proof was, to us.
  const code = of.code === "pairing_failed" && of.status === 0 ? "tampered" : of.code;
  switch (code) {
    case "pairing_failed":
      return [
        h("strong", {}, "The code was not right, and it is used up now. "),
        "A code allows one guess. Make a new one on the machine with ",
        again,
        " and type that. If you are sure that you typed it right, somebody between you and the machine may be guessing.",
      ];
    case "pairing_not_open":
      return [
        h("strong", {}, "The machine shows no code right now. "),
        "Make one there with ",
        again,
        ", then type it here. Perhaps another browser was faster.",
      ];
    case "pairing_expired":
      return [
        h("strong", {}, "That code has expired. "),
        "A code lives for 5 minutes. Make a new one on the machine with ",
        again,
        ".",
      ];
    case "tampered":
      return [
        h("strong", {}, "The other end could not prove that it is your machine. "),
        "Somebody between this browser and the machine may be interfering. Nothing was paired here, and the code is used up. Check on the machine with ",
        h("code", {}, "local-agent-client browsers list"),
        " that no stranger is listed.",
      ];
    case "not_found":
      if (of.codeUsed === true) return codeUsed(common(of) ?? "");
      return [
        "The agent on the machine does not know how to pair. Update local-agent-client there, then try again. If the host is no longer in your list, it was deleted.",
      ];
    case "storage_failed":
      return [
        "The host accepted this browser, but the browser could not keep the keys. Allow site data for this address, then pair again with a new code.",
      ];
    default: {
      const text = common(of) ?? `Could not pair: ${refused(of)}`;
      return of.codeUsed === true ? codeUsed(text) : [text];
    }
  }
}

/** What the host has signed about a session or a clock, or that a request came twice. */
function signedMessage(code: string): string | undefined {
  switch (code) {
    case "signing_session_expired":
      return "The session was renewed; send it again if it should be done.";
    case "clock_skew":
      return "The time was set by the host's clock; send it again if it should be done.";
    case "signing_session_ended":
      return "The host ended this session while the request was under way, so it may have been done. Look before you send it again.";
    case "replayed":
      return "The request reached the host before, so it was done, but its answer was lost on the way.";
    default:
      return undefined;
  }
}

/** The same for requests to a paired host. */
export function hostMessage(of: Failure): string {
  const signed = of.verified ? signedMessage(of.code) : undefined;
  if (signed !== undefined) return signed;
  switch (of.code) {
    case "not_paired":
      return of.verified
        ? "The host says that this browser is no longer paired with it."
        : "The relay says that this browser is not paired, but the host has not signed that. Try again.";
    case "tampered":
      return "The answer is not as the host sent it. Something on the way changed it, so it is not shown.";
    case "truncated":
      return "The answer broke off before its end. What is shown is verified, but not complete.";
    case "local_server_unreachable":
      return `The agent could not reach the app on the machine: ${of.detail === "" ? "is it running?" : of.detail}`;
    case "local_server_failed":
      return "The app on the machine broke off its answer.";
    case "websocket_refused":
      return `The app on the machine refused the WebSocket.${of.detail === "" ? "" : ` ${of.detail}`}`;
    case "redirect_refused":
      return "The app redirects to somewhere that this console does not follow.";
    case "closed":
      return "The connection to the host was closed.";
    default: {
      const text = common(of) ?? refused(of);
      return text.charAt(0).toUpperCase() + text.slice(1);
    }
  }
}
