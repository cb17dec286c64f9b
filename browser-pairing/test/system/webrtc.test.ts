// The direct path with real programs and a real browser: how it comes about, what it carries, how it is lost, and
// who may not have it.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Browser } from "./chromium.js";
import { agentPeers, DirectPage } from "./direct.js";
import { flowHash } from "./local-server.js";
import { eventually, SOON } from "./processes.js";
import { Stack } from "./stack.js";
import { Turn } from "./turn.js";
import { UdpLine } from "./udp.js";

const MIB = 1024 * 1024;
/** Peers are on this machine. */
const LOOPBACK = ["--webrtc-address", "127.0.0.1"];

/** How often a request with this path reached the local server. */
function times(stack: Stack, target: string): number {
  return stack.local.arrived.filter((one) => one.target === target).length;
}

describe("the direct path", { timeout: 20 * SOON }, () => {
  let stack: Stack;
  let browser: Browser;
  let direct: DirectPage;

  before(async () => {
    stack = await Stack.start();
    browser = await Browser.start();
    direct = await DirectPage.open(browser, stack);
  });

  after(async () => {
    await browser?.stop();
    await stack?.stop();
  });

  it("comes about by itself after the first request, which did not wait for it", async () => {
    assert.match(await direct.get("/hello"), /^200 Hello/);
    await direct.goes("webrtc");
    const requests = direct.relayRequests();
    const first = requests.findIndex((request) => request.endsWith("/_relay/exchange"));
    const servers = requests.indexOf("GET /v1/relay/ice-servers");
    assert.ok(first >= 0 && servers > first, requests.join("\n"));
    assert.deepEqual(await direct.page.evaluate(() => ways), ["webrtc"]);
    await eventually("the agent knows the peer", async () => {
      const { peers, webrtc } = await agentPeers(stack);
      return webrtc?.open === 1 && peers[0]?.open === true && peers[0].path !== undefined;
    });
    assert.equal(
      await direct.page.evaluate(() => host.clientId),
      (await agentPeers(stack)).peers[0]?.browser,
    );
  });

  it("carries requests past the relay, which sees nothing of them", async () => {
    const before = (await agentPeers(stack)).webrtc;
    direct.relayRequests();
    assert.equal(await direct.hash(`/flow?bytes=${32 * MIB}`), flowHash(32 * MIB));
    const upload = await direct.page.evaluate(async (size) => {
      const body = new Uint8Array(size);
      for (let at = 0; at < size; at += 65_536) crypto.getRandomValues(body.subarray(at, at + 65_536));
      const hex = async (bytes: BufferSource) =>
        Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)), (byte) =>
          byte.toString(16).padStart(2, "0"),
        ).join("");
      const response = await host.fetch("/echo", { method: "POST", body });
      const back = await response.arrayBuffer();
      return [await hex(body), response.headers.get("x-sha256"), await hex(back)];
    }, 24 * MIB);
    assert.equal(upload[1], upload[0]);
    assert.equal(upload[2], upload[0]);
    const many = await direct.page.evaluate(async () => {
      const one = async (at: number) => {
        const response = await host.fetch(`/echo?n=${at}`, { method: "POST", body: `body ${at}` });
        return (await response.text()) === `body ${at}`;
      };
      return (await Promise.all(Array.from({ length: 100 }, (_, at) => one(at)))).filter((right) => right)
        .length;
    });
    assert.equal(many, 100);
    assert.deepEqual(direct.relayRequests(), []);
    await eventually("the agent has counted it", async () => {
      const { webrtc } = await agentPeers(stack);
      const sent = (webrtc?.bytes_sent ?? 0) - (before?.bytes_sent ?? 0);
      const received = (webrtc?.bytes_received ?? 0) - (before?.bytes_received ?? 0);
      return sent > 56 * MIB && received > 24 * MIB;
    });
    const { sent, received } = await direct.page.evaluate(() => host.path);
    assert.ok(sent > 24 * MIB && received > 56 * MIB);
  });

  it("gives the local server the headers that the relay would give, and none of the client's address", async () => {
    await direct.get("/hello?over=webrtc");
    const over = stack.local.arrived.find(({ target }) => target === "/hello?over=webrtc")?.headers;
    const { host: relayHost, protocol } = new URL(stack.url);
    assert.equal(over?.["x-forwarded-host"], relayHost);
    assert.equal(over["x-forwarded-proto"], protocol.replace(":", ""));
    assert.equal(over["x-forwarded-prefix"], `/v1/relay/h/${stack.hostId}`);
    assert.equal(over["x-forwarded-for"], undefined);
    assert.equal(over["x-relayed"], "1");
    assert.equal(over["x-relay-client-id"], await direct.page.evaluate(() => host.clientId));
  });

  it("carries WebSockets and event streams", async () => {
    direct.relayRequests();
    const echoed = await direct.page.evaluate(
      () =>
        new Promise<string[]>((resolve, reject) => {
          const socket = host.webSocket("/ws", ["echo.v1"]);
          const got: string[] = [];
          socket.binaryType = "arraybuffer";
          socket.onopen = () => {
            socket.send("text");
            socket.send(new Uint8Array(1_000_000));
          };
          socket.onmessage = ({ data }) => {
            got.push(typeof data === "string" ? data : String(data.byteLength));
            if (got.length === 2) socket.close(1000, "done");
          };
          socket.onclose = ({ code }) => resolve([socket.protocol, ...got, String(code)]);
          socket.onerror = () => reject(new Error("the socket failed"));
        }),
    );
    assert.deepEqual(echoed, ["echo.v1", "text", "1000000", "1000"]);
    const ticks = await direct.page.evaluate(
      () =>
        new Promise<string[]>((resolve) => {
          const source = host.eventSource("/events");
          const got: string[] = [];
          source.onmessage = ({ data }) => {
            got.push(data);
            if (got.length < 3) return;
            source.close();
            resolve(got);
          };
        }),
    );
    assert.deepEqual(ticks, ["tick 0", "tick 1", "tick 2"]);
    await eventually(
      "both have ended at the local server",
      () => stack.local.sockets + stack.local.streams === 0,
    );
    assert.deepEqual(direct.relayRequests(), []);
  });

  it("is held back by a page that stops reading, and others are not", async () => {
    const before = stack.local.flowed;
    const size = 256 * MIB;
    await direct.page.evaluate(async (bytes) => {
      const response = await host.fetch(`/flow?bytes=${bytes}`);
      const reader = response.body?.getReader();
      await reader?.read();
      kept["reader"] = Promise.resolve({ cancel: () => reader?.cancel() });
    }, size);
    let last = -1;
    await eventually("the local server is held back", async () => {
      const flowed = stack.local.flowed - before;
      const still = flowed === last;
      last = flowed;
      // Requests go on meanwhile, and take longer than a server that is not held back needs for more.
      for (let at = 0; at < 5; at++) assert.match(await direct.get("/hello"), /^200/);
      return still && flowed > 0;
    });
    assert.ok(last < 64 * MIB, `${last} bytes were taken of an answer that nobody reads`);
    await direct.page.evaluate(async () => {
      ((await kept["reader"]) as { cancel(): void }).cancel();
    });
    await eventually("no stream is left", async () => (await agentPeers(stack)).peers[0]?.streams === 0);
  });

  it("ends at once when the browser is revoked", async () => {
    const id = await direct.page.evaluate(() => {
      kept["events"] = new Promise((resolve) => {
        const source = host.eventSource("/events");
        source.onmessage = () => resolve("open");
      });
      return host.clientId;
    });
    await direct.page.evaluate(() => kept["events"]);
    const command = stack.command("browsers", "revoke", id);
    assert.equal(await command.ended, 0, command.output);
    await eventually("the peer has gone", async () => (await agentPeers(stack)).peers.length === 0);
    await eventually("the stream has gone", () => stack.local.streams === 0);
    await direct.goes("relay");
    assert.equal(await direct.get("/hello?after=revoked"), "not_paired");
    assert.equal(times(stack, "/hello?after=revoked"), 0);
  });
});

describe("a direct path that is cut", { timeout: 20 * SOON }, () => {
  let stack: Stack;
  let browser: Browser;
  let direct: DirectPage;
  const line = new UdpLine();

  before(async () => {
    stack = await Stack.start({ agent: LOOPBACK });
    browser = await Browser.start();
    direct = await DirectPage.open(browser, stack, { line });
    await direct.upgraded();
    assert.ok(line.passed > 0);
  });

  after(async () => {
    await browser?.stop();
    await stack?.stop();
    await line.stop();
  });

  it("leaves requests to the relay, does nothing unsafe twice, and goes on with what had begun", async () => {
    await direct.begin(`/flow?bytes=${16 * MIB}`);
    // Requests that have reached the local server and wait for their answer.
    await direct.page.evaluate(() => {
      const code = (error: unknown) => (error instanceof sdk.RelayError ? error.code : String(error));
      const ask = (method: string) =>
        host.fetch(`/hold?${method}`, { method }).then(async (response) => response.text(), code);
      kept["POST"] = ask("POST");
      kept["GET"] = ask("GET");
    });
    await eventually(
      "both have arrived",
      () => times(stack, "/hold?POST") === 1 && times(stack, "/hold?GET") === 1,
    );

    line.cut = true;
    await direct.goes("relay");
    direct.relayRequests();
    assert.match(await direct.get("/hello?after=cut"), /^200/);
    assert.ok(direct.relayRequests().some((request) => request.endsWith("/_relay/exchange")));
    assert.equal(times(stack, "/hello?after=cut"), 1);
    // The very same bytes came over the relay, and the agent had them already.
    assert.equal(await direct.page.evaluate(() => kept["POST"]), "replayed");
    await eventually("a safe one is done anew", () => times(stack, "/hold?GET") === 2);
    stack.local.release();
    assert.equal(await direct.page.evaluate(() => kept["GET"]), "released");
    assert.equal(times(stack, "/hold?POST"), 1);

    line.cut = false;
    await direct.goes("webrtc");
    assert.equal(await direct.rest(), flowHash(16 * MIB));
    assert.ok(line.dropped > 0);
    direct.relayRequests();
    assert.match(await direct.get("/hello?after=mended"), /^200/);
    assert.deepEqual(direct.relayRequests(), []);
  });

  it("finds another way by an ICE restart, and what had begun goes on", async () => {
    const peer = async () => (await agentPeers(stack)).peers[0]?.id;
    await eventually("the agent knows the peer", async () => (await peer()) !== undefined);
    const before = await peer();
    await direct.begin(`/flow?bytes=${16 * MIB}`);
    line.lose();
    await direct.goes("relay");
    await direct.goes("webrtc");
    assert.equal(await direct.rest(), flowHash(16 * MIB));
    assert.equal(await peer(), before);
  });

  it("that stays cut truncates what had begun, and a new one is made when it can be", async () => {
    await direct.page.evaluate(() => {
      const code = (error: unknown) => (error instanceof sdk.RelayError ? error.code : String(error));
      kept["socket"] = new Promise((resolve) => {
        const socket = host.webSocket("/ws");
        socket.onopen = () => {
          kept["open"] = Promise.resolve();
        };
        socket.onclose = ({ code: ended }) => resolve(ended);
      });
      kept["lost"] = host.fetch("/events").then(async (response) => {
        kept["began"] = Promise.resolve();
        return response.text();
      });
      kept["lost"] = kept["lost"].catch(code);
    });
    await eventually("both have begun", () =>
      direct.page.evaluate(() => kept["open"] !== undefined && kept["began"] !== undefined),
    );
    line.cut = true;
    await direct.goes("relay");
    assert.equal(await direct.page.evaluate(() => kept["lost"]), "truncated");
    assert.equal(await direct.page.evaluate(() => kept["socket"]), 1006);
    assert.match(await direct.get("/hello"), /^200/);
    line.cut = false;
    await direct.goes("webrtc");
    await eventually("the agent has a second peer", async () => {
      return ((await agentPeers(stack)).webrtc?.opened ?? 0) >= 2;
    });
  });

  it("goes on without the relay", async () => {
    await direct.goes("webrtc");
    await stack.relay.stop();
    direct.relayRequests();
    for (let at = 0; at < 20; at++) assert.match(await direct.get(`/hello?without=${at}`), /^200/);
    assert.equal(await direct.hash(`/flow?bytes=${8 * MIB}`), flowHash(8 * MIB));
    assert.deepEqual(direct.relayRequests(), []);
  });
});

describe("a direct path over TURN alone", { timeout: 10 * SOON }, () => {
  const secret = "a-secret-that-only-the-test-knows";
  let turn: Turn;
  let stack: Stack;
  let browser: Browser;

  before(async () => {
    turn = await Turn.start(secret);
    stack = await Stack.start({
      relay: { RELAY_ICE_SERVERS: turn.url, RELAY_TURN_SECRET: secret },
      agent: LOOPBACK,
    });
    browser = await Browser.start();
  });

  after(async () => {
    await browser?.stop();
    await stack?.stop();
    await turn?.stop();
  });

  it("carries requests with credentials that the relay made", async () => {
    const direct = await DirectPage.open(browser, stack, { turnOnly: true });
    await direct.upgraded();
    direct.relayRequests();
    assert.equal(await direct.hash(`/flow?bytes=${8 * MIB}`), flowHash(8 * MIB));
    assert.deepEqual(direct.relayRequests(), []);
    assert.equal(await direct.page.evaluate(() => host.path.candidate), "relay");
    await eventually("the agent sees it too", async () => {
      const path = (await agentPeers(stack)).peers[0]?.path;
      return path?.remote === "relay" || path?.local === "relay" || path?.remote === "prflx";
    });
    assert.match(turn.output, /ALLOCATE processed, success/);
    await direct.page.goto("about:blank");
    await eventually("a page that leaves takes its peer along", async () => {
      return (await agentPeers(stack)).peers.length === 0;
    });
  });
});

describe("no direct path", { timeout: 10 * SOON }, () => {
  for (const [who, special, webRtc] of [
    ["the agent has it off", { agent: ["--no-webrtc"] }, true],
    ["the relay has it off", { relay: { RELAY_WEBRTC: "0" } }, true],
    ["the page has it off", {}, false],
  ] as const) {
    it(`when ${who}: requests go over the relay`, async () => {
      const stack = await Stack.start({ ...special, agent: "agent" in special ? [...special.agent] : [] });
      const browser = await Browser.start();
      try {
        const direct = await DirectPage.open(browser, stack, { webRtc });
        for (let at = 0; at < 5; at++) assert.match(await direct.get("/hello"), /^200/);
        assert.deepEqual(await direct.page.evaluate(() => ways), []);
        const asked = direct.relayRequests().filter((request) => request.endsWith("/ice-servers")).length;
        assert.equal(asked, "relay" in special ? 1 : 0);
        assert.equal((await agentPeers(stack)).webrtc?.opened ?? 0, 0);
      } finally {
        await browser.stop();
        await stack.stop();
      }
    });
  }
});
