/** The portal's decisions that need no page: code boxes, addresses, waiting, texts about times. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { refreshDelay } from "../portal/app.js";
import * as code from "../portal/code-input.js";
import * as format from "../portal/format.js";
import { ssoMessage } from "../portal/messages.js";
import { nextDelay } from "../portal/poll.js";
import { parse } from "../portal/router.js";
import { changes } from "../portal/views/hosts.js";
import { type Kept, keepWanted, takeWanted } from "../portal/wanted.js";

const HOST = "0b6f0c53-6a1d-4d0a-9d2a-0f5f1d5b9a11";

describe("six boxes", () => {
  const typed = (text: string) => code.insert(code.EMPTY, 0, text);

  test("take digits however they are written", () => {
    for (const text of ["123456", "123 456", "123-456", " 1 2 3 4 5 6 ", "１２３４５６", "code: 123456."]) {
      assert.equal(code.complete(typed(text)), "123456", text);
    }
  });

  test("advance with each digit, and stay at the last", () => {
    let boxes = code.EMPTY;
    for (const [index, digit] of [..."123456"].entries()) {
      assert.equal(code.complete(boxes), undefined);
      boxes = code.insert(boxes, boxes.at, digit);
      assert.equal(boxes.at, Math.min(index + 1, 5));
    }
    assert.equal(code.complete(boxes), "123456");
  });

  test("a whole code replaces everything wherever it is pasted, fewer digits fill from there", () => {
    assert.equal(code.complete(code.insert(typed("999999"), 4, "123 456")), "123456");
    assert.equal(code.insert(typed("12"), 2, "34").digits.join(""), "1234");
    assert.equal(code.insert(typed("123456"), 4, "789").digits.join(""), "123478");
    assert.equal(typed("12345678").digits.join(""), "123456");
  });

  test("what is no digit changes nothing", () => {
    assert.deepEqual(code.insert(typed("12"), 1, "x").digits, typed("12").digits);
    assert.equal(code.complete(typed("abcdef")), undefined);
  });

  test("Backspace empties, then goes back; Delete stays", () => {
    const three = typed("123");
    const at3 = code.backspace(three, 3);
    assert.deepEqual([at3.at, at3.digits.join("")], [2, "12"]);
    const at1 = code.backspace(three, 1);
    assert.deepEqual([at1.at, at1.digits.join("|")], [1, "1||3|||"]);
    assert.equal(code.backspace(code.EMPTY, 0).at, 0);
    const removed = code.remove(three, 0);
    assert.deepEqual([removed.at, removed.digits.join("|")], [0, "|2|3|||"]);
  });

  test("arrows, Home and End move within the boxes", () => {
    const table: [number, string, number | undefined][] = [
      [2, "ArrowLeft", 1],
      [0, "ArrowLeft", 0],
      [5, "ArrowRight", 5],
      [3, "Home", 0],
      [3, "End", 5],
      [3, "a", undefined],
    ];
    for (const [at, key, to] of table) assert.equal(code.move(at, key), to, `${key} at ${at}`);
  });

  test("user codes are read in either case and shown with their hyphen", () => {
    const table: [string, string, boolean][] = [
      ["bcdfghjk", "BCDF-GHJK", true],
      ["bcdf ghjk", "BCDF-GHJK", true],
      ["BCDF-GHJKL", "BCDF-GHJK", true],
      ["bcd", "BCD", false],
      ["abcd-efgh", "ABCD-EFGH", false],
      ["", "", false],
    ];
    for (const [text, shown, good] of table) {
      assert.equal(code.userCode(text), shown);
      assert.equal(code.isUserCode(text), good, text);
    }
  });
});

describe("addresses", () => {
  test("mean pages", () => {
    const table: [string, string, unknown][] = [
      ["/", "", { page: "hosts" }],
      ["/", "#/", { page: "hosts" }],
      ["/", "#/sign-in", { page: "sign-in" }],
      ["/", "#/sessions", { page: "sessions" }],
      ["/", "#/account", { page: "account" }],
      ["/", "#/device", { page: "device", userCode: "" }],
      ["/", `#/pair/${HOST}`, { page: "pair", hostId: HOST }],
      ["/", `#/host/${HOST.toUpperCase()}`, { page: "host", hostId: HOST }],
      ["/", "#/host/not-an-id", { page: "missing" }],
      ["/", `#/host/${HOST}/more`, { page: "missing" }],
      ["/", "#/sessions/more", { page: "missing" }],
      ["/", "#/nowhere", { page: "missing" }],
    ];
    for (const [path, hash, route] of table) assert.deepEqual(parse(path, "", hash), { route }, hash);
  });

  test("do not keep a one-time link's token, good or bad", () => {
    assert.deepEqual(parse("/", "", "#/link/a%2Bb"), {
      route: { page: "link", token: "a+b" },
      replaceBy: "/#/sign-in",
    });
    for (const hash of ["#/link/", "#/link/%", "#/link/a/b", `#/link/${"x".repeat(5000)}`]) {
      assert.deepEqual(parse("/", "", hash), { route: { page: "missing" }, replaceBy: "/#/sign-in" }, hash);
    }
  });

  test("what became of a sign-in elsewhere leaves the address, and every outcome has a text", () => {
    const replaceBy = "/#/sign-in";
    for (const failed of ["expired", "refused", "unknown", "taken", "unavailable", "busy"] as const) {
      const route = { page: "sign-in", failed };
      assert.deepEqual(parse("/", "", `#/sso/${failed}`), { route, replaceBy });
      assert.ok(ssoMessage(failed).length > 20);
    }
    for (const hash of ["#/sso", "#/sso/", "#/sso/other", "#/sso/refused/x", "#/sso/%3Cb%3E"]) {
      assert.deepEqual(parse("/", "", hash), { route: { page: "missing" }, replaceBy }, hash);
    }
  });

  test("do not keep a device's code", () => {
    const expected = { route: { page: "device", userCode: "BCDF-GHJK" }, replaceBy: "/#/device" };
    assert.deepEqual(parse("/device", "?user_code=BCDF-GHJK", ""), expected);
    assert.deepEqual(parse("/device", "", "").route, { page: "device", userCode: "" });
  });
});

describe("waiting", () => {
  test("grows with failures, is bounded, and is short again after an answer", () => {
    assert.equal(nextDelay(0, 0.5), 3000);
    let before = 0;
    for (let failures = 1; failures < 40; failures += 1) {
      const [least, most] = [nextDelay(failures, 0), nextDelay(failures, 0.999)];
      assert.ok(least >= before && least < most && most <= 60_000, `${failures}: ${least} to ${most}`);
      before = least;
    }
  });

  test("a sign-in is renewed at half of its life, within what a timer can", () => {
    assert.equal(refreshDelay(1000 + 3600, 1000), 1_800_000);
    assert.equal(refreshDelay(1000, 5000), 30_000);
    assert.equal(refreshDelay(1e12, 0), 2 ** 31 - 1);
  });
});

describe("texts", () => {
  test("say how long ago, and how long yet", () => {
    const past: [number, string][] = [
      [-5, "just now"],
      [3, "just now"],
      [59, "59 seconds ago"],
      [60, "1 minute ago"],
      [3599, "59 minutes ago"],
      [7300, "2 hours ago"],
      [86_400, "1 day ago"],
    ];
    for (const [seconds, text] of past) assert.equal(format.ago(1_000_000 - seconds, 1_000_000), text);
    const ahead: [number, string][] = [
      [0, "1 second"],
      [90, "90 seconds"],
      [101, "2 minutes"],
      [86_400, "24 hours"],
      [86_400 * 3, "3 days"],
    ];
    for (const [seconds, text] of ahead) assert.equal(format.duration(seconds), text);
    assert.deepEqual([247, 60, 9.2, -3].map(format.countdown), ["4:07", "1:00", "0:10", "0:00"]);
  });

  test("say sizes, times and codes", () => {
    assert.deepEqual([1, 1023, 1536, 3 << 20].map(format.bytes), [
      "1 byte",
      "1023 bytes",
      "1.5 KiB",
      "3.0 MiB",
    ]);
    assert.deepEqual([1.23, 99.6, 12_345].map(format.milliseconds), ["1.2 ms", "100 ms", "12.3 s"]);
    assert.equal(format.code("123456"), "123 456");
  });

  test("name the browser", () => {
    const table: [string, string][] = [
      [
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36",
        "Chrome on Linux",
      ],
      [
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/141.0 Safari/537.36 Edg/141.0",
        "Edge on Windows",
      ],
      [
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:144.0) Gecko/20100101 Firefox/144.0",
        "Firefox on Mac",
      ],
      [
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1 Version/18.5 Mobile Safari/604.1",
        "Safari on iPhone",
      ],
      [
        "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/141.0 Mobile Safari/537.36",
        "Chrome on Android",
      ],
      ["curl/8", "Browser on this device"],
    ];
    for (const [agent, name] of table) assert.equal(format.browserName(agent), name);
  });

  test("announce what changed among the hosts, and nothing else", () => {
    const host = (id: string, status: "online" | "offline") => ({
      id,
      name: `host ${id}`,
      machine_id: id,
      status,
      last_seen_at: null,
      agent_version: null,
      role: "owner" as const,
      created_at: 0,
    });
    const before = new Map(
      [host("a", "online"), host("b", "online"), host("c", "offline")].map((of) => [of.id, of]),
    );
    const after = [host("a", "online"), host("b", "offline"), host("d", "online")];
    assert.deepEqual(changes(before, after), [
      "host b is now offline.",
      "host d was added and is online.",
      "host c was removed.",
    ]);
    assert.deepEqual(changes(before, [...before.values()]), []);
  });
});

describe("what somebody wanted before they left for a provider", () => {
  class Tab implements Kept {
    readonly items = new Map<string, string>();
    getItem = (key: string) => this.items.get(key) ?? null;
    setItem = (key: string, value: string) => void this.items.set(key, value);
    removeItem = (key: string) => void this.items.delete(key);
  }
  const NOW = 1_700_000_000_000;
  const LIFE = 15 * 60_000;
  const DEVICE = { page: "device", userCode: "BCDF-GHJK" } as const;

  test("is given once, as it was", () => {
    const pages = [
      DEVICE,
      { page: "device", userCode: "" },
      { page: "host", hostId: HOST },
      { page: "pair", hostId: HOST },
      { page: "sessions" },
      { page: "account" },
    ] as const;
    for (const route of pages) {
      const tab = new Tab();
      keepWanted(route, NOW, () => tab);
      assert.deepEqual(
        takeWanted(NOW + LIFE, () => tab),
        route,
      );
      assert.equal(
        takeWanted(NOW, () => tab),
        undefined,
      );
      assert.equal(tab.items.size, 0);
    }
  });

  test("outlives a second try, and no longer than the way back", () => {
    const tab = new Tab();
    keepWanted(DEVICE, NOW, () => tab);
    keepWanted({ page: "sign-in", failed: "refused" }, NOW + 1, () => tab);
    keepWanted({ page: "hosts" }, NOW + 1, () => tab);
    assert.deepEqual(
      takeWanted(NOW + 2, () => tab),
      DEVICE,
    );
    keepWanted(DEVICE, NOW, () => tab);
    assert.equal(
      takeWanted(NOW + LIFE + 1, () => tab),
      undefined,
    );
    keepWanted({ page: "missing" }, NOW, () => tab);
    keepWanted({ page: "link", token: "secret" }, NOW, () => tab);
    assert.equal(tab.items.size, 0);
  });

  test("is a page of the portal whatever is kept", () => {
    const tab = new Tab();
    for (const kept of [
      "",
      "x",
      `${NOW}`,
      `${NOW} //evil.example/`,
      `${NOW} /#/link/secret`,
      `${NOW} /#/nowhere`,
      `${NOW} https://evil.example`,
    ]) {
      tab.setItem("relay-wanted", kept);
      assert.equal(
        takeWanted(NOW, () => tab),
        undefined,
        kept,
      );
    }
    const none = (): Kept => {
      throw new Error("not allowed");
    };
    keepWanted(DEVICE, NOW, none);
    assert.equal(takeWanted(NOW, none), undefined);
  });
});
