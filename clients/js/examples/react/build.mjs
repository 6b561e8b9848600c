// Bundles the page into dist/page.js.

import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

await build({
  absWorkingDir: fileURLToPath(new URL('.', import.meta.url)),
  entryPoints: { page: 'main.tsx' },
  outdir: 'dist',
  bundle: true,
  format: 'esm',
  target: 'es2020',
  jsx: 'automatic',
  // React's development build: StrictMode mounts every component twice, and one socket has to be enough.
  define: { 'process.env.NODE_ENV': '"development"' },
})
