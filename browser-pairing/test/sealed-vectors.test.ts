/** The golden vectors of sealed sessions and exchanges, and the published ones of Noise. */
import assert from "node:assert/strict";
import { createCipheriv } from "node:crypto";
import { test } from "node:test";
import preludes from "../../relay-protocol/vectors/exchange_prelude.json" with { type: "json" };
import refusals from "../../relay-protocol/vectors/exchange_refusal.json" with { type: "json" };
import exchangeSigned from "../../relay-protocol/vectors/exchange_signed.json" with { type: "json" };
import handshakes from "../../relay-protocol/vectors/noise_handshake.json" with { type: "json" };
import published from "../../relay-protocol/vectors/noise-published.json" with { type: "json" };
import recordKey from "../../relay-protocol/vectors/record_key.json" with { type: "json" };
import recordSealed from "../../relay-protocol/vectors/record_sealed.json" with { type: "json" };
import requestHeads from "../../relay-protocol/vectors/request_head.json" with { type: "json" };
import { exchangeHash } from "../src/confirmation.js";
import { digestFits } from "../src/digest.js";
import { b64, concat, hex, u64, utf8, uuidBytes } from "../src/encoding.js";
import { RelayError } from "../src/errors.js";
import { dhPair, HandshakeFailed, Initiator, type Parties, PROTOCOLS, type Profile } from "../src/noise.js";
import { RecordOpener, RecordSender, RecordType, TO_AGENT, TO_BROWSER } from "../src/record.js";
import { type KeyLimits, SealedSealer, SealedUnsealer, sealRoots } from "../src/record-sealed.js";
import { RecordSigner, RecordVerifier } from "../src/record-signed.js";
import { requestHead } from "../src/requesthead.js";
import { claimsSignature, coveredAnswer } from "../src/signature.js";
import { verdictOn } from "./support/streams.js";

const bytes = (text: string) => new Uint8Array(Buffer.from(text, "hex"));
const PKCS8 = { ed25519: "302e020100300506032b657004220420", x25519: "302e020100300506032b656e04220420" };

const x25519 = (raw: string) =>
  crypto.subtle.importKey("pkcs8", bytes(PKCS8.x25519 + raw), { name: "X25519" }, false, ["deriveBits"]);
const ed25519 = (seed: string) =>
  crypto.subtle.importKey("pkcs8", bytes(PKCS8.ed25519 + seed), "Ed25519", false, ["sign"]);
const verifying = (raw: string) => crypto.subtle.importKey("raw", bytes(raw), "Ed25519", true, ["verify"]);
const sealedPsk = (raw: string) => crypto.subtle.importKey("raw", bytes(raw), "HKDF", false, ["deriveBits"]);

/** A transport message as Noise has it, without the SDK's code. */
function transport(key: Uint8Array, n: number, payload: string): string {
  const nonce = Buffer.alloc(12);
  nonce.writeBigUInt64BE(BigInt(n), 4);
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  return Buffer.concat([cipher.update(bytes(payload)), cipher.final(), cipher.getAuthTag()]).toString("hex");
}

for (const vector of published.vectors) {
  test(`published: ${vector.protocol_name}, ${vector.source.split(":")[0]}`, async () => {
    const [profile] = Object.entries(PROTOCOLS).find(([, name]) => name === vector.protocol_name) ?? [];
    assert.ok(profile !== undefined);
    const own = await dhPair(await x25519(vector.init_static));
    const psk = vector.init_psks[0] === undefined ? undefined : await sealedPsk(vector.init_psks[0]);
    const parties: Parties = {
      profile: profile as Profile,
      prologue: bytes(vector.init_prologue),
      own,
      theirs: bytes(vector.init_remote_static),
      psk,
    };
    const e = await dhPair(await x25519(vector.init_ephemeral));
    const [first, second, ...rest] = vector.messages;
    assert.ok(first !== undefined && second !== undefined && rest.length >= 2);
    const handshake = await Initiator.start(parties, bytes(first.payload), e);
    assert.equal(hex(handshake.message), first.ciphertext);
    const { k0, k1, h, payload } = await handshake.finish(bytes(second.ciphertext));
    assert.equal(hex(payload), second.payload);
    if ("handshake_hash" in vector) assert.equal(hex(h), vector.handshake_hash);
    for (const [i, message] of rest.entries()) {
      assert.equal(transport(i % 2 === 0 ? k0 : k1, i >> 1, message.payload), message.ciphertext);
    }
  });
}

for (const vector of handshakes.handshakes) {
  test(`our own handshakes: ${vector.profile}`, async () => {
    const own = await dhPair(await x25519(handshakes.browser_static_private_hex));
    assert.equal(hex(own.raw), handshakes.browser_static_public_hex);
    const start = async () =>
      Initiator.start(
        {
          profile: vector.profile as Profile,
          prologue: utf8(`relay-sealed/1 ${handshakes.host_id} ${handshakes.client_id}`),
          own,
          theirs: bytes(handshakes.agent_static_public_hex),
          psk: await sealedPsk(handshakes.psk_hex),
        },
        undefined,
        await dhPair(await x25519(handshakes.browser_ephemeral_private_hex)),
      );
    assert.equal(hex((await start()).message), vector.first_message_hex);
    const done = await (await start()).finish(bytes(vector.second_message_hex));
    assert.equal(hex(done.k0), vector.key_to_agent_hex);
    assert.equal(hex(done.k1), vector.key_to_browser_hex);
    assert.equal(hex(done.h), vector.handshake_hash_hex);
    for (const { name, message_hex, expect } of vector.browser_receives) {
      const finished = (await start()).finish(bytes(message_hex));
      if (expect === "ok") assert.equal(hex((await finished).h), vector.handshake_hash_hex, name);
      else await assert.rejects(finished, HandshakeFailed, name);
    }
  });
}

test("the keys of a handshake cannot be read out, and its bytes are wiped", async () => {
  const [k0, k1] = [new Uint8Array(32).fill(1), new Uint8Array(32).fill(2)];
  const { roots } = await sealRoots(new Uint8Array(32), k0, k1);
  for (const key of roots) assert.equal(key.extractable, false);
  assert.ok([...k0, ...k1].every((byte) => byte === 0));
});

test("preludes and what stands for a signature's hash", () => {
  for (const { session_id, number, prelude_hex, prelude_b64, hash_hex } of preludes.preludes) {
    const prelude = concat(uuidBytes(session_id), bytes(BigInt(number).toString(16).padStart(16, "0")));
    assert.equal(hex(prelude), prelude_hex);
    assert.equal(b64(prelude), prelude_b64);
    assert.equal(hex(exchangeHash(prelude)), hash_hex);
    if (Number.isSafeInteger(Number(number))) {
      assert.equal(hex(concat(uuidBytes(session_id), u64(Number(number)))), prelude_hex);
    }
  }
  for (const { prelude_hex, head_hex, query } of preludes.queries) {
    assert.equal(`relay-exchange=${b64(bytes(prelude_hex + head_hex))}`, query);
  }
});

test("heads of requests", () => {
  for (const { method, target, websocket, headers_hex } of requestHeads.good) {
    const headers = headers_hex.map(([name = "", value = ""]): [string, string] => [
      name,
      Buffer.from(value, "hex").toString("latin1"),
    ]);
    const made = JSON.parse(Buffer.from(requestHead(method, target, headers, websocket)).toString());
    assert.deepEqual(made, { ...(websocket ? { websocket } : {}), method, target, headers });
  }
});

const keysOf = async (from: {
  handshake_hash_hex: string;
  key_to_agent_hex: string;
  key_to_browser_hex: string;
}) => sealRoots(bytes(from.handshake_hash_hex), bytes(from.key_to_agent_hex), bytes(from.key_to_browser_hex));

test("keys of records", async () => {
  const keys = await keysOf(recordKey);
  for (const { session_id, number, direction, epoch, key_hex } of recordKey.cases) {
    // Senders get to an epoch step by step.
    if (epoch > 3) continue;
    const prelude = concat(uuidBytes(session_id), bytes(BigInt(number).toString(16).padStart(16, "0")));
    // A new key with each record leads to the epoch.
    const sender = new RecordSender(
      new SealedSealer(keys, prelude, direction, { records: 1, age: Number.MAX_VALUE }),
    );
    let record = await sender.make(RecordType.END, new Uint8Array());
    for (let i = 0; i < epoch; i++) record = await sender.make(RecordType.END, new Uint8Array());
    const nonce = Buffer.alloc(12);
    nonce.writeBigUInt64BE(BigInt(epoch), 4);
    const cipher = createCipheriv("aes-256-gcm", bytes(key_hex), nonce);
    cipher.setAAD(bytes(epoch === 0 ? "0000000003" : "0000000083"));
    cipher.final();
    assert.equal(hex(record.subarray(5)), cipher.getAuthTag().toString("hex"));
  }
});

test("sealed records are made and opened, in both directions and over changes of the key", async () => {
  const keys = await keysOf(recordSealed);
  for (const { prelude_hex, to_agent, to_browser } of recordSealed.exchanges) {
    const prelude = bytes(prelude_hex);
    for (const [direction, list] of [
      [TO_AGENT, to_agent],
      [TO_BROWSER, to_browser],
    ] as const) {
      const limits: KeyLimits = { records: Number.MAX_VALUE, age: Number.MAX_VALUE };
      const sender = new RecordSender(new SealedSealer(keys, prelude, direction, limits));
      const opener = new RecordOpener(new SealedUnsealer(keys, prelude, direction));
      for (const { type, next_epoch, payload_hex, record_hex } of list) {
        limits.records = next_epoch ? 0 : Number.MAX_VALUE;
        assert.equal(hex(await sender.make(type as RecordType, bytes(payload_hex))), record_hex);
        assert.deepEqual(await opener.open(bytes(record_hex)), { type, payload: bytes(payload_hex) });
      }
    }
  }
});

for (const { name, stream_hex, expect } of recordSealed.streams) {
  test(`a sealed stream: ${name}`, async () => {
    const wanted = ["ok", "truncated", "error_record"].includes(expect) ? expect : "tampered";
    const keys = await keysOf(recordSealed);
    const stream = bytes(stream_hex);
    for (const piece of [1, 7, 64, stream.length + 1]) {
      const unsealer = new SealedUnsealer(keys, bytes(recordSealed.streams_prelude_hex));
      const verdict = await verdictOn(stream, piece, new RecordOpener(unsealer));
      if (name === "bytes after END") assert.ok(["truncated", "tampered"].includes(verdict), verdict);
      else assert.equal(verdict, wanted, `in pieces of ${piece}`);
    }
  });
}

test("too many records under one key are refused, and a sender changes its key before", async () => {
  const keys = await keysOf(recordSealed);
  const prelude = bytes(recordSealed.streams_prelude_hex);
  const data = () => new Uint8Array([1]);
  const send = (limits: KeyLimits) => new RecordSender(new SealedSealer(keys, prelude, TO_BROWSER, limits));
  const open = () => new RecordOpener(new SealedUnsealer(keys, prelude, TO_BROWSER, { records: 3 }));
  const polite = send({ records: 3, age: Number.MAX_VALUE });
  const opener = open();
  for (let i = 0; i < 10; i++) {
    const record = await polite.make(RecordType.DATA, data());
    assert.equal((record[4] ?? 0) >= 0x80, i > 0 && i % 3 === 0);
    await opener.open(record);
  }
  const greedy = send({ records: 4, age: Number.MAX_VALUE });
  const strict = open();
  for (let i = 0; i < 3; i++) await strict.open(await greedy.make(RecordType.DATA, data()));
  await assert.rejects(
    strict.open(await greedy.make(RecordType.DATA, data())),
    (error) => error instanceof RelayError && error.code === "tampered",
  );
  // An hour is a matter of the sender's alone.
  const old = send({ records: 3, age: 0 });
  assert.equal((await old.make(RecordType.DATA, data()))[4], 0x80 | RecordType.DATA);
});

test("an exchange in the signed form", async () => {
  const context = {
    sessionId: exchangeSigned.session_id,
    requestHash: exchangeHash(bytes(exchangeSigned.prelude_hex)),
  };
  assert.equal(hex(context.requestHash), exchangeSigned.request_hash_hex);
  const sender = new RecordSender(new RecordSigner(context, await ed25519(exchangeSigned.browser_seed_hex)));
  for (const { type, payload_hex, record_hex } of exchangeSigned.to_agent) {
    assert.equal(hex(await sender.make(type as RecordType, bytes(payload_hex))), record_hex);
  }
  const verifier = new RecordVerifier(context, await verifying(exchangeSigned.agent_public_hex));
  const opener = new RecordOpener(verifier);
  for (const { type, payload_hex, record_hex } of exchangeSigned.to_browser) {
    assert.deepEqual(await opener.open(bytes(record_hex)), { type, payload: bytes(payload_hex) });
  }
  const marked = bytes(exchangeSigned.marked_stream_hex);
  assert.equal(await verdictOn(marked, marked.length, new RecordOpener(verifier)), "tampered");
});

/** What the browser makes of an answer in one piece to its exchange. */
async function received(status: number, list: string[][], body: string): Promise<string> {
  const headers = new Headers(list.map(([name = "", value = ""]): [string, string] => [name, value]));
  if (!claimsSignature(headers)) return "unsigned";
  const asked = { method: "POST", target: "/_relay/exchange", exchange: refusals.prelude_b64 };
  const covered = coveredAnswer(status, headers, asked, refusals.host_id);
  if (covered === undefined || !digestFits(covered.digest, utf8(body))) return "refused";
  const key = await verifying(refusals.public_hex);
  const fits = await crypto.subtle.verify("Ed25519", key, covered.signature, covered.base);
  return fits && status >= 400 ? "ok" : "refused";
}

for (const { name, status, headers, body, base } of refusals.signed) {
  test(`a signed refusal is believed: ${name}`, async () => {
    assert.equal(await received(status, headers, body), "ok");
    const platform = new Headers(headers.map(([key = "", value = ""]): [string, string] => [key, value]));
    const asked = { method: "POST", target: "/_relay/exchange", exchange: refusals.prelude_b64 };
    const covered = coveredAnswer(status, platform, asked, refusals.host_id);
    assert.equal(Buffer.from(covered?.base ?? []).toString("latin1"), base);
  });
}

for (const { name, status, headers, body, expect } of refusals.received) {
  test(`a refusal that is ${expect}: ${name}`, async () => {
    const verdict = await received(status, headers, body);
    if (expect === "ok" || expect === "unsigned") assert.equal(verdict, expect);
    else assert.notEqual(verdict, "ok");
  });
}
