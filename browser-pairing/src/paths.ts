/**
 * Which path an exchange takes (PROTOCOL.md section 6.3): the direct connection while there is one that answers,
 * else the relay, which always stays.
 *
 * What makes direct connections is a part of its own, loaded after the first exchange that succeeded: the first
 * one never waits, and a page without `RTCPeerConnection` (a worker, Node) never loads it.
 */
import type { ExchangePath, PathChoice, PathHost } from "./path.js";
import type { Upgrade } from "./peer/upgrade.js";
import type { PathReport } from "./types.js";

/** What the agent lists when it takes direct connections (PROTOCOL.md section 5). */
const FEATURE = "webrtc";

/** What {@link Paths} may be told. */
export interface PathOptions {
  /** False leaves everything to the relay. */
  webRtc?: boolean | undefined;
  /** Called whenever {@link Paths.report} may say something else. */
  onchange?: () => void;
}

export class Paths implements PathChoice {
  #upgrade: Upgrade | undefined;
  /** It is being loaded, cannot be, or is not wanted. */
  #settled: boolean;
  #closed = false;

  constructor(
    readonly relay: ExchangePath,
    readonly host: PathHost,
    private readonly options: PathOptions = {},
  ) {
    this.#settled = options.webRtc === false || typeof globalThis.RTCPeerConnection !== "function";
  }

  /** @inheritdoc */
  choose(lost?: ExchangePath): ExchangePath {
    const direct = this.#upgrade?.path;
    return direct === undefined || direct === lost ? this.relay : direct;
  }

  /** The path of an exchange that would be sent now, and what went over direct connections. */
  get report(): PathReport {
    return this.#upgrade?.report ?? { kind: "relay", sent: 0, received: 0 };
  }

  /** @inheritdoc */
  succeeded(): void {
    this.#upgrade?.used();
    if (this.#settled || this.#closed || !this.host.features.has(FEATURE)) return;
    this.#settled = true;
    import("./peer/upgrade.js").then(
      ({ Upgrade }) => {
        if (!this.#closed) this.#upgrade = new Upgrade(this.host, this.options.onchange ?? (() => {}));
      },
      // The page's server does not have it (any more): the relay is enough.
      () => undefined,
    );
  }

  /** @inheritdoc */
  close(): void {
    this.#closed = true;
    this.#upgrade?.close();
  }
}
