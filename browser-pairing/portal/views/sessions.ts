// Where the account is signed in, and which browser sessions reach its hosts; each can be ended.

import { type Api, type AuthSession, type BrowserSession, Refused } from "../api.js";
import { fill, h } from "../dom.js";
import { ago, duration } from "../format.js";
import { apiMessage } from "../messages.js";
import { ask, badge, Outcome, pageHeading } from "../ui.js";
import type { SignedIn, View } from "../view.js";

const KINDS = { browser: "Browser", device: "Device", token: "Token" } as const;
const AGENT = "An agent that uses it loses its connection within 5 seconds and has to sign in again.";
/** What comes of ending one. */
const ENDS = {
  browser: "That browser has to sign in again.",
  device: AGENT,
  token: `${AGENT} If your sign-in provider made it, end it there too: the provider may make another one, which counts.`,
};

export function sessionsView(context: SignedIn): View {
  const ended = new AbortController();
  const outcome = new Outcome();
  const signIns = h("div", { class: "list-place" }, h("p", { class: "loading" }, "Loading…"));
  const reaching = h("div", { class: "list-place" }, h("p", { class: "loading" }, "Loading…"));

  const elsewhere = h("button", { type: "button", class: "button" }, "Sign out everywhere else");
  const others = h("div", { class: "actions", hidden: true }, elsewhere);

  const load = async () => {
    try {
      const [auth, browser, hosts] = await Promise.all([
        context.api.authSessions(ended.signal),
        context.api.browserSessions(ended.signal),
        context.api.hosts(ended.signal),
      ]);
      if (ended.signal.aborted) return;
      const names = new Map(hosts.map((host) => [host.id, host.name]));
      const order = [...auth].sort((a, b) => Number(b.current) - Number(a.current) || used(b) - used(a));
      others.hidden = order.every((of) => of.current);
      fill(signIns, rows(order.map(signIn), "You are not signed in anywhere."));
      fill(
        reaching,
        rows(
          [...browser].sort((a, b) => used(b) - used(a)).map((of) => reach(of, names.get(of.host_id))),
          "Nothing reaches your hosts right now. Opening a host makes a session.",
        ),
      );
    } catch (error) {
      if (ended.signal.aborted) return;
      others.hidden = true;
      fill(signIns);
      fill(reaching);
      outcome.show("bad", apiMessage(error, "load the sessions"));
    }
  };

  const end = async (
    title: string,
    text: string,
    confirm: string,
    work: () => Promise<void>,
    after: () => Promise<void>,
  ) => {
    const done = await ask({
      title,
      content: [h("p", {}, text)],
      confirm,
      danger: true,
      act: async () => {
        try {
          await work();
        } catch (error) {
          return apiMessage(error, "end the session");
        }
        return undefined;
      },
    });
    if (done) await after();
  };
  const reload = async (said: string) => {
    outcome.show("good", said);
    await load();
    element.querySelector("h1")?.focus();
  };

  elsewhere.addEventListener("click", () => {
    void end(
      "Sign out everywhere else?",
      "Every other browser, agent and token of this account has to sign in again. Agents lose their connection within 5 seconds, and your hosts are offline until their agents are signed in anew. This browser stays signed in.",
      "Sign out all others",
      () => endOthers(context.api),
      () => reload("Every other sign-in was ended."),
    );
  });

  const signIn = (of: AuthSession): HTMLElement => {
    const called = of.name === "" ? KINDS[of.kind] : of.name;
    const button = h(
      "button",
      {
        type: "button",
        class: "button button-small",
        "aria-label": of.current ? "Sign out here" : `End ${called}`,
      },
      of.current ? "Sign out" : "End",
    );
    button.addEventListener("click", () => {
      void (of.current
        ? end(
            "Sign out here?",
            "This browser has to sign in again. It stays paired with your hosts.",
            "Sign out",
            () => context.api.endAuthSession(of.id),
            async () => void (await context.reload()),
          )
        : end(
            `End “${called}”?`,
            ENDS[of.kind],
            "End it",
            () => context.api.endAuthSession(of.id),
            () => reload(`“${called}” was ended.`),
          ));
    });
    return row(
      called,
      [badge(KINDS[of.kind]), of.current && badge("This browser", "good")],
      facts(of),
      button,
    );
  };

  const reach = (of: BrowserSession, host: string | undefined): HTMLElement => {
    const called = host ?? "A deleted host";
    const button = h(
      "button",
      { type: "button", class: "button button-small", "aria-label": `End the session for ${called}` },
      "End",
    );
    button.addEventListener("click", () => {
      void end(
        `End the session for ${called}?`,
        "Requests under way end at once. A paired browser of yours may open a new one.",
        "End it",
        () => context.api.endBrowserSession(of.id),
        () => reload(`The session for ${called} was ended.`),
      );
    });
    const left = Math.max(0, of.expires_at - context.api.now());
    return row(called, [], `${facts(of)} · ends in ${duration(left)}`, button);
  };

  const facts = (of: { created_at: number; last_used_at: number | null }) => {
    const now = context.api.now();
    const made = `Made ${ago(of.created_at, now)}`;
    return of.last_used_at === null ? made : `${made} · used ${ago(of.last_used_at, now)}`;
  };

  const element = h(
    "section",
    {},
    pageHeading("Sessions"),
    outcome.element,
    h("h2", {}, "Signed in to the relay"),
    h("p", { class: "hint" }, "Browsers, agents and tokens that act for your account."),
    signIns,
    others,
    h("h2", {}, "Reaching your hosts"),
    h(
      "p",
      { class: "hint" },
      "Each lets one browser send requests to one host. Hosts answer only those that a paired browser signed.",
    ),
    reaching,
  );
  void load();
  return { title: "Sessions", element, stop: () => ended.abort() };
}

/** Ends every other sign-in, those too that came since the page was loaded. */
async function endOthers(api: Api): Promise<void> {
  for (const of of await api.authSessions()) {
    if (of.current) continue;
    try {
      await api.endAuthSession(of.id);
    } catch (error) {
      // What ended by itself meanwhile is what was asked for.
      if (!(error instanceof Refused && error.code === "not_found")) throw error;
    }
  }
}

const used = (of: { created_at: number; last_used_at: number | null }) => of.last_used_at ?? of.created_at;

function rows(of: readonly HTMLElement[], none: string): HTMLElement {
  return of.length === 0 ? h("p", { class: "card none" }, none) : h("ul", { class: "card rows" }, ...of);
}

/** One line of a list: a name, badges, facts, and what can be done. */
export function row(
  name: string,
  badges: readonly (HTMLElement | false)[],
  facts: string,
  ...actions: HTMLElement[]
): HTMLElement {
  return h(
    "li",
    { class: "row" },
    h(
      "div",
      { class: "row-text" },
      h("div", { class: "row-name" }, h("span", { class: "row-title" }, name), ...badges),
      h("p", { class: "facts" }, facts),
    ),
    h("div", { class: "row-actions" }, ...actions),
  );
}
