/**
 * Exchanges (PROTOCOL.md sections 5.2 and 5.3): a request as prelude and records, sent over whichever path is
 * chosen, and answered by records. The session's form decides what protects them.
 *
 * A number is good for one exchange, and other bytes never go out under it. So what is lost on one path goes over
 * another as it is, and what is done anew gets a number of its own; that is done for safe requests only, once,
 * after the agent itself has refused: its refusal is no proof that the exchange had not come before.
 */
import { type Answer, readAnswerHead } from "./answer.js";
import { exchangeHash } from "./confirmation.js";
import { b64, concat } from "./encoding.js";
import { RelayError } from "./errors.js";
import { Budget } from "./link.js";
import { type Answered, type PathChoice, PathLost } from "./path.js";
import { MAX_PIECE, type RecordOpener, RecordReader, RecordSender, RecordType } from "./record.js";
import { EXCHANGE_PATH } from "./relaypath.js";
import { browserHeaders, requestHead, thisBrowser } from "./requesthead.js";
import type { Numbered, Sessions } from "./session.js";
import { altered, type HostRequest, isSafe, verifiedRefusal, verifyWhole } from "./signed.js";
import type { Pairing } from "./store.js";

type Bytes = Uint8Array<ArrayBuffer>;

/** A body is read in such pieces, which bounds what is in memory beside it. */
const SLICE = 16 * MAX_PIECE;
/** Refusals after which a safe request is done anew. */
const ANEW = new Set(["signing_session_expired", "signature_invalid", "replayed"]);
/** Paths may change while an exchange is on its way, but not for ever. */
export const MAX_LOSSES = 3;

/**
 * Seals a whole request. What is sealed is handed to the platform piece by piece, which keeps it where it likes. A
 * small one is one piece: an end that came late would meet a connection that a quick refusal has closed.
 */
export async function sealRequest(
  { session, prelude }: Numbered,
  { method, target, headers, body }: HostRequest,
  signal?: AbortSignal,
): Promise<Blob> {
  const sender = new RecordSender(session.sealer(prelude));
  const head = requestHead(method, target, browserHeaders(method, headers, thisBrowser(), false));
  const parts: Blob[] = [];
  let held: Bytes[] = [prelude, await sender.make(RecordType.HEAD, head)];
  const size = body?.size ?? 0;
  for (let at = 0; body !== undefined && at < size; at += SLICE) {
    signal?.throwIfAborted();
    const slice = new Uint8Array(await body.slice(at, at + SLICE).arrayBuffer());
    for (let piece = 0; piece < slice.length; piece += MAX_PIECE) {
      held.push(await sender.make(RecordType.DATA, slice.slice(piece, piece + MAX_PIECE)));
    }
    if (at + SLICE < size) {
      parts.push(new Blob(held));
      held = [];
    }
  }
  held.push(await sender.make(RecordType.END, new Uint8Array()));
  parts.push(new Blob([concat(...held)]));
  return new Blob(parts);
}

/** The first bytes of an exchange that stays open, and what makes and checks the records that follow. */
export interface Opening {
  numbered: Numbered;
  first: Bytes;
  sender: RecordSender;
}

/** Begins a WebSocket. */
export async function sealOpening(
  numbered: Numbered,
  target: string,
  protocols: readonly string[],
): Promise<Opening> {
  const { session, prelude } = numbered;
  const sender = new RecordSender(session.sealer(prelude));
  const headers = new Headers();
  if (protocols.length > 0) headers.set("sec-websocket-protocol", protocols.join(", "));
  const list = browserHeaders("GET", headers, thisBrowser(), true);
  const record = await sender.make(RecordType.HEAD, requestHead("GET", target, list, true));
  return { numbered, first: concat(prelude, record), sender };
}

/** The exchanges of one open host. */
export class Exchanges {
  constructor(
    readonly pairing: Pairing,
    readonly agentKey: CryptoKey,
    readonly sessions: Sessions,
    readonly paths: PathChoice,
    /** Checks the agent's records of an exchange, and notes what they say about the session. */
    readonly opener: (numbered: Numbered) => RecordOpener,
    /** Puts right what the agent says is wrong. */
    readonly mend: (refusal: RelayError, sessionId: string) => void,
  ) {}

  /** Does a request. @throws RelayError; the signal's reason */
  async request(request: HostRequest, signal: AbortSignal): Promise<Answer> {
    const budget = new Budget();
    for (;;) {
      const numbered = await this.sessions.number(signal);
      const bytes = await sealRequest(numbered, request, signal);
      const answered = await this.#send(bytes, signal);
      if (answered.kind === "records") {
        const reader = new RecordReader(answered.body, this.opener(numbered));
        const answer = await readAnswerHead(reader, exchangeHash(numbered.prelude), signal);
        this.paths.succeeded();
        return answer;
      }
      const refusal = await this.#refusal(answered.response, numbered, signal);
      this.mend(refusal, numbered.session.id);
      const again = ANEW.has(refusal.code) && isSafe(request.method) && budget.spend("signed_anew");
      if (!again) throw refusal;
    }
  }

  /** The very same bytes, over one path after the other while paths are lost. */
  async #send(bytes: Blob, signal: AbortSignal): Promise<Answered> {
    let path = this.paths.choose();
    for (let losses = 0; ; losses++) {
      try {
        return await path.send(bytes, signal);
      } catch (cause) {
        signal.throwIfAborted();
        if (!(cause instanceof PathLost)) throw cause;
        if (path.kind === "relay" || losses === MAX_LOSSES) {
          throw new RelayError("network_error", { detail: "The host cannot be reached.", cause });
        }
        path = this.paths.choose(path);
      }
    }
  }

  /** What the agent refused, signed for this very exchange. @throws RelayError for everything else */
  async #refusal(response: Response, { prelude }: Numbered, signal: AbortSignal): Promise<RelayError> {
    const { status } = response;
    const asked = { method: "POST", target: EXCHANGE_PATH, exchange: b64(prelude) };
    const { headers, body } = await verifyWhole(response, asked, this.pairing.hostId, this.agentKey, signal);
    const refusal = verifiedRefusal(status, headers, body);
    // A success of one piece answers no exchange, whoever signed it.
    if (refusal === undefined) throw altered(status);
    return refusal;
  }
}
