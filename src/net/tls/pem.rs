//! Certificates in PEM files.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub const NO_CERTIFICATE: &str = "the file holds no certificate";

/// Returns the certificates of a file in their order. A file without one is an error.
pub fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err(NO_CERTIFICATE.to_owned()) } else { Ok(certificates) }
}
