/** Record streams of the golden vectors, read as the SDK reads an answer. */
import assert from "node:assert/strict";
import { dataRecords } from "../../src/body.js";
import { RelayError } from "../../src/errors.js";
import { readHead } from "../../src/payload.js";
import { type RecordOpener, RecordReader, RecordType } from "../../src/record.js";

/** Reads a whole stream as `fetch` does, in pieces of the given size; the error's code, or `ok`. */
export async function verdictOn(stream: Uint8Array, piece: number, opener: RecordOpener): Promise<string> {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (let at = 0; at < stream.length; at += piece) controller.enqueue(stream.slice(at, at + piece));
      controller.close();
    },
  });
  const reader = new RecordReader(body, opener);
  try {
    const head = await reader.next();
    if (head === undefined) return "truncated";
    if (head.type !== RecordType.HEAD) return "tampered";
    readHead(head.payload);
    const next = dataRecords(reader, new AbortController().signal);
    while ((await next()) !== undefined);
    return "ok";
  } catch (error) {
    assert.ok(error instanceof RelayError);
    return error.verified ? "error_record" : error.code;
  }
}
