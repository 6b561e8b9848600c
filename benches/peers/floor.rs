//! The floor of the comparison: it only terminates TLS and copies bytes to the backend.
//!
//! It has the same TLS library and runtime as Usher, and one thread and one `SO_REUSEPORT` listener
//! for each core. It has no HTTP and no authentication. The difference between a proxy and the
//! floor is the cost of everything else. The TLS settings are the defaults of the library (two
//! tickets, 256 sessions kept). The copy has a buffer of 8 KiB for each direction, the default of
//! `copy_bidirectional`.
//!
//! ```text
//! peers-floor LISTEN UPSTREAM CERT KEY THREADS
//! ```
#![allow(
    clippy::print_stderr,
    reason = "the program has no other way to report why it did not start"
)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio_rustls::TlsAcceptor;

const BUFFER: usize = 8 * 1024;
const BACKLOG: i32 = 4096;

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    match start(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers-floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &[String]) -> Result<(), Error> {
    let [listen, upstream, cert, key, threads] = arguments else {
        return Err("peers-floor LISTEN UPSTREAM CERT KEY THREADS".into());
    };
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (acceptor, listen, upstream) =
        (TlsAcceptor::from(Arc::new(config)), listen.parse()?, upstream.parse()?);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.parse()?)
            .map(|_| scope.spawn(|| serve(listen, upstream, &acceptor)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread ended".into())))
    })
}

fn serve(listen: SocketAddr, upstream: SocketAddr, acceptor: &TlsAcceptor) -> Result<(), Error> {
    runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        loop {
            // An accept fails if no descriptor is left. The next one may succeed.
            let Ok((client, _)) = listener.accept().await else { continue };
            tokio::spawn(pass_on(client, upstream, acceptor.clone()));
        }
    })
}

/// Copies bytes between a client and the upstream. A failure ends the connection, and the load
/// generator counts it.
async fn pass_on(
    client: TcpStream,
    upstream: SocketAddr,
    acceptor: TlsAcceptor,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = Box::new(acceptor.accept(client).await?);
    let mut upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await?;
    Ok(())
}
