/** The yamux client: what it says, how it shares the line, and what it does with those who lie. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ByteQueue } from "../src/peer/bytes.js";
import { FULL_WINDOW, SEND_QUEUE, type YamuxStream } from "../src/peer/stream.js";
import { MAX_STREAMS, type SessionEnd, Yamux } from "../src/peer/yamux.js";
import { ACK, FIN, frame, frames, RST, SYN, YamuxServer } from "./support/yamux-server.js";

const WINDOW = 256 * 1024;
const DATA = 0;
const UPDATE = 1;
const PING = 2;
const AWAY = 3;

function bytes(length: number, first = 0): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, at) => (first + at * 7) % 251);
}

/** Everything that there is to send now. */
function pulled(yamux: Yamux): Uint8Array<ArrayBuffer>[] {
  const messages = [];
  for (let next = yamux.pull(); next !== undefined; next = yamux.pull()) {
    assert.ok(next.length > 0 && next.length <= 65_536);
    messages.push(next);
  }
  return messages;
}

function opened(yamux: Yamux): YamuxStream {
  const stream = yamux.openStream();
  assert.ok(stream !== undefined);
  return stream;
}

function readAll(stream: YamuxStream): Buffer {
  const pieces = [];
  for (let piece = stream.read(); piece !== undefined; piece = stream.read()) pieces.push(piece);
  return Buffer.concat(pieces);
}

function endOf(yamux: Yamux): string | undefined {
  return yamux.end?.kind;
}

/** Numbers that repeat, so that a failure can be seen again. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

test("a stream is opened by an empty window update, before its data and in the same message", () => {
  const yamux = new Yamux();
  const first = opened(yamux);
  first.write(new Uint8Array([1, 2, 3]));
  first.finish();
  opened(yamux);
  assert.deepEqual(
    pulled(yamux).map((message) => Buffer.from(message).toString("hex")),
    [
      // Both openings, then the three bytes with FIN.
      "000100010000000100000000" + "000100010000000300000000" + "000000040000000100000003" + "010203",
    ],
  );
  assert.equal(yamux.pull(), undefined);
});

test("an echo of much more than the window arrives whole, however the bytes are cut", () => {
  for (const seed of [1, 2, 3, 4, 5]) {
    const next = random(seed);
    const back: Uint8Array<ArrayBuffer>[] = [];
    const server = new YamuxServer((piece) => back.push(piece));
    server.onstream = (stream) => {
      stream.ondata = (payload) => {
        stream.write(payload);
        if (stream.finished) stream.end();
      };
    };
    const yamux = new Yamux();
    const streams = [bytes(3_000_000, 1), bytes(1, 2), bytes(700_001, 3), bytes(65_536, 4)].map((body) => ({
      body,
      at: 0,
      got: [] as Buffer[],
      stream: opened(yamux),
    }));
    for (let round = 0; streams.some(({ stream }) => stream.end !== "finished"); round++) {
      assert.ok(round < 20_000, "it goes on for ever");
      for (const one of streams) {
        const piece = one.body.slice(one.at, one.at + Math.min(one.stream.room, Math.ceil(next() * 50_000)));
        one.at += piece.length;
        if (piece.length > 0) one.stream.write(piece);
        if (one.at === one.body.length) one.stream.finish();
        if (next() < 0.7) one.got.push(readAll(one.stream));
      }
      for (const message of pulled(yamux)) server.receive(message);
      // The other end cuts its messages anywhere.
      const stream = Buffer.concat(back.splice(0));
      for (let at = 0; at < stream.length; ) {
        const end = at + 1 + Math.floor(next() * 65_535);
        yamux.receive(new Uint8Array(stream.subarray(at, end)), 0);
        at = end;
      }
    }
    for (const { body, got, stream } of streams) {
      assert.ok(Buffer.concat([...got, readAll(stream)]).equals(body), `seed ${seed}`);
    }
    assert.equal(yamux.open, 0);
    assert.equal(endOf(yamux), undefined);
  }
});

test("a stream sends no more than its window, and goes on when that grows", () => {
  const yamux = new Yamux();
  const stream = opened(yamux);
  stream.write(bytes(WINDOW + 5));
  stream.finish();
  const sent = frames(...pulled(yamux)).filter(({ type }) => type === DATA);
  assert.equal(
    sent.reduce((sum, { length }) => sum + length, 0),
    WINDOW,
  );
  assert.ok(sent.every(({ length }) => length <= 32_768));
  yamux.receive(frame(UPDATE, ACK, 1, 3), 0);
  yamux.receive(frame(UPDATE, 0, 1, 1), 0);
  assert.deepEqual(
    frames(...pulled(yamux)).map(({ type, flags, length }) => [type, flags, length]),
    [[DATA, 0, 4]],
  );
  yamux.receive(frame(UPDATE, 0, 1, 100), 0);
  assert.deepEqual(
    frames(...pulled(yamux)).map(({ type, flags, length }) => [type, flags, length]),
    [[DATA, FIN, 1]],
  );
});

test("a window is given back when half of it has been read, not before, and grows for who keeps up", () => {
  const yamux = new Yamux();
  const stream = opened(yamux);
  pulled(yamux);
  const give = (length: number) => {
    for (let left = length; left > 0; left -= 32_768) {
      const part = Math.min(left, 32_768);
      yamux.receive(frame(DATA, 0, 1, part, bytes(part)), 0);
    }
  };
  const updates = () => frames(...pulled(yamux)).map(({ type, stream: id, length }) => [type, id, length]);
  give(WINDOW / 2 - 1);
  readAll(stream);
  assert.deepEqual(updates(), []);
  give(1);
  assert.deepEqual(updates(), [], "nothing is given back for what nobody has read");
  readAll(stream);
  assert.deepEqual(updates(), [[UPDATE, 1, FULL_WINDOW - WINDOW / 2]]);
  give(FULL_WINDOW);
  assert.equal(endOf(yamux), undefined);
  yamux.receive(frame(DATA, 0, 1, 1, bytes(1)), 0);
  assert.equal(endOf(yamux), "violation");
});

test("all windows together stay bounded", () => {
  const yamux = new Yamux();
  const streams = Array.from({ length: MAX_STREAMS }, () => opened(yamux));
  assert.equal(yamux.openStream(), undefined);
  pulled(yamux);
  for (const { id } of streams) {
    for (let part = 0; part < 4; part++) yamux.receive(frame(DATA, 0, id, 32_768, bytes(32_768)), 0);
  }
  for (const stream of streams) readAll(stream);
  const given = frames(...pulled(yamux)).map(({ length }) => length + WINDOW / 2);
  assert.equal(given.length, MAX_STREAMS);
  const grown = given.filter((window) => window === FULL_WINDOW).length;
  assert.ok(grown > 0 && grown * (FULL_WINDOW - WINDOW) <= 32 * 1024 * 1024, `${grown} grew`);
  assert.ok(given.every((window) => window === FULL_WINDOW || window === WINDOW));
  // Who leaves makes room for others.
  for (const stream of streams) stream.reset();
  const next = opened(yamux);
  pulled(yamux);
  for (let part = 0; part < 4; part++) yamux.receive(frame(DATA, 0, next.id, 32_768, bytes(32_768)), 0);
  readAll(next);
  assert.equal(frames(...pulled(yamux))[0]?.length, FULL_WINDOW - WINDOW / 2);
});

test("streams take turns: what is small does not wait for what is large", () => {
  const yamux = new Yamux();
  const bulk = [opened(yamux), opened(yamux)];
  for (const stream of bulk) stream.write(bytes(WINDOW));
  yamux.pull();
  const small = opened(yamux);
  small.write(bytes(100));
  small.finish();
  yamux.ping(0);
  bulk[0]?.write(bytes(1));
  const [first, second] = [yamux.pull(), yamux.pull()];
  assert.ok(first !== undefined && second !== undefined);
  const next = frames(first);
  assert.equal(next[0]?.type, PING, "what is urgent goes first");
  assert.deepEqual([next[1]?.type, next[1]?.stream, next[1]?.flags], [UPDATE, 5, SYN]);
  assert.ok(
    [...next, ...frames(second)].some(({ type, stream }) => type === DATA && stream === 5),
    "the small one had its turn after two frames of others",
  );
  const order = frames(...pulled(yamux))
    .filter(({ type, length }) => type === DATA && length > 30_000)
    .map(({ stream }) => stream);
  for (let at = 1; at < order.length - 1; at++) assert.notEqual(order[at], order[at - 1], order.join());
});

test("what was written is bounded by what its writer waits for, and room is told", () => {
  const yamux = new Yamux();
  const stream = opened(yamux);
  let told = 0;
  stream.onchange = () => {
    told += 1;
  };
  assert.equal(stream.room, SEND_QUEUE);
  stream.write(bytes(SEND_QUEUE));
  assert.equal(stream.room, 0);
  stream.write(bytes(10));
  assert.equal(stream.room, 0);
  pulled(yamux);
  assert.ok(told > 0);
  assert.equal(stream.room, SEND_QUEUE);
  assert.equal(stream.waiting, 0);
});

test("pings measure the way, are answered, and no more go out than are answered", () => {
  const yamux = new Yamux();
  assert.ok(yamux.ping(1000));
  const [ping] = frames(...pulled(yamux));
  assert.deepEqual([ping?.type, ping?.flags, ping?.stream], [PING, SYN, 0]);
  yamux.receive(frame(PING, ACK, 0, ping?.length ?? 0), 1042);
  assert.equal(yamux.rtt, 42);
  yamux.receive(frame(PING, SYN, 0, 0xdead_beef), 1050);
  assert.deepEqual(frames(...pulled(yamux)), [
    { type: PING, flags: ACK, stream: 0, length: 0xdead_beef, payload: new Uint8Array() },
  ]);
  const sent = Array.from({ length: 40 }, () => yamux.ping(2000)).filter((went) => went);
  assert.equal(sent.length, 16);
});

test("ends: in order, broken off by either side, and with the session", () => {
  const ends: Record<string, (yamux: Yamux, stream: YamuxStream) => void> = {
    finished: (yamux) => yamux.receive(frame(UPDATE, FIN, 1, 0), 0),
    reset: (yamux) => yamux.receive(frame(UPDATE, RST, 1, 0), 0),
    lost: (yamux) => yamux.receive(frame(AWAY, 0, 0, 0), 0),
    dropped: (_, stream) => stream.stop(),
  };
  for (const [end, make] of Object.entries(ends)) {
    const yamux = new Yamux();
    const stream = opened(yamux);
    pulled(yamux);
    yamux.receive(frame(DATA, ACK, 1, 3, bytes(3)), 0);
    let told = 0;
    stream.onchange = () => {
      told += 1;
    };
    make(yamux, stream);
    assert.equal(stream.end, end);
    assert.equal(told, end === "dropped" ? 0 : 1, end);
    assert.deepEqual([...(stream.read() ?? [])], [...bytes(3)], "what came before may be read");
    assert.equal(stream.read(), undefined);
    const said = frames(...pulled(yamux)).map(({ type, flags, stream: id }) => [type, flags, id]);
    assert.deepEqual(said, end === "dropped" ? [[UPDATE, RST, 1]] : []);
    assert.equal(yamux.open, end === "finished" ? 1 : 0);
    // Whatever is asked of it now does nothing, except to finish what the other end has finished.
    stream.write(bytes(10));
    stream.finish();
    stream.reset();
    const after = frames(...pulled(yamux)).map(({ type, flags }) => [type, flags]);
    assert.deepEqual(after, end === "finished" ? [[UPDATE, RST]] : [], end);
  }
});

test("what the other end has finished stays whole when it breaks off the rest", () => {
  const yamux = new Yamux();
  const stream = opened(yamux);
  stream.write(bytes(WINDOW * 2));
  pulled(yamux);
  yamux.receive(frame(DATA, FIN, 1, 3, bytes(3)), 0);
  yamux.receive(frame(UPDATE, RST, 1, 0), 0);
  assert.equal(stream.end, "finished");
  assert.equal(readAll(stream).length, 3);
  assert.equal(yamux.open, 0);
  yamux.receive(frame(UPDATE, 0, 1, 1000), 0);
  assert.deepEqual(pulled(yamux), []);
});

test("a stream that was dropped before it was opened leaves no trace", () => {
  const yamux = new Yamux();
  const stream = opened(yamux);
  stream.write(bytes(10));
  stream.reset();
  assert.deepEqual(pulled(yamux), []);
  assert.equal(yamux.open, 0);
});

test("what is on its way to a stream that was dropped is left, as much as the window had allowed", () => {
  const yamux = new Yamux();
  const stream = opened(yamux);
  pulled(yamux);
  yamux.receive(frame(DATA, ACK, 1, 32_768, bytes(32_768)), 0);
  stream.reset();
  for (let part = 1; part < 8; part++) yamux.receive(frame(DATA, 0, 1, 32_768, bytes(32_768)), 0);
  yamux.receive(frame(UPDATE, FIN, 1, 0), 0);
  assert.equal(endOf(yamux), undefined);
  assert.equal(stream.read(), undefined);
  yamux.receive(frame(DATA, 0, 1, 1, bytes(1)), 0);
  assert.equal(endOf(yamux), "violation");
});

test("streams of the other end are reset, and what they carry goes nowhere", () => {
  const yamux = new Yamux();
  yamux.receive(frame(UPDATE, SYN, 2, 0), 0);
  yamux.receive(frame(DATA, SYN, 4, 3, bytes(3)), 0);
  yamux.receive(frame(DATA, 0, 2, 1000, bytes(1000)), 0);
  yamux.receive(frame(UPDATE, FIN, 4, 0), 0);
  assert.deepEqual(
    frames(...pulled(yamux)).map(({ type, flags, stream }) => [type, flags, stream]),
    [
      [UPDATE, RST, 2],
      [UPDATE, RST, 4],
    ],
  );
  assert.equal(endOf(yamux), undefined);
});

test("the session ends in order with GoAway as the last word", () => {
  const ends: SessionEnd[] = [];
  const yamux = new Yamux({ onend: (end) => ends.push(end) });
  const stream = opened(yamux);
  stream.write(bytes(100));
  yamux.close();
  yamux.close();
  assert.equal(stream.end, "lost");
  assert.deepEqual(
    frames(...pulled(yamux)).map(({ type, length }) => [type, length]),
    [[AWAY, 0]],
  );
  assert.deepEqual(ends, [{ kind: "closed" }]);
  assert.equal(yamux.openStream(), undefined);
  assert.equal(yamux.ping(0), false);
  yamux.receive(frame(DATA, 0, 1, 1, bytes(1)), 0);
  assert.equal(yamux.pull(), undefined);
});

/** What no honest server says, each to a session with stream 1 open, 3 finished by both, and 5 dropped here. */
const LIES: Record<string, Uint8Array<ArrayBuffer>[]> = {
  "another version": [new Uint8Array([1, ...frame(PING, SYN, 0, 1).subarray(1)])],
  "an unknown type": [frame(4, 0, 0, 0)],
  "unknown flags": [frame(UPDATE, 16, 1, 0)],
  "flags in the upper byte": [frame(UPDATE, 0x100, 1, 0)],
  "data for no stream": [frame(DATA, 0, 0, 1, bytes(1))],
  "a window for no stream": [frame(UPDATE, 0, 0, 1)],
  "a ping on a stream": [frame(PING, SYN, 1, 1)],
  "a ping that asks and answers": [frame(PING, SYN | ACK, 0, 1)],
  "a ping that does neither": [frame(PING, 0, 0, 1)],
  "an answer to no ping": [frame(PING, ACK, 0, 99)],
  "GoAway on a stream": [frame(AWAY, 0, 1, 0)],
  "GoAway for no known reason": [frame(AWAY, 0, 0, 3)],
  "GoAway with flags": [frame(AWAY, FIN, 0, 0)],
  "a frame that is too long": [frame(DATA, 0, 1, 32_769)],
  "a frame of 4 GiB": [frame(DATA, 0, 1, 0xffff_ffff)],
  "a stream that nobody opened": [frame(DATA, 0, 9, 1, bytes(1))],
  "a window for a stream that nobody opened": [frame(UPDATE, 0, 9, 1)],
  "a stream of its own that it did not open": [frame(DATA, 0, 2, 1, bytes(1))],
  "a stream of its own twice": [frame(UPDATE, SYN, 2, 0), frame(UPDATE, SYN, 2, 0)],
  "a stream of its own by an odd id": [frame(UPDATE, SYN, 9, 0)],
  "opening a stream of this end": [frame(UPDATE, SYN, 1, 0)],
  "data after FIN": [frame(UPDATE, FIN, 1, 0), frame(DATA, 0, 1, 1, bytes(1))],
  "FIN twice": [frame(UPDATE, FIN, 1, 0), frame(UPDATE, FIN, 1, 0)],
  "a window beyond what it can count": [frame(UPDATE, 0, 1, 0xffff_ffff)],
  "more than the window": Array.from({ length: 9 }, () => frame(DATA, 0, 1, 32_768, bytes(32_768))),
  "more than a dropped stream's window": Array.from({ length: 9 }, () =>
    frame(DATA, 0, 5, 32_768, bytes(32_768)),
  ),
  "a message that is too long": [bytes(65_537)],
  "a flood of pings": Array.from({ length: 300 }, (_, id) => frame(PING, SYN, 0, id)),
  "a flood of streams": Array.from({ length: 300 }, (_, at) => frame(UPDATE, SYN, 2 + 2 * at, 0)),
};

test("who lies ends the session, once, with GoAway and every stream lost", () => {
  for (const [lie, messages] of Object.entries(LIES)) {
    const ends: SessionEnd[] = [];
    const yamux = new Yamux({ onend: (end) => ends.push(end) });
    const [first, second, third] = [opened(yamux), opened(yamux), opened(yamux)];
    pulled(yamux);
    second.finish();
    yamux.receive(frame(UPDATE, ACK | FIN, 3, 0), 0);
    third.reset();
    pulled(yamux);
    assert.equal(yamux.open, 1);
    for (const message of messages) yamux.receive(message, 0);
    assert.deepEqual(
      ends.map(({ kind }) => kind),
      ["violation"],
      lie,
    );
    assert.ok(first.end === "lost" || first.end === "finished", lie);
    const said = frames(...pulled(yamux)).map(({ type, length }) => [type, length]);
    assert.deepEqual(said, [[AWAY, 1]], lie);
  }
});

test("garbage of any kind ends a session or means nothing; it never throws", () => {
  const next = random(7);
  let ended = 0;
  for (let run = 0; run < 400; run++) {
    const yamux = new Yamux();
    opened(yamux);
    opened(yamux).finish();
    pulled(yamux);
    for (let message = 0; message < 20; message++) {
      const noise = Uint8Array.from({ length: Math.floor(next() * 200) }, () => next() * 256);
      // Half of it looks like frames at first sight.
      const [type, flags, id] = [Math.floor(next() * 5), Math.floor(next() * 17), Math.floor(next() * 6)];
      const likely = frame(type, flags, id, Math.floor(next() * 40), noise);
      yamux.receive(next() < 0.5 ? noise : likely, 0);
      pulled(yamux);
    }
    if (yamux.end !== undefined) ended += 1;
  }
  assert.ok(ended > 300);
});

test("a queue of bytes keeps their order, and small pieces do not keep large buffers", () => {
  const next = random(3);
  const queue = new ByteQueue();
  const put: Uint8Array[] = [];
  const got: Uint8Array[] = [];
  for (let round = 0; round < 300; round++) {
    const large = Uint8Array.from({ length: 65_536 }, (_, at) => round + at);
    const piece = large.subarray(0, Math.ceil(next() * (next() < 0.05 ? 65_536 : 40)));
    put.push(piece.slice());
    queue.push(piece);
    for (let part = next() < 0.5 ? queue.take(700) : undefined; part !== undefined; part = queue.take(300)) {
      got.push(part.slice());
      if (next() < 0.3) break;
    }
  }
  for (let part = queue.take(1e9); part !== undefined; part = queue.take(1e9)) got.push(part);
  assert.ok(Buffer.concat(got).equals(Buffer.concat(put)));
  assert.equal(queue.length, 0);

  for (let at = 0; at < 100_000; at++) queue.push(new Uint8Array(1000).subarray(0, 1));
  assert.equal(queue.length, 100_000);
  const kept = new Set<ArrayBuffer>();
  for (let part = queue.take(1e9); part !== undefined; part = queue.take(1e9)) kept.add(part.buffer);
  const held = [...kept].reduce((sum, buffer) => sum + buffer.byteLength, 0);
  assert.ok(held <= 2 * 100_000, `${held} bytes for 100,000`);
});
