//! Reload: reads, checks and builds another configuration, and swaps it in while everything runs.
//!
//! If anything is wrong with the new configuration, nothing changes. Live sessions keep the edge
//! that they opened with; new ones are served by the new edge. A few keys are fixed when the
//! process starts. Their new values wait for the next start, and the answer names them.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::events::{ConfigApplied, ConfigRefused, ConfigWarning, ReloadCause};
use crate::auth::events::BypassAllowed;
use crate::base::clock::Now;
use crate::config::diagnostic::{Diagnostic, Diagnostics};
use crate::config::written::Fingerprints;
use crate::config::{Config, Loaded, label_names};
use crate::edge::{Current, Edge, staples};
use crate::telemetry::Event;
use crate::telemetry::Telemetry;

/// A function that reads and judges the configuration under the options of the command line. The
/// addresses are those that the process has bound.
pub type ConfigLoader = Box<dyn Fn(&[SocketAddr]) -> Result<Loaded, Diagnostics> + Send + Sync>;

/// The most orders that wait for their turn.
const QUEUE: usize = 16;

/// The result of a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct ReloadReport {
    /// Tables of the file, and files that it names.
    pub changed: Vec<String>,
    /// Keys whose new value takes effect at the next start.
    pub restart: Vec<&'static str>,
    pub warnings: Vec<Diagnostic>,
}

pub struct Reloader {
    load: ConfigLoader,
    current: Current,
    telemetry: Arc<Telemetry>,
}

/// An order to reload, and the channel for its outcome.
#[derive(Debug)]
pub struct ReloadOrder {
    pub cause: ReloadCause,
    /// The files as they were seen. The order is carried out only while they are unchanged.
    seen: Option<Fingerprints>,
    outcome: oneshot::Sender<Result<ReloadReport, Diagnostics>>,
}

/// The sender of orders.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<ReloadOrder>);

impl Orders {
    pub fn channel() -> (Self, mpsc::Receiver<ReloadOrder>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Orders a reload and waits for its outcome. `None`: the process is about to end.
    pub async fn give(&self, cause: ReloadCause) -> Option<Result<ReloadReport, Diagnostics>> {
        self.send(cause, None).await
    }

    /// Orders a reload of the files as they were seen. Also returns `None` if they have changed
    /// since.
    pub async fn give_for(
        &self,
        cause: ReloadCause,
        seen: Fingerprints,
    ) -> Option<Result<ReloadReport, Diagnostics>> {
        self.send(cause, Some(seen)).await
    }

    async fn send(
        &self,
        cause: ReloadCause,
        seen: Option<Fingerprints>,
    ) -> Option<Result<ReloadReport, Diagnostics>> {
        let (outcome, answer) = oneshot::channel();
        self.0.send(ReloadOrder { cause, seen, outcome }).await.ok()?;
        answer.await.ok()
    }
}

impl Reloader {
    pub fn new(load: ConfigLoader, current: Current, telemetry: Arc<Telemetry>) -> Self {
        Self { load, current, telemetry }
    }

    pub async fn carry_out(&self, order: ReloadOrder) {
        let Some(outcome) = Box::pin(self.reload(order.seen.as_ref())).await else { return };
        let cause = order.cause;
        match &outcome {
            Ok(ReloadReport { changed, restart, .. }) => {
                ConfigApplied { cause, changed, restart }.emit();
            }
            Err(diagnostics) => ConfigRefused { cause, why: &diagnostics.render(false) }.emit(),
        }
        // The caller may have gone. The reload is done all the same.
        let _ = order.outcome.send(outcome);
    }

    /// Returns `None` if the files have changed since they were seen.
    async fn reload(
        &self,
        seen: Option<&Fingerprints>,
    ) -> Option<Result<ReloadReport, Diagnostics>> {
        let before = self.current.load_full();
        match (self.load)(&bound(&before.config)) {
            Ok(loaded) => {
                let source = loaded.config.source.clone().unwrap_or_default();
                let is_as_seen =
                    seen.is_none_or(|seen| loaded.config.written.was_read_from(seen, &source));
                if is_as_seen { Some(self.replace(&before, loaded).await) } else { None }
            }
            Err(diagnostics) => Some(Err(diagnostics)),
        }
    }

    async fn replace(&self, before: &Edge, loaded: Loaded) -> Result<ReloadReport, Diagnostics> {
        let Loaded { mut config, warnings } = loaded;
        let changed = before.config.written.differences(&config.written);
        let restart = keep_what_is_built_in(&mut config, &before.config);
        let refused = |problem: String| Diagnostics(vec![Diagnostic::error(problem)]);
        let next =
            Arc::new(before.next(config, Now::read()).map_err(|error| refused(error.to_string()))?);
        let (telemetry, names) = (Arc::clone(&self.telemetry), label_names::of(&next.config));
        // Opening a log file may block.
        let _ = spawn_blocking(move || telemetry.follow(names)).await;
        // Prevents refusals for keys that have not arrived yet. If they do not arrive, the keys of
        // before stay in use.
        next.authenticator.issuers().prefetch().await;
        if let Some(acme) = &next.acme {
            Box::pin(acme.prefetch()).await;
        }
        if next.config.bypass.is_allowed {
            BypassAllowed { routes: &next.config.bypass_routes() }.emit();
        }
        next.take_over();
        self.current.store(Arc::clone(&next));
        next.end_sessions_of_revoked_certificates(Now::read());
        next.watch_expiry(Now::read());
        staples::forget_removed(&before.staples, &next.staples);
        warnings.iter().for_each(|warning| ConfigWarning(warning).emit());
        Ok(ReloadReport { changed, restart, warnings })
    }
}

/// Returns the addresses that the process listens on.
fn bound(config: &Config) -> Vec<SocketAddr> {
    let listeners = config.listeners.iter().map(|listener| listener.address);
    listeners.chain(config.admin.as_ref().and_then(|admin| admin.address.tcp())).collect()
}

/// Restores the running value of each key that only a start can change. Returns the keys whose new
/// value differs.
fn keep_what_is_built_in(config: &mut Config, running: &Config) -> Vec<&'static str> {
    let mut restart = Vec::new();
    let mut differs = |name, is_other: bool| {
        if is_other {
            restart.push(name);
        }
    };
    differs("threads", config.threads != running.threads);
    config.threads = running.threads;
    differs("node", config.node != running.node);
    config.node.clone_from(&running.node);
    differs("state_dir", config.state_dir != running.state_dir);
    config.state_dir.clone_from(&running.state_dir);
    differs("takeover", config.takeover != running.takeover);
    config.takeover.clone_from(&running.takeover);
    differs("listener.address", keep_listeners(config, running));
    differs("listener.share_port", keep_sharing(config, running));
    differs("store", config.store != running.store || config.regions != running.regions);
    config.store.clone_from(&running.store);
    config.regions.clone_from(&running.regions);
    differs(
        "revocation.max_entries",
        config.revocation.max_entries != running.revocation.max_entries,
    );
    config.revocation.max_entries = running.revocation.max_entries;
    let (limits, before) = (&config.limits, &running.limits);
    differs("limits.log_queue", limits.log_queue != before.log_queue);
    differs("limits.sessions_per_user", limits.sessions_per_user != before.sessions_per_user);
    differs("limits.extra_sessions", limits.extra_sessions != before.extra_sessions);
    // The configuration is new, so this is the only reference to its limits.
    if let Some(limits) = Arc::get_mut(&mut config.limits) {
        limits.log_queue = before.log_queue;
        limits.sessions_per_user = before.sessions_per_user;
        limits.extra_sessions = before.extra_sessions;
    }
    let address = |config: &Config| config.admin.as_ref().map(|admin| admin.address.clone());
    if address(config) != address(running) {
        differs("admin.address", true);
        // The socket stays bound where it is, and keeps the access rules of its address. The old
        // address still asks for a token, even if the new address needs none.
        config.admin.clone_from(&running.admin);
    }
    differs("log", config.log != running.log);
    config.log.clone_from(&running.log);
    differs("audit", config.audit != running.audit);
    config.audit.clone_from(&running.audit);
    restart
}

/// Puts the bound addresses into their order, each with the settings of the new configuration.
/// Returns true if the configuration has other addresses.
fn keep_listeners(config: &mut Config, running: &Config) -> bool {
    let mut written = std::mem::take(&mut config.listeners);
    let mut is_other = false;
    for bound in &running.listeners {
        let same = written.iter().position(|listener| listener.address == bound.address);
        is_other |= same.is_none();
        config.listeners.push(same.map_or_else(|| Arc::clone(bound), |same| written.remove(same)));
    }
    is_other || !written.is_empty()
}

/// Keeps the sharing of each address, which was decided when the address was bound. Returns true if
/// the new configuration differs.
fn keep_sharing(config: &mut Config, running: &Config) -> bool {
    let mut is_other = false;
    for (listener, bound) in config.listeners.iter_mut().zip(&running.listeners) {
        if listener.sharing != bound.sharing
            && let Some(listener) = Arc::get_mut(listener)
        {
            listener.sharing = bound.sharing;
            is_other = true;
        }
    }
    is_other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(listeners: &[&str], rest: &str) -> Config {
        let listeners: String = listeners
            .iter()
            .map(|one| format!("[[listener]]\naddress = \"{one}\"\nplain = true\n"))
            .collect();
        let text = format!(
            "{rest}\n{listeners}[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n\
             [[route]]\npath = \"/\"\nupstream = \"a\"\nauth = []\n"
        );
        parse(&text, None, &|_| None).unwrap().config
    }

    #[test]
    fn what_is_built_into_the_process_is_kept_and_named() {
        let running = config(&["127.0.0.1:1", "127.0.0.1:0", "127.0.0.1:0"], "threads = 1");
        let mut other = config(
            &["127.0.0.1:0", "127.0.0.1:2", "127.0.0.1:0"],
            "threads = 2\nstate_dir = \"/elsewhere\"",
        );
        assert_eq!(
            keep_what_is_built_in(&mut other, &running),
            ["threads", "state_dir", "listener.address"]
        );
        let ports: Vec<_> =
            other.listeners.iter().map(|listener| listener.address.port()).collect();
        assert_eq!((ports, &other.state_dir), (vec![1, 0, 0], &running.state_dir));
        let mut same = config(&["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:1"], "threads = 1");
        assert_eq!(keep_what_is_built_in(&mut same, &running), Vec::<&str>::new());
        let mut shared = config(&["127.0.0.1:1\"\nshare_port = true #"], "threads = 1");
        let running = config(&["127.0.0.1:1"], "threads = 1");
        assert_eq!(keep_what_is_built_in(&mut shared, &running), ["listener.share_port"]);
    }
}
