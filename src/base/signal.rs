//! The signals that Usher handles.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signal that asks for log files to be opened again: SIGUSR1.
#[derive(Debug)]
pub struct RotationSignal(Signal);

impl RotationSignal {
    pub fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::user_defined1())?))
    }

    pub async fn next(&mut self) {
        self.0.recv().await;
    }

    /// Keeps this signal, SIGUSR2 and SIGHUP from ending the process before they are listened to.
    /// The handlers stay for the life of the process.
    pub fn survive() -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _entered = runtime.enter();
        drop(signal(SignalKind::user_defined2())?);
        drop(signal(SignalKind::hangup())?);
        Self::listen().map(drop)
    }
}

#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user_defined: Signal,
}

/// The action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalAction {
    Stop,
    Reload,
    /// SIGUSR2: a new process is wanted in place of this one.
    Replace,
}

impl Signals {
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user_defined: signal(SignalKind::user_defined2())?,
        })
    }

    pub async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Stop,
            _ = self.interrupt.recv() => SignalAction::Stop,
            _ = self.hangup.recv() => SignalAction::Reload,
            _ = self.user_defined.recv() => SignalAction::Replace,
        }
    }

    /// Completes at the next signal to stop. A second signal completes a second call.
    pub async fn stop(&mut self) {
        while self.next().await != SignalAction::Stop {}
    }
}
