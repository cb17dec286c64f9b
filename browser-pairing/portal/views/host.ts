// One paired host: its status, how it is protected, and four panels (request, events, WebSocket,
// paired browsers). Without a pairing in this browser it leads to pairing.

import { type Host, Refused } from "../api.js";
import { fill, h } from "../dom.js";
import { ago } from "../format.js";
import { type Failure, failure, hostMessage } from "../host-messages.js";
import { poll } from "../poll.js";
import { links } from "../router.js";
import type { Paired } from "../sdk.js";
import { notice, status } from "../ui.js";
import type { SignedIn, View } from "../view.js";
import { browsersPanel } from "./host-browsers.js";
import { eventsPanel } from "./host-events.js";
import { pathMark } from "./host-path.js";
import { requestPanel } from "./host-request.js";
import { socketPanel } from "./host-socket.js";
import { tabs } from "./tabs.js";

/** What a panel is and what it may tell the page around it. */
export interface Panel {
  readonly element: HTMLElement;
  /** The panel has come into view. */
  readonly shown?: () => void;
  readonly stop?: () => void;
}

export interface HostContext {
  readonly host: Paired;
  readonly page: SignedIn;
  /** An answer was verified. */
  verified(): void;
  /** Something failed; tells what to show for it. */
  failed(error: unknown): Failure;
}

/** Signed by the host, these may come of a revocation. */
const SESSION_OVER = new Set(["signing_session_expired", "signing_session_ended"]);

export function hostView(context: SignedIn, hostId: string): View {
  const ended = new AbortController();
  const state = h("div", { class: "host-state" });
  const title = h("h1", { tabindex: -1 }, "Host");
  const trust = h("div", { class: "trust" });
  const place = h("div", {}, h("p", { class: "loading" }, "Opening the host…"));
  const stops: (() => void)[] = [];
  const closeAll = () => {
    for (const stop of stops.splice(0)) stop();
  };

  const unpaired = (...message: (string | Node)[]) => {
    closeAll();
    fill(trust, status("off", "Not paired"));
    fill(
      place,
      notice("warn", ...message),
      h(
        "div",
        { class: "actions" },
        h("a", { class: "button button-primary", href: links.pair(hostId) }, "Pair this browser"),
        h("a", { class: "button", href: links.hosts }, "Back to your hosts"),
      ),
    );
  };

  const open = async () => {
    let host: Paired | undefined;
    try {
      host = await context.sdk.open(hostId);
    } catch (error) {
      if (!ended.signal.aborted) unpaired(hostMessage(failure(error)));
      return;
    }
    if (ended.signal.aborted) return host?.close();
    if (host === undefined) {
      unpaired("This browser is not paired with the host yet. Pairing takes six digits from the machine.");
      return;
    }
    const opened = host;
    stops.push(() => opened.close());
    const way = pathMark(opened, (text) => context.announce(text));
    stops.push(() => way.stop());
    const mark = (kind: "on" | "wait" | "bad", text: string) => {
      const print = h("span", { class: "trust-print" }, `Fingerprint ${opened.fingerprint}`);
      if (stops.length > 0) fill(trust, status(kind, text), print, way.element);
    };
    const form = opened.protection === "sealed" ? "Sealed" : "Signed";
    mark("wait", `${form}, nothing verified yet`);
    const revoked = () => {
      if (ended.signal.aborted || stops.length === 0) return;
      unpaired(
        h("strong", {}, "The host no longer knows this browser. "),
        "The host signed that itself: this browser's pairing was revoked. To go on, pair it again with a new code.",
      );
      context.announce("The host has revoked this browser.");
      void opened.forget().catch(() => undefined);
    };
    opened.addEventListener("revoked", revoked);
    let seen = false;
    const inside: HostContext = {
      host: opened,
      page: context,
      verified: () => {
        if (seen) return;
        seen = true;
        mark("on", `${form} and verified`);
      },
      failed: (error) => {
        const of = failure(error);
        if (of.code === "not_paired" && of.verified) revoked();
        else if (of.verified && SESSION_OVER.has(of.code)) {
          // Perhaps by a revocation: whatever is asked next brings it out, as the event above.
          opened
            .browsers()
            .list()
            .catch(() => undefined);
        } else if (of.code === "tampered") {
          seen = false;
          mark("bad", "An answer did not verify");
        }
        return of;
      },
    };
    const panels = [
      { label: "Request", panel: requestPanel(inside) },
      { label: "Events", panel: eventsPanel(inside) },
      { label: "WebSocket", panel: socketPanel(inside) },
      { label: "Browsers", panel: browsersPanel(inside) },
    ];
    stops.push(() => {
      for (const { panel } of panels) panel.stop?.();
    });
    fill(place, tabs("Views of the host", panels));
  };

  const show = (host: Host | undefined) => {
    if (host === undefined) return fill(state, status("off", "Unknown host"));
    if (title.textContent !== host.name) title.textContent = host.name;
    document.title = `${host.name} · Sidecar Relay`;
    const seen = host.last_seen_at === null ? "" : `, last seen ${ago(host.last_seen_at, context.api.now())}`;
    const text = host.status === "online" ? "Online" : `Offline${seen}`;
    if (state.textContent === text) return;
    const before = state.dataset["status"];
    state.dataset["status"] = host.status;
    fill(state, status(host.status === "online" ? "on" : "off", text));
    if (before !== undefined && before !== host.status)
      context.announce(`${host.name} is now ${host.status}.`);
  };
  const asking = poll(async (signal) => {
    try {
      const hosts = await context.api.hosts(signal);
      if (!signal.aborted) show(hosts.find((host) => host.id === hostId));
    } catch (error) {
      if (!signal.aborted && !(error instanceof Refused)) fill(state, status("wait", "Relay not reachable"));
      throw error;
    }
  });

  void open();
  return {
    title: "Host",
    element: h(
      "section",
      {},
      h("nav", { class: "crumbs", "aria-label": "Back" }, h("a", { href: links.hosts }, "Hosts")),
      h("div", { class: "page-head" }, title, state),
      trust,
      place,
    ),
    stop: () => {
      ended.abort();
      asking.stop();
      closeAll();
    },
  };
}
