/**
 * Opening a signed WebSocket (PROTOCOL.md section 4.5): the upgrade's address carries the signature,
 * and the agent's first record says what the local server answered.
 *
 * The browser tells a page nothing about an upgrade that was refused. So when one fails, a small signed
 * request asks whether a session or the clock was at fault, and if so the socket is opened once more.
 */
import { recordError } from "./body.js";
import type { Channel } from "./channel.js";
import { b64 } from "./encoding.js";
import { RelayError } from "./errors.js";
import { readHead } from "./payload.js";
import { RecordSigner, RecordType, type RecordVerifier } from "./record.js";
import { type Component, splitTarget } from "./signature.js";
import { abortable } from "./waiting.js";

/** Any signed request would do; this one is small and changes nothing. */
const QUESTION = "/_relay/browsers";

/** A socket that the local server has accepted. */
export interface Opened {
  socket: WebSocket;
  /** What has come after HEAD already, and what comes later. */
  inbox: Inbox;
  signer: RecordSigner;
  verifier: RecordVerifier;
  protocol: string;
}

/** Where messages go as they come. Before somebody listens they are kept, within the given limit. */
export class Inbox {
  #held: Uint8Array<ArrayBuffer>[] = [];
  #bytes = 0;
  #closed = false;
  #wake: (() => void) | undefined;
  /** Set when something came that cannot be a record. */
  #foul = false;

  constructor(
    socket: WebSocket,
    readonly limit: number,
  ) {
    socket.addEventListener("message", ({ data }) => {
      if (data instanceof ArrayBuffer && !this.#foul) {
        this.#held.push(new Uint8Array(data));
        this.#bytes += data.byteLength;
      }
      if (!(data instanceof ArrayBuffer) || this.#bytes > this.limit) {
        this.#foul = true;
        socket.close();
      }
      this.#notify();
    });
    socket.addEventListener("close", () => {
      this.#closed = true;
      this.#notify();
    });
  }

  #notify(): void {
    this.#wake?.();
    this.#wake = undefined;
  }

  /** The next message, or undefined when the socket has ended. One caller at a time. */
  async next(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    for (;;) {
      const message = this.#held.shift();
      if (message !== undefined) {
        this.#bytes -= message.length;
        return message;
      }
      if (this.#foul)
        throw new RelayError("tampered", { detail: "Something came that is no record, or too much of it." });
      if (this.#closed) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** Everything but the unreserved characters of RFC 3986 as `%XX`. */
function percent(text: string): string {
  const hexed = (mark: string) => `%${mark.charCodeAt(0).toString(16).toUpperCase()}`;
  return encodeURIComponent(text).replace(/[!'()*]/g, hexed);
}

/** The address of an upgrade below the host's prefix. */
export function signedTarget(target: string, input: string, signature: Uint8Array): string {
  const first = target.includes("?") ? "&" : "?";
  return `${target}${first}relay-signature-input=${percent(input)}&relay-signature=${b64(signature)}`;
}

interface SignedUpgrade {
  target: string;
  signature: Uint8Array;
  keyid: string;
  created: number;
}

async function signUpgrade(
  channel: Channel,
  target: string,
  protocols: readonly string[],
  signal: AbortSignal,
): Promise<SignedUpgrade> {
  const session = await channel.session(signal);
  const [path, query] = splitTarget(target);
  const components: Component[] = [
    ["@method", "GET"],
    ["@path", path],
    ["@query", query],
  ];
  if (protocols.length > 0) components.push(["sec-websocket-protocol", protocols.join(", ")]);
  const { signature, input, created } = await channel.sign(components, session.id, "websocket");
  return { target: signedTarget(target, input, signature), signature, keyid: session.id, created };
}

/** One attempt; undefined when the upgrade itself failed, for reasons that a page is not told. */
async function attempt(
  channel: Channel,
  prefix: string,
  signed: SignedUpgrade,
  protocols: readonly string[],
  limit: number,
  signal: AbortSignal,
): Promise<Opened | undefined> {
  const url = prefix.replace(/^http/, "ws") + signed.target;
  if (new URL(url).href !== url) throw new TypeError("the path would leave the host's prefix");
  const socket = new WebSocket(url, [...protocols]);
  socket.binaryType = "arraybuffer";
  const inbox = new Inbox(socket, limit);
  // A failure shows as the end of the inbox.
  socket.addEventListener("error", () => undefined);
  try {
    const context = channel.recordContext(signed);
    const verifier = channel.verifier(signed);
    const message = await abortable(inbox.next(), signal);
    if (message === undefined) return undefined;
    const first = await verifier.verify(message);
    if (first.type === RecordType.ERROR) throw recordError(first);
    if (first.type !== RecordType.HEAD)
      throw new RelayError("tampered", { detail: "The answer has no head." });
    const { status, headers } = readHead(first.payload);
    if (status !== 101) {
      const detail = `The local server answered the WebSocket with status ${status}.`;
      throw new RelayError("websocket_refused", { status, verified: true, detail });
    }
    const protocol = headers.get("sec-websocket-protocol") ?? "";
    if (protocol !== "" && !protocols.includes(protocol)) {
      throw new RelayError("bad_answer", {
        verified: true,
        detail: "The local server chose a protocol nobody asked for.",
      });
    }
    return {
      socket,
      inbox,
      signer: new RecordSigner(context, channel.pairing.signingKey),
      verifier,
      protocol,
    };
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** Opens a WebSocket. @throws RelayError */
export async function openSocket(
  channel: Channel,
  target: string,
  protocols: readonly string[],
  limit: number,
  signal: AbortSignal,
): Promise<Opened> {
  await channel.session(signal);
  const { epoch } = channel;
  let signed = await signUpgrade(channel, target, protocols, signal);
  const prefix = await channel.link.prefix(signal);
  const opened = await attempt(channel, prefix, signed, protocols, limit, signal);
  if (opened !== undefined) return opened;

  await channel.call("GET", QUESTION, 200, undefined, signal);
  const newPrefix = await channel.link.prefix(signal);
  if (channel.epoch !== epoch) {
    signed = await signUpgrade(channel, target, protocols, signal);
  } else if (newPrefix === prefix) {
    throw refused();
  }
  // Under an unchanged session this is the very same signature: it is accepted at most once.
  const again = await attempt(channel, newPrefix, signed, protocols, limit, signal);
  if (again === undefined) throw refused();
  return again;
}

function refused(): RelayError {
  return new RelayError("network_error", { detail: "The WebSocket could not be opened." });
}
