/** Fails when the gzipped SDK is larger than what we promise. Run after `npm run build`. */
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

/** 40 KiB: what a web app can take on without thinking about it. */
const LIMIT = 40 * 1024;

const folder = new URL("../dist/sdk/", import.meta.url);
/** What a page loads at once: the module, and what it imports by a statement. */
const needed = new Set(["index.js"]);
/** What is loaded when it is needed. */
const later = new Set();
const sizes = new Map();
for (const files of [needed, later]) {
  for (const name of files) {
    const code = readFileSync(new URL(name, folder), "utf8");
    sizes.set(name, gzipSync(code, { level: 9 }).length);
    for (const [, found] of code.matchAll(/(?:from|import)\s*"\.\/([^"]+)"/g)) files.add(found);
    for (const [, found] of code.matchAll(/import\("\.\/([^"]+)"\)/g)) later.add(found);
  }
}
const sum = (names) => names.reduce((total, name) => total + sizes.get(name), 0);
const first = sum([...needed]);
console.log(`at once: ${first} bytes gzipped (at most ${LIMIT}) in ${[...needed].join(", ")}`);
for (const name of later) if (!needed.has(name)) console.log(`later: ${sizes.get(name)} in ${name}`);
if (first > LIMIT) process.exit(1);
