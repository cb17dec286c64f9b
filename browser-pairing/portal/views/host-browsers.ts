// The browsers that the host knows, as the host itself lists them, and a code for the next device.

import type { PairedBrowser } from "../../src/index.js";
import { fill, h, setText } from "../dom.js";
import { ago, code, countdown, duration } from "../format.js";
import { hostMessage } from "../host-messages.js";
import { ask, askName, badge, busy, Outcome } from "../ui.js";
import type { HostContext, Panel } from "./host.js";
import { row } from "./sessions.js";

/** A browser's name has 1 to 100 characters (PROTOCOL.md section 3). */
const MAX_NAME = 100;
/** A code lives 5 minutes; where the browser's clock is off, no more than that is shown. */
const CODE_LIFE = 300;

export function browsersPanel(context: HostContext): Panel {
  const { host, page } = context;
  const outcome = new Outcome();
  const list = h("div", { class: "list-place" }, h("p", { class: "loading" }, "Asking the host…"));
  const next = h("div", { class: "next-code", role: "status" });
  const make = h("button", { type: "button", class: "button" }, "Make a code for my next device");
  let timer: ReturnType<typeof setInterval> | undefined;

  const title = h("h3", { tabindex: -1 }, "Paired browsers");
  const load = async () => {
    try {
      const all = await host.browsers().list();
      context.verified();
      const order = [...all].sort(
        (a, b) =>
          Number(b.current) - Number(a.current) ||
          (b.lastUsedAt ?? b.createdAt) - (a.lastUsedAt ?? a.createdAt),
      );
      fill(list, h("ul", { class: "card rows" }, ...order.map(line)));
    } catch (error) {
      fill(list);
      outcome.show("bad", hostMessage(context.failed(error)));
    }
  };
  /** Shows what was done. The list is made anew, and the button that was pressed is gone with the old one. */
  const reload = async (said: string) => {
    outcome.show("good", said);
    await load();
    title.focus();
  };
  const act = async (work: () => Promise<unknown>): Promise<string | undefined> => {
    try {
      await work();
    } catch (error) {
      return hostMessage(context.failed(error));
    }
    return undefined;
  };

  const line = (of: PairedBrowser): HTMLElement => {
    const rename = h(
      "button",
      { type: "button", class: "button button-small", "aria-label": `Rename ${of.name}` },
      "Rename",
    );
    const revoke = h(
      "button",
      { type: "button", class: "button button-small button-danger-text", "aria-label": `Revoke ${of.name}` },
      "Revoke",
    );
    rename.addEventListener("click", () => {
      let called = of.name;
      void askName(`Rename ${of.name}`, of.name, MAX_NAME, (typed) => {
        called = typed;
        return act(() => host.browsers().rename(of.id, typed));
      }).then((done) => (done ? reload(`The browser is now called ${called}.`) : undefined));
    });
    revoke.addEventListener("click", () => {
      void ask({
        title: `Revoke ${of.name}?`,
        content: [
          h(
            "p",
            {},
            of.current
              ? "That is the browser you are using. It loses the host at once and has to be paired again with a new code."
              : "It loses the host at once: its sessions end, and streams that are open are cut. To come back it has to be paired again.",
          ),
        ],
        confirm: "Revoke",
        danger: true,
        act: () => act(() => (of.current ? host.forget({ revoke: true }) : host.browsers().revoke(of.id))),
      }).then((done) => {
        if (!done) return;
        if (of.current) return page.go("#/");
        void reload(`${of.name} was revoked.`);
      });
    });
    const now = page.api.now();
    const kind = [of.browser, of.os, of.device].filter((part) => part !== "").join(", ");
    const used = of.lastUsedAt === undefined ? "not used yet" : `used ${ago(of.lastUsedAt, now)}`;
    const element = row(
      of.name,
      [of.current && badge("This browser", "good")],
      `${kind === "" ? "" : `${kind} · `}paired ${ago(of.createdAt, now)} · ${used}`,
      rename,
      revoke,
    );
    element.querySelector(".row-text")?.append(h("p", { class: "facts mono" }, of.fingerprint));
    return element;
  };

  make.addEventListener("click", () => {
    void busy(make, async () => {
      clearInterval(timer);
      try {
        const given = await host.nextDeviceCode();
        context.verified();
        showCode(given.code, Math.min(Math.max(given.expiresAt - page.api.now(), 0), CODE_LIFE));
      } catch (error) {
        fill(next);
        outcome.show("bad", hostMessage(context.failed(error)));
      }
    });
  });

  const showCode = (digits: string, seconds: number) => {
    const ends = performance.now() + seconds * 1000;
    const left = h("span", { "aria-hidden": "true" });
    fill(
      next,
      h("p", { class: "code" }, code(digits)),
      h(
        "p",
        { class: "hint" },
        "On the other device: sign in to this relay, choose this host, and type it. ",
        h("span", { class: "visually-hidden" }, `Good for ${duration(seconds)}.`),
        left,
      ),
    );
    const tick = () => {
      const rest = (ends - performance.now()) / 1000;
      if (rest > 0) return setText(left, `Good for ${countdown(rest)}.`);
      clearInterval(timer);
      fill(next, h("p", { class: "hint" }, "The code has expired. Make a new one when you need it."));
    };
    tick();
    timer = setInterval(tick, 1000);
  };

  return {
    element: h(
      "div",
      {},
      outcome.element,
      title,
      h("p", { class: "hint" }, "The host keeps this list itself and signs it; the relay has no say in it."),
      list,
      h(
        "div",
        { class: "card" },
        h("h3", {}, "My next device"),
        h(
          "p",
          { class: "hint" },
          "The host makes a code that only this browser can read. It is good for one guess and 5 minutes.",
        ),
        next,
        h("div", { class: "actions" }, make),
      ),
    ),
    shown: () => void load(),
    stop: () => clearInterval(timer),
  };
}
