// A bounded log of events or messages, newest at the end, that follows its end unless one scrolled up.

import { MAX_LOG } from "../console-model.js";
import { fill, h, setText } from "../dom.js";

/** Characters shown of one line; an event may be megabytes. */
const MAX_LINE = 4096;
/** Characters shown of a label: what an event calls itself comes from the host, too. */
const MAX_LABEL = 80;

const CLOCK = new Intl.DateTimeFormat([], {
  hour: "numeric",
  minute: "numeric",
  second: "numeric",
  hour12: false,
});

export type LogKind = "in" | "out" | "note" | "bad";

const SIGNS: Readonly<Record<LogKind, string>> = {
  in: "Received",
  out: "Sent",
  note: "Note",
  bad: "Problem",
};

export class Log {
  readonly #list = h("ol", { class: "log-list" });
  readonly #scroller: HTMLElement;
  readonly #count = h("span", { class: "hint" });
  readonly element: HTMLElement;
  /** Lines for the next frame: the layout is asked once a frame, however fast lines come. */
  readonly #waiting = document.createDocumentFragment();
  #drawing = false;
  #total = 0;

  constructor(label: string) {
    this.#scroller = h(
      "div",
      { class: "log", role: "log", "aria-live": "off", "aria-label": label, tabindex: 0 },
      this.#list,
    );
    const clear = h("button", { type: "button", class: "button button-small" }, "Clear");
    clear.addEventListener("click", () => this.clear());
    this.element = h(
      "div",
      { class: "card log-card" },
      h("div", { class: "log-head" }, h("h3", {}, label), this.#count, clear),
      this.#scroller,
    );
    this.clear();
  }

  clear(): void {
    fill(this.#list);
    this.#waiting.replaceChildren();
    this.#total = 0;
    setText(this.#count, "Nothing yet");
  }

  add(kind: LogKind, label: string, text: string): void {
    const shown = text.length > MAX_LINE ? `${text.slice(0, MAX_LINE)}… (${text.length} characters)` : text;
    const sign = label.length > MAX_LABEL ? `${label.slice(0, MAX_LABEL)}…` : label;
    const now = new Date();
    this.#waiting.append(
      h(
        "li",
        { class: `log-line log-${kind}` },
        h("time", { datetime: now.toISOString() }, CLOCK.format(now)),
        h("span", { class: "log-sign" }, sign === "" ? SIGNS[kind] : sign),
        h("span", { class: "log-text" }, shown),
      ),
    );
    // A page that is not seen gets no frames; it keeps no more than it would show.
    while (this.#waiting.childElementCount > MAX_LOG) this.#waiting.firstElementChild?.remove();
    this.#total += 1;
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  #draw(): void {
    if (this.#waiting.childElementCount === 0) return;
    const follow = this.#scroller.scrollHeight - this.#scroller.scrollTop - this.#scroller.clientHeight < 8;
    this.#list.append(this.#waiting);
    while (this.#list.childElementCount > MAX_LOG) this.#list.firstElementChild?.remove();
    setText(
      this.#count,
      this.#total > MAX_LOG ? `${this.#total}, the last ${MAX_LOG} shown` : String(this.#total),
    );
    if (follow) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
}
