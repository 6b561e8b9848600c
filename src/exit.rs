//! Every exit code of the program, in one table.

use std::process::ExitCode;

use crate::config::diagnostic::Fault;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// The command failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Something that the command needs is not available, such as a port or the admin listener.
    Unavailable = 69,
    /// A permission is missing.
    Permission = 77,
    /// The configuration is wrong or missing.
    Config = 78,
}

impl From<Fault> for Exit {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable => Self::Unavailable,
            Fault::Permission => Self::Permission,
            Fault::Config => Self::Config,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
