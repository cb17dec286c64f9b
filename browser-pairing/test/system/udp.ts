/** UDP between a browser and an agent, in the test's hands: it can be cut and let through again. */
import { createSocket, type RemoteInfo, type Socket } from "node:dgram";

const LOOPBACK = "127.0.0.1";

async function bound(): Promise<Socket> {
  const socket = createSocket("udp4");
  // A port that nobody listens on any more is told as an error of the next packet.
  socket.on("error", () => undefined);
  await new Promise<void>((resolve) => socket.bind(0, LOOPBACK, resolve));
  return socket;
}

export class UdpLine {
  /** Nothing passes, in either direction. */
  cut = false;
  /** Packets that came through, and those that were dropped. */
  passed = 0;
  dropped = 0;
  readonly #sockets: Socket[] = [];
  readonly #fronts = new Map<string, Promise<number>>();

  /** A port of its own that leads to this address; always the same one. */
  lead(host: string, port: number): Promise<number> {
    const key = `${host}:${port}`;
    const known = this.#fronts.get(key) ?? this.#open(host, port);
    this.#fronts.set(key, known);
    return known;
  }

  async #open(host: string, port: number): Promise<number> {
    const front = await bound();
    this.#sockets.push(front);
    // Each sender has a socket of its own behind this one, so that the answers find back to it.
    const backs = new Map<string, Promise<Socket>>();
    front.on("message", (packet, from) => {
      if (!this.#passes()) return;
      const key = `${from.address}:${from.port}`;
      const back = backs.get(key) ?? this.#back(front, from);
      backs.set(key, back);
      void back.then((socket) => socket.send(packet, port, host));
    });
    return front.address().port;
  }

  async #back(front: Socket, to: RemoteInfo): Promise<Socket> {
    const back = await bound();
    this.#sockets.push(back);
    back.on("message", (packet) => {
      if (this.#passes()) front.send(packet, to.port, to.address);
    });
    return back;
  }

  #passes(): boolean {
    if (this.cut) this.dropped += 1;
    else this.passed += 1;
    return !this.cut;
  }

  async stop(): Promise<void> {
    for (const front of this.#fronts.values()) await front;
    for (const socket of this.#sockets) socket.close();
  }
}
