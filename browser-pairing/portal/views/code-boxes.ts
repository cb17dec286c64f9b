// Six boxes for six digits: one labelled group, paste, auto-advance, arrow keys. What the keys mean is
// decided in code-input.ts.

import {
  type Boxes,
  backspace,
  CODE_LENGTH,
  complete,
  digitsOf,
  EMPTY,
  insert,
  move,
  remove,
} from "../code-input.js";
import { h } from "../dom.js";

export interface CodeBoxes {
  readonly element: HTMLElement;
  /** Empties the boxes and puts the cursor into the first. */
  clear(): void;
  focus(): void;
  value(): string | undefined;
  disable(disabled: boolean): void;
  invalid(invalid: boolean): void;
}

export function codeBoxes(label: string, describedBy: string, onComplete: () => void): CodeBoxes {
  let boxes: Boxes = EMPTY;
  const inputs: HTMLInputElement[] = [];

  const draw = (next: Boxes, focus = true) => {
    boxes = next;
    for (const [index, input] of inputs.entries()) input.value = boxes.digits[index] ?? "";
    const at = inputs[boxes.at];
    if (focus) {
      at?.focus();
      at?.select();
    }
  };
  const take = (at: number, text: string) => {
    const before = boxes.digits.join();
    draw(insert(boxes, at, text));
    // A code that is pasted again is meant, too; moving about in a full row is not.
    const meant = boxes.digits.join() !== before || digitsOf(text).length >= CODE_LENGTH;
    if (complete(boxes) !== undefined && meant) onComplete();
  };

  for (let index = 0; index < CODE_LENGTH; index += 1) {
    const input = h("input", {
      class: "box",
      type: "text",
      inputmode: "numeric",
      pattern: "[0-9]*",
      autocomplete: index === 0 ? "one-time-code" : "off",
      "aria-label": `Digit ${index + 1} of ${CODE_LENGTH}`,
      autocapitalize: "off",
      spellcheck: "false",
      enterkeyhint: "go",
    });
    input.addEventListener("focus", () => input.select());
    input.addEventListener("paste", (event) => {
      event.preventDefault();
      if (!input.readOnly) take(index, event.clipboardData?.getData("text") ?? "");
    });
    // Typing, and whatever fills boxes without keys: on-screen keyboards, password managers.
    input.addEventListener("input", () => {
      // Emptied without the Backspace or Delete key: by cutting, Ctrl+Backspace, an on-screen keyboard.
      if (input.value === "") draw(remove(boxes, index));
      else take(index, newText(input.value, boxes.digits[index] ?? ""));
    });
    input.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const to = move(index, event.key);
      if (to !== undefined) draw({ digits: boxes.digits, at: to });
      else if (input.readOnly) return;
      else if (event.key === "Backspace") draw(backspace(boxes, index));
      else if (event.key === "Delete") draw(remove(boxes, index));
      else return;
      event.preventDefault();
    });
    inputs.push(input);
  }

  const group = h("div", {
    class: "boxes",
    role: "group",
    "aria-label": label,
    "aria-describedby": describedBy,
  });
  for (const [index, input] of inputs.entries()) {
    if (index === CODE_LENGTH / 2) group.append(h("span", { class: "boxes-gap", "aria-hidden": "true" }));
    group.append(input);
  }
  return {
    element: group,
    clear: () => draw(EMPTY),
    focus: () => draw(boxes),
    value: () => complete(boxes),
    disable: (disabled) => {
      for (const input of inputs) input.readOnly = disabled;
    },
    invalid: (invalid) => {
      for (const input of inputs) {
        if (invalid) input.setAttribute("aria-invalid", "true");
        else input.removeAttribute("aria-invalid");
      }
    },
  };
}

/** What was added to a box that held `old`: a digit typed beside it counts alone. */
function newText(value: string, old: string): string {
  if (old === "" || value.length !== 2) return value;
  return value.startsWith(old) ? value.slice(1) : value.slice(0, 1);
}
