/** The portal's calls: what goes out with each, what is believed of an answer, and what errors say. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Api, Refused, retryAfter, Unreachable } from "../portal/api.js";
import { failure, hostMessage, needsNewCode } from "../portal/host-messages.js";
import { apiMessage, linkMessage, passwordMessage } from "../portal/messages.js";
import { RelayError } from "../src/errors.js";

type Call = { path: string; init: RequestInit };

/** An Api whose relay answers what it is told, in order; the last answer repeats. */
function withAnswers(...answers: (() => Response)[]) {
  const calls: Call[] = [];
  const api = new Api(async (path, init) => {
    calls.push({ path, init });
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    if (answer === undefined) throw new TypeError("Failed to fetch");
    return answer();
  });
  return { api, calls };
}
const ok =
  (body: unknown, headers: HeadersInit = {}) =>
  () =>
    Response.json(body, { headers });
const done = () => new Response(null, { status: 204 });
const problem =
  (status: number, code: string, headers: HeadersInit = {}) =>
  () =>
    new Response(JSON.stringify({ status, code, detail: "Do this.", request_id: "r1" }), {
      status,
      headers: { "content-type": "application/problem+json", ...headers },
    });
const HOST = {
  id: "0B6F0C53-6A1D-4D0A-9D2A-0F5F1D5B9A11",
  name: "workshop",
  machine_id: "m",
  status: "online",
  last_seen_at: 12,
  agent_version: null,
  role: "owner",
  created_at: 1,
};

describe("calls", () => {
  test("carry the cookie of this origin and the mark against other sites, and follow no redirect", async () => {
    const { api, calls } = withAnswers(done);
    await api.endBrowserSession("a/b");
    await api.setPassword(undefined, "a new password");
    for (const { init } of calls) {
      assert.equal(init.credentials, "same-origin");
      assert.equal(init.redirect, "error");
      assert.equal((init.headers as Record<string, string>)["x-relay-csrf"], "1");
      assert.ok(init.signal instanceof AbortSignal);
    }
    assert.equal(calls[0]?.path, "/v1/relay/sessions/a%2Fb", "an id stays one segment");
    assert.equal(calls[1]?.init.body, '{"new":"a new password"}');
  });

  test("believe only answers of the right shape", async () => {
    const { api } = withAnswers(ok({ hosts: [HOST] }));
    const [host] = await api.hosts();
    assert.equal(host?.id, HOST.id.toLowerCase());
    const wrong = [
      {},
      { hosts: "none" },
      { hosts: [{ ...HOST, status: "maybe" }] },
      { hosts: [{ ...HOST, name: 7 }] },
      { hosts: [{ ...HOST, created_at: "1" }] },
      { hosts: [null] },
    ];
    for (const body of wrong)
      await assert.rejects(withAnswers(ok(body)).api.hosts(), Unreachable, JSON.stringify(body));
    await assert.rejects(withAnswers(() => new Response("<html>")).api.hosts(), Unreachable);
    await assert.rejects(withAnswers(() => new Response("x", { status: 502 })).api.hosts(), Unreachable);
    await assert.rejects(withAnswers().api.hosts(), Unreachable);
  });

  test("a refusal keeps the protocol's code and how long to wait", async () => {
    const { api } = withAnswers(problem(429, "rate_limited", { "retry-after": "90" }));
    await assert.rejects(api.login("a@b", "c"), (error) => {
      assert.ok(error instanceof Refused);
      assert.deepEqual(
        [error.status, error.code, error.retryAfter, error.requestId],
        [429, "rate_limited", 90, "r1"],
      );
      return true;
    });
    assert.deepEqual(["5", " 7 ", "soon", "-1", "1e9", null].map(retryAfter), [
      5,
      7,
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
  });

  test("a sign-in that ran out is renewed once and the call made again", async () => {
    const { api, calls } = withAnswers(problem(401, "unauthorized"), done, ok({ hosts: [] }));
    let ended = 0;
    api.onSignedOut = () => {
      ended += 1;
    };
    assert.deepEqual(await api.hosts(), []);
    assert.deepEqual(
      calls.map((call) => call.path),
      ["/v1/relay/hosts", "/v1/auth/refresh", "/v1/relay/hosts"],
    );
    assert.equal(ended, 0);
    const over = withAnswers(problem(401, "unauthorized"));
    over.api.onSignedOut = () => {
      ended += 1;
    };
    await assert.rejects(over.api.hosts(), Refused);
    assert.deepEqual(
      over.calls.map((call) => call.path),
      ["/v1/relay/hosts", "/v1/auth/refresh"],
    );
    assert.equal(ended, 1);
  });

  test("those who find the sign-in ended at the same time share one renewal", async () => {
    let renewals = 0;
    let renewed = false;
    const api = new Api(async (path) => {
      if (path === "/v1/auth/refresh") {
        renewals += 1;
        renewed = true;
        return done();
      }
      return renewed ? ok({ hosts: [] })() : problem(401, "unauthorized")();
    });
    await Promise.all([api.hosts(), api.hosts(), api.hosts()]);
    assert.equal(renewals, 1);
  });

  test("a wrong password is no ended sign-in", async () => {
    const { api, calls } = withAnswers(problem(401, "sign_in_failed"));
    await assert.rejects(api.login("a@b", "c"), Refused);
    assert.equal(calls.length, 1);
  });

  test("the relay's clock is learnt from its answers", async () => {
    const { api } = withAnswers(ok({ hosts: [] }, { date: "Sat, 01 Jan 2050 00:00:00 GMT" }));
    await api.hosts();
    assert.ok(Math.abs(api.now() - 2_524_608_000) < 3600);
  });
});

describe("texts of errors", () => {
  const refused = (code: string, wait?: number) => new Refused(400, code, "Do this.", wait, undefined);

  test("of the relay", () => {
    assert.match(apiMessage(new Unreachable("x"), "sign in"), /relay does not answer/);
    assert.match(apiMessage(refused("rate_limited", 90), "sign in"), /in 90 seconds/);
    assert.match(apiMessage(refused("host_access_denied"), "rename the host"), /only the owner/);
    assert.match(apiMessage(refused("strange"), "do it"), /the relay refused \(strange\)\. Do this\./);
    assert.match(apiMessage(new Error("x"), "do it"), /Load it again/);
    assert.match(linkMessage(refused("sign_in_failed")), /no longer works/);
    assert.match(passwordMessage(refused("sign_in_failed")), /current password is not right/);
  });

  test("of the SDK: what nobody signed is told as the relay's word", () => {
    const text = (code: string, init = {}) => hostMessage(failure(new RelayError(code, init)));
    assert.match(text("not_paired", { verified: true, status: 401 }), /^The host says/);
    assert.match(text("not_paired", { status: 401 }), /the host has not signed that/);
    assert.match(text("shared_origin_refused", { status: 403 }), /^The relay refused/);
    assert.match(text("uncovered", { status: 400, verified: true }), /^The host refused/);
    assert.match(text("host_offline", { status: 503 }), /offline/);
    assert.match(text("tampered"), /not as the host sent it/);
    assert.match(text("rate_limited", { retryAfter: 30 }), /in 30 seconds/);
    assert.match(
      text("signing_session_expired", { verified: true, status: 401 }),
      /^The session was renewed; send it again if it should be done\.$/,
    );
    assert.match(text("signing_session_ended", { verified: true, status: 401 }), /may have been done/);
    assert.match(text("signing_session_expired", { status: 401 }), /^The relay refused/);
  });

  test("a code is spent by some failures and not by others", () => {
    const spent = (code: string) => needsNewCode(failure(new RelayError(code)));
    for (const code of ["pairing_failed", "pairing_expired", "pairing_not_open", "storage_failed"])
      assert.ok(spent(code), code);
    for (const code of ["host_offline", "rate_limited", "network_error", "insecure_context"])
      assert.ok(!spent(code), code);
    for (const code of ["network_error", "host_offline", "bad_answer"])
      assert.ok(needsNewCode(failure(new RelayError(code, { codeUsed: true }))), code);
  });

  test("whatever is thrown has a failure", () => {
    assert.equal(failure(new DOMException("stop", "AbortError")).code, "aborted");
    assert.equal(failure("a string").code, "internal");
    assert.equal(failure(undefined).code, "internal");
  });
});
