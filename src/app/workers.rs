//! The threads that serve: each has a runtime and sockets of its own.

use std::sync::Arc;
use std::thread::JoinHandle;

use aws_lc_rs::rand;
use tokio::runtime;
use tokio::sync::watch;

use crate::edge::Current;
use crate::edge::worker::Worker;
use crate::listener::{self, Bound};

pub(super) fn spawn_worker(
    index: usize,
    sockets: Vec<Bound>,
    current: Current,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let drain = &current.load().drain;
    let sockets: Vec<_> = sockets.into_iter().map(|bound| (bound, drain.accepting())).collect();
    std::thread::Builder::new().name(format!("usher-{index}")).spawn(move || {
        // The random generator of a thread gathers entropy at its first use, which takes tens of
        // milliseconds. Here, no handshake waits for it. An error here is ignored, because it
        // occurs again in the handshake.
        let _ = rand::fill(&mut [0]);
        runtime.block_on(async move {
            let worker = Worker { edge: current.load_full(), pool: Arc::default(), current };
            for (bound, accepting) in sockets {
                tokio::spawn(listener::accept(bound, worker.clone(), accepting));
            }
            // The worker also stops if the sender is dropped.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        // The runtime drops the remaining tasks; each session still emits its end event.
    })
}
