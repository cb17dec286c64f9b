/**
 * What must hold of every page at every size and in both colour schemes, measured in the page itself:
 * nothing wider than the screen, text with AA contrast, controls that a finger can hit, names for
 * everything that can be operated, one h1.
 */
import { type BrowserContext, chromium, type Page } from "playwright-core";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // A name that is no secure context: a relay on a LAN without https.
  "--host-resolver-rules=MAP lan.test 127.0.0.1",
];

/** A Chromium with a profile of its own. */
export function launch(profile: string): Promise<BrowserContext> {
  return chromium.launchPersistentContext(profile, {
    executablePath: "/usr/bin/chromium",
    headless: true,
    args: FLAGS,
    permissions: ["clipboard-read", "clipboard-write"],
  });
}

/** Collects what a page complains about: errors in scripts, and whatever its policy forbids. */
export function listen(page: Page, complaints: string[]): void {
  page.on("pageerror", (error) => complaints.push(`page error: ${error.message}`));
  page.on("console", (message) => {
    // Chromium reports each refusal as a failed resource; those are asked for here.
    const refusal = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !refusal) complaints.push(`console: ${message.text()}`);
  });
}

/** Runs inside the page; answers complaints. */
function measure(): string[] {
  const complaints: string[] = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth)
    complaints.push(`scrolls sideways: ${root.scrollWidth} > ${root.clientWidth}`);
  const headings = document.querySelectorAll("main h1");
  if (headings.length !== 1) complaints.push(`${headings.length} h1`);

  const top = document.querySelector("dialog[open]") ?? document.body;
  const shown = (element: Element) =>
    element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) &&
    element.closest(".visually-hidden, .skip-link") === null;
  const brief = (element: Element) =>
    `${element.tagName.toLowerCase()}.${element.className} “${(element.textContent ?? "").slice(0, 30)}”`;

  type Rgba = readonly [number, number, number, number];
  const parse = (colour: string): Rgba => {
    const [r = 0, g = 0, b = 0, a = 1] = (colour.match(/[\d.]+/g) ?? []).map(Number);
    return [r, g, b, a];
  };
  const over = (upper: Rgba, lower: Rgba): Rgba => {
    const mix = (index: 0 | 1 | 2) => upper[index] * upper[3] + lower[index] * (1 - upper[3]);
    return [mix(0), mix(1), mix(2), 1];
  };
  const background = (element: Element): Rgba => {
    const layers: Rgba[] = [];
    for (let at: Element | null = element; at !== null; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1] as Rgba);
  };
  const luminance = (colour: Rgba) => {
    const part = (value: number) =>
      value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(colour[0]) + 0.7152 * part(colour[1]) + 0.0722 * part(colour[2]);
  };
  const contrast = (a: Rgba, b: Rgba) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x) as [number, number];
    return (light + 0.05) / (dark + 0.05);
  };
  for (const element of top.querySelectorAll("*")) {
    const own = [...element.childNodes].some(
      (node) => node.nodeType === Node.TEXT_NODE && (node.textContent ?? "").trim() !== "",
    );
    if (
      !(own || element instanceof HTMLInputElement) ||
      !shown(element) ||
      element.matches("option, :disabled")
    )
      continue;
    const style = getComputedStyle(element);
    const ground = background(element);
    const ratio = contrast(over(parse(style.color), ground), ground);
    const size = Number.parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) complaints.push(`contrast ${ratio.toFixed(2)}: ${brief(element)}`);
  }

  for (const element of top.querySelectorAll<HTMLElement>(
    "button, input, select, textarea, summary, a.button, nav a, .brand",
  )) {
    if (!shown(element)) continue;
    const { width, height } = element.getBoundingClientRect();
    if (height < 43.5 || width < 40)
      complaints.push(`small target ${Math.round(width)}×${Math.round(height)}: ${brief(element)}`);
    const labels = "labels" in element ? (element.labels as NodeListOf<HTMLLabelElement> | null) : null;
    const name = element.getAttribute("aria-label") ?? labels?.[0]?.textContent ?? element.textContent ?? "";
    if (name.trim() === "") complaints.push(`no name: ${brief(element)}`);
  }
  return complaints;
}

export const SIZES = { desktop: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } } as const;

/** Looks at a page at both sizes and in both schemes, keeps pictures, and answers what is wrong. */
export async function look(page: Page, name: string, folder: string): Promise<string[]> {
  const complaints: string[] = [];
  for (const [size, viewport] of Object.entries(SIZES)) {
    await page.setViewportSize(viewport);
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const found = await page.evaluate(measure);
      complaints.push(...found.map((text) => `${name}, ${size}, ${colorScheme}: ${text}`));
      await page.screenshot({ path: `${folder}/${name}-${size}-${colorScheme}.png`, fullPage: true });
    }
  }
  await page.setViewportSize(SIZES.desktop);
  await page.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
  return complaints;
}
