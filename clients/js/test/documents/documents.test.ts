import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { build } from 'esbuild'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { blocksOf, root, writeBlocks, type Block } from './blocks.js'

const folder = join(root, 'test/documents/blocks')
const blocks = ['README.md', 'TESTING.md'].flatMap(blocksOf)
const typescript = blocks.filter(({ language }) => language === 'ts' || language === 'tsx')
const marked = (mark: string) => typescript.filter(({ marks }) => marks.includes(mark))

function run(command: string, ...values: string[]) {
  try {
    return execFileSync(command, values, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string }
    throw new Error(`${command} ${values.join(' ')}\n${stdout}${stderr}`)
  }
}

/** Bundles a block in front of which `preamble.ts` has put a fake server, and returns what it prints. */
async function output({ file }: Block) {
  const outfile = join(folder, 'built', `${file}.mjs`)
  await build({
    absWorkingDir: root,
    stdin: { contents: `import '../preamble.js'\nimport './${file}'`, resolveDir: folder },
    outfile,
    bundle: true,
    format: 'esm',
    platform: 'node',
    // The package says that its files have no side effects; these have.
    ignoreAnnotations: true,
    alias: { 'usher-client': './src/index.ts', 'usher-client/testing': './src/testing.ts' },
  })
  return run('node', outfile)
}

beforeAll(() => writeBlocks(folder, typescript))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

it('finds the blocks', () => {
  expect(typescript.length).toBeGreaterThan(14)
  expect(marked('run').length).toBeGreaterThan(3)
  expect(marked('test').length).toBeGreaterThan(3)
  expect(new Set(typescript.map(({ file }) => file)).size).toBe(typescript.length)
})

it('compiles every block of TypeScript', { timeout: 120_000 }, () => {
  run('npx', '--no-install', 'tsc', '-p', folder)
})

it.each(['examples', 'test'])('compiles the folder %s', { timeout: 120_000 }, (folder) => {
  run('npx', '--no-install', 'tsc', '-p', folder)
})

it('runs every block that is a test', { timeout: 120_000 }, () => {
  const report = run('npx', '--no-install', 'vitest', 'run', '--config', 'test/documents/vitest.config.ts', '--reporter', 'json')
  const { numFailedTests, numPassedTestSuites, testResults } = JSON.parse(report)
  expect(numFailedTests).toBe(0)
  expect(numPassedTestSuites).toBeGreaterThan(0)
  expect(testResults).toHaveLength(marked('test').length)
})

it.each([
  ['usher-client', 'index'],
  ['usher-client/react', 'react'],
])('is right about the size of %s', (name, entry) => {
  // Built by `npm run build`.
  const built = readFileSync(join(root, `dist/${entry}.js`))
  const [row] = readFileSync(join(root, 'README.md'), 'utf8').split('\n').filter((line) => line.startsWith(`| \`${name}\` |`))
  const stated = Number(/([\d.]+) KiB/.exec(row!)![1])
  expect(gzipSync(built, { level: 9 }).length / 1024).toBeLessThanOrEqual(stated)
})

describe('runs, and prints what it says it prints:', () => {
  it.each(marked('run').map((block) => [block.place, block] as const))('%s', { timeout: 60_000 }, async (_, block) => {
    const expected = [...block.text.matchAll(/\/\/ prints (.*)$/gm)].map(([, text]) => text)
    expect(expected.length).toBeGreaterThan(0)
    expect((await output(block)).trim().split('\n')).toEqual(expected)
  })
})
