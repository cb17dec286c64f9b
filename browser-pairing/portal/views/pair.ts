// Pairing: six digits from the machine make this browser known to it. The code goes into the SDK and
// nowhere else: not into the address, not to the relay, not into any log.

import { RelayError } from "../../src/errors.js";
import { type Host, Refused } from "../api.js";
import { fill, h, uniqueId } from "../dom.js";
import { ago, browserName } from "../format.js";
import { failure, needsNewCode, pairingMessage } from "../host-messages.js";
import { apiMessage } from "../messages.js";
import { poll } from "../poll.js";
import { links } from "../router.js";
import type { Paired } from "../sdk.js";
import { busy, cardForm, command, field, notice, Outcome, pageHeading, status } from "../ui.js";
import type { SignedIn, View } from "../view.js";
import { codeBoxes } from "./code-boxes.js";

/** A browser's name has 1 to 100 characters (PROTOCOL.md section 3). */
const MAX_NAME = 100;

export function pairView(context: SignedIn, hostId: string): View {
  const ended = new AbortController();
  const outcome = new Outcome();
  const hintId = uniqueId("code-hint");
  const state = h("div", { class: "host-state" });
  const heading = pageHeading("Pair this browser", state);
  const lead = h("p", { class: "lead" }, "Make this browser known to the machine, once.");
  const name = field(
    "Name of this browser",
    { value: browserName(navigator.userAgent), maxlength: MAX_NAME, autocomplete: "off" },
    "The machine lists it under this name.",
  );
  const submit = h("button", { type: "submit", class: "button button-primary button-wide" }, "Pair");
  const boxes = codeBoxes("Pairing code, six digits", hintId, () => void send());
  const element = h("section", { class: "narrow" }, heading);

  const send = () => busy(submit, pair);
  const pair = async () => {
    const code = boxes.value();
    if (code === undefined) {
      outcome.show("warn", "Type all six digits.");
      boxes.focus();
      return;
    }
    boxes.invalid(false);
    boxes.disable(true);
    outcome.show("info", "Proving the code to the machine…");
    try {
      const chosen = name.input.value.trim();
      const host = await context.sdk.pair(
        hostId,
        code,
        chosen === "" ? browserName(navigator.userAgent) : chosen,
        ended.signal,
      );
      success(host);
    } catch (error) {
      if (ended.signal.aborted) return;
      const of = failure(error);
      outcome.show("bad", ...pairingMessage(of));
      boxes.disable(false);
      boxes.invalid(needsNewCode(of));
      if (needsNewCode(of)) boxes.clear();
      else boxes.focus();
    }
  };

  const success = (host: Paired) => {
    const { fingerprint, name: called } = host;
    host.close();
    asking.stop();
    if (ended.signal.aborted) return;
    const open = h("a", { class: "button button-primary", href: links.host(hostId) }, "Open the host");
    fill(
      element,
      pageHeading("This browser is paired"),
      h(
        "p",
        { class: "lead" },
        called === "" ? "The machine knows this browser now." : `${called} knows this browser now.`,
      ),
      h(
        "div",
        { class: "card fingerprint-card" },
        h("h2", {}, "Compare the fingerprint"),
        h("p", { class: "fingerprint" }, fingerprint),
        h(
          "p",
          {},
          "The machine shows the same four groups. If it shows others, revoke this browser on the machine at once with ",
          h("code", {}, "local-agent-client browsers revoke"),
          ".",
        ),
      ),
      h(
        "div",
        { class: "actions" },
        open,
        h("a", { class: "button", href: links.hosts }, "Back to your hosts"),
      ),
    );
    element.querySelector("h1")?.focus();
    context.announce(`Paired. The fingerprint is ${fingerprint}.`);
  };

  const form = cardForm(
    () => {
      void send();
    },
    h(
      "ol",
      { class: "steps" },
      h("li", {}, "On the machine, make a code:", command("local-agent-client pair")),
      h(
        "li",
        {},
        h("span", { id: hintId }, "Type the six digits here. They are good for 5 minutes and for one guess."),
        boxes.element,
      ),
    ),
    name.row,
    outcome.element,
    submit,
  );
  element.append(
    lead,
    form,
    h(
      "p",
      { class: "hint below" },
      "The code never leaves this page: the browser and the machine prove to each other that both know it, and the relay between them learns nothing. These pages do come from the relay, so whoever runs it is trusted with them.",
    ),
  );
  if (!globalThis.isSecureContext) {
    form.before(notice("bad", ...pairingMessage(failure(new RelayError("insecure_context")))));
  }

  const show = (host: Host | undefined) => {
    if (host === undefined) {
      fill(state, status("off", "Unknown host"));
      lead.textContent = "The relay does not list this host for your account. It may have been deleted.";
      return;
    }
    const online = host.status === "online";
    const seen = host.last_seen_at === null ? "" : `, last seen ${ago(host.last_seen_at, context.api.now())}`;
    const text = online ? "Online" : `Offline${seen}`;
    if (state.textContent !== text) fill(state, status(online ? "on" : "off", text));
    lead.textContent = online
      ? `Make this browser known to ${host.name}, once.`
      : `${host.name} is offline. Start the agent there first: it has to be connected while you pair.`;
  };
  const asking = poll(async (signal) => {
    try {
      const hosts = await context.api.hosts(signal);
      if (!signal.aborted) show(hosts.find((host) => host.id === hostId));
    } catch (error) {
      if (!signal.aborted && !(error instanceof Refused)) fill(state, status("wait", "Relay not reachable"));
      if (!signal.aborted && error instanceof Refused && error.code !== "unauthorized")
        lead.textContent = apiMessage(error, "look up the host");
      throw error;
    }
  });

  return {
    title: "Pair this browser",
    element,
    stop: () => {
      ended.abort();
      asking.stop();
    },
    focus: () => boxes.focus(),
  };
}
