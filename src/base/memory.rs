//! Memory back to the system when many connections have gone.
//!
//! The allocator keeps what was freed for the next connection. After a storm, or a drain of another
//! node, that is most of what the process holds, and nobody else on the machine can have it.

/// Fewer than these are not worth it.
const MANY: usize = 256;

/// The most connections since memory was last given back.
#[derive(Debug, Default)]
pub struct MemoryTrim {
    most: usize,
}

impl MemoryTrim {
    /// Looks at how many are open now, and gives back if that is half of what it was. Takes some
    /// milliseconds then.
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
    // SAFETY: it takes a number and touches nothing but the allocator's own free memory, under the
    // allocator's locks.
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
