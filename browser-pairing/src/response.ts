/**
 * The `Response` that callers get. It is the platform's, but for two things: its address is the path on
 * the local server, and `text()`, `json()` and their like fail with the error of the body's stream.
 * Chromium's own fail with a `TypeError` that says nothing, and what was cut off could not be told from
 * what was tampered with or aborted.
 */
import { concat } from "./encoding.js";

async function collect(response: Response): Promise<Uint8Array<ArrayBuffer>> {
  if (response.bodyUsed) throw new TypeError("the body has been read already");
  const chunks: Uint8Array[] = [];
  const reader = response.body?.getReader();
  if (reader !== undefined) {
    for (let part = await reader.read(); !part.done; part = await reader.read()) chunks.push(part.value);
  }
  return concat(...chunks);
}

/** Makes the response; `url` is the path and query that answered. */
export function respond(
  status: number,
  headers: Headers,
  body: ReadableStream<Uint8Array<ArrayBuffer>> | Uint8Array<ArrayBuffer> | null,
  url: string,
  redirected: boolean,
): Response {
  const response = new Response(body, { status, headers });
  const whole = () => collect(response);
  const text = async () => new TextDecoder().decode(await whole());
  const again = async () => new Response(await whole(), { headers });
  const own: Record<string, unknown> = {
    url,
    redirected,
    bytes: whole,
    arrayBuffer: async () => (await whole()).buffer,
    blob: async () => (await again()).blob(),
    formData: async () => (await again()).formData(),
    text,
    json: async () => JSON.parse(await text()) as unknown,
  };
  for (const [name, value] of Object.entries(own)) {
    Object.defineProperty(response, name, { value, configurable: true });
  }
  return response;
}
