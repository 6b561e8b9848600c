//! The servers that this node trusts: upstreams, issuers, verifiers and stores over TLS.
//!
//! A certificate of `ca_file` is trusted as a server's own. If it is an authority, the certificates
//! that it signed are trusted too. The first case is for the certificates of `usher cert` and of
//! `openssl req -x509`. OpenSSL marks its certificate as an authority: webpki refuses such a
//! certificate as a server's, and other clients accept it.
//!
//! The module checks what webpki does not: whether a trusted certificate is an authority. Otherwise
//! the server of a pinned certificate could sign for every other name.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::pem::read_certificates;

/// Returns a configuration for HTTP/1.1 that trusts only the certificates of `ca_file`; without
/// one, those of the system.
pub fn tls_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut config = client_config(ca_file)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Returns a configuration that trusts only the certificates of `ca_file`; without one, those of
/// the system.
pub fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let Some(path) = ca_file else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(
                "the system has no root certificates; name a file of certificates with ca_file"
                    .to_owned(),
            );
        }
        return Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    };
    let verifier = Verifier::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let builder =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_no_client_auth())
}

/// Returns the number of certificates in a `ca_file`. A certificate that cannot be used is an
/// error.
pub fn count(ca_file: &Path) -> Result<usize, String> {
    Verifier::read(ca_file).map(|verifier| verifier.pinned.len())
}

/// A verifier that accepts a server with a certificate of the file, or with one that these have
/// signed.
#[derive(Debug)]
struct Verifier {
    /// `None`: no certificate of the file is an authority.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn read(path: &Path) -> Result<Self, String> {
        Self::new(read_certificates(path)?)
    }

    fn new(pinned: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &pinned {
            // A certificate that is not an authority must be readable too.
            ParsedCertificate::try_from(certificate).map_err(|error| error.to_string())?;
            if is_authority(certificate)? {
                roots.add(certificate.clone()).map_err(|error| error.to_string())?;
            }
        }
        let authorities = match roots.is_empty() {
            true => None,
            false => Some(
                WebPkiServerVerifier::builder(Arc::new(roots))
                    .build()
                    .map_err(|error| error.to_string())?,
            ),
        };
        Ok(Self {
            authorities,
            pinned,
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.pinned.iter().any(|pinned| pinned.as_ref() == end_entity.as_ref()) {
            let authorities = self.authorities.as_ref().ok_or(CertificateError::UnknownIssuer)?;
            return authorities.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
        }
        check_dates_and_purpose(end_entity, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Returns true if a certificate may sign others. RFC 5280 section 4.2.1.9: without basic
/// constraints "the certified public key MUST NOT be used to verify certificate signatures". A
/// certificate of version 1 cannot have any.
pub fn is_authority(certificate: &CertificateDer<'_>) -> Result<bool, String> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let constraints = certificate.basic_constraints().map_err(|error| error.to_string())?;
    let may_sign = certificate
        .key_usage()
        .map_err(|error| error.to_string())?
        .is_none_or(|usage| usage.value.key_cert_sign());
    Ok(may_sign
        && constraints
            .map_or(certificate.version() == X509Version::V1, |constraints| constraints.value.ca))
}

/// Makes the checks of webpki on a server's certificate, except that it is not an authority.
fn check_dates_and_purpose(
    pinned: &CertificateDer<'_>,
    time: UnixTime,
) -> Result<(), rustls::Error> {
    let (_, certificate) =
        X509Certificate::from_der(pinned).map_err(|_| CertificateError::BadEncoding)?;
    let at = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.max(0).unsigned_abs()))
    };
    let not_before = at(certificate.validity().not_before.timestamp());
    if time < not_before {
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    let not_after = at(certificate.validity().not_after.timestamp());
    if time > not_after {
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    let purposes = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    if purposes.is_some_and(|purposes| !purposes.value.server_auth) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use super::*;

    /// Returns the parameters of a certificate that is its own authority, as `openssl req -x509`
    /// makes it.
    fn params() -> CertificateParams {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn own(params: &CertificateParams) -> CertificateDer<'static> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn judge(
        pinned: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        name: &'static str,
    ) -> Result<(), CertificateError> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let verifier = Verifier::new(vec![pinned.clone()]).unwrap();
        let name = ServerName::try_from(name).unwrap();
        match verifier.verify_server_cert(shown, &[], &name, &[], UnixTime::now()) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_pinned_certificate_vouches_for_itself_by_name_dates_and_purpose() {
        let pinned = own(&params());
        assert_eq!(judge(&pinned, &pinned, "localhost"), Ok(()));
        assert!(matches!(
            judge(&pinned, &pinned, "other.example.com"),
            Err(CertificateError::NotValidForNameContext { .. })
        ));
        let mut expired = params();
        expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = own(&expired);
        assert!(matches!(
            judge(&expired, &expired, "localhost"),
            Err(CertificateError::ExpiredContext { .. })
        ));
        let mut later = params();
        later.not_before = rcgen::date_time_ymd(2999, 1, 1);
        let later = own(&later);
        assert!(matches!(
            judge(&later, &later, "localhost"),
            Err(CertificateError::NotValidYetContext { .. })
        ));
        let mut client = params();
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client = own(&client);
        assert_eq!(judge(&client, &client, "localhost"), Err(CertificateError::InvalidPurpose));
    }

    #[test]
    fn a_certificate_that_is_not_pinned_needs_a_signature() {
        let key = KeyPair::generate().unwrap();
        let authority = params().self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params(), key);
        let leaf_params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf =
            leaf_params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        assert_eq!(judge(&authority, &leaf, "localhost"), Ok(()));
        // The leaf alone is pinned, and its authority is not known.
        assert_eq!(judge(&leaf, &leaf, "localhost"), Ok(()));
        // The same names and another key.
        assert!(judge(&authority, &own(&params()), "localhost").is_err());
        assert!(judge(&authority, &own(&leaf_params), "localhost").is_err());
        // The key of a pinned certificate does not make its owner an authority.
        for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
            let mut server = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
            server.is_ca = is_ca;
            let key = KeyPair::generate().unwrap();
            let pinned = server.self_signed(&key).unwrap().der().clone();
            assert_eq!(judge(&pinned, &pinned, "a.example.com"), Ok(()));
            let forged = leaf_params
                .signed_by(&KeyPair::generate().unwrap(), &Issuer::new(server, key))
                .unwrap()
                .der()
                .clone();
            assert_eq!(judge(&pinned, &forged, "localhost"), Err(CertificateError::UnknownIssuer));
        }
        // An authority below the pinned one is still not a server.
        let below =
            params().signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone();
        assert!(judge(&authority, &below, "localhost").is_err());
    }
}
