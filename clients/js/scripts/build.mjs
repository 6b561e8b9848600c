// Builds dist/: ESM and CJS of each entry, minified, and their types.

import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { minify } from 'terser'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))
rmSync('dist', { recursive: true, force: true })
mkdirSync('dist')

/** The short names of properties. Both formats share them: an error of one may be thrown into the other. */
const names = {}

/** Minifies once more than esbuild can: `_` begins the names of properties that are ours alone. */
async function compress(code, isModule) {
  const nameCache = { props: names.props }
  const compressed = await minify(code, {
    ecma: 2020,
    module: isModule,
    toplevel: true,
    compress: { passes: 3, arrows: false, sequences: false, directives: false, pure_getters: true, unsafe: true },
    mangle: { properties: { regex: /^_/ } },
    nameCache,
  })
  names.props = nameCache.props
  return compressed.code
}

for (const name of ['index', 'react', 'testing']) {
  for (const [format, extension] of Object.entries({ esm: 'js', cjs: 'cjs' })) {
    const { outputFiles } = await build({
      entryPoints: [`src/${name}.ts`],
      bundle: true,
      minify: true,
      format,
      target: 'es2022',
      external: ['react', 'usher-client'],
      legalComments: 'none',
      write: false,
    })
    writeFileSync(`dist/${name}.${extension}`, await compress(outputFiles[0].text, format === 'esm'))
  }
}
execFileSync('npx', ['--no-install', 'tsc', '-p', 'tsconfig.json', '--emitDeclarationOnly'], { stdio: 'inherit' })
// The same types for `require`, with imports that lead to the other kind of file.
for (const file of readdirSync('dist').filter((file) => file.endsWith('.d.ts'))) {
  const text = readFileSync(`dist/${file}`, 'utf8')
  writeFileSync(`dist/${file.replace(/\.d\.ts$/, '.d.cts')}`, text.replace(/(from '\.\/[\w-]+)\.js'/g, "$1.cjs'"))
}
