/**
 * A real OpenID Connect provider for the tests: the certified `oidc-provider`, in a process of its own, so that it
 * can be killed. Its keys are in a folder, so that it comes back with them. Prints `provider http://127.0.0.1:PORT`.
 *
 * `node provider.mjs FOLDER [PORT]`; then `POST /test/portal` with the portal's base as text lets people come back
 * there, `POST /test/rotate` replaces all keys by new ones, `POST /test/together` lets the new ones join the old.
 *
 * | client | does |
 * | --- | --- |
 * | `portal` | signs people in, with a secret |
 * | `portal-ES256`, `portal-EdDSA` | the same, public, with ID tokens of that algorithm |
 * | `agent-RS256`, `agent-ES256`, `agent-EdDSA` | get access tokens of that algorithm, for themselves |
 */
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { Provider } from "oidc-provider";

const [folder, port = "0"] = process.argv.slice(2);
/** What the relay's access tokens have as `aud`. Another resource may be asked for as well. */
const AUDIENCE = "https://relay.example/api";
const SECRET = "a-secret-of-the-tests";
const ALGORITHMS = ["RS256", "ES256", "EdDSA"];

const file = join(folder, "keys.json");
let keys = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : newKeys();
let portal = "http://127.0.0.1:1";
let issuer = "";
let handle;

function newKeys() {
  const kinds = {
    RS256: ["rsa", { modulusLength: 2048 }],
    ES256: ["ec", { namedCurve: "P-256" }],
    EdDSA: ["ed25519", {}],
  };
  return ALGORITHMS.map((alg) => {
    const { privateKey } = generateKeyPairSync(...kinds[alg]);
    return { ...privateKey.export({ format: "jwk" }), alg, use: "sig", kid: `${alg}-${randomUUID()}` };
  });
}

function start() {
  writeFileSync(file, JSON.stringify(keys));
  const redirects = { redirect_uris: [`${portal}/v1/auth/oidc/callback`], response_types: ["code"] };
  const people = { ...redirects, grant_types: ["authorization_code"] };
  const open = { ...people, token_endpoint_auth_method: "none" };
  const provider = new Provider(issuer, {
    clients: [
      { ...people, client_id: "portal", client_secret: SECRET },
      ...["ES256", "EdDSA"].map((alg) => ({
        ...open,
        client_id: `portal-${alg}`,
        id_token_signed_response_alg: alg,
      })),
      ...ALGORITHMS.map((alg) => ({
        client_id: `agent-${alg}`,
        client_secret: SECRET,
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      })),
    ],
    jwks: { keys },
    cookies: { keys: ["a key of the tests"] },
    claims: { openid: ["sub"], email: ["email", "email_verified"] },
    enabledJWA: { idTokenSigningAlgValues: ALGORITHMS },
    // Some people's addresses were never verified.
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@example.org`, email_verified: !id.startsWith("unverified") }),
    }),
    extraTokenClaims: (_, token) => (token.sessionUid === undefined ? {} : { sid: token.sessionUid }),
    pkce: { required: () => true },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource, client) => ({
          audience: resource,
          scope: "",
          accessTokenFormat: "jwt",
          accessTokenTTL: 3600,
          jwt: { sign: { alg: client.clientId.split("-")[1] ?? "RS256" } },
        }),
        defaultResource: (_, client, oneOf) =>
          oneOf ?? (client.clientId.startsWith("agent") ? AUDIENCE : undefined),
        useGrantedResource: () => false,
      },
    },
    ttl: {
      AccessToken: 3600,
      AuthorizationCode: 60,
      IdToken: 3600,
      Interaction: 3600,
      Session: 3600,
      Grant: 3600,
    },
  });
  handle = provider.callback();
}

async function text(request) {
  let body = "";
  for await (const piece of request) body += piece;
  return body;
}

const server = createServer(async (request, response) => {
  switch (`${request.method} ${request.url}`) {
    case "POST /test/portal":
      portal = await text(request);
      break;
    case "POST /test/rotate":
      keys = newKeys();
      break;
    case "POST /test/together":
      keys = [...newKeys(), ...keys];
      break;
    default:
      handle(request, response);
      return;
  }
  start();
  response.writeHead(204).end();
});
server.listen(Number(port), "127.0.0.1", () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  start();
  console.log(`provider ${issuer}`);
});
