//! The facts in a report beside its figures: program, machine, command, CPU time.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::load::Pace;
use crate::base::clock::Now;

/// The version of the JSON format. It grows when a field changes its meaning or is removed.
pub const FORMAT: u32 = 1;
/// Linux reports CPU time to programs in hundredths of a second, whatever the kernel counts in.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Debug)]
pub struct RunFacts {
    pub mode: &'static str,
    /// `None` if the connections are not the load.
    pub pace: Option<Pace>,
    /// The command line, without values that may be secrets.
    pub arguments: Vec<String>,
    pub started: String,
    pub cpus: usize,
}

impl RunFacts {
    pub fn of_this_run(mode: &'static str, pace: Option<Pace>) -> Self {
        Self {
            mode,
            pace,
            arguments: harmless(std::env::args_os().skip(1)),
            started: Now::read().wall.to_rfc3339(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    pub fn loop_word(&self) -> &'static str {
        match self.pace {
            Some(Pace::Open { .. }) => "open",
            _ => "closed",
        }
    }

    /// Returns what the times mean when the server stalls.
    pub fn omission(&self) -> String {
        match self.pace {
            Some(Pace::Open { per_second }) => format!(
                "Open loop: {per_second} connections begin per second, whatever happened to the \
                 earlier ones. late and total count from the planned begin, so they are corrected \
                 for coordinated omission; the other phases are not."
            ),
            _ => "Closed loop: the next connection or message begins when an earlier one has \
                  ended. The times are not corrected for coordinated omission: during a stall \
                  nothing begins, so a stall shows in max and in the throughput alone."
                .to_owned(),
        }
    }

    pub fn json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("format".to_owned(), json!(FORMAT));
        object.insert("usher".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        object.insert("started".to_owned(), json!(self.started));
        object.insert("mode".to_owned(), json!(self.mode));
        object.insert("loop".to_owned(), json!(self.loop_word()));
        object.insert("arguments".to_owned(), json!(self.arguments));
        object.insert(
            "machine".to_owned(),
            json!({
                "cpus": self.cpus, "os": std::env::consts::OS, "arch": std::env::consts::ARCH,
            }),
        );
        object
    }
}

/// Returns the arguments without the queries of URLs and paths, and without the text of messages:
/// both may have a credential.
fn harmless(arguments: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut is_message = false;
    arguments
        .map(|argument| {
            let argument = argument.to_string_lossy();
            if std::mem::take(&mut is_message) {
                return "[redacted]".to_owned();
            }
            is_message = argument == "--message";
            match argument.split_once('=') {
                Some(("--message", _)) => "--message=[redacted]".to_owned(),
                _ => harmless_url(&argument),
            }
        })
        .collect()
}

/// Returns a URL or a path without its query.
pub fn harmless_url(url: &str) -> String {
    match url.split_once('?') {
        Some((address, _)) => format!("{address}?[redacted]"),
        None => url.to_owned(),
    }
}

/// The CPU time that was used: by this process, and by the server's processes if they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    pub client: Duration,
    pub server: Option<Duration>,
}

impl CpuTime {
    /// Reads the time used so far.
    pub fn read(pids: &[u32]) -> anyhow::Result<Self> {
        let server = pids.iter().try_fold(Duration::ZERO, |sum, pid| {
            Ok::<_, anyhow::Error>(sum + of_process(&pid.to_string())?)
        })?;
        let server = (!pids.is_empty()).then_some(server);
        Ok(Self { client: of_process("self").unwrap_or_default(), server })
    }

    /// Returns the time used since an earlier reading.
    pub fn since(self, before: Self) -> Self {
        Self {
            client: self.client.saturating_sub(before.client),
            server: self.server.zip(before.server).map(|(now, then)| now.saturating_sub(then)),
        }
    }

    pub fn add(&mut self, other: Self) {
        self.client += other.client;
        self.server = match (self.server, other.server) {
            (Some(mine), Some(theirs)) => Some(mine + theirs),
            (mine, theirs) => mine.or(theirs),
        };
    }
}

fn of_process(pid: &str) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the CPU time of the server in {path}"))?;
    let ticks = stat.rsplit_once(") ").and_then(|(_, fields)| {
        // The fields after the name: state, then twelve numbers, then user and system time.
        let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
        Some(times.next()?.ok()? + times.next()?.ok()?)
    });
    let ticks = ticks.with_context(|| format!("{path} has no CPU times"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn an_argument_that_is_not_text_is_kept_readable() {
        let typed = OsString::from_vec(b"ca-\xff.pem".to_vec());
        assert_eq!(harmless([typed].into_iter()), ["ca-\u{fffd}.pem"]);
    }

    #[test]
    fn no_credential_of_the_command_line_is_kept() {
        let typed = [
            "bench",
            "wss://localhost/ws?ticket=s3cret",
            "--compare=ws://localhost:1/?a=s3cret",
            "--message",
            "s3cret",
            "--message=s3cret",
            "--token-env",
            "TOKEN",
            "--ticket-path",
            "/ticket?key=s3cret",
            "--ticket-path=/ticket?key=s3cret",
        ];
        let kept = harmless(typed.iter().map(|&word| OsString::from(word)));
        assert_eq!(
            kept,
            [
                "bench",
                "wss://localhost/ws?[redacted]",
                "--compare=ws://localhost:1/?[redacted]",
                "--message",
                "[redacted]",
                "--message=[redacted]",
                "--token-env",
                "TOKEN",
                "--ticket-path",
                "/ticket?[redacted]",
                "--ticket-path=/ticket?[redacted]",
            ]
        );
    }

    #[test]
    fn the_cpu_time_of_a_process_grows_and_an_unknown_process_is_an_error() {
        let before = CpuTime::read(&[std::process::id()]).unwrap();
        let after = CpuTime::read(&[std::process::id()]).unwrap();
        assert!(after.since(before).server.is_some());
        assert_eq!(CpuTime::read(&[]).unwrap().server, None);
        assert!(CpuTime::read(&[u32::MAX]).is_err());
    }
}
