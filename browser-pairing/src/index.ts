/**
 * Pair a browser with a program on somebody's own machine, and reach it through a relay that can
 * neither forge nor alter what passes.
 *
 * @packageDocumentation
 */
export { type LocalCode, RelayError, type RelayErrorInit } from "./errors.js";
export { openHost, PairedHost, pairedHosts, pairHost } from "./host.js";
export type * from "./types.js";
