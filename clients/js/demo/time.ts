// Times as a person reads them.

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' })

/** A time of the day, from milliseconds since 1970. */
export const timeOf = (millis: number) => clock.format(millis)

/** A time of the day with milliseconds, for the log. */
export const preciseTimeOf = (millis: number) => `${timeOf(millis)}.${String(millis % 1000).padStart(3, '0')}`

/** A duration: `8 ms`, `1.2 s`, `42 s`, `14 min 58 s`. */
export function span(millis: number): string {
  if (millis < 1000) return `${Math.round(millis)} ms`
  if (millis < 10_000) return `${(millis / 1000).toFixed(1)} s`
  const seconds = Math.round(millis / 1000)
  if (seconds < 60) return `${seconds} s`
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`
}

/** Whole seconds or minutes, for a countdown. */
export function remaining(millis: number): string {
  const seconds = Math.max(0, Math.ceil(millis / 1000))
  if (seconds <= 90) return `${seconds} s`
  return `${Math.floor(seconds / 60)} min`
}
