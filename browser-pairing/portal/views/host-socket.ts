// A WebSocket to the host: connect, send, watch.

import { checkPath, hexRows } from "../console-model.js";
import { fill, h } from "../dom.js";
import { bytes } from "../format.js";
import { hostMessage } from "../host-messages.js";
import { cardForm, field, status } from "../ui.js";
import type { HostContext, Panel } from "./host.js";
import { Log } from "./log.js";

/** Bytes shown of a binary message. */
const MAX_SHOWN = 256;

export function socketPanel(context: HostContext): Panel {
  const path = field("Path", {
    value: "/ws",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    inputmode: "url",
  });
  const protocols = field(
    "Sub-protocols",
    { autocomplete: "off", autocapitalize: "off", spellcheck: "false" },
    "Optional, separated by commas.",
  );
  const toggle = h("button", { type: "submit", class: "button button-primary" }, "Connect");
  const state = h("div", { class: "live-state", role: "status" }, status("off", "Not connected"));
  const message = field("Message", { autocomplete: "off", spellcheck: "false" });
  const send = h("button", { type: "submit", class: "button", disabled: true }, "Send");
  const log = new Log("Messages");
  let socket: WebSocket | undefined;

  const closed = (text: string) => {
    socket = undefined;
    toggle.textContent = "Connect";
    send.disabled = true;
    fill(state, status("off", text));
  };
  const connect = () => {
    const checked = checkPath(path.input.value);
    if ("complaint" in checked) {
      path.complain(checked.complaint);
      path.input.focus();
      return;
    }
    const wanted = protocols.input.value.split(",").map((name) => name.trim());
    let opened: WebSocket;
    try {
      opened = context.host.webSocket(
        checked.path,
        wanted.filter((name) => name !== ""),
      );
    } catch (error) {
      if (error instanceof DOMException && error.name === "SyntaxError") {
        protocols.complain("These are no names of sub-protocols.");
        protocols.input.focus();
      } else log.add("bad", "", hostMessage(context.failed(error)));
      return;
    }
    opened.binaryType = "arraybuffer";
    socket = opened;
    toggle.textContent = "Disconnect";
    fill(state, status("wait", "Connecting…"));
    opened.addEventListener("open", () => {
      if (socket !== opened) return;
      context.verified();
      send.disabled = false;
      fill(state, status("on", opened.protocol === "" ? "Connected" : `Connected, ${opened.protocol}`));
      log.add("note", "", `Connected to ${checked.path}`);
      message.input.focus();
    });
    opened.addEventListener("message", (event: MessageEvent<unknown>) => {
      if (event.data instanceof ArrayBuffer) {
        const data = new Uint8Array(event.data);
        log.add("in", bytes(data.length), hexRows(data.subarray(0, MAX_SHOWN), 0).trimEnd());
      } else log.add("in", "", String(event.data));
    });
    opened.addEventListener("error", (event) => {
      if ("error" in event && event.error !== undefined)
        log.add("bad", "", hostMessage(context.failed(event.error)));
    });
    opened.addEventListener("close", (event) => {
      log.add(
        event.wasClean ? "note" : "bad",
        "",
        `Closed with ${event.code}${event.reason === "" ? "" : `: ${event.reason}`}${event.wasClean ? "" : ", abnormally"}`,
      );
      if (socket === opened) closed("Not connected");
    });
  };

  const form = cardForm(
    () => {
      if (socket === undefined) connect();
      else socket.close(1000);
    },
    h("div", { class: "request-line" }, path.row, protocols.row, h("div", { class: "actions" }, toggle)),
    state,
  );
  const sending = cardForm(
    () => {
      if (socket?.readyState !== WebSocket.OPEN) return;
      socket.send(message.input.value);
      log.add("out", "", message.input.value);
      message.input.value = "";
      message.input.focus();
    },
    h("div", { class: "request-line" }, message.row, h("div", { class: "actions" }, send)),
  );
  return {
    element: h("div", {}, form, sending, log.element),
    stop: () => {
      const open = socket;
      closed("Not connected");
      open?.close(1000);
    },
  };
}
