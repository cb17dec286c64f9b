// The request console: method, path, headers, body; the answer with its timing, streamed as it comes.

import {
  BodyView,
  check,
  type Draft,
  type Entry,
  METHODS,
  type Method,
  remember,
  statusKind,
  statusLine,
  takesBody,
} from "../console-model.js";
import { fill, h, setText, uniqueId } from "../dom.js";
import { bytes, milliseconds } from "../format.js";
import { hostMessage } from "../host-messages.js";
import { cardForm, field, Outcome } from "../ui.js";
import type { HostContext, Panel } from "./host.js";

export function requestPanel(context: HostContext): Panel {
  const methodId = uniqueId("method");
  const method = h(
    "select",
    { id: methodId, class: "input" },
    ...METHODS.map((name) => h("option", { value: name }, name)),
  );
  const path = field("Path", {
    value: "/",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    inputmode: "url",
  });
  const headers = area("Headers", "One a line: name: value", 3);
  const body = area("Body", "Sent as it stands here, in UTF-8", 5);
  const send = h("button", { type: "submit", class: "button button-primary" }, "Send");
  const cancel = h("button", { type: "button", class: "button", hidden: true }, "Cancel");
  const outcome = new Outcome();
  const response = h("section", { class: "card response", "aria-label": "Response", hidden: true });
  const past = h("ol", { class: "history" });
  const pastPart = h(
    "section",
    { class: "history-part", "aria-label": "History of this page", hidden: true },
    h("h3", {}, "History of this page"),
    past,
  );
  const more = h("details", { class: "more" }, h("summary", {}, "Headers and body"), headers.row, body.row);
  let history: readonly Entry[] = [];
  let lastId = 0;
  let running: AbortController | undefined;

  const read = (): Draft => ({
    method: method.value as Method,
    path: path.input.value,
    headers: headers.input.value,
    body: body.input.value,
  });
  const write = (draft: Draft) => {
    method.value = draft.method;
    path.input.value = draft.path;
    headers.input.value = draft.headers;
    body.input.value = draft.body;
    more.open = draft.headers !== "" || draft.body !== "";
    adapt();
  };
  const adapt = () => {
    body.row.hidden = !takesBody(method.value as Method) && body.input.value === "";
    body.complain("");
  };
  const note = (entry: Entry) => {
    history = remember(history, entry);
    pastPart.hidden = false;
    fill(past, ...history.map(line));
  };
  const line = (entry: Entry): HTMLElement => {
    const again = h(
      "button",
      {
        type: "button",
        class: "history-entry",
        "aria-label": `Take ${entry.draft.method} ${entry.draft.path} into the form, ${entry.outcome}`,
      },
      h("span", { class: "history-method" }, entry.draft.method),
      h("span", { class: "history-path" }, entry.draft.path),
      h(
        "span",
        { class: "history-outcome" },
        entry.totalMs === undefined ? entry.outcome : `${entry.outcome} · ${milliseconds(entry.totalMs)}`,
      ),
    );
    again.addEventListener("click", () => {
      write(entry.draft);
      path.input.focus();
    });
    return h("li", {}, again);
  };

  const run = async () => {
    if (running !== undefined) return;
    const draft = read();
    const checked = check(draft);
    if (!checked.ok) {
      const at = { path, headers, body }[checked.field];
      if (checked.field !== "path") more.open = true;
      at.complain(checked.complaint);
      at.input.focus();
      return;
    }
    outcome.clear();
    response.hidden = true;
    const abort = new AbortController();
    running = abort;
    send.setAttribute("aria-busy", "true");
    cancel.hidden = false;
    lastId += 1;
    const id = lastId;
    const started = performance.now();
    const since = () => performance.now() - started;
    note({ id, draft, outcome: "…", totalMs: undefined });
    let said = "";
    try {
      const answer = await context.host.fetch(checked.path, {
        method: draft.method,
        headers: checked.headers.map(([name, value]): [string, string] => [name, value]),
        redirect: "manual",
        signal: abort.signal,
        ...(checked.body === undefined ? {} : { body: checked.body }),
      });
      context.verified();
      said = String(answer.status);
      context.page.announce(`Answered ${statusLine(answer.status)}.`);
      await show(response, answer, since);
    } catch (error) {
      const of = context.failed(error);
      const cancelled = abort.signal.aborted;
      outcome.show(cancelled ? "info" : "bad", cancelled ? "Cancelled." : hostMessage(of));
      said = cancelled ? "cancelled" : said === "" ? of.code : `${said}, ${of.code}`;
    }
    running = undefined;
    send.removeAttribute("aria-busy");
    if (document.activeElement === cancel) send.focus();
    cancel.hidden = true;
    note({ id, draft, outcome: said, totalMs: since() });
  };

  method.addEventListener("change", adapt);
  cancel.addEventListener("click", () => running?.abort());
  const form = cardForm(
    () => {
      void run();
    },
    h(
      "div",
      { class: "request-line" },
      h("div", { class: "field method" }, h("label", { for: methodId }, "Method"), method),
      path.row,
      h("div", { class: "actions" }, send, cancel),
    ),
    more,
    outcome.element,
  );
  adapt();
  return {
    element: h("div", {}, form, response, pastPart),
    stop: () => running?.abort(),
  };
}

/** Draws an answer while it arrives. */
async function show(place: HTMLElement, answer: Response, since: () => number): Promise<void> {
  const firstByte = since();
  const view = new BodyView(answer.headers.get("content-type"));
  const timing = h("p", { class: "timing" });
  const text = document.createTextNode("");
  const pre = h("pre", { class: "body", tabindex: 0, "aria-label": "Body of the response" }, text);
  const remark = h("p", { class: "hint" });
  const all = [...answer.headers];
  place.hidden = false;
  fill(
    place,
    h(
      "div",
      { class: "response-head" },
      h("h3", { class: `http-status http-${statusKind(answer.status)}` }, statusLine(answer.status)),
      timing,
    ),
    h(
      "details",
      { class: "more" },
      h("summary", {}, `Headers (${all.length})`),
      h(
        "dl",
        { class: "header-list" },
        ...all.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
      ),
    ),
    pre,
    remark,
  );
  const measure = (end: string) =>
    setText(
      timing,
      `First byte ${milliseconds(firstByte)} · ${end} ${milliseconds(since())} · ${bytes(view.total)}`,
    );
  measure("so far");

  let pending = "";
  let frame = 0;
  const draw = () => {
    frame = 0;
    text.appendData(pending);
    pending = "";
    pre.classList.toggle("hex", view.kind === "hex");
    if (view.cut) setText(remark, "There is more than this page shows; the rest is only counted.");
  };
  const reader = answer.body?.getReader();
  try {
    while (reader !== undefined) {
      const { done, value } = await reader.read();
      if (done) break;
      pending += view.push(value);
      measure("so far");
      if (frame === 0) frame = requestAnimationFrame(draw);
    }
    measure("total");
  } catch (error) {
    measure("broke off after");
    throw error;
  } finally {
    cancelAnimationFrame(frame);
    pending += view.finish();
    draw();
    if (view.total === 0) setText(remark, "The body is empty.");
  }
}

interface Area {
  readonly row: HTMLElement;
  readonly input: HTMLTextAreaElement;
  complain(text: string): void;
}

function area(label: string, hint: string, rows: number): Area {
  const id = uniqueId("area");
  const problem = h("p", { class: "field-problem", id: `${id}-problem` });
  const input = h("textarea", {
    id,
    class: "input mono",
    rows,
    spellcheck: "false",
    autocapitalize: "off",
    autocomplete: "off",
    "aria-describedby": `${id}-hint ${id}-problem`,
  });
  const complain = (text: string) => {
    setText(problem, text);
    if (text === "") input.removeAttribute("aria-invalid");
    else input.setAttribute("aria-invalid", "true");
  };
  input.addEventListener("input", () => complain(""));
  return {
    row: h(
      "div",
      { class: "field" },
      h("label", { for: id }, label),
      input,
      h("p", { class: "hint", id: `${id}-hint` }, hint),
      problem,
    ),
    input,
    complain,
  };
}
