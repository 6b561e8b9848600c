//! The keys at the top of the file.

use std::thread::available_parallelism;

use crate::config::declare::table;
use crate::config::key_type::{Count, PathToWrite, TextType};

table! {
    /// Settings of the process.
    pub struct Top: [] {
        /// The name of this node in lists of nodes; by default the host's name.
        node: NodeName, optional "edge-1";
        /// The folder for the keys that Usher makes, and for the last valid keys of issuers.
        state_dir: PathToWrite, default "./usher-state",
            because "next to the configuration, so there is nothing else to prepare",
            change_when "the folder of the configuration is read-only";
        /// The unix socket at which a new process takes over from a running one; its folder belongs
        /// to the user that runs Usher and is writable by no other.
        takeover: PathToWrite, optional "/run/usher/takeover.sock",
            because "without it, a port that is in use is an error",
            change_when "a new process replaces the running one on the same machine";
        /// Runtime threads; by default one per core.
        threads: Count, optional 4,
            at_most 1024 "the default is one per core",
            because "one per core, so that a session stays on one core",
            change_when "other processes need the cores";
    }
}

/// The name of a node.
pub struct NodeName;

impl TextType for NodeName {
    type Value = String;
    const NAME: &str = "name";
    const PATTERN: Option<&str> = Some("^[!-~]{1,64}$");

    fn parse(key: &str, text: &str) -> Result<String, String> {
        let is_name =
            (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        match is_name {
            true => Ok(text.to_owned()),
            false => Err(format!("`{key}` must be 1 to 64 visible ASCII characters")),
        }
    }
}

/// Each thread has a runtime and a socket for each listener.
const MOST_THREADS: usize = 1024;

impl Top {
    /// Returns `threads`, or one for each core.
    pub fn thread_count(&self) -> usize {
        self.threads
            .unwrap_or_else(|| available_parallelism().map_or(1, usize::from).min(MOST_THREADS))
    }

    /// Returns `node`, or the host's name.
    pub fn node_name(&self) -> String {
        let host = || {
            // /proc/sys is hidden from a service with `ProcSubset=pid`.
            let system = rustix::system::uname();
            NodeName::parse("node", system.nodename().to_str().ok()?).ok()
        };
        self.node.clone().or_else(host).unwrap_or_else(|| "usher".to_owned())
    }
}
