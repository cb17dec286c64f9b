/** Which path is taken when: the upgrade, its refusals, its loss and its return. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { RelayError } from "../src/errors.js";
import { type ExchangePath, type PathHost, PathLost } from "../src/path.js";
import { Paths } from "../src/paths.js";
import type { Json } from "../src/problem.js";
import { FakeConnection, settle } from "./support/fake-peer.js";

const PEER = "0d1f0c57-3b4e-4a7f-9e38-0a4b4c5d6e7f";
const TURN = { urls: ["turn:turn.example:3478"], username: "1:u", credential: "secret" };
const forever = new AbortController().signal;
const relay: ExchangePath = {
  kind: "relay",
  send: async () => ({ kind: "records", body: new Blob(["relay"]).stream() }),
  open: async () => {
    throw new PathLost("not here");
  },
};

/** Each relay is asked anew. */
let relays = 0;

/** A host whose agent and relay say what the test wants. */
class Host {
  readonly asked: string[] = [];
  readonly calls: { method: string; target: string; body: Json | undefined }[] = [];
  features: ReadonlySet<string> = new Set(["exchange", "webrtc"]);
  servers: () => Json = () => ({ ice_servers: [TURN], expires_at: 1 });
  answer: (body: Json) => Json = () => ({ v: 1, peer_id: PEER, sdp: "answer" });
  readonly link: PathHost["link"];

  constructor(base = `https://relay${relays++}.example`) {
    const ask = async (method: string, path: string) => {
      this.asked.push(`${method} ${path}`);
      return this.servers();
    };
    this.link = { base, ask } as unknown as PathHost["link"];
  }

  async call(
    method: string,
    target: string,
    wanted: number,
    body?: Json,
  ): Promise<{ json: Json | undefined }> {
    this.calls.push({ method, target, body });
    if (method === "DELETE") {
      assert.equal(wanted, 204);
      return { json: undefined };
    }
    return { json: this.answer(body ?? {}) };
  }
}

let paths: Paths | undefined;
let changes = 0;

function choice(host: Host, webRtc?: boolean): Paths {
  changes = 0;
  paths = new Paths(relay, host, {
    webRtc,
    onchange: () => {
      changes += 1;
    },
  });
  return paths;
}

async function eventually(what: string, condition: () => boolean): Promise<void> {
  for (let turn = 0; !condition(); turn++) {
    assert.ok(turn < 1200, `not within reason: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

function last(): FakeConnection {
  const connection = FakeConnection.made.at(-1);
  assert.ok(connection !== undefined, "no connection was made");
  return connection;
}

async function upgraded(host: Host): Promise<Paths> {
  const made = choice(host);
  made.succeeded();
  await eventually("the upgrade", () => made.report.kind === "webrtc");
  return made;
}

async function send(over: Paths): Promise<string> {
  const answered = await over.choose().send(new Blob(["x"]), forever);
  return answered.kind === "records" ? new Response(answered.body).text() : "refused";
}

beforeEach(() => {
  FakeConnection.made = [];
  FakeConnection.onstream = (stream) => {
    stream.ondata = () => {
      stream.ondata = () => {};
      stream.write(Buffer.from("direct"));
      stream.end();
    };
  };
  Object.assign(globalThis, { RTCPeerConnection: FakeConnection });
});

afterEach(() => {
  paths?.close();
  Reflect.deleteProperty(globalThis, "RTCPeerConnection");
});

test("the first exchange goes over the relay, the upgrade comes after it, and then exchanges go directly", async () => {
  const host = new Host();
  const made = choice(host);
  await settle();
  assert.equal(FakeConnection.made.length + host.asked.length + host.calls.length, 0);
  assert.equal(await send(made), "relay");
  assert.deepEqual(made.report, { kind: "relay", sent: 0, received: 0 });
  made.succeeded();
  made.succeeded();
  assert.equal(made.choose(), relay, "it takes a while");
  await eventually("the upgrade", () => made.report.kind === "webrtc");
  assert.equal(FakeConnection.made.length, 1);
  assert.deepEqual(host.asked, ["GET /v1/relay/ice-servers"]);
  assert.deepEqual(last().configuration, { iceServers: [TURN] });
  assert.deepEqual(host.calls, [
    {
      method: "POST",
      target: "/_relay/webrtc",
      body: { v: 1, sdp: "offer 0 complete", ice_servers: [TURN] },
    },
  ]);
  assert.deepEqual(last().answers, ["answer"]);
  assert.equal(await send(made), "direct");
  await settle();
  const { kind, candidate, rtt, sent, received } = made.report;
  assert.deepEqual([kind, candidate, typeof rtt], ["webrtc", "host", "number"]);
  assert.ok(sent > 0 && received > 0 && changes > 0);
  assert.equal(made.choose(made.choose()), relay, "not the path that was just lost");
});

test("nothing is tried where it is switched off, not offered, or not there", async () => {
  const cases: [string, () => Paths][] = [
    ["by the page", () => choice(new Host(), false)],
    ["by the agent", () => choice(Object.assign(new Host(), { features: new Set(["exchange"]) }))],
    [
      "by the browser",
      () => {
        Reflect.deleteProperty(globalThis, "RTCPeerConnection");
        return choice(new Host());
      },
    ],
  ];
  for (const [who, make] of cases) {
    const made = make();
    made.succeeded();
    await settle();
    assert.equal(FakeConnection.made.length, 0, who);
    assert.equal((made.host as unknown as Host).asked.length, 0, who);
    assert.equal(await send(made), "relay", who);
  }
});

test("a relay without ICE servers is asked once for each page, an agent that knows nothing once for each host", async () => {
  const host = new Host();
  host.servers = () => {
    throw new RelayError("not_found", { status: 404 });
  };
  for (const one of [host, Object.assign(new Host(host.link.base), { servers: host.servers })]) {
    const made = choice(one);
    for (let time = 0; time < 3; time++) {
      made.succeeded();
      await settle();
    }
    made.close();
  }
  assert.equal(host.asked.length, 1);

  const agent = new Host();
  agent.answer = () => {
    throw new RelayError("not_found", { status: 404, verified: true });
  };
  const made = choice(agent);
  for (let time = 0; time < 3; time++) {
    made.succeeded();
    await settle();
    globalThis.dispatchEvent?.(new Event("online"));
  }
  assert.equal(agent.calls.length, 1);
  assert.ok(last().closed);
});

test("an answer that is none, another peer's, or too long does not connect, and it is tried again", async () => {
  for (const wrong of [{}, { peer_id: "x", sdp: "answer" }, { peer_id: PEER, sdp: "x".repeat(49_153) }]) {
    FakeConnection.made = [];
    const host = new Host();
    let times = 0;
    host.answer = () => (times++ === 0 ? { v: 1, ...wrong } : { v: 1, peer_id: PEER, sdp: "answer" });
    const made = choice(host);
    made.succeeded();
    await eventually("the refusal", () => FakeConnection.made[0]?.closed === true);
    assert.equal(made.report.kind, "relay");
    made.succeeded();
    await eventually("the second attempt", () => made.report.kind === "webrtc");
    made.close();
  }
});

test("a silent path: requests go over the relay, an ICE restart brings it back, and what had begun goes on", async () => {
  const host = new Host();
  FakeConnection.onstream = (stream) => {
    if (stream.id === 1) stream.write(Buffer.from("begun "));
    stream.ondata = () => {
      if (stream.id > 3) stream.end();
    };
  };
  const made = await upgraded(host);
  const connection = last();
  const begun = await made.choose().send(new Blob(["x"]), forever);
  const waiting = made.choose().send(new Blob(["y"]), forever);
  const lost = assert.rejects(waiting, PathLost);
  await settle();
  host.servers = () => ({ ice_servers: [{ ...TURN, credential: "fresh" }] });
  host.answer = () => {
    connection.channel.mend();
    return { v: 1, peer_id: PEER, sdp: "answer again" };
  };
  connection.channel.cut = true;
  await lost;
  assert.equal(made.report.kind, "relay");
  assert.equal(await send(made), "relay");
  await eventually("its return", () => made.report.kind === "webrtc");
  const restart = host.calls.at(-1);
  assert.equal(restart?.body?.["peer_id"], PEER);
  assert.match(String(restart?.body?.["sdp"]), /again/);
  assert.equal(FakeConnection.made.length, 1, "the same connection");
  assert.deepEqual(connection.configuration.iceServers, [{ ...TURN, credential: "fresh" }]);
  const [stream] = connection.channel.server.streams.values();
  stream?.write(Buffer.from("and ended"));
  stream?.end();
  assert.equal(begun.kind === "records" ? await new Response(begun.body).text() : "", "begun and ended");
});

test("what ICE says counts at once, and a peer that the agent has forgotten is made anew", async () => {
  const host = new Host();
  const made = await upgraded(host);
  last().channel.cut = true;
  host.answer = (body) => {
    if (body["peer_id"] === undefined) return { v: 1, peer_id: PEER, sdp: "answer" };
    throw new RelayError("not_found", { status: 404, verified: true });
  };
  last().disconnected();
  assert.equal(made.report.kind, "relay");
  assert.equal(made.choose(), relay);
  await eventually("the end of the first", () => FakeConnection.made[0]?.closed === true);
  made.succeeded();
  await eventually("the second", () => made.report.kind === "webrtc");
  assert.equal(FakeConnection.made.length, 2);
  assert.ok(made.report.sent > 0, "what went over the first counts");
});

test("when the network comes back it is tried at once", async () => {
  const target = new EventTarget();
  const { addEventListener } = globalThis as Partial<typeof globalThis>;
  Object.assign(globalThis, { addEventListener: target.addEventListener.bind(target) });
  try {
    const host = new Host();
    let works = false;
    host.answer = () => {
      if (works) return { v: 1, peer_id: PEER, sdp: "answer" };
      throw new RelayError("rate_limited", { status: 429, verified: true, retryAfter: 3600 });
    };
    const made = choice(host);
    made.succeeded();
    await eventually("the refusal", () => FakeConnection.made[0]?.closed === true);
    await settle();
    works = true;
    made.succeeded();
    await settle();
    assert.equal(FakeConnection.made.length, 1, "it was told to wait");
    target.dispatchEvent(new Event("online"));
    await eventually("the upgrade", () => made.report.kind === "webrtc");
    target.dispatchEvent(new Event("pagehide"));
    await eventually("the end", () => last().channel.server.away === 0);
    assert.equal(made.choose(), relay);
  } finally {
    Object.assign(globalThis, { addEventListener });
  }
});

test("closing tells the agent: by GoAway, or over the relay when the channel is silent", async () => {
  const host = new Host();
  const made = await upgraded(host);
  made.close();
  await eventually("the end", () => last().closed);
  assert.equal(last().channel.server.away, 0);
  assert.ok(host.calls.every(({ method }) => method === "POST"));
  assert.equal(made.choose(), relay);
  made.succeeded();
  await settle();
  assert.equal(FakeConnection.made.length, 1);

  const other = new Host();
  const second = await upgraded(other);
  last().channel.cut = true;
  last().disconnected();
  second.close();
  await eventually("the end", () => last().closed);
  assert.deepEqual(other.calls.at(-1), {
    method: "DELETE",
    target: `/_relay/webrtc/${PEER}`,
    body: undefined,
  });
});
