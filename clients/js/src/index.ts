export { createClient } from './client.js'
export { UnauthorizedError, UsherError } from './errors.js'
export type * from './types.js'
