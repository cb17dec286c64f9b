// The user's hosts with live status. Cards are updated in place, so that neither focus nor place is
// lost while somebody reads; what changes is announced politely.

import type { Host } from "../api.js";
import { isSignedOut } from "../api.js";
import { fill, h, setText } from "../dom.js";
import { ago } from "../format.js";
import { apiMessage } from "../messages.js";
import { poll } from "../poll.js";
import { links } from "../router.js";
import { ask, askName, badge, command, Outcome, pageHeading, status } from "../ui.js";
import type { SignedIn, View } from "../view.js";

/** A host's name has 1 to 200 characters (PROTOCOL.md section 1). */
const MAX_NAME = 200;

interface Card {
  readonly element: HTMLElement;
  host: Host;
  update(host: Host, paired: boolean): void;
}

/** What changed between two answers, as sentences. */
export function changes(before: ReadonlyMap<string, Host>, after: readonly Host[]): string[] {
  const sentences: string[] = [];
  for (const host of after) {
    const old = before.get(host.id);
    if (old === undefined) sentences.push(`${host.name} was added and is ${host.status}.`);
    else if (old.status !== host.status) sentences.push(`${host.name} is now ${host.status}.`);
  }
  const left = new Set(after.map((host) => host.id));
  for (const host of before.values()) if (!left.has(host.id)) sentences.push(`${host.name} was removed.`);
  return sentences;
}

export function hostsView(context: SignedIn): View {
  const outcome = new Outcome();
  const grid = h("ul", { class: "hosts" });
  const body = h("div", {}, h("p", { class: "loading" }, "Loading your hosts…"));
  const cards = new Map<string, Card>();
  let first = true;

  const show = (hosts: readonly Host[], paired: ReadonlySet<string>) => {
    const news = first ? [] : changes(new Map([...cards].map(([id, card]) => [id, card.host])), hosts);
    const ids = new Set(hosts.map((host) => host.id));
    for (const [id, card] of cards) {
      if (ids.has(id)) continue;
      card.element.remove();
      cards.delete(id);
    }
    const sorted = [...hosts].sort((a, b) => a.name.localeCompare(b.name) || a.id.localeCompare(b.id));
    for (const [index, host] of sorted.entries()) {
      let card = cards.get(host.id);
      if (card === undefined) {
        card = makeCard(context, host, outcome, () => asking.now());
        cards.set(host.id, card);
      }
      card.update(host, paired.has(host.id));
      if (grid.children[index] !== card.element)
        grid.insertBefore(card.element, grid.children[index] ?? null);
    }
    const wanted = hosts.length === 0 ? "empty" : "list";
    if (body.dataset["shows"] !== wanted) {
      body.dataset["shows"] = wanted;
      fill(body, hosts.length === 0 ? empty() : grid);
    }
    if (news.length > 0) context.announce(news.join(" "));
    first = false;
  };

  let troubled = false;
  const asking = poll(async (signal) => {
    try {
      const [hosts, paired] = await Promise.all([context.api.hosts(signal), pairedHere(context)]);
      if (signal.aborted) return;
      show(hosts, paired);
      if (troubled) outcome.clear();
      troubled = false;
    } catch (error) {
      if (signal.aborted || isSignedOut(error)) return;
      if (first) body.replaceChildren();
      if (!troubled) outcome.show("warn", `${apiMessage(error, "load your hosts")} This page keeps trying.`);
      troubled = true;
      throw error;
    }
  });

  return {
    title: "Hosts",
    element: h("section", {}, pageHeading("Your hosts"), outcome.element, body),
    stop: () => asking.stop(),
  };
}

/** The hosts that this browser is paired with. Storage that cannot be read means none, which pairing then explains. */
async function pairedHere(context: SignedIn): Promise<ReadonlySet<string>> {
  try {
    return new Set((await context.sdk.all()).map((info) => info.hostId.toLowerCase()));
  } catch {
    return new Set();
  }
}

function makeCard(context: SignedIn, initial: Host, outcome: Outcome, refresh: () => void): Card {
  const name = h("h2", { class: "host-name" });
  const state = h("div", { class: "host-state" });
  const facts = h("p", { class: "facts" });
  const badges = h("div", { class: "badges" });
  const main = h("a", { class: "button button-primary" });
  const pairAgain = h("a", { class: "button", href: links.pair(initial.id) }, "Pair again");
  const rename = h("button", { type: "button", class: "button button-quiet" }, "Rename");
  const remove = h("button", { type: "button", class: "button button-quiet button-danger-text" }, "Delete");
  const owners = initial.role === "owner" ? [rename, remove] : [];
  const element = h(
    "li",
    { class: "card host" },
    h("div", { class: "host-head" }, name, state),
    badges,
    facts,
    h("div", { class: "actions" }, main, pairAgain, h("span", { class: "spring" }), ...owners),
  );

  const card: Card = {
    element,
    host: initial,
    update(host, paired) {
      card.host = host;
      setText(name, host.name);
      const online = host.status === "online";
      if (state.dataset["status"] !== host.status) {
        state.dataset["status"] = host.status;
        fill(state, status(online ? "on" : "off", online ? "Online" : "Offline"));
      }
      const seen =
        host.last_seen_at === null ? "Never seen" : `Last seen ${ago(host.last_seen_at, context.api.now())}`;
      const version = host.agent_version === null ? "" : `Agent ${host.agent_version}`;
      setText(facts, [online ? "" : seen, version].filter((part) => part !== "").join(" · "));
      const key = `${paired}${host.role}`;
      if (badges.dataset["key"] !== key) {
        badges.dataset["key"] = key;
        fill(
          badges,
          badge(host.role === "owner" ? "Yours" : "Shared with you"),
          paired ? badge("Paired with this browser", "good") : badge("Not paired here"),
        );
        main.setAttribute("href", paired ? links.host(host.id) : links.pair(host.id));
        setText(main, paired ? "Open" : "Pair");
        pairAgain.hidden = !paired;
      }
      main.setAttribute("aria-label", `${paired ? "Open" : "Pair"} ${host.name}`);
      pairAgain.setAttribute("aria-label", `Pair ${host.name} again`);
      rename.setAttribute("aria-label", `Rename ${host.name}`);
      remove.setAttribute("aria-label", `Delete ${host.name}`);
    },
  };

  rename.addEventListener("click", () => {
    void askName(`Rename ${card.host.name}`, card.host.name, MAX_NAME, async (typed) => {
      try {
        await context.api.renameHost(card.host.id, typed);
      } catch (error) {
        return apiMessage(error, "rename the host");
      }
      context.announce(`The host is now called ${typed}.`);
      refresh();
      return undefined;
    });
  });
  remove.addEventListener("click", () => {
    const { id, name: called } = card.host;
    void ask({
      title: `Delete ${called}?`,
      content: [
        h(
          "p",
          {},
          "The relay forgets the machine and ends the sessions that reach it. Nothing on the machine itself is deleted; when its agent connects again, it appears here as a new host and has to be paired anew.",
        ),
      ],
      confirm: "Delete host",
      danger: true,
      act: async () => {
        try {
          await context.api.deleteHost(id);
        } catch (error) {
          return apiMessage(error, "delete the host");
        }
        return undefined;
      },
    }).then((done) => {
      if (!done) return;
      outcome.show("good", `${called} was deleted.`);
      element.remove();
      refresh();
      // The button that was pressed is gone.
      document.querySelector<HTMLElement>("main h1")?.focus();
    });
  });
  return card;
}

/** How to connect the first machine. */
function empty(): HTMLElement {
  return h(
    "div",
    { class: "card empty" },
    h("h2", {}, "Connect your first machine"),
    h(
      "p",
      {},
      "A host is a machine of yours with a web app on it. A small agent runs beside the app and dials out to this relay; nothing is opened on the machine.",
    ),
    h(
      "ol",
      { class: "steps" },
      h(
        "li",
        {},
        "On that machine, sign the agent in:",
        command(`local-agent-client login ${location.origin}`),
      ),
      h(
        "li",
        {},
        "Then connect it to your app, here one on port 3000:",
        command("local-agent-client run --to http://127.0.0.1:3000"),
      ),
      h("li", {}, "It appears here by itself within a few seconds. Pair this browser with it, and open it."),
    ),
  );
}
