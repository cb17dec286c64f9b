/**
 * Builds `dist/sdk/` (an ES module, the chunks that it loads when they are needed, source maps, types) and
 * `dist/portal/` (a page and its hashed assets, each of them whole). The page's scripts and styles are files: its Content-Security-Policy allows no others.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const at = (...parts) => join(root, ...parts);
/** The oldest browsers with Ed25519 in WebCrypto. */
const target = ["chrome137", "firefox130", "safari17.4"];
const common = { bundle: true, format: "esm", target, minify: true, legalComments: "none" };

async function buildSdk() {
  await rm(at("dist/sdk"), { recursive: true, force: true });
  await build({
    ...common,
    entryPoints: [at("src/index.ts")],
    outdir: at("dist/sdk"),
    splitting: true,
    chunkNames: "[name]-[hash]",
    sourcemap: "linked",
  });
  const tsc = at("node_modules/typescript/bin/tsc");
  execFileSync(process.execPath, [tsc, "-p", at("tsconfig.types.json")], { stdio: "inherit" });
}

/** Bundles or copies one file that the page names; answers its hashed address. */
async function asset(reference) {
  const source = at("portal", reference);
  const kind = extname(source);
  let name = basename(source);
  let bytes;
  if (kind === ".ts" || kind === ".css") {
    const result = await build({ ...common, entryPoints: [source], write: false, outdir: at("dist/portal") });
    const [file, ...others] = result.outputFiles;
    if (others.length > 0) throw new Error(`${reference} gives more than one file`);
    bytes = file.contents;
    name = basename(file.path);
  } else {
    bytes = await readFile(source);
  }
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 12);
  const ending = extname(name);
  const address = `assets/${basename(name, ending)}-${hash}${ending}`;
  await writeFile(at("dist/portal", address), bytes);
  return `/${address}`;
}

/** Replaces every local `src` and `href` of `portal/index.html` by the address of what was built. */
async function buildPortal() {
  await rm(at("dist/portal"), { recursive: true, force: true });
  await mkdir(at("dist/portal/assets"), { recursive: true });
  const page = (await readFile(at("portal/index.html"), "utf8")).replace(/<!--(?!\[)[\s\S]*?-->\s*/g, "");
  if (/<style|<script(?![^>]*\ssrc=)|\sstyle=|\son[a-z]+=/i.test(page)) {
    throw new Error("portal/index.html has inline scripts or styles");
  }
  const references = [...page.matchAll(/\s(?:src|href)="(\.\/[^"]+)"/g)].map((found) => found[1]);
  const addresses = new Map();
  for (const reference of new Set(references)) addresses.set(reference, await asset(reference));
  const built = page.replace(
    /(\s(?:src|href)=")(\.\/[^"]+)"/g,
    (_, start, name) => `${start}${addresses.get(name)}"`,
  );
  await writeFile(at("dist/portal/index.html"), built);
}

await buildSdk();
if (existsSync(at("portal/index.html"))) await buildPortal();
