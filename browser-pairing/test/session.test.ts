/** How long sessions are used, how their exchanges are counted, and what a request's head says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Channel } from "../src/channel.js";
import { verifyingKey } from "../src/keys.js";
import { type Age, Lifetime } from "../src/lifetime.js";
import { RelayLink } from "../src/link.js";
import { browserHeaders } from "../src/requesthead.js";
import { load } from "../src/store.js";
import { useForm, withHost } from "./support/browser.js";

const never = new AbortController().signal;

/** A life, when it was used, and its age at a time; all in seconds. */
const LIVES: [string, () => Lifetime, number[], number, Age][] = [
  ["new and signed", () => Lifetime.signed(3600), [], 0, "fresh"],
  ["signed, before its renewal", () => Lifetime.signed(3600), [], 3239, "fresh"],
  ["signed, due for renewal", () => Lifetime.signed(3600), [], 3240, "renew"],
  ["signed, a minute before its end", () => Lifetime.signed(3600), [], 3540, "over"],
  ["signed, prolonged by use", () => Lifetime.signed(3600), [3000], 6500, "renew"],
  ["signed, an earlier use shortens nothing", () => Lifetime.signed(3600), [3000, 10], 6000, "fresh"],
  ["signed, a day old, however used", () => Lifetime.signed(3600), [86_000], 86_341, "over"],
  ["signed, the agent promises more than it may", () => Lifetime.signed(1e9), [], 3540, "over"],
  ["new and sealed", () => Lifetime.sealed(3600), [], 0, "fresh"],
  ["sealed, due for renewal", () => Lifetime.sealed(3600), [], 3240, "renew"],
  ["sealed, use prolongs nothing", () => Lifetime.sealed(3600), [3500], 3541, "over"],
  ["sealed, the agent promises more than it may", () => Lifetime.sealed(1e9), [], 86_341, "over"],
  ["sealed and short: a tenth is kept back", () => Lifetime.sealed(20), [], 15.9, "fresh"],
  ["sealed and short: another tenth to renew", () => Lifetime.sealed(20), [], 16, "renew"],
  ["sealed and short, over", () => Lifetime.sealed(20), [], 18, "over"],
];
for (const [name, make, uses, now, wanted] of LIVES) {
  test(`a session that is ${name}: ${wanted}`, () => {
    const life = make();
    for (const at of uses) life.used(at);
    assert.equal(life.age(now), wanted);
  });
}

test("a session takes 2^20 exchanges and no more; the next one is there before", async () => {
  useForm("sealed");
  await withHost(async (host, { relay, access }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    const pairing = await load(host.hostId);
    const key = pairing === undefined ? undefined : await verifyingKey(pairing.agentEd25519);
    assert.ok(pairing !== undefined && key !== undefined);
    let made = 0;
    const ears = {
      session: () => {
        made += 1;
      },
      revoked: () => {},
      path: () => {},
    };
    const channel = new Channel(new RelayLink(access, host.hostId), pairing, key, "sealed", ears);
    const put = { method: "PUT", target: "/", headers: new Headers(), local: true };
    const send = async () => (await channel.request(put, never)).status;
    assert.equal(await send(), 200);
    const first = channel.sessions.current;
    assert.ok(first !== undefined);
    assert.equal(first.exchanges, 1);
    // While the relay keeps the next session back, the last numbers are used, and none twice.
    relay.hostile.request = (request) => {
      if (request.target !== "/_relay/session") return request;
      return { status: 503, headers: {}, body: Buffer.alloc(0) };
    };
    first.exchanges = 2 ** 20 - 3;
    assert.deepEqual(await Promise.all([send(), send(), send()]), [200, 200, 200]);
    assert.equal(made, 1);
    await assert.rejects(send());
    assert.equal(first.exchanges, 2 ** 20);
    relay.hostile = {};
    assert.equal(await send(), 200);
    assert.equal(made, 2);
    assert.deepEqual(
      [...(relay.agent.sessions.get(first.id)?.used ?? [])].sort((a, b) => (a < b ? -1 : 1)),
      [0n, 2n ** 20n - 3n, 2n ** 20n - 2n, 2n ** 20n - 1n],
    );
    // With some left, the next is made while this one serves.
    const second = channel.sessions.current;
    assert.ok(second !== undefined);
    second.exchanges = 2 ** 20 - 1024;
    while (made === 2) assert.equal(await send(), 200);
    assert.equal(await send(), 200);
    assert.notEqual(channel.sessions.current?.id, second.id);
    assert.ok(second.exchanges < 2 ** 20);
  });
});

const ASKER = { userAgent: "Test/1", languages: ["de-CH", "de", "en"], origin: "https://page.example" };
const HEADS: [string, string, HeadersInit, boolean, [string, string][]][] = [
  [
    "a GET",
    "GET",
    {},
    false,
    [
      ["accept", "*/*"],
      ["accept-encoding", "gzip, deflate"],
      ["accept-language", "de-CH, de;q=0.9, en;q=0.8"],
      ["user-agent", "Test/1"],
    ],
  ],
  [
    "a POST whose caller says more",
    "POST",
    { accept: "text/x", "accept-language": "fr", "content-type": "text/x" },
    false,
    [
      ["accept", "text/x"],
      ["accept-encoding", "gzip, deflate"],
      ["accept-language", "fr"],
      ["content-type", "text/x"],
      ["origin", "https://page.example"],
      ["user-agent", "Test/1"],
    ],
  ],
  [
    "a WebSocket",
    "GET",
    { "sec-websocket-protocol": "chat" },
    true,
    [
      ["accept-language", "de-CH, de;q=0.9, en;q=0.8"],
      ["origin", "https://page.example"],
      ["sec-websocket-protocol", "chat"],
      ["user-agent", "Test/1"],
    ],
  ],
];
for (const [name, method, given, websocket, wanted] of HEADS) {
  test(`the headers of ${name}`, () => {
    const list = browserHeaders(method, new Headers(given), ASKER, websocket);
    assert.deepEqual(list, wanted);
  });
}

test("who says nothing about itself is not made up", () => {
  const list = browserHeaders("POST", new Headers(), {}, false);
  assert.deepEqual(list, [
    ["accept", "*/*"],
    ["accept-encoding", "gzip, deflate"],
  ]);
});
