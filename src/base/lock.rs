//! Locks a mutex, and ignores poisoning.
//!
//! A panic ends one connection. The data under a lock is never left half changed, so other
//! connections may go on using it.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
