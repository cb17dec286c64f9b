/** Reads `text/event-stream` as the HTML standard does (section 9.2.6). */
import { RelayError } from "./errors.js";

/** More in one event, or in one line, is a mistake or an attack; in UTF-16 units. */
const MAX_EVENT = 8 * 1024 * 1024;

/** A longer id is ignored: it is handed out with every event and sent back with every new connection. */
const MAX_ID = 4096;

/** An event as it goes to the page. */
export interface ParsedEvent {
  type: string;
  data: string;
  lastEventId: string;
}

/** Takes text in pieces of any size and gives the events that are complete. */
export class EventParser {
  /** The wait that the server wishes, in milliseconds. */
  retry: number | undefined;
  /** The id of the last complete event. */
  lastId: string;

  #rest = "";
  #started = false;
  #type = "";
  #data = "";
  #id: string;

  constructor(lastId = "") {
    this.lastId = lastId;
    this.#id = lastId;
  }

  /** @throws RelayError `bad_answer` when an event is too large */
  push(text: string): ParsedEvent[] {
    const events: ParsedEvent[] = [];
    this.#rest += text;
    if (!this.#started && this.#rest !== "") {
      this.#started = true;
      if (this.#rest.startsWith("\ufeff")) this.#rest = this.#rest.slice(1);
    }
    const ends = /\r\n|\n|\r/g;
    let at = 0;
    for (let end = ends.exec(this.#rest); end !== null; end = ends.exec(this.#rest)) {
      // A CR at the very end may be half of a CR LF.
      if (end[0] === "\r" && ends.lastIndex === this.#rest.length) break;
      const event = this.#line(this.#rest.slice(at, end.index));
      if (event !== undefined) events.push(event);
      at = ends.lastIndex;
    }
    this.#rest = this.#rest.slice(at);
    if (this.#rest.length > MAX_EVENT || this.#data.length > MAX_EVENT) {
      throw new RelayError("bad_answer", { verified: true, detail: "An event is too large." });
    }
    return events;
  }

  #line(line: string): ParsedEvent | undefined {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return undefined;
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "event") this.#type = value;
    else if (field === "data") this.#data += `${value}\n`;
    else if (field === "id" && value.length <= MAX_ID && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^\d{1,9}$/.test(value)) this.retry = Number(value);
    return undefined;
  }

  #dispatch(): ParsedEvent | undefined {
    this.lastId = this.#id;
    const { type, data } = { type: this.#type, data: this.#data };
    this.#type = "";
    this.#data = "";
    if (data === "") return undefined;
    return { type: type === "" ? "message" : type, data: data.slice(0, -1), lastEventId: this.lastId };
  }
}
