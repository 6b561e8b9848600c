//! The state directory and the log files. Creates neither: the folder would belong to the user
//! that runs `usher check`, which may be the wrong one.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use super::{Finding, Inspector};
use crate::config::ContextSigning;
use crate::net::handover;
use crate::upstream::keyring::KeyringFolder;

const STATE_HINT: &str = "create the directory, owned by the user that runs Usher";
const LOG_HINT: &str = "create the folder of the file, owned by the user that runs Usher";

const TAKEOVER_HINT: &str =
    "create a folder for it, owned by the user that runs Usher, with mode 0700";

pub(super) fn inspect(inspector: &mut Inspector<'_>) {
    let config = inspector.config;
    let has_keys = !matches!(config.context.signing, ContextSigning::Generated { .. })
        || matches!(KeyringFolder::of(&config.state_dir).index(), Ok(Some(_)));
    // `[acme]` writes an account and certificates.
    let is_complete = has_keys && config.acme.is_none();
    inspector.add("state_dir", state_dir(&config.state_dir, is_complete));
    if let Some(path) = &config.log.file {
        inspector.add("log.file", log_file("log file", path));
    }
    if let Some(path) = &config.audit {
        inspector.add("audit.file", log_file("audit file", path));
    }
    if let Some(path) = &config.takeover {
        inspector.add("takeover", takeover_folder(path));
    }
}

/// Judges the state directory. With `has_keys`, nothing has to be written there.
pub(super) fn state_dir(path: &Path, has_keys: bool) -> Finding {
    let subject = format!("state_dir {}", path.display());
    let fail = |detail: String| Finding::fail(subject.as_str(), detail, STATE_HINT);
    let existing = |a: &'_ Path| {
        if a.as_os_str().is_empty() { Path::new(".").to_owned() } else { a.to_owned() }
    };
    let Some(there) = path.ancestors().map(existing).find(|ancestor| ancestor.exists()) else {
        return fail("no part of the path exists".to_owned());
    };
    let is_there = there == path;
    if !there.is_dir() {
        return fail(format!("{} is not a directory", there.display()));
    }
    match writable(&there) {
        Err(error) if !(is_there && has_keys) => {
            fail(format!("{} cannot be written to: {error}", there.display())).because(&error)
        }
        _ if is_there => Finding::ok(subject, "exists"),
        _ => Finding::ok(subject, "will be created at the first start"),
    }
}

/// Judges a log file. The start opens it to append, and creates it if its folder exists.
fn log_file(purpose: &str, path: &Path) -> Finding {
    let subject = format!("{purpose} {}", path.display());
    let fail = |detail: String| Finding::fail(subject.as_str(), detail, LOG_HINT);
    if path.is_dir() {
        return fail("is a directory".to_owned());
    }
    if path.exists() {
        return match writable(path) {
            Ok(()) => Finding::ok(subject, "exists"),
            Err(error) => fail(format!("cannot be written to: {error}")).because(&error),
        };
    }
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return fail(format!("the folder {} does not exist", folder.display()));
    }
    match writable(folder) {
        Ok(()) => Finding::ok(subject, "will be created at the first start"),
        Err(error) => {
            fail(format!("the folder {} cannot be written to: {error}", folder.display()))
                .because(&error)
        }
    }
}

/// Judges the folder of the takeover socket.
fn takeover_folder(path: &Path) -> Finding {
    let subject = format!("takeover socket {}", path.display());
    match handover::check_folder(path) {
        Ok(()) => Finding::ok(subject, "only this user can write to its folder"),
        Err(error) => Finding::fail(subject, error.fault(), TAKEOVER_HINT),
    }
}

fn writable(path: &Path) -> io::Result<()> {
    Ok(access(path, Access::WRITE_OK)?)
}
