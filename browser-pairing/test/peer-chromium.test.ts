/** Real data channels: the SDK's direct path in a real Chromium, to a stand-in for the agent in the same page. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { type BrowserContext, chromium, type Page } from "playwright-core";
import type { Bench } from "./support/peer-page.js";

declare const PACKAGE_ROOT: string;

const EXECUTABLE = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
const ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

declare global {
  var bench: Bench;
}

let server: Server;
let folder: string;
let context: BrowserContext;
let page: Page;
const complaints: string[] = [];

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "peer-"));
  const { outputFiles } = await build({
    entryPoints: [join(PACKAGE_ROOT, "test/support/peer-page.ts")],
    bundle: true,
    format: "esm",
    minify: true,
    write: false,
    target: ["chrome137"],
  });
  const script = outputFiles[0]?.contents ?? new Uint8Array();
  server = createServer((request, response) => {
    const isScript = request.url === "/page.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(
      isScript
        ? Buffer.from(script)
        : '<!doctype html><title>Peer</title><script type="module" src="/page.js"></script>',
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  context = await chromium.launchPersistentContext(folder, {
    executablePath: EXECUTABLE,
    headless: true,
    args: ARGS,
  });
});

after(async () => {
  await context?.close();
  await new Promise((resolve) => server?.close(resolve));
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
});

/** A page of its own, connected. */
async function connected(): Promise<Page> {
  await page?.close();
  page = await context.newPage();
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  await page.waitForFunction(() => globalThis.bench !== undefined);
  assert.equal(await page.evaluate(() => bench.connect()), "webrtc");
  return page;
}

test("a direct connection comes about, and says how it goes", async () => {
  await connected();
  const report = await page.evaluate(async () => {
    await bench.echo(10);
    return bench.report();
  });
  assert.equal(report.kind, "webrtc");
  assert.ok(report.candidate === "host" || report.candidate === "prflx", report.candidate);
  assert.ok(report.rtt !== undefined && report.rtt >= 0 && report.sent > 0 && report.received > 0);
});

test("large bodies come back whole, a hundred small ones at once, and records of a socket", async () => {
  await connected();
  for (const size of [1, 100_000, 24 * 1024 * 1024]) {
    const { sent, got, seconds } = await page.evaluate((bytes) => bench.echo(bytes), size);
    assert.equal(got, sent, `${size}`);
    if (size > 1e6) console.log(`echo of ${size >> 20} MiB: ${(size / 2 ** 20 / seconds).toFixed(1)} MiB/s`);
  }
  assert.equal(await page.evaluate(() => bench.many(100)), 100);
  assert.equal(await page.evaluate(() => bench.socket(20)), 20);
});

test("small requests have their turn beside a bulk upload", async () => {
  await connected();
  const { small, bulk } = await page.evaluate(() => bench.beside(32 * 1024 * 1024));
  assert.equal(bulk, "right");
  assert.ok(small.length > 5, `only ${small.length} while all of the upload went on`);
  small.sort((a, b) => a - b);
  console.log(
    `beside a bulk upload: ${small.length} requests, median ${small[small.length >> 1]?.toFixed(0)} ms`,
  );
});

test("an answer that nobody reads holds back its sender, and nobody else", async () => {
  await connected();
  const { room, got } = await page.evaluate(() => bench.slow());
  assert.equal(room, 0, "the window is full");
  assert.equal(got, 16 * 1024 * 1024);
});

test("GoAway, garbage, text and the end of the channel lead back to the relay, and then a new connection", async () => {
  for (const what of ["away", "garbage", "text", "close"] as const) {
    await connected();
    assert.equal(await page.evaluate((how) => bench.remote(how), what), "relay", what);
    if (what === "garbage") assert.equal(await page.evaluate(() => bench.connect()), "webrtc");
  }
  assert.deepEqual(complaints, []);
});
