/**
 * Runs inside a page of {@link ../peer-chromium.test.ts}: the SDK's paths, and an agent whose connection is
 * another one of this page. Offer, answer, candidates, DTLS and SCTP are Chromium's own.
 */
import type { Answered, ExchangePath, PathHost } from "../../src/path.js";
import { Paths } from "../../src/paths.js";
import type { Json } from "../../src/problem.js";
import { type ServerStream, YamuxServer } from "./yamux-server.js";

const forever = new AbortController().signal;
/** What an SCTP stack takes at once; the server's own backpressure. */
const FULL = 1024 * 1024;

/** The agent's end of one connection. */
class Remote {
  readonly connection = new RTCPeerConnection();
  channel: RTCDataChannel | undefined;
  server: YamuxServer | undefined;
  #queue: Uint8Array<ArrayBuffer>[] = [];

  async answer(offer: string): Promise<string> {
    this.connection.addEventListener("datachannel", ({ channel }) => this.#begin(channel));
    await this.connection.setRemoteDescription({ type: "offer", sdp: offer });
    await this.connection.setLocalDescription(await this.connection.createAnswer());
    await new Promise<void>((resolve) => {
      const look = () => {
        if (this.connection.iceGatheringState === "complete") resolve();
      };
      this.connection.addEventListener("icegatheringstatechange", look);
      look();
    });
    return this.connection.localDescription?.sdp ?? "";
  }

  #begin(channel: RTCDataChannel): void {
    if (channel.label !== "relay" || channel.protocol !== "relay.peer.v1" || !channel.ordered) {
      throw new Error("another channel");
    }
    this.channel = channel;
    channel.binaryType = "arraybuffer";
    channel.bufferedAmountLowThreshold = FULL / 4;
    const server = new YamuxServer((bytes) => {
      this.#queue.push(bytes);
      this.#flush();
    });
    server.onstream = serve;
    this.server = server;
    channel.addEventListener("message", ({ data }) => server.receive(new Uint8Array(data)));
    channel.addEventListener("bufferedamountlow", () => this.#flush());
  }

  #flush(): void {
    const { channel } = this;
    while (channel?.readyState === "open" && channel.bufferedAmount < FULL) {
      const bytes = this.#queue.shift();
      if (bytes === undefined) return;
      channel.send(bytes);
    }
  }
}

/** What the first four bytes of a stream ask for. */
const ASK = { echo: 1, hold: 2, flood: 3 };

function ask(what: keyof typeof ASK, size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, ASK[what]);
  view.setUint32(4, size);
  return bytes;
}

/** Echoes so many bytes, keeps the stream, or sends so many zeros. */
function serve(stream: ServerStream): void {
  let head = new Uint8Array();
  let left = 0;
  stream.ondata = (payload) => {
    let rest = payload;
    if (head.length < 8) {
      head = new Uint8Array([...head, ...rest.subarray(0, 8 - head.length)]);
      rest = payload.subarray(8);
      if (head.length < 8) return;
      const view = new DataView(head.buffer);
      left = view.getUint32(4);
      if (view.getUint32(0) === ASK.flood) {
        stream.write(new Uint8Array(left));
        stream.end();
        left = -1;
      }
    }
    if (left < 0) return;
    left -= rest.length;
    stream.write(rest);
    if (left === 0) stream.end();
  };
}

const relay: ExchangePath = {
  kind: "relay",
  send: async () => ({ kind: "records", body: new Blob(["relay"]).stream() }),
  open: async () => {
    throw new Error("not here");
  },
};

let remote = new Remote();
const host: PathHost = {
  link: {
    base: "https://relay.example",
    ask: async () => ({ ice_servers: [] }),
  } as unknown as PathHost["link"],
  features: new Set(["exchange", "webrtc"]),
  call: async (method: string, _target: string, _wanted: number, body?: Json) => {
    if (method !== "POST") return { json: undefined };
    if (body?.["peer_id"] === undefined) remote = new Remote();
    const sdp = await remote.answer(String(body?.["sdp"]));
    return { json: { v: 1, peer_id: "0d1f0c57-3b4e-4a7f-9e38-0a4b4c5d6e7f", sdp } };
  },
};
const waiters = new Set<() => void>();
const paths = new Paths(relay, host, {
  onchange: () => {
    for (const wake of waiters) wake();
  },
});

/** Waits for a kind of path. */
async function until(kind: string): Promise<string> {
  while (paths.report.kind !== kind) {
    await new Promise<void>((resolve) => {
      const wake = () => {
        waiters.delete(wake);
        resolve();
      };
      waiters.add(wake);
    });
  }
  return paths.report.kind;
}

async function sha(bytes: ArrayBuffer | Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function noise(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}

function whole(answered: Answered): Promise<ArrayBuffer> {
  if (answered.kind !== "records") throw new Error("no records");
  return new Response(answered.body).arrayBuffer();
}

async function echo(size: number): Promise<{ sent: string; got: string; seconds: number }> {
  const body = noise(size);
  const begun = performance.now();
  const got = await whole(await paths.choose().send(new Blob([ask("echo", size), body]), forever));
  const seconds = (performance.now() - begun) / 1000;
  return { sent: await sha(body), got: await sha(got), seconds };
}

/** Makes a direct connection, and then does the things that the test wants. */
const bench = {
  connect: async () => {
    paths.succeeded();
    return until("webrtc");
  },
  report: () => paths.report,
  echo,
  /** How many of so many small requests at once came back right. */
  many: async (count: number) => {
    const all = await Promise.all(Array.from({ length: count }, () => echo(1000)));
    return all.filter(({ sent, got }) => sent === got).length;
  },
  /** How many records of growing size came back over one socket. */
  socket: async (records: number) => {
    const first = new Uint8Array(24 + 5 + 16);
    first.set(ask("hold", 2 ** 32 - 1));
    const socket = await paths.choose().open(first, forever);
    let right = 0;
    // What comes back of it behind the eight bytes that ask, 37 zeros, are an empty record and the begin of another.
    await socket.next();
    await socket.send(new Uint8Array(5));
    await socket.next();
    for (let at = 0; at < records; at++) {
      const record = new Uint8Array(5 + at * 5000 + 16);
      new DataView(record.buffer).setUint32(0, at * 5000);
      record[4] = 6;
      record.fill(at, 5);
      await socket.send(record);
      const back = await socket.next();
      if (back !== undefined && (await sha(back)) === (await sha(record))) right += 1;
    }
    socket.close();
    return right;
  },
  /** Small requests while a bulk upload is echoed: how long each took, in milliseconds, and whether all is right. */
  beside: async (size: number) => {
    const bulk = echo(size);
    let done = false;
    void bulk.then(() => {
      done = true;
    });
    const small: number[] = [];
    while (!done) {
      const { sent, got, seconds } = await echo(100);
      if (sent !== got) throw new Error("a small one came back wrong");
      small.push(seconds * 1000);
    }
    const { sent, got } = await bulk;
    return { small, bulk: sent === got ? "right" : "wrong" };
  },
  /** An answer of 16 MiB that nobody reads: what the agent could get rid of, and then all of it. */
  slow: async () => {
    const size = 16 * 1024 * 1024;
    const answered = await paths.choose().send(new Blob([ask("flood", size)]), forever);
    const others = await echo(100_000);
    if (others.sent !== others.got) throw new Error("others were disturbed");
    const stream = [...(remote.server?.streams.values() ?? [])][0];
    const room = stream?.room ?? -1;
    return { room, got: (await whole(answered)).byteLength };
  },
  /** What the agent's end may do of a sudden; answers the path that is used then. */
  remote: async (what: "away" | "garbage" | "close" | "text") => {
    if (what === "away") remote.channel?.send(new Uint8Array([0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    if (what === "garbage") remote.channel?.send(noise(5000));
    if (what === "text") remote.channel?.send("text");
    if (what === "close") remote.channel?.close();
    return until("relay");
  },
  again: async () => until("webrtc"),
};

export type Bench = typeof bench;
Object.assign(globalThis, { bench });
