//! The measuring loop of all micro benches.
//!
//! By default, it measures CPU time: the median of batches, on the thread's own clock, so that
//! other load on the machine has little effect. With `--instructions`, the program starts itself
//! under callgrind, which counts exactly. Each operation runs a few rounds and many rounds. The
//! difference is reported, so that the set-up and the loop cancel out.

mod counts;

use std::hint::black_box;

/// The rounds of the two runs whose difference is reported.
const FEW: usize = 8;
const MANY: usize = 72;
const BATCHES: usize = 51;
/// The intended time of one batch, in nanoseconds.
const BATCH_NANOS: u64 = 1_000_000;

pub struct Runner {
    mode: Mode,
    filter: Option<String>,
    names: Vec<String>,
}

enum Mode {
    Time,
    /// Under callgrind, started by this program.
    Counted,
    List,
}

/// Runs `work`, which has all benches of the program.
pub fn main(work: impl Fn(&mut Runner)) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filter = arguments.iter().find(|argument| !argument.starts_with("--")).cloned();
    // The random generator gathers entropy at its first use, for tens of milliseconds. Here, no
    // operation includes this time.
    let _ = aws_lc_rs::rand::fill(&mut [0; 16]);
    let mode = if has("--counted") { Mode::Counted } else { Mode::Time };
    if has("--instructions") {
        let mut listing = Runner { mode: Mode::List, filter: filter.clone(), names: Vec::new() };
        work(&mut listing);
        return counts::run(&listing.names, filter.as_deref(), has("--save"));
    }
    if matches!(mode, Mode::Time) {
        println!("{:<44} {:>12}", "operation", "CPU ns");
    }
    work(&mut Runner { mode, filter, names: Vec::new() });
}

impl Runner {
    /// Measures an operation that can be repeated.
    pub fn measure<Out>(&mut self, name: &str, mut work: impl FnMut() -> Out) {
        self.measure_with(name, |rounds| vec![(); rounds], |()| work());
    }

    /// Measures an operation that consumes its input. `prepare` makes the inputs for a number of
    /// rounds, and is not measured.
    pub fn measure_with<In, Out>(
        &mut self,
        name: &str,
        mut prepare: impl FnMut(usize) -> Vec<In>,
        mut work: impl FnMut(In) -> Out,
    ) {
        if self.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            return;
        }
        let mut batch = |rounds: usize, timed: &mut dyn FnMut(&mut dyn FnMut())| {
            let mut inputs = prepare(rounds).into_iter();
            timed(&mut || {
                for input in inputs.by_ref() {
                    black_box(work(black_box(input)));
                }
            });
        };
        match self.mode {
            Mode::List => self.names.push(name.to_owned()),
            Mode::Counted => {
                // This first batch includes all work that is done once in a process.
                batch(MANY, &mut |run| run());
                batch(FEW, &mut |run| measured(run));
                batch(MANY, &mut |run| measured(run));
            }
            Mode::Time => {
                let mut time = |rounds: usize| {
                    let mut nanos = 0;
                    batch(rounds, &mut |run| {
                        let start = cpu_nanos();
                        run();
                        nanos = cpu_nanos() - start;
                    });
                    nanos
                };
                let mut rounds = 16;
                while rounds < 16_384 && time(rounds) < BATCH_NANOS {
                    rounds *= 2;
                }
                let mut batches: Vec<u64> = (0..BATCHES).map(|_| time(rounds)).collect();
                batches.sort_unstable();
                println!("{name:<44} {:>12.1}", batches[BATCHES / 2] as f64 / rounds as f64);
            }
        }
    }
}

/// The function in which callgrind counts. Callgrind finds it by its name.
#[inline(never)]
fn measured(run: &mut dyn FnMut()) {
    run();
    black_box(());
}

/// Returns the CPU time of this thread in nanoseconds.
#[cfg(target_os = "linux")]
fn cpu_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(not(target_os = "linux"))]
fn cpu_nanos() -> u64 {
    use std::sync::OnceLock;
    use tokio::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(|| usher::base::clock::Now::read().mono).elapsed().as_nanos() as u64
}
