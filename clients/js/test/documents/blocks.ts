import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))

export interface Block {
  /** `README.md:12` */
  place: string
  language: string
  /** The words after the language: `run`, `test`. */
  marks: string[]
  text: string
  /** Where `writeBlocks` puts it, below its folder. */
  file: string
}

/** Returns the code blocks of a document. A first line `// lib/chat.ts` names the file, for blocks that import it. */
export function blocksOf(document: string): Block[] {
  const text = readFileSync(join(root, document), 'utf8')
  return [...text.matchAll(/^```(\w+)([^\n]*)\n([\s\S]*?)^```$/gm)].map((match, index) => {
    const [, language = '', marks = '', body = ''] = match
    const line = text.slice(0, match.index).split('\n').length
    const named = /^\/\/ ([\w./-]+\.tsx?)\n/.exec(body)?.[1]
    const folder = document.replace(/\W/g, '-')
    const file = join(folder, named ?? `block-${index + 1}.${language}`)
    return { place: `${document}:${line}`, language, marks: marks.split(' ').filter(Boolean), text: body, file }
  })
}

/** Writes the blocks of TypeScript into `folder`, anew, with a configuration that finds the source of the package. */
export function writeBlocks(folder: string, blocks: Block[]) {
  rmSync(folder, { recursive: true, force: true })
  for (const { file, text } of blocks) {
    mkdirSync(join(folder, dirname(file)), { recursive: true })
    // A block without imports is a module too.
    writeFileSync(join(folder, file), `${text}\nexport {}\n`)
  }
  const tsconfig = { extends: '../../tsconfig.json', compilerOptions: { module: 'ESNext', moduleResolution: 'Bundler', noUnusedLocals: false }, include: ['.'], exclude: [] }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(tsconfig))
}
