/**
 * UDP between a browser and an agent, in the test's hands: it can be cut and let through again, or lost for good, so
 * that only new ports lead there.
 */
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
  #fronts = new Map<string, Promise<number>>();
  readonly #opening: Promise<number>[] = [];
  /** Ports of an older one are lost. */
  #age = 0;

  /** All ports that have led anywhere lead nowhere any more. */
  lose(): void {
    this.#age += 1;
    this.#fronts = new Map();
  }

  /** A port of its own that leads to this address; the same one until it is lost. */
  lead(host: string, port: number): Promise<number> {
    const key = `${host}:${port}`;
    const known = this.#fronts.get(key) ?? this.#open(host, port);
    this.#fronts.set(key, known);
    this.#opening.push(known);
    return known;
  }

  async #open(host: string, port: number): Promise<number> {
    const age = this.#age;
    const front = await bound();
    this.#sockets.push(front);
    // Each sender has a socket of its own behind this one, so that the answers find back to it.
    const backs = new Map<string, Promise<Socket>>();
    front.on("message", (packet, from) => {
      if (!this.#passes(age)) return;
      const key = `${from.address}:${from.port}`;
      const back = backs.get(key) ?? this.#back(front, from, age);
      backs.set(key, back);
      void back.then((socket) => socket.send(packet, port, host));
    });
    return front.address().port;
  }

  async #back(front: Socket, to: RemoteInfo, age: number): Promise<Socket> {
    const back = await bound();
    this.#sockets.push(back);
    back.on("message", (packet) => {
      if (this.#passes(age)) front.send(packet, to.port, to.address);
    });
    return back;
  }

  #passes(age: number): boolean {
    const lost = this.cut || age < this.#age;
    if (lost) this.dropped += 1;
    else this.passed += 1;
    return !lost;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#opening);
    for (const socket of this.#sockets) socket.close();
  }
}
