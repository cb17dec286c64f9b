/** Child processes whose output is kept, whose lines can be waited for, and which end with the test. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

/** Replaced by the test runner's build: where `package.json` lies. */
declare const PACKAGE_ROOT: string;

/** How long anything that should happen soon may take on a slow and busy machine. */
export const SOON = 30_000;

/** A built program of the workspace. */
export function program(name: string): string {
  const target = process.env.CARGO_TARGET_DIR ?? join(PACKAGE_ROOT, "../target");
  const path = join(process.env.SYSTEM_TESTS_BIN_DIR ?? join(target, "debug"), name);
  if (!existsSync(path)) {
    throw new Error(`${path} is not built: run \`cargo build --workspace --bins --examples\` first`);
  }
  return path;
}

/** Nothing of the caller's environment but what programs need to run at all. */
function environment(extra: Record<string, string>): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const name of ["PATH", "TMPDIR", "LD_LIBRARY_PATH"]) {
    const value = process.env[name];
    if (value !== undefined) kept[name] = value;
  }
  return { ...kept, ...extra };
}

/** A running program. */
export class Running {
  /** Both outputs, as they came. */
  output = "";
  /** Its exit code once it has ended; -1 after a signal. */
  readonly ended: Promise<number>;
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #listeners = new Set<() => void>();
  #over = false;

  constructor(name: string, args: string[], extra: Record<string, string> = {}) {
    this.#name = `${name} ${args[0] ?? ""}`;
    this.#child = spawn(program(name), args, { env: environment(extra), stdio: ["ignore", "pipe", "pipe"] });
    const take = (piece: Buffer) => {
      this.output += piece.toString();
      for (const listener of this.#listeners) listener();
    };
    this.#child.stdout?.on("data", take);
    this.#child.stderr?.on("data", take);
    this.ended = new Promise((resolve, reject) => {
      this.#child.on("error", reject);
      this.#child.on("close", (code) => {
        this.#over = true;
        for (const listener of this.#listeners) listener();
        resolve(code ?? -1);
      });
    });
  }

  /** Waits until the output matches, and gives the match. */
  async line(pattern: RegExp): Promise<RegExpMatchArray> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => fail(`said nothing like ${pattern}`), SOON);
      const look = () => {
        const found = this.output.match(pattern);
        if (found) {
          done();
          resolve(found);
        } else if (this.#over) {
          fail(`ended before it said ${pattern}`);
        }
      };
      const done = () => {
        clearTimeout(timer);
        this.#listeners.delete(look);
      };
      const fail = (what: string) => {
        done();
        reject(new Error(`${this.#name} ${what}:\n${this.output.slice(-4000)}`));
      };
      this.#listeners.add(look);
      look();
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** Ends it, and waits until it has. */
  async stop(): Promise<void> {
    if (!this.#over) this.#child.kill("SIGKILL");
    await this.ended;
  }
}

/** Runs a program to its end and gives what it printed; fails when it does. */
export async function run(name: string, args: string[], extra: Record<string, string> = {}): Promise<string> {
  const running = new Running(name, args, extra);
  const code = await running.ended;
  if (code !== 0) throw new Error(`${name} ${args.join(" ")} ended with ${code}:\n${running.output}`);
  return running.output;
}

/** Looks at a condition until it holds. */
export async function eventually(what: string, condition: () => Promise<boolean> | boolean): Promise<void> {
  const deadline = Date.now() + SOON;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${SOON} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
