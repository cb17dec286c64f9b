/** Exchanges over a data channel that is cut, held up, silent, late, or in the hands of a liar. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";
import { RelayError } from "../src/errors.js";
import { type Answered, PathLost } from "../src/path.js";
import { Backoff } from "../src/peer/backoff.js";
import { Carrier, IDLE_CLOSE, RESTART_WITHIN } from "../src/peer/carrier.js";
import { Gate, HIGHEST, LOWEST } from "../src/peer/gate.js";
import { bytesArrived, chosenCandidate, readIceServers } from "../src/peer/ice.js";
import { ASLEEP, DEAD_AFTER, Liveness, PING_EVERY } from "../src/peer/liveness.js";
import { PeerPath } from "../src/peer/path.js";
import { FakeChannel, FakeTimers, settle } from "./support/fake-peer.js";
import { frame, RST, type ServerStream, YamuxServer } from "./support/yamux-server.js";

const forever = new AbortController().signal;

interface Direct {
  channel: FakeChannel;
  carrier: Carrier;
  path: PeerPath;
  timers: FakeTimers;
  streams: ServerStream[];
  states: string[];
}

/** An open path, and what its streams do. */
async function direct(
  onstream: (stream: ServerStream) => void = () => {},
  arrivals?: () => Promise<number | undefined>,
): Promise<Direct> {
  const timers = new FakeTimers();
  const streams: ServerStream[] = [];
  const channel = new FakeChannel((stream) => {
    streams.push(stream);
    onstream(stream);
  });
  const carrier = new Carrier(channel, timers, arrivals);
  channel.connect();
  await settle();
  assert.equal(carrier.state, "open");
  const states: string[] = [];
  carrier.onstate = (state) => states.push(state);
  return { channel, carrier, path: new PeerPath(carrier), timers, streams, states };
}

/** Answers every byte that comes, and ends when `length` of them have. */
function echo(length: number): (stream: ServerStream) => void {
  return (stream) => {
    let at = 0;
    stream.ondata = (payload) => {
      at += payload.length;
      stream.write(payload);
      if (payload.length > 0 && at >= length) stream.end();
    };
  };
}

async function whole(answered: Answered): Promise<Buffer> {
  assert.equal(answered.kind, "records");
  const pieces: Uint8Array[] = [];
  if (answered.kind === "records") {
    for await (const piece of answered.body as unknown as AsyncIterable<Uint8Array>) pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

function failsAs(code: string): (error: unknown) => boolean {
  return (error) => error instanceof RelayError && error.code === code;
}

const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

test("an exchange goes there and back whole, small and large, and leaves nothing behind", async () => {
  for (const size of [1, 100, 65_536, 3_000_001]) {
    const { path, carrier, streams } = await direct(echo(size));
    const body = randomBytes(size);
    const answer = await whole(await path.send(new Blob([body]), forever));
    assert.equal(sha(answer), sha(body), `${size}`);
    await settle();
    assert.ok(streams[0]?.finished && !streams[0].broken, "FIN answers FIN");
    assert.equal(carrier.state, "open");
    assert.ok(carrier.sent > size && carrier.received > size);
  }
});

test("a hundred at once, beside an upload that nobody takes", async () => {
  const { path, channel } = await direct((stream) => {
    if (stream.id === 1) stream.paused = true;
    else echo(500)(stream);
  });
  const stuck = path.send(new Blob([randomBytes(4_000_000)]), forever);
  stuck.catch(() => undefined);
  await settle();
  const bodies = Array.from({ length: 100 }, () => randomBytes(500));
  const answers = await Promise.all(
    bodies.map(async (body) => whole(await path.send(new Blob([body]), forever))),
  );
  for (const [at, body] of bodies.entries()) assert.ok(answers[at]?.equals(body));
  assert.ok(channel.peak <= HIGHEST + 65_536);
});

test("a refusal without a byte is a lost path, after a byte the answer is truncated", async () => {
  for (const refuse of ["reset", "end"] as const) {
    const { path } = await direct((stream) => {
      stream.ondata = () => stream[refuse]();
    });
    await assert.rejects(path.send(new Blob(["x"]), forever), PathLost);
  }
  const { path, streams, carrier } = await direct((stream) => stream.write(Buffer.from("begun")));
  const answered = await path.send(new Blob(["x"]), forever);
  streams[0]?.reset();
  await assert.rejects(whole(answered), failsAs("truncated"));
  assert.equal(carrier.state, "open", "the others go on");
});

test("the caller's signal ends an exchange before, while and after it is answered", async () => {
  const { path, streams } = await direct((stream) => {
    if (stream.id > 1) stream.write(Buffer.from("begun"));
  });
  const why = new Error("no more");
  await assert.rejects(path.send(new Blob(["x"]), AbortSignal.abort(why)), why);
  for (const begun of [false, true]) {
    const controller = new AbortController();
    const sent = path.send(new Blob(["x"]), controller.signal);
    if (begun) await sent;
    await settle();
    controller.abort(why);
    if (begun) await assert.rejects(whole(await sent), why);
    else await assert.rejects(sent, why);
  }
  const cancelled = await path.send(new Blob(["x"]), forever);
  if (cancelled.kind === "records") await cancelled.body.cancel();
  await settle();
  assert.deepEqual(
    streams.map(({ broken }) => broken),
    [true, true, true],
  );
});

test("a body that cannot be read breaks off, with its own error", async () => {
  const { path, streams } = await direct();
  const broken = new Blob([randomBytes(10)]);
  const gone = new DOMException("the file has changed", "NotReadableError");
  broken.slice = () => {
    throw gone;
  };
  await assert.rejects(path.send(broken, forever), gone);
  await settle();
  assert.equal(streams[0]?.broken ?? true, true);
});

test("the agent may answer before it has read everything", async () => {
  const { path, streams, carrier } = await direct((stream) => {
    stream.paused = true;
    stream.ondata = () => {
      if (stream.received.length < 32_768) return;
      stream.ondata = () => {};
      stream.write(Buffer.from("enough"));
      stream.end();
    };
  });
  const answered = await path.send(new Blob([randomBytes(4_000_000)]), forever);
  assert.equal(String(await whole(answered)), "enough");
  await settle();
  assert.ok(streams[0]?.broken || streams[0]?.finished);
  assert.equal(carrier.state, "open");
});

test("what nobody reads is not taken from the agent", async () => {
  const { path, streams } = await direct((stream) => stream.write(Buffer.alloc(8_000_000)));
  const answered = await path.send(new Blob(["x"]), forever);
  await settle();
  assert.equal(streams[0]?.room, 0, "no more than a window");
  if (answered.kind !== "records") throw new Error("no records");
  const reader = answered.body.getReader();
  let read = 0;
  while (read < 8_000_000) read += (await reader.read()).value?.length ?? 0;
  assert.equal(read, 8_000_000);
  await reader.cancel();
});

test("what the channel has not sent stays below the mark", async () => {
  const { path, channel, streams } = await direct(echo(4_000_000));
  channel.held = true;
  const body = randomBytes(4_000_000);
  const sent = path.send(new Blob([body]), forever);
  await settle();
  assert.ok(channel.bufferedAmount > 0 && channel.bufferedAmount <= HIGHEST + 65_536);
  assert.equal(streams.length, 0);
  channel.mend();
  assert.equal(sha(await whole(await sent)), sha(body));
});

test("a path that falls silent: what has no answer goes another way at once, the rest waits for it to come back", async () => {
  const { path, channel, carrier, timers, streams, states } = await direct((stream) => {
    if (stream.id === 1) stream.write(Buffer.from("begun "));
  });
  const begun = await path.send(new Blob(["x"]), forever);
  const socket = await path.open(new Uint8Array(100), forever);
  const first = socket.next();
  const waiting = path.send(new Blob(["y"]), forever);
  const lost = assert.rejects(waiting, PathLost);
  await settle();
  channel.cut = true;
  await timers.pass(DEAD_AFTER + 500);
  await lost;
  assert.equal(await first, undefined, "a socket without a record is lost, too");
  assert.equal(carrier.state, "stalled");
  assert.equal(carrier.usable, false);
  await assert.rejects(path.send(new Blob(["z"]), forever), PathLost);
  await timers.pass(RESTART_WITHIN / 2);
  channel.mend();
  await timers.pass(PING_EVERY);
  assert.deepEqual(states, ["stalled", "open"]);
  streams[0]?.write(Buffer.from("and ended"));
  streams[0]?.end();
  assert.equal(String(await whole(begun)), "begun and ended");
  await settle();
  assert.deepEqual(
    streams.map(({ broken }) => broken),
    [false, true, true],
    "the agent hears what was given up",
  );
});

test("a path that stays silent: what had begun is truncated, and sockets end", async () => {
  const { path, channel, carrier, timers } = await direct((stream) => stream.write(Buffer.alloc(5 + 64)));
  const begun = await path.send(new Blob(["x"]), forever);
  const socket = await path.open(new Uint8Array(24 + 5 + 64), forever);
  assert.equal((await socket.next())?.length, 69);
  const next = socket.next();
  channel.cut = true;
  await timers.pass(DEAD_AFTER + 500);
  assert.equal(carrier.state, "stalled");
  await timers.pass(RESTART_WITHIN);
  assert.equal(carrier.state, "closed");
  await assert.rejects(whole(begun), failsAs("truncated"));
  assert.equal(await next, undefined);
  await assert.rejects(path.send(new Blob(["y"]), forever), PathLost);
});

test("a slow line is not a dead one while it moves", async () => {
  const { path, channel, carrier, timers, states } = await direct((stream) => {
    stream.paused = true;
  });
  channel.server.silent = true;
  const sent = path.send(new Blob([randomBytes(200_000)]), forever);
  sent.catch(() => undefined);
  await settle();
  // The server answers nothing, but the browser's full buffer empties a little all the time.
  channel.bufferedAmount += 1_000_000;
  for (let step = 0; step < 20; step++) {
    channel.bufferedAmount -= 10_000;
    await timers.pass(500);
  }
  assert.deepEqual(states, []);
  await timers.pass(DEAD_AFTER + 500);
  assert.equal(carrier.state, "stalled");
});

test("packets that come are a sign of life although what they carry waits for a lost one, but not for ever", async () => {
  let arrived = 0;
  let passing = true;
  const { path, channel, carrier, timers, states } = await direct(undefined, async () => {
    if (passing) arrived += 65;
    return arrived;
  });
  const wait = () => path.send(new Blob(["x"]), forever).catch(() => undefined);
  void wait();
  await settle();
  channel.cut = true;
  await timers.pass(5000);
  assert.deepEqual(states, []);
  channel.mend();
  await timers.pass(1000);
  channel.cut = true;
  passing = false;
  await timers.pass(2000);
  assert.deepEqual(states, ["stalled"], "without packets it is dead as soon as ever");
  channel.mend();
  await timers.pass(1000);
  assert.equal(carrier.state, "open");
  void wait();
  channel.cut = true;
  passing = true;
  await timers.pass(9000);
  assert.deepEqual(states, ["stalled", "open", "stalled"]);
});

test("an idle path is asked before it is trusted again, and closes after a while", async () => {
  const { path, carrier, timers, channel, states } = await direct(echo(1));
  await whole(await path.send(new Blob(["x"]), forever));
  await settle();
  const pings = channel.server.pings;
  await timers.pass(60_000);
  assert.equal(channel.server.pings, pings, "nobody pings while nothing waits");
  assert.equal(carrier.usable, false);
  await timers.pass(10);
  assert.equal(carrier.usable, true);
  await timers.pass(IDLE_CLOSE);
  await settle();
  assert.deepEqual(states, ["closed"]);
  assert.equal(channel.server.away, 0, "with GoAway");
  assert.equal(channel.readyState, "closed");
});

test("the end of the channel, an error and GoAway end everything at once", async () => {
  const ends: Record<string, (channel: FakeChannel) => void> = {
    close: (channel) => channel.close(),
    error: (channel) => channel.dispatchEvent(new Event("error")),
    away: (channel) => channel.server.send(frame(3, 0, 0, 0)),
    text: (channel) => channel.deliver("text"),
    garbage: (channel) => channel.deliver(new Uint8Array([9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]).buffer),
    "too long": (channel) => channel.deliver(new ArrayBuffer(65_537)),
    window: (channel) => {
      for (let part = 0; part < 9; part++)
        channel.server.send(frame(0, 0, 1, 32_768, new Uint8Array(32_768)));
    },
  };
  for (const [how, end] of Object.entries(ends)) {
    const { path, carrier, channel, states } = await direct((stream) => {
      if (stream.id === 1) stream.write(Buffer.from("begun"));
    });
    const begun = await path.send(new Blob(["x"]), forever);
    const waiting = path.send(new Blob(["y"]), forever);
    const lost = assert.rejects(waiting, PathLost, how);
    await settle();
    end(channel);
    await lost;
    await assert.rejects(whole(begun), failsAs("truncated"), how);
    assert.equal(carrier.state, "closed", how);
    assert.deepEqual(states, ["closed"], how);
    assert.equal(channel.readyState, "closed", how);
  }
});

test("a path with as many streams as it may have takes no more, and then again", async () => {
  const { path, streams } = await direct();
  const all = Array.from({ length: 256 }, () => path.send(new Blob(["x"]), forever));
  for (const one of all) one.catch(() => undefined);
  await assert.rejects(path.send(new Blob(["y"]), forever), PathLost);
  await settle();
  assert.equal(streams.length, 256);
  streams[7]?.reset();
  await assert.rejects(all[7] ?? Promise.resolve(), PathLost);
  const next = path.send(new Blob(["z"]), forever);
  await settle();
  streams[256]?.write(Buffer.from("ok"));
  assert.equal((await next).kind, "records");
});

/** A record's bytes with a protection of so many. */
function record(type: number, payload: Uint8Array, protection: number): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt32BE(payload.length);
  header[4] = type;
  return Buffer.concat([header, payload, Buffer.alloc(protection, type)]);
}

test("a socket gives whole records however they are cut, in either form", async () => {
  for (const protection of [16, 64]) {
    const { path, streams, carrier } = await direct();
    const first = Buffer.concat([Buffer.alloc(24), record(1, Buffer.from("{}"), protection)]);
    const socket = await path.open(new Uint8Array(first), forever);
    await settle();
    const [stream] = streams;
    assert.ok(stream !== undefined);
    assert.ok(Buffer.from(stream.received).equals(first));
    const records = [0, 1, 70_000, 3, 1_500_000].map((size, at) =>
      record(at + 5, randomBytes(size), protection),
    );
    const all = Buffer.concat(records);
    let at = 0;
    const feed = setInterval(() => {
      stream.write(all.subarray(at, at + 999));
      at += 999;
      if (at > 3000) {
        clearInterval(feed);
        stream.write(all.subarray(at));
      }
    }, 1);
    for (const wanted of records) assert.ok(wanted.equals((await socket.next()) ?? Buffer.alloc(0)));

    const sent = record(6, randomBytes(900_000), protection);
    await socket.send(new Uint8Array(sent));
    await socket.send(new Uint8Array(sent));
    await settle();
    assert.ok(Buffer.from(stream.received).equals(Buffer.concat([first, sent, sent])));
    assert.equal(socket.bufferedAmount, 0);

    socket.close();
    await settle();
    assert.ok(stream.finished && !stream.broken);
    stream.end();
    assert.equal(await socket.next(), undefined);
    assert.equal(carrier.state, "open");
  }
});

test("a socket waits when the agent does not read, and refuses what is no record", async () => {
  const { path, streams } = await direct((stream) => {
    stream.paused = true;
  });
  const socket = await path.open(new Uint8Array(24 + 5 + 16), forever);
  let sent = 0;
  const sending = (async () => {
    for (let at = 0; at < 20; at++, sent++) await socket.send(new Uint8Array(50_000));
  })();
  await settle();
  assert.ok(sent < 10 && socket.bufferedAmount > 0, `${sent}`);
  const [stream] = streams;
  assert.ok(stream !== undefined);
  stream.paused = false;
  stream.refill();
  await sending;
  stream.write(new Uint8Array([255, 255, 255, 255, 6]));
  await assert.rejects(socket.next(), failsAs("tampered"));
  await settle();
  assert.equal(stream.broken, true);
});

test("liveness: when to ping, and when silence is death", () => {
  // When, whether something waits, and what is to be done; nothing where something was heard.
  type Step = [number, boolean, string?];
  const cases: [string, Step[]][] = [
    [
      "nothing waits",
      [
        [0, false, "rest"],
        [9e9, false, "rest"],
      ],
    ],
    [
      "answers come",
      [
        [0, true, "ping"],
        [100, true],
        [250, true, "wait"],
        [500, true, "ping"],
        [501, true],
        [1000, true, "ping"],
        [1500, true, "ping"],
        [1999, true, "wait"],
        [2001, true, "dead"],
      ],
    ],
    [
      "nothing comes",
      [
        [0, true, "ping"],
        [PING_EVERY, true, "ping"],
        [1000, true, "ping"],
        [1499, true, "wait"],
        [DEAD_AFTER, true, "dead"],
      ],
    ],
    [
      "silence counts from the last word",
      [
        [0, true, "ping"],
        [450, true],
        [500, true, "ping"],
        [1750, true, "ping"],
        [1949, true, "wait"],
        [1950, true, "dead"],
      ],
    ],
    [
      "the page slept",
      [
        [0, true, "ping"],
        [ASLEEP, true, "ping"],
        [ASLEEP + 1499, true, "ping"],
        [ASLEEP + 1500, true, "dead"],
      ],
    ],
    [
      "waiting began anew",
      [
        [0, true, "ping"],
        [300, false, "rest"],
        [4000, true, "ping"],
        [5499, true, "ping"],
        [5500, true, "dead"],
      ],
    ],
    [
      "what was heard while nothing waited is old",
      [
        [0, false, "rest"],
        [10, false],
        [9000, true, "ping"],
        [10_499, true, "ping"],
        [10_500, true, "dead"],
      ],
    ],
  ];
  for (const [name, steps] of cases) {
    const liveness = new Liveness();
    for (const [now, waiting, verdict] of steps) {
      if (verdict === undefined) liveness.heard(now);
      else assert.equal(liveness.look(now, waiting), verdict, `${name} at ${now}`);
    }
  }
});

test("the gate follows the line", () => {
  const gate = new Gate();
  const round = (milliseconds: number) => {
    gate.full(0);
    gate.drained(milliseconds);
    return gate.high;
  };
  assert.deepEqual(
    [round(50), round(5), round(5), round(5)],
    [256, 512, 1024, 1024].map((kib) => kib * 1024),
  );
  assert.deepEqual(
    [round(500), round(500), round(500), round(500)],
    [512, 256, 128, 128].map((kib) => kib * 1024),
  );
  assert.equal(gate.high, LOWEST);
  gate.drained(1e9);
  assert.equal(gate.high, LOWEST, "what was never full cannot have been slow");
  assert.equal(gate.low, LOWEST / 4);
});

test("back-off doubles to a minute, spreads, and begins anew after what held", () => {
  const backoff = new Backoff();
  const waits = Array.from({ length: 7 }, () => backoff.failed(0, () => 0));
  assert.deepEqual(waits, [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
  assert.equal(
    backoff.failed(29_999, () => 1),
    75_000,
  );
  assert.equal(
    backoff.failed(30_000, () => 0),
    2000,
  );
  assert.equal(
    backoff.failed(0, () => 0),
    4000,
  );
  backoff.reset();
  assert.equal(
    backoff.failed(0, () => 0),
    2000,
  );
});

test("ICE servers: what is taken of the relay's word", () => {
  const turn = { urls: ["turn:turn.example:3478?transport=udp"], username: "u", credential: "c" };
  const cases: [unknown, unknown[]][] = [
    [undefined, []],
    [{ ice_servers: "stun:x" }, []],
    [
      {
        ice_servers: [
          null,
          7,
          [],
          {},
          { urls: "stun:x" },
          { urls: [7, "http://x", "stun:a b", "stun:", "STUN:x"] },
        ],
      },
      [],
    ],
    [{ ice_servers: [{ urls: ["stun:stun.example"], extra: 1 }] }, [{ urls: ["stun:stun.example"] }]],
    [{ ice_servers: [turn] }, [turn]],
    [{ ice_servers: [{ urls: ["turn:x", "stun:x"] }] }, [{ urls: ["stun:x"] }]],
    [{ ice_servers: [{ ...turn, credential: 7 }] }, []],
    [{ ice_servers: [{ ...turn, credential: "c".repeat(513) }] }, []],
    [
      { ice_servers: Array(9).fill({ urls: Array(9).fill("stun:x") }) },
      Array(4).fill({ urls: Array(4).fill("stun:x") }),
    ],
  ];
  for (const [json, servers] of cases) assert.deepEqual(readIceServers(json as never), servers);
});

test("the kind of way is the worse of both ends'", () => {
  const stats = (local: string, remote: string, pair: object = {}) => [
    { id: "T", type: "transport", selectedCandidatePairId: "P" },
    { id: "P", type: "candidate-pair", localCandidateId: "L", remoteCandidateId: "R", ...pair },
    { id: "L", type: "local-candidate", candidateType: local },
    { id: "R", type: "remote-candidate", candidateType: remote },
  ];
  assert.equal(chosenCandidate(stats("host", "host")), "host");
  assert.equal(chosenCandidate(stats("host", "relay")), "relay");
  assert.equal(chosenCandidate(stats("prflx", "srflx")), "prflx");
  assert.equal(chosenCandidate(stats("host", "srflx", { selected: true }).slice(1)), "srflx");
  assert.equal(chosenCandidate(stats("host", "srflx").slice(1)), undefined);
  assert.equal(chosenCandidate([]), undefined);
});

test("bytes that have come are the transport's", () => {
  const pair = { type: "candidate-pair", bytesReceived: 7 };
  assert.equal(bytesArrived([pair, { type: "transport", bytesReceived: 5 }]), 5);
  assert.equal(bytesArrived([pair, { type: "transport" }]), undefined);
});

test("the stand-in refuses what no client may send", () => {
  const server = new YamuxServer(() => undefined);
  assert.throws(() => server.receive(new Uint8Array(65_537)));
  assert.throws(() => server.receive(frame(1, 1, 2, 0)));
  server.receive(frame(1, 1, 1, 0));
  assert.throws(() => server.receive(frame(0, 0, 1, 40_000, new Uint8Array(40_000))));
  server.receive(frame(1, RST, 1, 0));
  assert.equal(server.streams.size, 0);
});
