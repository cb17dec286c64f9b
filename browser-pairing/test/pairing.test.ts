import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { openHost, pairedHosts, pairHost, RelayError } from "../src/index.js";
import { CODE, paired, withHost, withRelay } from "./support/browser.js";
import { fingerprint } from "./support/sideb.js";

/** Whether an error is ours, with this code. */
const coded = (code: string, verified?: boolean) => (error: unknown) =>
  error instanceof RelayError &&
  error.code === code &&
  (verified === undefined || error.verified === verified);

test("a browser with the code is paired, both ends show the same fingerprint, and the pairing is kept", async () => {
  await withRelay(async (world) => {
    const host = await paired(world);
    const { agent } = world.relay;
    const [client] = [...agent.clients.values()];
    assert.equal(host.clientId, client?.id);
    assert.equal(client?.name, "Test");
    assert.equal(host.fingerprint, fingerprint(agent.rawKey, client?.raw ?? Buffer.alloc(0)));
    assert.match(host.fingerprint, /^[0-9a-f]{4}( [0-9a-f]{4}){3}$/);
    assert.equal(host.name, "stand-in");
    const kept = (await pairedHosts()).find(({ hostId }) => hostId === agent.hostId);
    assert.deepEqual(
      { name: kept?.name, fingerprint: kept?.fingerprint, relayUrl: kept?.relayUrl },
      { name: "stand-in", fingerprint: host.fingerprint, relayUrl: world.relay.url },
    );
    host.close();

    const again = await openHost({ relay: world.access, hostId: agent.hostId.toUpperCase() });
    agent.local = () => ({ status: 200, headers: [], body: Buffer.from("kept") });
    assert.equal(await (await again?.fetch("/"))?.text(), "kept");
    await again?.forget();
    assert.equal(await openHost({ relay: world.access, hostId: agent.hostId }), undefined);
  });
});

test("keys in the store cannot be read out", async () => {
  await withHost(async (_, { relay }) => {
    const { load } = await import("../src/store.js");
    const pairing = await load(relay.agent.hostId);
    for (const key of [pairing?.signingKey, pairing?.exchangeKey, pairing?.psk]) {
      assert.equal(key?.extractable, false);
      for (const format of ["raw", "pkcs8", "jwk"] as const) {
        await assert.rejects(crypto.subtle.exportKey(format, key as CryptoKey));
      }
    }
  });
});

test("a wrong code burns the code, and nothing is kept", async () => {
  await withRelay(async ({ relay, access }) => {
    const { agent } = relay;
    agent.code = CODE;
    const attempt = (code: string) => pairHost({ relay: access, hostId: agent.hostId, code });
    await assert.rejects(attempt("907154"), coded("pairing_failed", false));
    assert.equal(agent.code, undefined);
    await assert.rejects(attempt(CODE), coded("pairing_not_open"));
    assert.equal(agent.clients.size, 0);
    assert.equal(await openHost({ relay: access, hostId: agent.hostId }), undefined);
  });
});

test("what is no code is refused before anything is sent", async () => {
  await withRelay(async ({ relay, access }) => {
    for (const code of ["", "12345", "1234567", "12345a", "１２３４５６"]) {
      await assert.rejects(pairHost({ relay: access, hostId: relay.agent.hostId, code }), TypeError);
    }
    await assert.rejects(pairHost({ relay: access, hostId: "not-a-uuid", code: CODE }), TypeError);
    assert.equal(relay.crossed.length, 0);
  });
});

test("a code may be typed in groups", async () => {
  await withRelay(async ({ relay, access }) => {
    relay.agent.code = CODE;
    const host = await pairHost({ relay: access, hostId: relay.agent.hostId, code: " 907 153 " });
    assert.equal(relay.agent.clients.size, 1);
    host.close();
  });
});

/** Every form in which a code might slip through. */
function forms(code: string): [string, Buffer][] {
  const plain = Buffer.from(code);
  const number = Buffer.alloc(4);
  number.writeUInt32BE(Number(code));
  const list: [string, Buffer][] = [
    ["digits", plain],
    ["grouped", Buffer.from(`${code.slice(0, 3)} ${code.slice(3)}`)],
    ["hyphenated", Buffer.from(`${code.slice(0, 3)}-${code.slice(3)}`)],
    ["reversed", Buffer.from([...code].reverse().join(""))],
    ["utf-16", Buffer.from(code, "utf16le")],
    ["hex", Buffer.from(plain.toString("hex"))],
    ["HEX", Buffer.from(plain.toString("hex").toUpperCase())],
    ["number in hex", Buffer.from(Number(code).toString(16).padStart(8, "0"))],
    ["percent", Buffer.from([...code].map((digit) => `%3${digit}`).join(""))],
    ["JSON array", Buffer.from([...code].join(","))],
    ["big-endian", number],
    ["little-endian", Buffer.from(number).reverse()],
  ];
  for (const name of ["md5", "sha1", "sha256", "sha512"]) {
    const digest = createHash(name).update(plain).digest();
    list.push(
      [name, digest.subarray(0, 12)],
      [`${name} hex`, Buffer.from(digest.toString("hex").slice(0, 24))],
    );
    list.push([`${name} base64`, Buffer.from(digest.toString("base64").slice(0, 14))]);
    list.push([`${name} base64url`, Buffer.from(digest.toString("base64url").slice(0, 14))]);
  }
  // In base64 a text looks differently at each of three places; its middle is the same whatever is around.
  for (const [shift, from, to] of [
    [0, 0, 8],
    [1, 2, 9],
    [2, 3, 10],
  ] as const) {
    const text = Buffer.concat([Buffer.alloc(shift), plain, Buffer.alloc(2)]).toString("base64");
    list.push([`base64 at ${shift}`, Buffer.from(text.slice(from, to))]);
  }
  return list;
}

test("the code crosses the relay in no encoding, when it is right and when it is wrong", async () => {
  await withRelay(async (world) => {
    const { relay, access } = world;
    const host = await paired(world);
    await host.browsers().list();
    relay.agent.code = "638204";
    await assert.rejects(pairHost({ relay: access, hostId: relay.agent.hostId, code: CODE }));
    const { code: next } = await host.nextDeviceCode();
    assert.equal(next, "424242");
    const crossed = Buffer.concat(relay.crossed.flatMap((part) => [part, Buffer.from("\n")]));
    // What base64url carries is looked at in the clear as well.
    const inside = [...crossed.toString("latin1").matchAll(/[A-Za-z0-9_/+-]{12,}/g)].map(([text]) =>
      Buffer.from(text, "base64"),
    );
    const all = Buffer.concat([crossed, ...inside.flatMap((part) => [part, Buffer.from("\n")])]);
    for (const code of [CODE, "638204", next]) {
      for (const [name, form] of forms(code)) assert.equal(all.includes(form), false, `${code} as ${name}`);
    }
    host.close();
  });
});

test("the search for codes finds one that is there", () => {
  for (const [name, form] of forms(CODE)) assert.ok(form.length >= 4, name);
  for (const before of ["", "x", "xy", "xyz"]) {
    const hidden = Buffer.from(`{"c":"${Buffer.from(`${before}${CODE}y`).toString("base64")}"}`);
    assert.ok(
      forms(CODE).some(([, form]) => hidden.includes(form)),
      before,
    );
  }
});

test("a code for the next device is sealed for this browser and this request", async () => {
  await withHost(async (host, { relay }) => {
    const before = relay.crossed.length;
    const { code, expiresAt } = await host.nextDeviceCode();
    assert.equal(code, "424242");
    assert.ok(expiresAt > relay.agent.now);
    assert.ok(relay.crossed.length > before);
  });
});

test("paired browsers can be listed, renamed and revoked, and a revoked browser is told so by the agent", async () => {
  await withHost(async (host, { relay }) => {
    const [first] = await host.browsers().list();
    assert.equal(first?.current, true);
    assert.equal((await host.browsers().rename(host.clientId, "Kitchen")).name, "Kitchen");
    let told = false;
    host.addEventListener("revoked", () => {
      told = true;
    });
    await host.browsers().revoke(host.clientId);
    await assert.rejects(host.fetch("/"), coded("not_paired", true));
    assert.equal(told, true);
    assert.equal(relay.agent.forwarded.length, 0);
  });
});

test("a page without WebCrypto is told that it needs https", async () => {
  await withRelay(async ({ relay, access }) => {
    const own = Object.getOwnPropertyDescriptor(globalThis, "crypto");
    Object.defineProperty(globalThis, "crypto", { value: {}, configurable: true });
    try {
      const options = { relay: access, hostId: relay.agent.hostId, code: CODE };
      await assert.rejects(pairHost(options), coded("insecure_context"));
      await assert.rejects(openHost(options), coded("insecure_context"));
    } finally {
      if (own !== undefined) Object.defineProperty(globalThis, "crypto", own);
    }
    assert.equal(relay.crossed.length, 0);
  });
});

test("a browser without Ed25519 is told so before the code is used", async (t) => {
  await withRelay(async ({ relay, access }) => {
    relay.agent.code = CODE;
    t.mock.method(crypto.subtle, "generateKey", () =>
      Promise.reject(new DOMException("no", "NotSupportedError")),
    );
    const options = { relay: access, hostId: relay.agent.hostId, code: CODE };
    await assert.rejects(pairHost(options), coded("unsupported_browser"));
    t.mock.restoreAll();
    assert.equal(relay.agent.code, CODE);
  });
});

test("a browser that cannot store keys is told so before the code is used", async (t) => {
  await withRelay(async ({ relay, access }) => {
    relay.agent.code = CODE;
    t.mock.method(IDBObjectStore.prototype, "put", () => {
      throw new DOMException("not cloneable", "DataCloneError");
    });
    const options = { relay: access, hostId: relay.agent.hostId, code: CODE };
    await assert.rejects(pairHost(options), coded("storage_unavailable"));
    t.mock.restoreAll();
    assert.equal(relay.agent.code, CODE);
    assert.equal(relay.crossed.length, 0);
  });
});

test("a pairing that cannot be kept although the host accepted says so, and the host is told", async (t) => {
  await withRelay(async ({ relay, access }) => {
    relay.agent.code = CODE;
    const put = IDBObjectStore.prototype.put;
    t.mock.method(
      IDBObjectStore.prototype,
      "put",
      function (this: IDBObjectStore, value: { hostId: string }) {
        if (value.hostId === relay.agent.hostId) throw new DOMException("full", "QuotaExceededError");
        return put.call(this, value);
      },
    );
    const options = { relay: access, hostId: relay.agent.hostId, code: CODE };
    await assert.rejects(pairHost(options), coded("storage_failed", true));
    t.mock.restoreAll();
    assert.equal(relay.agent.clients.size, 0);
    assert.equal(await openHost(options), undefined);
  });
});

test("a pairing whose relay session ended on the way goes on over a new one", async () => {
  await withRelay(async ({ relay, access }) => {
    relay.agent.code = CODE;
    let cut = false;
    relay.hostile.answer = (answer) => {
      if (!cut) relay.sessions.clear();
      cut = true;
      return answer;
    };
    const host = await pairHost({ relay: access, hostId: relay.agent.hostId, code: CODE });
    assert.equal(relay.asked, 2);
    host.close();
  });
});
