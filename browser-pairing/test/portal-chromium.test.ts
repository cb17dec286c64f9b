/**
 * The portal in a real Chromium against the stand-in relay, by keyboard, under the strict policy. The
 * host behind it is put in at the SDK's seam. PORTAL_SHOTS names a folder to keep the pictures in.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { BrowserContext, Page } from "playwright-core";
import { buildPortal } from "./portal-build.js";
import { launch, listen, look } from "./portal-looks.js";
import { type Standin, type StandinHost, startStandin, unixNow } from "./portal-standin.js";

describe("the portal in Chromium", () => {
  let folder: string;
  let shots: string;
  let standin: Standin;
  let browser: BrowserContext;
  let page: Page;
  let workshop: StandinHost;
  const wrong: string[] = [];
  const snap = async (name: string) => wrong.push(...(await look(page, name, shots)));
  const heading = (text: string) => page.getByRole("heading", { level: 1, name: text }).waitFor();
  const says = (text: string | RegExp) => page.getByText(text).first().waitFor();
  const focused = () =>
    page.evaluate(
      () => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent,
    );
  /** Goes on with Tab until the named control has the focus: what cannot be reached by keyboard fails. */
  const tabTo = async (name: string) => {
    for (let count = 0; count < 60; count += 1) {
      if ((await focused())?.trim() === name) return;
      await page.keyboard.press("Tab");
    }
    assert.fail(`Tab never reaches “${name}”`);
  };

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "portal-"));
    shots = process.env["PORTAL_SHOTS"] ?? join(folder, "shots");
    await mkdir(shots, { recursive: true });
    await buildPortal(join(folder, "portal"), "test/portal-seam.ts");
    standin = await startStandin(join(folder, "portal"));
    browser = await launch(join(folder, "profile"));
    page = browser.pages()[0] ?? (await browser.newPage());
    page.setDefaultTimeout(15_000);
    listen(page, wrong);
  });
  after(async () => {
    await browser?.close();
    await standin?.close();
    await rm(folder, { recursive: true, force: true });
  });

  test("sign-in tells what is wrong and lets in", async () => {
    await page.goto(`${standin.origin}/#/sessions`);
    await heading("Sign in");
    await snap("sign-in");
    await page.keyboard.type("not an address");
    await page.keyboard.press("Enter");
    await says("Write your email address");
    await page.getByLabel("Email address").fill("ada@example.org");
    await page.keyboard.press("Tab");
    await page.keyboard.type("wrong password");
    await page.keyboard.press("Enter");
    await says("That did not sign you in");
    await snap("sign-in-wrong");
    standin.state.wrong = 5;
    await page.keyboard.press("Enter");
    await says("Try again in 90 seconds");
    standin.state.down = true;
    await page.keyboard.press("Enter");
    await says("the relay does not answer");
    standin.state.down = false;
    standin.state.wrong = 0;
    await page.getByLabel("Password").fill("correct horse battery");
    await page.keyboard.press("Enter");
    // The page that was asked for, not the first one.
    await heading("Sessions");
  });

  test("hosts: empty, then alive", async () => {
    await tabTo("Hosts");
    await page.keyboard.press("Enter");
    await heading("Your hosts");
    await says("Connect your first machine");
    await snap("hosts-empty");
    workshop = standin.state.addHost({ name: "workshop" });
    standin.state.addHost({ name: "attic", status: "offline", last_seen_at: unixNow() - 7300 });
    standin.state.addHost({
      name: "a-machine-with-quite-a-long-name.of-a-department.example.org",
      role: "member",
      agent_version: null,
    });
    await page.getByRole("heading", { name: "workshop" }).waitFor();
    await snap("hosts");
    await tabTo("Rename attic");
    workshop.status = "offline";
    await page
      .getByRole("status")
      .filter({ hasText: "workshop is now offline." })
      .waitFor({ state: "attached" });
    assert.equal(await focused(), "Rename attic", "polling must not move the focus");
    workshop.status = "online";
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await snap("hosts-rename");
    await page.keyboard.type("cellar");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "cellar" }).waitFor();
    await tabTo("Delete cellar");
    await page.keyboard.press("Enter");
    await says("Delete cellar?");
    await snap("hosts-delete");
    assert.equal(await focused(), "Cancel", "the harmless answer has the focus");
    await page.keyboard.press("Escape");
    assert.equal(await focused(), "Delete cellar");
    await page.keyboard.press("Enter");
    let release = () => {};
    const held = new Promise<void>((done) => {
      release = done;
    });
    await page.route("**/v1/relay/hosts/*", async (route) => {
      await held;
      await route.continue();
    });
    const asked = page.waitForRequest((request) => request.method() === "DELETE");
    await page.getByRole("button", { name: "Delete host" }).press("Enter");
    await asked;
    await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Cancel" }).click();
    assert.ok(await page.getByRole("dialog").isVisible(), "what was begun cannot be dismissed");
    release();
    await says("cellar was deleted.");
    await page.unroute("**/v1/relay/hosts/*");
    assert.equal(await focused(), "Your hosts", "the focus does not get lost with the card");
    standin.state.down = true;
    await says("This page keeps trying.");
    await snap("hosts-unreachable");
    standin.state.down = false;
    await page.getByText("This page keeps trying.").waitFor({ state: "detached" });
  });

  test("pairing: every refusal has a clear text, then it succeeds", async () => {
    await page.goto(`${standin.origin}/#/pair/${workshop.id}`);
    await heading("Pair this browser");
    await says("Online");
    await snap("pair");
    assert.equal(await focused(), "Digit 1 of 6");
    await page.keyboard.type("12");
    await page.keyboard.press("Backspace");
    await page.keyboard.press("Backspace");
    assert.equal(await focused(), "Digit 1 of 6", "Backspace goes back");
    await page.keyboard.type("12");
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Control+X");
    const second = page.getByLabel("Digit 2 of 6");
    assert.equal(await second.inputValue(), "", "what was cut is gone");
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Control+Backspace");
    assert.equal(await focused(), "Digit 1 of 6");
    await page.keyboard.type("3");
    await page.keyboard.type("4");
    const typed = await page
      .getByRole("group")
      .locator("input")
      .evaluateAll((inputs) => inputs.map((input) => (input as HTMLInputElement).value).join("|"));
    assert.equal(typed, "3|4||||", "nothing that was removed comes back");
    const texts: [string, RegExp][] = [
      ["111111", /used up now/],
      ["222222", /has expired/],
      ["333333", /shows no code/],
      ["444444", /host is offline/],
      ["555555", /could not prove that it is your machine/],
      ["777777", /does not know how to pair/],
      ["888888", /Make a new code before you try again/],
      ["666666", /the relay refused \(shared_origin_refused\)/],
    ];
    for (const [code, text] of texts) {
      await page.evaluate(
        (copied) => navigator.clipboard.writeText(copied),
        `${code.slice(0, 3)} ${code.slice(3)}`,
      );
      await page.getByLabel("Digit 1 of 6").focus();
      await page.keyboard.press("Control+V");
      await says(text);
      await page
        .getByRole("button", { name: "Pair", exact: true })
        .and(page.locator(":not([aria-busy])"))
        .waitFor();
      if (code === "111111") await snap("pair-wrong");
    }
    await page.evaluate(() => navigator.clipboard.writeText("941-207"));
    await page.getByLabel("Digit 4 of 6").focus();
    await page.keyboard.press("Control+V");
    await heading("This browser is paired");
    await says("3f2a 91bc 07de 55a1");
    await snap("pair-done");
    assert.ok(!standin.state.seen.some((line) => line.includes("941207")), "the code crosses no wire");
    await tabTo("Back to your hosts");
    await page.keyboard.press("Enter");
    await says("Paired with this browser");
    await snap("hosts-paired");
    await tabTo("Open workshop");
    await page.keyboard.press("Enter");
    await heading("workshop");
  });

  test("the console sends, streams, cancels and remembers", async () => {
    await snap("host");
    await page.getByRole("textbox", { name: "Path" }).fill("no slash");
    await page.keyboard.press("Enter");
    await says("A path begins with a slash");
    await page.getByRole("textbox", { name: "Path" }).fill("/api/items?page=1");
    await page.keyboard.press("Enter");
    await says("200 OK");
    await says("Sealed and verified");
    await says("from the machine");
    await page.getByText("Headers (3)").click();
    await snap("host-response");
    await page.getByLabel("Method").selectOption("POST");
    await page.getByText("Headers and body").click();
    await page.getByLabel("Headers", { exact: true }).fill("x-demo: one\nnonsense");
    await page.getByRole("button", { name: "Send" }).press("Enter");
    await says("Line 2 is no header");
    await page.getByLabel("Headers", { exact: true }).fill("x-demo: one");
    await page.getByLabel("Body", { exact: true }).fill("some text");
    await page.getByRole("button", { name: "Send" }).press("Enter");
    await says('"sent": "some text"');
    await snap("host-post");
    await page.getByRole("button", { name: /^Take GET \/api\/items/ }).press("Enter");
    const send = async (path: string) => {
      await page.getByRole("textbox", { name: "Path" }).fill(path);
      await page.keyboard.press("Enter");
    };
    const announced = (text: string) =>
      page.locator("#announcer").filter({ hasText: text }).waitFor({ state: "attached" });
    const badge = page.locator(".trust-path .badge");
    assert.equal(await badge.textContent(), "Relay");
    await send("/direct");
    await announced("Requests go directly to the host.");
    assert.equal(await badge.textContent(), "Direct");
    await says("3.4 ms round trip · 47.1 KiB sent · 6.0 MiB received");
    await snap("host-direct");
    await send("/turn");
    await announced("through a TURN server");
    assert.equal(await badge.textContent(), "Direct, TURN");
    await says("84 ms round trip · 47.1 KiB sent · 7.0 MiB received");
    await snap("host-turn");
    await send("/relayed");
    await announced("Requests go over the relay.");
    await page.locator(".trust-path").getByText("Relay", { exact: true }).waitFor();
    assert.equal(await page.locator(".trust-numbers").textContent(), "");
    await send("/binary");
    await says("00000000  00 01 02 03");
    await snap("host-binary");
    await send("/big");
    await says("There is more than this page shows");
    await send("/endless");
    await says("data: 3");
    await page.getByRole("button", { name: "Cancel" }).press("Enter");
    await says("Cancelled.");
    assert.equal(await focused(), "Send", "the focus does not get lost with the button");
    await page.evaluate(() => {
      const announcer = document.getElementById("announcer") as HTMLElement;
      new MutationObserver((changes) => {
        for (const change of changes)
          for (const added of change.addedNodes)
            document.body.dataset["said"] = `${document.body.dataset["said"] ?? ""}[${added.textContent}]`;
      }).observe(announcer, { childList: true });
    });
    for (const times of [1, 2]) {
      await send("/missing");
      await says("404 Not Found");
      await page.waitForFunction(
        (count) => (document.body.dataset["said"] ?? "").split("404").length > count,
        times,
      );
    }
    await send("/down");
    await says("Nothing listens on 127.0.0.1:3000.");
    await send("/tampered");
    await says("is not as the host sent it");
    await says("An answer did not verify");
    await snap("host-tampered");
    await send("/lies");
    await says("the host has not signed that");
    await page.getByRole("tab", { name: "Request" }).waitFor();
  });

  test("events, WebSocket and paired browsers", async () => {
    await page.getByRole("tab", { name: "Request" }).focus();
    await page.keyboard.press("ArrowRight");
    assert.equal(await focused(), "Events");
    await page.getByLabel("Event names").fill("update");
    await page.keyboard.press("Enter");
    await says("update #4");
    await snap("host-events");
    await page.getByRole("button", { name: "Stop" }).press("Enter");
    await says("Not listening");
    // A burst of events with huge ids is cut, and drawn at once.
    await page.evaluate(() => {
      const real = Object.getOwnPropertyDescriptor(Element.prototype, "scrollHeight");
      Object.defineProperty(Element.prototype, "scrollHeight", {
        configurable: true,
        get() {
          document.body.dataset["asked"] = String(Number(document.body.dataset["asked"] ?? 0) + 1);
          return real?.get?.call(this) as number;
        },
      });
    });
    await page.getByRole("button", { name: "Clear" }).press("Enter");
    await page.getByRole("textbox", { name: "Path" }).fill("/flood");
    await page.keyboard.press("Enter");
    await page.getByText("flood 700", { exact: true }).waitFor();
    const log = await page.evaluate(() => ({
      longest: Math.max(...[...document.querySelectorAll(".log-sign")].map((of) => of.textContent.length)),
      asked: Number(document.body.dataset["asked"]),
      below: [...document.querySelectorAll(".log")]
        .filter((of) => of.checkVisibility())
        .map((of) => of.scrollHeight - of.scrollTop - of.clientHeight),
    }));
    assert.ok(log.longest <= 81, `a label of ${log.longest} characters`);
    assert.ok(log.asked < 20, `${log.asked} layouts for 700 events`);
    assert.ok(log.below.length === 1 && log.below.every((rest) => rest < 8), `${log.below} below the end`);
    await snap("host-flood");
    await page.getByRole("button", { name: "Stop" }).press("Enter");
    await page.getByRole("tab", { name: "Events" }).focus();
    await page.keyboard.press("ArrowRight");
    await page.getByLabel("Sub-protocols").fill("chat");
    await page.keyboard.press("Enter");
    await says("Connected, chat");
    await page.getByRole("textbox", { name: "Message" }).fill("hello there");
    await page.keyboard.press("Enter");
    await says("echo: hello there");
    await says("00000000  68 65");
    await snap("host-websocket");
    await page.getByRole("button", { name: "Disconnect" }).press("Enter");
    await says("Closed with 1000");
    await page.getByRole("tab", { name: "WebSocket" }).focus();
    await page.keyboard.press("ArrowRight");
    await says("Safari on iPhone");
    await page.getByRole("button", { name: "Make a code for my next device" }).press("Enter");
    await says("904 215");
    await snap("host-browsers");
    await page.getByRole("button", { name: "Rename Safari on iPhone" }).press("Enter");
    await page.keyboard.type("My phone");
    await page.keyboard.press("Enter");
    await says("The browser is now called My phone.");
    await page.waitForFunction(() => document.activeElement?.textContent === "Paired browsers");
    await page.getByRole("button", { name: "Revoke My phone" }).press("Enter");
    await says("Revoke My phone?");
    await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).press("Enter");
    await says("My phone was revoked.");
    await page.waitForFunction(() => document.activeElement?.textContent === "Paired browsers");
  });

  test("a revocation that the host signed ends the view", async () => {
    await page.getByRole("tab", { name: "Request" }).click();
    await page.getByRole("textbox", { name: "Path" }).fill("/revoked");
    await page.keyboard.press("Enter");
    await says("The host no longer knows this browser.");
    await snap("host-revoked");
    await page.getByRole("link", { name: "Back to your hosts" }).press("Enter");
    await says("Not paired here");
    await page.goto(`${standin.origin}/#/host/${workshop.id}`);
    // Found out by a session that the host ended, too.
    for (const path of ["/expired", "/ended"]) {
      await page.goto(`${standin.origin}/#/pair/${workshop.id}`);
      await heading("Pair this browser");
      await page.getByLabel("Digit 1 of 6").focus();
      await page.keyboard.type("941207");
      await page.getByRole("link", { name: "Open the host" }).press("Enter");
      await page.getByRole("textbox", { name: "Path" }).fill(path);
      await page.keyboard.press("Enter");
      await says("The host no longer knows this browser.");
    }
  });

  test("sessions can be ended, the account has a password", async () => {
    standin.state.addAuthSession({ name: "workshop", kind: "device" });
    standin.state.addAuthSession({ name: "Safari on iPhone", last_used_at: unixNow() - 90_000 });
    standin.state.addBrowserSession(workshop.id);
    await page.goto(`${standin.origin}/#/sessions`);
    await says("Safari on iPhone");
    await snap("sessions");
    await page.getByRole("button", { name: "End workshop" }).press("Enter");
    await page.getByRole("button", { name: "End it" }).press("Enter");
    await says("“workshop” was ended.");
    await page.getByRole("button", { name: "End the session for workshop" }).press("Enter");
    await page.getByRole("button", { name: "End it" }).press("Enter");
    await says("Nothing reaches your hosts right now.");
    standin.state.addAuthSession({ name: "cron", kind: "token" });
    await page.getByRole("button", { name: "Sign out everywhere else" }).press("Enter");
    await says("Sign out everywhere else?");
    await snap("sessions-others");
    // Which came after the page was loaded counts, too.
    standin.state.addAuthSession({ name: "latecomer" });
    await page.getByRole("button", { name: "Sign out all others" }).press("Enter");
    await says("Every other sign-in was ended.");
    assert.equal(standin.state.authSessions.size, 1);
    await page.getByRole("button", { name: "Sign out here" }).waitFor();
    await page.getByRole("button", { name: "Sign out everywhere else" }).waitFor({ state: "hidden" });
    await page.goto(`${standin.origin}/#/account`);
    await heading("Account");
    await snap("account");
    await page.getByLabel("Current password").fill("something else");
    await page.getByLabel("New password", { exact: true }).fill("a better one, surely");
    await page.getByLabel("New password again").fill("a better one, surely");
    await page.keyboard.press("Enter");
    await says("The current password is not right.");
    await page.getByLabel("Current password").fill("correct horse battery");
    await page.keyboard.press("Enter");
    await says("The password is saved.");
    assert.equal(standin.state.password, "a better one, surely");
    await says("stays signed in");
    await page.locator("main").getByRole("link", { name: "Sessions" }).waitFor();
    await snap("account-saved");
    standin.state.password = undefined;
    await page.reload();
    await says("Set a password");
    assert.equal(await page.getByLabel("Current password").isVisible(), false);
    await page.getByLabel("New password", { exact: true }).fill("too short");
    await page.keyboard.press("Enter");
    await says("A password has 10 to 200 characters.");
    await page.getByLabel("New password", { exact: true }).fill("long enough now");
    await page.getByLabel("New password again").fill("long enough, no");
    await page.keyboard.press("Enter");
    await says("The two do not match.");
    await page.getByLabel("New password again").fill("long enough now");
    await page.keyboard.press("Enter");
    await says("The password is saved.");
    assert.equal(standin.state.password, "long enough now");
    await page.getByLabel("Current password").waitFor();
  });

  test("a device login is shown before it is approved, and leaves no code in the address", async () => {
    standin.state.addDevice("BCDF-GHJK", "cellar");
    await page.goto(`${standin.origin}/device?user_code=bcdfghjk`);
    await heading("Is this your machine?");
    await says("203.0.113.7");
    assert.equal(page.url(), `${standin.origin}/#/device`);
    await snap("device");
    await tabTo("Approve");
    await page.keyboard.press("Enter");
    await heading("Approved");
    assert.equal(standin.state.devices.get("BCDF-GHJK")?.decided, true);
    standin.state.addDevice("ZXWV-TSRQ", "stranger");
    await tabTo("Add a device");
    await page.keyboard.press("Enter");
    await heading("Add a device");
    await page.keyboard.type("zxw");
    await page.keyboard.press("Enter");
    await says("A code has eight letters");
    await snap("device-code");
    await page.keyboard.type("vtsrq");
    assert.equal(await page.getByLabel("Code", { exact: true }).inputValue(), "ZXWV-TSRQ");
    await page.keyboard.press("Enter");
    await tabTo("Deny");
    await page.keyboard.press("Enter");
    await heading("Denied");
    assert.equal(standin.state.devices.get("ZXWV-TSRQ")?.decided, false);
  });

  test("another account of another tab is noticed before a device is decided, and when one comes back", async () => {
    const ada = { ...standin.state.user };
    const device = standin.state.addDevice("BBBB-CCCC", "den");
    await page.goto(`${standin.origin}/device?user_code=bbbbcccc`);
    await heading("Is this your machine?");
    await page.locator("main").getByText("ada@example.org").waitFor();
    Object.assign(standin.state.user, { id: randomUUID(), email: "eve@example.org" });
    await page.getByRole("button", { name: "Approve" }).press("Enter");
    await says("This browser is now signed in as eve@example.org");
    await heading("Is this your machine?");
    await page.locator("main strong", { hasText: "eve@example.org" }).waitFor();
    assert.equal(device.decided, undefined, "nothing was approved for an account that was not shown");
    await snap("account-changed");
    Object.assign(standin.state.user, ada);
    await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
    await says("This browser is now signed in as ada@example.org");
    await page.getByRole("button", { name: "Deny" }).press("Enter");
    await heading("Denied");
  });

  test("an ended sign-in asks again in place, and a one-time link is used once and never kept", async () => {
    await page.goto(`${standin.origin}/#/`);
    await heading("Your hosts");
    standin.state.cookies.clear();
    await says("Your sign-in has ended.");
    standin.state.links.add("one-time-token");
    await page.goto(`${standin.origin}/#/link/one-time-token`);
    await heading("Sign in with a link");
    await snap("link");
    assert.ok(standin.state.links.has("one-time-token"), "nothing is done without a click");
    standin.state.down = true;
    await page.getByRole("button", { name: "Sign in with this link" }).press("Enter");
    await says("the relay does not answer");
    await snap("link-unreachable");
    standin.state.down = false;
    await page.getByRole("button", { name: "Try again" }).press("Enter");
    await heading("Your hosts");
    await says("The link signed you in as ada@example.org");
    await snap("link-done");
    assert.ok(!page.url().includes("one-time-token"));
    await page.goto(`${standin.origin}/#/link/one-time-token`);
    await says(/You are signed in as/);
    await snap("link-signed-in");
    await page.getByRole("button", { name: "Sign in with this link" }).press("Enter");
    await says("This link no longer works");
    await page.getByRole("button", { name: /Try again|Sign in with/ }).waitFor({ state: "hidden" });
    await snap("link-dead");
    assert.ok(
      !standin.state.seen.some((line) => line.includes("one-time-token")),
      "the token is in no address",
    );
    await page.goto(`${standin.origin}/#/`);
    await heading("Your hosts");
    await page.getByRole("button", { name: "Sign out" }).press("Enter");
    await heading("Sign in");
    const stored = await page.evaluate(() => [Object.keys(localStorage), document.cookie]);
    assert.deepEqual(stored, [[], ""]);
    await page.goto(`${standin.origin}/#/nowhere`);
    await heading("Sign in");
  });

  test("every page looked right, and nothing complained", () => {
    assert.deepEqual(wrong, []);
  });
});
