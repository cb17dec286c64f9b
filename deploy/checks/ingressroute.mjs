// Validates an IngressRoute on standard input against Traefik's own definition, as its npm package has it.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [tools] = process.argv.slice(2);
const definition = `${tools}/node_modules/@kubernetes-models/traefik/traefik.io/v1alpha1/IngressRoute.js`;
const { IngressRoute } = await import(pathToFileURL(definition).href);
try {
  new IngressRoute(JSON.parse(readFileSync(0, "utf8"))).validate();
} catch (error) {
  console.log(error.message);
  process.exitCode = 1;
}
