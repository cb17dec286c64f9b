/**
 * One error type for everything that can fail here. Callers decide by `code`, never by the texts.
 *
 * A code is either one of the protocol's (PROTOCOL.md section 1) or one of {@link LocalCode}. What
 * the agent signed is `verified`; everything else may have been invented on the way and is believed
 * no further than that this attempt failed.
 */

/** Codes that the SDK itself gives, beside those of the protocol. Their `status` is 0. */
export type LocalCode =
  /** `crypto.subtle` is missing: the page is neither https nor on localhost. */
  | "insecure_context"
  /** This browser cannot do Ed25519 or X25519 in WebCrypto. */
  | "unsupported_browser"
  /** IndexedDB cannot be used, as in some private windows. Nothing has been changed. */
  | "storage_unavailable"
  /** The host accepted this browser, but the pairing could not be kept here. Pair again. */
  | "storage_failed"
  /** The relay could not be reached, or the connection broke off before the answer's head. */
  | "network_error"
  /** An answer, a record or a message does not carry the agent's signature, or the wrong one. */
  | "tampered"
  /** A stream ended before its end was announced. */
  | "truncated"
  /** The content coding of an answer cannot be decoded by this browser. */
  | "unsupported_encoding"
  /** A redirect that may not be followed: to another origin, too many, or refused by the caller. */
  | "redirect_refused"
  /** The agent or the relay answered something that is not of the protocol. */
  | "bad_answer"
  /** The local server refused the WebSocket; `status` is its status. */
  | "websocket_refused"
  /** The {@link PairedHost} has been closed or forgotten. */
  | "closed"
  /** No answer within the time that the SDK allows its own requests. */
  | "timeout";

/** What a {@link RelayError} is made of beside its code. */
export interface RelayErrorInit {
  status?: number;
  detail?: string;
  verified?: boolean;
  retryAfter?: number | undefined;
  requestId?: string | undefined;
  codeUsed?: boolean;
  cause?: unknown;
}

/** A refusal or a failure, with the protocol's stable code. */
export class RelayError extends Error {
  override readonly name = "RelayError";
  /** Stable, snake case: a code of the protocol or a {@link LocalCode}. */
  readonly code: string;
  /** The HTTP status that goes with it, 0 when there was none. */
  readonly status: number;
  /** What the person can do, in English. */
  readonly detail: string;
  /**
   * True when the agent signed it: it is what the agent found when this very request came. It is no proof
   * that the request was not done: a relay may have delivered it before and kept that answer.
   */
  readonly verified: boolean;
  /** Seconds to wait before trying again, where the other end said so. */
  declare readonly retryAfter?: number;
  /** The relay's id of the request, for its log. */
  declare readonly requestId?: string;
  /**
   * True when pairing failed after the proof had gone out: regard the code as used up, and make a new one.
   * To type the same again would give somebody in between another guess.
   */
  declare readonly codeUsed?: boolean;

  constructor(code: LocalCode | (string & {}), init: RelayErrorInit = {}) {
    const detail = init.detail ?? "";
    super(detail === "" ? code : `${code}: ${detail}`, init.cause === undefined ? {} : { cause: init.cause });
    this.code = code;
    this.status = init.status ?? 0;
    this.detail = detail;
    this.verified = init.verified ?? false;
    if (init.retryAfter !== undefined) this.retryAfter = init.retryAfter;
    if (init.requestId !== undefined) this.requestId = init.requestId;
    if (init.codeUsed === true) this.codeUsed = true;
  }
}
