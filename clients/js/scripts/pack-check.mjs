// Packs the library as a registry would get it, and looks at the package as Node and bundlers do.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))
const folder = mkdtempSync(join(tmpdir(), 'usher-client-'))
const run = (...command) => execFileSync('npx', ['--no-install', ...command], { stdio: 'inherit' })
try {
  execFileSync('npm', ['pack', '--silent', '--pack-destination', folder])
  const tarball = join(folder, readdirSync(folder)[0])
  run('publint', tarball, '--strict')
  run('attw', tarball, '--profile', 'node16', '--no-emoji')
} finally {
  rmSync(folder, { recursive: true })
}
