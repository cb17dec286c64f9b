/** Real Chromium, as it comes from Debian's package. */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BrowserContext, chromium, type Page } from "playwright-core";
import { SOON } from "./processes.js";

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** The width of a small phone, CSS pixels. */
export const PHONE = { width: 390, height: 844 };
export const DESK = { width: 1280, height: 900 };

export class Browser {
  /** What pages complained about: errors, and what their policy forbade. */
  readonly complaints: string[] = [];

  private constructor(
    readonly context: BrowserContext,
    private readonly folder: string,
  ) {
    context.setDefaultTimeout(SOON);
    context.on("page", (page) => this.#watch(page));
  }

  /** Starts with a profile of its own. */
  static async start(): Promise<Browser> {
    const folder = await mkdtemp(join(tmpdir(), "profile-"));
    const context = await chromium.launchPersistentContext(folder, {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: FLAGS,
      viewport: DESK,
    });
    return new Browser(context, folder);
  }

  #watch(page: Page): void {
    page.on("pageerror", (error) => this.complaints.push(`${page.url()}: ${error}`));
    page.on("console", (message) => {
      // A refused request is told on the console too, and here refusals are asked for.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
        this.complaints.push(`${page.url()}: ${message.text()}`);
      }
    });
  }

  async stop(): Promise<void> {
    await this.context.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** Where pictures go, for people to look at; nowhere unless asked for. */
const PICTURES = process.env.SCREENSHOTS;

/** Checks that nothing is cut off at a phone's width or on a desk, and takes a picture of each. */
export async function look(page: Page, name: string): Promise<void> {
  for (const [kind, size] of Object.entries({ desk: DESK, phone: PHONE })) {
    await page.setViewportSize(size);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    if (wide > 0) throw new Error(`${name} is ${wide} px too wide at ${size.width} px`);
    if (PICTURES !== undefined) {
      await mkdir(PICTURES, { recursive: true });
      await page.screenshot({ path: join(PICTURES, `${name}-${kind}.png`), fullPage: true });
    }
  }
  await page.setViewportSize(DESK);
}
