import assert from "node:assert/strict";
import { test } from "node:test";
import { hex, utf8 } from "../src/encoding.js";
import { isSoundEd25519Key, Spake2 } from "../src/spake2.js";

const bytes = (text: string) => new Uint8Array(Buffer.from(text, "hex"));
const attempt = (code = "123456") =>
  new Spake2(utf8(code), "browser", "agent", new Uint8Array(64).fill(0x11));
const ANSWER = "4264a783a4a489ab551bf7349fc8ee1b417d4b4e9c8d7ae8b00ef7634055b4b93c";

test("SPAKE2 agrees with the spake2 crate to the byte", () => {
  const side = attempt();
  assert.equal(hex(side.message), "41680d44397df7172f6490bcb6e04ee00da68c158f692ec3953c98dff59c428b0c");
  const key = side.finish(bytes(ANSWER));
  assert.equal(
    hex(key ?? new Uint8Array()),
    "e35473d241362bdccec7f5ed6168a61b8c6a9b02e4a1603b73f8487b21f933a5",
  );
});

test("another code gives another key", () => {
  const key = attempt("123457").finish(bytes(ANSWER));
  assert.notEqual(
    hex(key ?? new Uint8Array()),
    "e35473d241362bdccec7f5ed6168a61b8c6a9b02e4a1603b73f8487b21f933a5",
  );
});

const SMALL_ORDER = [
  "0100000000000000000000000000000000000000000000000000000000000000",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "0000000000000000000000000000000000000000000000000000000000000000",
  "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
];

for (const point of SMALL_ORDER) {
  test(`a point of small order is neither message nor key: ${point.slice(0, 8)}…`, () => {
    assert.equal(attempt().finish(bytes(`42${point}`)), undefined);
    assert.equal(isSoundEd25519Key(bytes(point)), false);
  });
}

test("messages that are no message of side B are refused", () => {
  const cases = [
    "",
    "42",
    `41${ANSWER.slice(2)}`,
    `${ANSWER}00`,
    ANSWER.slice(0, -2),
    `42${"ff".repeat(32)}`,
    "420200000000000000000000000000000000000000000000000000000000000000",
  ];
  for (const message of cases) assert.equal(attempt().finish(bytes(message)), undefined, message);
});
