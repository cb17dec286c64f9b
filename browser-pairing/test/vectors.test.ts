/** The golden vectors that the Rust tests run as well, as far as they speak of the browser's side. */
import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import contentDigest from "../../relay-protocol/vectors/content_digest.json" with { type: "json" };
import fingerprints from "../../relay-protocol/vectors/fingerprint.json" with { type: "json" };
import pairing from "../../relay-protocol/vectors/pairing.json" with { type: "json" };
import recordPayload from "../../relay-protocol/vectors/record_payload.json" with { type: "json" };
import recordSigned from "../../relay-protocol/vectors/record_signed.json" with { type: "json" };
import rfc9421 from "../../relay-protocol/vectors/rfc9421_b26.json" with { type: "json" };
import sealedCode from "../../relay-protocol/vectors/sealed_code.json" with { type: "json" };
import signatureRequest from "../../relay-protocol/vectors/signature_request.json" with { type: "json" };
import signatureResponse from "../../relay-protocol/vectors/signature_response.json" with { type: "json" };
import spake2 from "../../relay-protocol/vectors/spake2.json" with { type: "json" };
import websocketQuery from "../../relay-protocol/vectors/websocket_query.json" with { type: "json" };
import { agentProved, fingerprint, pairingKeys, proof, requestHash } from "../src/confirmation.js";
import { digestFits } from "../src/digest.js";
import { b64, base64, fromB64, hex, utf8 } from "../src/encoding.js";
import { RelayError } from "../src/errors.js";
import { unsealCode } from "../src/keys.js";
import { readClaims } from "../src/pair.js";
import { checkEnd, readClose, readHead } from "../src/payload.js";
import { RecordOpener, RecordSender, type RecordType, TO_AGENT, TO_BROWSER } from "../src/record.js";
import { RecordSigner, RecordVerifier } from "../src/record-signed.js";
import {
  type Asked,
  type Component,
  claimsSignature,
  coveredAnswer,
  prepare,
  signatureBase,
} from "../src/signature.js";
import { Spake2 } from "../src/spake2.js";
import { signedTarget } from "../src/upgrade.js";
import { verdictOn } from "./support/streams.js";

declare const PACKAGE_ROOT: string;

const bytes = (text: string) => new Uint8Array(Buffer.from(text, "hex"));
const PKCS8 = { ed25519: "302e020100300506032b657004220420", x25519: "302e020100300506032b656e04220420" };

function seeded(seed: string): KeyObject {
  return createPrivateKey({ key: Buffer.from(PKCS8.ed25519 + seed, "hex"), format: "der", type: "pkcs8" });
}

async function signingKey(seed: string): Promise<CryptoKey> {
  return crypto.subtle.importKey("pkcs8", bytes(PKCS8.ed25519 + seed), "Ed25519", false, ["sign"]);
}

async function publicKey(raw: string): Promise<CryptoKey> {
  return crypto.subtle.importKey("raw", bytes(raw), "Ed25519", true, ["verify"]);
}

test("no file of vectors is left out", () => {
  const files = readdirSync(`${PACKAGE_ROOT}/../relay-protocol/vectors`).sort();
  assert.deepEqual(files, [
    // What only relays do among themselves.
    "bus.json",
    "content_digest.json",
    // What only an agent does: counting the numbers that were used.
    "exchange_numbers.json",
    "exchange_prelude.json",
    "exchange_refusal.json",
    "exchange_signed.json",
    "fingerprint.json",
    "noise-published.json",
    "noise_handshake.json",
    "pairing.json",
    "record_key.json",
    "record_payload.json",
    "record_sealed.json",
    "record_signed.json",
    "request_head.json",
    "rfc9421_b26.json",
    "sealed_code.json",
    "signature_request.json",
    "signature_response.json",
    "spake2.json",
    "websocket_query.json",
    "yamux.json",
  ]);
});

for (const { name, body, field, expect } of contentDigest.cases) {
  test(`content digest: ${name} is ${expect}`, () => {
    assert.equal(digestFits(field, utf8(body)), expect === "ok");
  });
}

test("fingerprints", () => {
  for (const { agent_ed25519_hex, browser_ed25519_hex, fingerprint: wanted } of fingerprints.cases) {
    assert.equal(fingerprint(bytes(agent_ed25519_hex), bytes(browser_ed25519_hex)), wanted);
  }
});

test("SPAKE2 exchanges", () => {
  for (const {
    id_a,
    id_b,
    password,
    random_a_hex,
    message_a_hex,
    message_b_hex,
    key_hex,
  } of spake2.exchanges) {
    const side = new Spake2(utf8(password), id_a, id_b, bytes(random_a_hex));
    assert.equal(hex(side.message), message_a_hex);
    assert.equal(hex(side.finish(bytes(message_b_hex)) ?? new Uint8Array()), key_hex);
  }
});

for (const { name, to, message_hex } of spake2.refused.filter(({ to }) => to === "browser")) {
  test(`SPAKE2 refuses at the ${to}: ${name}`, () => {
    const side = new Spake2(utf8("123456"), "a", "b", new Uint8Array(64).fill(7));
    assert.equal(side.finish(bytes(message_hex)), undefined);
  });
}

test("a whole pairing, with every key and proof on the way", async () => {
  const side = new Spake2(
    utf8(pairing.code),
    pairing.browser.identity,
    pairing.agent.identity,
    bytes(pairing.browser.random_hex),
  );
  assert.equal(b64(side.message), pairing.start_request.message);
  const answer = fromB64(pairing.start_response.message) ?? new Uint8Array();
  const key = side.finish(answer) ?? new Uint8Array();
  assert.equal(hex(key), pairing.spake2_key_hex);
  const keys = pairingKeys(key, pairing.host_id, side.message, answer);
  assert.equal(hex(keys.confirmBrowser), pairing.confirm_browser_hex);
  assert.equal(hex(keys.confirmAgent), pairing.confirm_agent_hex);
  assert.equal(hex(keys.psk), pairing.psk_hex);
  const own = utf8(pairing.browser_claims_text);
  assert.equal(b64(proof(keys.confirmBrowser, pairing.pairing_id, own)), pairing.browser_finish.proof);
  const claims = fromB64(pairing.agent_finish.claims) ?? new Uint8Array();
  const given = fromB64(pairing.agent_finish.proof) ?? new Uint8Array();
  assert.equal(agentProved(keys, pairing.pairing_id, own, claims, given), true);
  const read = await readClaims(claims, pairing.host_id, await ownX25519());
  assert.equal(hex(read.ed25519), pairing.agent.ed25519_public_hex);
  assert.equal(hex(read.x25519), pairing.agent.x25519_public_hex);
  assert.equal(fingerprint(read.ed25519, bytes(pairing.browser.ed25519_public_hex)), pairing.fingerprint);
});

async function ownX25519(): Promise<CryptoKey> {
  const der = bytes(PKCS8.x25519 + pairing.browser.x25519_private_hex);
  return crypto.subtle.importKey("pkcs8", der, { name: "X25519" }, false, ["deriveBits"]);
}

for (const { name, claims, proof: given, code } of pairing.bad_agent_finish) {
  test(`the agent's answer is refused: ${name}`, async () => {
    const raw = fromB64(claims);
    const mac = fromB64(given);
    assert.ok(raw !== undefined && mac !== undefined);
    const keys = {
      confirmBrowser: bytes(""),
      confirmAgent: bytes(pairing.confirm_agent_hex),
      psk: bytes(""),
    };
    const proved = agentProved(keys, pairing.pairing_id, utf8(pairing.browser_claims_text), raw, mac);
    assert.equal(proved, code !== "pairing_failed");
    if (proved) await assert.rejects(readClaims(raw, pairing.host_id, await ownX25519()), RelayError);
  });
}

test("the sealed code opens for its request and its pairing only", async () => {
  const psk = (text: string) => crypto.subtle.importKey("raw", bytes(text), "HKDF", false, ["deriveKey"]);
  const open = async (key: string, sealed: string, signature: string) =>
    unsealCode(await psk(key), fromB64(sealed) ?? new Uint8Array(), requestHash(bytes(signature)));
  assert.equal(
    await open(sealedCode.psk_hex, sealedCode.sealed_code, sealedCode.request_signature_hex),
    sealedCode.code,
  );
  for (const { name, psk_hex, sealed_code, request_signature_hex } of sealedCode.refused) {
    assert.equal(await open(psk_hex, sealed_code, request_signature_hex), undefined, name);
  }
});

test("the ed25519 test case of RFC 9421, appendix B.2.6", () => {
  const params = rfc9421.signature_input.slice(`${rfc9421.label}=`.length);
  const values = new Map([
    ...rfc9421.headers.map(([name = "", value = ""]): [string, string] => [name, value]),
    ["@method", rfc9421.method],
    ["@path", rfc9421.path],
    ["@authority", rfc9421.authority],
  ]);
  const names = [...(/^\((.*?)\)/.exec(params)?.[1] ?? "").matchAll(/"([^"]+)"/g)].map(
    ([, name = ""]) => name,
  );
  const base = signatureBase(
    names.map((name) => [`"${name}"`, values.get(name) ?? "missing"]),
    params,
  );
  assert.equal(Buffer.from(base).toString(), rfc9421.base);
  const signature = sign(null, base, seeded(rfc9421.seed_hex));
  assert.equal(signature.toString("hex"), rfc9421.signature_hex);
  assert.ok(verify(null, base, createPublicKey(seeded(rfc9421.seed_hex)), bytes(rfc9421.signature_hex)));
});

/** Components as the SDK makes them from the platform's headers. */
function components(
  method: string,
  path: string,
  query: string | null,
  headers: string[][],
  cover: string[],
): Component[] {
  const platform = new Headers(headers.map(([name = "", value = ""]): [string, string] => [name, value]));
  return [
    ["@method", method],
    ["@path", path],
    ["@query", `?${query ?? ""}`],
    ...cover.map((name): Component => [name, platform.get(name) ?? "missing"]),
  ];
}

for (const vector of signatureRequest.signed) {
  test(`a signed request: ${vector.name}`, async () => {
    const { method, path, query, headers, cover, created, key_id, nonce } = vector;
    const parts = components(method, path, query, headers, cover);
    const { base, input } = prepare(parts, { created, keyid: key_id, nonce });
    assert.equal(Buffer.from(base).toString("latin1"), vector.base);
    const key = await signingKey(signatureRequest.seed_hex);
    const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", key, base));
    assert.equal(hex(signature), vector.signature_hex);
    assert.equal(hex(requestHash(signature)), vector.signature_sha256_hex);
    const given = new Map(headers.map(([name = "", value = ""]) => [name, value]));
    assert.equal(`relay=${input}`, given.get("signature-input"));
    assert.equal(`relay=:${base64(signature)}:`, given.get("signature"));
  });
}

for (const vector of websocketQuery.signed) {
  test(`a signed upgrade: ${vector.name}`, async () => {
    const { path, query, headers, cover, created, key_id, nonce } = vector;
    const parts = components("GET", path, query, headers, cover);
    const { base, input } = prepare(parts, { created, keyid: key_id, nonce, tag: "websocket" });
    assert.equal(Buffer.from(base).toString("latin1"), vector.base);
    const key = await signingKey(websocketQuery.seed_hex);
    const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", key, base));
    assert.equal(hex(signature), vector.signature_hex);
    const target = query === null ? path : `${path}?${query}`;
    assert.equal(signedTarget(target, input, signature), `${path}?${vector.signed_query}`);
  });
}

/** A request as a vector has it. */
interface VectorRequest {
  method: string;
  path: string;
  query?: string | null;
  signature_hex: string;
  signature_input: string;
}

function asked({ method, path, query, signature_hex, signature_input }: VectorRequest): Asked {
  const target = query === null || query === undefined ? path : `${path}?${query}`;
  return { method, target, input: signature_input, signature: bytes(signature_hex) };
}

/** What the browser makes of an answer's head. */
async function received(
  status: number,
  list: string[][],
  request: VectorRequest,
): Promise<"ok" | "unsigned" | "refused"> {
  const headers = new Headers(list.map(([name = "", value = ""]): [string, string] => [name, value]));
  if (!claimsSignature(headers)) return "unsigned";
  const covered = coveredAnswer(status, headers, asked(request), signatureResponse.host_id);
  if (covered === undefined) return "refused";
  const key = await publicKey(signatureResponse.public_hex);
  return (await crypto.subtle.verify("Ed25519", key, covered.signature, covered.base)) ? "ok" : "refused";
}

for (const { name, status, headers, request, base } of signatureResponse.signed) {
  test(`a signed answer is accepted: ${name}`, async () => {
    assert.equal(await received(status, headers, request), "ok");
    const platform = new Headers(headers.map(([key = "", value = ""]): [string, string] => [key, value]));
    const covered = coveredAnswer(status, platform, asked(request), signatureResponse.host_id);
    assert.equal(Buffer.from(covered?.base ?? []).toString("latin1"), base);
  });
}

for (const { name, status, headers, request, expect } of signatureResponse.received) {
  test(`a received answer is ${expect}: ${name}`, async () => {
    const verdict = await received(status, headers, request);
    if (expect === "ok" || expect === "unsigned") assert.equal(verdict, expect);
    else assert.notEqual(verdict, "ok");
  });
}

const context = {
  sessionId: recordSigned.session_id,
  requestHash: bytes(recordSigned.request_hash_hex),
};

test("records are signed and verified, in both directions", async () => {
  assert.equal(hex(requestHash(bytes(recordSigned.request_signature_hex))), recordSigned.request_hash_hex);
  const signer = new RecordSender(new RecordSigner(context, await signingKey(recordSigned.browser_seed_hex)));
  const reader = new RecordOpener(
    new RecordVerifier(context, await publicKey(recordSigned.browser_public_hex), TO_AGENT),
  );
  for (const { type, payload_hex, record_hex } of recordSigned.to_agent) {
    const record = await signer.make(type as RecordType, bytes(payload_hex));
    assert.equal(hex(record), record_hex);
    assert.equal(hex((await reader.open(record)).payload), payload_hex);
  }
  const agent = new RecordSender(
    new RecordSigner(context, await signingKey(recordSigned.agent_seed_hex), TO_BROWSER),
  );
  const verifier = new RecordOpener(
    new RecordVerifier(context, await publicKey(recordSigned.agent_public_hex)),
  );
  for (const { type, payload_hex, record_hex } of recordSigned.answer) {
    assert.equal(hex(await agent.make(type as RecordType, bytes(payload_hex))), record_hex);
    assert.deepEqual(await verifier.open(bytes(record_hex)), { type, payload: bytes(payload_hex) });
  }
});

for (const { name, stream_hex, expect } of recordSigned.streams) {
  test(`a record stream: ${name}`, async () => {
    const wanted = ["ok", "truncated", "error_record"].includes(expect) ? expect : "tampered";
    const stream = bytes(stream_hex);
    for (const piece of [1, 7, 64, stream.length + 1]) {
      const verifier = new RecordVerifier(context, await publicKey(recordSigned.agent_public_hex));
      const verdict = await verdictOn(stream, piece, new RecordOpener(verifier));
      // Half a record after END is a record that was cut, or bytes that do not belong there.
      if (name === "bytes after END") assert.ok(["truncated", "tampered"].includes(verdict), verdict);
      else assert.equal(verdict, wanted, `in pieces of ${piece}`);
    }
  });
}

test("payloads of HEAD, END and CLOSE", () => {
  for (const { json, status, headers_hex } of recordPayload.head) {
    const head = readHead(utf8(json));
    assert.equal(head.status, status);
    for (const [name = "", value = ""] of headers_hex) {
      const wanted = Buffer.from(value, "hex").toString("latin1");
      assert.ok(head.headers.get(name)?.split(", ").includes(wanted), name);
    }
  }
  for (const { payload } of recordPayload.end) checkEnd(utf8(payload));
  for (const { payload_hex, code, reason } of recordPayload.close) {
    assert.deepEqual(readClose(bytes(payload_hex)), { code: code ?? undefined, reason: reason ?? "" });
  }
});

const REFUSED: [string, { name: string; payload_hex: string }[], (payload: Uint8Array) => unknown][] = [
  ["HEAD", recordPayload.bad_head, readHead],
  ["END", recordPayload.bad_end, checkEnd],
  ["CLOSE", recordPayload.bad_close, readClose],
];
for (const [type, cases, run] of REFUSED) {
  for (const { name, payload_hex } of cases) {
    test(`a malformed ${type} is refused: ${name}`, () => {
      assert.throws(() => run(bytes(payload_hex)), RelayError);
    });
  }
}
