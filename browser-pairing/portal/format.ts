// Times, sizes and names for people.

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;

const count = (n: number, unit: string) => `${n} ${unit}${n === 1 ? "" : "s"}`;

/** How long ago a moment was; both in Unix seconds. A moment ahead of the clock counts as just now. */
export function ago(then: number, now: number): string {
  const seconds = Math.floor(now - then);
  if (seconds < 10) return "just now";
  if (seconds < MINUTE) return `${count(seconds, "second")} ago`;
  if (seconds < HOUR) return `${count(Math.floor(seconds / MINUTE), "minute")} ago`;
  if (seconds < DAY) return `${count(Math.floor(seconds / HOUR), "hour")} ago`;
  return `${count(Math.floor(seconds / DAY), "day")} ago`;
}

/** How long something takes or still lasts, rounded up, so that waiting that long is enough. */
export function duration(seconds: number): string {
  const whole = Math.max(1, Math.ceil(seconds));
  if (whole < 100) return count(whole, "second");
  if (whole < 2 * HOUR) return count(Math.ceil(whole / MINUTE), "minute");
  if (whole < 2 * DAY) return count(Math.ceil(whole / HOUR), "hour");
  return count(Math.ceil(whole / DAY), "day");
}

/** A remaining time as on a clock: 4:07. */
export function countdown(seconds: number): string {
  const whole = Math.max(0, Math.ceil(seconds));
  return `${Math.floor(whole / MINUTE)}:${String(whole % MINUTE).padStart(2, "0")}`;
}

/** A size with the units that programs use. */
export function bytes(size: number): string {
  if (size < 1024) return count(size, "byte");
  if (size < 1024 * 1024) return `${(size / 1024).toFixed(1)} KiB`;
  return `${(size / 1024 / 1024).toFixed(1)} MiB`;
}

/** A measured time in milliseconds. */
export function milliseconds(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 10_000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(1)} s`;
}

/** A six-digit code as it is read out: 123 456. */
export function code(digits: string): string {
  return digits.replace(/(\d{3})(?=\d)/g, "$1 ");
}

/** What a browser may be called before its person says otherwise: "Firefox on Linux". */
export function browserName(userAgent: string): string {
  return `${browserOf(userAgent)} on ${systemOf(userAgent)}`;
}

function browserOf(agent: string): string {
  if (/Edg(e|A|iOS)?\//.test(agent)) return "Edge";
  if (/OPR\//.test(agent)) return "Opera";
  if (/(Firefox|FxiOS)\//.test(agent)) return "Firefox";
  if (/(Chrome|HeadlessChrome|CriOS)\//.test(agent)) return "Chrome";
  if (/Safari\//.test(agent)) return "Safari";
  return "Browser";
}

function systemOf(agent: string): string {
  if (/iPhone/.test(agent)) return "iPhone";
  if (/iPad/.test(agent)) return "iPad";
  if (/Android/.test(agent)) return "Android";
  if (/CrOS/.test(agent)) return "ChromeOS";
  if (/Windows/.test(agent)) return "Windows";
  if (/Mac OS X|Macintosh/.test(agent)) return "Mac";
  if (/Linux/.test(agent)) return "Linux";
  return "this device";
}
