import { describe, expect, it, vi } from 'vitest'
import { UsherError } from '../src/errors.js'
import { createQueue } from '../src/queue.js'
import type { QueueOptions, Raw } from '../src/types.js'
import { pass, setUp } from './support.js'

describe('the queue', () => {
  setUp()

  function start(options?: QueueOptions) {
    const drops: string[] = []
    const queue = createQueue(options, (_, { count, reason }) => drops.push(`${count} ${reason}`))
    const push = (data: Raw, isStopped = false) => queue._push(data, isStopped)
    return { queue, drops, push, texts: () => queue._waiting.map(({ _data }) => _data) }
  }

  it('keeps messages in order', () => {
    const { push, texts, drops } = start()
    expect(['a', 'b'].map((text) => push(text))).toEqual(['queued', 'queued'])
    expect(texts()).toEqual(['a', 'b'])
    expect(drops).toEqual([])
  })

  it('keeps so many', () => {
    const { push, texts, drops } = start({ maxMessages: 2 })
    expect(['a', 'b', 'c'].map((text) => push(text))).toEqual(['queued', 'queued', 'dropped'])
    expect(texts()).toEqual(['a', 'b'])
    expect(drops).toEqual(['1 overflow'])
  })

  it('keeps 100 where nothing is said', () => {
    const { push } = start()
    expect(Array.from({ length: 101 }, () => push('a')).indexOf('dropped')).toBe(100)
  })

  it('keeps so many bytes, as UTF-8', () => {
    const { push, drops } = start({ maxBytes: 4 })
    expect(push('éé')).toBe('queued')
    expect(push('a')).toBe('dropped')
    expect(drops).toEqual(['1 overflow'])
  })

  it.each<[string, Raw]>([
    ['text', 'abc'],
    ['bytes', new ArrayBuffer(3)],
    ['a view', new Uint8Array(3)],
    ['a Blob', new Blob(['abc'])],
  ])('knows the size of %s', (_, data) => {
    expect(start({ maxBytes: 3 }).push(data)).toBe('queued')
    expect(start({ maxBytes: 2 }).push(data)).toBe('dropped')
  })

  it('drops the oldest ones for a new one', () => {
    const { push, texts, drops } = start({ maxBytes: 4, overflow: 'drop-oldest' })
    push('aa')
    push('b')
    push('c')
    expect(push('dddd')).toBe('queued')
    expect(texts()).toEqual(['dddd'])
    expect(drops).toEqual(['3 overflow'])
  })

  it('drops no old one for a message that never fits', () => {
    const { push, texts, drops } = start({ maxBytes: 4, overflow: 'drop-oldest' })
    push('aa')
    expect(push('too long')).toBe('dropped')
    expect(texts()).toEqual(['aa'])
    expect(drops).toEqual(['1 overflow'])
  })

  it('throws where it is told to', () => {
    const { push, drops } = start({ maxMessages: 0, overflow: 'throw' })
    expect(() => push('a')).toThrow(UsherError)
    expect(drops).toEqual([])
  })

  it('takes nothing for a client that has stopped', () => {
    const { push, texts, drops } = start({ overflow: 'throw' })
    expect(push('a', true)).toBe('dropped')
    expect(texts()).toEqual([])
    expect(drops).toEqual(['1 stopped'])
  })

  it('drops what waits for too long, and nothing else', async () => {
    const { push, texts, drops } = start({ ttl: 1_000 })
    push('a')
    await pass(600)
    push('b')
    await pass(400)
    expect(texts()).toEqual(['b'])
    await pass(600)
    expect(texts()).toEqual([])
    expect(drops).toEqual(['1 expired', '1 expired'])
  })

  it('does not count a message twice', async () => {
    const { queue, push, drops } = start({ ttl: 1_000 })
    push('a')
    queue._drop('cleared')
    push('a')
    await pass(999)
    push('b')
    expect(drops).toEqual(['1 cleared'])
    await pass(1)
    expect(drops).toEqual(['1 cleared', '1 expired'])
  })

  it('may keep for ever', async () => {
    const { push, texts } = start({ ttl: Infinity })
    push('a')
    await pass(86_400_000)
    expect(texts()).toEqual(['a'])
  })

  it('keeps no process alive', () => {
    const unref = vi.fn()
    vi.stubGlobal('setTimeout', () => ({ unref }))
    start().push('a')
    expect(unref).toHaveBeenCalled()
  })

  it('says how many were dropped at once, and nothing where none were', () => {
    const { queue, push, drops } = start()
    queue._drop('cleared')
    push('a')
    push('b')
    queue._drop('identity')
    expect(drops).toEqual(['2 identity'])
  })
})
