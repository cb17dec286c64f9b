/**
 * The yamux client against vectors that tokio-yamux made: what the browser says is the same, and what the agent
 * says is understood.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import vectors from "../../relay-protocol/vectors/yamux.json" with { type: "json" };
import type { YamuxStream } from "../src/peer/stream.js";
import { Yamux } from "../src/peer/yamux.js";
import { frames as parsed } from "./support/yamux-server.js";

type Payload = { hex?: string; fill_hex?: string; count?: number };
type Frame = { from: string; header_hex: string; stream_id: number; payload?: Payload };
type Does = Record<string, number | Payload>;

function bytes(payload: Payload | undefined): Uint8Array<ArrayBuffer> {
  const { hex, fill_hex: fill, count } = payload ?? {};
  const found =
    hex === undefined ? Buffer.alloc(count ?? 0, Buffer.from(fill ?? "00", "hex")) : Buffer.from(hex, "hex");
  return new Uint8Array(found);
}

function frameBytes({ header_hex: header, payload }: Frame): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.concat([Buffer.from(header, "hex"), bytes(payload)]));
}

/** The browser's end of a vector's session. */
class Browser {
  readonly yamux = new Yamux({ fullWindow: vectors.browser_window });
  readonly streams = new Map<number, YamuxStream>();

  stream(id: unknown): YamuxStream {
    const stream = this.streams.get(id as number);
    assert.ok(stream !== undefined, `stream ${id}`);
    return stream;
  }

  does(what: string, does: Does): void {
    const payload = does["payload"] as Payload | undefined;
    if (does["open"] !== undefined) {
      const stream = this.yamux.openStream();
      assert.equal(stream?.id, does["open"], what);
      if (stream !== undefined) this.streams.set(stream.id, stream);
    } else if (does["write"] !== undefined) {
      this.stream(does["write"]).write(bytes(payload).slice(0, does["taken"] as number));
    } else if (does["read"] !== undefined) {
      const stream = this.stream(does["read"]);
      const read: Uint8Array[] = [];
      for (let piece = stream.read(); piece !== undefined; piece = stream.read()) read.push(piece);
      assert.ok(Buffer.concat(read).equals(bytes(payload)), what);
    } else if (does["finish"] !== undefined) {
      this.stream(does["finish"]).finish();
    } else if (does["reset"] !== undefined) {
      this.stream(does["reset"]).reset();
    } else if (does["ping"] !== undefined) {
      assert.ok(this.yamux.ping(0), what);
    } else if (does["go_away"] !== undefined) {
      this.yamux.close();
    } else {
      throw new Error(`nobody knows how to do ${JSON.stringify(does)}`);
    }
  }

  /** All that it has to say now. */
  says(): Buffer {
    const messages: Uint8Array[] = [];
    for (let next = this.yamux.pull(); next !== undefined; next = this.yamux.pull()) messages.push(next);
    return Buffer.concat(messages);
  }
}

/** Frames without regard to where data is cut into them: that is each end's own business. */
function said(bytes: Buffer): string[] {
  const all: { key: string; pieces: Uint8Array[] }[] = [];
  for (const { type, flags, stream, length, payload } of parsed(bytes)) {
    assert.ok(payload.length <= vectors.frame_max);
    const key = type === 0 ? `data ${flags} on ${stream}` : `${type} ${flags} on ${stream}: ${length}`;
    const last = all.at(-1);
    if (type === 0 && last?.key === key) last.pieces.push(payload);
    else all.push({ key, pieces: [payload] });
  }
  return all.map(({ key, pieces }) => {
    const whole = Buffer.concat(pieces);
    return `${key} (${whole.length} bytes, ${createHash("sha256").update(whole).digest("hex").slice(0, 16)})`;
  });
}

/** What is said of streams that the agent opened: RST alone, whatever else tokio-yamux says before it. */
function wanted(frames: Frame[]): Buffer {
  const ours = frames.filter(({ from }) => from === "browser");
  const needless = ({ stream_id: id, header_hex: header }: Frame) =>
    id > 0 && id % 2 === 0 && !header.startsWith("00010008");
  return Buffer.concat(ours.filter((frame) => !needless(frame)).map(frameBytes));
}

for (const part of ["session", "crowded"] as const) {
  test(`${part}: every step says the same and understands the agent's`, () => {
    const browser = new Browser();
    for (const { by, does, frames, what } of vectors[part] as {
      by: string;
      does: Does;
      frames: Frame[];
      what: string;
    }[]) {
      if (by === "browser") browser.does(what, does);
      // The agent answers what it heard: the browser speaks first where both do.
      const first = browser.says();
      for (const frame of frames) {
        if (frame.from === "agent") browser.yamux.receive(frameBytes(frame), 0);
      }
      assert.deepEqual(said(Buffer.concat([first, browser.says()])), said(wanted(frames)), what);
      if (browser.yamux.end !== undefined) assert.deepEqual(browser.yamux.end, { kind: "closed" }, what);
      const reset = by === "agent" ? does["reset"] : undefined;
      if (reset !== undefined) {
        const { end, touched } = browser.stream(reset);
        assert.deepEqual({ end, touched }, { end: "reset", touched: false }, what);
      }
      if (by === "agent" && does["finish"] !== undefined)
        assert.equal(browser.stream(does["finish"]).end, "finished");
    }
    if (part === "crowded") assert.equal(browser.stream(5).end, "reset");
    else assert.deepEqual(browser.yamux.end, { kind: "closed" });
  });
}

test("what tokio-yamux refuses is refused here", () => {
  for (const { header_hex: header, what } of vectors.refused) {
    const browser = new Browser();
    browser.does(what, { open: 1 });
    browser.says();
    browser.yamux.receive(new Uint8Array(Buffer.from(header, "hex")), 0);
    assert.equal(browser.yamux.end?.kind, "violation", what);
  }
});
