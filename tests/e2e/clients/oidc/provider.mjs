// A real OpenID provider that issues access tokens to one client. They are JWTs, or for the resource
// urn:opaque opaque tokens that can be introspected and revoked. It prints its address. "rotate" on
// its input makes it sign with a new key at once and publish the new key beside the last one. Then it
// prints the id of the new key.

import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";

import Provider from "oidc-provider";

const AUDIENCE = "chat";
const TOKEN_SECONDS = 600;

const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
let issuer;
let handle;
let rotations = 0;
let keys = [];

function rotate() {
  rotations += 1;
  const kid = `key-${rotations}`;
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  // The provider signs with the first key that fits.
  keys = [{ ...privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "ES256" }, ...keys.slice(0, 1)];
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: "ada",
        client_secret: "a secret of the test",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      },
    ],
    clientDefaults: { id_token_signed_response_alg: "ES256" },
    jwks: { keys },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => "urn:chat",
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => ({
          audience: AUDIENCE,
          scope: "chat:read chat:write",
          accessTokenFormat: resource === "urn:opaque" ? "opaque" : "jwt",
          accessTokenTTL: TOKEN_SECONDS,
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
  });
  handle = provider.callback();
  return kid;
}


const server = createServer((request, response) => handle(request, response));
server.listen(0, "127.0.0.1", () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  const kid = rotate();
  print({ issuer, kid });
});
createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (line === "rotate") print({ kid: rotate() });
  })
  .on("close", () => process.exit(0));
