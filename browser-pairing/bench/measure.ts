/** Figures from times, and CPU from Linux's /proc. */
import { readdir, readFile } from "node:fs/promises";

/** Ticks of the kernel's clock in a second (USER_HZ), the same on every Linux that we run on. */
const TICKS = 100;

/** The value below which this part of all lie; 0 of none. */
export function percentile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0;
}

/** The middle one. */
export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

interface Process {
  parent: number;
  ticks: number;
}

async function read(pid: number): Promise<Process | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, "utf8");
    // The name may hold anything, so what counts comes after its last parenthesis.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return { parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]) };
  } catch {
    return undefined;
  }
}

/** CPU seconds that all that descend from a process have used so far, but for `others` and theirs. */
export async function descendants(root: number, others: readonly number[]): Promise<number> {
  return sum(
    (pid, parents) => pid !== root && parents.includes(root) && !others.some((pid) => parents.includes(pid)),
  );
}

/** CPU seconds that a process and all that descend from it have used so far. */
export async function cpuSeconds(root: number): Promise<number> {
  return sum((_, parents) => parents.includes(root));
}

/** Of all processes that `counts` says; it is told each one's id, and that with those of its ancestors. */
async function sum(counts: (pid: number, line: readonly number[]) => boolean): Promise<number> {
  const all = new Map<number, Process>();
  for (const name of await readdir("/proc")) {
    const process = /^\d+$/.test(name) ? await read(Number(name)) : undefined;
    if (process !== undefined) all.set(Number(name), process);
  }
  const line = (pid: number): number[] => {
    const parent = all.get(pid)?.parent ?? 0;
    return parent > 1 ? [pid, ...line(parent)] : [pid];
  };
  let ticks = 0;
  for (const [pid, process] of all) if (counts(pid, line(pid))) ticks += process.ticks;
  return ticks / TICKS;
}
