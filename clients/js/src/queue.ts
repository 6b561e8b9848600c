import { fault } from './errors.js'
import type { DropReason, QueueOptions, Raw } from './types.js'

/** Messages that wait for a session, oldest first. Their number, bytes and time are bounded. */
export function createQueue(
  { maxMessages = 100, maxBytes = 1 << 20, ttl = 30_000, overflow }: QueueOptions = {},
  emit: (event: 'drop', detail: { count: number; reason: DropReason }) => void,
) {
  const waiting: { _data: Raw }[] = []

  /** Drops the oldest messages while `isDropped` returns true. */
  function drop(reason: DropReason, isDropped = () => true) {
    let count = 0
    for (; waiting[0] && isDropped(); count++) waiting.shift()
    if (count) emit('drop', { count, reason })
  }

  return {
    _waiting: waiting,
    _drop: drop,
    _push(_data: Raw, isStopped: unknown) {
      const message = { _data }
      const isFull = () =>
        waiting.length >= maxMessages ||
        new Blob([...waiting, message].map((one) => one._data as BlobPart)).size > maxBytes
      // A message that is too large for an empty queue must not drop others.
      if (overflow === 'drop-oldest' && new Blob([_data as BlobPart]).size <= maxBytes) {
        drop('overflow', isFull)
      }
      if (isStopped || isFull()) {
        if (overflow === 'throw' && !isStopped) throw fault('queue_full')
        emit('drop', { count: 1, reason: isStopped ? 'stopped' : 'overflow' })
        return 'dropped'
      }
      waiting.push(message)
      // Older messages have expired earlier. The timer does not keep the process alive.
      const isFirst = () => waiting[0] === message
      ;(setTimeout(drop, Math.min(ttl, 1e9), 'expired', isFirst) as any).unref?.()
      return 'queued'
    },
  }
}
