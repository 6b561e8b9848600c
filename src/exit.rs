//! Every exit code of the program, in one table.

use std::process::ExitCode;

use crate::config::diagnostic::FaultKind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Unavailable = 69,
    Permission = 77,
    Config = 78,
}

impl Exit {
    /// Every code and its meaning, for the help texts.
    pub const MEANINGS: [(Self, &str); 6] = [
        (Self::Ok, "the command succeeded"),
        (Self::Failed, "the command failed, or its answer is no: a refused request, a warning"),
        (Self::Usage, "the command line is wrong"),
        (Self::Unavailable, "something is not available: a port, a server, the admin listener"),
        (Self::Permission, "a permission is missing"),
        (Self::Config, "the configuration is wrong or missing"),
    ];
}

impl From<FaultKind> for Exit {
    fn from(fault: FaultKind) -> Self {
        match fault {
            FaultKind::Unavailable => Self::Unavailable,
            FaultKind::Permission => Self::Permission,
            FaultKind::Config => Self::Config,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
