//! The temporary files of the demo: the issuer's secret, a certificate and its key.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{hex, random};
use crate::base::clock::Now;
use crate::model::secret::Secret;
use crate::net::tls::self_signed::self_signed;

const CERTIFICATE_DAYS: i64 = 31;

/// A folder that only its owner can read. It is removed when the demo ends.
pub struct TemporaryFolder {
    pub path: PathBuf,
}

impl TemporaryFolder {
    pub fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("usher-demo-{}", hex(&random::<8>()?)));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Writes the issuer's secret, a certificate for loopback and its key. The secret is text, so that
/// it can be copied.
pub fn write_files(folder: &Path) -> anyhow::Result<Secret> {
    let secret = URL_SAFE_NO_PAD.encode(random::<32>()?);
    write_private(&folder.join("issuer.secret"), &secret)?;

    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let pair = self_signed(&names, "Usher demo", CERTIFICATE_DAYS, Now::read())?;
    write_private(&folder.join("cert.pem"), &pair.certificate)?;
    write_private(&folder.join("key.pem"), &pair.key)?;
    Ok(Secret::from(secret.as_str()))
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_go_when_the_demo_ends() {
        let folder = TemporaryFolder::create().unwrap();
        let path = folder.path.clone();
        let secret = write_files(&path).unwrap();
        assert!(secret.len() >= 32);
        assert_eq!(std::fs::read(path.join("issuer.secret")).unwrap(), secret.expose());
        drop(folder);
        assert!(!path.exists());
    }
}
