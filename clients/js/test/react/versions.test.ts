import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { afterAll, expect, it } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
// Inside of the package, so that what is not bundled is found.
const folder = mkdtempSync(join(root, 'node_modules', '.versions-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

it.each([
  ['18', 'react-18', 'react-dom-18'],
  ['19', 'react', 'react-dom'],
])('works with React %s: one socket under StrictMode, rendering on a server, reconnection', { timeout: 60_000 }, async (major, react, dom) => {
  const outfile = join(folder, `${major}.mjs`)
  await build({
    absWorkingDir: root,
    entryPoints: ['test/react/versions/scenario.tsx'],
    outfile,
    bundle: true,
    format: 'esm',
    platform: 'node',
    jsx: 'automatic',
    external: ['jsdom'],
    // React asks for Node's modules by `require`.
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
    define: { 'process.env.NODE_ENV': '"development"' },
    alias: {
      ...(react === 'react' ? {} : { react, 'react-dom': dom }),
      'usher-client': './src/index.ts',
      'usher-client/react': './src/react.ts',
      'usher-client/testing': './src/testing.ts',
    },
  })
  const seen = JSON.parse(execFileSync('node', [outfile], { encoding: 'utf8' }))
  expect(seen).toEqual({
    version: expect.stringMatching(new RegExp(`^${major}\\.`)),
    rendered: '<span role="status" data-state="disconnected">Disconnected</span>',
    sockets: 1,
    messages: ['hello'],
    open: 0,
    closed: { code: 1000, reason: '', by: 'client' },
  })
})
