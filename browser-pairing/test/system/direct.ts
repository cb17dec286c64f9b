/**
 * A page of the relay's own origin with the SDK as it is built, chunks and all, that a test drives: paired with the
 * host of a stack, and with its data channels on a line that can be cut, or over TURN alone.
 */
import { join } from "node:path";
import { build } from "esbuild";
import type { Page, Request } from "playwright-core";
import type * as Sdk from "../../src/index.js";
import type { Browser } from "./chromium.js";
import { eventually } from "./processes.js";
import type { Stack } from "./stack.js";
import type { UdpLine } from "./udp.js";

declare const PACKAGE_ROOT: string;

/** What the page has. */
declare global {
  var sdk: typeof Sdk;
  var host: Sdk.PairedHost;
  /** Paths in the order of their events. */
  var ways: string[];
  /** What a test leaves in the page between two steps. */
  var kept: Record<string, Promise<unknown>>;
  /** A port that leads to an agent's candidate; given by the test. */
  var leadTo: (host: string, port: number) => Promise<number>;
}

export interface DirectOptions {
  /** All UDP goes over it. */
  line?: UdpLine;
  /** No candidates but those of TURN servers. */
  turnOnly?: boolean;
  webRtc?: boolean;
}

const PLACE = "/direct-test/";
const HTML = '<!doctype html><title>Direct</title><script type="module" src="start.js"></script>';
const START = `import * as sdk from "./index.js"; Object.assign(globalThis, { sdk, ways: [], kept: {} });`;

/** The SDK's files by their names. */
async function sdkFiles(): Promise<Map<string, string>> {
  const { outputFiles } = await build({
    entryPoints: [join(PACKAGE_ROOT, "src/index.ts")],
    bundle: true,
    format: "esm",
    splitting: true,
    outdir: "/",
    write: false,
    target: ["chrome137"],
  });
  const files = new Map(outputFiles.map(({ path, text }) => [path.slice(1), text]));
  return files.set("", HTML).set("start.js", START);
}

/** Puts the test's own connection in place of the browser's. Runs in the page, before anything else. */
function ownConnection({ onLine, turnOnly }: { onLine: boolean; turnOnly: boolean }): void {
  const Real = globalThis.RTCPeerConnection;
  class Own extends Real {
    constructor(configuration: RTCConfiguration = {}) {
      super(turnOnly ? { ...configuration, iceTransportPolicy: "relay" } : configuration);
    }

    /** On the line the agent is told of no way to the browser but the one that it sees packets come from. */
    override get localDescription(): RTCSessionDescription | null {
      const real = super.localDescription;
      if (!onLine || real === null) return real;
      const sdp = real.sdp.replace(/^a=candidate:.*\r\n/gm, "");
      return { type: real.type, sdp, toJSON: () => ({}) } as RTCSessionDescription;
    }

    override async setRemoteDescription(description: RTCSessionDescriptionInit): Promise<void> {
      let sdp = description.sdp ?? "";
      for (const [all, start, host, port, rest] of sdp.matchAll(
        /^(a=candidate:\S+ \d+ udp \d+) (\S+) (\d+) (typ host.*)$/gim,
      )) {
        if (!onLine || host === undefined) continue;
        const led = await globalThis.leadTo(host, Number(port));
        sdp = sdp.replace(all, `${start} 127.0.0.1 ${led} ${rest}`);
      }
      return super.setRemoteDescription({ ...description, sdp });
    }
  }
  globalThis.RTCPeerConnection = Own;
}

export class DirectPage {
  /** Requests of the page to the relay since the last look. */
  #requests: string[] = [];

  private constructor(
    readonly page: Page,
    readonly stack: Stack,
  ) {
    page.on("request", (request: Request) => {
      const { pathname } = new URL(request.url());
      if (!pathname.startsWith(PLACE)) this.#requests.push(`${request.method()} ${pathname}`);
    });
  }

  /** Opens the page and pairs it. */
  static async open(browser: Browser, stack: Stack, options: DirectOptions = {}): Promise<DirectPage> {
    const page = await browser.context.newPage();
    const files = await sdkFiles();
    await page.route(`${stack.url}${PLACE}**`, async (route) => {
      const body = files.get(new URL(route.request().url()).pathname.slice(PLACE.length));
      const type = body === HTML ? "text/html" : "text/javascript";
      await route.fulfill(body === undefined ? { status: 404 } : { contentType: type, body });
    });
    const { line, turnOnly = false, webRtc = true } = options;
    if (line !== undefined) {
      await page.exposeFunction("leadTo", (host: string, port: number) => line.lead(host, port));
    }
    await page.addInitScript(ownConnection, { onLine: line !== undefined, turnOnly });
    await page.goto(`${stack.url}${PLACE}`);
    await page.waitForFunction(() => globalThis.sdk !== undefined);
    const { command, code } = await stack.pair();
    await page.evaluate(
      async ({ url, token, hostId, code: digits, direct }) => {
        const relay = { url, token: () => token };
        globalThis.host = await sdk.pairHost({ relay, hostId, code: digits, webRtc: direct });
        host.addEventListener("path", () => ways.push(host.path.kind));
      },
      { url: stack.url, token: await stack.token(), hostId: stack.hostId, code, direct: webRtc },
    );
    await command.ended;
    return new DirectPage(page, stack);
  }

  /** Makes a request, and waits until the next ones go directly. */
  async upgraded(): Promise<void> {
    await this.get("/hello");
    await this.goes("webrtc");
  }

  /** Waits for a kind of path. */
  async goes(kind: "relay" | "webrtc"): Promise<void> {
    await eventually(`requests go by ${kind}`, () =>
      this.page.evaluate((wanted) => host.path.kind === wanted, kind),
    );
  }

  /** The status and text of an answer, or the error's code. */
  async get(path: string, method = "GET", body?: string): Promise<string> {
    return this.page.evaluate(
      async ({ path: target, method: verb, body: content }) => {
        try {
          const init = content === undefined ? { method: verb } : { method: verb, body: content };
          const response = await host.fetch(target, init);
          return `${response.status} ${await response.text()}`;
        } catch (error) {
          return error instanceof sdk.RelayError ? error.code : String(error);
        }
      },
      { path, method, body },
    );
  }

  /** The SHA-256 of an answer's body, in hex. */
  async hash(path: string): Promise<string> {
    return this.page.evaluate(async (target) => {
      const response = await host.fetch(target);
      const digest = await crypto.subtle.digest("SHA-256", await response.arrayBuffer());
      return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
    }, path);
  }

  /** Asks for something, and leaves its answer unread once that has begun. */
  async begin(path: string): Promise<void> {
    await this.page.evaluate(async (target) => {
      kept["begun"] = Promise.resolve(await host.fetch(target));
    }, path);
  }

  /** The SHA-256 of what {@link begin} left, in hex. */
  async rest(): Promise<string> {
    return this.page.evaluate(async () => {
      const response = (await kept["begun"]) as Response;
      const digest = await crypto.subtle.digest("SHA-256", await response.arrayBuffer());
      return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
    });
  }

  /** What the page asked of the relay since this was last called. */
  relayRequests(): string[] {
    return this.#requests.splice(0);
  }
}

/** What the agent says about its peers. */
export interface AgentPeers {
  webrtc?: { open: number; opened: number; bytes_sent: number; bytes_received: number };
  peers: {
    id: string;
    browser: string;
    open: boolean;
    streams: number;
    bytes_sent: number;
    bytes_received: number;
    path?: { local: string; remote: string };
  }[];
}

/** The agent's status. */
export async function agentPeers(stack: Stack): Promise<AgentPeers> {
  const command = stack.command("status", "--json");
  await command.ended;
  return JSON.parse(command.output) as AgentPeers;
}
