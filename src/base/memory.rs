//! The memory of the process: how much it uses, and what it returns to the operating system after
//! many connections have closed.
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

/// Returns the memory of this process in bytes, without swap. `None`: the system does not have it
/// in `/proc`.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_memory_of_this_process_is_more_than_a_megabyte() {
        assert!(resident().unwrap() > 1 << 20);
    }

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
