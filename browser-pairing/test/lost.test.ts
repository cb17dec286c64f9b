/** Paths that are lost: the very same bytes go over another one, in either form, and nothing is done twice. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { Channel } from "../src/channel.js";
import { type PairedHost, type Protection, RelayError } from "../src/index.js";
import { verifyingKey } from "../src/keys.js";
import { RelayLink } from "../src/link.js";
import { type Answered, type ExchangePath, PathLost, type RecordSocket } from "../src/path.js";
import { RelayPath } from "../src/relaypath.js";
import { load } from "../src/store.js";
import { HostWebSocket } from "../src/websocket.js";
import { eachForm as test, type World, withHost } from "./support/browser.js";

const never = new AbortController().signal;
const coded = (code: string) => (error: unknown) => error instanceof RelayError && error.code === code;

/** A direct path that carries to the agent whatever it is told to, and then loses the answer or the question. */
class Fragile implements ExchangePath {
  readonly kind = "webrtc";
  readonly sent: Buffer[] = [];
  /** Whether the bytes still get there. */
  arrives = false;
  lost = true;

  constructor(readonly relay: ExchangePath) {}

  async send(exchange: Blob, signal: AbortSignal): Promise<Answered> {
    this.sent.push(Buffer.from(await exchange.arrayBuffer()));
    if (!this.lost) return this.relay.send(exchange, signal);
    if (this.arrives) {
      const answered = await this.relay.send(exchange, signal);
      // The agent has done all of it.
      if (answered.kind === "records") await new Response(answered.body).arrayBuffer();
    }
    throw new PathLost("cut");
  }

  async open(first: Uint8Array<ArrayBuffer>): Promise<RecordSocket> {
    this.sent.push(Buffer.from(first));
    // As good as lost.
    return { next: async () => undefined, send: () => {}, bufferedAmount: 0, close: () => {} };
  }
}

/** A channel of its own to the world's agent, with a direct path. */
async function channelTo(host: PairedHost, { relay, access }: World, form: Protection) {
  const pairing = await load(host.hostId);
  const key = pairing === undefined ? undefined : await verifyingKey(pairing.agentEd25519);
  assert.ok(pairing !== undefined && key !== undefined);
  const link = new RelayLink(access, host.hostId);
  const ears = { session: () => {}, revoked: () => {}, path: () => {} };
  const channel = new Channel(link, pairing, key, form, ears);
  const direct = new Fragile(new RelayPath(link));
  const over: Buffer[] = [];
  relay.hostile.request = (request) => {
    if (request.target === "/_relay/exchange") over.push(request.body);
    return request;
  };
  channel.paths.choose = (lost) => (lost === direct ? channel.paths.relay : direct);
  return { channel, direct, over };
}

const get = { method: "GET", target: "/", headers: new Headers(), local: true };
const put = { ...get, method: "PUT", body: new Blob(["x".repeat(100_000)]) };

test("what was lost on its way goes over the relay as it is", async (_, form) => {
  await withHost(async (host, world) => {
    const { channel, direct, over } = await channelTo(host, world, form);
    world.relay.agent.local = () => ({ status: 200, headers: [] });
    assert.equal((await channel.request(put, never)).status, 200);
    assert.equal(direct.sent.length, 1);
    assert.deepEqual(over, direct.sent);
    assert.equal(world.relay.agent.forwarded.length, 1);
    assert.equal(world.relay.agent.forwarded[0]?.body.length, 100_000);
  });
});

test("what was done and whose answer was lost is not done again, unless it is safe", async (_, form) => {
  await withHost(async (host, world) => {
    const { channel, direct, over } = await channelTo(host, world, form);
    const { agent } = world.relay;
    agent.local = () => ({ status: 200, headers: [] });
    direct.arrives = true;
    await assert.rejects(channel.request(put, never), coded("replayed"));
    assert.equal(agent.forwarded.length, 1);
    assert.deepEqual(new Set(over.map(String)), new Set(direct.sent.map(String)));
    // A GET is done anew, under a number of its own, and that one is lost as well.
    await assert.rejects(channel.request(get, never), coded("replayed"));
    assert.equal(agent.forwarded.length, 3);
    const preludes = new Set(direct.sent.map((bytes) => bytes.subarray(0, 24).toString("hex")));
    assert.equal(preludes.size, 3);
  });
});

test("a WebSocket that is lost before it opens is opened over the relay, by the very same bytes", async (_, form) => {
  await withHost(async (host, world) => {
    const { channel, direct } = await channelTo(host, world, form);
    let asked = "";
    const upgrades: string[] = [];
    world.relay.hostile.request = (request) => {
      if (request.target.includes("relay-exchange=")) upgrades.push(request.target);
      return request;
    };
    world.relay.socket = ({ request }) => {
      asked = request.target;
      return { status: 101 };
    };
    const socket = new HostWebSocket(channel, "/ws?x", [], never);
    await once(socket, "open");
    assert.equal(asked, "/ws?x");
    assert.deepEqual(upgrades, [`/_relay/exchange?relay-exchange=${direct.sent[0]?.toString("base64url")}`]);
    socket.close();
    await once(socket, "close");
  });
});

test("a WebSocket's address may be long, and no longer", async (_, form) => {
  await withHost(async (host, { relay }) => {
    relay.socket = () => ({ status: 101 });
    const long = host.webSocket(`/${"x".repeat(7_000)}`);
    await once(long, "open");
    long.close();
    if (form === "signed") return;
    const longer = host.webSocket(`/${"x".repeat(9_500)}`);
    const [event] = (await once(longer, "error")) as [Event & { error: unknown }];
    assert.ok(coded("uri_too_long")(event.error));
  });
});
