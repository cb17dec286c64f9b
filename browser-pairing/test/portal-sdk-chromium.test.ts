/**
 * The portal as it is delivered, with the SDK in it, in a real Chromium: pairing, sealed requests,
 * events, WebSocket, keys that survive a reload, and the end of it all by revoking. The agent behind the
 * stand-in relay opens every record.
 */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { BrowserContext, Page } from "playwright-core";
import { buildPortal } from "./portal-build.js";
import { launch, listen, look } from "./portal-looks.js";
import { type Standin, type StandinHost, startStandin } from "./portal-standin.js";
import type { LocalAnswer, LocalRequest } from "./support/agent.js";
import { Relay } from "./support/relay.js";
import { fingerprint } from "./support/sideb.js";

const CODE = "918273";
/** Types of records (PROTOCOL.md section 4.4). */
const TEXT = 5;

/** The local server of these tests. A body made piece by piece waits until it may go on. */
class Local {
  /** Lets the open streams go on by one piece. */
  next: () => void = () => undefined;
  /** Called when a stream is read no more. */
  ended: () => void = () => undefined;

  answer(request: LocalRequest): LocalAnswer {
    const plain: [string, string][] = [["content-type", "text/plain"]];
    if (request.target === "/events") {
      return { status: 200, headers: [["content-type", "text/event-stream"]], body: this.#events() };
    }
    if (request.method === "POST")
      return { status: 201, headers: plain, body: Buffer.from(`got ${request.body}`) };
    return { status: 200, headers: plain, body: Buffer.from(`hello from ${request.target}`) };
  }

  async *#events(): AsyncGenerator<Buffer> {
    try {
      for (let count = 1; ; count += 1) {
        yield Buffer.from(`id: ${count}\nevent: tick\ndata: piece ${count}\n\n`);
        await new Promise<void>((go) => {
          this.next = go;
        });
      }
    } finally {
      this.ended();
    }
  }
}

describe("the portal with the SDK in Chromium", () => {
  let folder: string;
  let shots: string;
  let relay: Relay;
  let standin: Standin;
  let browser: BrowserContext;
  let page: Page;
  let host: StandinHost;
  const local = new Local();
  const wrong: string[] = [];
  const heading = (text: string) => page.getByRole("heading", { level: 1, name: text }).waitFor();
  const says = (text: string | RegExp) => page.getByText(text).first().waitFor();
  const paste = async (code: string) => {
    await page.evaluate((copied) => navigator.clipboard.writeText(copied), code);
    await page.getByLabel("Digit 1 of 6").focus();
    await page.keyboard.press("Control+V");
  };
  const send = async (path: string) => {
    await page.getByRole("textbox", { name: "Path" }).fill(path);
    await page.keyboard.press("Enter");
  };

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "portal-sdk-"));
    shots = process.env["PORTAL_SHOTS"] ?? join(folder, "shots");
    await mkdir(shots, { recursive: true });
    await buildPortal(join(folder, "portal"), "portal/main.ts");
    relay = await new Relay().start();
    relay.agent.local = (request) => local.answer(request);
    // Ten minutes ahead of the browser: a wrong clock locks nobody out.
    relay.agent.ahead = 600;
    standin = await startStandin(join(folder, "portal"));
    standin.state.behind = relay.url;
    host = standin.state.addHost({ name: "workshop", id: relay.agent.hostId });
    browser = await launch(join(folder, "profile"));
    page = browser.pages()[0] ?? (await browser.newPage());
    page.setDefaultTimeout(15_000);
    listen(page, wrong);
  });
  after(async () => {
    await browser?.close();
    await standin?.close();
    await relay?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  test("an unpaired browser is led to pairing", async () => {
    await page.goto(`${standin.origin}/#/host/${host.id}`);
    await heading("Sign in");
    await page.getByLabel("Email address").fill("ada@example.org");
    await page.getByLabel("Password").fill("correct horse battery");
    await page.keyboard.press("Enter");
    await says("This browser is not paired with the host yet.");
    await page.getByRole("link", { name: "Pair this browser" }).press("Enter");
    await heading("Pair this browser");
  });

  test("an offline host, no code and a wrong code are told apart", async () => {
    host.status = "offline";
    await paste("000 001");
    await says("The host is offline.");
    host.status = "online";
    await paste("000 001");
    await says("The machine shows no code right now.");
    relay.agent.code = CODE;
    await paste("000-001");
    await says("The code was not right, and it is used up now.");
    assert.equal(relay.agent.code, undefined);
    assert.equal(relay.agent.clients.size, 0);
  });

  test("the right code pairs, and both ends show the same fingerprint", async () => {
    relay.agent.code = CODE;
    await page.getByLabel("Name of this browser").fill("Ada's laptop");
    await page.getByLabel("Digit 1 of 6").focus();
    await page.keyboard.type(CODE);
    await heading("This browser is paired");
    const [client] = [...relay.agent.clients.values()];
    assert.ok(client !== undefined);
    assert.equal(client.name, "Ada's laptop");
    await page.getByText(fingerprint(relay.agent.rawKey, client.raw), { exact: true }).waitFor();
    const digits = Buffer.from(CODE);
    assert.ok(!relay.crossed.some((bytes) => bytes.includes(digits)), "the code never crosses");
    await page.getByRole("link", { name: "Open the host" }).press("Enter");
    await heading("workshop");
  });

  test("requests are sealed, answers are verified", async () => {
    await says("Sealed, nothing verified yet");
    await send("/things?x=1");
    await says("hello from /things?x=1");
    await says("Sealed and verified");
    await page.getByLabel("Method").selectOption("POST");
    await page.getByText("Headers and body").click();
    await page.getByLabel("Headers", { exact: true }).fill("x-demo: one");
    await page.getByLabel("Body", { exact: true }).fill("ä body");
    await page.getByRole("button", { name: "Send" }).press("Enter");
    await says("got ä body");
    assert.equal(relay.agent.forwarded.at(-1)?.headers["x-demo"], "one");
    wrong.push(...(await look(page, "sdk-request", shots)));
  });

  test("an altered answer is not shown", async () => {
    relay.hostile.answer = (answer) => {
      const body = Buffer.from(answer.body);
      // The last byte of the body's own record: before its tag, and the record of the end.
      const at = body.length - 38;
      if (answer.status === 200 && at >= 0) body[at] = (body[at] ?? 0) ^ 1;
      return { ...answer, body };
    };
    await page.getByRole("button", { name: /^Take GET / }).press("Enter");
    await page.keyboard.press("Enter");
    await says("is not as the host sent it");
    await says("An answer did not verify");
    assert.equal(await page.getByText("hello from").count(), 0);
    delete relay.hostile.answer;
  });

  test("events come one by one, and stopping reaches the host", async () => {
    await page.getByRole("tab", { name: "Events" }).click();
    await page.getByLabel("Event names").fill("tick");
    await page.keyboard.press("Enter");
    await says("tick #1");
    assert.equal(await page.getByText("piece 2").count(), 0);
    local.next();
    await says("piece 2");
    const ended = new Promise<void>((resolve) => {
      local.ended = resolve;
    });
    await page.getByRole("button", { name: "Stop" }).press("Enter");
    await says("Not listening");
    // The stand-in finds out when it has the next piece to send.
    const going = setInterval(() => local.next(), 20);
    await ended.finally(() => clearInterval(going));
  });

  test("a WebSocket carries sealed messages", async () => {
    relay.socket = (socket) => {
      socket.receive = (type, payload) => {
        if (type === TEXT) socket.send(TEXT, Buffer.from(`echo ${payload}`));
      };
      return { status: 101, protocol: "chat" };
    };
    await page.getByRole("tab", { name: "WebSocket" }).click();
    await page.getByLabel("Sub-protocols").fill("chat");
    await page.keyboard.press("Enter");
    await says("Connected, chat");
    await page.getByRole("textbox", { name: "Message" }).fill("hello there");
    await page.keyboard.press("Enter");
    await says("echo hello there");
  });

  test("the keys survive a reload, the host lists the browser and makes a code", async () => {
    await page.reload();
    await heading("workshop");
    await page.getByRole("tab", { name: "Browsers" }).click();
    await says("Ada's laptop");
    await says("This browser");
    await page.getByRole("button", { name: "Make a code for my next device" }).press("Enter");
    await says("424 242");
    await page.getByRole("button", { name: "Rename Ada's laptop" }).press("Enter");
    await page.keyboard.type("Lovelace");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Revoke Lovelace" }).waitFor();
    wrong.push(...(await look(page, "sdk-browsers", shots)));
  });

  test("revoked by the machine, the page says so and offers to pair again", async () => {
    for (const id of [...relay.agent.clients.keys()]) relay.agent.revoke(id);
    await page.getByRole("tab", { name: "Request" }).click();
    await send("/after");
    await says("The host no longer knows this browser.");
    assert.ok(!relay.agent.forwarded.some((request) => request.target === "/after"), "nothing was forwarded");
    await page.getByRole("link", { name: "Back to your hosts" }).press("Enter");
    await says("Not paired here");
  });

  test("without https the page says why it cannot pair", async () => {
    const { port } = new URL(standin.origin);
    await page.goto(`http://lan.test:${port}/#/pair/${host.id}`);
    await heading("Sign in");
    await page.getByLabel("Email address").fill("ada@example.org");
    await page.getByLabel("Password").fill("correct horse battery");
    await page.keyboard.press("Enter");
    await says("This page was loaded without https");
    wrong.push(...(await look(page, "sdk-insecure", shots)));
    await page.getByRole("button", { name: /^Copy:/ }).press("Enter");
    await says("Select it");
    relay.agent.code = CODE;
    await page.getByLabel("Digit 1 of 6").focus();
    await page.keyboard.type(CODE);
    await page.getByRole("status").getByText("This page was loaded without https").waitFor();
    assert.equal(relay.agent.code, CODE, "no guess was spent");
  });

  test("nothing complained", () => {
    assert.deepEqual(wrong, []);
  });
});
