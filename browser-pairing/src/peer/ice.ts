/**
 * What is read of the relay's and the browser's words about ICE: servers, descriptions, and which way was chosen.
 * The relay may name any server it likes; all that such a server sees is DTLS.
 */
import type { Json } from "../problem.js";

/** As in PROTOCOL.md section 6.1. */
const MAX_SERVERS = 4;
const MAX_URLS = 4;
export const MAX_SDP = 48 * 1024;
const MAX_TEXT = 512;
/** RFC 7064 and 7065: a scheme, a host, perhaps a port and a transport. */
const SERVER_URL = /^(?:stuns?|turns?):[^\s@/?#]{1,255}(?:\?transport=(?:udp|tcp))?$/;

/** A server as both `RTCPeerConnection` and the agent take it. */
export interface IceServer {
  urls: string[];
  username?: string;
  credential?: string;
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value.length > 0 && value.length <= MAX_TEXT ? value : undefined;
}

/** The servers in the relay's answer. What is none is left out: the constructor would throw on it. */
export function readIceServers(json: Json | undefined): IceServer[] {
  const list = json?.["ice_servers"];
  if (!Array.isArray(list)) return [];
  const servers: IceServer[] = [];
  for (const entry of list.slice(0, MAX_SERVERS) as unknown[]) {
    const fields = (typeof entry === "object" && entry !== null ? entry : {}) as Json;
    const given = Array.isArray(fields["urls"]) ? (fields["urls"] as unknown[]) : [];
    const username = text(fields["username"]);
    const credential = text(fields["credential"]);
    const known = username !== undefined && credential !== undefined;
    const urls = given
      .filter((url): url is string => typeof url === "string" && SERVER_URL.test(url))
      .filter((url) => known || url.startsWith("stun"))
      .slice(0, MAX_URLS);
    if (urls.length > 0) servers.push(known ? { urls, username, credential } : { urls });
  }
  return servers;
}

/** How the direct connection goes: the worse of both ends' candidate types. */
export type CandidateType = "host" | "srflx" | "prflx" | "relay";

/** The kind of way that was chosen, from what `getStats` tells; undefined while there is none. */
export function chosenCandidate(stats: Iterable<Record<string, unknown>>): CandidateType | undefined {
  const all = new Map<unknown, Record<string, unknown>>();
  for (const entry of stats) all.set(entry["id"], entry);
  const entries = [...all.values()];
  const transport = entries.find((entry) => entry["type"] === "transport");
  const pair =
    all.get(transport?.["selectedCandidatePairId"]) ??
    // Firefox has no such member.
    entries.find((entry) => entry["type"] === "candidate-pair" && entry["selected"] === true);
  const types = [pair?.["localCandidateId"], pair?.["remoteCandidateId"]].map(
    (id) => all.get(id)?.["candidateType"],
  );
  return (["relay", "prflx", "srflx", "host"] as const).find((type) => types.includes(type));
}

/** Bytes of all packets that have come, DTLS and what is in it; undefined where `getStats` does not tell. */
export function bytesArrived(stats: Iterable<Record<string, unknown>>): number | undefined {
  for (const entry of stats) {
    const bytes = entry["bytesReceived"];
    if (entry["type"] === "transport" && typeof bytes === "number") return bytes;
  }
  return undefined;
}
