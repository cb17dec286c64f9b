// Signing in with a real provider in a real browser: the button, the provider's pages, and back into the portal.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import type { Page } from "playwright-core";
import { Browser, look } from "./chromium.js";
import { SOON } from "./processes.js";
import { Stack } from "./stack.js";

declare const PACKAGE_ROOT: string;

/** The provider as a process of its own. */
class Provider {
  private constructor(
    readonly issuer: string,
    readonly stop: () => Promise<void>,
  ) {}

  static async start(): Promise<Provider> {
    const folder = await mkdtemp(join(tmpdir(), "provider-"));
    const script = join(PACKAGE_ROOT, "test/system/provider.mjs");
    const child = spawn(process.execPath, [script, folder], { stdio: ["ignore", "pipe", "ignore"] });
    const ended = new Promise<void>((resolve) => child.on("close", () => resolve()));
    const issuer = await new Promise<string>((resolve, reject) => {
      let said = "";
      const timer = setTimeout(() => reject(new Error(`the provider does not start: ${said}`)), SOON);
      child.stdout.on("data", (piece: Buffer) => {
        said += piece.toString();
        const found = said.match(/^provider (\S+)$/m)?.[1];
        if (found === undefined) return;
        clearTimeout(timer);
        resolve(found);
      });
    });
    return new Provider(issuer, async () => {
      child.kill("SIGKILL");
      await ended;
      await rm(folder, { recursive: true, force: true });
    });
  }

  /** Lets people come back to this relay. */
  async knows(relay: string): Promise<void> {
    const answer = await fetch(`${this.issuer}/test/portal`, { method: "POST", body: relay });
    assert.equal(answer.status, 204);
  }
}

describe("signing in with a provider in Chromium", { timeout: 6 * SOON }, () => {
  let provider: Provider;
  const stacks: Stack[] = [];
  let browser: Browser;
  let page: Page;

  async function relay(autoCreate: string): Promise<Stack> {
    const stack = await Stack.start({
      relay: {
        RELAY_OIDC_ISSUER: provider.issuer,
        RELAY_OIDC_CLIENT_ID: "portal",
        RELAY_OIDC_CLIENT_SECRET: "a-secret-of-the-tests",
        RELAY_OIDC_AUTO_CREATE: autoCreate,
        RELAY_OIDC_NAME: "Acme",
      },
    });
    stacks.push(stack);
    await provider.knows(stack.url);
    return stack;
  }

  before(async () => {
    provider = await Provider.start();
    browser = await Browser.start();
    page = await browser.context.newPage();
  });

  after(async () => {
    await browser?.stop();
    for (const stack of stacks) await stack.stop();
    await provider?.stop();
  });

  const heading = (text: string) => page.getByRole("heading", { level: 1, name: text });
  const leave = async (stack: Stack) => {
    await page.goto("about:blank");
    await page.goto(`${stack.url}/`);
    await heading("Sign in").waitFor();
    await page.getByRole("link", { name: "Sign in with Acme" }).click();
  };

  /** Says at the provider who one is, and that the relay may know it. */
  const agree = async () => {
    await page.locator('input[name="login"]').fill("ann");
    await page.locator('input[name="password"]').fill("any");
    await page.locator('button[type="submit"]').click();
    await page.getByRole("button", { name: /continue/i }).click();
  };

  it("lands a person who comes for the first time signed in, and keeps them so", async () => {
    const stack = await relay("1");
    await page.goto(`${stack.url}/`);
    await page.getByRole("link", { name: "Sign in with Acme" }).waitFor();
    await look(page, "sso-button");
    await leave(stack);
    await agree();
    await heading("Your hosts").waitFor();
    await page.getByText("ann@example.org").first().waitFor();
    assert.equal(page.url(), `${stack.url}/#/`);
    await look(page, "sso-in");
    const cookies = await browser.context.cookies(stack.url);
    const session = cookies.filter((one) => one.name.startsWith("relay_"));
    assert.deepEqual(
      session.map((one) => [one.name, one.httpOnly, one.sameSite]),
      [["relay_session", true, "Strict"]],
    );
    await page.reload();
    await heading("Your hosts").waitFor();
    await page.goto(`${stack.url}/#/sessions`);
    await page.getByText(/Chrom/).first().waitFor();
  });

  it("brings a person back to the page that they wanted, with the code of their device", async () => {
    const [stack] = stacks;
    assert.ok(stack);
    await browser.context.clearCookies();
    await page.goto("about:blank");
    await page.goto(`${stack.url}/device?user_code=BCDF-GHJK`);
    await page.getByRole("link", { name: "Sign in with Acme" }).click();
    await agree();
    await page.getByLabel("Code").waitFor();
    assert.equal(await page.getByLabel("Code").inputValue(), "BCDF-GHJK");
    assert.equal(page.url(), `${stack.url}/#/device`);
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    // Once: from here on the first page is the first page.
    await page.goto(`${stack.url}/#/`);
    await heading("Your hosts").waitFor();
  });

  it("tells a person whom nobody has linked what to do", async () => {
    const stack = await relay("0");
    await leave(stack);
    await agree();
    await page.getByText("this relay has no account for you").waitFor();
    assert.equal(page.url(), `${stack.url}/#/sign-in`);
    await look(page, "sso-unknown");
    assert.equal(
      (await browser.context.cookies(stack.url)).filter((one) => one.name.startsWith("relay_oidc")).length,
      0,
    );
  });

  it("says so when the provider is away", async () => {
    // A relay that has never spoken with it.
    const stack = await relay("0");
    await provider.stop();
    await leave(stack);
    await page.getByText("The provider does not answer as it should").waitFor();
    await look(page, "sso-away");
    assert.deepEqual(browser.complaints, []);
  });
});
