/** Sealed sessions: what the relay sees of them, how they are renewed, and what is never done. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { openHost, type PairedHost, RelayError } from "../src/index.js";
import { CODE, withHost, withRelay } from "./support/browser.js";
import { DROP, type Relay, unsignedProblem } from "./support/relay.js";
import type { AgentRequest } from "./support/requests.js";

const coded = (code: string, verified?: boolean) => (error: unknown) =>
  error instanceof RelayError &&
  error.code === code &&
  (verified === undefined || error.verified === verified);
const isSession = ({ target }: AgentRequest) => target === "/_relay/session";
const isExchange = ({ target }: AgentRequest) => target === "/_relay/exchange";
const json = (value: unknown) => Buffer.from(JSON.stringify(value));

const post = async (host: PairedHost, body: BodyInit = "x") =>
  (await host.fetch("/", { method: "POST", body })).status;

test("sealed is what a host is opened with, and nothing of what passes is in clear", async () => {
  await withHost(async (host, { relay }) => {
    assert.equal(host.protection, "sealed");
    const words = ["sesame-path", "sesame-query", "x-sesame", "sesame-value", "sesame-body", "sesame-answer"];
    const more = [
      "x-local-sesame",
      "sesame-cookie",
      "sesame-event",
      "sesame-message",
      "sesame-hello",
      "PROPFIND",
    ];
    relay.agent.local = ({ target }) => ({
      status: 200,
      headers: [
        ["x-local-sesame", "1"],
        ["set-cookie", "id=sesame-cookie; Path=/"],
        ["content-type", target.startsWith("/events") ? "text/event-stream" : "text/plain"],
      ],
      body: Buffer.from(target.startsWith("/events") ? "data: sesame-event\n\n" : "sesame-answer"),
    });
    relay.socket = (socket) => {
      socket.receive = (type, payload) => socket.send(type, payload);
      return { status: 101, protocol: "sesame-hello" };
    };
    const before = relay.crossed.length;
    const response = await host.fetch("/sesame-path?sesame-query=1", {
      method: "PROPFIND",
      body: "sesame-body".repeat(20_000),
      headers: { "x-sesame": "sesame-value" },
    });
    assert.equal(await response.text(), "sesame-answer");
    assert.equal(response.headers.get("set-cookie"), null);
    await (await host.fetch("/again")).text();
    assert.equal(relay.agent.forwarded.at(-1)?.headers["cookie"], "id=sesame-cookie");
    const source = host.eventSource("/events");
    const event = await new Promise<MessageEvent>((resolve) => {
      source.onmessage = resolve;
    });
    assert.equal(event.data, "sesame-event");
    source.close();
    const socket = host.webSocket("/sesame-path", "sesame-hello");
    const echoed = await new Promise((resolve) => {
      socket.onopen = () => socket.send("sesame-message");
      socket.onmessage = ({ data }) => resolve(data);
    });
    assert.equal(echoed, "sesame-message");
    assert.equal(socket.protocol, "sesame-hello");
    socket.close();
    await host.browsers().rename(host.clientId, "sesame-name");
    const { code } = await host.nextDeviceCode();
    assert.equal(code, "424242");

    const wire = Buffer.concat(relay.crossed.slice(before));
    assert.ok(wire.length > 200_000);
    for (const word of [...words, ...more, "sesame-name", code, "/_relay/browsers", "/_relay/pairing"]) {
      for (const text of [word, Buffer.from(word).toString("hex")]) {
        assert.equal(wire.includes(text), false, text);
      }
      // At any of the three places where base64 may begin.
      for (const lead of ["", "a", "aa"]) {
        const text = Buffer.from(lead + word)
          .toString("base64url")
          .slice(lead.length === 0 ? 0 : 4, -2);
        if (text.length > 5) assert.equal(wire.includes(text), false, `${word} as base64`);
      }
    }
    // The search does find what is in clear.
    assert.ok(wire.includes("/_relay/exchange") && wire.includes("/_relay/session"));
  });
});

test("the local server is told what a browser would say", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    await host.fetch("/x?y=%20", {
      headers: { accept: "text/x", "x-app": "1", "user-agent": "no", cookie: "a=b" },
    });
    const headers: Record<string, string> = relay.agent.forwarded.at(-1)?.headers ?? {};
    assert.equal(headers["accept"], "text/x");
    assert.equal(headers["x-app"], "1");
    assert.equal(headers["accept-encoding"], "gzip, deflate");
    assert.notEqual(headers["user-agent"], "no");
    assert.equal(headers["cookie"], undefined);
    await host.fetch("/");
    assert.equal(relay.agent.forwarded.at(-1)?.headers["accept"], "*/*");
  });
});

const SIZES = [0, 1, 15, 16, 17, 65_535, 65_536, 65_537, 131_072, 1_048_575, 1_048_576, 1_048_577, 3_333_333];
test("bodies of every size go there and back whole, under keys that change with every record", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.rekeyAlways = true;
    relay.agent.local = ({ body }) => ({ status: 200, headers: [], body });
    for (const size of SIZES) {
      const body = new Uint8Array(size).map((_, i) => (i * 31 + size) >> 2);
      const back = await (await host.fetch("/", { method: "PUT", body: new Blob([body]) })).arrayBuffer();
      assert.ok(Buffer.from(back).equals(Buffer.from(body)), `${size} bytes`);
    }
  });
});

for (const harm of ["noise left out", "the feature left out"] as const) {
  test(`an agent's own answer with ${harm} is no reason to sign only`, async () => {
    await withHost(async (host, { relay }) => {
      if (harm === "noise left out") relay.agent.seals = false;
      else relay.agent.features = ["websocket"];
      await assert.rejects(host.fetch("/"), coded("agent_outdated", true));
      assert.equal(relay.agent.forwarded.length, 0);
      // Only who says so gets it.
      if (harm !== "noise left out") return;
      const access = { url: relay.url, token: () => "token" };
      const signed = await openHost({ relay: access, hostId: host.hostId, protection: "signed" });
      relay.agent.local = () => ({ status: 200, headers: [] });
      assert.equal((await signed?.fetch("/"))?.status, 200);
      assert.equal(signed?.protection, "signed");
      signed?.close();
    });
  });
}

/** What a relay does to the handshake. */
const HANDSHAKES: [string, (relay: Relay) => void][] = [
  [
    "takes noise out of the request",
    (relay) => {
      relay.hostile.request = (request) => {
        if (!isSession(request)) return request;
        const { noise: _, ...rest } = JSON.parse(request.body.toString()) as Record<string, unknown>;
        return { ...request, body: json(rest) };
      };
    },
  ],
  [
    "takes noise out of the answer",
    (relay) => {
      relay.hostile.answer = (answer, request) => {
        if (!isSession(request)) return answer;
        const { noise: _, ...rest } = JSON.parse(answer.body.toString()) as Record<string, unknown>;
        return { ...answer, body: json(rest) };
      };
    },
  ],
  [
    "puts a message of its own into the answer",
    (relay) => {
      relay.hostile.answer = (answer, request) => {
        if (!isSession(request)) return answer;
        const whole = JSON.parse(answer.body.toString()) as Record<string, unknown>;
        const message = Buffer.alloc(48, 9).toString("base64url");
        return { ...answer, body: json({ ...whole, noise: { profile: "noise-ikpsk2", message } }) };
      };
    },
  ],
];
for (const [name, harm] of HANDSHAKES) {
  test(`a relay that ${name} gets no session, and no clear word`, async () => {
    await withHost(async (host, { relay }) => {
      harm(relay);
      await assert.rejects(post(host), RelayError);
      assert.equal(relay.agent.forwarded.length, 0);
      relay.hostile = {};
      relay.agent.local = () => ({ status: 200, headers: [] });
      assert.equal(await post(host), 200);
    });
  });
}

test("a handshake that is replayed makes no session of the browser's", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    const kept: { request?: AgentRequest; answer?: Parameters<NonNullable<typeof relay.hostile.answer>>[0] } =
      {};
    relay.hostile.answer = (answer, request) => {
      if (isSession(request)) Object.assign(kept, { request, answer });
      return answer;
    };
    assert.equal(await post(host), 200);
    assert.ok(kept.request !== undefined && kept.answer !== undefined);
    const again = await relay.agent.handle(kept.request);
    assert.match(String(again.body), /replayed/);
    // The agent's answer of before, to a new request.
    relay.agent.sessions.clear();
    relay.hostile.answer = (answer, request) => (isSession(request) ? (kept.answer ?? answer) : answer);
    await assert.rejects(host.fetch("/"), coded("tampered"));
    assert.equal(relay.agent.forwarded.length, 1);
  });
});

test("an agent with other keys than those of the pairing is refused", async () => {
  await withHost(async (host, { relay }) => {
    const client = relay.agent.clients.get(host.clientId);
    assert.ok(client !== undefined);
    client.psk = Buffer.alloc(32, 1);
    await assert.rejects(host.fetch("/"), coded("handshake_failed", true));
  });
});

test("answers of other exchanges and other sessions are none", async () => {
  await withHost(async (host, { relay }) => {
    const answers: Parameters<NonNullable<typeof relay.hostile.answer>>[0][] = [];
    relay.agent.local = () => ({ status: 200, headers: [], body: Buffer.from("hello") });
    relay.hostile.answer = (answer, request) => {
      if (isExchange(request)) answers.push(answer);
      return answer;
    };
    await (await host.fetch("/")).text();
    relay.hostile.answer = (answer, request) => (isExchange(request) ? (answers[0] ?? answer) : answer);
    await assert.rejects(host.fetch("/"), coded("tampered", false));
    // The same number, the first of another session.
    relay.hostile.request = (request) => {
      if (isExchange(request)) relay.agent.sessions.clear();
      return request;
    };
    relay.hostile.answer = (answer, request) =>
      isExchange(request) && answer.status === 200 ? (answers[0] ?? answer) : answer;
    await assert.rejects(host.fetch("/"), RelayError);
    relay.hostile.request = (request) => request;
    await assert.rejects(host.fetch("/"), coded("tampered", false));
  });
});

/** What the records of a request are turned into on their way. */
const UPLOADS: [string, (records: Buffer[]) => Buffer[]][] = [
  ["cut before the end", (list) => list.slice(0, -1)],
  ["without their second", (list) => list.filter((_, i) => i !== 1)],
  ["swapped", ([head, a, b, ...rest]) => [head, b, a, ...rest].filter((part) => part !== undefined)],
  ["one twice", ([head, a, ...rest]) => [head, a, a, ...rest].filter((part) => part !== undefined)],
  ["ended too early", (list) => [...list.slice(0, 2), ...list.slice(-1)]],
  ["with bytes at the end", (list) => [...list, Buffer.alloc(21)]],
];
for (const [name, harm] of UPLOADS) {
  test(`a request whose records are ${name} does not reach the local server`, async () => {
    await withHost(async (host, { relay }) => {
      relay.agent.local = () => ({ status: 200, headers: [] });
      relay.hostile.request = (request) => {
        if (!isExchange(request)) return request;
        const body = request.body;
        const list: Buffer[] = [];
        for (let at = 24; at < body.length; ) {
          const length = body.readUInt32BE(at) + 21;
          list.push(body.subarray(at, at + length));
          at += length;
        }
        assert.equal(list.length, 5);
        return { ...request, body: Buffer.concat([body.subarray(0, 24), ...harm(list)]) };
      };
      await assert.rejects(post(host, "x".repeat(150_000)), RelayError);
      assert.equal(relay.agent.forwarded.length, 0);
    });
  });
}

test("no byte of a request can be altered", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    await host.fetch("/");
    relay.agent.forwarded.length = 0;
    let length = 1;
    for (let at = 0; at < length; at += 3) {
      relay.hostile.request = (request) => {
        if (!isExchange(request)) return request;
        const body = Buffer.from(request.body);
        length = body.length;
        body[at] = (body[at] ?? 0) ^ 1;
        return { ...request, body };
      };
      await assert.rejects(post(host), RelayError, `byte ${at}`);
    }
    assert.ok(length > 200);
    assert.equal(relay.agent.forwarded.length, 0);
  });
});

test("an exchange that comes again is not done again, and other bytes never go out under its number", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    const seen = new Map<string, Buffer>();
    const exchanges: AgentRequest[] = [];
    relay.hostile.request = (request) => {
      if (!isExchange(request)) return request;
      const prelude = request.body.subarray(0, 24).toString("hex");
      const before = seen.get(prelude);
      assert.ok(before === undefined || before.equals(request.body), "other bytes under the same number");
      seen.set(prelude, request.body);
      exchanges.push(request);
      return request;
    };
    for (let i = 0; i < 3; i++) await post(host, `${i}`);
    // The relay's session ends: the very same bytes again.
    relay.sessions.clear();
    assert.equal(await post(host, "again"), 200);
    assert.equal(seen.size, 4);
    for (const request of exchanges) {
      const answer = await relay.agent.handle(request);
      assert.match(String(answer.body), /replayed/);
      assert.equal(answer.headers["relay-exchange"], request.body.subarray(0, 24).toString("base64url"));
    }
    assert.equal(relay.agent.forwarded.length, 4);
    // Done, and then denied: nobody does it again.
    let lied = false;
    relay.hostile.answer = (answer, request) => {
      if (!isExchange(request) || lied) return answer;
      lied = true;
      return unsignedProblem(401, "session_expired");
    };
    await assert.rejects(post(host, "once"), coded("replayed", true));
    assert.equal(relay.agent.forwarded.length, 5);
  });
});

/** What is answered in place of records. */
const REFUSALS: [
  string,
  (relay: Relay, prelude: Buffer) => ReturnType<typeof unsignedProblem>,
  string,
  boolean,
][] = [
  ["nobody signed", () => unsignedProblem(401, "signing_session_expired"), "signing_session_expired", false],
  ["is for this exchange", oracle(0, 400, "bad_request"), "bad_request", true],
  ["is for another exchange", oracle(1, 401, "signing_session_expired"), "tampered", false],
  ["is a success", oracle(0, 200, "bad_request"), "tampered", false],
  ["covers no status", oracle(0, 401, "replayed", '"@status"'), "tampered", false],
  ["covers no exchange", oracle(0, 401, "replayed", '"relay-exchange"'), "tampered", false],
  ["covers no path", oracle(0, 401, "replayed", '"@path";req'), "tampered", false],
];
function oracle(off: number, status: number, code: string, uncovered?: string) {
  return (relay: Relay, prelude: Buffer) => {
    const other = Buffer.from(prelude);
    other[23] = (other[23] ?? 0) + off;
    return relay.agent.exchangeOracle(other, status, json({ status, code }), undefined, uncovered);
  };
}
for (const [name, answer, code, verified] of REFUSALS) {
  test(`a refusal that ${name} is ${verified ? "told as the agent's" : "not believed"}`, async () => {
    await withHost(async (host, { relay }) => {
      relay.agent.local = () => ({ status: 200, headers: [] });
      await host.fetch("/");
      let sent = 0;
      relay.hostile.request = (request) => {
        if (!isExchange(request)) return request;
        sent += 1;
        return answer(relay, request.body.subarray(0, 24));
      };
      await assert.rejects(host.fetch("/"), coded(code, verified));
      assert.equal(sent, 1);
      relay.hostile = {};
      assert.equal(await post(host), 200);
      assert.equal(relay.agent.sessionsMade, 1);
    });
  });
}

test("a signed answer to a request is none to an exchange", async () => {
  await withHost(async (host, { relay }) => {
    let session: AgentRequest | undefined;
    relay.hostile.request = (request) => {
      if (isSession(request)) session = request;
      if (!isExchange(request) || session === undefined) return request;
      return relay.agent.oracle(session, 401, json({ code: "not_paired" }), "application/problem+json");
    };
    let revoked = false;
    host.addEventListener("revoked", () => {
      revoked = true;
    });
    await assert.rejects(host.fetch("/"), coded("tampered", false));
    assert.equal(revoked, false);
  });
});

for (const code of ["signing_session_expired", "signature_invalid", "replayed"]) {
  test(`after ${code} what is safe is done anew under a new number, once; nothing else is`, async () => {
    await withHost(async (host, { relay }) => {
      relay.agent.local = () => ({ status: 200, headers: [] });
      const preludes: string[] = [];
      let lies = 1;
      relay.hostile.request = (request) => {
        if (!isExchange(request)) return request;
        const prelude = request.body.subarray(0, 24);
        preludes.push(prelude.toString("hex"));
        return lies-- > 0 ? relay.agent.exchangeOracle(prelude, 401, json({ status: 401, code })) : request;
      };
      for (const method of ["GET", "HEAD", "OPTIONS"]) {
        lies = 1;
        preludes.length = 0;
        assert.equal((await host.fetch("/", { method })).status, 200);
        assert.equal(new Set(preludes).size, 2);
        lies = 2;
        await assert.rejects(host.fetch("/", { method }), coded(code, true));
        assert.equal(preludes.length, 4);
      }
      for (const method of ["POST", "PUT", "DELETE", "PATCH"]) {
        lies = 1;
        preludes.length = 0;
        await assert.rejects(host.fetch("/", { method }), coded(code, true));
        assert.equal(preludes.length, 1);
        lies = 0;
        assert.equal((await host.fetch("/", { method })).status, 200);
      }
    });
  });
}

/** Runs with a clock that can be put forward, in seconds. */
async function withClock(
  run: (later: (seconds: number) => void, host: PairedHost, relay: Relay) => Promise<void>,
) {
  const real = Date.now;
  let ahead = 0;
  Date.now = () => real() + ahead * 1000;
  try {
    await withHost((host, { relay }) =>
      run(
        (seconds) => {
          ahead = seconds;
        },
        host,
        relay,
      ),
    );
  } finally {
    Date.now = real;
  }
}

test("the next session is made ahead of time, and nobody waits for it", async () => {
  await withClock(async (later, host, relay) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    assert.equal(await post(host), 200);
    later(3600 - 60 - 300 - 5);
    assert.equal(await post(host), 200);
    assert.equal(relay.agent.sessionsMade, 1);
    later(3600 - 60 - 300 + 5);
    // The relay lets no session through: whoever asks is served by the old one all the same.
    let asked = 0;
    relay.hostile.request = (request) => {
      if (!isSession(request)) return request;
      asked += 1;
      return DROP;
    };
    for (let i = 0; i < 3; i++) assert.equal(await post(host), 200);
    assert.equal(asked, 1, "a renewal that failed is not tried with every request");
    assert.equal(relay.agent.sessionsMade, 1);
    relay.hostile = {};
    later(3600 - 60 - 300 + 50);
    const first = new Set(relay.agent.sessions.keys());
    while (relay.agent.sessions.size === first.size) assert.equal(await post(host), 200);
    // What the new one takes now, the old one need not.
    while ([...relay.agent.sessions.values()].at(-1)?.used.size === 0) assert.equal(await post(host), 200);
    for (const id of first) relay.agent.sessions.delete(id);
    assert.equal(await post(host), 200);
    assert.equal(relay.agent.sessionsMade, 2);
  });
});

test("a session that is over is used no more, however steady this browser's clock claims to be", async () => {
  await withClock(async (later, host, relay) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    assert.equal(await post(host), 200);
    later(3600 - 30);
    relay.agent.sessions.clear();
    assert.equal(await post(host), 200);
    assert.equal(relay.agent.sessionsMade, 2);
  });
});

test("a body is bound to its exchange while it is slow, and cancelling is felt", async () => {
  await withRelay(async (world) => {
    const { relay, access } = world;
    relay.agent.code = CODE;
    const { pairHost } = await import("../src/index.js");
    const host = await pairHost({ relay: access, hostId: relay.agent.hostId, code: CODE });
    const reason = new Error("enough");
    const controller = new AbortController();
    const body = new ReadableStream({
      pull: () => new Promise(() => {}),
    });
    const waiting = host.fetch("/", { method: "POST", body, signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(waiting, (error) => error === reason);
    assert.equal(relay.agent.forwarded.length, 0);
    host.close();
  });
});
