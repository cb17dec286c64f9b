/** The SDK against the real relay and the real agent, in both forms: what is sealed here is opened there. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import "fake-indexeddb/auto";
import { WebSocket } from "ws";
import { openHost, type PairedHost, pairHost, RelayError } from "../../src/index.js";
import { eventually } from "./processes.js";
import { Stack } from "./stack.js";

Object.assign(globalThis, { WebSocket });

/** A megabyte and a little of bytes that differ. */
const BODY = new Uint8Array(1_048_576 + 17).map((_, i) => (i * 31) >> 3);
const SUM = createHash("sha256").update(BODY).digest("hex");

for (const protection of ["sealed", "signed"] as const) {
  describe(`the SDK, ${protection}, with real programs`, () => {
    let stack: Stack;
    let host: PairedHost;
    let relay: { url: string; token: () => Promise<string> };

    before(async () => {
      stack = await Stack.start();
      const token = join(stack.folder, "token");
      relay = { url: stack.url, token: () => readFile(token, "utf8") };
      const { code } = await stack.pair();
      host = await pairHost({ relay, hostId: stack.hostId, code, protection, name: "Node" });
    });
    after(async () => {
      host?.close();
      await stack?.stop();
    });

    it("asks and is answered", async () => {
      const response = await host.fetch("/hello?x=%20y", { headers: { "x-app": "ä is not latin".slice(2) } });
      assert.equal(await response.text(), "Hello from the machine behind the tunnel.");
      const came = stack.local.arrived.at(-1);
      assert.equal(came?.target, "/hello?x=%20y");
      assert.equal(came?.headers["x-app"], "is not latin");
      assert.equal(came?.headers["x-relay-client-id"], host.clientId);
      assert.equal(came?.headers["x-relay-records"], undefined);
      assert.equal(came?.headers["accept"], "*/*");
    });

    it("sends and fetches what is large, and many at once", async () => {
      const echo = await host.fetch("/echo", { method: "POST", body: new Blob([BODY]) });
      assert.equal(echo.headers.get("x-sha256"), SUM);
      const back = new Uint8Array(await echo.arrayBuffer());
      assert.equal(createHash("sha256").update(back).digest("hex"), SUM);
      assert.equal((await (await host.fetch("/big")).arrayBuffer()).byteLength, 8 << 20);
      const texts = await Promise.all(
        Array.from({ length: 40 }, async (_, i) => {
          const response = await host.fetch("/echo", { method: "PUT", body: `number ${i}` });
          return response.text();
        }),
      );
      assert.deepEqual(
        texts,
        Array.from({ length: 40 }, (_, i) => `number ${i}`),
      );
    });

    it("follows redirects, and gets heads", async () => {
      const moved = await host.fetch("/moved");
      assert.equal(moved.url, "/hello");
      const head = await host.fetch("/hello", { method: "HEAD" });
      assert.equal(head.status, 200);
      assert.equal(await head.text(), "");
      assert.equal((await host.fetch("/nowhere")).status, 404);
    });

    it("has event streams, and leaving is felt", async () => {
      const source = host.eventSource("/events");
      const [event] = (await once(source, "message")) as [MessageEvent];
      assert.match(String(event.data), /^tick \d+$/);
      source.close();
      await eventually("the stream ends at the local server", () => stack.local.streams === 0);
    });

    it("has WebSockets", async () => {
      const socket = host.webSocket("/ws", "echo.v1");
      await once(socket, "open");
      assert.equal(socket.protocol, "echo.v1");
      socket.send("grüße");
      const [event] = (await once(socket, "message")) as [MessageEvent];
      assert.equal(event.data, "grüße");
      const closed = once(socket, "close");
      socket.close(4001, "done");
      const [{ code, wasClean }] = (await closed) as [CloseEvent];
      assert.deepEqual({ code, wasClean }, { code: 4001, wasClean: true });
      const refused = host.webSocket("/no-ws");
      const [failure] = (await once(refused, "error")) as [Event & { error: unknown }];
      assert.ok(failure.error instanceof RelayError && failure.error.code === "websocket_refused");
    });

    it("lists browsers, makes codes that open, and pairs the next device by one", async () => {
      const before = await host.browsers().list();
      assert.deepEqual(
        before.map(({ name, current }) => ({ name, current })),
        [{ name: "Node", current: true }],
      );
      assert.equal((await host.browsers().rename(host.clientId, "Renamed")).name, "Renamed");
      const { code } = await host.nextDeviceCode();
      assert.match(code, /^\d{6}$/);
      await assert.rejects(
        host.browsers().revoke("9b2d3f10-52c4-4b6e-8a77-1f2e3d4c5b6a"),
        (error) => error instanceof RelayError && error.code === "not_found" && error.verified,
      );
    });

    it("goes on after the agent was started anew: it remembers the pairing, and the session is made again", async () => {
      const again = await openHost({ relay, hostId: stack.hostId, protection });
      await stack.restartAgent();
      assert.equal((await again?.fetch("/hello"))?.status, 200);
      assert.equal((await host.fetch("/hello")).status, 200);
      again?.close();
    });

    it("is told when it was revoked, and forgets", async () => {
      const revoked = once(host, "revoked");
      const list = await stack.command("browsers", "revoke", host.clientId).ended;
      assert.equal(list, 0);
      await assert.rejects(
        host.fetch("/hello"),
        (error) => error instanceof RelayError && error.code === "not_paired" && error.verified,
      );
      await revoked;
      await host.forget({ revoke: true });
      assert.equal(await openHost({ relay, hostId: stack.hostId }), undefined);
    });
  });
}
