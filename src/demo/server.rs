//! A small HTTP server on its own thread, for the site and the chat backend of the demo.
//!
//! It listens on a loopback port that the kernel chooses. Clients reach it only through Usher. The
//! separate thread isolates it from the proxy, like any other server.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

const CONNECTIONS: usize = 256;
/// The idle timeout. It is longer than that of Usher, so that Usher closes an idle connection
/// first.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a restart takes, so that the user can watch it.
pub const PAUSE: Duration = Duration::from_secs(3);
/// The wait before the next try, if the port is still in use.
const REBIND: Duration = Duration::from_millis(100);

/// The handler of a server's requests.
pub trait RequestHandler: Send + Sync + 'static {
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// A server that runs until it is dropped.
pub struct DemoServer {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    restarts: mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A handle that restarts a server.
#[derive(Clone)]
pub struct Restart(mpsc::Sender<()>);

enum End {
    Restart,
    Stop,
}

impl DemoServer {
    pub fn start<A: RequestHandler>(name: &str, answers: Arc<A>) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .with_context(|| format!("{name} cannot listen"))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let (restarts, restarted) = mpsc::channel(1);
        let lives = RestartableServer { address, answers, stopped, restarted };
        let first = lives.open(listener)?;
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(|| lives.run(first))?;
        Ok(Self { address, stop: Some(stop), restarts, thread: Some(thread) })
    }

    pub fn restart(&self) -> Restart {
        Restart(self.restarts.clone())
    }
}

impl Restart {
    /// Restarts the server. Returns false if a restart is already under way.
    pub fn order(&self) -> bool {
        self.0.try_send(()).is_ok()
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server that can restart. Each run has its own runtime. Dropping the runtime cuts every
/// connection without a close frame, like a crash.
struct RestartableServer<A> {
    address: SocketAddr,
    answers: Arc<A>,
    stopped: oneshot::Receiver<()>,
    restarted: mpsc::Receiver<()>,
}

impl<A: RequestHandler> RestartableServer<A> {
    fn run(mut self, first: (Runtime, TcpListener)) {
        let mut life = Some(first);
        while let Some((runtime, listener)) = life.take() {
            let end = runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, Arc::clone(&self.answers)) => End::Stop,
                    _ = &mut self.stopped => End::Stop,
                    Some(()) = self.restarted.recv() => End::Restart,
                }
            });
            drop(runtime);
            if matches!(end, End::Restart) {
                life = self.come_back();
            }
        }
    }

    /// Waits, and listens at the same address again. `None`: the server was stopped in between.
    fn come_back(&mut self) -> Option<(Runtime, TcpListener)> {
        let waiting = Builder::new_current_thread().enable_time().build().ok()?;
        let mut wait = PAUSE;
        loop {
            let stopped = waiting
                .block_on(async { tokio::time::timeout(wait, &mut self.stopped).await.is_ok() });
            if stopped {
                return None;
            }
            let opened = std::net::TcpListener::bind(self.address).map_err(anyhow::Error::from);
            if let Ok(life) = opened.and_then(|listener| self.open(listener)) {
                // A restart that was ordered in between is done.
                while self.restarted.try_recv().is_ok() {}
                return Some(life);
            }
            wait = REBIND;
        }
    }

    fn open(&self, listener: std::net::TcpListener) -> anyhow::Result<(Runtime, TcpListener)> {
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _within = runtime.enter();
            TcpListener::from_std(listener)?
        };
        Ok((runtime, listener))
    }
}

async fn serve<A: RequestHandler>(listener: TcpListener, answers: Arc<A>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, Arc::clone(&answers), permit));
            }
            // Most likely the process is out of descriptors: wait instead of spinning.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse<A: RequestHandler>(
    stream: TcpStream,
    answers: Arc<A>,
    _permit: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(request).await) }
    });
    // An error affects only this connection.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}
