//! The OCSP answers that handshakes carry, and the choice of the one for a certificate.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::dates::Dates;
use super::ocsp::{self, OcspFault, Staple, Subject};
use super::server::{self, TlsError};
use crate::base::clock::UnixMillis;
use crate::config::{CertificateFiles, Config, OcspSource};
use crate::model::service_url::ServiceUrl;

/// The largest answer, in bytes.
pub const MOST_BYTES: usize = 64 << 10;

/// The certificates of all listeners that have an OCSP answer, or will get one.
#[derive(Debug, Default)]
pub struct Staples(Vec<Arc<StapledCertificate>>);

/// A certificate with its current answer.
#[derive(Debug)]
pub struct StapledCertificate {
    pub cert_file: PathBuf,
    /// The URL of the responder. `None`: the answer comes from a file.
    pub responder: Option<ServiceUrl>,
    subject: Subject,
    /// Where a fetched answer is kept over restarts.
    kept: PathBuf,
    plain: Arc<CertifiedKey>,
    current: ArcSwapOption<Stapled>,
}

#[derive(Debug)]
struct Stapled {
    staple: Staple,
    key: Arc<CertifiedKey>,
}

/// A choice of certificates, with staples.
#[derive(Debug)]
pub(super) struct Stapling<R> {
    pub(super) certificates: R,
    pub(super) staples: Arc<Staples>,
}

impl<R: ResolvesServerCert> ResolvesServerCert for Stapling<R> {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificates.resolve(hello).map(|key| self.staples.stapled(key))
    }
}

impl Staples {
    /// Reads the answers in files, and those of earlier fetches.
    pub fn open(config: &Config, now: UnixMillis) -> Result<Self, TlsError> {
        let mut staples: Vec<Arc<StapledCertificate>> = Vec::new();
        for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            for files in &tls.certificates {
                if !staples.iter().any(|other| other.cert_file == files.cert) {
                    let opened = StapledCertificate::open(files, &config.state_dir, now)?;
                    staples.extend(opened.map(Arc::new));
                }
            }
        }
        Ok(Self(staples))
    }

    /// Takes over the answers of the configuration before.
    pub fn adopt(&self, before: &Self, now: UnixMillis) {
        for one in &self.0 {
            if one.responder.is_none() || one.dates().is_some() {
                continue;
            }
            for staple in before.0.iter().filter_map(|before| before.current.load_full()) {
                let _ = one.accept(&staple.staple.der, now);
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<StapledCertificate>> {
        self.0.iter()
    }

    /// Returns the certificate of a file, if it has OCSP.
    pub fn of(&self, cert_file: &Path) -> Option<&Arc<StapledCertificate>> {
        self.0.iter().find(|one| one.cert_file == cert_file)
    }

    fn stapled(&self, key: Arc<CertifiedKey>) -> Arc<CertifiedKey> {
        let own = self.0.iter().find(|one| one.plain.cert.first() == key.cert.first());
        let stapled = own.and_then(|one| one.current.load_full());
        stapled.map_or(key, |stapled| Arc::clone(&stapled.key))
    }
}

impl StapledCertificate {
    /// Reads the answer of a certificate. `None`: the certificate gets none.
    pub fn open(
        files: &CertificateFiles,
        state_dir: &Path,
        now: UnixMillis,
    ) -> Result<Option<Self>, TlsError> {
        let Some(source) = &files.ocsp else { return Ok(None) };
        let fault = |file: &Path, problem| TlsError { file: file.display().to_string(), problem };
        let of_cert = |problem: String| fault(&files.cert, format!("OCSP: {problem}"));
        let (_, plain) = server::load(files)?;
        let subject = Subject::of(&plain.cert).map_err(of_cert)?;
        let responder = match source {
            OcspSource::File(_) => None,
            OcspSource::Fetch => {
                let url = plain.cert.first().and_then(ocsp::responder).ok_or_else(|| {
                    of_cert(
                        "the certificate names no responder; its authority publishes none"
                            .to_owned(),
                    )
                })?;
                // Answers are signed, so that authorities publish them over plain HTTP.
                Some(ServiceUrl::parse(&url, true).map_err(of_cert)?)
            }
        };
        let name = digest(&SHA256, files.cert.as_os_str().as_encoded_bytes());
        let name: String =
            name.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let opened = Self {
            cert_file: files.cert.clone(),
            responder,
            subject,
            kept: state_dir.join("ocsp").join(format!("{name}.der")),
            plain,
            current: ArcSwapOption::empty(),
        };
        match source {
            OcspSource::File(file) => {
                let bytes = read(file).map_err(|problem| fault(file, problem))?;
                match opened.accept(&bytes, now) {
                    // A file that was not replaced in time is not a reason to stop.
                    Ok(_) | Err(OcspFault::Expired | OcspFault::NotYetValid) => {}
                    Err(why) => return Err(fault(file, why.to_string())),
                }
            }
            OcspSource::Fetch => {
                // Any fault means that there is nothing to use: another one is fetched.
                let _ = read(&opened.kept).map(|bytes| opened.accept(&bytes, now));
            }
        }
        Ok(Some(opened))
    }

    /// Returns the question to the responder.
    pub fn request(&self) -> Vec<u8> {
        self.subject.request()
    }

    /// Staples an answer, if it is good, and returns the dates of the one that is stapled then. A
    /// revocation ends the earlier answer too, also for the next start.
    pub fn accept(&self, answer: &[u8], now: UnixMillis) -> Result<Dates, OcspFault> {
        let checked = self.subject.check(answer, now);
        if checked == Err(OcspFault::Revoked) {
            self.drop_staple();
            // It may hold a good answer. Without the file, the next start has none.
            let _ = std::fs::remove_file(&self.kept);
        }
        let staple = checked?;
        let dates = staple.dates.clone();
        // An older answer may come from a cache, or from an attacker who keeps it back.
        if let Some(before) = self.dates().filter(|before| before.begins > dates.begins) {
            return Ok(before);
        }
        let mut key = CertifiedKey::clone(&self.plain);
        key.ocsp = Some(staple.der.clone());
        self.current.store(Some(Arc::new(Stapled { staple, key: Arc::new(key) })));
        Ok(dates)
    }

    /// Returns the dates of the current answer.
    pub fn dates(&self) -> Option<Dates> {
        self.current.load().as_ref().map(|stapled| stapled.staple.dates.clone())
    }

    pub fn drop_staple(&self) {
        self.current.store(None);
    }

    /// Keeps the current answer for the next start.
    pub fn keep(&self) -> std::io::Result<()> {
        let Some(stapled) = self.current.load_full() else { return Ok(()) };
        if let Some(folder) = self.kept.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = self.kept.with_extension("new");
        std::fs::write(&new, &stapled.staple.der)?;
        std::fs::rename(new, &self.kept)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| error.to_string())?;
    let most = MOST_BYTES as u64 + 1;
    opened.take(most).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > MOST_BYTES {
        return Err(format!("the file is larger than {} KiB", MOST_BYTES >> 10));
    }
    Ok(bytes)
}
