import assert from "node:assert/strict";
import { once } from "node:events";
import { RelayError } from "../src/index.js";
import { eachForm as test, withHost } from "./support/browser.js";
import type { LocalSocket, Relay } from "./support/relay.js";

const [TEXT, BINARY, PING, PONG, CLOSE] = [5, 6, 7, 8, 9];

/** A local server that answers every message with itself. */
function echo(relay: Relay, protocol?: string): LocalSocket[] {
  const sockets: LocalSocket[] = [];
  relay.socket = (socket) => {
    sockets.push(socket);
    socket.receive = (type, payload) => socket.send(type, payload);
    return protocol === undefined ? { status: 101 } : { status: 101, protocol };
  };
  return sockets;
}

interface Closed {
  code: number;
  reason: string;
  wasClean: boolean;
  error: unknown;
}

/** What the socket's end looks like. */
function closed(socket: WebSocket): Promise<Closed> {
  let error: unknown;
  socket.addEventListener("error", (event) => {
    error = (event as Event & { error?: unknown }).error;
  });
  return new Promise((resolve) => {
    socket.addEventListener("close", ({ code, reason, wasClean }) =>
      resolve({ code, reason, wasClean, error }),
    );
  });
}

const opened = (socket: WebSocket) => once(socket, "open");

async function message(socket: WebSocket): Promise<unknown> {
  const [event] = (await once(socket, "message")) as [MessageEvent];
  return event.data;
}

test("messages of every kind go both ways, in order, to the path and query that were meant", async () => {
  await withHost(async (host, { relay }) => {
    const [sockets] = [echo(relay, "chat")];
    const socket = host.webSocket("/ws?room=1", "chat");
    assert.equal(socket.readyState, WebSocket.CONNECTING);
    assert.throws(() => socket.send("early"), { name: "InvalidStateError" });
    await opened(socket);
    assert.equal(socket.readyState, WebSocket.OPEN);
    assert.equal(socket.protocol, "chat");
    assert.equal(sockets[0]?.request.target, "/ws?room=1");
    socket.send("grüße");
    assert.equal(await message(socket), "grüße");
    socket.binaryType = "arraybuffer";
    socket.send(new Uint8Array([9, 1, 2]).subarray(1));
    assert.deepEqual(new Uint8Array((await message(socket)) as ArrayBuffer), new Uint8Array([1, 2]));
    socket.binaryType = "blob";
    socket.send(new Blob(["blob"]));
    assert.equal(await ((await message(socket)) as Blob).text(), "blob");
    const came: unknown[] = [];
    const all = new Promise<void>((resolve) => {
      socket.onmessage = ({ data }) => {
        came.push(data);
        if (came.length === 50) resolve();
      };
    });
    for (let i = 0; i < 50; i++) socket.send(String(i));
    assert.ok(socket.bufferedAmount > 0);
    await all;
    assert.deepEqual(
      came,
      Array.from({ length: 50 }, (_, i) => String(i)),
    );
    assert.equal(socket.bufferedAmount, 0);
    const end = closed(socket);
    socket.close(4001, "done");
    assert.deepEqual(await end, { code: 4001, reason: "done", wasClean: true, error: undefined });
    assert.equal(socket.readyState, WebSocket.CLOSED);
    await sockets[0]?.ended;
  });
});

test("a close of the local server is answered, and its code told", async () => {
  await withHost(async (host, { relay }) => {
    const sockets = echo(relay);
    const socket = host.webSocket("/ws");
    await opened(socket);
    const answered = new Promise<number>((resolve) => {
      const local = sockets[0];
      if (local !== undefined) local.receive = (type) => resolve(type);
    });
    sockets[0]?.send(PING ?? 0, Buffer.from("are you there"));
    assert.equal(await answered, PONG);
    const end = closed(socket);
    const echoed = new Promise<string>((resolve) => {
      const local = sockets[0];
      if (local !== undefined)
        local.receive = (type, payload) => resolve(`${type} ${payload.toString("hex")}`);
    });
    sockets[0]?.send(CLOSE ?? 0, Buffer.from("03e9627965", "hex"));
    assert.deepEqual(await end, { code: 1001, reason: "bye", wasClean: true, error: undefined });
    assert.equal(await echoed, `${CLOSE} 03e9627965`);
  });
});

test("an end without a CLOSE is abnormal", async () => {
  await withHost(async (host, { relay }) => {
    const sockets = echo(relay);
    const socket = host.webSocket("/ws");
    await opened(socket);
    const end = closed(socket);
    sockets[0]?.cut();
    const { code, wasClean } = await end;
    assert.deepEqual({ code, wasClean }, { code: 1006, wasClean: false });
  });
});

test("a local server that refuses the upgrade is told as an error with its status", async () => {
  await withHost(async (host, { relay }) => {
    relay.socket = () => ({ status: 403 });
    const { code, error } = await closed(host.webSocket("/ws"));
    assert.equal(code, 1006);
    assert.ok(error instanceof RelayError && error.code === "websocket_refused" && error.status === 403);
  });
});

test("sessions that ended and clocks that jumped are found out, and the socket opens", async () => {
  await withHost(async (host, { relay }) => {
    echo(relay);
    const spoil = [
      () => relay.sessions.clear(),
      () => relay.agent.sessions.clear(),
      () => {
        relay.agent.ahead += 3000;
      },
    ];
    for (const harm of spoil) {
      await host.browsers().list();
      harm();
      const socket = host.webSocket("/ws");
      await opened(socket);
      socket.send("in");
      assert.equal(await message(socket), "in");
      const end = closed(socket);
      socket.close();
      assert.equal((await end).wasClean, true);
    }
  });
});

test("an upgrade that fails for other reasons is tried once", async () => {
  await withHost(async (host, { relay }) => {
    let tried = 0;
    relay.hostile.request = (request) => {
      const sealed = request.target.startsWith("/_relay/exchange?");
      if (!sealed && !request.target.startsWith("/ws")) return request;
      tried += 1;
      // The last of the base64url carries bits of the last byte.
      const target = sealed ? `${request.target.slice(0, -3)}AAA` : `/evil${request.target}`;
      return { ...request, target };
    };
    echo(relay);
    const { error } = await closed(host.webSocket("/ws"));
    assert.ok(error instanceof RelayError && error.code === "network_error");
    assert.equal(tried, 1);
  });
});

test("a revoked browser is told so when it opens a socket", async () => {
  await withHost(async (host, { relay }) => {
    echo(relay);
    await host.browsers().list();
    relay.agent.revoke(host.clientId);
    const { error } = await closed(host.webSocket("/ws"));
    assert.ok(error instanceof RelayError && error.code === "not_paired" && error.verified);
  });
});

test("what the platform's socket refuses, this one refuses", async () => {
  await withHost(async (host, { relay }) => {
    echo(relay);
    assert.throws(() => host.webSocket("/ws", ["a", "a"]), { name: "SyntaxError" });
    assert.throws(() => host.webSocket("/ws", "no token"), { name: "SyntaxError" });
    const socket = host.webSocket("/ws");
    assert.throws(() => socket.close(1001), { name: "InvalidAccessError" });
    assert.throws(() => socket.close(1000, "x".repeat(124)), { name: "SyntaxError" });
    await opened(socket);
    assert.throws(() => socket.send(new Uint8Array(4 * 1024 * 1024 + 1)), RangeError);
    const end = closed(socket);
    host.close();
    const { error, wasClean } = await end;
    assert.ok(error instanceof RelayError && error.code === "closed");
    assert.equal(wasClean, false);
    socket.send("into the void");
  });
});

test("a socket that is closed before it is open never opens", async () => {
  await withHost(async (host, { relay }) => {
    echo(relay);
    const socket = host.webSocket("/ws");
    const end = closed(socket);
    socket.close();
    assert.equal((await end).code, 1006);
    assert.equal(socket.readyState, WebSocket.CLOSED);
  });
});

const flip = (bytes: Buffer, at: number) => {
  const copy = Buffer.from(bytes);
  const place = at < 0 ? copy.length + at : at;
  copy[place] = (copy[place] ?? 0) ^ 1;
  return copy;
};

let held: Buffer | undefined;
const SWAP = (data: Buffer): Buffer[] => {
  if (held === undefined) {
    held = data;
    return [];
  }
  const first = held;
  held = undefined;
  return [data, first];
};

const HARMS: [string, (data: Buffer) => Buffer[]][] = [
  ["altered in its length", (data) => [flip(data, 3)]],
  ["altered in its type", (data) => [flip(data, 4)]],
  ["altered in its payload", (data) => [flip(data, 5)]],
  ["altered in its signature", (data) => [flip(data, -1)]],
  ["cut", (data) => [data.subarray(0, -1)]],
  ["longer", (data) => [Buffer.concat([data, Buffer.alloc(1)])]],
  ["repeated", (data) => [data, data]],
  ["swapped with the next", SWAP],
  ["replaced by nothing", () => [Buffer.alloc(0)]],
  ["joined to itself", (data) => [Buffer.concat([data, data])]],
];

for (const [name, harm] of HARMS) {
  for (const toAgent of [false, true]) {
    test(`a message to the ${toAgent ? "agent" : "browser"} that is ${name} ends the socket and is not believed`, async () => {
      await withHost(async (host, { relay }) => {
        held = undefined;
        const local: string[] = [];
        let peer: LocalSocket | undefined;
        relay.socket = (socket) => {
          peer = socket;
          socket.receive = (type, payload) => {
            if (type === TEXT || type === BINARY) local.push(payload.toString());
          };
          return { status: 101 };
        };
        const socket = host.webSocket("/ws");
        const came: unknown[] = [];
        socket.onmessage = ({ data }) => came.push(data);
        const end = closed(socket);
        await opened(socket);
        relay.hostile.message = (data, direction) => (direction === toAgent ? harm(data) : [data]);
        for (const text of ["one", "two"]) {
          if (toAgent) socket.send(text);
          else peer?.send(TEXT ?? 0, Buffer.from(text));
        }
        const { code, error } = await end;
        assert.equal(code, 1006);
        if (!toAgent) assert.ok(error instanceof RelayError && error.code === "tampered", String(error));
        await peer?.ended;
        const believed = toAgent ? local : came;
        assert.ok(believed.length <= 1 && believed.every((text) => text === "one"), JSON.stringify(believed));
      });
    });
  }
}

test("a message left out is noticed with the next one", async () => {
  await withHost(async (host, { relay }) => {
    const sockets = echo(relay);
    const socket = host.webSocket("/ws");
    const came: unknown[] = [];
    socket.onmessage = ({ data }) => came.push(data);
    const end = closed(socket);
    await opened(socket);
    let first = true;
    relay.hostile.message = (data, toAgent) => {
      if (toAgent || !first) return [data];
      first = false;
      return [];
    };
    sockets[0]?.send(TEXT ?? 0, Buffer.from("one"));
    sockets[0]?.send(TEXT ?? 0, Buffer.from("two"));
    const { error } = await end;
    assert.ok(error instanceof RelayError && error.code === "tampered");
    assert.deepEqual(came, []);
  });
});
