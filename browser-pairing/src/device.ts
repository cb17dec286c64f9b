/** What a browser says about itself when it is paired, so that a person recognises it in a list. */

/** Texts for the agent's list; empty where nothing is known. */
export interface DeviceInfo {
  name: string;
  browser: string;
  os: string;
  device: string;
}

/** The part of `navigator.userAgentData` that is used here; not every browser has it. */
interface UserAgentData {
  brands?: { brand: string }[];
  platform?: string;
  mobile?: boolean;
}

/** As PROTOCOL.md section 3 limits texts, in characters. */
const MAX_TEXT = 100;

// The first that matches counts: browsers name those that they imitate as well.
const BROWSERS: [RegExp, string][] = [
  [/Edg(?:A|iOS)?\//, "Edge"],
  [/OPR\//, "Opera"],
  [/SamsungBrowser\//, "Samsung Internet"],
  [/Firefox\/|FxiOS\//, "Firefox"],
  [/Chrom(?:e|ium)\/|CriOS\//, "Chrome"],
  [/Safari\//, "Safari"],
];
const SYSTEMS: [RegExp, string][] = [
  [/iPhone|iPad|iPod/, "iOS"],
  [/Android/, "Android"],
  [/CrOS/, "ChromeOS"],
  [/Mac OS X|Macintosh/, "macOS"],
  [/Windows/, "Windows"],
  [/Linux/, "Linux"],
];

function first(table: [RegExp, string][], text: string): string {
  return table.find(([pattern]) => pattern.test(text))?.[1] ?? "";
}

/** Without control characters, trimmed and cut to what the protocol allows. */
export function tidy(text: string): string {
  return Array.from(text.replace(/\p{Cc}/gu, " ").trim())
    .slice(0, MAX_TEXT)
    .join("");
}

/** Describes this browser; `name` as the person wants it. */
export function describeDevice(name: string | undefined, navigator?: { userAgent?: string }): DeviceInfo {
  const agent = navigator?.userAgent ?? "";
  const data = (navigator as { userAgentData?: UserAgentData } | undefined)?.userAgentData;
  const browser = first(BROWSERS, agent);
  const os = tidy(data?.platform ?? "") || first(SYSTEMS, agent);
  const mobile = data?.mobile ?? /Mobi|iPhone|iPod/.test(agent);
  const device = mobile ? "phone" : /iPad|Tablet/.test(agent) ? "tablet" : "computer";
  const made = [browser, os].filter((text) => text !== "").join(" on ");
  return { name: tidy(name ?? "") || made || "Browser", browser, os, device };
}
