// Runs the code blocks that are tests, after `documents.test.ts` has written them.

import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const source = (name: string) => fileURLToPath(new URL(`../../src/${name}.ts`, import.meta.url))

export default defineConfig({
  root: fileURLToPath(new URL('blocks', import.meta.url)),
  // A busy machine is no fault of a document.
  test: { testTimeout: 60_000, setupFiles: [fileURLToPath(new URL('patience.ts', import.meta.url))] },
  resolve: {
    alias: [
      { find: /^usher-client$/, replacement: source('index') },
      { find: /^usher-client\/react$/, replacement: source('react') },
      { find: /^usher-client\/testing$/, replacement: source('testing') },
    ],
  },
})
