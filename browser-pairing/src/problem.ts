/** Problems (RFC 9457) and other JSON that comes from outside, read without trusting its shape. */
import { fromUtf8 } from "./encoding.js";
import { RelayError } from "./errors.js";

/** A JSON object of unknown contents. */
export type Json = { readonly [name: string]: unknown };

const MAX_DETAIL = 500;
const MAX_ID = 100;

/** The object in these bytes, or undefined when they are no JSON object. */
export function jsonObject(bytes: Uint8Array): Json | undefined {
  const text = fromUtf8(bytes);
  if (text === undefined) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the headers announce a problem. */
export function isProblem(headers: Headers): boolean {
  return /^application\/problem\+json\s*(;|$)/i.test(headers.get("content-type") ?? "");
}

/** Seconds to wait, from a header in either of its forms. */
function retryAfter(value: string | null): number | undefined {
  if (value === null) return undefined;
  const seconds = /^\d{1,7}$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : undefined;
}

/** The error that a problem describes, or undefined when the bytes are none. */
export function problemError(
  status: number,
  bytes: Uint8Array,
  headers: Headers,
  verified: boolean,
): RelayError | undefined {
  const problem = jsonObject(bytes);
  const code = problem?.["code"];
  if (problem === undefined || typeof code !== "string" || !/^[a-z0-9_]{1,64}$/.test(code)) return undefined;
  const { detail, title, request_id: id } = problem;
  const text = typeof detail === "string" ? detail : typeof title === "string" ? title : "";
  const told = problem["status"];
  return new RelayError(code, {
    status: status === 0 && typeof told === "number" && Number.isInteger(told) ? told : status,
    detail: text.slice(0, MAX_DETAIL),
    verified,
    retryAfter: retryAfter(headers.get("retry-after")),
    requestId: (typeof id === "string" ? id : headers.get("x-request-id"))?.slice(0, MAX_ID) ?? undefined,
  });
}
