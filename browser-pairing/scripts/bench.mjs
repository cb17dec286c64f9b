/** Compiles and runs `bench/paths.ts`. Needs `npm run build` and release builds of the programs. */
import { spawn } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
await mkdir(join(root, "dist/bench"), { recursive: true });
const outfile = join(root, "dist/bench/paths.mjs");
await build({
  bundle: true,
  format: "esm",
  platform: "node",
  target: "node20",
  packages: "external",
  entryPoints: [join(root, "bench/paths.ts")],
  outfile,
  define: { PACKAGE_ROOT: JSON.stringify(root) },
});
const target = process.env.CARGO_TARGET_DIR ?? join(root, "../target");
const env = { SYSTEM_TESTS_BIN_DIR: join(target, "release"), ...process.env };
const run = spawn(process.execPath, [outfile], { stdio: "inherit", env });
process.exit(await new Promise((done) => run.on("exit", (status) => done(status ?? 1))));
