/** The small pure parts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { describeDevice } from "../src/device.js";
import { b64, fromB64, fromBase64, fromUtf8, latin1, uuid } from "../src/encoding.js";
import { RelayError } from "../src/errors.js";
import { localTarget, redirectedCall } from "../src/fetch.js";
import { Budget, relayBase } from "../src/link.js";
import { problemError } from "../src/problem.js";
import { parseDictionary } from "../src/structured.js";

test("base64url has one text for each value, and everything else is refused", () => {
  for (const text of ["", "AA", "AAA", "AAAA", "_-8"]) assert.equal(b64(fromB64(text) ?? latin1("?")), text);
  for (const text of ["A", "AB", "AAB", "AA==", "A A", "+/8", "ä", undefined, 7]) {
    assert.equal(fromB64(text), undefined, String(text));
  }
  for (const text of ["AA", "AB==", "A===", "AAA-"]) assert.equal(fromBase64(text), undefined, text);
});

test("UTF-8 is decoded strictly, and a byte order mark is text", () => {
  assert.equal(fromUtf8(new Uint8Array([0xc3])), undefined);
  assert.equal(fromUtf8(new Uint8Array([0xef, 0xbb, 0xbf, 0x61])), "\ufeffa");
  assert.throws(() => latin1("\u0100"), TypeError);
});

test("ids are hyphenated UUIDs in either case", () => {
  const id = "0d1f0c57-3b4e-4a7f-9e38-0a4b4c5d6e7f";
  assert.equal(uuid(id.toUpperCase()), id);
  for (const text of [id.replaceAll("-", ""), `${id}0`, `{${id}}`, "", 1])
    assert.equal(uuid(text), undefined);
});

test("structured fields: what is a dictionary and what is none", () => {
  const good = [
    "",
    "a",
    "a=1, b=:AA==:",
    'relay=("@method" "x";key="y";req);created=1;keyid="k"',
    "a=?0;b;c=tok/en, d=-1.5",
    "a=()",
    'a="q\\"uo\\\\te"',
  ];
  for (const text of good) assert.notEqual(parseDictionary(text), undefined, text);
  const bad = [
    "a,",
    "a=1,,b=2",
    "a=1 b=2",
    "A=1",
    "a=(",
    'a=("x""y")',
    "a=(1",
    'a="',
    "a=:*:",
    "a=1, a=2",
    "a;b=1;b=2",
    "a=\u00e9",
    "=1",
    `a="${"x".repeat(40_000)}"`,
  ];
  for (const text of bad) assert.equal(parseDictionary(text), undefined, text.slice(0, 20));
  assert.equal(parseDictionary(null), undefined);
  assert.equal(parseDictionary('a=("x";k="v"  "y");p')?.get("a")?.items?.[0]?.text, '"x";k="v"');
});

test("relay addresses lose their slash, and what is no relay's address is refused", () => {
  assert.equal(relayBase("https://Relay.Example/"), "https://relay.example");
  assert.equal(relayBase("http://127.0.0.1:8082/base/"), "http://127.0.0.1:8082/base");
  for (const url of ["relay.example", "ftp://x", "https://u:p@x", "https://x/?q", "https://x/#f", ""]) {
    assert.throws(() => relayBase(url), TypeError, url);
  }
});

test("paths of the local server are normalised as the URL standard does it", () => {
  const cases: [string, string][] = [
    ["/", "/"],
    ["", "/"],
    ["x", "/x"],
    ["/a/../b?c=d e#f", "/b?c=d%20e"],
    ["/a%2f..%2Fb", "/a%2f..%2Fb"],
    ["?q", "/?q"],
    ["/ü", "/%C3%BC"],
  ];
  for (const [input, wanted] of cases) assert.equal(localTarget(input), wanted);
  assert.equal(localTarget("../y", "/a/b/c"), "/a/y");
  assert.equal(localTarget("/_relays"), "/_relays");
});

test("the agent's own paths are none of the local server's", () => {
  for (const path of ["/_relay", "/_relay/", "/_relay/browsers", "/x/../_relay/session", "/_Relay?x"]) {
    assert.throws(() => localTarget(path), TypeError, path);
  }
});

test("a redirect keeps what it may keep", () => {
  const call = {
    method: "POST",
    target: "/a/b",
    headers: new Headers({ "content-type": "x", "x-a": "1" }),
    body: new Blob(),
  };
  const to = redirectedCall(call, 303, "c");
  assert.deepEqual(
    [to.method, to.target, to.headers.get("content-type"), to.headers.get("x-a")],
    ["GET", "/a/c", null, "1"],
  );
  assert.equal(redirectedCall(call, 307, "?q").target, "/a/b?q");
  for (const location of [
    "//other/",
    "https://local.invalid/",
    "http://",
    "javascript:0",
    "/_relay/browsers",
  ]) {
    assert.throws(() => redirectedCall(call, 302, location), RelayError, location);
  }
});

test("each kind of repetition is spent once", () => {
  const budget = new Budget();
  assert.deepEqual(
    [budget.spend("signed_anew"), budget.spend("relay_session"), budget.spend("signed_anew")],
    [true, true, false],
  );
});

test("problems are read without trusting their form", () => {
  const read = (text: string, retry?: string) =>
    problemError(
      429,
      Buffer.from(text),
      new Headers(retry === undefined ? {} : { "retry-after": retry }),
      false,
    );
  const error = read('{"code":"rate_limited","detail":"Wait.","request_id":"7"}', "12");
  assert.deepEqual(
    [error?.code, error?.status, error?.detail, error?.retryAfter, error?.requestId, error?.verified],
    ["rate_limited", 429, "Wait.", 12, "7", false],
  );
  assert.equal(read('{"code":"x","detail":7}', "soon")?.retryAfter, undefined);
  assert.equal(read(`{"code":"x","detail":"${"y".repeat(9999)}"}`)?.detail.length, 500);
  for (const text of ["", "[]", "null", "{}", '{"code":7}', '{"code":"Not Snake"}', "\u0000"]) {
    assert.equal(read(text), undefined, text);
  }
});

test("a browser is described so that a person recognises it", () => {
  const of = (userAgent: string) => Object.values(describeDevice(undefined, { userAgent })).join(", ");
  const cases: [string, string][] = [
    [
      "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0 Safari/537.36",
      "Chrome on Linux, Chrome, Linux, computer",
    ],
    [
      "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Version/17.4 Mobile/15E148 Safari/604.1",
      "Safari on iOS, Safari, iOS, phone",
    ],
    [
      "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:130.0) Gecko/20100101 Firefox/130.0",
      "Firefox on Windows, Firefox, Windows, computer",
    ],
    [
      "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/137.0 Safari/537.36 Edg/137.0",
      "Edge on Windows, Edge, Windows, computer",
    ],
    ["", "Browser, , , computer"],
  ];
  for (const [agent, wanted] of cases) assert.equal(of(agent), wanted);
  const { name } = describeDevice(`  My\u0000 ${"x".repeat(200)}`, undefined);
  assert.equal(Array.from(name).length, 100);
  assert.doesNotMatch(name, /\p{Cc}/u);
});
