// The frame around the pages: who is signed in, which page the address means, the navigation, the
// focus and the title on every change of page. Pages that need a sign-in show the sign-in in their
// place and keep their address, so that a link to them works once one is signed in.

import { type Api, isSignedOut, type Me, Refused } from "./api.js";
import { type Child, fill, h, setText } from "./dom.js";
import { apiMessage } from "./messages.js";
import { addressOf, links, parse, type Route } from "./router.js";
import type { Sdk } from "./sdk.js";
import { busy, notice, pageHeading, type Tone } from "./ui.js";
import type { Context, SignedIn, View } from "./view.js";
import { accountView } from "./views/account.js";
import { deviceView } from "./views/device.js";
import { hostView } from "./views/host.js";
import { hostsView } from "./views/hosts.js";
import { linkView } from "./views/link.js";
import { pairView } from "./views/pair.js";
import { sessionsView } from "./views/sessions.js";
import { signInView } from "./views/sign-in.js";
import { keepWanted, takeWanted } from "./wanted.js";

/** The cookie is renewed at half of its life, though not more often than this. */
const MIN_REFRESH_MS = 30_000;
/** `setTimeout` cannot wait longer. */
const MAX_REFRESH_MS = 2 ** 31 - 1;

/** A text counts as new to screen readers when its place was empty this long before. */
const ANNOUNCE_MS = 100;

/** When to renew a sign-in that ends at `expiresAt`; both in Unix seconds. */
export function refreshDelay(expiresAt: number, now: number): number {
  return Math.min(Math.max(((expiresAt - now) * 1000) / 2, MIN_REFRESH_MS), MAX_REFRESH_MS);
}

function byId(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no #${id}`);
  return element;
}

export function start(api: Api, sdk: Sdk): void {
  new App(api, sdk).start();
}

class App implements Context {
  readonly #main = byId("main");
  readonly #nav = byId("nav");
  readonly #announcer = byId("announcer");
  #me: Me | undefined;
  #ended = false;
  #route: Route = { page: "hosts" };
  #view: View | undefined;
  #refresh: ReturnType<typeof setTimeout> | undefined;
  #announcing: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly api: Api,
    readonly sdk: Sdk,
  ) {}

  start(): void {
    byId("skip").addEventListener("click", (event) => {
      event.preventDefault();
      this.#main.focus();
    });
    addEventListener("hashchange", () => this.#read());
    // A link to the address that is shown already changes no hash; it begins the page anew.
    document.addEventListener("click", (event) => {
      const link = event.target instanceof Element ? event.target.closest("a[href^='#/']") : null;
      const plain = !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
      if (plain && link?.getAttribute("href") === location.hash) this.#read();
    });
    this.api.onSignedOut = () => {
      if (this.#me === undefined) return;
      this.#me = undefined;
      this.#ended = true;
      this.#render();
    };
    // All tabs share one cookie: another one may have signed in somebody else meanwhile.
    const back = () => {
      if (this.#me !== undefined && !document.hidden) this.renew().catch(() => undefined);
    };
    document.addEventListener("visibilitychange", back);
    addEventListener("focus", back);
    this.#take();
    void this.reload().then(() => {
      // Who comes back within the life of the cookie stays signed in, however short the visits are.
      if (this.#me !== undefined) this.#extend();
    });
  }

  announce(text: string): void {
    clearTimeout(this.#announcing);
    setText(this.#announcer, "");
    if (text === "") return;
    // The same text twice is said twice only if the first was taken away in between.
    this.#announcing = setTimeout(() => setText(this.#announcer, text), ANNOUNCE_MS);
  }

  tell(tone: Tone, ...content: Child[]): void {
    this.#main.prepend(h("div", { class: "told" }, notice(tone, ...content)));
  }

  go(hash: string): void {
    if (location.hash === hash || (hash === "#/" && location.hash === "")) this.#read();
    else location.hash = hash;
  }

  async renew(): Promise<boolean> {
    const before = this.#me;
    const me = await this.api.me();
    // Somebody signed in or out here while the relay was asked: that is newer.
    if (this.#me !== before) return this.#me?.user.id === before?.user.id;
    this.#adopt(me);
    if (before === undefined || before.user.id === me.user.id) return true;
    this.#render();
    const said = `This browser is now signed in as ${me.user.email}, by another tab or window.`;
    this.tell("warn", said);
    this.announce(said);
    return false;
  }

  async reload(): Promise<Me | undefined> {
    try {
      this.#adopt(await this.api.me());
    } catch (error) {
      this.#me = undefined;
      if (!isSignedOut(error)) {
        this.#show(this.#broken(error));
        return undefined;
      }
    }
    this.#render();
    return this.#me;
  }

  #adopt(me: Me): void {
    clearTimeout(this.#refresh);
    this.#me = me;
    this.#ended = false;
    this.#keep(me.expires_at);
  }

  /** Renews the cookie in time. */
  #keep(expiresAt: number): void {
    this.#refresh = setTimeout(() => this.#extend(), refreshDelay(expiresAt, this.api.now()));
  }

  /** Renews the cookie now. A failure is no news: the next call to the relay tells. */
  #extend(): void {
    clearTimeout(this.#refresh);
    this.api
      .refresh()
      .then(() => this.renew())
      .catch(() => {
        if (this.#me !== undefined) this.#keep(this.#me.expires_at);
      });
  }

  /** Reads the address, and takes out of it at once what must not stay there. */
  #take(): void {
    const { route, replaceBy } = parse(location.pathname, location.search, location.hash);
    this.#route = route;
    if (replaceBy !== undefined) history.replaceState(null, "", replaceBy);
  }

  #read(): void {
    this.#take();
    this.#render();
  }

  #render(): void {
    this.#drawNav();
    this.#show(this.#pick());
  }

  leaves(): void {
    keepWanted(this.#route, Date.now(), () => sessionStorage);
  }

  #pick(): View {
    const me = this.#me;
    if (this.#route.page === "link") {
      const view = linkView(this, this.#route.token, me?.user.email);
      this.#route = { page: "sign-in" };
      return view;
    }
    if (me === undefined) {
      const failed = this.#route.page === "sign-in" ? this.#route.failed : undefined;
      return signInView(this, this.#ended, failed);
    }
    // Whoever left for a provider goes on where they were; whoever is elsewhere already wants that no more.
    const wanted = takeWanted(Date.now(), () => sessionStorage);
    const landed = this.#route.page === "hosts" || this.#route.page === "sign-in";
    if (landed && wanted !== undefined) {
      this.#route = wanted;
      history.replaceState(null, "", `/${addressOf(wanted)}`);
      this.#drawNav();
    }
    const context: SignedIn = {
      api: this.api,
      sdk: this.sdk,
      me,
      announce: (text) => this.announce(text),
      tell: (tone, ...content) => this.tell(tone, ...content),
      leaves: () => this.leaves(),
      go: (hash) => this.go(hash),
      renew: () => this.renew(),
      reload: () => this.reload(),
    };
    switch (this.#route.page) {
      case "hosts":
        return hostsView(context);
      case "sign-in":
        history.replaceState(null, "", `/${links.hosts}`);
        this.#route = { page: "hosts" };
        this.#drawNav();
        return hostsView(context);
      case "pair":
        return pairView(context, this.#route.hostId);
      case "host":
        return hostView(context, this.#route.hostId);
      case "device":
        return deviceView(context, this.#route.userCode);
      case "sessions":
        return sessionsView(context);
      case "account":
        return accountView(context);
      case "missing":
        return missing();
    }
  }

  #show(view: View): void {
    this.#view?.stop?.();
    this.#view = view;
    document.title = `${view.title} · Sidecar Relay`;
    this.announce("");
    for (const dialog of document.querySelectorAll("dialog")) dialog.close();
    fill(this.#main, view.element);
    scrollTo(0, 0);
    if (view.focus !== undefined) view.focus();
    else this.#main.querySelector("h1")?.focus({ preventScroll: true });
  }

  #drawNav(): void {
    const me = this.#me;
    if (me === undefined) {
      fill(this.#nav);
      return;
    }
    const link = (href: string, text: string, pages: readonly Route["page"][]) =>
      h("a", { href, "aria-current": pages.includes(this.#route.page) ? "page" : undefined }, text);
    const out = h("button", { type: "button", class: "link-button" }, "Sign out");
    out.addEventListener("click", () => {
      void busy(out, async () => {
        try {
          await this.api.logout();
        } catch (error) {
          if (!isSignedOut(error)) {
            this.announce(apiMessage(error, "sign out"));
            setText(out, "Sign out failed, try again");
            return;
          }
        }
        this.#me = undefined;
        this.#ended = false;
        clearTimeout(this.#refresh);
        this.go(links.signIn);
      });
    });
    fill(
      this.#nav,
      h(
        "nav",
        { "aria-label": "Main" },
        link(links.hosts, "Hosts", ["hosts", "host", "pair", "sign-in"]),
        link(links.device, "Add a device", ["device"]),
        link(links.sessions, "Sessions", ["sessions"]),
        link(links.account, "Account", ["account"]),
      ),
      h("div", { class: "who" }, h("span", { class: "who-mail", title: me.user.email }, me.user.email), out),
    );
  }

  #broken(error: unknown): View {
    const again = h("button", { type: "button", class: "button button-primary" }, "Try again");
    again.addEventListener("click", () => void busy(again, async () => void (await this.reload())));
    const owned = error instanceof Refused && error.code === "not_found";
    const text = owned
      ? "This relay does not keep users of its own: sign in at the web app that it belongs to."
      : apiMessage(error, "load your account");
    return {
      title: "Not available",
      element: h(
        "section",
        { class: "narrow" },
        pageHeading(owned ? "Signing in happens elsewhere" : "The relay does not answer"),
        notice("bad", text),
        h("div", { class: "actions" }, again),
      ),
    };
  }
}

function missing(): View {
  return {
    title: "No such page",
    element: h(
      "section",
      { class: "narrow" },
      pageHeading("There is no such page"),
      h("p", {}, "The address may be incomplete. ", h("a", { href: links.hosts }, "Go to your hosts"), "."),
    ),
  };
}
