import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { EventParser } from "../src/eventstream.js";
import { RelayError } from "../src/index.js";
import { eachForm, withHost } from "./support/browser.js";

const CASES: [string, string, [string, string, string][]][] = [
  ["a message", "data: hi\n\n", [["message", "hi", ""]]],
  [
    "every line ending",
    "data: a\r\n\r\ndata: b\r\rdata: c\n\n",
    [
      ["message", "a", ""],
      ["message", "b", ""],
      ["message", "c", ""],
    ],
  ],
  ["several lines", "data: a\ndata:\ndata:  b\n\n", [["message", "a\n\n b", ""]]],
  [
    "type and id",
    "event: tick\nid: 7\ndata: x\n\ndata: y\n\n",
    [
      ["tick", "x", "7"],
      ["message", "y", "7"],
    ],
  ],
  ["comments and unknown fields", ":ping\nfoo: bar\ndata: x\n\n", [["message", "x", ""]]],
  ["an event without data", "event: a\nid: 1\n\ndata: b\n\n", [["message", "b", "1"]]],
  ["an id with a null", "id: a\0b\ndata: x\n\n", [["message", "x", ""]]],
  ["an event that is not finished", "data: x\n", []],
  ["a byte order mark", "\ufeffdata: x\n\n", [["message", "x", ""]]],
];

for (const [name, text, wanted] of CASES) {
  test(`an event stream is read whatever its pieces: ${name}`, () => {
    for (const size of [1, 2, 3, text.length]) {
      const parser = new EventParser();
      const events = [];
      for (let at = 0; at < text.length; at += size) events.push(...parser.push(text.slice(at, at + size)));
      // A CR at the end waits for what may be its LF.
      events.push(...parser.push("\n"));
      assert.deepEqual(
        events.slice(0, wanted.length + 1).map(({ type, data, lastEventId }) => [type, data, lastEventId]),
        name === "an event that is not finished" ? [["message", "x", ""]] : wanted,
      );
    }
  });
}

test("an id that is too long is ignored, and the one before it stays", () => {
  const parser = new EventParser();
  const ids = (text: string) => parser.push(text).map((event) => event.lastEventId);
  const longest = "i".repeat(4096);
  assert.deepEqual(ids(`id: ${longest}\ndata: x\n\n`), [longest]);
  assert.deepEqual(ids(`id: ${longest}i\ndata: x\n\n`), [longest]);
  assert.equal(parser.lastId, longest);
});

test("retry counts only when it is a number, and an event without end is refused", () => {
  const parser = new EventParser();
  parser.push("retry: 50\nretry: soon\n");
  assert.equal(parser.retry, 50);
  const refuse = () => {
    for (let i = 0; i < 20; i++) parser.push("x".repeat(1024 * 1024));
  };
  assert.throws(refuse, RelayError);
});

eachForm("an event source connects again with the last id, and stops when it is closed", async () => {
  await withHost(async (host, { relay }) => {
    let connections = 0;
    async function* events() {
      connections += 1;
      yield Buffer.from(`retry: 1\nid: ${connections}\nevent: tick\ndata: ${connections}\n\n`);
    }
    relay.agent.local = () => ({
      status: 200,
      headers: [["content-type", "text/event-stream"]],
      body: events(),
    });
    const source = host.eventSource("/events", { headers: { "x-app": "1" } });
    const seen: string[] = [];
    await new Promise<void>((resolve) => {
      source.addEventListener("tick", ({ data }) => {
        seen.push(data as string);
        if (seen.length === 3) resolve();
      });
    });
    source.close();
    assert.equal(source.readyState, EventSourceState.CLOSED);
    assert.deepEqual(seen, ["1", "2", "3"]);
    const asked = relay.agent.forwarded.map(({ headers }) => [
      headers["last-event-id"],
      headers["accept"],
      headers["x-app"],
    ]);
    assert.deepEqual(asked.slice(0, 3), [
      [undefined, "text/event-stream", "1"],
      ["1", "text/event-stream", "1"],
      ["2", "text/event-stream", "1"],
    ]);
  });
});

const EventSourceState = { CONNECTING: 0, OPEN: 1, CLOSED: 2 };

eachForm("what is no event stream ends the source", async () => {
  await withHost(async (host, { relay }) => {
    for (const [status, type] of [
      [200, "text/html"],
      [204, "text/event-stream"],
      [500, "text/event-stream"],
    ] as const) {
      relay.agent.local = () => ({ status, headers: [["content-type", type]] });
      const source = host.eventSource("/events");
      const [event] = await once(source, "error");
      assert.ok((event as { error?: unknown }).error instanceof RelayError);
      assert.equal(source.readyState, EventSourceState.CLOSED);
    }
    const before = relay.agent.forwarded.length;
    relay.agent.revoke(host.clientId);
    const source = host.eventSource("/events");
    await once(source, "error");
    assert.equal(source.readyState, EventSourceState.CLOSED);
    assert.equal(relay.agent.forwarded.length, before);
  });
});

eachForm(
  "closing an event source reaches the local server, and a broken stream is opened again",
  async () => {
    await withHost(async (host, { relay }) => {
      let end = () => {};
      const ended = new Promise<void>((resolve) => {
        end = resolve;
      });
      let connections = 0;
      async function* events() {
        connections += 1;
        yield Buffer.from("retry: 1\n\ndata: on\n\n");
        if (connections === 1) throw new Error("broken");
        try {
          for (;;) {
            yield Buffer.from(":\n");
            await new Promise((resolve) => setTimeout(resolve, 5));
          }
        } finally {
          end();
        }
      }
      relay.agent.local = () => ({
        status: 200,
        headers: [["content-type", "text/event-stream"]],
        body: events(),
      });
      const source = host.eventSource("/events");
      await once(source, "message");
      await once(source, "message");
      assert.equal(connections, 2);
      source.close();
      await ended;
    });
  },
);
