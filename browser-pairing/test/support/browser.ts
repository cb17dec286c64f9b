/** What makes Node a browser for the SDK: IndexedDB and WebSocket. */
import "fake-indexeddb/auto";
import { type TestContext, test } from "node:test";
import { WebSocket } from "ws";
import { type PairedHost, type Protection, pairHost, type RelayAccess } from "../../src/index.js";
import { Relay } from "./relay.js";

Object.assign(globalThis, { WebSocket });

/** The forms in which a host can be opened. */
export const FORMS: readonly Protection[] = ["sealed", "signed"];
/** The form that the tests run in now: those of one file run one after the other. */
let form: Protection | undefined;

/** What the helpers below pair and open with from now on; undefined leaves it to the SDK. */
export function useForm(protection: Protection | undefined): void {
  form = protection;
}

/** The same test for each form. */
export function eachForm(name: string, run: (t: TestContext, form: Protection) => Promise<void>): void {
  for (const one of FORMS) {
    test(`${one}: ${name}`, async (t) => {
      useForm(one);
      await run(t, one);
    });
  }
}

/** Options for `pairHost` and `openHost`. */
export function chosen(): { protection?: Protection } {
  return form === undefined ? {} : { protection: form };
}

/** Six digits that no time or length is likely to contain. */
export const CODE = "907153";

/** A relay with its agent, and how to reach it. */
export interface World {
  relay: Relay;
  access: RelayAccess;
}

/** Runs with a relay of its own. */
export async function withRelay(run: (world: World) => Promise<void>): Promise<void> {
  const relay = await new Relay().start();
  try {
    await run({ relay, access: { url: relay.url, token: () => "token" } });
  } finally {
    await relay.stop();
  }
}

/** Pairs with the world's agent. */
export async function paired({ relay, access }: World): Promise<PairedHost> {
  relay.agent.code = CODE;
  return pairHost({ relay: access, hostId: relay.agent.hostId, code: CODE, name: "Test", ...chosen() });
}

/** Runs with a host that is paired. */
export async function withHost(run: (host: PairedHost, world: World) => Promise<void>): Promise<void> {
  await withRelay(async (world) => {
    const host = await paired(world);
    try {
      await run(host, world);
    } finally {
      host.close();
    }
  });
}
