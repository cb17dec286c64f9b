/**
 * The portal with a host that lives inside the page, put in at the SDK's seam. It shows every state of
 * the pages, those too that a real host seldom gives; the real SDK against a real agent is tested elsewhere.
 *
 * Codes: 111111 is wrong, 222222 expired, 333333 not open, 444444 finds the host offline, 555555 is
 * answered by somebody else, 666666 is refused for some other reason, 777777 meets an agent
 * that does not know pairing, 888888 loses the answer to its proof; every other one pairs.
 */
import { Api } from "../portal/api.js";
import { start } from "../portal/app.js";
import type { Paired, Sdk } from "../portal/sdk.js";
import { RelayError } from "../src/errors.js";
import type { PairedBrowser, PairedHostInfo } from "../src/types.js";

const FINGERPRINT = "3f2a 91bc 07de 55a1";
const now = () => Math.floor(Date.now() / 1000);
const signed = { verified: true };

const REFUSALS: Record<string, RelayError> = {
  "111111": new RelayError("pairing_failed", { status: 401 }),
  "222222": new RelayError("pairing_expired", { status: 410 }),
  "333333": new RelayError("pairing_not_open", { status: 409 }),
  "444444": new RelayError("host_offline", { status: 503, retryAfter: 5 }),
  "555555": new RelayError("pairing_failed"),
  "777777": new RelayError("not_found", { status: 404 }),
  "888888": new RelayError("network_error", { codeUsed: true }),
  "666666": new RelayError("shared_origin_refused", { status: 403, detail: "Ask the owner." }),
};

class FakeEvents extends EventTarget {
  readonly CLOSED = 2;
  readyState = 0;
  #timer: ReturnType<typeof setInterval>;

  constructor(flood: boolean) {
    super();
    let count = 0;
    const id = flood ? "9".repeat(100_000) : "";
    this.#timer = setInterval(() => {
      if (this.readyState === 0) {
        this.readyState = 1;
        this.dispatchEvent(new Event("open"));
      }
      count += 1;
      if (flood) {
        if (count > 1) return;
        for (let data = 1; data <= 700; data += 1)
          this.dispatchEvent(new MessageEvent("message", { data: `flood ${data}`, lastEventId: id }));
        return;
      }
      const event = { data: JSON.stringify({ tick: count, note: "still here" }), lastEventId: String(count) };
      this.dispatchEvent(new MessageEvent(count % 2 === 0 ? "update" : "message", event));
    }, 40);
  }

  close() {
    this.readyState = 2;
    clearInterval(this.#timer);
  }
}

class FakeSocket extends EventTarget {
  binaryType = "blob";
  readyState = 0;
  readonly protocol: string;

  constructor(protocols: readonly string[]) {
    super();
    this.protocol = protocols[0] ?? "";
    setTimeout(() => {
      this.readyState = 1;
      this.dispatchEvent(new Event("open"));
    }, 20);
  }

  send(text: string) {
    const bytes = new TextEncoder().encode(text);
    setTimeout(() => {
      this.dispatchEvent(new MessageEvent("message", { data: `echo: ${text}` }));
      this.dispatchEvent(new MessageEvent("message", { data: bytes.buffer }));
    }, 10);
  }

  close(code = 1000) {
    this.readyState = 3;
    this.dispatchEvent(new CloseEvent("close", { code, wasClean: true }));
  }
}

function answerOf(path: string, init: RequestInit): Response {
  const headers = { "content-type": "application/json", "x-powered-by": "demo", "cache-control": "no-store" };
  if (path.startsWith("/binary")) {
    const bytes = Uint8Array.from({ length: 200 }, (_, index) => index);
    return new Response(bytes, { headers: { "content-type": "image/png" } });
  }
  if (path.startsWith("/big"))
    return new Response("x".repeat(80).concat("\n").repeat(20_000), {
      headers: { "content-type": "text/plain" },
    });
  if (path.startsWith("/endless")) {
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        let count = 0;
        const timer = setInterval(() => {
          count += 1;
          controller.enqueue(new TextEncoder().encode(`data: ${count}\n\n`));
        }, 30);
        init.signal?.addEventListener("abort", () => {
          clearInterval(timer);
          controller.error(init.signal?.reason);
        });
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }
  if (path.startsWith("/missing"))
    return new Response("There is nothing here.\n", {
      status: 404,
      statusText: "Not Found",
      headers: { "content-type": "text/plain" },
    });
  const body = {
    hello: "from the machine",
    method: init.method,
    path,
    sent: typeof init.body === "string" ? init.body : null,
    items: [1, 2, 3],
  };
  return new Response(JSON.stringify(body, null, 2), { status: 200, statusText: "OK", headers });
}

const browsers: PairedBrowser[] = [
  {
    id: crypto.randomUUID(),
    name: "Chrome on Linux",
    browser: "Chrome 156",
    os: "Linux",
    device: "desktop",
    fingerprint: FINGERPRINT,
    createdAt: now() - 90,
    lastUsedAt: now() - 2,
    current: true,
  },
  {
    id: crypto.randomUUID(),
    name: "Safari on iPhone",
    browser: "Safari 26",
    os: "iOS",
    device: "phone",
    fingerprint: "91c4 0be2 aa10 7f3d",
    createdAt: now() - 86_400 * 12,
    lastUsedAt: now() - 5400,
    current: false,
  },
];

function fakeHost(info: PairedHostInfo, forget: () => void): Paired {
  const events = new EventTarget();
  let gone = false;
  let way: Paired["path"] = { kind: "relay", sent: 0, received: 0 };
  // Some time after the request, as with a real host, so that what is announced does not meet the answer.
  const goes = (next: Paired["path"]) =>
    setTimeout(() => {
      way = next;
      events.dispatchEvent(new Event("path"));
    }, 300);
  return {
    ...info,
    get path() {
      return way;
    },
    protection: "sealed",
    addEventListener: events.addEventListener.bind(events),
    async fetch(input, init = {}) {
      const path = String(input);
      await new Promise((soon) => setTimeout(soon, 15));
      const far = { kind: "webrtc", sent: 48_213, received: 6_291_456 } as const;
      if (path.startsWith("/direct")) goes({ ...far, candidate: "host", rtt: 3.42 });
      if (path.startsWith("/turn")) goes({ ...far, candidate: "relay", rtt: 84.2, received: 7_340_032 });
      if (path.startsWith("/relayed")) goes({ kind: "relay", sent: 48_213, received: 7_340_032 });
      if (path.startsWith("/revoked")) {
        events.dispatchEvent(new Event("revoked"));
        throw new RelayError("not_paired", { status: 401, ...signed });
      }
      if (path.startsWith("/expired")) {
        gone = true;
        throw new RelayError("signing_session_expired", { status: 401, ...signed });
      }
      if (path.startsWith("/ended")) {
        gone = true;
        throw new RelayError("signing_session_ended", { status: 401, ...signed });
      }
      if (path.startsWith("/lies")) throw new RelayError("not_paired", { status: 401 });
      if (path.startsWith("/tampered")) throw new RelayError("tampered");
      if (path.startsWith("/down"))
        throw new RelayError("local_server_unreachable", {
          status: 502,
          detail: "Nothing listens on 127.0.0.1:3000.",
          ...signed,
        });
      return answerOf(path, init);
    },
    webSocket: (_path, protocols = []) => new FakeSocket([protocols].flat()) as unknown as WebSocket,
    eventSource: (path) => new FakeEvents(String(path).startsWith("/flood")) as unknown as EventSource,
    browsers: () => ({
      list: async () => {
        if (!gone) return [...browsers];
        events.dispatchEvent(new Event("revoked"));
        throw new RelayError("not_paired", { status: 401, ...signed });
      },
      rename: async (id, name) => {
        const found = browsers.find((of) => of.id === id);
        if (found === undefined) throw new RelayError("not_found", { status: 404, ...signed });
        found.name = name;
        return found;
      },
      revoke: async (id) => {
        const at = browsers.findIndex((of) => of.id === id);
        if (at < 0) throw new RelayError("not_found", { status: 404, ...signed });
        browsers.splice(at, 1);
      },
    }),
    nextDeviceCode: async () => ({ code: "904215", expiresAt: now() + 300 }),
    forget: async () => forget(),
    close: () => undefined,
  };
}

/** Pairings live in sessionStorage, so that a reload keeps them as IndexedDB would. */
const KEY = "paired";
const kept = (): PairedHostInfo[] => JSON.parse(sessionStorage.getItem(KEY) ?? "[]") as PairedHostInfo[];
const keep = (all: readonly PairedHostInfo[]) => sessionStorage.setItem(KEY, JSON.stringify(all));

const sdk: Sdk = {
  all: async () => kept(),
  open: async (hostId) => {
    const info = kept().find((of) => of.hostId === hostId);
    return info && fakeHost(info, () => keep(kept().filter((of) => of.hostId !== hostId)));
  },
  pair: async (hostId, code) => {
    await new Promise((soon) => setTimeout(soon, 30));
    const refusal = REFUSALS[code];
    if (refusal !== undefined) throw refusal;
    const info: PairedHostInfo = {
      hostId,
      relayUrl: location.origin,
      name: "workshop",
      fingerprint: FINGERPRINT,
      clientId: crypto.randomUUID(),
      pairedAt: now(),
      lastUsedAt: now(),
    };
    keep([...kept().filter((of) => of.hostId !== hostId), info]);
    return fakeHost(info, () => undefined);
  },
};

start(new Api((input, init) => fetch(input, init)), sdk);
