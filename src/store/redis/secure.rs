//! Connections to Redis over TLS with the certificates of `ca_file`.
//!
//! The TLS of the client library does not accept pinned certificates. So this module dials single
//! servers and the master that sentinels name. The library dials the nodes of a cluster.

use std::io;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::socket2::SockRef;
use redis::{
    AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, RedisResult, Value, cmd,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::{DIAL_TIMEOUT, USER_TIMEOUT, keepalive};
use crate::config::store::HostPort;

/// The certificates of `ca_file`.
#[derive(Clone)]
pub struct Authorities {
    pub pem: Vec<u8>,
    pub tls: Arc<ClientConfig>,
}

impl Authorities {
    pub(super) async fn connect(
        &self,
        server: &HostPort,
        identity: &RedisConnectionInfo,
        options: AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let made = async {
            let stream = self.secure(server).await?;
            MultiplexedConnection::new_with_config(identity, stream, options).await
        };
        let late = |_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
        let (connection, driver) = Box::pin(timeout(DIAL_TIMEOUT, made)).await.map_err(late)??;
        // The task ends with the last copy of the connection.
        tokio::spawn(driver);
        Ok(connection)
    }

    /// Returns the address of the master, from the first sentinel that knows it.
    pub(super) async fn find_master(
        &self,
        sentinels: &[HostPort],
        name: &str,
        identity: &RedisConnectionInfo,
    ) -> RedisResult<HostPort> {
        let mut last = no_master();
        for sentinel in sentinels {
            match self.ask_sentinel(sentinel, name, identity).await {
                Ok(master) => return Ok(master),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask_sentinel(
        &self,
        sentinel: &HostPort,
        name: &str,
        identity: &RedisConnectionInfo,
    ) -> RedisResult<HostPort> {
        let options = AsyncConnectionConfig::new().set_response_timeout(Some(DIAL_TIMEOUT));
        let mut connection = self.connect(sentinel, identity, options).await?;
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let answer: Option<(String, u16)> = question.query_async(&mut connection).await?;
        let (host, port) = answer.ok_or_else(no_master)?;
        Ok(HostPort { host, port })
    }

    async fn secure(&self, HostPort { host, port }: &HostPort) -> io::Result<TlsStream<TcpStream>> {
        let tcp = dial(host, *port).await?;
        tcp.set_nodelay(true)?;
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive())?;
        #[cfg(target_os = "linux")]
        SockRef::from(&tcp).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        let name = ServerName::try_from(host.clone())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await
    }
}

/// Dials all addresses of the name at once: an address that never answers must not use up the time.
async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut dials: JoinSet<_> = lookup_host((host, port)).await?.map(TcpStream::connect).collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    while let Some(dial) = dials.join_next().await {
        match dial.map_err(io::Error::other)? {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Fails if the server is a replica: sentinels may notice a failover later than the servers.
pub(super) async fn check_master(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let role: Value = cmd("ROLE").query_async(connection).await?;
    let is_master = match &role {
        Value::Array(parts) => match parts.first() {
            Some(Value::BulkString(kind)) => kind == b"master",
            Some(Value::SimpleString(kind)) => kind == "master",
            _ => false,
        },
        _ => false,
    };
    if is_master { Ok(()) } else { Err(no_master()) }
}

fn no_master() -> RedisError {
    (ErrorKind::MasterNameNotFoundBySentinel, "no sentinel knows a master with this name").into()
}
