/** The request console without its page. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  BodyView,
  check,
  type Draft,
  type Entry,
  hexRows,
  isTextType,
  MAX_HEX,
  MAX_HISTORY,
  MAX_TEXT,
  parseHeaders,
  remember,
} from "../portal/console-model.js";

const draft = (of: Partial<Draft>): Draft => ({ method: "GET", path: "/", headers: "", body: "", ...of });
const bytes = (text: string) => new TextEncoder().encode(text);

describe("what was typed", () => {
  test("becomes a request", () => {
    const typed = draft({
      method: "POST",
      path: " /a?b=c ",
      headers: "X-One: 1\n\n x-two : a: b \r\nx-none:",
      body: "hi",
    });
    const headers = [
      ["X-One", "1"],
      ["x-two", "a: b"],
      ["x-none", ""],
    ];
    assert.deepEqual(check(typed), { ok: true, path: "/a?b=c", headers, body: "hi" });
    assert.deepEqual(check(draft({ path: "" })), { ok: true, path: "/", headers: [], body: undefined });
  });

  test("or a complaint at its field", () => {
    const table: [Partial<Draft>, string][] = [
      [{ path: "api" }, "path"],
      [{ path: "https://example.org/" }, "path"],
      [{ path: "//example.org/" }, "path"],
      [{ path: "/\\example.org/" }, "path"],
      [{ path: "/a#b" }, "path"],
      [{ path: "/a b" }, "path"],
      [{ path: "/ä" }, "path"],
      [{ path: `/${"a".repeat(8192)}` }, "path"],
      [{ headers: "nonsense" }, "headers"],
      [{ headers: ": value" }, "headers"],
      [{ headers: "bad name: value" }, "headers"],
      [{ headers: "x: €" }, "headers"],
      [{ headers: "x: a\u0000b" }, "headers"],
      [{ body: "x" }, "body"],
      [{ method: "HEAD", body: "x" }, "body"],
    ];
    for (const [of, field] of table) {
      const checked = check(draft(of));
      assert.equal(checked.ok ? "nothing" : checked.field, field, JSON.stringify(of).slice(0, 60));
    }
  });

  test("complaints name the line", () => {
    const answer = parseHeaders("a: 1\nb: 2\nthree");
    assert.ok("complaint" in answer && answer.complaint.startsWith("Line 3 "));
  });
});

describe("a body", () => {
  const shown = (type: string | null, ...chunks: Uint8Array[]) => {
    const view = new BodyView(type);
    return { text: chunks.map((chunk) => view.push(chunk)).join("") + view.finish(), view };
  };

  test("is text or hex by its type, else by its bytes", () => {
    assert.deepEqual(
      [
        "text/html; charset=utf-8",
        "application/problem+json",
        "application/json",
        "image/svg+xml",
        "image/png",
        "application/octet-stream",
        "",
        null,
      ].map(isTextType),
      [true, true, true, true, false, undefined, undefined, undefined],
    );
    assert.equal(shown(null, bytes("plain\ttext\n")).view.kind, "text");
    assert.equal(shown(null, Uint8Array.of(0x7f, 0x45, 0, 1)).view.kind, "hex");
    assert.equal(shown("text/plain", Uint8Array.of(0, 1)).view.kind, "text");
  });

  test("keeps characters whole over the borders of chunks", () => {
    const euro = bytes("a€b");
    assert.equal(shown("text/plain", euro.subarray(0, 2), euro.subarray(2, 3), euro.subarray(3)).text, "a€b");
    assert.equal(shown("text/plain", euro.subarray(0, 2)).text, "a\ufffd", "a broken end shows");
  });

  test("hex rows are the same however the body was cut", () => {
    const data = Uint8Array.from({ length: 53 }, (_, index) => index * 5);
    const whole = hexRows(data, 0);
    assert.match(whole, /^00000000 {2}00 05 0a 0f 14 /);
    assert.equal(whole.trimEnd().split("\n").length, 4);
    for (const size of [1, 7, 16, 17, 53]) {
      const chunks = Array.from({ length: Math.ceil(53 / size) }, (_, index) =>
        data.subarray(index * size, (index + 1) * size),
      );
      assert.equal(shown("image/png", ...chunks).text, whole, `in pieces of ${size}`);
    }
  });

  test("is bounded, counted, and says that there is more", () => {
    const chunk = new Uint8Array(60_000).fill(0x61);
    const text = shown("text/plain", ...Array<Uint8Array>(40).fill(chunk));
    assert.equal(text.text.length, MAX_TEXT);
    assert.deepEqual([text.view.total, text.view.cut], [2_400_000, true]);
    const hex = shown("image/png", chunk, chunk);
    assert.equal(hex.text.split("\n").length - 1, MAX_HEX / 16);
    assert.equal(hex.view.cut, true);
    const exact = shown("text/plain", new Uint8Array(MAX_TEXT).fill(0x61));
    assert.equal(exact.view.cut, false);
  });
});

test("the history is newest first, bounded, and an entry is completed in its place", () => {
  const entry = (id: number, outcome = "…"): Entry => ({ id, draft: draft({}), outcome, totalMs: undefined });
  let history: readonly Entry[] = [];
  for (let id = 0; id < MAX_HISTORY + 5; id += 1) history = remember(history, entry(id));
  assert.equal(history.length, MAX_HISTORY);
  assert.equal(history[0]?.id, MAX_HISTORY + 4);
  history = remember(history, entry(MAX_HISTORY, "200"));
  assert.equal(history.length, MAX_HISTORY);
  assert.equal(history[4]?.outcome, "200");
});
