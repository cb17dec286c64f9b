// What six boxes hold and where the cursor stands, as a pure state machine: the view turns key and
// paste events into calls and draws what comes back.

export const CODE_LENGTH = 6;

export interface Boxes {
  /** One digit or the empty string for each box. */
  readonly digits: readonly string[];
  /** The box that has the cursor. */
  readonly at: number;
}

export const EMPTY: Boxes = { digits: Array<string>(CODE_LENGTH).fill(""), at: 0 };

const clamp = (at: number) => Math.min(Math.max(at, 0), CODE_LENGTH - 1);

/** The digits of a text, whatever separates them ("123 456", "123-456"); full-width digits count too. */
export function digitsOf(text: string): string {
  return text.normalize("NFKC").replace(/[^0-9]/g, "");
}

/**
 * Text that arrived in a box by typing, pasting or a password manager. A whole code replaces
 * everything wherever it arrives; fewer digits fill from the box on.
 */
export function insert(boxes: Boxes, at: number, text: string): Boxes {
  const digits = digitsOf(text);
  if (digits === "") return { digits: boxes.digits, at: clamp(at) };
  const start = digits.length >= CODE_LENGTH ? 0 : clamp(at);
  const next = [...boxes.digits];
  let position = start;
  for (const digit of digits) {
    if (position >= CODE_LENGTH) break;
    next[position] = digit;
    position += 1;
  }
  return { digits: next, at: clamp(position) };
}

/** Backspace empties the box it stands in, and in an empty box goes back and empties that one. */
export function backspace(boxes: Boxes, at: number): Boxes {
  const target = boxes.digits[at] === "" ? clamp(at - 1) : clamp(at);
  return { digits: boxes.digits.map((digit, index) => (index === target ? "" : digit)), at: target };
}

/** Delete empties the box and stays. */
export function remove(boxes: Boxes, at: number): Boxes {
  return { digits: boxes.digits.map((digit, index) => (index === at ? "" : digit)), at: clamp(at) };
}

/** Where a key leads that only moves; undefined for every other key. */
export function move(at: number, key: string): number | undefined {
  switch (key) {
    case "ArrowLeft":
      return clamp(at - 1);
    case "ArrowRight":
      return clamp(at + 1);
    case "Home":
      return 0;
    case "End":
      return CODE_LENGTH - 1;
    default:
      return undefined;
  }
}

/** The whole code, once every box is filled. */
export function complete(boxes: Boxes): string | undefined {
  const code = boxes.digits.join("");
  return code.length === CODE_LENGTH ? code : undefined;
}

/** A device's user code as it is shown, XXXX-XXXX, while it is typed. */
export function userCode(text: string): string {
  const letters = text
    .toUpperCase()
    .replace(/[^A-Z]/g, "")
    .slice(0, 8);
  return letters.length > 4 ? `${letters.slice(0, 4)}-${letters.slice(4)}` : letters;
}

/** The letters a user code may have: no vowels, so no words. */
export function isUserCode(text: string): boolean {
  return /^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$/.test(userCode(text));
}
