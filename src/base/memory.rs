//! Returns memory to the operating system after many connections have closed.
//!
//! The allocator keeps freed memory for later connections. After a storm of connections, or after
//! the drain of another node, this is most of the process's memory, and other processes cannot use
//! it.

/// The smallest number of connections for which memory is returned.
const MANY: usize = 256;

/// Tracks the most open connections since memory was last returned.
#[derive(Debug, Default)]
pub struct MemoryTrim {
    most: usize,
}

impl MemoryTrim {
    /// Returns memory if the number of open connections is at most half of the maximum. That takes
    /// some milliseconds.
    pub fn look(&mut self, open: usize) {
        if self.is_due(open) {
            give_back();
        }
    }

    fn is_due(&mut self, open: usize) -> bool {
        self.most = self.most.max(open);
        let due = self.most >= MANY && open <= self.most / 2;
        if due {
            self.most = open;
        }
        due
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "there is no safe wrapper of this call")]
fn give_back() {
    // SAFETY: the function takes a number. It changes only the free memory of the allocator, under
    // the locks of the allocator.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_when_half_have_gone() {
        let mut trim = MemoryTrim::default();
        let due: Vec<_> = [0, 100, 40, 1000, 600, 500, 500, 400, 250, 200, 90, 0]
            .map(|open| trim.is_due(open))
            .into();
        assert_eq!(
            due,
            [false, false, false, false, false, true, false, false, true, false, false, false]
        );
    }
}
