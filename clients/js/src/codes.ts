// Generated from src/rejection/mod.rs and src/rejection/close.rs by `USHER_WRITE_DOCS=1 cargo test --lib client_codes`.

import type { CloseKind } from './machine.js'

/** The meaning of a close code and reason. The first pattern that matches decides. */
export const KINDS: [CloseKind, RegExp][] = [
  ['going_away', /^(1001|1012)/],
  ['unavailable', /^(1011|1013|1014|4503)/],
  ['busy', /^(1008 Too many messages|1008 Too many sessions|4429)/],
  ['rejected', /^(4401|4403 Invalid token|4408)/],
  ['denied', /^(1008 Missing permission|4400|4403)/],
  ['replaced', /^(1008 Session replaced|4409)/],
  ['normal', /^1000/],
  ['rejected', /^1008/],
  ['network', /^/],
]
