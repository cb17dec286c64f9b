/**
 * A relay that reads, replays, rewrites, reorders, truncates and drops. Whatever it does to whichever
 * message: the browser sees the honest answer or an error, and the local server sees what the browser
 * meant, at most once.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type PairedHost, pairHost, RelayError } from "../src/index.js";
import { load } from "../src/store.js";
import { RECORDS } from "./support/agent.js";
import { CODE, chosen, eachForm, useForm, withHost, withRelay } from "./support/browser.js";
import { DROP, type Hostile, type Relay, unsignedProblem, type WholeAnswer } from "./support/relay.js";
import type { AgentRequest } from "./support/requests.js";
import { split } from "./support/sealing.js";

const flip = (bytes: Buffer, at: number) => {
  const copy = Buffer.from(bytes);
  const place = at < 0 ? copy.length + at : at;
  copy[place] = (copy[place] ?? 0) ^ 1;
  return copy;
};

/** A JSON body with one of its texts altered in the middle. */
const alterText = (body: Buffer, name: string) => {
  const json = JSON.parse(body.toString()) as Record<string, unknown>;
  const text = String(json[name]);
  const at = text.length >> 1;
  json[name] = `${text.slice(0, at)}${text[at] === "A" ? "B" : "A"}${text.slice(at + 1)}`;
  return Buffer.from(JSON.stringify(json));
};

type AlterRequest = (request: AgentRequest) => AgentRequest | WholeAnswer | typeof DROP;
type AlterAnswer = (answer: WholeAnswer) => WholeAnswer | typeof DROP;

const without = (headers: Record<string, string>, name: string) =>
  Object.fromEntries(Object.entries(headers).filter(([key]) => key !== name));

/** Things to do to any signed request. */
const REQUESTS: [string, AlterRequest][] = [
  ["dropped", () => DROP],
  ["another method", (request) => ({ ...request, method: request.method === "GET" ? "POST" : "GET" })],
  ["another path", (request) => ({ ...request, target: `/evil${request.target}` })],
  [
    "a longer query",
    (request) => ({
      ...request,
      target: `${request.target}${request.target.includes("?") ? "&" : "?"}evil=1`,
    }),
  ],
  ["a shorter path", (request) => ({ ...request, target: "/" })],
  [
    "an altered body",
    (request) => ({
      ...request,
      body: request.body.length > 0 ? flip(request.body, 0) : Buffer.from("evil"),
    }),
  ],
  [
    "no body",
    (request) => ({ ...request, body: Buffer.alloc(0), headers: without(request.headers, "content-digest") }),
  ],
  ["a longer body", (request) => ({ ...request, body: Buffer.concat([request.body, Buffer.from("!")]) })],
  ["another header value", (request) => ({ ...request, headers: { ...request.headers, "x-app": "evil" } })],
  ["a header more", (request) => ({ ...request, headers: { ...request.headers, "x-evil": "1" } })],
  ["a header less", (request) => ({ ...request, headers: without(request.headers, "x-app") })],
  [
    "no signature",
    (request) => ({ ...request, headers: without(without(request.headers, "signature"), "signature-input") }),
  ],
  [
    "an altered signature",
    (request) => ({
      ...request,
      headers: {
        ...request.headers,
        signature: (request.headers["signature"] ?? "").replace(/:(.)/, (_, c) => (c === "A" ? ":B" : ":A")),
      },
    }),
  ],
  [
    "another created",
    (request) => ({
      ...request,
      headers: {
        ...request.headers,
        "signature-input": (request.headers["signature-input"] ?? "").replace(/created=\d+/, "created=1"),
      },
    }),
  ],
  [
    "less covered",
    (request) => ({
      ...request,
      headers: {
        ...request.headers,
        "signature-input": (request.headers["signature-input"] ?? "").replace(' "x-relay-records"', ""),
      },
    }),
  ],
  ["refused in the agent's name: clock", () => refusal(401, "clock_skew", { agent_time: 1 })],
  ["refused in the agent's name: session", () => refusal(401, "signing_session_expired")],
  ["refused in the agent's name: pairing", () => refusal(401, "not_paired")],
  ["refused in the agent's name: replay", () => refusal(401, "replayed")],
  [
    "answered by the relay",
    () => ({ status: 200, headers: { "content-type": "text/plain" }, body: Buffer.from("evil") }),
  ],
  [
    "answered by the relay with records",
    () => ({ status: 200, headers: { "content-type": RECORDS }, body: Buffer.from("evil") }),
  ],
  [
    "answered by the relay with a page",
    () => ({ status: 502, headers: { "content-type": "text/html" }, body: Buffer.from("<h1>evil") }),
  ],
  ["the relay's session ends, again and again", () => unsignedProblem(401, "session_expired")],
  ["redirected", () => ({ status: 307, headers: { location: "/evil" }, body: Buffer.alloc(0) })],
];

function refusal(status: number, code: string, extra: Record<string, unknown> = {}): WholeAnswer {
  const body = Buffer.from(JSON.stringify({ status, code, ...extra }));
  return { status, headers: { "content-type": "application/problem+json" }, body };
}

/** The records of a stream in the form that is tested now. */
const records = (body: Buffer) => split(body, chosen().protection === "signed" ? 64 : 16);

const rearranged = (change: (list: Buffer[]) => Buffer[]) => (answer: WholeAnswer) =>
  answer.headers["content-type"] === RECORDS
    ? { ...answer, body: Buffer.concat(change(records(answer.body))) }
    : answer;

/** Things to do to any signed answer. */
const ANSWERS: [string, AlterAnswer][] = [
  ["dropped", () => DROP],
  ["another status", (answer) => ({ ...answer, status: answer.status === 200 ? 201 : 200 })],
  ["the first byte altered", (answer) => ({ ...answer, body: flip(answer.body, 0) })],
  [
    "a byte in the middle altered",
    (answer) => ({ ...answer, body: flip(answer.body, answer.body.length >> 1) }),
  ],
  ["the last byte altered", (answer) => ({ ...answer, body: flip(answer.body, -1) })],
  ["cut by a byte", (answer) => ({ ...answer, body: answer.body.subarray(0, -1) })],
  ["cut in half", (answer) => ({ ...answer, body: answer.body.subarray(0, answer.body.length >> 1) })],
  ["empty", (answer) => ({ ...answer, body: Buffer.alloc(0) })],
  ["longer by a byte", (answer) => ({ ...answer, body: Buffer.concat([answer.body, Buffer.from([0])]) })],
  ["twice", (answer) => ({ ...answer, body: Buffer.concat([answer.body, answer.body]) })],
  [
    "another media type",
    (answer) => ({ ...answer, headers: { ...answer.headers, "content-type": "text/evil" } }),
  ],
  [
    "as records",
    (answer) => ({
      ...answer,
      headers: { ...answer.headers, "content-type": RECORDS },
      body: flip(answer.body, 3),
    }),
  ],
  [
    "no signature",
    (answer) => ({
      ...answer,
      headers: without(without(answer.headers, "signature"), "signature-input"),
      body: flip(answer.body, -1),
    }),
  ],
  ["the first record left out", rearranged((list) => list.slice(1))],
  ["the second record left out", rearranged((list) => list.filter((_, i) => i !== 1))],
  ["the last record left out", rearranged((list) => list.slice(0, -1))],
  [
    "records swapped",
    rearranged(([head, a, b, ...rest]) => [head, b, a, ...rest].filter((part) => part !== undefined)),
  ],
  [
    "a record repeated",
    rearranged(([head, a, ...rest]) => [head, a, a, ...rest].filter((part) => part !== undefined)),
  ],
  ["the end put forward", rearranged((list) => [...list.slice(0, 2), ...list.slice(-1)])],
  [
    "a record's type altered",
    rearranged(([head, a, ...rest]) =>
      [head, a === undefined ? a : flip(a, 4), ...rest].filter((part) => part !== undefined),
    ),
  ],
];

const BODY = "what the browser meant";
const ANSWER = ["first, ", "second, ", "third"];

/** What an honest run gives. */
async function run(host: PairedHost): Promise<string> {
  const response = await host.fetch("/api?x=1", {
    method: "POST",
    body: BODY,
    headers: { "x-app": "honest" },
  });
  return `${response.status} ${response.headers.get("x-answer")} ${await response.text()}`;
}

const HONEST = `200 honest ${ANSWER.join("")}`;

function serve(relay: Relay): void {
  async function* pieces() {
    for (const piece of ANSWER) yield Buffer.from(piece);
  }
  relay.agent.local = () => ({ status: 200, headers: [["x-answer", "honest"]], body: pieces() });
}

/** Whether the local server has seen only what was meant, at most once. */
function checkForwarded(relay: Relay): void {
  assert.ok(relay.agent.forwarded.length <= 1, "done at most once");
  for (const { method, target, headers, body } of relay.agent.forwarded) {
    const seen = { method, target, app: headers["x-app"], evil: headers["x-evil"], body: body.toString() };
    assert.deepEqual(seen, {
      method: "POST",
      target: "/api?x=1",
      app: "honest",
      evil: undefined,
      body: BODY,
    });
  }
}

/** One run under attack: the honest outcome, or an error of ours. */
async function attacked(host: PairedHost, relay: Relay, hostile: Hostile): Promise<RelayError | undefined> {
  relay.hostile = hostile;
  let failure: RelayError | undefined;
  try {
    assert.equal(await run(host), HONEST);
  } catch (error) {
    if (!(error instanceof RelayError)) throw error;
    failure = error;
  }
  checkForwarded(relay);
  return failure;
}

const isSession = (request: AgentRequest) => request.target === "/_relay/session";
const PLACES: [string, (request: AgentRequest) => boolean][] = [
  ["the session's request", isSession],
  ["a request", (request) => !isSession(request)],
];

for (const [place, here] of PLACES) {
  for (const [name, alter] of REQUESTS) {
    eachForm(
      `${place} ${name}: nothing but the honest outcome or an error, and afterwards all is as before`,
      async () => {
        await withHost(async (host, { relay }) => {
          serve(relay);
          const failure = await attacked(host, relay, {
            request: (request) => (here(request) ? alter(request) : request),
          });
          assert.ok(failure === undefined || !failure.verified || relay.agent.forwarded.length === 0);
          relay.hostile = {};
          relay.agent.forwarded.length = 0;
          assert.equal(await run(host), HONEST, "no word of the relay has changed clock, session or pairing");
        });
      },
    );
  }
  for (const [name, alter] of ANSWERS) {
    eachForm(`the answer to ${place} ${name}: nothing but the honest outcome or an error`, async () => {
      await withHost(async (host, { relay }) => {
        serve(relay);
        await attacked(host, relay, {
          answer: (answer, request) => (here(request) ? alter(answer) : answer),
        });
        relay.hostile = {};
        relay.agent.forwarded.length = 0;
        assert.equal(await run(host), HONEST);
      });
    });
  }
}

eachForm("attacks do fail: altering any byte of a record stream is an error", async () => {
  await withHost(async (host, { relay }) => {
    serve(relay);
    assert.equal(await run(host), HONEST);
    relay.agent.forwarded.length = 0;
    let length = 1;
    for (let at = 0; at < length; at += 5) {
      const failure = await attacked(host, relay, {
        answer: (answer, request) => {
          if (isSession(request)) return answer;
          length = answer.body.length;
          return { ...answer, body: flip(answer.body, at) };
        },
      });
      assert.ok(
        failure !== undefined && ["tampered", "truncated"].includes(failure.code),
        `byte ${at}: ${failure?.code}`,
      );
      relay.agent.forwarded.length = 0;
    }
    assert.ok(length > 150);
  });
});

eachForm("unsigned refusals are told as they are, believed by nobody", async () => {
  await withHost(async (host, { relay }) => {
    serve(relay);
    let revoked = false;
    host.addEventListener("revoked", () => {
      revoked = true;
    });
    for (const code of ["not_paired", "clock_skew", "signing_session_expired", "host_offline"]) {
      let asked = 0;
      const failure = await attacked(host, relay, {
        request: (request) => {
          asked += 1;
          return isSession(request) ? request : refusal(503, code);
        },
      });
      assert.equal(failure?.code, code);
      assert.equal(failure?.verified, false);
      assert.ok(asked <= 2, "nothing is repeated");
    }
    assert.equal(revoked, false);
  });
});

eachForm("an answer to another request is no answer", async () => {
  await withHost(async (host, { relay }) => {
    serve(relay);
    let kept: WholeAnswer | undefined;
    relay.hostile.answer = (answer, request) => {
      if (!isSession(request)) kept = answer;
      return answer;
    };
    assert.equal(await run(host), HONEST);
    relay.hostile.answer = (answer, request) => (isSession(request) ? answer : (kept ?? answer));
    await assert.rejects(run(host), (error) => error instanceof RelayError && error.code === "tampered");
    relay.hostile.answer = (answer, request) => {
      if (request.target === "/_relay/browsers") kept = answer;
      return answer;
    };
    await host.browsers().list();
    relay.hostile.answer = () => kept as WholeAnswer;
    await assert.rejects(
      host.browsers().list(),
      (error) => error instanceof RelayError && error.code === "tampered",
    );
  });
});

eachForm("a request that is replayed is done once", async () => {
  await withHost(async (host, { relay }) => {
    serve(relay);
    const replays: AgentRequest[] = [];
    relay.hostile.request = (request) => {
      replays.push(request);
      return request;
    };
    assert.equal(await run(host), HONEST);
    for (const request of replays) {
      const answer = await relay.agent.handle(request);
      assert.equal(answer.status, 401);
      assert.match(String(answer.body), /replayed/);
    }
    checkForwarded(relay);
  });
});

eachForm("a relay that does a request and says that its session ended gets it done once", async () => {
  await withHost(async (host, { relay }) => {
    serve(relay);
    let lied = false;
    const failure = await attacked(host, relay, {
      answer: (answer, request) => {
        if (isSession(request) || lied) return answer;
        lied = true;
        return unsignedProblem(401, "session_expired");
      },
    });
    assert.equal(failure?.code, "replayed");
    assert.equal(failure?.verified, true);
    assert.equal(relay.agent.forwarded.length, 1);
  });
});

test("nothing loops, whatever the agent says", async () => {
  useForm("signed");
  await withHost(async (host, { relay }) => {
    serve(relay);
    await run(host);
    // A clock that the browser can never meet: every request is skewed anew.
    let asked = 0;
    relay.hostile.request = (request) => {
      asked += 1;
      relay.agent.ahead += 3600;
      return request;
    };
    await assert.rejects(
      run(host),
      (error) => error instanceof RelayError && error.code === "clock_skew" && error.verified,
    );
    assert.ok(asked <= 4, `${asked} requests`);
    asked = 0;
    relay.hostile.request = (request) => {
      asked += 1;
      relay.agent.sessions.clear();
      return request;
    };
    relay.agent.ahead = 0;
    await assert.rejects(run(host), (error) => error instanceof RelayError && error.verified);
    assert.ok(asked <= 8, `${asked} requests`);
  });
});

test("a man in the middle who guesses a code burns it, and nobody is paired", async () => {
  await withRelay(async ({ relay, access }) => {
    const { agent } = relay;
    agent.code = CODE;
    relay.hostile.answer = (answer, request) => {
      if (!request.target.endsWith("/start")) return answer;
      const json = JSON.parse(answer.body.toString()) as { message: string };
      // What somebody with another code would send: a point, but not the one that was meant.
      const other = Buffer.from("4264a783a4a489ab551bf7349fc8ee1b417d4b4e9c8d7ae8b00ef7634055b4b93c", "hex");
      return {
        ...answer,
        body: Buffer.from(JSON.stringify({ ...json, message: other.toString("base64url") })),
      };
    };
    const attempt = pairHost({ relay: access, hostId: agent.hostId, code: CODE });
    await assert.rejects(attempt, (error) => error instanceof RelayError && error.code === "pairing_failed");
    assert.equal(agent.code, undefined);
    assert.equal(agent.clients.size, 0);
    assert.equal(await load(agent.hostId), undefined);
  });
});

/** Things to do to the four messages of pairing. */
const PAIRING: [string, Hostile][] = [
  ["message A altered", onRequest("start", (body) => alterText(body, "message"))],
  ["message B altered", onAnswer("start", (body) => alterText(body, "message"))],
  [
    "message B of small order",
    onAnswer("start", (body) => setText(body, "message", Buffer.from(`42${"00".repeat(32)}`, "hex"))),
  ],
  ["message B is message A", onAnswer("start", (body) => setText(body, "message", Buffer.alloc(33, 0x41)))],
  [
    "another pairing id",
    onAnswer("start", (body) => replaceText(body, "pairing_id", "9b2d3f10-52c4-4b6e-8a77-1f2e3d4c5b6a")),
  ],
  ["the pairing id in upper case", onAnswer("start", (body) => upperText(body, "pairing_id"))],
  ["another version", onAnswer("start", (body) => Buffer.from(body.toString().replace('"v":1', '"v":2')))],
  ["start dropped", { request: (request) => (request.target.endsWith("/start") ? DROP : request) }],
  ["the browser's claims altered", onRequest("finish", (body) => alterText(body, "claims"))],
  ["the browser's proof altered", onRequest("finish", (body) => alterText(body, "proof"))],
  ["finish dropped", { request: (request) => (request.target.endsWith("/finish") ? DROP : request) }],
  ["the agent's claims altered", onAnswer("finish", (body) => alterText(body, "claims"))],
  [
    "the agent's claims replaced",
    onAnswer("finish", (body) => setText(body, "claims", Buffer.from('{"host_id":""}'))),
  ],
  ["the agent's proof altered", onAnswer("finish", (body) => alterText(body, "proof"))],
  ["the agent's proof empty", onAnswer("finish", (body) => setText(body, "proof", Buffer.alloc(0)))],
  ["finish echoed", { request: (request) => (request.target.endsWith("/finish") ? echo(request) : request) }],
  [
    "the answer to finish dropped",
    { answer: (answer, request) => (request.target.endsWith("/finish") ? DROP : answer) },
  ],
  ["the answer to finish cut", onAnswer("finish", (body) => body.subarray(0, -5))],
];

function echo(request: AgentRequest): WholeAnswer {
  return { status: 200, headers: { "content-type": "application/json" }, body: request.body };
}

function onRequest(step: string, change: (body: Buffer) => Buffer): Hostile {
  return {
    request: (request) =>
      request.target === `/_relay/pairing/${step}` ? { ...request, body: change(request.body) } : request,
  };
}

function onAnswer(step: string, change: (body: Buffer) => Buffer): Hostile {
  return {
    answer: (answer, request) =>
      request.target === `/_relay/pairing/${step}` ? { ...answer, body: change(answer.body) } : answer,
  };
}

function replaceText(body: Buffer, name: string, text: string): Buffer {
  return Buffer.from(JSON.stringify({ ...(JSON.parse(body.toString()) as object), [name]: text }));
}

function setText(body: Buffer, name: string, bytes: Buffer): Buffer {
  return replaceText(body, name, bytes.toString("base64url"));
}

function upperText(body: Buffer, name: string): Buffer {
  const json = JSON.parse(body.toString()) as Record<string, string>;
  return replaceText(body, name, (json[name] ?? "").toUpperCase());
}

for (const [name, hostile] of PAIRING) {
  test(`pairing with ${name} fails, and this browser keeps nothing`, async () => {
    await withRelay(async ({ relay, access }) => {
      relay.agent.code = CODE;
      relay.hostile = hostile;
      const options = { relay: access, hostId: relay.agent.hostId, code: CODE };
      await assert.rejects(pairHost(options), RelayError);
      assert.equal(await load(relay.agent.hostId), undefined);
    });
  });
}
