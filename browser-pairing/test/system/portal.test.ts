// The whole path with real programs and a real browser: a person signs in, pairs, uses the local server by
// signed requests, and is cut off. One story, told in order.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { Page } from "playwright-core";
import { Browser, look } from "./chromium.js";
import { eventually, SOON } from "./processes.js";
import { HOST_NAME, Stack } from "./stack.js";

let stack: Stack;
let browser: Browser;
let page: Page;

before(async () => {
  stack = await Stack.start();
  browser = await Browser.start();
  page = await browser.context.newPage();
});

after(async () => {
  await browser?.stop();
  await stack?.stop();
});

/** The button of a one-time link's page. */
const BY_LINK = "Sign in with this link";
const heading = (text: string | RegExp) => page.getByRole("heading", { level: 1, name: text });
const button = (name: string) => page.getByRole("button", { name, exact: true });

async function open(path: string): Promise<void> {
  // The same document with another fragment is not loaded again by itself.
  await page.goto("about:blank");
  await page.goto(`${stack.url}${path}`);
}

/** Types a code as a person does: the boxes go on by themselves, and the last digit sends it. */
async function type(code: string): Promise<void> {
  await page.getByLabel("Digit 1 of 6").click();
  await page.keyboard.type(code);
}

/** A code that is certainly another one. */
const wrong = (code: string) => code.replace(/^./, (digit) => String((Number(digit) + 1) % 10));

async function request(method: string, path: string, body = ""): Promise<void> {
  await page.getByRole("tab", { name: "Request" }).click();
  await page.getByLabel("Method").selectOption(method);
  await page.getByRole("tabpanel").getByLabel("Path").fill(path);
  if (body !== "") {
    const more = page.locator("details.more", { has: page.getByLabel("Body", { exact: true }) });
    if ((await more.getAttribute("open")) === null) await more.locator("summary").click();
    await page.getByLabel("Body", { exact: true }).fill(body);
  }
  await button("Send").first().click();
}

const response = () => page.getByLabel("Body of the response");

async function shows(text: string | RegExp): Promise<void> {
  await page.getByText(text).first().waitFor();
}

describe("the whole path in Chromium", { timeout: 10 * SOON }, () => {
  it("asks a stranger to sign in, and tells nothing else", async () => {
    await open("/");
    await heading("Sign in").waitFor();
    await look(page, "sign-in");
    await page.getByLabel(/address/i).fill("owner@example.com");
    await page.getByLabel("Password").fill("not the password");
    await button("Sign in").click();
    await shows("That did not sign you in.");
  });

  it("signs in by a one-time link, which is gone from the address and good only once", async () => {
    const link = await stack.signInLink();
    await page.goto("about:blank");
    await page.goto(link);
    await heading("Sign in with a link").waitFor();
    assert.deepEqual(await browser.context.cookies(stack.url), [], "opening the link signs nobody in");
    await button(BY_LINK).click();
    await heading("Your hosts").waitFor();
    const token = link.split("/").pop() ?? "";
    assert.ok(!page.url().includes(token));
    const cookies = await browser.context.cookies(stack.url);
    assert.ok(cookies.length > 0 && cookies.every((one) => one.httpOnly && one.sameSite === "Strict"));
    assert.equal(await page.evaluate(() => document.cookie + JSON.stringify({ ...localStorage })), "{}");
    await page.getByText(HOST_NAME).first().waitFor();
    await shows("Online");
    await look(page, "hosts");

    const stranger = await Browser.start();
    try {
      const second = await stranger.context.newPage();
      await second.goto(link);
      await second.getByRole("button", { name: BY_LINK }).click();
      await second.getByText("This link no longer works").waitFor();
    } finally {
      await stranger.stop();
    }
  });

  it("refuses what is not signed, before the local server sees it", async () => {
    const [status, code] = await page.evaluate(async (hostId) => {
      const headers = { "x-relay-csrf": "1" };
      const made = await fetch(`/v1/relay/create/${hostId}`, { method: "POST", headers });
      const { session_id: session } = await made.json();
      const answer = await fetch(`/v1/relay/h/${hostId}/s/${session}/hello`);
      return [answer.status, (await answer.json()).code];
    }, stack.hostId);
    assert.deepEqual([status, code], [401, "signature_missing"]);
    assert.equal(stack.local.arrived.length, 0);
  });

  it("says so when no code is shown", async () => {
    await open(`/#/pair/${stack.hostId}`);
    await heading("Pair this browser").waitFor();
    await look(page, "pair");
    await type("123456");
    await shows("The machine shows no code right now.");
  });

  it("burns a code that was guessed wrong, and tells both people", async () => {
    const { command, code } = await stack.pair();
    await type(wrong(code));
    await shows("The code was not right, and it is used up now.");
    assert.equal(await command.ended, 1, command.output);
    await look(page, "pair-wrong");
    await type(code);
    await shows("The machine shows no code right now.");
  });

  it("says so when the code has expired", async () => {
    const { command, code } = await stack.pair("--life", "1");
    assert.equal(await command.ended, 1, command.output);
    await type(code);
    await shows("That code has expired.");
  });

  it("says so when the host is offline, in the list too", async () => {
    await stack.stopAgent();
    await shows(/^Offline/);
    await type("123456");
    await shows("The host is offline.");
    await look(page, "pair-offline");
    await open("/");
    await shows(/^Offline/);
    await look(page, "hosts-offline");
    await stack.restartAgent();
    await shows("Online");
  });

  it("pairs by the six digits, pasted too, and both ends show the same fingerprint", async () => {
    const { command, code } = await stack.pair();
    await page.getByRole("link", { name: `Pair ${HOST_NAME}` }).click();
    await heading("Pair this browser").waitFor();
    await page.getByLabel("Digit 1 of 6").evaluate(
      (box, text) => {
        const clipboardData = new DataTransfer();
        clipboardData.setData("text", text);
        box.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
      },
      `${code.slice(0, 3)}-${code.slice(3)}`,
    );
    await heading("This browser is paired").waitFor();
    const fingerprint = (await page.locator(".fingerprint").textContent()) ?? "";
    assert.match(fingerprint, /^[0-9a-f]{4}( [0-9a-f]{4}){3}$/);
    assert.equal(await command.ended, 0, command.output);
    assert.ok(command.output.includes(fingerprint), command.output);
    await look(page, "paired");
    await page.getByRole("link", { name: "Open the host" }).click();
    await heading(HOST_NAME).waitFor();
  });

  it("sends signed requests and shows verified answers", async () => {
    await request("GET", "/hello?x=1");
    await response().getByText("Hello from the machine behind the tunnel.").waitFor();
    await shows("Sealed and verified");
    const got = stack.local.arrived.at(-1);
    assert.equal(got?.target, "/hello?x=1");
    assert.match(String(got?.headers["x-relay-client-id"]), /^[0-9a-f-]{36}$/);
    assert.equal(got?.headers["signature"], undefined);
    assert.ok(!JSON.stringify(got).includes("relay_session"), "the portal's cookie stays with the relay");
    await request("POST", "/echo", "a body with ünïcode");
    await response().getByText("a body with ünïcode").waitFor();
    assert.equal(stack.local.arrived.at(-1)?.body.toString(), "a body with ünïcode");
    await look(page, "host-request");
  });

  it("shows an event stream as it happens, and ends it where it began", async () => {
    await page.getByRole("tab", { name: "Events" }).click();
    await button("Listen").click();
    await page.getByText("tick 5", { exact: true }).waitFor();
    assert.equal(stack.local.streams, 1);
    await look(page, "host-events");
    await button("Stop").click();
    await eventually("the stream ends at the local server", () => stack.local.streams === 0);
  });

  it("speaks a WebSocket with a sub-protocol", async () => {
    await page.getByRole("tab", { name: "WebSocket" }).click();
    await page.getByLabel("Sub-protocols").fill("echo.v1");
    await button("Connect").click();
    await shows("Connected, echo.v1");
    await page.getByLabel("Message", { exact: true }).fill("over and back");
    await page.keyboard.press("Enter");
    await eventually("it is echoed", async () => (await page.getByText("over and back").count()) === 2);
    await look(page, "host-socket");
    await button("Disconnect").click();
    await eventually("it ends at the local server", () => stack.local.sockets === 0);
  });

  it("still knows its keys after a reload, and after its clock was set wrong", async () => {
    await page.reload();
    await heading(HOST_NAME).waitFor();
    await request("GET", "/hello?reloaded");
    await response().getByText("Hello from").waitFor();
    for (const minutes of [-10, 10]) {
      const other = await browser.context.newPage();
      await other.addInitScript((shift) => {
        const Right = Date;
        globalThis.Date = class extends Right {
          constructor(...given: unknown[]) {
            super(...((given.length === 0 ? [Right.now() + shift] : given) as [number]));
          }
          static override now() {
            return Right.now() + shift;
          }
        } as DateConstructor;
      }, minutes * 60_000);
      await other.goto(`${stack.url}/#/host/${stack.hostId}`);
      await other.getByRole("tabpanel").getByLabel("Path").fill(`/hello?minutes=${minutes}`);
      await other.getByRole("button", { name: "Send", exact: true }).first().click();
      await other.getByLabel("Body of the response").getByText("Hello from").waitFor();
      await other.close();
    }
  });

  it("lists the paired browsers and gives the next device a code that the relay cannot read", async () => {
    await page.getByRole("tab", { name: "Browsers" }).click();
    await shows("This browser");
    await button("Make a code for my next device").click();
    const code = ((await page.locator(".next-code .code").textContent()) ?? "").replaceAll(/\D/g, "");
    await look(page, "host-browsers");
    assert.match(code, /^\d{6}$/);

    const next = await Browser.start();
    try {
      const device = await next.context.newPage();
      await device.goto(await stack.signInLink());
      await device.getByRole("button", { name: BY_LINK }).click();
      await device.getByRole("link", { name: `Pair ${HOST_NAME}` }).click();
      await device.getByLabel("Digit 1 of 6").click();
      await device.keyboard.type(code);
      await device.getByRole("heading", { name: "This browser is paired" }).waitFor();
    } finally {
      await next.stop();
    }
  });

  it("approves an agent that signs in by the device flow", async () => {
    const login = stack.login("laptop");
    const [userCode] = await login.line(/[A-Z]{4}-[A-Z]{4}/);
    await open("/device");
    await heading("Add a device").waitFor();
    await look(page, "device");
    await page.getByLabel("Code", { exact: true }).fill(userCode);
    await button("Continue").click();
    await heading("Is this your machine?").waitFor();
    await shows("laptop");
    await look(page, "device-decide");
    await button("Approve").click();
    await heading("Approved").waitFor();
    assert.equal(await login.ended, 0, login.output);
  });

  it("lists sessions, and sets a password that signs in", async () => {
    await open("/#/sessions");
    await shows("laptop");
    await look(page, "sessions");
    await open("/#/account");
    await heading(/account/i).waitFor();
    await look(page, "account");
    await page.getByLabel("New password", { exact: true }).fill("correct horse battery staple");
    await page.getByLabel(/again|repeat|once more/i).fill("correct horse battery staple");
    await page.getByRole("button", { name: /password/i }).click();
    await shows("The password is saved.");
    const other = await Browser.start();
    try {
      const second = await other.context.newPage();
      await second.goto(stack.url);
      await second.getByLabel(/address/i).fill("owner@example.com");
      await second.getByLabel("Password").fill("correct horse battery staple");
      await second.getByRole("button", { name: "Sign in", exact: true }).click();
      await second.getByRole("heading", { name: "Your hosts" }).waitFor();
    } finally {
      await other.stop();
    }
  });

  it("is cut off at once when it is revoked on the machine, in the middle of a stream", async () => {
    await open(`/#/host/${stack.hostId}`);
    await page.getByRole("tab", { name: "Events" }).click();
    await button("Listen").click();
    await page.getByText("tick 2", { exact: true }).waitFor();
    const list = stack.command("browsers", "list", "--json");
    assert.equal(await list.ended, 0, list.output);
    const { browsers } = JSON.parse(list.output) as {
      browsers: { id: string; last_used_at: number | null }[];
    };
    for (const { id } of browsers) {
      const revoke = stack.command("browsers", "revoke", id);
      assert.equal(await revoke.ended, 0, revoke.output);
    }
    await eventually("the stream ends at the local server", () => stack.local.streams === 0);
    await shows("The host no longer knows this browser.");
    await look(page, "revoked");
    const before = stack.local.arrived.length;
    await page.reload();
    await heading(HOST_NAME).waitFor();
    await shows("This browser is not paired with the host yet.");
    assert.equal(stack.local.arrived.length, before);
  });

  it("had nothing to complain about", () => {
    assert.deepEqual(browser.complaints, []);
  });
});
