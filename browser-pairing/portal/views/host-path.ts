// Which way requests to a host take: over the relay or directly, how far that is and what went over it.

import { fill, h, setText } from "../dom.js";
import { bytes, milliseconds } from "../format.js";
import type { Paired } from "../sdk.js";
import { badge } from "../ui.js";

type Path = Paired["path"];

/** How often the numbers are looked at, in milliseconds. */
const EVERY = 1000;

/** What the mark says: a word, a sentence for who hears it, and the numbers. */
export function pathWords(path: Path): { word: string; sentence: string; numbers: string } {
  if (path.kind === "relay") {
    return { word: "Relay", sentence: "Requests go over the relay.", numbers: "" };
  }
  const turn = path.candidate === "relay";
  const numbers = [`${bytes(path.sent)} sent`, `${bytes(path.received)} received`];
  if (path.rtt !== undefined) numbers.unshift(`${milliseconds(path.rtt)} round trip`);
  return {
    word: turn ? "Direct, TURN" : "Direct",
    sentence: turn
      ? "Requests go to the host through a TURN server, past the relay."
      : "Requests go directly to the host.",
    numbers: numbers.join(" · "),
  };
}

/** The mark, which follows the host until it is stopped. */
export function pathMark(
  host: Paired,
  announce: (text: string) => void,
): { readonly element: HTMLElement; stop(): void } {
  const word = h("span", { "aria-hidden": "true" });
  const spoken = h("span", { class: "visually-hidden" });
  const numbers = h("span", { class: "trust-numbers" });
  const element = h("span", { class: "trust-path" }, word, spoken, numbers);
  let last = "";
  const show = () => {
    const words = pathWords(host.path);
    setText(numbers, words.numbers);
    if (words.word === last) return;
    if (last !== "") announce(words.sentence);
    last = words.word;
    fill(word, badge(words.word, host.path.kind === "relay" ? "plain" : "good"));
    setText(spoken, `${words.sentence} `);
  };
  show();
  host.addEventListener("path", show);
  const timer = setInterval(show, EVERY);
  return { element, stop: () => clearInterval(timer) };
}
