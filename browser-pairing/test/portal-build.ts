/** Builds the portal into a folder as `scripts/build.mjs` does, with another script in place of `main.ts`. */
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";

declare const PACKAGE_ROOT: string;

export async function buildPortal(folder: string, script: string): Promise<void> {
  const portal = join(PACKAGE_ROOT, "portal");
  const assets = join(folder, "assets");
  await mkdir(assets, { recursive: true });
  const common = { bundle: true, format: "esm", target: "chrome137", logLevel: "error" } as const;
  await build({ ...common, entryPoints: [join(PACKAGE_ROOT, script)], outfile: join(assets, "main.js") });
  await build({ ...common, entryPoints: [join(portal, "style.css")], outfile: join(assets, "style.css") });
  await copyFile(join(portal, "logo.svg"), join(assets, "logo.svg"));
  const page = await readFile(join(portal, "index.html"), "utf8");
  const built = page.replaceAll("./main.ts", "./main.js").replaceAll('"./', '"/assets/');
  await writeFile(join(folder, "index.html"), built);
}
