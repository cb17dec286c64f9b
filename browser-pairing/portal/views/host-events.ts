// An event stream, live. An EventSource hands out named events only to those who ask for the name, so
// the names are part of the form.

import { checkPath } from "../console-model.js";
import { fill, h } from "../dom.js";
import { hostMessage } from "../host-messages.js";
import { cardForm, field, status } from "../ui.js";
import type { HostContext, Panel } from "./host.js";
import { Log } from "./log.js";

/** Names asked for at once. */
const MAX_NAMES = 20;

export function eventsPanel(context: HostContext): Panel {
  const path = field("Path", {
    value: "/events",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    inputmode: "url",
  });
  const names = field(
    "Event names",
    { autocomplete: "off", autocapitalize: "off", spellcheck: "false", placeholder: "update, progress" },
    "Beside unnamed events; separated by commas.",
  );
  const toggle = h("button", { type: "submit", class: "button button-primary" }, "Listen");
  const state = h("div", { class: "live-state", role: "status" }, status("off", "Not listening"));
  const log = new Log("Events");
  let source: EventSource | undefined;

  const stop = () => {
    source?.close();
    source = undefined;
    toggle.textContent = "Listen";
    fill(state, status("off", "Not listening"));
  };
  const listen = () => {
    const checked = checkPath(path.input.value);
    if ("complaint" in checked) {
      path.complain(checked.complaint);
      path.input.focus();
      return;
    }
    let opened: EventSource;
    try {
      opened = context.host.eventSource(checked.path);
    } catch (error) {
      log.add("bad", "", hostMessage(context.failed(error)));
      return;
    }
    source = opened;
    toggle.textContent = "Stop";
    fill(state, status("wait", "Connecting…"));
    opened.addEventListener("open", () => {
      if (source !== opened) return;
      context.verified();
      fill(state, status("on", "Listening"));
      log.add("note", "", `Connected to ${checked.path}`);
    });
    opened.addEventListener("error", (event) => {
      if (source !== opened) return;
      const error = "error" in event ? event.error : undefined;
      const text = error === undefined ? "The stream broke off." : hostMessage(context.failed(error));
      log.add("bad", "", text);
      // Being told that the pairing is gone ends this panel.
      if (source !== opened) return;
      if (opened.readyState === opened.CLOSED) stop();
      else fill(state, status("wait", "Connecting again…"));
    });
    const wanted = names.input.value.split(",").map((name) => name.trim());
    for (const name of new Set(["message", ...wanted.filter((name) => name !== "").slice(0, MAX_NAMES)])) {
      opened.addEventListener(name, (event) => {
        if (source !== opened || !("data" in event)) return;
        const { data, lastEventId, type } = event as MessageEvent;
        log.add("in", lastEventId === "" ? type : `${type} #${lastEventId}`, String(data));
      });
    }
  };

  const form = cardForm(
    () => {
      if (source === undefined) listen();
      else stop();
    },
    h("div", { class: "request-line" }, path.row, names.row, h("div", { class: "actions" }, toggle)),
    state,
  );
  return { element: h("div", {}, form, log.element), stop };
}
