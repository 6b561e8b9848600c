//! Starts the process that will replace this one, at SIGUSR2.
//!
//! The new process has the same command line. The program is looked up by its path again, so it is
//! the new version after an upgrade. It takes over by itself (`replacement.rs`), or fails and
//! changes nothing.

use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::takeover::events::{ReplacementEnded, ReplacementNotStarted, ReplacementStarted};
use crate::telemetry::Event;

#[derive(Debug)]
pub(super) struct Replacer {
    /// Whether a new process can find this one.
    has_takeover: bool,
    is_running: Arc<AtomicBool>,
}

impl Replacer {
    pub(super) fn new(has_takeover: bool) -> Self {
        Self { has_takeover, is_running: Arc::default() }
    }

    /// Starts the new process, one at a time.
    pub(super) fn start(&self) {
        if !self.has_takeover {
            let why = "this process has no takeover socket: set `takeover`, or run with --takeover";
            return ReplacementNotStarted { why }.emit();
        }
        if self.is_running.swap(true, Ordering::AcqRel) {
            return ReplacementNotStarted { why: "a new process is starting already" }.emit();
        }
        let is_running = Arc::clone(&self.is_running);
        // After a takeover this process exits first, and the thread with it.
        let thread = thread::Builder::new().name("usher-replacer".to_owned());
        let started = thread.spawn(move || {
            match run() {
                Ok(status) => ReplacementEnded { status: &status.to_string() }.emit(),
                Err(error) => ReplacementNotStarted { why: &error.to_string() }.emit(),
            }
            is_running.store(false, Ordering::Release);
        });
        if let Err(error) = started {
            self.is_running.store(false, Ordering::Release);
            ReplacementNotStarted { why: &error.to_string() }.emit();
        }
    }
}

/// Runs the new process until its end.
fn run() -> io::Result<ExitStatus> {
    let mut command_line = std::env::args_os();
    let program = command_line.next().ok_or_else(|| {
        io::Error::other("this process was started without the name of its program")
    })?;
    let mut child = Command::new(program).args(command_line).stdin(Stdio::null()).spawn()?;
    ReplacementStarted { pid: child.id() }.emit();
    child.wait()
}
