import { fileURLToPath } from 'node:url'
import { configDefaults, defineConfig } from 'vitest/config'

export default defineConfig({
  resolve: {
    // What the other entries import by the name of the package is the source here.
    alias: { 'usher-client': fileURLToPath(new URL('src/index.ts', import.meta.url)) },
  },
  test: {
    // Written and run by `test/documents`.
    exclude: [...configDefaults.exclude, 'test/documents/blocks/**'],
    coverage: {
      // The core. The other entries have tests of their own.
      include: ['src/{client,codes,errors,machine,queue,verdict}.ts'],
      reporter: ['text'],
      thresholds: {
        lines: 95,
        branches: 90,
        'src/machine.ts': { lines: 100, branches: 100 },
      },
    },
  },
})
