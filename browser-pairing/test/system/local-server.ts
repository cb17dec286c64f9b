/** The program behind the agent: does what apps do, and remembers what reached it. */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { WebSocketServer } from "ws";

/** A request as it arrived. */
export interface Arrived {
  method: string;
  target: string;
  headers: IncomingMessage["headers"];
  body: Buffer;
}

/** What `/flow` repeats: 64 KiB that differ at every offset. */
const FLOW = Buffer.from(Array.from({ length: 65_536 }, (_, at) => (at * 7 + (at >> 8)) % 251));

/** The SHA-256 of so many bytes of `/flow`, in hex. */
export function flowHash(bytes: number): string {
  const hash = createHash("sha256");
  for (let at = 0; at < bytes; at += FLOW.length) hash.update(FLOW.subarray(0, bytes - at));
  return hash.digest("hex");
}

export class LocalServer {
  readonly arrived: Arrived[] = [];
  /** Event streams that are open now. */
  streams = 0;
  /** WebSockets that are open now. */
  sockets = 0;
  /** Bytes of `/flow` that were handed to the network. */
  flowed = 0;
  readonly #held: (() => void)[] = [];
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => void this.#answer(request, response));
    const sockets = new WebSocketServer({
      server: this.#server,
      path: "/ws",
      handleProtocols: (offered) => (offered.has("echo.v1") ? "echo.v1" : false),
    });
    sockets.on("connection", (socket, request) => {
      this.sockets += 1;
      this.#remember(request, Buffer.alloc(0));
      socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
      socket.on("close", () => {
        this.sockets -= 1;
      });
      socket.on("error", () => socket.terminate());
    });
  }

  static async start(): Promise<LocalServer> {
    const local = new LocalServer();
    await new Promise<void>((resolve) => local.#server.listen(0, "127.0.0.1", resolve));
    return local;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #remember(request: IncomingMessage, body: Buffer): void {
    const { method = "", url: target = "", headers } = request;
    this.arrived.push({ method, target, headers, body });
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url ?? "/", "http://local").pathname;
    if (path === "/events") return this.#events(request, response);
    if (path === "/flow") return this.#flow(request, response);
    const pieces: Buffer[] = [];
    try {
      for await (const piece of request) pieces.push(piece as Buffer);
    } catch {
      return; // The upload broke off: there is nobody to answer.
    }
    const body = Buffer.concat(pieces);
    this.#remember(request, body);
    if (path === "/echo") {
      response.setHeader("content-type", request.headers["content-type"] ?? "application/octet-stream");
      response.setHeader("x-sha256", createHash("sha256").update(body).digest("hex"));
      response.end(body);
    } else if (path === "/big") {
      // 8 MiB that differ at every offset.
      response.setHeader("content-type", "application/octet-stream");
      response.end(
        Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => i % 251))
          .toString("hex")
          .repeat(4),
      );
    } else if (path === "/hold") {
      await new Promise<void>((resolve) => this.#held.push(resolve));
      response.end("released");
    } else if (path === "/moved") {
      response.writeHead(302, { location: "/hello" }).end();
    } else if (path === "/hello") {
      response.setHeader("content-type", "text/plain; charset=utf-8");
      response.end("Hello from the machine behind the tunnel.");
    } else {
      response.writeHead(404, { "content-type": "text/plain" }).end("no such page");
    }
  }

  /** Lets every request to `/hold` have its answer. */
  release(): void {
    for (const answer of this.#held.splice(0)) answer();
  }

  /** As many bytes as the query says, as fast as they are taken; what they are is {@link flowHash}'s. */
  async #flow(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#remember(request, Buffer.alloc(0));
    const total = Number(new URL(request.url ?? "/", "http://local").searchParams.get("bytes"));
    response.writeHead(200, { "content-type": "application/octet-stream", "content-length": String(total) });
    const gone = once(response, "close");
    for (let at = 0; at < total && !response.destroyed; at += FLOW.length) {
      const piece = FLOW.subarray(0, total - at);
      this.flowed += piece.length;
      if (response.write(piece)) continue;
      await Promise.race([once(response, "drain"), gone]);
    }
    response.end();
  }

  /** An event every 50 ms, until the reader leaves. */
  #events(request: IncomingMessage, response: ServerResponse): void {
    this.#remember(request, Buffer.alloc(0));
    this.streams += 1;
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    let n = 0;
    const timer = setInterval(() => response.write(`id: ${n}\ndata: tick ${n++}\n\n`), 50);
    response.on("close", () => {
      clearInterval(timer);
      this.streams -= 1;
    });
  }
}
