/** Fails when the gzipped SDK is larger than what we promise. Run after `npm run build`. */
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

/** 40 KiB: what a web app can take on without thinking about it. */
const LIMIT = 40 * 1024;

const file = new URL("../dist/sdk/index.js", import.meta.url);
const plain = readFileSync(file);
const size = gzipSync(plain, { level: 9 }).length;
console.log(`dist/sdk/index.js: ${plain.length} bytes, ${size} gzipped (at most ${LIMIT})`);
if (size > LIMIT) process.exit(1);
