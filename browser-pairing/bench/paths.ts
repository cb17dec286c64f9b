/**
 * Measures what a paired browser gets, side by side in one Chromium: signed over the relay, sealed over
 * the relay, and sealed over WebRTC. The client is the SDK as it is built; its own work is in the
 * figures, as it would be in life. Prints a Markdown section.
 */

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import type { Page } from "playwright-core";
import type * as Sdk from "../src/index.js";
import { Browser } from "../test/system/chromium.js";
import { eventually, Running, run } from "../test/system/processes.js";
import { cpuSeconds, descendants, median, percentile } from "./measure.js";

declare const PACKAGE_ROOT: string;
declare global {
  var sdk: typeof Sdk;
  var host: Sdk.PairedHost;
}

const SECONDS = Number(process.env.BENCH_SECONDS ?? 5);
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 3);
/** Mebibytes of a download and of an upload; the upload's body is held by the page. */
const DOWN = Number(process.env.BENCH_BROWSER_MIB ?? 128);
const UP = DOWN / 4;
const PARALLEL = 32;

/** What is compared. */
const WAYS = [
  { name: "signed, relay", protection: "signed", webRtc: false },
  { name: "sealed, relay", protection: "sealed", webRtc: false },
  { name: "sealed, WebRTC", protection: "sealed", webRtc: true },
] as const;
type Way = (typeof WAYS)[number];

/** One way in one round. Rates are per second, times in milliseconds. */
interface Round {
  p50: number;
  p99: number;
  parallel: number;
  down: number;
  up: number;
  /** CPU seconds of 10,000 small requests, and of a GiB down: relay, agent, browser. */
  small: [number, number, number];
  bulk: [number, number, number];
}

/** A page that holds the SDK, on an origin of its own. */
async function pages(): Promise<{ url: string; close: () => void }> {
  const types: Record<string, string> = { ".js": "text/javascript", ".html": "text/html" };
  const server = createServer(async (request, response) => {
    const name = (request.url ?? "/").slice(1);
    if (name === "") {
      response.setHeader("content-type", "text/html");
      response.end(
        '<!doctype html><title>Bench</title><script type="module">import * as sdk from "/index.js"; globalThis.sdk = sdk;</script>',
      );
      return;
    }
    try {
      const bytes = await readFile(join(PACKAGE_ROOT, "dist/sdk", name));
      response.setHeader("content-type", types[extname(name)] ?? "application/octet-stream");
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, close: () => server.close() };
}

/** Opens the pairing in one way, and waits until the path is the one that is meant. */
async function open(page: Page, relay: string, token: string, hostId: string, way: Way): Promise<void> {
  await page.evaluate(
    async ({ relay, token, hostId, protection, webRtc }) => {
      globalThis.host?.close();
      const found = await sdk.openHost({
        relay: { url: relay, token: () => token },
        hostId,
        protection,
        webRtc,
      });
      if (found === undefined) throw new Error("not paired");
      globalThis.host = found;
      const wanted = webRtc ? "webrtc" : "relay";
      const deadline = performance.now() + 30_000;
      for (;;) {
        await (await found.fetch("/small")).arrayBuffer();
        if (found.path.kind === wanted) return;
        if (performance.now() > deadline) throw new Error(`the path is ${found.path.kind}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
    { relay, token, hostId, protection: way.protection, webRtc: way.webRtc },
  );
}

/** Small requests from `lanes` loops; answers their times in milliseconds. */
async function small(page: Page, lanes: number, seconds: number): Promise<number[]> {
  return page.evaluate(
    async ({ lanes, seconds }) => {
      const times: number[] = [];
      const end = performance.now() + seconds * 1000;
      const lane = async () => {
        while (performance.now() < end) {
          const began = performance.now();
          const answer = await host.fetch("/small");
          if ((await answer.arrayBuffer()).byteLength !== 1024) throw new Error("not what was asked for");
          times.push(performance.now() - began);
        }
      };
      await Promise.all(Array.from({ length: lanes }, lane));
      return times;
    },
    { lanes, seconds },
  );
}

/** One body; answers its MB per second. */
async function bulk(page: Page, mib: number, up: boolean): Promise<number> {
  return page.evaluate(
    async ({ mib, up }) => {
      const bytes = mib * 1024 * 1024;
      const began = performance.now();
      if (up) {
        const body = new Blob(Array.from({ length: mib }, () => new Uint8Array(1024 * 1024).fill(7)));
        const answer = await host.fetch("/upload", { method: "POST", body });
        if (!answer.ok) throw new Error(`status ${answer.status}`);
      } else {
        const reader = (await host.fetch(`/bytes/${bytes}`)).body?.getReader();
        let got = 0;
        for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
          got += part.value.byteLength;
        }
        if (got !== bytes) throw new Error(`${got} bytes`);
      }
      return bytes / 1e3 / (performance.now() - began);
    },
    { mib, up },
  );
}

const [origin, folder, site, chromium] = await Promise.all([
  Promise.resolve(new Running("benches", ["origin"])),
  mkdtemp(join(tmpdir(), "bench-")),
  pages(),
  Browser.start(),
]);
const env = { RELAY_DATA_DIR: join(folder, "relay"), HOME: folder, RELAY_ALLOWED_ORIGINS: site.url };
const relay = new Running("relay-server", ["serve"], { ...env, RELAY_LISTEN_ADDR: "127.0.0.1:0" });
let agent: Running | undefined;
try {
  const [, local = ""] = await origin.line(/(http:\/\/[0-9.:]+)/);
  const [, port] = await relay.line(/listening.*?addr\S*?=\S*?127\.0\.0\.1:(\d+)/);
  const url = `http://127.0.0.1:${port}`;
  await run("relay-server", ["user", "add", "bench@example.com"], env);
  const token = (await run("relay-server", ["token", "create", "--user", "bench@example.com"], env)).trim();
  await writeFile(join(folder, "token"), token, { mode: 0o600 });
  const state = ["--state-dir", join(folder, "agent")];
  agent = new Running(
    "local-agent-client",
    ["run", "--relay", url, "--to", local, "--token-file", join(folder, "token"), ...state],
    { HOME: folder },
  );
  await agent.line(/connected to the relay/);
  let hostId = "";
  await eventually("the host is online", async () => {
    const answer = await fetch(`${url}/v1/relay/hosts`, { headers: { authorization: `Bearer ${token}` } });
    const { hosts } = (await answer.json()) as { hosts: { id: string; status: string }[] };
    hostId = hosts.find((one) => one.status === "online")?.id ?? "";
    return hostId !== "";
  });
  const pair = new Running("local-agent-client", ["pair", ...state], { HOME: folder });
  const [, code = ""] = await pair.line(/(\d{3} \d{3})/);
  const page = await chromium.context.newPage();
  await page.goto(site.url);
  await page.waitForFunction(() => globalThis.sdk !== undefined);
  await page.evaluate(
    async ({ url, token, hostId, code }) => {
      const paired = await sdk.pairHost({ relay: { url, token: () => token }, hostId, code });
      paired.close();
    },
    { url, token, hostId, code },
  );

  const ours = [relay.pid, agent.pid];
  const browser = () => descendants(process.pid, [...ours, origin.pid]);
  const cpu = async () => Promise.all([...ours.map(cpuSeconds), browser()]);
  const used = (before: number[], after: number[], share: number) =>
    after.map((one, i) => (one - (before[i] ?? 0)) / share) as [number, number, number];
  const rounds = new Map<string, Round[]>(WAYS.map(({ name }) => [name, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const way of WAYS) {
      await open(page, url, token, hostId, way);
      await small(page, 1, 0.5);
      const alone = await small(page, 1, SECONDS);
      const before = await cpu();
      const many = await small(page, PARALLEL, SECONDS);
      const middle = await cpu();
      const down = await bulk(page, DOWN, false);
      const after = await cpu();
      const up = await bulk(page, UP, true);
      rounds.get(way.name)?.push({
        p50: percentile(alone, 0.5),
        p99: percentile(alone, 0.99),
        parallel: many.length / SECONDS,
        down,
        up,
        small: used(before, middle, many.length / 10_000),
        bulk: used(middle, after, DOWN / 1024),
      });
    }
  }

  const lines = [
    "## Signed, sealed and WebRTC in Chromium",
    "",
    `The SDK in headless Chromium on the same machine as relay, agent and local server; medians of ${ROUNDS} rounds of ${SECONDS} s, one after the other. Down ${DOWN} MiB, up ${UP} MiB in one body; ${PARALLEL} requests at once. CPU: relay / agent / browser.`,
    "",
    `| | p50 / p99 ms, 1 at a time | requests/s, ${PARALLEL} at once | down MB/s | up MB/s | CPU s per 10,000 requests | CPU s per GiB down |`,
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
  ];
  for (const { name } of WAYS) {
    const all = rounds.get(name) ?? [];
    const of = (pick: (round: Round) => number) => median(all.map(pick));
    const three = (pick: (round: Round) => [number, number, number]) =>
      [0, 1, 2].map((i) => of((round) => pick(round)[i] ?? 0).toFixed(2)).join(" / ");
    lines.push(
      `| ${name} | ${of((r) => r.p50).toFixed(2)} / ${of((r) => r.p99).toFixed(2)} | ${of((r) => r.parallel).toFixed(0)} | ${of((r) => r.down).toFixed(1)} | ${of((r) => r.up).toFixed(1)} | ${three((r) => r.small)} | ${three((r) => r.bulk)} |`,
    );
  }
  process.stdout.write(`${lines.join("\n")}\n`);
} finally {
  await chromium.stop();
  await agent?.stop();
  await relay.stop();
  await origin.stop();
  site.close();
  await rm(folder, { recursive: true, force: true });
}
