//! The account, the certificate and the pending challenges: in `state_dir`, or in Redis for a
//! fleet.
//!
//! One node at a time has the lock and writes. A file is replaced as a whole. In a fleet each node
//! has a copy of the certificate in its `state_dir` too, so that it can start while Redis is away.
//!
//! Each authority has an account of its own, and each set of domains a certificate of its own.
//! While a fleet changes from one set to another, its nodes do not replace each other's
//! certificates, and all of them answer the challenges of both.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::fault::AcmeFault;
use crate::config::store::Store;
use crate::model::request_id::HexId;
use crate::store::StoreOpenError;
use crate::store::redis::SharedValues;

/// The largest value that is read.
const MOST_BYTES: u64 = 1 << 20;
/// How long the lock of a fleet lives without its holder, which keeps it three times as often.
pub const LOCK_LIFE: Duration = Duration::from_secs(30);
/// How long the files of other sets of domains are kept.
const OTHERS_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// One of the stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Account,
    Certificate,
    Challenges,
    Status,
}

/// The account at the authority.
#[derive(Serialize, Deserialize)]
pub struct AccountRecord {
    pub url: String,
    pub contact: Vec<String>,
    /// PKCS#8 in base64url.
    pub key: String,
}

#[derive(Serialize, Deserialize)]
pub struct CertificateRecord {
    /// In Unix milliseconds.
    pub received: u64,
    /// PEM.
    pub chain: String,
    /// PEM.
    pub key: String,
}

/// The challenges that every node answers.
#[derive(Default, Serialize, Deserialize)]
pub struct ChallengesRecord {
    /// In Unix milliseconds.
    pub expires: u64,
    pub pending: Vec<PendingChallenge>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct PendingChallenge {
    pub domain: String,
    pub token: String,
    pub key_authorization: String,
}

/// The outcome of the last order, which all nodes follow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// The fingerprint of the stored certificate.
    pub certificate: Option<String>,
    pub failures: u32,
    /// When the last order failed, in Unix milliseconds.
    #[serde(default)]
    pub failed: u64,
    /// Until when the authority wishes to be left alone, in Unix milliseconds.
    #[serde(default)]
    pub wish: u64,
    /// When the next attempt may begin, in Unix milliseconds.
    pub retry: u64,
    pub fault: Option<String>,
    pub detail: Option<String>,
}

#[derive(Debug)]
pub struct AcmeState {
    folder: Folder,
    /// The values of the fleet. `None`: the store is in this process.
    shared: Option<SharedValues>,
    /// This process, to the other nodes.
    owner: String,
    attempts: AtomicU64,
}

/// The right to write. A dropped lock of files is free at once, that of a fleet after
/// [`LOCK_LIFE`].
#[derive(Debug)]
pub enum Lock {
    Files(#[allow(dead_code, reason = "the open file is the lock")] fs::File),
    Shared(String),
}

/// The files of one authority.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// The hash of the domains.
    domains: String,
}

impl Slot {
    fn name(self, domains: &str) -> String {
        match self {
            Self::Account => "account".to_owned(),
            Self::Certificate => format!("certificate-{domains}"),
            Self::Challenges => "challenges".to_owned(),
            Self::Status => format!("status-{domains}"),
        }
    }
}

impl AcmeState {
    pub fn open(
        state_dir: &Path,
        directory: &str,
        domains: &[String],
        store: &Store,
    ) -> Result<Self, StoreOpenError> {
        let hash = hash_of(directory);
        let mut domains = domains.to_vec();
        domains.sort_unstable();
        let domains = hash_of(&domains.join(" "));
        let shared = match store {
            Store::Memory { .. } => None,
            Store::Redis(redis) => Some(SharedValues::open(redis, &format!("acme:{hash}"))?),
        };
        Ok(Self {
            folder: Folder { path: state_dir.join("acme").join(hash), domains },
            shared,
            owner: format!("{}:", HexId::random().as_str()),
            attempts: AtomicU64::new(0),
        })
    }

    /// Reads the certificate in `state_dir`.
    pub fn local_certificate(&self) -> Option<Vec<u8>> {
        self.folder.read(Slot::Certificate).ok().flatten()
    }

    /// Reads the latest certificate for another set of domains.
    pub fn other_certificate(&self) -> Option<Vec<u8>> {
        let others = self.folder.others().filter(|(_, path)| is_certificate(path));
        let (_, path) = others.max_by_key(|(written, _)| *written)?;
        read_file(&path).ok()
    }

    /// Removes the files of domains that have not been configured for long.
    pub fn remove_old_files(&self) {
        for (written, path) in self.folder.others() {
            if written.elapsed().is_ok_and(|age| age > OTHERS_KEPT) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Writes the copy of a certificate of the fleet.
    pub fn keep_copy(&self, certificate: &[u8]) -> Result<(), AcmeFault> {
        if self.shared.is_none() {
            return Ok(());
        }
        self.folder.write(Slot::Certificate, certificate)
    }

    pub async fn read<const N: usize>(
        &self,
        slots: [Slot; N],
    ) -> Result<[Option<Vec<u8>>; N], AcmeFault> {
        match &self.shared {
            Some(shared) => shared
                .read(slots.map(|slot| slot.name(&self.folder.domains)))
                .await
                .map_err(|fault| {
                    AcmeFault::State(format!("the store does not answer: {}", fault.label()))
                }),
            None => {
                let mut values = [const { None }; N];
                for (value, slot) in values.iter_mut().zip(slots) {
                    *value = self.folder.read(slot)?;
                }
                Ok(values)
            }
        }
    }

    /// Takes the lock. Returns `None` while another process has it.
    pub async fn try_lock(&self) -> Result<Option<Lock>, AcmeFault> {
        let Some(shared) = &self.shared else {
            return Ok(self.folder.try_lock()?.map(Lock::Files));
        };
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let token = format!("{}{attempt}", self.owner);
        let is_ours = shared.lock(&self.owner, &token, LOCK_LIFE).await.map_err(|fault| {
            AcmeFault::State(format!("the store does not answer: {}", fault.label()))
        })?;
        Ok(is_ours.then_some(Lock::Shared(token)))
    }

    /// Keeps the lock until it is lost.
    pub async fn keep(&self, lock: &Lock) -> AcmeFault {
        let (Some(shared), Lock::Shared(token)) = (&self.shared, lock) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(LOCK_LIFE / 3).await;
            // After a fault the lock may live. A write decides.
            if shared.keep(token, LOCK_LIFE).await == Ok(false) {
                return AcmeFault::LockLost;
            }
        }
    }

    pub async fn write(
        &self,
        lock: &Lock,
        slot: Slot,
        value: &[u8],
        life: Option<Duration>,
    ) -> Result<(), AcmeFault> {
        let (Some(shared), Lock::Shared(token)) = (&self.shared, lock) else {
            return self.folder.write(slot, value);
        };
        match shared.write(token, &slot.name(&self.folder.domains), value, life).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(AcmeFault::LockLost),
            Err(fault) => {
                Err(AcmeFault::State(format!("the store does not answer: {}", fault.label())))
            }
        }
    }

    pub async fn unlock(&self, lock: Lock) {
        if let (Some(shared), Lock::Shared(token)) = (&self.shared, &lock) {
            // If this fails, the lock expires.
            let _ = shared.unlock(token).await;
        }
    }
}

impl Folder {
    fn path(&self, slot: Slot) -> PathBuf {
        self.path.join(slot.name(&self.domains)).with_extension("json")
    }

    /// Returns the files of other sets of domains, with the times of their last change.
    fn others(&self) -> impl Iterator<Item = (SystemTime, PathBuf)> {
        let files = fs::read_dir(&self.path).into_iter().flatten().flatten();
        files.filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let is_of_a_set = name.starts_with("certificate-") || name.starts_with("status-");
            let is_other = is_of_a_set && !name.contains(&self.domains);
            Some((file.metadata().ok()?.modified().ok()?, file.path())).filter(|_| is_other)
        })
    }

    fn read(&self, slot: Slot) -> Result<Option<Vec<u8>>, AcmeFault> {
        let path = self.path(slot);
        match read_file(&path) {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path, &error)),
        }
    }

    /// Writes a file that only its owner can read. After a power failure either the old file or the
    /// whole new one is there.
    fn write(&self, slot: Slot, value: &[u8]) -> Result<(), AcmeFault> {
        let path = self.path(slot);
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let write = || {
            self.create()?;
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(value)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| at(&path, &error))
    }

    /// Takes the lock of the processes that share the folder.
    fn try_lock(&self) -> Result<Option<fs::File>, AcmeFault> {
        let path = self.path.join("lock");
        let open = || {
            self.create()?;
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600).open(&path)
        };
        let file = open().map_err(|error| at(&path, &error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(at(&path, &error.into())),
        }
    }

    fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_certificate(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("certificate-") && name.ends_with(".json")
}

fn hash_of(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn at(path: &Path, error: &io::Error) -> AcmeFault {
    AcmeFault::State(format!("{}: {error}", path.display()))
}

/// Returns the fingerprint of a stored value.
pub fn fingerprint(value: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, value))
}
