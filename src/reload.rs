//! Another configuration, while everything runs: read, check, build, swap.
//!
//! Whatever is wrong with it, nothing has changed then. Live sessions keep the edge that they opened with; what comes next
//! is served by the new one. A few keys are built into the process; a new value of theirs waits for the next start, and the
//! answer names it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::clock::Now;
use crate::config::diagnostic::{Diagnostic, Diagnostics};
use crate::config::{Config, Loaded};
use crate::edge::{Current, Edge};
use crate::telemetry::Telemetry;
use crate::telemetry::event::Event;

/// Reads the configuration as the command line said.
pub type Load = Box<dyn Fn() -> Result<Loaded, Diagnostics> + Send + Sync>;

/// Between two looks at the files. A change counts when two looks in a row have seen the same.
const LOOK: Duration = Duration::from_secs(1);
/// Orders that wait for their turn.
const QUEUE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Signal,
    Watch,
    Admin,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Watch => "watch",
            Self::Admin => "admin",
        }
    }
}

/// What came into force.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Tables of the file, and files that it names.
    pub changed: Vec<String>,
    /// Keys whose new value waits for the next start.
    pub restart: Vec<&'static str>,
    pub warnings: Vec<Diagnostic>,
}

pub struct Reloader {
    load: Load,
    current: Current,
    telemetry: Arc<Telemetry>,
}

/// One order to reload, and where its outcome goes.
#[derive(Debug)]
pub struct Order {
    pub cause: Cause,
    outcome: oneshot::Sender<Result<Applied, Diagnostics>>,
}

/// Gives orders.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Order>);

impl Orders {
    pub fn channel() -> (Self, mpsc::Receiver<Order>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// `None`: the process is about to end.
    pub async fn give(&self, cause: Cause) -> Option<Result<Applied, Diagnostics>> {
        let (outcome, answer) = oneshot::channel();
        self.0.send(Order { cause, outcome }).await.ok()?;
        answer.await.ok()
    }
}

impl Reloader {
    pub fn new(load: Load, current: Current, telemetry: Arc<Telemetry>) -> Self {
        Self { load, current, telemetry }
    }

    pub async fn carry_out(&self, order: Order) {
        let outcome = self.reload().await;
        let text = outcome.as_ref().map_err(|diagnostics| diagnostics.render(false));
        Event::Reloaded { cause: order.cause.name(), outcome: text.as_ref().copied().map_err(String::as_str) }.emit();
        // Whoever asked may be gone; it is done all the same.
        let _ = order.outcome.send(outcome);
    }

    async fn reload(&self) -> Result<Applied, Diagnostics> {
        let before = self.current.load_full();
        let Loaded { mut config, warnings } = (self.load)()?;
        let changed = before.config.written.differences(&config.written);
        let restart = keep_what_is_built_in(&mut config, &before.config);
        let refused = |problem: String| Diagnostics(vec![Diagnostic::error(problem)]);
        let next = Arc::new(before.next(config, Now::read()).map_err(|error| refused(error.to_string()))?);
        self.telemetry.follow(&next.config);
        // So that nobody is refused for keys that have not come yet. Where they do not come, those of before go on.
        next.authenticator.issuers().prefetch().await;
        if next.config.bypass.is_allowed {
            Event::BypassAllowed { routes: &next.config.bypass_routes() }.emit();
        }
        next.take_over();
        self.current.store(next);
        Ok(Applied { changed, restart, warnings })
    }
}

/// Puts the values that are in force back where only a start can change them, and names those that were to change.
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
    differs("listener.address", keep_listeners(config, running));
    differs("store", config.store != running.store || config.regions != running.regions);
    config.store.clone_from(&running.store);
    config.regions.clone_from(&running.regions);
    differs("revocation.max_entries", config.revocation.max_entries != running.revocation.max_entries);
    config.revocation.max_entries = running.revocation.max_entries;
    let (limits, before) = (&config.limits, &running.limits);
    differs("limits.audit_queue", limits.audit_queue != before.audit_queue);
    differs("limits.sessions_per_user", limits.sessions_per_user != before.sessions_per_user);
    differs("limits.on_limit", limits.on_limit != before.on_limit);
    // Nobody else holds them yet.
    if let Some(limits) = Arc::get_mut(&mut config.limits) {
        limits.audit_queue = before.audit_queue;
        limits.sessions_per_user = before.sessions_per_user;
        limits.on_limit = before.on_limit;
    }
    let address = |config: &Config| config.admin.as_ref().map(|admin| admin.address);
    if address(config) != address(running) {
        differs("admin.address", true);
        // The socket stays as it is bound, and so does who may speak to it: a token that the new address could do without is
        // still asked for at the old one.
        config.admin.clone_from(&running.admin);
    }
    differs("log", config.log != running.log);
    config.log.clone_from(&running.log);
    differs("audit", config.audit != running.audit);
    config.audit.clone_from(&running.audit);
    restart
}

/// The bound addresses in their order, each as the new configuration has it. Says whether there are others.
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

/// Gives an order whenever the configuration or a file that it names has changed. For ever.
pub async fn watch(source: PathBuf, current: Current, orders: Orders) {
    let look = |edge: &Edge| edge.config.written.on_disk(&source);
    // As it was read, not as it is now: a start may take seconds.
    let mut known = current.load().config.written.as_read(&source);
    let mut last = known.clone();
    loop {
        sleep(LOOK).await;
        let seen = look(&current.load());
        if seen == last && seen != known {
            let outcome = orders.give(Cause::Watch).await;
            // What was refused is not tried again until it is another.
            known = if matches!(outcome, Some(Ok(_))) { current.load().config.written.as_read(&source) } else { seen };
            last.clone_from(&known);
            continue;
        }
        last = seen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(listeners: &[&str], rest: &str) -> Config {
        let listeners: String = listeners.iter().map(|one| format!("[[listener]]\naddress = \"{one}\"\nplain = true\n")).collect();
        let text = format!(
            "{rest}\n{listeners}[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n[[route]]\npath = \"/\"\nupstream = \"a\"\nauth = []\n"
        );
        parse(&text, None, &|_| None).unwrap().config
    }

    #[test]
    fn what_is_built_into_the_process_is_kept_and_named() {
        let running = config(&["127.0.0.1:1", "127.0.0.1:0", "127.0.0.1:0"], "threads = 1");
        let mut other = config(&["127.0.0.1:0", "127.0.0.1:2", "127.0.0.1:0"], "threads = 2\nstate_dir = \"/elsewhere\"");
        assert_eq!(keep_what_is_built_in(&mut other, &running), ["threads", "state_dir", "listener.address"]);
        let ports: Vec<_> = other.listeners.iter().map(|listener| listener.address.port()).collect();
        assert_eq!((ports, &other.state_dir), (vec![1, 0, 0], &running.state_dir));
        let mut same = config(&["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:1"], "threads = 1");
        assert_eq!(keep_what_is_built_in(&mut same, &running), Vec::<&str>::new());
    }
}
