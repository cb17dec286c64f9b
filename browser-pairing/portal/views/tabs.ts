// Tabs as the ARIA authoring practices have them: one stop for Tab, arrows move, panels are labelled.

import { h, uniqueId } from "../dom.js";
import type { Panel } from "./host.js";

export function tabs(
  label: string,
  entries: readonly { readonly label: string; readonly panel: Panel }[],
): HTMLElement {
  const buttons: HTMLButtonElement[] = [];
  const places: HTMLElement[] = [];
  const select = (index: number, focus: boolean) => {
    for (const [at, button] of buttons.entries()) {
      button.setAttribute("aria-selected", String(at === index));
      button.tabIndex = at === index ? 0 : -1;
      const place = places[at];
      if (place !== undefined) place.hidden = at !== index;
    }
    if (focus) buttons[index]?.focus();
    entries[index]?.panel.shown?.();
  };
  for (const [index, entry] of entries.entries()) {
    const id = uniqueId("tab");
    const button = h(
      "button",
      { type: "button", role: "tab", id, class: "tab", "aria-controls": `${id}-panel` },
      entry.label,
    );
    button.addEventListener("click", () => select(index, false));
    button.addEventListener("keydown", (event) => {
      const last = entries.length - 1;
      const to = {
        ArrowRight: index === last ? 0 : index + 1,
        ArrowLeft: index === 0 ? last : index - 1,
        Home: 0,
        End: last,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      select(to, true);
    });
    buttons.push(button);
    places.push(
      h(
        "div",
        { role: "tabpanel", id: `${id}-panel`, "aria-labelledby": id, class: "panel" },
        entry.panel.element,
      ),
    );
  }
  const element = h(
    "div",
    { class: "tabs" },
    h("div", { role: "tablist", "aria-label": label, class: "tab-list" }, ...buttons),
    ...places,
  );
  select(0, false);
  return element;
}
