#!/usr/bin/env node
// Verifies the signed context that Usher puts into every authenticated request. No dependencies.
//
//   verify.mjs JWKS_PATH_OR_URL AUDIENCE [ISSUER]       EdDSA or ES256, with the published keys
//   verify.mjs --secret FILE AUDIENCE [ISSUER]          HS256, with the secret shared with Usher
//
// reads the header's value from standard input and prints its claims. Exits 1 with the reason when it is not valid.

import { createHmac, createPublicKey, timingSafeEqual, verify as verifySignature } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export class InvalidContext extends Error {}

/** The key set has no key with the key id: Usher may have rotated its keys. */
export class UnknownKey extends InvalidContext {}

// The key's type decides the algorithm; what the header says must agree with it.
const ALGORITHMS = {
  EdDSA: { kty: 'OKP', crv: 'Ed25519', digest: null },
  ES256: { kty: 'EC', crv: 'P-256', digest: 'sha256' },
};

/**
 * @param {string} headerValue the value of X-User-Context
 * @param {{keys: object[]} | Buffer} jwks the published key set, or the shared secret's bytes
 * @param {string} audience your upstream's name in Usher's config
 * @param {string} issuer `[context] issuer` in Usher's config
 * @returns {object} the claims
 */
export function verify(headerValue, jwks, audience, issuer = 'usher', now = Date.now() / 1000) {
  if (typeof headerValue !== 'string' || headerValue === '') throw new InvalidContext('there is no signed context');
  if (!audience || !issuer) throw new TypeError('an audience and an issuer are needed');
  const parts = headerValue.split('.');
  if (parts.length !== 3) throw new InvalidContext('it is not a compact JWS');
  const [header, claims, signature] = [object(parts[0]), object(parts[1]), bytes(parts[2])];
  if (header.crit !== undefined) throw new InvalidContext('the value has an unknown critical header');
  const signed = Buffer.from(`${parts[0]}.${parts[1]}`);
  const good = Buffer.isBuffer(jwks) ? hmacIsGood(header, jwks, signed, signature) : signatureIsGood(header, jwks, signed, signature);
  if (!good) throw new InvalidContext('the signature does not verify');

  if (claims.iss !== issuer) throw new InvalidContext('another issuer made it');
  if (claims.aud !== audience) throw new InvalidContext('the audience is another one');
  if (!Number.isFinite(claims.exp)) throw new InvalidContext('it has no expiry');
  if (claims.exp <= now) throw new InvalidContext('it has expired');
  if (typeof claims.sub !== 'string' || claims.sub === '') throw new InvalidContext('the value has no user');
  return claims;
}

function signatureIsGood(header, jwks, signed, signature) {
  const algorithm = Object.hasOwn(ALGORITHMS, header.alg) ? ALGORITHMS[header.alg] : undefined;
  if (!algorithm) throw new InvalidContext('its algorithm is not one of EdDSA, ES256');
  const jwk = jwks.keys.find((key) => typeof key.kid === 'string' && key.kid === header.kid);
  if (!jwk) throw new UnknownKey('no published key has the key id');
  if (jwk.kty !== algorithm.kty || jwk.crv !== algorithm.crv) throw new InvalidContext('its algorithm is not that of its key');
  const key = createPublicKey({ key: { kty: jwk.kty, crv: jwk.crv, x: jwk.x, y: jwk.y }, format: 'jwk' });
  return verifySignature(algorithm.digest, signed, { key, dsaEncoding: 'ieee-p1363' }, signature);
}

function hmacIsGood(header, secret, signed, signature) {
  if (header.alg !== 'HS256') throw new InvalidContext('its algorithm is not HS256');
  if (header.kid !== 'shared') throw new InvalidContext('the key id is not that of the shared secret');
  if (secret.length < 32) throw new TypeError('a shared secret needs at least 32 bytes');
  const expected = createHmac('sha256', secret).update(signed).digest();
  return signature.length === expected.length && timingSafeEqual(signature, expected);
}

function bytes(part) {
  const decoded = Buffer.from(part, 'base64url');
  // Node skips what is not base64url; a signed value has one spelling.
  if (decoded.toString('base64url') !== part) throw new InvalidContext('it is not a compact JWS');
  return decoded;
}

function object(part) {
  let value;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes(part)));
  } catch {
    throw new InvalidContext('it is not a compact JWS');
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw new InvalidContext('it is not a compact JWS');
  return value;
}

/**
 * Returns a function that verifies headers with the published keys. It reads the keys at the first header, because Usher
 * may start later, and again for an unknown key id, at most once a minute.
 *
 * @param {string} place the file or the URL of the key set
 * @returns {(headerValue: string) => Promise<object>} the claims
 */
export function createVerifier(place, audience, issuer = 'usher') {
  let reading;
  let readAt;
  const read = () => {
    readAt = performance.now();
    const started = readJwks(place);
    // The next header tries again after a failure, and uses the earlier keys if there are some.
    const before = reading;
    started.catch(() => { if (reading === started) reading = before; });
    return (reading = started);
  };
  return async (headerValue) => {
    const current = reading ?? read();
    const jwks = await current;
    try {
      return verify(headerValue, jwks, audience, issuer);
    } catch (error) {
      const isFresh = reading === current && performance.now() - readAt < 60_000;
      if (isFresh || !(error instanceof UnknownKey)) throw error;
    }
    // Another header may have begun to read them.
    return verify(headerValue, await (reading === current ? read() : reading), audience, issuer);
  };
}

/** The key set from a file or a URL. */
export async function readJwks(place) {
  let jwks;
  if (/^https?:\/\//.test(place)) {
    const answer = await fetch(place, { redirect: 'error', signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`${place} answered ${answer.status}`);
    jwks = await answer.json();
  } else {
    jwks = JSON.parse(readFileSync(place, 'utf8'));
  }
  if (!Array.isArray(jwks?.keys)) throw new Error(`${place} is not a key set`);
  return jwks;
}

/** The secret from a file, without the one line's end that editors add: what Usher reads as well. */
export function readSecret(path) {
  const secret = readFileSync(path);
  let end = secret.length;
  if (secret[end - 1] === 0x0a) end -= 1;
  if (secret[end - 1] === 0x0d) end -= 1;
  return secret.subarray(0, end);
}

async function main() {
  const shared = process.argv[2] === '--secret';
  const [place, audience, issuer] = process.argv.slice(shared ? 3 : 2);
  if (!place || !audience) {
    console.error('usage: verify.mjs (JWKS_PATH_OR_URL | --secret FILE) AUDIENCE [ISSUER]');
    return 2;
  }
  try {
    const keys = shared ? readSecret(place) : await readJwks(place);
    const claims = verify(readFileSync(0, 'utf8').trim(), keys, audience, issuer);
    console.log(JSON.stringify(claims, null, 2));
    return 0;
  } catch (error) {
    console.error(error.message);
    return 1;
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) process.exitCode = await main();
