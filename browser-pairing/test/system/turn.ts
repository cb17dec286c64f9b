/** A TURN server: coturn (Debian's package `coturn`) on loopback, with the secret that it shares with the relay. */
import { type ChildProcess, spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SOON } from "./processes.js";

/** Debian keeps daemons outside of a plain user's path. */
function program(): string {
  const folders = [...(process.env.PATH ?? "").split(":"), "/usr/sbin", "/usr/local/sbin"];
  const found = folders.map((folder) => join(folder, "turnserver")).find(existsSync);
  if (found === undefined) throw new Error("turnserver is not installed: Debian's package coturn has it");
  return found;
}

/** coturn cannot be given port 0: the system chooses one, and coturn takes it a moment later. */
async function freePort(): Promise<number> {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  const { port } = socket.address();
  await new Promise<void>((resolve) => socket.close(() => resolve()));
  return port;
}

export class Turn {
  output = "";

  private constructor(
    readonly port: number,
    private readonly folder: string,
    private readonly child: ChildProcess,
  ) {}

  /** Starts one and waits until it listens. */
  static async start(secret: string): Promise<Turn> {
    const port = await freePort();
    const folder = await mkdtemp(join(tmpdir(), "turn-"));
    const settings = [
      "listening-ip=127.0.0.1",
      "relay-ip=127.0.0.1",
      `listening-port=${port}`,
      "realm=relay.test",
      "use-auth-secret",
      `static-auth-secret=${secret}`,
      "allow-loopback-peers",
      "no-tls",
      "no-dtls",
      "no-cli",
      "fingerprint",
      "verbose",
      "log-file=stdout",
      "simple-log",
      `userdb=${folder}/turndb`,
      `pidfile=${folder}/pid`,
    ];
    await writeFile(join(folder, "turnserver.conf"), `${settings.join("\n")}\n`, { mode: 0o600 });
    const child = spawn(program(), ["-c", join(folder, "turnserver.conf")], {
      cwd: folder,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const turn = new Turn(port, folder, child);
    await turn.#listening();
    return turn;
  }

  #listening(): Promise<void> {
    return new Promise((resolve, reject) => {
      const late = () => reject(new Error(`coturn does not listen:\n${this.output.slice(-4000)}`));
      const timer = setTimeout(late, SOON);
      const take = (piece: Buffer) => {
        this.output += piece.toString();
        if (!/UDP listener opened/.test(this.output)) return;
        clearTimeout(timer);
        resolve();
      };
      this.child.stdout?.on("data", take);
      this.child.stderr?.on("data", take);
      this.child.on("error", reject);
    });
  }

  /** For `RELAY_ICE_SERVERS`. */
  get url(): string {
    return `turn:127.0.0.1:${this.port}?transport=udp`;
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.child.once("close", resolve));
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill("SIGKILL");
      await ended;
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}
