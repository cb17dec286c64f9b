// Parts that several pages share: notices, status marks, dialogs, buttons that wait for their work.

import { append, type Child, fill, h, setText, uniqueId } from "./dom.js";

export type Tone = "info" | "good" | "warn" | "bad";

const MARKS: Readonly<Record<Tone, string>> = { info: "Note", good: "Done", warn: "Careful", bad: "Problem" };

/** A message in the page. The word in front says in text what the colour says. */
export function notice(tone: Tone, ...content: Child[]): HTMLElement {
  return h(
    "div",
    { class: `notice notice-${tone}` },
    h("span", { class: "notice-mark" }, MARKS[tone]),
    h("div", { class: "notice-text" }, ...content),
  );
}

/** A place for outcomes of a form: what is put there is read out. */
export class Outcome {
  readonly element = h("div", { class: "outcome", role: "status", "aria-live": "polite" });

  show(tone: Tone, ...content: Child[]): void {
    fill(this.element, notice(tone, ...content));
  }

  clear(): void {
    this.element.replaceChildren();
  }
}

/** A coloured dot and its meaning in words. */
export function status(kind: "on" | "off" | "wait" | "bad", text: string): HTMLElement {
  return h(
    "span",
    { class: `status status-${kind}` },
    h("span", { class: "dot", "aria-hidden": "true" }),
    h("span", { class: "status-text" }, text),
  );
}

export function badge(text: string, tone: "plain" | "good" = "plain"): HTMLElement {
  return h("span", { class: `badge badge-${tone}` }, text);
}

export interface Field {
  readonly row: HTMLElement;
  readonly input: HTMLInputElement;
  complain(text: string): void;
}

/** A labelled input with a hint and a place for its complaint. */
export function field(
  label: string,
  attributes: Readonly<Record<string, string | number | boolean>>,
  hint?: string,
): Field {
  const id = uniqueId("field");
  const problem = h("p", { class: "field-problem", id: `${id}-problem` });
  const input = h("input", {
    id,
    class: "input",
    "aria-describedby": hint === undefined ? `${id}-problem` : `${id}-hint ${id}-problem`,
    ...attributes,
  });
  const row = h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    input,
    hint !== undefined && h("p", { class: "hint", id: `${id}-hint` }, hint),
    problem,
  );
  const complain = (text: string) => {
    setText(problem, text);
    if (text === "") input.removeAttribute("aria-invalid");
    else input.setAttribute("aria-invalid", "true");
  };
  input.addEventListener("input", () => complain(""));
  return { row, input, complain };
}

/** Runs a button's work: busy meanwhile, never twice at a time, and with the focus where it was. */
export async function busy(button: HTMLButtonElement, work: () => Promise<void>): Promise<void> {
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  button.setAttribute("aria-disabled", "true");
  try {
    await work();
  } finally {
    button.removeAttribute("aria-busy");
    button.removeAttribute("aria-disabled");
  }
}

interface DialogParts {
  readonly title: string;
  readonly content: readonly Child[];
  readonly confirm: string;
  readonly danger?: boolean;
  /** Does the work; a text keeps the dialog open and shows what went wrong. */
  readonly act: () => Promise<string | undefined>;
}

/** A modal question. Resolves to whether it was confirmed and done; the focus returns to where it was. */
export function ask(parts: DialogParts): Promise<boolean> {
  return new Promise((resolve) => {
    const titleId = uniqueId("dialog");
    const outcome = new Outcome();
    let done = false;
    let working: Promise<void> | undefined;
    const work = async () => {
      outcome.clear();
      const problem = await parts.act();
      if (problem !== undefined) {
        if (problem !== "") outcome.show("bad", problem);
        return;
      }
      done = true;
      dialog.close();
    };
    const submit = h(
      "button",
      { type: "submit", class: parts.danger === true ? "button button-danger" : "button button-primary" },
      parts.confirm,
    );
    const cancel = h("button", { type: "button", class: "button" }, "Cancel");
    const form: HTMLFormElement = h(
      "form",
      {
        novalidate: true,
        on: {
          submit: (event: SubmitEvent) => {
            event.preventDefault();
            if (working !== undefined) return;
            working = busy(submit, work).finally(() => {
              working = undefined;
            });
          },
        },
      },
      h("h2", { id: titleId }, parts.title),
      ...parts.content,
      outcome.element,
      h("div", { class: "actions" }, submit, cancel),
    );
    const before = document.activeElement;
    const dialog: HTMLDialogElement = h("dialog", { class: "dialog", "aria-labelledby": titleId }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
      // Where the page closed it amid the work: only the end of that tells whether it was done.
      if (working === undefined) resolve(done);
      else void working.finally(() => resolve(done));
    });
    // What was begun cannot be called back: until it has ended, neither key nor button dismisses it.
    // Browsers let a second Escape pass `cancel`, so the key itself is taken, too.
    dialog.addEventListener("cancel", (event) => {
      if (working !== undefined) event.preventDefault();
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && working !== undefined) event.preventDefault();
    });
    cancel.addEventListener("click", () => {
      if (working === undefined) dialog.close();
    });
    document.body.append(dialog);
    dialog.showModal();
    const first = dialog.querySelector("input");
    (first ?? (parts.danger === true ? cancel : submit)).focus();
    first?.select();
  });
}

/** Asks for a name, up to `max` characters. */
export function askName(
  title: string,
  current: string,
  max: number,
  save: (name: string) => Promise<string | undefined>,
): Promise<boolean> {
  const name = field("Name", { value: current, maxlength: max, autocomplete: "off", required: true });
  return ask({
    title,
    content: [name.row],
    confirm: "Save",
    act: async () => {
      const typed = name.input.value.trim();
      if (typed === "") {
        name.complain("Give it a name.");
        name.input.focus();
        return "";
      }
      return save(typed);
    },
  });
}

/** A line to type in a terminal, with a button that copies it. */
export function command(line: string): HTMLElement {
  const copy = h(
    "button",
    { type: "button", class: "button button-small", "aria-label": `Copy: ${line}` },
    "Copy",
  );
  copy.addEventListener("click", () => {
    void busy(copy, async () => {
      try {
        await navigator.clipboard.writeText(line);
        setText(copy, "Copied");
      } catch {
        setText(copy, "Select it");
      }
      setTimeout(() => setText(copy, "Copy"), 2000);
    });
  });
  return h("div", { class: "command" }, h("code", {}, line), copy);
}

/** The heading of a page, which gets the focus when the page changes. */
export function pageHeading(text: string, ...beside: Child[]): HTMLElement {
  const row = h("div", { class: "page-head" }, h("h1", { tabindex: -1 }, text));
  append(row, beside);
  return row;
}

/** A form on a card, whose sending is the page's own business. */
export function cardForm(onSubmit: () => void, ...children: Child[]): HTMLFormElement {
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    onSubmit();
  };
  return h("form", { class: "card form", novalidate: true, on: { submit } }, ...children);
}
