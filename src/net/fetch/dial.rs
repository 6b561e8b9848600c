//! Connections to the services that Usher asks.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::FetchError;
use crate::model::service_url::ServiceUrl;
use crate::net::stream::Stream;
use crate::net::tls::trust::tls_config;

/// The system's authorities are read once, when the first server needs them.
static SYSTEM: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();

#[derive(Clone, Debug)]
pub(super) struct FetchDialler {
    /// The authorities of `ca_file`. `None`: those of the system.
    own: Option<Arc<ClientConfig>>,
}

impl FetchDialler {
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        Ok(Self { own: ca_file.map(|file| tls_config(Some(file))).transpose()? })
    }

    pub(super) async fn open(
        &self,
        place: &ServiceUrl,
        time: Duration,
    ) -> Result<Stream, FetchError> {
        let tcp = tcp(place, time).await?;
        if !place.is_tls() {
            return Ok(Stream::Tcp(tcp));
        }
        let tls = |error: String| FetchError::Tls(error);
        let config = match &self.own {
            Some(own) => Arc::clone(own),
            None => SYSTEM.get_or_init(|| tls_config(None)).clone().map_err(tls)?,
        };
        let name = ServerName::try_from(place.host().to_owned())
            .map_err(|_| tls(format!("'{}' is not a server name", place.host())))?;
        let stream = TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|error| tls(error.to_string()))?;
        Ok(Stream::DialledTls(Box::new(stream)))
    }
}

/// Tries one address after the other. Each gets a third of the time, so that a silent address
/// leaves time for the next.
async fn tcp(place: &ServiceUrl, time: Duration) -> Result<TcpStream, FetchError> {
    let unreachable = |error: std::io::Error| FetchError::Unreachable(error.to_string());
    let addresses: Vec<_> =
        lookup_host((place.host(), place.port())).await.map_err(unreachable)?.collect();
    let mut last = FetchError::Unreachable("the name has no address".to_owned());
    for address in addresses {
        if !place.may_be(address.ip()) {
            last = FetchError::Unreachable(
                "plain http is allowed only to this machine, and the name has another address"
                    .to_owned(),
            );
            continue;
        }
        match timeout(time / 3, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(unreachable)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = unreachable(error),
            Err(_) => last = FetchError::Timeout(time / 3),
        }
    }
    Err(last)
}
