/**
 * The ways on which an exchange (PROTOCOL.md section 5.2) reaches the agent. A path carries bytes whose
 * protection it neither makes nor checks: prelude and records on the way there, records on the way back.
 * So the very same bytes may go over another path when one is lost, and the agent does them at most once.
 */
import type { RelayLink } from "./link.js";
import type { Json } from "./problem.js";

/** What the agent sent back, as far as the path can tell; nothing of it has been verified. */
export type Answered =
  /** The agent's records, as bytes. It is pulled: what nobody reads is not fetched from the network. */
  | { kind: "records"; body: ReadableStream<Uint8Array> }
  /** A refusal in one piece, which only the relay path has. Its body is unread. */
  | { kind: "refusal"; response: Response };

/**
 * The path broke, or refused without a word, before any byte of an answer had come. The exchange may have
 * been done. It may be sent again with the very same bytes, and with no others.
 */
export class PathLost extends Error {
  override readonly name = "PathLost";

  constructor(detail: string, cause?: unknown) {
    super(detail, cause === undefined ? {} : { cause });
  }
}

/** An exchange that goes on in both directions: whole records, for WebSockets. */
export interface RecordSocket {
  /** The next record as it came, in order; undefined when the path's end of it is over. One caller at a time. */
  next(): Promise<Uint8Array<ArrayBuffer> | undefined>;
  /** Hands a record to the path. Not to be called again before it has answered. */
  send(record: Uint8Array<ArrayBuffer>): void | Promise<void>;
  /** Bytes that were sent and have not left this browser. */
  readonly bufferedAmount: number;
  /** Ends it. What was sent before still goes out where the path can do that. */
  close(): void;
}

/** One way to the agent. */
export interface ExchangePath {
  readonly kind: "relay" | "webrtc";
  /**
   * Sends a whole exchange (prelude, HEAD, DATA …, END) and answers as soon as the first byte is there.
   * @throws PathLost; RelayError for what another path would not change; the signal's reason
   */
  send(exchange: Blob, signal: AbortSignal): Promise<Answered>;
  /**
   * Begins an exchange that stays open; `first` is its prelude and its HEAD. May answer before the other end
   * has: a socket that ends before its first record is as good as {@link PathLost}.
   * @throws PathLost; RelayError for what another path would not change; the signal's reason
   */
  open(first: Uint8Array<ArrayBuffer>, signal: AbortSignal): Promise<RecordSocket>;
}

/** Chooses the path of each exchange. There is one for each open host, as long as that is open. */
export interface PathChoice {
  /** The path for an exchange that is sent now. After a loss: another one than the `lost`, or the relay. */
  choose(lost?: ExchangePath): ExchangePath;
  /** Told after each exchange whose first record was the agent's. The first of them is when to upgrade. */
  succeeded(): void;
  /** Ends every path but the relay's. */
  close(): void;
}

/** What a choice of paths needs of the host that it is for. */
export interface PathHost {
  /** The relay, for its ICE servers: {@link RelayLink.ask}. */
  readonly link: RelayLink;
  /** What the agent listed when the session was made; empty before there is one. */
  readonly features: ReadonlySet<string>;
  /**
   * A protected request to the agent itself, JSON in and JSON out, over whichever path is chosen. Any status
   * but the one that is `wanted` is an error.
   * @throws RelayError `verified` when the agent itself refused
   */
  call(
    method: string,
    target: string,
    wanted: number,
    body?: Json,
    signal?: AbortSignal,
  ): Promise<{ json: Json | undefined }>;
}
