/**
 * Compiles every `test/*.test.ts` into a folder of its own and runs them with Node's test runner.
 * Arguments are how the names begin that shall run (`npm test pairing`); all without any.
 */
import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
/** A test that hangs fails, in milliseconds; far beyond what any needs. */
const LIMIT = "--test-timeout=120000";
const whole = process.argv[2] === "--whole";
const source = join(root, whole ? "test/system" : "test");
const wanted = process.argv.slice(whole ? 3 : 2);
const names = (await readdir(source))
  .filter((name) => name.endsWith(".test.ts"))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.startsWith(part)));
if (names.length === 0) throw new Error("no test has such a name");

// Inside the package, so that what is left outside the bundles is found in node_modules.
await mkdir(join(root, "dist/test"), { recursive: true });
const folder = await mkdtemp(join(root, "dist/test/run-"));
let code = 1;
try {
  await build({
    bundle: true,
    format: "esm",
    platform: "node",
    target: "node20",
    packages: "external",
    sourcemap: "inline",
    entryPoints: names.map((name) => join(source, name)),
    outdir: folder,
    outExtension: { ".js": ".mjs" },
    define: { PACKAGE_ROOT: JSON.stringify(root) },
  });
  const files = names.map((name) => join(folder, name.replace(/\.ts$/, ".mjs")));
  const run = spawn(process.execPath, ["--enable-source-maps", "--test", LIMIT, ...files], {
    stdio: "inherit",
  });
  code = await new Promise((done) => run.on("exit", (status) => done(status ?? 1)));
} finally {
  await rm(folder, { recursive: true, force: true });
}
process.exit(code);
