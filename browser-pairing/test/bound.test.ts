/**
 * A signed answer is one to this request and no other, and a signed refusal is no proof that nothing was done.
 * The agent here signs things that it never should, and the relay knows when to let which answer through.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { AgentClock } from "../src/clock.js";
import { openHost, type PairedHost, pairHost, RelayError } from "../src/index.js";
import { load } from "../src/store.js";
import { RECORDS } from "./support/agent.js";
import { CODE, useForm, withHost, withRelay } from "./support/browser.js";
import { DROP, type Relay, unsignedProblem, type WholeAnswer } from "./support/relay.js";
import type { AgentRequest } from "./support/requests.js";

useForm("signed");

const coded = (code: string, verified?: boolean) => (error: unknown) =>
  error instanceof RelayError &&
  error.code === code &&
  (verified === undefined || error.verified === verified);

const json = (value: unknown) => Buffer.from(JSON.stringify(value));
const isSession = ({ target }: AgentRequest) => target === "/_relay/session";

/** Lets everything but sessions be answered by `answer`. */
function instead(relay: Relay, answer: (request: AgentRequest) => WholeAnswer): void {
  relay.hostile.request = (request) => (isSession(request) ? request : answer(request));
}

/** What the agent is asked in place of the request, under the request's own signature. */
const OTHERS: [string, (request: AgentRequest) => AgentRequest][] = [
  ["another method", (request) => ({ ...request, method: "PUT" })],
  ["another path", (request) => ({ ...request, target: "/_relay/browsers/x" })],
  ["another query", (request) => ({ ...request, target: `${request.target}?x=2` })],
  [
    "another signature input",
    (request) => ({
      ...request,
      headers: {
        ...request.headers,
        "signature-input": (request.headers["signature-input"] ?? "").replace(' "accept"', ""),
      },
    }),
  ],
  [
    "another signature",
    (request) => ({
      ...request,
      headers: { ...request.headers, signature: `relay=:${Buffer.alloc(64, 7).toString("base64")}:` },
    }),
  ],
];

for (const [name, other] of OTHERS) {
  test(`what the agent signed for ${name} is no answer`, async () => {
    await withHost(async (host, { relay }) => {
      instead(relay, (request) => relay.agent.oracle(other(request), 200, json({ browsers: [] })));
      await assert.rejects(host.browsers().list(), coded("tampered", false));
      // The same without the change is one, so it is the change that is noticed.
      instead(relay, (request) => relay.agent.oracle(request, 200, json({ browsers: [] })));
      assert.deepEqual(await host.browsers().list(), []);
    });
  });
}

for (const part of [
  '"@status"',
  '"content-digest"',
  '"@method";req',
  '"@path";req',
  '"@query";req',
  '"signature-input";key="relay";req',
  '"signature";key="relay";req',
]) {
  test(`an answer that does not cover ${part} is none`, async () => {
    await withHost(async (host, { relay }) => {
      const type = "application/json";
      instead(relay, (request) => relay.agent.oracle(request, 200, json({ browsers: [] }), type, part));
      await assert.rejects(host.browsers().list(), coded("tampered", false));
    });
  });
}

const PIECES: [string, number, string, Buffer][] = [
  ["a success", 200, "text/plain", Buffer.from("evil")],
  ["a success that looks like a problem", 200, "application/problem+json", json({ code: "x" })],
  ["an error page of nobody", 500, "text/html", Buffer.from("<h1>evil")],
  ["a redirect", 302, "text/plain", Buffer.alloc(0)],
  ["records under the wrong status", 201, RECORDS, Buffer.alloc(0)],
];
for (const [name, status, type, body] of PIECES) {
  test(`where records were asked for, ${name} in one piece is no answer, whoever signed it`, async () => {
    await withHost(async (host, { relay }) => {
      instead(relay, (request) => relay.agent.oracle(request, status, body, type));
      await assert.rejects(host.fetch("/"), coded("tampered", false));
    });
  });
}

test("where records were asked for, a refusal in one piece is told", async () => {
  await withHost(async (host, { relay }) => {
    const type = "application/problem+json";
    instead(relay, (request) =>
      relay.agent.oracle(request, 502, json({ code: "local_server_failed" }), type),
    );
    await assert.rejects(host.fetch("/"), coded("local_server_failed", true));
  });
});

test("a HEAD is answered with the digest of nothing", async () => {
  await withHost(async (host, { relay }) => {
    instead(relay, (request) => ({
      ...relay.agent.oracle({ ...request, method: "GET" }, 200, Buffer.from("evil")),
      body: Buffer.alloc(0),
    }));
    await assert.rejects(host.fetch("/", { method: "HEAD" }), coded("tampered"));
    instead(relay, (request) => relay.agent.oracle(request, 200, Buffer.alloc(0)));
    assert.equal((await host.fetch("/", { method: "HEAD" })).status, 200);
  });
});

test("an answer may have many headers, and no more than a signature covers", async () => {
  await withHost(async (host, { relay }) => {
    const many = (count: number): [string, string][] =>
      Array.from({ length: count }, (_, i) => [`x-${i}`, "1"]);
    // Seven components and the content type go beside them.
    relay.agent.local = () => ({ status: 200, headers: many(248) });
    assert.equal((await host.fetch("/", { method: "HEAD" })).headers.get("x-247"), "1");
    relay.agent.local = () => ({ status: 200, headers: many(249) });
    await assert.rejects(host.fetch("/", { method: "HEAD" }), coded("tampered"));
  });
});

test("a revocation counts when the host has answered 204, and else nothing is forgotten", async () => {
  await withHost(async (host, { relay }) => {
    for (const status of [200, 202, 205]) {
      instead(relay, (request) => relay.agent.oracle(request, status, Buffer.alloc(0)));
      await assert.rejects(host.browsers().revoke(host.clientId), coded("bad_answer"), String(status));
      await assert.rejects(host.forget({ revoke: true }), coded("bad_answer"), String(status));
    }
    assert.notEqual(await load(host.hostId), undefined);
    const entry = json({ id: host.clientId, name: "x" });
    instead(relay, (request) => relay.agent.oracle(request, 201, entry));
    await assert.rejects(host.browsers().rename(host.clientId, "x"), coded("bad_answer"));
    relay.hostile = {};
    await host.forget({ revoke: true });
    assert.equal(await load(host.hostId), undefined);
    assert.equal(relay.agent.clients.size, 0);
  });
});

/** Does a request and keeps its answer; then makes the agent refuse the same and passes that on. */
function doneAndRefused(relay: Relay, refuse: () => void): void {
  let once = false;
  relay.hostile.answer = (answer, request) => {
    if (isSession(request) || once) return answer;
    once = true;
    refuse();
    return unsignedProblem(401, "session_expired");
  };
}

async function post(host: PairedHost): Promise<number> {
  return (await host.fetch("/pay", { method: "POST", body: "1" })).status;
}

const REFUSALS: [string, (relay: Relay) => void][] = [
  ["signing_session_expired", ({ agent }) => agent.sessions.clear()],
  [
    "clock_skew",
    ({ agent }) => {
      agent.ahead += 3000;
    },
  ],
];
for (const [code, refuse] of REFUSALS) {
  test(`a POST that was done and then refused with ${code} is not signed anew; the next one works`, async () => {
    await withHost(async (host, { relay }) => {
      relay.agent.local = () => ({ status: 200, headers: [] });
      doneAndRefused(relay, () => refuse(relay));
      await assert.rejects(post(host), coded(code, true));
      assert.equal(relay.agent.forwarded.length, 1);
      assert.equal(await post(host), 200);
      assert.equal(relay.agent.forwarded.length, 2);
    });
  });

  for (const method of ["GET", "HEAD", "OPTIONS"]) {
    test(`a ${method} that is refused with ${code} is signed anew, once`, async () => {
      await withHost(async (host, { relay }) => {
        relay.agent.local = () => ({ status: 200, headers: [] });
        await host.fetch("/");
        refuse(relay);
        assert.equal((await host.fetch("/", { method })).status, 200);
        assert.equal(relay.agent.forwarded.length, 2);
      });
    });
  }
}

for (const method of ["POST", "PUT", "PATCH", "DELETE"]) {
  test(`a ${method} to a session that has ended is sent once, and may be sent again by its caller`, async () => {
    await withHost(async (host, { relay }) => {
      relay.agent.local = () => ({ status: 200, headers: [] });
      await host.fetch("/");
      relay.agent.sessions.clear();
      let sent = 0;
      relay.hostile.request = (request) => {
        if (request.method === method && !isSession(request)) sent += 1;
        return request;
      };
      await assert.rejects(host.fetch("/", { method }), coded("signing_session_expired", true));
      assert.equal(sent, 1);
      assert.equal((await host.fetch("/", { method })).status, 200);
    });
  });
}

test("a session that is about to end is renewed before it matters, and its use prolongs it", async (t) => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    const real = Date.now;
    let later = 0;
    t.mock.method(Date, "now", () => real() + later * 1000);
    try {
      assert.equal(await post(host), 200);
      later = 3000;
      assert.equal(await post(host), 200);
      later = 6000;
      assert.equal(await post(host), 200);
      assert.equal(relay.agent.sessionsMade, 1);
      // Within the last minute, by the agent's clock.
      later = 6000 + 3550;
      relay.agent.sessions.clear();
      assert.equal(await post(host), 200);
      assert.equal(relay.agent.sessionsMade, 2);
      // A day after its making, however often it was used.
      for (let i = 0; i < 30; i++) {
        later += 3000;
        assert.equal(await post(host), 200);
      }
      assert.equal(relay.agent.sessionsMade, 3);
    } finally {
      t.mock.restoreAll();
    }
  });
});

test("what was sent without an answer does not prolong a session", async (t) => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    const real = Date.now;
    let later = 0;
    t.mock.method(Date, "now", () => real() + later * 1000);
    try {
      assert.equal(await post(host), 200);
      later = 3000;
      relay.hostile.request = (request) => (isSession(request) ? request : DROP);
      await assert.rejects(post(host), coded("network_error"));
      relay.hostile = {};
      later = 3700;
      relay.agent.sessions.clear();
      assert.equal(await post(host), 200);
      assert.equal(relay.agent.sessionsMade, 2);
    } finally {
      t.mock.restoreAll();
    }
  });
});

test("a session that ended while a request was under way: nothing is sent again, the next one has a new session", async () => {
  await withHost(async (host, { relay }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    await host.fetch("/");
    let sent = 0;
    instead(relay, (request) => {
      sent += 1;
      return relay.agent.oracle(
        request,
        401,
        json({ code: "signing_session_ended" }),
        "application/problem+json",
      );
    });
    await assert.rejects(host.fetch("/"), coded("signing_session_ended", true));
    await assert.rejects(post(host), coded("signing_session_ended", true));
    assert.equal(sent, 2);
    relay.hostile = {};
    relay.agent.sessions.clear();
    assert.equal(await post(host), 200);
    assert.equal(relay.agent.sessionsMade, 3);
  });
});

test("a stream that is broken off because its session ended ends the session here as well", async () => {
  await withHost(async (host, { relay }) => {
    async function* broken() {
      yield Buffer.from("so far");
      throw new Error("signing_session_ended");
    }
    relay.agent.local = () => ({ status: 200, headers: [], body: broken() });
    await assert.rejects((await host.fetch("/")).text(), coded("signing_session_ended", true));
    relay.agent.sessions.clear();
    relay.agent.local = () => ({ status: 200, headers: [] });
    assert.equal(await post(host), 200);
    assert.equal(relay.agent.sessionsMade, 2);
  });
});

/** What was known, then an answer: its time, when it was asked for and received; what is known now. */
const CLOCKS: [string, number | undefined, number, number, number, number][] = [
  ["the first answer counts in its middle", undefined, 1000, 1000, 1000, 0.5],
  ["a slow first answer moves it by half of that", undefined, 1000, 1000, 1020, -9.5],
  ["what fits stays", 0.5, 1000, 1000, 1001, 0.5],
  ["an answer that is held back moves nothing", 0.5, 1000, 1000, 1600, 0.5],
  ["a clock ahead is followed as far as it is proved", 0.5, 1100, 1000, 1010, 90],
  ["a clock behind is followed as far as it is proved", 0.5, 900, 1000, 1010, -99],
  ["own time that ran backwards", 0.5, 1000, 1500, 1000, -249.5],
];
for (const [name, known, agent, sent, received, wanted] of CLOCKS) {
  test(`the agent's clock: ${name}`, (t) => {
    const clock = new AgentClock();
    if (known !== undefined) clock.learn(1000, (1000.5 - known) * 1000, (1000.5 - known) * 1000);
    clock.learn(agent, sent * 1000, received * 1000);
    // Twice, because it tells whole seconds.
    for (const at of [5000, 5000.5]) {
      t.mock.method(Date, "now", () => at * 1000);
      assert.equal(clock.now(), Math.floor(at + wanted));
      t.mock.restoreAll();
    }
  });
}

test("what is no time moves no clock", () => {
  const clock = new AgentClock();
  for (const time of [undefined, null, "1", Number.NaN, Number.POSITIVE_INFINITY]) clock.learn(time, 0, 0);
  assert.ok(Math.abs(clock.now() - Date.now() / 1000) < 2);
});

const UNANSWERED: [string, string, Relay["hostile"]][] = [
  ["is dropped", "network_error", { request: (request) => (isFinish(request) ? DROP : request) }],
  ["loses its answer", "network_error", { answer: (answer, request) => (isFinish(request) ? DROP : answer) }],
  [
    "is answered by the relay",
    "host_offline",
    { request: (request) => (isFinish(request) ? unsignedProblem(503, "host_offline") : request) },
  ],
  [
    "gets an altered proof",
    "pairing_failed",
    {
      answer: (answer, request) =>
        isFinish(request)
          ? { ...answer, body: json({ ...JSON.parse(answer.body.toString()), proof: "AAAA" }) }
          : answer,
    },
  ],
  [
    "is answered with nonsense",
    "bad_answer",
    { answer: (answer, request) => (isFinish(request) ? { ...answer, body: Buffer.from("x") } : answer) },
  ],
];
function isFinish({ target }: AgentRequest): boolean {
  return target === "/_relay/pairing/finish";
}
for (const [name, code, hostile] of UNANSWERED) {
  test(`a proof that ${name}: the code is to be regarded as used up`, async () => {
    await withRelay(async ({ relay, access }) => {
      relay.agent.code = CODE;
      relay.hostile = hostile;
      const attempt = pairHost({ relay: access, hostId: relay.agent.hostId, code: CODE });
      await assert.rejects(attempt, (error) => {
        assert.ok(error instanceof RelayError);
        assert.equal(error.code, code);
        assert.equal(error.codeUsed, true);
        assert.match(error.detail, /used up/);
        return true;
      });
    });
  });
}

test("before the proof has gone out the code is as good as before", async () => {
  await withRelay(async ({ relay, access }) => {
    relay.agent.code = CODE;
    relay.hostile.request = () => DROP;
    const attempt = () => pairHost({ relay: access, hostId: relay.agent.hostId, code: CODE });
    await assert.rejects(attempt(), (error) => error instanceof RelayError && error.codeUsed === undefined);
    relay.hostile = {};
    (await attempt()).close();
  });
});

for (const [name, payload] of [
  ["a code that stands for no CLOSE", "03ee"],
  ["a code of nobody", "0001"],
  ["half a code", "03"],
] as const) {
  test(`a CLOSE with ${name} is an error`, async () => {
    await withHost(async (host, { relay }) => {
      let close = () => {};
      relay.socket = (socket) => {
        close = () => socket.send(9, Buffer.from(payload, "hex"));
        return { status: 101 };
      };
      const socket = host.webSocket("/ws");
      await once(socket, "open");
      const failed = once(socket, "error") as Promise<[Event & { error: unknown }]>;
      const ended = once(socket, "close") as Promise<[CloseEvent]>;
      close();
      assert.ok(coded("bad_answer", true)((await failed)[0].error));
      const [{ code, wasClean }] = await ended;
      assert.deepEqual({ code, wasClean }, { code: 1006, wasClean: false });
    });
  });
}

test("a host that is opened again shares its session at the relay, and forgetting ends it", async () => {
  await withHost(async (first, { relay, access }) => {
    relay.agent.local = () => ({ status: 200, headers: [] });
    await first.fetch("/");
    for (let i = 0; i < 3; i++) {
      const again = await openHost({ relay: access, hostId: first.hostId });
      assert.equal((await again?.fetch("/"))?.status, 200);
      again?.close();
    }
    assert.equal(relay.asked, 1);
    // Another access may be another user's.
    const other = await openHost({ relay: { ...access }, hostId: first.hostId });
    await other?.fetch("/");
    assert.equal(relay.asked, 2);
    const ended = relay.nextEnded();
    await other?.forget();
    assert.equal((await ended).known, true);
    assert.equal((await ended).headers["authorization"], "Bearer token");
    assert.equal(relay.sessions.size, 1);
  });
});
