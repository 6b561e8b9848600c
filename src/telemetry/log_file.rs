//! Files that lines are appended to, and that are opened again after a rotation.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tracing::{error, info};

use super::event::Event;
use super::family::{Word, families, words};
use super::line_sink::LineSink;
use super::metrics::Metrics;
use super::{InstallError, LogKind};

families! {
    /// Times that a log file was opened again, after SIGUSR1 or a reload: ok, or failed, after
    /// which lines go to the file that is open already.
    REOPENED: Counter = "usher_log_reopens_total", { log: LogKind, outcome: ReopenOutcome }, shown;
}

words! {
    enum ReopenOutcome {
        Ok = "ok",
        Failed = "failed",
    }
}

/// A log file was opened again, or could not be.
struct Reopened<'a> {
    log: LogKind,
    path: &'a Path,
    outcome: Result<(), io::Error>,
}

/// A signal asked for log files to be opened again, but there are none.
pub struct NothingToReopen;

/// Opens a file for appending. Only the owner can read a new file; an existing file keeps its mode.
pub fn open(log: LogKind, path: &Path) -> Result<File, InstallError> {
    append_to(path).map_err(|why| InstallError::LogFile { log, path: path.to_owned(), why })
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Opens the path again for the next line. If that fails, the lines go to the file that is open.
pub fn reopen(log: LogKind, path: &Path, sink: &LineSink) {
    let outcome = append_to(path).map(|file| sink.replace_writer(file));
    Reopened { log, path, outcome }.emit();
}

impl Event for Reopened<'_> {
    fn log(&self) {
        let (log, file) = (self.log.word(), self.path.display());
        match &self.outcome {
            Ok(()) => {
                info!(target: "usher", event = "log_reopened", log, %file, "log file reopened");
            }
            Err(error) => error!(
                target: "usher", event = "log_reopen_failed", log, %file, %error,
                "log file not reopened; lines go to the file that is open"
            ),
        }
    }

    fn count(&self, metrics: &Metrics) {
        let outcome = match self.outcome {
            Ok(()) => ReopenOutcome::Ok,
            Err(_) => ReopenOutcome::Failed,
        };
        metrics.count(&REOPENED, (self.log, outcome));
    }
}

impl Event for NothingToReopen {
    fn log(&self) {
        info!(
            target: "usher", event = "log_reopen_ignored",
            "SIGUSR1 reopens log files, but neither log.file nor audit.file is set"
        );
    }
}
