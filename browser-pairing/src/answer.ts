/** An answer whose head has been verified, in whichever form it came. */
import { dataRecords, type Next, recordError, streamFailure } from "./body.js";
import { RelayError } from "./errors.js";
import { type Head, readHead } from "./payload.js";
import { type RecordReader, RecordType } from "./record.js";

/** What a request is answered. */
export interface Answer extends Head {
  /** The body in verified pieces. */
  next: Next;
  /** Tells the network that nothing more is wanted. */
  cancel: () => Promise<void>;
  /** What a code for the next device is sealed for: the hash of what was asked (PROTOCOL.md section 3.2). */
  salt: Uint8Array<ArrayBuffer>;
  /** Whether the head is all there is to believe: `location` is under no signature of an answer in one piece. */
  located: boolean;
}

/**
 * Reads the head of a stream of records. The stream is cancelled when there is none.
 * @throws RelayError; the signal's reason
 */
export async function readAnswerHead(
  reader: RecordReader,
  salt: Uint8Array<ArrayBuffer>,
  signal: AbortSignal,
): Promise<Answer> {
  const cancel = () => reader.cancel();
  try {
    const first = await reader.next();
    if (first === undefined)
      throw new RelayError("truncated", { detail: "The answer ended before it began." });
    if (first.type === RecordType.ERROR) throw recordError(first);
    if (first.type !== RecordType.HEAD)
      throw new RelayError("tampered", { detail: "The answer has no head." });
    const { status, headers } = readHead(first.payload);
    if (status < 200)
      throw new RelayError("bad_answer", { status, verified: true, detail: "Not a final answer." });
    return { status, headers, next: dataRecords(reader, signal), cancel, salt, located: true };
  } catch (cause) {
    await cancel();
    throw streamFailure(cause, signal);
  }
}

/** An answer that came in one piece, and was verified as one. */
export function wholeAnswer(
  status: number,
  headers: Headers,
  body: Uint8Array<ArrayBuffer>,
  salt: Uint8Array<ArrayBuffer>,
): Answer {
  let rest: Uint8Array<ArrayBuffer> | undefined = body.length > 0 ? body : undefined;
  const next = async () => {
    const piece = rest;
    rest = undefined;
    return piece;
  };
  return { status, headers, next, cancel: async () => {}, salt, located: false };
}
