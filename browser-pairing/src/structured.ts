/**
 * The part of structured fields (RFC 8941) that signatures are written in: dictionaries whose members
 * are inner lists or byte sequences. Values keep the text that they were written in, because that text
 * is what a signature covers.
 */

/** A bare item. Tokens and strings are told apart by the parser, not by the caller. */
export type Bare = string | number | boolean | { bytes: string };
/** Parameters in the order of their writing. */
export type Params = Map<string, Bare>;

/** One item of an inner list, with its text, `"signature";key="relay";req`. */
export interface Item {
  value: Bare;
  params: Params;
  text: string;
}

/** One member of a dictionary. `items` is there when it is an inner list. */
export interface Member extends Item {
  items?: Item[];
}

/** More than any honest header has. */
const MAX_LENGTH = 32 * 1024;

class Parser {
  #at = 0;
  constructor(readonly text: string) {}

  fail(): never {
    throw new SyntaxError("not a structured field");
  }

  get done(): boolean {
    return this.#at >= this.text.length;
  }

  /** Takes what matches here, or nothing. */
  take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  need(pattern: RegExp): string {
    return this.take(pattern) ?? this.fail();
  }

  bare(): Bare {
    const quoted = this.take(/"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"/y);
    if (quoted !== undefined) return quoted.slice(1, -1).replace(/\\(.)/g, "$1");
    const bytes = this.take(/:[A-Za-z0-9+/=]*:/y);
    if (bytes !== undefined) return { bytes: bytes.slice(1, -1) };
    const flag = this.take(/\?[01]/y);
    if (flag !== undefined) return flag === "?1";
    const number = this.take(/-?\d{1,15}(?:\.\d{1,3})?/y);
    if (number !== undefined) return Number(number);
    return this.need(/[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*/y);
  }

  key(): string {
    return this.need(/[a-z*][a-z0-9_\-.*]*/y);
  }

  params(): Params {
    const params: Params = new Map();
    while (this.take(/; */y) !== undefined) {
      const key = this.key();
      if (params.has(key)) this.fail();
      params.set(key, this.take(/=/y) === undefined ? true : this.bare());
    }
    return params;
  }

  item(): Item {
    const start = this.#at;
    const value = this.bare();
    const params = this.params();
    return { value, params, text: this.text.slice(start, this.#at) };
  }

  member(): Member {
    const start = this.#at;
    if (this.take(/\( */y) === undefined) return this.item();
    const items: Item[] = [];
    while (this.take(/\)/y) === undefined) {
      items.push(this.item());
      if (this.take(/ +/y) === undefined && this.text[this.#at] !== ")") this.fail();
    }
    const params = this.params();
    return { value: true, items, params, text: this.text.slice(start, this.#at) };
  }

  dictionary(): Map<string, Member> {
    const members = new Map<string, Member>();
    this.take(/ */y);
    while (!this.done) {
      const key = this.key();
      const member: Member =
        this.take(/=/y) === undefined ? { value: true, params: this.params(), text: "" } : this.member();
      // A member that comes twice has two meanings to two readers.
      if (members.has(key)) this.fail();
      members.set(key, member);
      this.take(/[ \t]*/y);
      if (this.done) break;
      this.need(/,[ \t]*/y);
      if (this.done) this.fail();
    }
    return members;
  }
}

/** The members of a dictionary, or undefined when the text is none. */
export function parseDictionary(text: string | null): Map<string, Member> | undefined {
  if (text === null || text.length > MAX_LENGTH) return undefined;
  try {
    return new Parser(text).dictionary();
  } catch {
    return undefined;
  }
}

/** A string as structured fields write it. The caller gives printable ASCII only. */
export function quoted(text: string): string {
  return `"${text.replace(/["\\]/g, "\\$&")}"`;
}
