// The agent's own page in Chromium: what the owner sees and does at the machine, while another browser is
// paired by the code that it shows. One story, told in order.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { Page } from "playwright-core";
import { Browser, look } from "./chromium.js";
import { eventually, SOON } from "./processes.js";
import { HOST_NAME, Stack } from "./stack.js";

let stack: Stack;
let owner: Browser;
let visitor: Browser;
let page: Page;
let device: Page;
let link: string;
let fingerprint: string;

before(async () => {
  stack = await Stack.start();
  owner = await Browser.start();
  visitor = await Browser.start();
  page = await owner.context.newPage();
  device = await visitor.context.newPage();
});

after(async () => {
  await owner?.stop();
  await visitor?.stop();
  await stack?.stop();
});

/** A link that opens the page, once. */
async function pageLink(): Promise<string> {
  const command = stack.command("page");
  assert.equal(await command.ended, 0, command.output);
  return command.output.trim();
}

const button = (name: string) => page.getByRole("button", { name, exact: true });
const dialog = (name: string) => page.getByRole("dialog", { name });
const browsers = () => page.locator("#browsers li");

async function showCode(): Promise<string> {
  await button("Show a pairing code").click();
  const digits = page.locator("#digits");
  await digits.filter({ hasText: /^\d{3} \d{3}$/ }).waitFor();
  return ((await digits.textContent()) ?? "").replace(" ", "");
}

describe("the agent's own page in Chromium", { timeout: 10 * SOON }, () => {
  it("opens by a link, which is gone from the address and leaves nothing for scripts", async () => {
    link = await pageLink();
    await page.goto(link);
    await page.getByRole("heading", { level: 2, name: "Pair a browser" }).waitFor();
    await page.getByText("connected", { exact: true }).waitFor();
    await page.getByText("None yet.").waitFor();
    const key = new URL(link).hash.slice(1);
    assert.ok(key.length > 20 && !page.url().includes(key));
    const [cookie, ...more] = await owner.context.cookies(page.url());
    assert.ok(cookie?.httpOnly && cookie.sameSite === "Strict" && more.length === 0);
    assert.equal(await page.evaluate(() => document.cookie + JSON.stringify({ ...localStorage })), "{}");
    await look(page, "local-page");
  });

  it("opens for nobody else: not by the same link, not by its address alone", async () => {
    const address = page.url();
    for (const [where, why] of [
      [link, "This link is used up or too old."],
      [new URL("/", link).href, "It shows who may reach this machine"],
      [address, "This page's session is over."],
    ] as const) {
      await device.goto("about:blank");
      await device.goto(where);
      await device.getByText(why).waitFor();
      assert.equal(await device.getByRole("heading", { name: "Pair a browser" }).count(), 0, where);
    }
    await look(device, "local-page-closed");
  });

  it("shows six digits and how long they last, and voids them when asked", async () => {
    const code = await showCode();
    assert.match(code, /^\d{6}$/);
    assert.equal(await page.locator("#digits").getAttribute("aria-label"), [...code].join(" "));
    const left = page.locator("#left");
    assert.match((await left.textContent()) ?? "", /^[45]:\d\d left$/);
    const before = await left.textContent();
    await eventually("it counts down", async () => (await left.textContent()) !== before);
    const way = (await page.locator("#link").getAttribute("href")) ?? "";
    assert.equal(way, `${stack.url}/#/pair/${stack.hostId}`);
    await page.getByRole("img", { name: "QR code of the link" }).waitFor();
    await look(page, "local-page-code");
    await button("Hide and void the code").click();
    await page.getByText("The code is void.").waitFor();
    assert.equal(await page.locator("#digits").textContent(), "");
  });

  it("pairs another browser, and both show the same fingerprint", async () => {
    const code = await showCode();
    await device.goto(await stack.signInLink());
    await device.getByRole("button", { name: "Sign in with this link" }).click();
    await device.getByRole("link", { name: `Pair ${HOST_NAME}` }).click();
    await device.getByLabel("Digit 1 of 6").click();
    await device.keyboard.type(code);
    await device.getByRole("heading", { name: "This browser is paired" }).waitFor();
    fingerprint = (await device.locator(".fingerprint").textContent()) ?? "";
    assert.match(fingerprint, /^[0-9a-f]{4}( [0-9a-f]{4}){3}$/);
    await page.locator("#outcome", { hasText: `Both ends show the fingerprint ${fingerprint}.` }).waitFor();
    await browsers().filter({ hasText: fingerprint }).waitFor();
    assert.equal(await browsers().count(), 1);
    assert.equal(await page.getByText("None yet.").isVisible(), false);
    await look(page, "local-page-paired");
  });

  it("gives it another name, and keeps the old one when the new one is none", async () => {
    await browsers()
      .getByRole("button", { name: /^Rename / })
      .click();
    const name = dialog("Rename").getByLabel("Name");
    await name.fill("   ");
    await dialog("Rename").getByRole("button", { name: "Rename" }).click();
    await dialog("Rename").getByText("1 to 100 printable characters").waitFor();
    await name.fill("<b>Anna's phone</b>");
    await page.keyboard.press("Enter");
    await dialog("Rename").waitFor({ state: "hidden" });
    await browsers().filter({ hasText: "<b>Anna's phone</b>" }).waitFor();
  });

  it("takes its access away, after asking once more", async () => {
    const revoke = browsers().getByRole("button", { name: /^Revoke / });
    await revoke.click();
    await dialog("Revoke this browser?").getByText("Anna's phone").waitFor();
    await look(page, "local-page-revoke");
    await button("Keep it").click();
    assert.equal(await browsers().count(), 1);
    await revoke.click();
    await dialog("Revoke this browser?").getByRole("button", { name: "Revoke", exact: true }).click();
    await page.getByText("None yet.").waitFor();
    assert.equal(await browsers().count(), 0);
    const list = stack.command("browsers", "list", "--json");
    assert.equal(await list.ended, 0, list.output);
    assert.deepEqual(JSON.parse(list.output), { browsers: [] });
    await device.getByRole("link", { name: "Open the host" }).click();
    await device.getByRole("tabpanel").getByLabel("Path").fill("/hello");
    await device.getByRole("button", { name: "Send", exact: true }).first().click();
    await device.getByText("The host no longer knows this browser.").first().waitFor();
    assert.equal(stack.local.arrived.length, 0);
  });

  it("says so when the agent is gone", async () => {
    await stack.stopAgent();
    await page.getByText("the agent does not answer").waitFor();
  });

  it("had nothing to complain about", () => {
    assert.deepEqual([...owner.complaints, ...visitor.complaints], []);
  });
});
