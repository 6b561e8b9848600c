//! Figures of this process by the names that Prometheus's client libraries use.
//!
//! They are read when the metrics are rendered. A figure that the system does not have is left out.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::family::{Family, families};
use super::metrics::Metrics;
use super::value::Gauge;
use crate::base::clock::UnixMillis;

families! {
    /// CPU time of this process, by the program and by the system for it, in seconds.
    CPU: Total = "process_cpu_seconds_total";
    /// Memory of this process that is in RAM.
    RESIDENT: Gauge = "process_resident_memory_bytes";
    /// Addresses that this process has reserved, most of them without memory behind them.
    VIRTUAL: Gauge = "process_virtual_memory_bytes";
    /// Threads of this process.
    THREADS: Gauge = "process_threads";
    /// Descriptors that this process has open. Each session has two.
    OPEN_FDS: Gauge = "process_open_fds";
    /// The most descriptors that this process may open.
    MAX_FDS: Gauge = "process_max_fds";
    /// When this process started, in seconds since the Unix epoch.
    STARTED: Gauge = "process_start_time_seconds";
}

/// Reads the figures of this process. It may block, see [`open_descriptors`].
pub(super) fn publish(metrics: &Metrics, started: UnixMillis) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    metrics.set_total(&CPU, cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
    metrics.set(&STARTED, (), started.0 as f64 / 1000.0);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name| field(&status, name).map(|kib| kib * 1024);
    set(metrics, &RESIDENT, kib("VmRSS"));
    set(metrics, &VIRTUAL, kib("VmSize"));
    set(metrics, &THREADS, field(&status, "Threads"));
    set(metrics, &OPEN_FDS, open_descriptors());
    // Without a limit there is no figure.
    set(metrics, &MAX_FDS, getrlimit(Resource::Nofile).current);
}

fn set(metrics: &Metrics, family: &Family<Gauge>, figure: Option<u64>) {
    match figure {
        Some(figure) => metrics.set(family, (), figure as f64),
        None => metrics.withdraw(family, ()),
    }
}

/// Returns a number of `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the number of open descriptors. Since Linux 6.2 the size of the folder is their number;
/// before, they are counted, which takes a millisecond for each few thousand.
fn open_descriptors() -> Option<u64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).ok()?.len() {
        // The descriptor of the folder itself counts too.
        0 => Some((fs::read_dir(folder).ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn open_descriptors_are_counted() {
        let before = open_descriptors().unwrap();
        let held: Vec<File> = (0..500).map(|_| File::open("/dev/null").unwrap()).collect();
        // Other tests open and close files meanwhile.
        assert!(open_descriptors().unwrap() >= before + 300);
        drop(held);
    }

    #[test]
    fn numbers_of_the_status_are_read_by_their_whole_name() {
        let status = "Name:\tusher\nVmRSSx:\t7 kB\nVmRSS:\t  5120 kB\nThreads:\t3\n";
        assert_eq!(field(status, "VmRSS"), Some(5120));
        assert_eq!(field(status, "Threads"), Some(3));
        assert_eq!((field(status, "VmSize"), field(status, "Name")), (None, None));
    }
}
