/** The pairings of this origin, in IndexedDB. Whatever is stored has been verified before. */
import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import { RelayError } from "./errors.js";
import type { PairedHostInfo } from "./types.js";

const DATABASE = "browser-pairing";
const VERSION = 1;
/** A name of no host: it is never committed. */
const PROBE = "probe";

/** A pairing with its keys. */
export interface Pairing extends PairedHostInfo {
  /** The form of this entry, for releases to come. */
  v: 1;
  agentEd25519: Uint8Array<ArrayBuffer>;
  agentX25519: Uint8Array<ArrayBuffer>;
  signingKey: CryptoKey;
  exchangeKey: CryptoKey;
  psk: CryptoKey;
}

interface Schema extends DBSchema {
  hosts: { key: string; value: Pairing };
}

let opened: Promise<IDBPDatabase<Schema>> | undefined;

function unavailable(cause: unknown): RelayError {
  return new RelayError("storage_unavailable", {
    detail: "This browser keeps no data for this page, as in some private windows. Use an ordinary window.",
    cause,
  });
}

/** One connection for the page; given up when another page needs a newer form, or the browser ends it. */
async function database(): Promise<IDBPDatabase<Schema>> {
  opened ??= (async () => {
    const db = await openDB<Schema>(DATABASE, VERSION, {
      upgrade: (fresh) => {
        fresh.createObjectStore("hosts", { keyPath: "hostId" });
      },
      blocking: (_current, _blocked, event) => {
        opened = undefined;
        (event.target as IDBDatabase).close();
      },
      terminated: () => {
        opened = undefined;
      },
    });
    return db;
  })();
  try {
    return await opened;
  } catch (cause) {
    opened = undefined;
    throw unavailable(cause);
  }
}

/**
 * Checks that keys can be kept here, without keeping anything: a private window shall not cost a code.
 * @throws RelayError `storage_unavailable`
 */
export async function probe(keys: { signingKey: CryptoKey; exchangeKey: CryptoKey }): Promise<void> {
  const db = await database();
  try {
    const transaction = db.transaction("hosts", "readwrite");
    await transaction.store.put({ ...keys, hostId: PROBE } as Pairing);
    const ended = transaction.done.catch(() => undefined);
    transaction.abort();
    await ended;
  } catch (cause) {
    throw unavailable(cause);
  }
}

/** Keeps a pairing, in place of an earlier one with the same host. The caller explains a failure. */
export async function save(pairing: Pairing): Promise<void> {
  const db = await database();
  const transaction = db.transaction("hosts", "readwrite", { durability: "strict" });
  await Promise.all([transaction.store.put(pairing), transaction.done]);
}

/** Asks the browser not to throw the pairings away when space is short. It may say no. */
export async function persist(): Promise<void> {
  try {
    await globalThis.navigator?.storage?.persist?.();
  } catch {
    // Then the browser decides alone, and pairing again is the remedy.
  }
}

/** @throws RelayError `storage_unavailable` */
export async function load(hostId: string): Promise<Pairing | undefined> {
  const db = await database();
  try {
    return await db.get("hosts", hostId);
  } catch (cause) {
    throw unavailable(cause);
  }
}

/** @throws RelayError `storage_unavailable` */
export async function all(): Promise<Pairing[]> {
  const db = await database();
  try {
    return await db.getAll("hosts");
  } catch (cause) {
    throw unavailable(cause);
  }
}

/**
 * Changes what is kept of a host, unless it has been forgotten or paired anew meanwhile.
 * @throws RelayError `storage_unavailable`
 */
export async function update(
  clientId: string,
  hostId: string,
  change: Partial<Pick<Pairing, "name" | "relayUrl" | "lastUsedAt">>,
): Promise<void> {
  const db = await database();
  try {
    const transaction = db.transaction("hosts", "readwrite");
    const kept = await transaction.store.get(hostId);
    if (kept?.clientId === clientId) await transaction.store.put({ ...kept, ...change });
    await transaction.done;
  } catch (cause) {
    throw unavailable(cause);
  }
}

/** Forgets a host, unless it has been paired anew meanwhile. @throws RelayError `storage_unavailable` */
export async function remove(clientId: string, hostId: string): Promise<void> {
  const db = await database();
  try {
    const transaction = db.transaction("hosts", "readwrite");
    const kept = await transaction.store.get(hostId);
    if (kept?.clientId === clientId) await transaction.store.delete(hostId);
    await transaction.done;
  } catch (cause) {
    throw unavailable(cause);
  }
}
