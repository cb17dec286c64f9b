/** The SDK as it is built, in a real Chromium, against the stand-in. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { type BrowserContext, chromium, type Page } from "playwright-core";
import type * as Sdk from "../src/index.js";
import { Relay } from "./support/relay.js";

declare const PACKAGE_ROOT: string;

/** Where the browser is, unless CHROMIUM says otherwise. */
const EXECUTABLE = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
const ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const CODE = "907153";

/** What the pages in this test can see. */
declare global {
  var sdk: typeof Sdk;
  var host: Sdk.PairedHost;
}

let relay: Relay;
let folder: string;
let context: BrowserContext;
let page: Page;

async function launch(): Promise<void> {
  context = await chromium.launchPersistentContext(folder, {
    executablePath: EXECUTABLE,
    headless: true,
    args: ARGS,
  });
  page = await context.newPage();
  await load();
}

async function load(): Promise<void> {
  await page.goto(`${relay.url}/page`);
  await page.waitForFunction(() => globalThis.sdk !== undefined);
}

/** Opens the pairing that this browser keeps. */
async function open(): Promise<boolean> {
  return page.evaluate(
    async ([url = "", hostId = ""]) => {
      const found = await sdk.openHost({ relay: { url, token: () => "token" }, hostId });
      if (found !== undefined) globalThis.host = found;
      return found !== undefined;
    },
    [relay.url, relay.agent.hostId],
  );
}

before(async () => {
  relay = await new Relay().start();
  folder = await mkdtemp(join(tmpdir(), "browser-pairing-"));
  const result = await build({
    entryPoints: [join(PACKAGE_ROOT, "src/index.ts")],
    bundle: true,
    format: "esm",
    minify: true,
    write: false,
    target: ["chrome137", "firefox130", "safari17.4"],
  });
  const html = '<!doctype html><title>Test</title><script type="module" src="/start.js"></script>';
  relay.files.set("/page", { type: "text/html", body: Buffer.from(html) });
  relay.files.set("/start.js", {
    type: "text/javascript",
    body: Buffer.from('import * as sdk from "/sdk.js"; globalThis.sdk = sdk;'),
  });
  relay.files.set("/sdk.js", {
    type: "text/javascript",
    body: Buffer.from(result.outputFiles[0]?.contents ?? []),
  });
  await launch();
  relay.agent.code = CODE;
  await page.evaluate(
    async ([url = "", hostId = "", code = ""]) => {
      globalThis.host = await sdk.pairHost({ relay: { url, token: () => "token" }, hostId, code });
    },
    [relay.url, relay.agent.hostId, CODE],
  );
});

after(async () => {
  await context?.close();
  await relay?.stop();
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
});

test("a signed POST with a form goes through, whatever the browser adds to it", async () => {
  relay.agent.local = ({ body, headers }) => ({
    status: 200,
    headers: [["content-type", "text/plain"]],
    body: Buffer.from(`${headers["content-type"]?.split(";")[0]} ${body.length > 0} ${headers["x-app"]}`),
  });
  const text = await page.evaluate(async () => {
    const form = new FormData();
    form.set("file", new Blob(["contents"]), "a.txt");
    const response = await host.fetch("/form?x=%20y", {
      method: "POST",
      body: form,
      headers: { "X-App": "yes" },
    });
    return `${response.url} ${await response.text()}`;
  });
  assert.equal(text, "/form?x=%20y multipart/form-data true yes");
});

test("what Chromium sends is sealed, and says to the local server what a browser says", async () => {
  let seen: Record<string, string> = {};
  let length = 0;
  relay.agent.local = ({ body, headers }) => {
    seen = headers;
    length = body.length;
    return { status: 200, headers: [["set-cookie", "sesame-cookie=1"]], body: Buffer.from("sesame-answer") };
  };
  const before = relay.crossed.length;
  const [form, text, cookie] = await page.evaluate(async () => {
    const body = new Blob(["sesame-body", new Uint8Array(5_000_000)]);
    const response = await host.fetch("/sesame-path", { method: "POST", body, headers: { "x-sesame": "1" } });
    const text = await response.text();
    return [host.protection, text, document.cookie];
  });
  assert.deepEqual([form, text, cookie, length], ["sealed", "sesame-answer", "", 5_000_011]);
  assert.match(seen["user-agent"] ?? "", /Chrom/);
  assert.match(seen["accept-language"] ?? "", /^en/);
  assert.equal(seen["origin"], relay.url);
  assert.equal(seen["x-sesame"], "1");
  const wire = Buffer.concat(relay.crossed.slice(before));
  assert.ok(wire.length > 5_000_000);
  assert.equal(wire.includes("sesame"), false);
});

test("keys survive a reload and a restart of the browser, and cannot be read out", async () => {
  relay.agent.local = () => ({ status: 200, headers: [], body: Buffer.from("still paired") });
  const ask = () => page.evaluate(async () => (await host.fetch("/")).text());
  await load();
  assert.equal(await open(), true);
  assert.equal(await ask(), "still paired");
  await context.close();
  await launch();
  assert.equal(await open(), true);
  assert.equal(await ask(), "still paired");
  const extractable = await page.evaluate(
    () =>
      new Promise<boolean[]>((resolve, reject) => {
        const request = indexedDB.open("browser-pairing");
        request.onerror = () => reject(request.error);
        request.onsuccess = () => {
          const all = request.result.transaction("hosts").objectStore("hosts").getAll();
          all.onsuccess = () => {
            const [entry] = all.result as { signingKey: CryptoKey; exchangeKey: CryptoKey; psk: CryptoKey }[];
            resolve(
              [entry?.signingKey, entry?.exchangeKey, entry?.psk].map((key) => key?.extractable ?? true),
            );
          };
        };
      }),
  );
  assert.deepEqual(extractable, [false, false, false]);
});

test("an answer streams: its first piece comes before the second is made, and a slow reader slows the sender", async () => {
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
  await page.exposeFunction("go", go);
  const pieces = await page.evaluate(async () => {
    const reader = (await host.fetch("/")).body?.pipeThrough(new TextDecoderStream()).getReader();
    const first = await reader?.read();
    await (globalThis as unknown as { go: () => Promise<void> }).go();
    const second = await reader?.read();
    return [first?.value, second?.value, (await reader?.read())?.done];
  });
  assert.deepEqual(pieces, ["first", "second", true]);

  let sent = 0;
  const total = 2048;
  async function* flood() {
    for (; sent < total; sent++) yield Buffer.alloc(65_536, sent);
  }
  relay.agent.local = () => ({ status: 200, headers: [], body: flood() });
  await page.evaluate(async () => {
    const reader = (await host.fetch("/")).body?.getReader();
    await reader?.read();
    Object.assign(globalThis, { reader });
  });
  let last = -1;
  while (last !== sent) {
    last = sent;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  assert.ok(sent < total, `${sent} of ${total} pieces were sent to a reader who took one`);
  const received = await page.evaluate(async () => {
    const { reader } = globalThis as unknown as { reader: ReadableStreamDefaultReader<Uint8Array> };
    let bytes = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) bytes += part.value.length;
    return bytes;
  });
  assert.equal(received, (total - 1) * 65_536);
});

test("aborting a fetch ends it at the local server", async () => {
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
  relay.agent.local = () => ({ status: 200, headers: [], body: forever() });
  const name = await page.evaluate(async () => {
    const controller = new AbortController();
    const response = await host.fetch("/", { signal: controller.signal });
    controller.abort();
    return response.text().then(
      () => "read",
      (error: Error) => error.name,
    );
  });
  assert.equal(name, "AbortError");
  await ended;
});

test("a WebSocket with sub-protocols goes both ways and closes cleanly", async () => {
  relay.socket = (socket) => {
    socket.receive = (type, payload) => socket.send(type, payload);
    return { status: 101, protocol: "two" };
  };
  const result = await page.evaluate(
    () =>
      new Promise<unknown[]>((resolve) => {
        const socket = host.webSocket("/ws?a=1", ["one", "two"]);
        const came: unknown[] = [];
        socket.binaryType = "arraybuffer";
        socket.onopen = () => {
          came.push(socket.protocol);
          socket.send("text");
          socket.send(new Uint8Array([1, 2, 3]));
        };
        socket.onmessage = ({ data }) => {
          came.push(typeof data === "string" ? data : Array.from(new Uint8Array(data as ArrayBuffer)));
          if (came.length === 3) socket.close(4000, "bye");
        };
        socket.onclose = ({ code, reason, wasClean }) => resolve([...came, code, reason, wasClean]);
      }),
  );
  assert.deepEqual(result, ["two", "text", [1, 2, 3], 4000, "bye", true]);
});

test("a socket opens although the session had ended: the browser is told nothing, and finds out", async () => {
  relay.agent.sessions.clear();
  relay.sessions.clear();
  const code = await page.evaluate(
    () =>
      new Promise<number>((resolve) => {
        const socket = host.webSocket("/ws", ["one", "two"]);
        socket.onopen = () => socket.close(4001);
        socket.onclose = (event) => resolve(event.code);
      }),
  );
  assert.equal(code, 4001);
});

test("a clock that is ten minutes off locks nobody out", async () => {
  relay.agent.ahead = 600;
  relay.agent.sessions.clear();
  relay.agent.local = () => ({ status: 200, headers: [], body: Buffer.from("in") });
  assert.equal(await page.evaluate(async () => (await host.fetch("/")).text()), "in");
});

test("what is cut off says so, in Chromium too", async () => {
  let cut = false;
  relay.hostile.answer = (answer, { target }) => {
    if (target !== "/_relay/exchange") return answer;
    cut = true;
    return { ...answer, body: answer.body.subarray(0, -1) };
  };
  const codes = await page.evaluate(async () => {
    const code = (error: unknown) => (error instanceof sdk.RelayError ? error.code : String(error));
    const text = await (await host.fetch("/cut")).text().catch(code);
    const reader = (await host.fetch("/cut")).body?.getReader();
    await reader?.read();
    return [text, await reader?.read().catch(code)];
  });
  assert.equal(cut, true);
  assert.deepEqual(codes, ["truncated", "truncated"]);
});
