/**
 * Pairs with a host, or opens the pairing that is there, and fetches from its local server.
 *
 * In your own app import from "browser-pairing", and give a token callback that asks your own backend.
 */
import { openHost, type PairedHost, pairHost, RelayError } from "../src/index.js";

function element<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no #${id}`);
  return found;
}

const access = element("access", HTMLFormElement);
const request = element("request", HTMLFormElement);
const status = element("status", HTMLElement);
const answer = element("answer", HTMLPreElement);
let host: PairedHost | undefined;

function field(form: HTMLFormElement, name: string): string {
  const value = new FormData(form).get(name);
  return typeof value === "string" ? value.trim() : "";
}

/** Runs what a button asks for, and says what went wrong in words that help. */
async function attempt(run: () => Promise<void>): Promise<void> {
  status.textContent = "…";
  try {
    await run();
    status.textContent = "";
  } catch (error) {
    // Decide by the code, show the detail.
    if (error instanceof RelayError) status.textContent = `${error.detail} (${error.code})`;
    else status.textContent = String(error);
  }
}

access.addEventListener("submit", (event) => {
  event.preventDefault();
  void attempt(async () => {
    const relay = { url: field(access, "relay"), token: () => field(access, "token") };
    const hostId = field(access, "host");
    host?.close();
    host =
      (await openHost({ relay, hostId })) ?? (await pairHost({ relay, hostId, code: field(access, "code") }));
    host.addEventListener("revoked", () => {
      status.textContent = "The host does not know this browser any more. Pair again.";
      void host?.forget();
    });
    element("fingerprint", HTMLElement).textContent = host.fingerprint;
    request.hidden = false;
  });
});

request.addEventListener("submit", (event) => {
  event.preventDefault();
  void attempt(async () => {
    if (host === undefined) return;
    const response = await host.fetch(field(request, "path"));
    answer.textContent = `${response.status} ${response.headers.get("content-type") ?? ""}\n\n`;
    // Piece by piece, as it comes. An error here means that the answer is not whole.
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader?.read(); part?.done === false; part = await reader?.read()) {
      answer.append(part.value);
    }
  });
});
