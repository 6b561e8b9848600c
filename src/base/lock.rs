//! Taking a mutex, whatever became of who held it last.
//!
//! A panic ends one connection, and what it held is whole: nothing is kept half changed under a
//! lock. So the next one goes on.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
