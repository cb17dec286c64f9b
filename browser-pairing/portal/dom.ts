// The one place that makes elements. Text goes in as text nodes, never as markup, so nothing that a
// host, an agent or the relay says can become an element or a script, and the pages work under a
// policy without inline scripts, inline styles or Trusted Types exceptions.

export type Child = Node | string | number | null | undefined | false;

type Attribute = string | number | boolean | null | undefined;
type Listener = (event: never) => unknown;

export interface Props {
  readonly class?: string | undefined;
  readonly on?: Readonly<Record<string, Listener>>;
  readonly [attribute: string]: Attribute | Readonly<Record<string, Listener>>;
}

/** Where a link may lead: inside the portal, or to a page of this relay. */
function safeHref(href: string): string {
  if (/^(#|\/(?![/\\]))/.test(href)) return href;
  throw new TypeError(`not a link of the portal: ${href}`);
}

/** Makes an element. Attributes that are false, null or undefined are left out; true stands without a value. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "object") {
      for (const [event, listener] of Object.entries(value))
        element.addEventListener(event, listener as EventListener);
    } else if (name === "href") {
      element.setAttribute(name, safeHref(String(value)));
    } else if (name === "style" || name.startsWith("on")) {
      throw new TypeError(`no inline ${name}`);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(element, children);
  return element;
}

/** Appends children, leaving out those that are nothing. */
export function append(parent: Node, children: readonly Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    parent.appendChild(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Puts new children in place of what an element had. */
export function fill(parent: Element, ...children: Child[]): void {
  parent.replaceChildren();
  append(parent, children);
}

/** Sets a text only when it differs, so that a live region speaks of changes alone. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

let lastId = 0;

/** An id for `for`, `aria-describedby` and the like, unique in the page. */
export function uniqueId(stem: string): string {
  lastId += 1;
  return `${stem}-${lastId}`;
}
