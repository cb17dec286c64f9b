/**
 * Opening a WebSocket (PROTOCOL.md sections 4.5, 5.2 and 5.3): an exchange that stays open, or over the relay in a
 * signed session an upgrade whose address carries the signature. The agent's first record says what the local
 * server answered.
 *
 * The browser tells a page nothing about an upgrade that was refused. So when one fails, a small protected
 * request asks whether a session or the clock was at fault, and if so the socket is opened once more.
 */
import { recordError } from "./body.js";
import type { Channel } from "./channel.js";
import { requestHash } from "./confirmation.js";
import { b64 } from "./encoding.js";
import { RelayError } from "./errors.js";
import { MAX_LOSSES, sealOpening } from "./exchange.js";
import { type ExchangePath, PathLost, type RecordSocket } from "./path.js";
import { readHead } from "./payload.js";
import { type RecordOpener, RecordSender, RecordType } from "./record.js";
import { RecordSigner } from "./record-signed.js";
import { RelaySocket } from "./relaypath.js";
import { type Component, splitTarget } from "./signature.js";
import { abortable } from "./waiting.js";

/** Any protected request would do; this one is small and changes nothing. */
const QUESTION = "/_relay/browsers";

/** A socket that the local server has accepted. */
export interface Opened {
  /** What has come after HEAD already, and what comes later. */
  socket: RecordSocket;
  sender: RecordSender;
  opener: RecordOpener;
  protocol: string;
}

/** Everything but the unreserved characters of RFC 3986 as `%XX`. */
function percent(text: string): string {
  const hexed = (mark: string) => `%${mark.charCodeAt(0).toString(16).toUpperCase()}`;
  return encodeURIComponent(text).replace(/[!'()*]/g, hexed);
}

/** The address of a signed upgrade below the host's prefix. */
export function signedTarget(target: string, input: string, signature: Uint8Array): string {
  const first = target.includes("?") ? "&" : "?";
  return `${target}${first}relay-signature-input=${percent(input)}&relay-signature=${b64(signature)}`;
}

/** What is protected and can be sent, again as well: the very same bytes are accepted at most once. */
interface Prepared {
  send(signal: AbortSignal): Promise<RecordSocket>;
  /** Over another path than the one that was lost, where there is one. */
  elsewhere(): boolean;
  sender: RecordSender;
  opener: RecordOpener;
}

async function prepareSigned(
  channel: Channel,
  target: string,
  protocols: readonly string[],
  signal: AbortSignal,
): Promise<Prepared> {
  const session = await channel.sessions.get(signal);
  const [path, query] = splitTarget(target);
  const components: Component[] = [
    ["@method", "GET"],
    ["@path", path],
    ["@query", query],
  ];
  if (protocols.length > 0) components.push(["sec-websocket-protocol", protocols.join(", ")]);
  const { signature, input } = await channel.signed.sign(components, session.id, "websocket");
  const signed = { signature, keyid: session.id };
  const context = { sessionId: session.id, requestHash: requestHash(signature) };
  return {
    send: async (limited) => {
      const prefix = await channel.link.prefix(limited);
      return new RelaySocket(prefix + signedTarget(target, input, signature), protocols);
    },
    elsewhere: () => false,
    sender: new RecordSender(new RecordSigner(context, channel.pairing.signingKey)),
    opener: channel.signedOpener(signed, session),
  };
}

async function prepareExchange(
  channel: Channel,
  target: string,
  protocols: readonly string[],
  signal: AbortSignal,
): Promise<Prepared> {
  const numbered = await channel.sessions.number(signal);
  const { first, sender } = await sealOpening(numbered, target, protocols);
  let path: ExchangePath = channel.paths.choose();
  return {
    send: (limited) => path.open(first, limited),
    elsewhere: () => {
      if (path.kind === "relay") return false;
      path = channel.paths.choose(path);
      return true;
    },
    sender,
    opener: channel.exchanges.opener(numbered),
  };
}

/** One attempt; undefined when the path was lost, or the upgrade itself failed for reasons that a page is not told. */
async function attempt(
  { send, sender, opener }: Prepared,
  protocols: readonly string[],
  signal: AbortSignal,
): Promise<Opened | undefined> {
  let socket: RecordSocket;
  try {
    socket = await send(signal);
  } catch (cause) {
    if (cause instanceof PathLost) return undefined;
    throw cause;
  }
  try {
    const message = await abortable(socket.next(), signal);
    if (message === undefined) return undefined;
    const first = await opener.open(message);
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
    return { socket, sender, opener, protocol };
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
  signal: AbortSignal,
): Promise<Opened> {
  const prepare = () => {
    const bySignature = channel.protection === "signed" && channel.paths.choose().kind === "relay";
    return (bySignature ? prepareSigned : prepareExchange)(channel, target, protocols, signal);
  };
  await channel.sessions.get(signal);
  const { epoch } = channel;
  let prepared = await prepare();
  for (let losses = 0; losses <= MAX_LOSSES; losses++) {
    const opened = await attempt(prepared, protocols, signal);
    if (opened !== undefined) return opened;
    if (!prepared.elsewhere()) break;
  }
  const prefix = await channel.link.prefix(signal);
  await channel.call("GET", QUESTION, 200, undefined, signal);
  const renewed = channel.epoch !== epoch;
  if (renewed) prepared = await prepare();
  else if ((await channel.link.prefix(signal)) === prefix) throw refused();
  // Under an unchanged session these are the very same bytes.
  const again = await attempt(prepared, protocols, signal);
  if (again === undefined) throw refused();
  return again;
}

function refused(): RelayError {
  return new RelayError("network_error", { detail: "The WebSocket could not be opened." });
}
