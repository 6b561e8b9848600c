//! Starts the process that will replace this one, at SIGUSR2.
//!
//! The new process has the same command line. The program is looked up by its path again, so it is
//! the new version after an upgrade. It takes over by itself (`replacement.rs`), or fails and
//! changes nothing.

use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::takeover::events::{ReplacementEnded, ReplacementNotStarted, ReplacementStarted};
use crate::telemetry::Event;

/// How long a process that has closed its sockets may take to end.
const END: Duration = Duration::from_secs(5);

/// The new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewProcess {
    NotStarted,
    Running,
    Ended { pid: u32, is_success: bool },
}

#[derive(Debug)]
pub(super) struct Replacer {
    /// Whether a new process can find this one.
    has_takeover: bool,
    new_process: Arc<watch::Sender<NewProcess>>,
}

impl Replacer {
    pub(super) fn new(has_takeover: bool) -> Self {
        let (new_process, _) = watch::channel(NewProcess::NotStarted);
        Self { has_takeover, new_process: Arc::new(new_process) }
    }

    /// Starts the new process, one at a time.
    pub(super) fn start(&self) {
        if !self.has_takeover {
            let why = "this process has no takeover socket: set `takeover`, or run with --takeover";
            return ReplacementNotStarted { why }.emit();
        }
        if self.new_process.send_replace(NewProcess::Running) == NewProcess::Running {
            return ReplacementNotStarted { why: "a new process is starting already" }.emit();
        }
        let new_process = Arc::clone(&self.new_process);
        // After a takeover this process exits first, and the thread with it.
        let thread = thread::Builder::new().name("usher-replacer".to_owned());
        let started = thread.spawn(move || {
            new_process.send_replace(match run() {
                Ok((pid, status)) => {
                    ReplacementEnded { status: &status.to_string() }.emit();
                    NewProcess::Ended { pid, is_success: status.success() }
                }
                Err(error) => {
                    ReplacementNotStarted { why: &error.to_string() }.emit();
                    NewProcess::NotStarted
                }
            });
        });
        if let Err(error) = started {
            self.new_process.send_replace(NewProcess::NotStarted);
            ReplacementNotStarted { why: &error.to_string() }.emit();
        }
    }

    /// Returns true if this process has started the one with the number, and that one has failed.
    /// Waits a moment for its end. A process that ends in order after it was replaced itself has
    /// not failed.
    pub(super) async fn has_failed(&self, pid: i32) -> bool {
        let mut new_process = self.new_process.subscribe();
        let ended = new_process.wait_for(|state| *state != NewProcess::Running);
        match timeout(END, ended).await.map(|state| state.map(|state| *state)) {
            Ok(Ok(NewProcess::Ended { pid: ended, is_success })) => {
                !is_success && i32::try_from(ended) == Ok(pid)
            }
            _ => false,
        }
    }
}

/// Runs the new process until its end. Returns its number and its status.
fn run() -> io::Result<(u32, ExitStatus)> {
    let mut command_line = std::env::args_os();
    let program = command_line.next().ok_or_else(|| {
        io::Error::other("this process was started without the name of its program")
    })?;
    let mut child = Command::new(program).args(command_line).stdin(Stdio::null()).spawn()?;
    let pid = child.id();
    ReplacementStarted { pid }.emit();
    Ok((pid, child.wait()?))
}
