import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { deflateSync, gzipSync } from "node:zlib";
import { openHost, RelayError } from "../src/index.js";
import { chosen, eachForm as test, withHost } from "./support/browser.js";

const coded = (code: string, verified?: boolean) => (error: unknown) =>
  error instanceof RelayError &&
  error.code === code &&
  (verified === undefined || error.verified === verified);

test("a GET reaches the local server with its path, query and headers, and its answer comes back whole", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({
      status: 203,
      headers: [
        ["content-type", "text/plain"],
        ["x-one", "1"],
        ["x-one", "2"],
        ["x-bytes", "caf\u00e9"],
      ],
      body: Buffer.from("hello"),
    });
    const response = await host.fetch("/a%2Fb/../c?x=1&y=%20#part", {
      headers: { "X-App": "  yes  ", "user-agent": "no" },
    });
    assert.equal(response.status, 203);
    assert.equal(response.headers.get("x-one"), "1, 2");
    assert.equal(response.headers.get("x-bytes"), "caf\u00e9");
    assert.equal(response.url, "/c?x=1&y=%20");
    assert.equal(response.redirected, false);
    assert.equal(await response.text(), "hello");
    const [asked] = relay.agent.forwarded;
    assert.equal(asked?.target, "/c?x=1&y=%20");
    assert.equal(asked?.headers["x-app"], "yes");
    assert.notEqual(asked?.headers["user-agent"], "no");
    assert.equal(asked?.clientId, host.clientId);
  });
});

const BODIES: [string, BodyInit, string, string | undefined][] = [
  ["text", "grüße", "grüße", "text/plain;charset=UTF-8"],
  ["nothing in it", "", "", "text/plain;charset=UTF-8"],
  ["bytes", new Uint8Array([1, 2, 3]), "\u0001\u0002\u0003", undefined],
  ["a form", new URLSearchParams({ a: "1" }), "a=1", "application/x-www-form-urlencoded;charset=UTF-8"],
  ["a blob", new Blob(["blob"], { type: "image/png" }), "blob", "image/png"],
];
for (const [name, body, wanted, type] of BODIES) {
  test(`a POST of ${name} is signed with its digest and its type`, async () => {
    await withHost(async (host, { relay }) => {
      relay.agent.local = ({ body: came }) => ({ status: 200, headers: [], body: came });
      const response = await host.fetch("/", { method: "POST", body });
      assert.equal(await response.text(), wanted);
      assert.equal(relay.agent.forwarded[0]?.headers["content-type"], type);
    });
  });
}

test("a multipart form keeps its boundary, and a stream is collected", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = ({ body }) => ({ status: 200, headers: [], body });
    const form = new FormData();
    form.set("file", new Blob(["contents"]), "a.txt");
    const text = await (await host.fetch("/", { method: "POST", body: form })).text();
    const type = relay.agent.forwarded[0]?.headers["content-type"] ?? "";
    const boundary = /boundary=(.+)$/.exec(type)?.[1] ?? "none";
    assert.ok(text.includes(boundary) && text.includes("contents"));
    const stream = new Blob(["in ", "pieces"]).stream();
    assert.equal(await (await host.fetch("/", { method: "PUT", body: stream })).text(), "in pieces");
  });
});

test("a large body is hashed in slices and arrives whole", async () => {
  await withHost(async (host, { relay }) => {
    const big = new Uint8Array(5 * 1024 * 1024 + 7).map((_, i) => i * 31);
    relay.agent.local = ({ body }) => ({
      status: 200,
      headers: [],
      body: Buffer.from(createHash("sha256").update(body).digest("hex")),
    });
    const response = await host.fetch("/", { method: "POST", body: new Blob([big]) });
    assert.equal(await response.text(), createHash("sha256").update(big).digest("hex"));
  });
});

test("a Request object stands for its path", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = ({ body }) => ({ status: 200, headers: [], body });
    const request = new Request("http://local.invalid/x?y", {
      method: "POST",
      body: "z",
      headers: { "x-a": "1" },
    });
    assert.equal(await (await host.fetch(request)).text(), "z");
    assert.equal(relay.agent.forwarded[0]?.target, "/x?y");
    assert.equal(relay.agent.forwarded[0]?.headers["x-a"], "1");
  });
});

test("what is no path of the local server is refused before anything is sent", async () => {
  await withHost(async (host, { relay }) => {
    const before = relay.crossed.length;
    for (const input of [
      "https://example.org/",
      "//example.org/x",
      "http://user:pw@local.invalid/",
      "javascript:1",
    ]) {
      await assert.rejects(host.fetch(input), TypeError, input);
    }
    assert.throws(() => host.webSocket("https://example.org/"), TypeError);
    assert.equal(relay.crossed.length, before);
  });
});

test("no path leaves the host's prefix", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    for (const input of ["/../../x", "/%2e%2e/%2E%2E/x", "/a/..\\..\\..\\x", "\\..\\x", "/..//x"]) {
      await host.fetch(input);
      const target = relay.agent.forwarded.at(-1)?.target ?? "";
      assert.match(target, /^\/\/?x$/, input);
    }
  });
});

test("headers that others own are left out instead of breaking the signature", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    const headers = {
      "x-forwarded-for": "1.2.3.4",
      "x-request-id": "mine",
      "x-relay-client-id": "me",
      "x-relay-records": "0",
      "content-digest": "sha-256=:AA==:",
      signature: "a=:AA==:",
      "x-real-ip": "1.1.1.1",
      "x-kept": "yes",
    };
    assert.equal((await host.fetch("/", { headers })).status, 200);
    const seen = relay.agent.forwarded[0]?.headers ?? {};
    assert.equal(seen["x-kept"], "yes");
    for (const name of ["x-forwarded-for", "x-relay-client-id", "x-real-ip"])
      assert.equal(seen[name], undefined, name);
  });
});

test("too many headers are an error of their own", async (_, form) => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    const headers = Object.fromEntries(Array.from({ length: 61 }, (_, i) => [`x-${i}`, "1"]));
    // What is signed has a limit in number, what is sealed one in length.
    if (form === "signed") await assert.rejects(host.fetch("/", { headers }), coded("header_too_large"));
    else assert.equal((await host.fetch("/", { headers })).status, 200);
    const long = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`x-${i}`, "1".repeat(6000)]));
    if (form === "sealed") {
      await assert.rejects(host.fetch("/", { headers: long }), coded("header_too_large"));
      assert.equal((await host.fetch("/")).status, 200);
    }
  });
});

test("content codings are decoded, alone and nested, and an empty body is empty in each", async () => {
  await withHost(async (host, { relay }) => {
    const cases: [string, Buffer, string][] = [
      ["gzip", gzipSync("squeezed"), "squeezed"],
      ["deflate", deflateSync("squeezed"), "squeezed"],
      ["deflate, gzip", gzipSync(deflateSync("squeezed")), "squeezed"],
      ["identity", Buffer.from("plain"), "plain"],
      ["gzip", Buffer.alloc(0), ""],
    ];
    for (const [coding, body, wanted] of cases) {
      relay.agent.local = () => ({
        status: 200,
        headers: [
          ["content-encoding", coding],
          ["content-length", String(body.length)],
        ],
        body,
      });
      const response = await host.fetch("/");
      assert.equal(await response.text(), wanted);
      if (coding !== "identity") assert.equal(response.headers.get("content-length"), null);
    }
  });
});

test("a coding that cannot be decoded, or does not decode, is an error and no garbage", async () => {
  await withHost(async (host, { relay }) => {
    const answer = (coding: string, body: Buffer) => {
      relay.agent.local = () => ({ status: 200, headers: [["content-encoding", coding]], body });
    };
    answer("compress", Buffer.from("x"));
    await assert.rejects(host.fetch("/"), coded("unsupported_encoding", true));
    answer("gzip, gzip, gzip", Buffer.from("x"));
    await assert.rejects(host.fetch("/"), coded("unsupported_encoding", true));
    answer("gzip", Buffer.from("this is not gzip"));
    await assert.rejects((await host.fetch("/")).text());
    answer("gzip", gzipSync("cut off in the middle of it").subarray(0, 20));
    await assert.rejects((await host.fetch("/")).text());
  });
});

for (const status of [204, 304]) {
  test(`a ${status} has no body`, async () => {
    await withHost(async (host, { relay }) => {
      relay.agent.local = () => ({ status, headers: [["etag", '"1"']] });
      const response = await host.fetch("/");
      assert.equal(response.status, status);
      assert.equal(response.body, null);
      assert.equal(response.headers.get("etag"), '"1"');
    });
  });
}

test("HEAD gives the verified head", async (_, form) => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [["x-size", "7"]], body: Buffer.from("ignored") });
    const response = await host.fetch("/", { method: "HEAD" });
    assert.equal(response.headers.get("x-size"), "7");
    assert.equal(await response.text(), "");
    relay.agent.sessions.clear();
    assert.equal((await host.fetch("/", { method: "HEAD" })).status, 200);
    relay.sessions.clear();
    assert.equal((await host.fetch("/", { method: "HEAD" })).status, 200);
    relay.agent.local = ({ target }) =>
      target === "/x"
        ? { status: 200, headers: [["x-size", "8"]] }
        : { status: 302, headers: [["location", "/x"]] };
    const redirected = host.fetch("/", { method: "HEAD" });
    if (form === "signed") await assert.rejects(redirected, coded("redirect_refused"));
    else assert.equal((await redirected).headers.get("x-size"), "8");
  });
});

const REDIRECTS: [number, string, string, boolean][] = [
  [301, "POST", "GET", false],
  [302, "POST", "GET", false],
  [301, "PUT", "PUT", true],
  [303, "PUT", "GET", false],
  [307, "POST", "POST", true],
  [308, "PATCH", "PATCH", true],
];
for (const [status, method, wanted, keeps] of REDIRECTS) {
  test(`a ${status} turns ${method} into ${wanted}, ${keeps ? "with" : "without"} the body`, async () => {
    await withHost(async (host, { relay }) => {
      relay.agent.local = ({ target, method: asked, body, headers }) =>
        target === "/a/from"
          ? { status, headers: [["location", "to?x#y"]] }
          : {
              status: 200,
              headers: [],
              body: Buffer.from(`${asked} ${target} ${body} ${headers["content-type"] ?? ""}`),
            };
      const headers = { "content-type": "text/x" };
      const response = await host.fetch("/a/from", { method, body: "body", headers });
      assert.equal(await response.text(), keeps ? `${wanted} /a/to?x body text/x` : `${wanted} /a/to?x  `);
      assert.equal(response.redirected, true);
      assert.equal(response.url, "/a/to?x");
    });
  });
}

test("redirects end: at another origin, after twenty, and where the caller wants none", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({
      status: 302,
      headers: [["location", "https://example.org/x"]],
      body: Buffer.from("go"),
    });
    await assert.rejects(host.fetch("/"), coded("redirect_refused", true));
    await assert.rejects(host.fetch("/", { redirect: "error" }), coded("redirect_refused", true));
    const manual = await host.fetch("/", { redirect: "manual" });
    assert.equal(manual.status, 302);
    assert.equal(manual.headers.get("location"), "https://example.org/x");
    assert.equal(await manual.text(), "go");
    const before = relay.agent.forwarded.length;
    relay.agent.local = () => ({ status: 302, headers: [["location", "/again"]] });
    await assert.rejects(host.fetch("/"), coded("redirect_refused"));
    assert.equal(relay.agent.forwarded.length - before, 21);
  });
});

for (const status of [301, 302, 303, 307, 308]) {
  test(`a ${status} of the local server does not lead to what the agent itself answers`, async () => {
    await withHost(async (host, { relay }) => {
      const id = host.clientId;
      relay.agent.local = () => ({ status, headers: [["location", `/_relay/browsers/${id}`]] });
      await assert.rejects(host.fetch("/api", { method: "DELETE" }), coded("redirect_refused", true));
      assert.deepEqual([...relay.agent.clients.keys()], [id]);
      await assert.rejects(host.fetch(`/_relay/browsers/${id}`, { method: "DELETE" }), TypeError);
    });
  });
}

test("a slow reader slows the sender", async () => {
  await withHost(async (host, { relay }) => {
    let sent = 0;
    const total = 512;
    async function* flood() {
      for (; sent < total; sent++) yield Buffer.alloc(65_536, sent);
    }
    relay.agent.local = () => ({ status: 200, headers: [], body: flood() });
    const response = await host.fetch("/");
    const reader = response.body?.getReader();
    assert.equal((await reader?.read())?.value?.length, 65_536);
    // The sender goes on until everything between the two is full, and then stands still.
    let before = -1;
    while (before !== sent) {
      before = sent;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert.ok(sent < total, `${sent} of ${total} pieces were sent to a reader who took one`);
    let received = 1;
    for (let part = await reader?.read(); part?.done === false; part = await reader?.read()) received += 1;
    assert.equal(received, total);
  });
});

test("what comes is handed on at once", async () => {
  await withHost(async (host, { relay }) => {
    let go = () => {};
    const gate = new Promise<void>((resolve) => {
      go = resolve;
    });
    async function* two() {
      yield Buffer.from("first");
      await gate;
      yield Buffer.from("second");
    }
    relay.agent.local = () => ({ status: 200, headers: [], body: two() });
    const reader = (await host.fetch("/")).body?.getReader();
    assert.equal(Buffer.from((await reader?.read())?.value ?? []).toString(), "first");
    go();
    assert.equal(Buffer.from((await reader?.read())?.value ?? []).toString(), "second");
    assert.equal((await reader?.read())?.done, true);
  });
});

test("a byte reader works on the body as well", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [], body: Buffer.from("abcdef") });
    const reader = (await host.fetch("/")).body?.getReader({ mode: "byob" });
    const first = await reader?.read(new Uint8Array(4));
    assert.equal(Buffer.from(first?.value ?? []).toString(), "abcd");
    const second = await reader?.read(new Uint8Array(4));
    assert.equal(Buffer.from(second?.value ?? []).toString(), "ef");
    assert.equal((await reader?.read(new Uint8Array(4)))?.done, true);
  });
});

/** Until somebody ends it; says when it was. */
function endless(): { body: AsyncIterable<Buffer>; ended: Promise<void> } {
  let end = () => {};
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  async function* forever() {
    try {
      for (;;) {
        yield Buffer.from("tick");
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    } finally {
      end();
    }
  }
  return { body: forever(), ended };
}

test("aborting reaches the network, before and within the answer", async () => {
  await withHost(async (host, { relay }) => {
    const { body, ended } = endless();
    relay.agent.local = () => ({ status: 200, headers: [], body });
    const controller = new AbortController();
    const response = await host.fetch("/", { signal: controller.signal });
    const reason = new Error("enough");
    controller.abort(reason);
    await assert.rejects(response.text(), (error) => error === reason);
    await ended;

    relay.agent.local = () => new Promise(() => {});
    const second = new AbortController();
    const waiting = host.fetch("/", { signal: second.signal });
    second.abort(reason);
    await assert.rejects(waiting, (error) => error === reason);
    await assert.rejects(host.fetch("/", { signal: AbortSignal.abort(reason) }), (error) => error === reason);
  });
});

test("cancelling a body reaches the network, and closing the host ends what is under way", async () => {
  await withHost(async (host, { relay }) => {
    const first = endless();
    relay.agent.local = () => ({ status: 200, headers: [], body: first.body });
    await (await host.fetch("/")).body?.cancel();
    await first.ended;
    const second = endless();
    relay.agent.local = () => ({ status: 200, headers: [], body: second.body });
    const response = await host.fetch("/");
    host.close();
    await assert.rejects(response.text(), coded("closed"));
    await second.ended;
    await assert.rejects(host.fetch("/"), coded("closed"));
  });
});

test("an error in the middle of an answer is an error to its reader", async () => {
  await withHost(async (host, { relay }) => {
    async function* broken() {
      yield Buffer.from("so far");
      throw new Error("the local server fell over");
    }
    relay.agent.local = () => ({ status: 200, headers: [], body: broken() });
    await assert.rejects((await host.fetch("/")).text(), coded("local_server_failed", true));
  });
});

test("requests at the same time share one session of each kind", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    await Promise.all(Array.from({ length: 20 }, () => host.fetch("/")));
    assert.equal(relay.agent.sessionsMade, 1);
    assert.equal(relay.asked, 1);
    relay.agent.sessions.clear();
    relay.sessions.clear();
    await Promise.all(Array.from({ length: 20 }, () => host.fetch("/")));
    assert.equal(relay.agent.sessionsMade, 2);
    assert.equal(relay.asked, 2);
    assert.equal(relay.agent.forwarded.length, 40);
  });
});

for (const ahead of [600, -600, 86_400]) {
  test(`a clock that is ${ahead} s off locks nobody out`, async (_, form) => {
    await withHost(async (host, { relay }) => {
      relay.agent.ahead = ahead;
      relay.agent.local = () => ({ status: 200, headers: [], body: Buffer.from("in") });
      assert.equal(await (await host.fetch("/")).text(), "in");
      const before = relay.agent.nonces.size;
      assert.equal(await (await host.fetch("/")).text(), "in");
      const signatures = form === "signed" ? 1 : 0;
      assert.equal(relay.agent.nonces.size - before, signatures, "the second request needs no second try");
    });
  });
}

test("a clock that jumps while a session lives costs one more request", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    await host.fetch("/");
    relay.agent.ahead = 3000;
    assert.equal((await host.fetch("/")).status, 200);
    assert.equal(relay.agent.forwarded.length, 2);
  });
});

test("a refused token is asked for again, once", async () => {
  await withHost(async (paired, { relay }) => {
    const { hostId } = paired;
    let asked = 0;
    const tokens = ["old", "token"];
    const access = { url: relay.url, token: async () => tokens[asked++] ?? "none" };
    const host = await openHost({ relay: access, hostId, ...chosen() });
    relay.agent.local = () => ({ status: 200, headers: [] });
    assert.equal((await host?.fetch("/"))?.status, 200);
    assert.equal(asked, 2);
    host?.close();

    let refused = 0;
    const never = await openHost({
      relay: { url: relay.url, token: () => `bad${refused++}` },
      hostId,
      ...chosen(),
    });
    await assert.rejects(async () => never?.fetch("/"), coded("unauthorized", false));
    assert.equal(refused, 2);
    never?.close();
  });
});

test("a relay that cannot be reached is a network error", async () => {
  await withHost(async (host, { relay }) => {
    const other = await openHost({ relay: { url: "http://127.0.0.1:1" }, hostId: host.hostId, ...chosen() });
    await assert.rejects(async () => other?.fetch("/"), coded("network_error"));
    other?.close();
    assert.equal(relay.agent.forwarded.length, 0);
  });
});
