// Bundles the demo's page into the file that the binary embeds.
//
//   node demo/build.mjs           writes src/demo/page/page.js
//   node demo/build.mjs --check   exits 1 where that file is not what would be written

import { readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const folder = fileURLToPath(new URL('.', import.meta.url))
const target = fileURLToPath(new URL('../../../src/demo/page/page.js', import.meta.url))

const { outputFiles } = await build({
  absWorkingDir: folder,
  entryPoints: ['main.ts'],
  bundle: true,
  format: 'esm',
  target: 'es2022',
  charset: 'utf8',
  legalComments: 'none',
  banner: { js: '// Built from clients/js by `npm run demo`. Change it there.' },
  write: false,
})
const built = outputFiles[0].text

if (process.argv.includes('--check')) {
  if ((await readFile(target, 'utf8')) !== built) {
    console.error('src/demo/page/page.js is out of date: run `npm run demo` in clients/js')
    process.exit(1)
  }
} else {
  await writeFile(target, built)
}
