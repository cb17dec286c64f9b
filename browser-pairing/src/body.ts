/**
 * The body of an answer: verified records as a stream that its reader pulls. Nothing is read from the
 * network that nobody has asked for, so a slow reader slows the sender.
 */
import { RelayError } from "./errors.js";
import { checkEnd } from "./payload.js";
import { problemError } from "./problem.js";
import { type RecordReader, RecordType, type VerifiedRecord } from "./record.js";

/** Bytes in their order; undefined at the verified end. */
export type Next = () => Promise<Uint8Array<ArrayBuffer> | undefined>;

/** The formats of `DecompressionStream` for content codings. Newer browsers know more of them. */
const CODINGS: Readonly<Record<string, string>> = {
  gzip: "gzip",
  "x-gzip": "gzip",
  deflate: "deflate",
  br: "brotli",
  zstd: "zstd",
};
/** Nobody codes more than twice in earnest. */
const MAX_CODINGS = 2;

/** The error in an ERROR record. */
export function recordError(record: VerifiedRecord): RelayError {
  return (
    problemError(0, record.payload, new Headers(), true) ??
    new RelayError("bad_answer", { verified: true, detail: "The host broke off without saying why." })
  );
}

/** What the network did, as the caller shall see it. */
export function streamFailure(cause: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (cause instanceof RelayError) return cause;
  return new RelayError("truncated", { detail: "The connection broke off within an answer.", cause });
}

/** Makes sure that nothing follows the record that ended the stream. */
async function expectEnd(reader: RecordReader): Promise<void> {
  if ((await reader.next()) !== undefined) {
    throw new RelayError("tampered", { detail: "More came after the end of an answer." });
  }
}

/** The DATA of an answer after its HEAD. */
export function dataRecords(reader: RecordReader, signal: AbortSignal): Next {
  return async () => {
    try {
      const record = await reader.next();
      switch (record?.type) {
        case RecordType.DATA:
          return record.payload;
        case RecordType.END:
          checkEnd(record.payload);
          await expectEnd(reader);
          return undefined;
        case RecordType.ERROR:
          throw recordError(record);
        case undefined:
          throw new RelayError("truncated", { detail: "An answer ended before its end was announced." });
        default:
          throw new RelayError("tampered", { detail: "A record came where it does not belong." });
      }
    } catch (cause) {
      await reader.cancel();
      throw streamFailure(cause, signal);
    }
  };
}

/** A byte stream that asks `next` only when somebody reads. */
export function pullStream(next: Next, cancel: () => Promise<void>): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    type: "bytes",
    async pull(controller) {
      const bytes = await next();
      if (bytes !== undefined) return controller.enqueue(bytes.slice());
      controller.close();
      // A reader with a buffer of its own waits for this.
      controller.byobRequest?.respond(0);
    },
    cancel,
  }) as ReadableStream<Uint8Array<ArrayBuffer>>;
}

/**
 * The decoders for a `content-encoding`, in the order of their use; none for `identity`.
 * @throws RelayError `unsupported_encoding` when this browser has none for it
 */
export function decoders(contentEncoding: string | null): GenericTransformStream[] {
  const names = (contentEncoding ?? "")
    .split(",")
    .map((name) => name.trim().toLowerCase())
    .filter((name) => name !== "" && name !== "identity");
  const refuse = (cause?: unknown) =>
    new RelayError("unsupported_encoding", {
      verified: true,
      detail: `The local server coded its answer as "${contentEncoding}", which this browser's scripts cannot decode.`,
      cause,
    });
  if (names.length > MAX_CODINGS) throw refuse();
  return names.reverse().map((name) => {
    const format = CODINGS[name];
    if (format === undefined) throw refuse();
    try {
      return new DecompressionStream(format as CompressionFormat);
    } catch (cause) {
      throw refuse(cause);
    }
  });
}

/** The bytes of `next` through the decoders. A body without any bytes is empty in every coding. */
export function decoded(
  next: Next,
  through: GenericTransformStream[],
  cancel: () => Promise<void>,
): Next & { cancel: () => Promise<void> } {
  let output: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>> | undefined;
  let failure: unknown;
  const start = (first: Uint8Array<ArrayBuffer>) => {
    let waiting: Uint8Array<ArrayBuffer> | undefined = first;
    const source: Next = async () => {
      const bytes =
        waiting ??
        (await next().catch((cause) => {
          failure = cause;
          throw cause;
        }));
      waiting = undefined;
      return bytes;
    };
    let stream: ReadableStream = pullStream(source, cancel);
    for (const decoder of through) stream = stream.pipeThrough(decoder);
    return stream.getReader() as ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  };
  const pull: Next = async () => {
    if (output === undefined) {
      const first = await next();
      if (first === undefined) return undefined;
      output = start(first);
    }
    try {
      const { done, value } = await output.read();
      return done ? undefined : value;
    } catch (cause) {
      await cancel();
      throw (
        failure ??
        new RelayError("tampered", { verified: true, detail: "The answer cannot be decoded.", cause })
      );
    }
  };
  return Object.assign(pull, {
    cancel: async () => {
      await output?.cancel().catch(() => undefined);
      await cancel();
    },
  });
}
