/** Relay, agent and local server as real processes, a user who may sign in, and codes to pair by. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LocalServer } from "./local-server.js";
import { eventually, Running, run } from "./processes.js";

const EMAIL = "owner@example.com";
export const HOST_NAME = "workshop";

/** What a stack may have of its own. */
export interface Special {
  /** Settings of the relay. */
  relay?: Record<string, string>;
  /** Arguments of the agent. */
  agent?: string[];
}

export class Stack {
  private constructor(
    readonly folder: string,
    readonly local: LocalServer,
    readonly relay: Running,
    readonly url: string,
    public agent: Running,
    readonly hostId: string,
    private readonly special: Special,
  ) {}

  static async start(special: Special = {}): Promise<Stack> {
    const folder = await mkdtemp(join(tmpdir(), "whole-"));
    const env = { RELAY_DATA_DIR: join(folder, "relay"), HOME: folder, ...special.relay };
    const local = await LocalServer.start();
    const relay = new Running("relay-server", ["serve"], { ...env, RELAY_LISTEN_ADDR: "127.0.0.1:0" });
    const [, port] = await relay.line(/listening.*?addr\S*?=\S*?127\.0\.0\.1:(\d+)/);
    const url = `http://127.0.0.1:${port}`;
    await run("relay-server", ["user", "add", EMAIL], env);
    const token = (await run("relay-server", ["token", "create", "--user", EMAIL], env)).trim();
    await writeFile(join(folder, "token"), token, { mode: 0o600 });
    const agent = startAgent(folder, url, local.url, special);
    let hostId = "";
    await eventually("the host is online", async () => {
      const answer = await fetch(`${url}/v1/relay/hosts`, { headers: { authorization: `Bearer ${token}` } });
      const { hosts } = (await answer.json()) as { hosts: { id: string; name: string; status: string }[] };
      const host = hosts.find((one) => one.name === HOST_NAME && one.status === "online");
      hostId = host?.id ?? "";
      return host !== undefined;
    });
    return new Stack(folder, local, relay, url, agent, hostId, special);
  }

  /** A token of the owner's, as a web app would have one. */
  async token(): Promise<string> {
    return readFile(join(this.folder, "token"), "utf8");
  }

  /** A link that signs in, once. */
  async signInLink(): Promise<string> {
    const env = { RELAY_DATA_DIR: join(this.folder, "relay"), HOME: this.folder };
    const output = await run("relay-server", ["login", EMAIL, "--url", this.url], env);
    const link = output.match(/https?:\/\/\S+#\/link\/\S+/)?.[0];
    if (link === undefined) throw new Error("`relay-server login` printed no link");
    return link;
  }

  /** Runs `local-agent-client COMMAND…` with the state of the agent. */
  command(...args: string[]): Running {
    return new Running("local-agent-client", [...args, "--state-dir", join(this.folder, "agent")], {
      HOME: this.folder,
    });
  }

  /** Starts `pair` and gives it and the six digits that it prints. */
  async pair(...args: string[]): Promise<{ command: Running; code: string }> {
    const command = this.command("pair", ...args);
    const [, code] = await command.line(/(\d{3} \d{3})/);
    return { command, code: (code ?? "").replace(" ", "") };
  }

  /** Signs another agent in by the device flow, with a state of its own. */
  login(name: string): Running {
    const state = join(this.folder, `agent-${name}`);
    return new Running("local-agent-client", ["login", this.url, "--name", name, "--state-dir", state], {
      HOME: this.folder,
    });
  }

  async stopAgent(): Promise<void> {
    await this.agent.stop();
  }

  async restartAgent(): Promise<void> {
    await this.agent.stop();
    this.agent = startAgent(this.folder, this.url, this.local.url, this.special);
    await this.agent.line(/connected to the relay/);
  }

  async stop(): Promise<void> {
    await this.agent.stop();
    await this.relay.stop();
    await this.local.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}

function startAgent(folder: string, relay: string, local: string, special: Special): Running {
  const args = ["run", "--relay", relay, "--to", local, "--name", HOST_NAME];
  const files = ["--token-file", join(folder, "token"), "--state-dir", join(folder, "agent")];
  return new Running("local-agent-client", [...args, ...files, ...(special.agent ?? [])], { HOME: folder });
}
