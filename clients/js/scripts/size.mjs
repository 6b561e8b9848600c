// States the size of each entry in dist, and fails above its limit.

import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'

/** Bytes, gzipped. */
const limits = { index: 4096, react: 1024 }
for (const [name, limit] of Object.entries(limits)) {
  const code = readFileSync(new URL(`../dist/${name}.js`, import.meta.url))
  const size = gzipSync(code, { level: 9 }).length
  console.log(`${name}: ${code.length} bytes, ${size} gzipped, limit ${limit}`)
  if (size > limit) process.exitCode = 1
}
