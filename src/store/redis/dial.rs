//! Connects to Redis: to a server, to the master that sentinels name, or to a cluster.
//!
//! The defaults of the library are not good enough for authentication: Nagle's delay is on,
//! keepalive is off, and a host that has vanished is noticed only after minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo,
    RedisError, RedisResult, TlsCertificates, TlsMode, Value,
};

use super::secure::{Authorities, check_master};
use crate::config::store::{HostPort, Redis, RedisLayout};

/// The limit for a whole dial: host names, sentinels, TLS and password.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(5);
/// A connection ends if the peer does not acknowledge bytes for this long.
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(2);

pub struct RedisDialler {
    config: Redis,
    ca: Option<Authorities>,
    /// Whether the server is older than 6.0, and supports only version 2 of the protocol.
    is_old: AtomicBool,
}

/// A connection that is cheap to copy. All copies share one socket, or one for each node of a
/// cluster.
#[derive(Clone)]
pub struct RedisConnection {
    wire: Wire,
    /// Whether the peer has closed the connection. It is known at once, so that the next operation
    /// does not fail.
    lost: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Wire {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisDialler {
    pub fn new(config: Redis, ca: Option<Authorities>) -> Self {
        Self { config, ca, is_old: AtomicBool::new(false) }
    }

    /// Returns the label for the region of the servers; empty if no regions are configured.
    pub fn region(&self) -> &str {
        self.config.region.as_deref().unwrap_or_default()
    }

    pub async fn dial(&self) -> RedisResult<RedisConnection> {
        let was_old = self.is_old.load(Ordering::Relaxed);
        let made = self.dial_once().await;
        if !was_old
            && made.as_ref().is_err_and(|error| {
                error.kind() == ErrorKind::RESP3NotSupported || is_unknown_command(error)
            })
        {
            self.is_old.store(true, Ordering::Relaxed);
            return self.dial_once().await;
        }
        made
    }

    async fn dial_once(&self) -> RedisResult<RedisConnection> {
        let lost = Arc::new(AtomicBool::new(false));
        let own = self.ca.as_ref().filter(|_| self.config.tls);
        let wire = match (&self.config.layout, own) {
            (RedisLayout::Single { server, .. }, Some(own)) => Wire::Single(
                Box::pin(own.connect(server, &self.identity(), self.options(&lost))).await?,
            ),
            (RedisLayout::Single { server, .. }, None) => {
                let client = Client::open(self.info(server)?)?;
                Wire::Single(
                    client
                        .get_multiplexed_async_connection_with_config(&self.options(&lost))
                        .await?,
                )
            }
            (RedisLayout::Sentinel { sentinels, master }, Some(own)) => {
                let found =
                    Box::pin(own.find_master(sentinels, master, &self.sentinel_identity())).await?;
                let mut connection =
                    Box::pin(own.connect(&found, &self.identity(), self.options(&lost))).await?;
                check_master(&mut connection).await?;
                Wire::Single(connection)
            }
            (RedisLayout::Sentinel { sentinels, master }, None) => {
                let mut client = self.sentinels(sentinels, master)?.build()?;
                Wire::Single(
                    Box::pin(client.get_async_connection_with_config(&self.options(&lost))).await?,
                )
            }
            (RedisLayout::Cluster { nodes }, _) => {
                let client = self.cluster(nodes)?.build()?;
                Wire::Cluster(Box::pin(client.get_async_connection()).await?)
            }
        };
        Ok(RedisConnection { wire, lost })
    }

    fn options(&self, lost: &Arc<AtomicBool>) -> AsyncConnectionConfig {
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DIAL_TIMEOUT))
            .set_response_timeout(Some(self.config.timeout))
            .set_pipeline_buffer_size(self.config.max_in_flight);
        if self.is_old.load(Ordering::Relaxed) {
            return options;
        }
        let lost = Arc::clone(lost);
        options.set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                lost.store(true, Ordering::Relaxed);
            }
            Ok::<(), std::convert::Infallible>(())
        })
    }

    fn info(&self, server: &HostPort) -> RedisResult<ConnectionInfo> {
        let info = self.address(server).into_connection_info()?;
        Ok(info.set_tcp_settings(tcp_settings()).set_redis_settings(self.identity()))
    }

    fn address(&self, HostPort { host, port }: &HostPort) -> ConnectionAddr {
        if self.config.tls {
            ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host.clone(), *port)
        }
    }

    fn identity(&self) -> RedisConnectionInfo {
        let mut identity =
            RedisConnectionInfo::default().set_protocol(self.protocol()).set_skip_set_lib_name();
        if let Some(username) = &self.config.username {
            identity = identity.set_username(username);
        }
        if let Some(password) = self.password() {
            identity = identity.set_password(password);
        }
        if let RedisLayout::Single { database, .. } = self.config.layout {
            identity = identity.set_db(database);
        }
        identity
    }

    fn sentinel_identity(&self) -> RedisConnectionInfo {
        let identity = RedisConnectionInfo::default().set_skip_set_lib_name();
        match self.sentinel_password() {
            Some(password) => identity.set_password(password),
            None => identity,
        }
    }

    fn sentinels(
        &self,
        sentinels: &[HostPort],
        master: &str,
    ) -> RedisResult<SentinelClientBuilder> {
        let addresses = sentinels.iter().map(|sentinel| self.address(sentinel));
        let mut builder =
            SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
                .set_client_to_redis_protocol(self.protocol())
                .set_client_to_redis_tcp_settings(tcp_settings())
                .set_client_to_sentinel_tcp_settings(tcp_settings());
        if let Some(username) = &self.config.username {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = self.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(password) = self.sentinel_password() {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if self.config.tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        Ok(builder)
    }

    /// Configures a cluster. An operation is repeated if a slot has moved or a node has gone. A
    /// repetition cannot accept a client twice: only the first repetition that takes a ticket finds
    /// it, and the repetitions that put a ticket end before its client gets it.
    fn cluster(&self, nodes: &[HostPort]) -> RedisResult<ClusterClientBuilder> {
        let infos = nodes.iter().map(|node| self.info(node)).collect::<RedisResult<Vec<_>>>()?;
        let mut builder = ClusterClientBuilder::new(infos)
            .retries(3)
            .min_retry_wait(5)
            .max_retry_wait(50)
            .connection_timeout(DIAL_TIMEOUT)
            .response_timeout(self.config.timeout)
            .use_protocol(self.protocol())
            .tcp_settings(tcp_settings())
            .connection_concurrency_limit(self.config.max_in_flight);
        if let Some(ca) = self.ca.as_ref().filter(|_| self.config.tls) {
            builder = builder
                .certs(TlsCertificates { client_tls: None, root_cert: Some(ca.pem.clone()) });
        }
        Ok(builder)
    }

    fn sentinel_password(&self) -> Option<&str> {
        self.config.sentinel_password.as_ref().and_then(|password| password.expose_str())
    }

    fn password(&self) -> Option<&str> {
        self.config.password.as_ref().and_then(|password| password.expose_str())
    }

    fn protocol(&self) -> ProtocolVersion {
        if self.is_old.load(Ordering::Relaxed) {
            ProtocolVersion::RESP2
        } else {
            ProtocolVersion::RESP3
        }
    }
}

fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive());
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(USER_TIMEOUT);
    settings
}

pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE)
}

impl RedisConnection {
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self.wire, Wire::Cluster(_))
    }

    pub async fn command<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match &mut self.wire {
            Wire::Single(connection) => command.query_async(connection).await,
            Wire::Cluster(connection) => command.query_async(connection).await,
        }
    }

    /// Sends commands to one server. It runs them one after the other, without other commands in
    /// between.
    pub async fn pipeline(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match &mut self.wire {
            Wire::Single(connection) => pipeline.query_async(connection).await,
            Wire::Cluster(connection) => pipeline.query_async(connection).await,
        }
    }
}

impl std::fmt::Debug for RedisDialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("lost", &self.is_lost()).finish_non_exhaustive()
    }
}

/// Returns true if the server does not know the command, or not its options, because it is too old.
pub fn is_unknown_command(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.contains("unknown command") || detail.contains("syntax error"))
}
