//! Reserved file descriptors, so that probes are answered when clients use all others.

use std::fs::File;
use std::io;
use std::sync::Mutex;

use crate::base::lock::lock;

const RESERVED: usize = 8;

/// Open files that are never read. One is closed when an accepted connection needs its descriptor.
#[derive(Debug)]
pub struct Reserve(Mutex<Vec<File>>);

impl Reserve {
    pub fn new() -> Self {
        let reserve = Self(Mutex::default());
        reserve.refill();
        reserve
    }

    /// Releases one descriptor. Returns false if none is left. If another thread takes the
    /// descriptor first, the caller releases the next one.
    pub fn release(&self) -> bool {
        lock(&self.0).pop().is_some()
    }

    /// Reserves descriptors again, as many as are available.
    pub fn refill(&self) {
        let mut held = lock(&self.0);
        while held.len() < RESERVED
            && let Ok(file) = File::open("/dev/null")
        {
            held.push(file);
        }
    }
}

/// Returns true if the process or the system has no descriptor left.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_released_is_taken_back() {
        let reserve = Reserve::new();
        for _ in 0..RESERVED {
            assert!(reserve.release());
        }
        assert!(!reserve.release());
        reserve.refill();
        assert_eq!(lock(&reserve.0).len(), RESERVED);
    }
}
