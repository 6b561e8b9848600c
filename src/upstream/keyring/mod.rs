//! Usher's signing keys: previous, current, next.
//!
//! The current key signs, and all three are published. A backend that fetched the set before a
//! rotation knows the next key, and a backend that verifies late still knows the previous one. Keys
//! that Usher makes are PKCS#8 files in `state_dir/keys`, readable by their owner alone, with one
//! index beside them. A shared secret is never published.

pub mod events;
mod rotation;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use aws_lc_rs::{digest, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustix::fs::FlockOperation;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::events::KeyringLoaded;
use crate::base::clock::Now;
use crate::config::{Context, ContextAlgorithm, ContextSigning};
use crate::telemetry::Event;

pub use rotation::{LOOK, Rotation, SigningKeys};

const FOLDER: &str = "keys";
/// Held by the process that changes the index.
const LOCK: &str = "keyring.lock";
const INDEX: &str = "keyring.json";
/// Usher's own key files are readable by their owner alone. A file that the operator mounts may be
/// shared with a group.
const GROUP_AND_OTHERS: u32 = 0o077;
const OTHERS: u32 = 0o007;

#[derive(Debug)]
pub struct Keyring {
    current: Key,
    /// The other keys that are published.
    others: Vec<Key>,
}

struct Key {
    id: String,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Shared(Box<hmac::Key>),
}

/// The contents of `keyring.json`: the names of the keys, and no key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    pub algorithm: String,
    pub previous: Option<KeyringEntry>,
    pub current: KeyringEntry,
    pub next: KeyringEntry,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyringEntry {
    pub kid: String,
    pub created: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(
        "{}: others can read the key file; run chmod 600 on it, and rotate the key if they may \
         have read it",
        path.display()
    )]
    Exposed { path: PathBuf },
    #[error("{}: {problem}", path.display())]
    NotAKey { path: PathBuf, problem: String },
    #[error(
        "{}: the keys are for {found}, and the configuration asks for {wanted}; set [context] \
         algorithm = \"{found}\", or move the folder away to start with new keys",
        path.display()
    )]
    OtherAlgorithm { path: PathBuf, found: String, wanted: &'static str },
    #[error("{} already holds keys", .0.display())]
    Exists(PathBuf),
    #[error("[context] key_files is empty; name at least one key file")]
    NoFiles,
    #[error("a key could not be made")]
    Crypto,
}

impl Keyring {
    /// Opens the keys that the configuration names. Usher's own keys are made if there are none.
    pub fn open(context: &Context, state_dir: &Path, now: Now) -> Result<Self, KeyringError> {
        let keyring = match &context.signing {
            ContextSigning::Generated { algorithm } => {
                let folder = KeyringFolder::of(state_dir);
                let index = match folder.index()? {
                    Some(index) => index,
                    None => match folder.generate(*algorithm, now) {
                        // Another process that starts was quicker.
                        Err(KeyringError::Exists(_)) => {
                            folder.index()?.ok_or_else(|| folder.no_index())?
                        }
                        made => made?,
                    },
                };
                match folder.load(&index, *algorithm) {
                    // Another process has rotated since the index was read, and has removed a key.
                    Err(KeyringError::File { error, .. })
                        if error.kind() == io::ErrorKind::NotFound =>
                    {
                        let index = folder.index()?.ok_or_else(|| folder.no_index())?;
                        folder.load(&index, *algorithm)?
                    }
                    loaded => loaded?,
                }
            }
            ContextSigning::Files { algorithm, files } => {
                let mut keys = files
                    .iter()
                    .map(|file| read_key(file, *algorithm, OTHERS))
                    .collect::<Result<Vec<_>, _>>()?
                    .into_iter();
                let current = keys.next().ok_or(KeyringError::NoFiles)?;
                Self { current, others: keys.collect() }
            }
            ContextSigning::Shared { secret } => {
                let signer =
                    Signer::Shared(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret.expose())));
                Self { current: Key { id: "shared".to_owned(), signer }, others: Vec::new() }
            }
        };
        KeyringLoaded { algorithm: keyring.algorithm(), current: keyring.key_id() }.emit();
        Ok(keyring)
    }

    pub fn algorithm(&self) -> &'static str {
        match self.current.signer {
            Signer::Ed25519(_) => "EdDSA",
            Signer::P256(_) => "ES256",
            Signer::Shared(_) => "HS256",
        }
    }

    /// Returns the id of the key that signs.
    pub fn key_id(&self) -> &str {
        &self.current.id
    }

    /// Signs a message. Returns `None` only if the system has no randomness.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match &self.current.signer {
            Signer::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
            Signer::P256(pair) => pair
                .sign(&rand::SystemRandom::new(), message)
                .ok()
                .map(|signature| signature.as_ref().to_vec()),
            Signer::Shared(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
        }
    }

    /// Returns the public keys, as RFC 7517 writes them.
    pub fn jwks(&self) -> Value {
        let keys: Vec<_> =
            std::iter::once(&self.current).chain(&self.others).filter_map(Key::to_jwk).collect();
        json!({ "keys": keys })
    }
}

impl Key {
    fn from_pkcs8(der: &[u8], algorithm: ContextAlgorithm) -> Result<Self, String> {
        let wrong = |error: aws_lc_rs::error::KeyRejected| {
            format!("the file is not an {} key: {error}", name(algorithm))
        };
        let signer = match algorithm {
            ContextAlgorithm::EdDSA => {
                Signer::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(wrong)?)
            }
            ContextAlgorithm::ES256 => Signer::P256(
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map_err(wrong)?,
            ),
        };
        let mut key = Self { id: String::new(), signer };
        key.id = key.thumbprint();
        Ok(key)
    }

    /// Returns the members that RFC 7638 puts into a thumbprint, in its order; `None` for a shared
    /// secret.
    fn public_members(&self) -> Option<Value> {
        match &self.signer {
            Signer::Ed25519(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                Some(json!({ "crv": "Ed25519", "kty": "OKP", "x": x }))
            }
            Signer::P256(pair) => {
                // An uncompressed point: 4, x, y.
                let (_, point) = pair.public_key().as_ref().split_first()?;
                let (x, y) = point.split_at_checked(32)?;
                let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
                Some(json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y }))
            }
            Signer::Shared(_) => None,
        }
    }

    fn thumbprint(&self) -> String {
        let members = self.public_members().unwrap_or_default().to_string();
        let mut encoded =
            URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes()));
        encoded.truncate(16);
        encoded
    }

    fn to_jwk(&self) -> Option<Value> {
        let mut jwk = self.public_members()?;
        let algorithm = if matches!(self.signer, Signer::P256(_)) { "ES256" } else { "EdDSA" };
        let members = jwk.as_object_mut()?;
        members.insert("kid".to_owned(), self.id.clone().into());
        members.insert("alg".to_owned(), algorithm.into());
        members.insert("use".to_owned(), "sig".into());
        Some(jwk)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// Reads a key file of `[context] key_files` as the start does.
pub fn check_file(path: &Path, algorithm: ContextAlgorithm) -> Result<(), KeyringError> {
    read_key(path, algorithm, OTHERS).map(drop)
}

/// The folder `state_dir/keys`.
#[derive(Debug)]
pub struct KeyringFolder(PathBuf);

impl KeyringFolder {
    pub fn of(state_dir: &Path) -> Self {
        Self(state_dir.join(FOLDER))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the index. `None`: there are no keys yet.
    pub fn index(&self) -> Result<Option<Index>, KeyringError> {
        let path = self.0.join(INDEX);
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(index) => Ok(Some(index)),
                Err(error) => Err(KeyringError::NotAKey { path, problem: error.to_string() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(KeyringError::File { path, error }),
        }
    }

    /// Reads the keys as the start does, and makes none. Returns false if there are none yet.
    pub fn check(&self, wanted: ContextAlgorithm) -> Result<bool, KeyringError> {
        match self.index()? {
            Some(index) => self.load(&index, wanted).map(|_| true),
            None => Ok(false),
        }
    }

    /// Makes the first two keys.
    pub fn generate(&self, algorithm: ContextAlgorithm, now: Now) -> Result<Index, KeyringError> {
        let at = |error| KeyringError::File { path: self.0.clone(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(at)?;
        let _lock = self.lock()?;
        if self.index()?.is_some() {
            return Err(KeyringError::Exists(self.0.clone()));
        }
        let (current, next) = (self.make(algorithm, now)?, self.make(algorithm, now)?);
        let index = Index { algorithm: name(algorithm).to_owned(), previous: None, current, next };
        self.write_index(&index)?;
        Ok(index)
    }

    /// Moves each key one place: next becomes current, current becomes previous, and a new next is
    /// made. The old previous key is removed.
    pub fn rotate(&self, now: Now) -> Result<Index, KeyringError> {
        self.index()?.ok_or_else(|| self.no_index())?;
        let _lock = self.lock()?;
        self.rotate_locked(now)
    }

    fn no_index(&self) -> KeyringError {
        KeyringError::File { path: self.0.join(INDEX), error: io::ErrorKind::NotFound.into() }
    }

    /// Waits for other processes that change the index, which takes milliseconds. Dropping the file
    /// unlocks it.
    fn lock(&self) -> Result<fs::File, KeyringError> {
        let file = self.lock_file()?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| self.lock_error(error.into()))?;
        Ok(file)
    }

    /// Returns the lock. `None`: another process changes the index right now.
    fn try_lock(&self) -> Result<Option<fs::File>, KeyringError> {
        let file = self.lock_file()?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(self.lock_error(error.into())),
        }
    }

    fn lock_file(&self) -> Result<fs::File, KeyringError> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(self.0.join(LOCK)).map_err(|error| self.lock_error(error))
    }

    fn lock_error(&self, error: io::Error) -> KeyringError {
        KeyringError::File { path: self.0.join(LOCK), error }
    }

    fn rotate_locked(&self, now: Now) -> Result<Index, KeyringError> {
        let path = self.0.join(INDEX);
        let old = self.index()?.ok_or_else(|| self.no_index())?;
        let algorithm = algorithm_of(&old, &path)?;
        let next = self.make(algorithm, now)?;
        let index = Index {
            algorithm: old.algorithm,
            previous: Some(old.current),
            current: old.next,
            next,
        };
        self.write_index(&index)?;
        if let Some(retired) = old.previous {
            let path = self.key_path(&retired.kid);
            match fs::remove_file(&path) {
                // The rotation has taken effect. A file that is already gone is no error.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(KeyringError::File { path, error });
                }
                _ => {}
            }
        }
        Ok(index)
    }

    fn load(&self, index: &Index, wanted: ContextAlgorithm) -> Result<Keyring, KeyringError> {
        if index.algorithm != name(wanted) {
            let path = self.0.clone();
            return Err(KeyringError::OtherAlgorithm {
                path,
                found: index.algorithm.clone(),
                wanted: name(wanted),
            });
        }
        let read =
            |entry: &KeyringEntry| read_key(&self.key_path(&entry.kid), wanted, GROUP_AND_OTHERS);
        let others =
            index.previous.iter().chain([&index.next]).map(read).collect::<Result<_, _>>()?;
        Ok(Keyring { current: read(&index.current)?, others })
    }

    fn make(&self, algorithm: ContextAlgorithm, now: Now) -> Result<KeyringEntry, KeyringError> {
        let random = rand::SystemRandom::new();
        let crypto = |_| KeyringError::Crypto;
        let der = Zeroizing::new(match algorithm {
            ContextAlgorithm::EdDSA => {
                Ed25519KeyPair::generate_pkcs8(&random).map_err(crypto)?.as_ref().to_vec()
            }
            ContextAlgorithm::ES256 => {
                let pair =
                    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(crypto)?;
                pair.to_pkcs8v1().map_err(crypto)?.as_ref().to_vec()
            }
        });
        let key = Key::from_pkcs8(&der, algorithm).map_err(|_| KeyringError::Crypto)?;
        let lines: Vec<_> = STANDARD
            .encode(&*der)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        let pem = Zeroizing::new(format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        ));
        write_whole(&self.key_path(&key.id), pem.as_bytes())?;
        Ok(KeyringEntry { kid: key.id, created: now.wall.to_rfc3339() })
    }

    fn write_index(&self, index: &Index) -> Result<(), KeyringError> {
        let text = serde_json::to_string_pretty(index).map_err(|_| KeyringError::Crypto)?;
        write_whole(&self.0.join(INDEX), text.as_bytes())
    }

    fn key_path(&self, kid: &str) -> PathBuf {
        self.0.join(format!("{kid}.pem"))
    }
}

/// Writes a file. After a power failure either the old file or the whole new one is there.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), KeyringError> {
    let at = |error| KeyringError::File { path: path.to_owned(), error };
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(at)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at)?;
    fs::rename(&temporary, path).map_err(at)
}

/// Reads a key. `closed_to` has the permission bits that must not be set.
fn read_key(path: &Path, algorithm: ContextAlgorithm, closed_to: u32) -> Result<Key, KeyringError> {
    let metadata =
        fs::metadata(path).map_err(|error| KeyringError::File { path: path.to_owned(), error })?;
    if metadata.permissions().mode() & closed_to != 0 {
        return Err(KeyringError::Exposed { path: path.to_owned() });
    }
    let not_a_key = |problem: String| KeyringError::NotAKey { path: path.to_owned(), problem };
    let der =
        PrivatePkcs8KeyDer::from_pem_file(path).map_err(|error| not_a_key(error.to_string()))?;
    Key::from_pkcs8(der.secret_pkcs8_der(), algorithm).map_err(not_a_key)
}

fn name(algorithm: ContextAlgorithm) -> &'static str {
    match algorithm {
        ContextAlgorithm::EdDSA => "EdDSA",
        ContextAlgorithm::ES256 => "ES256",
    }
}

fn algorithm_of(index: &Index, path: &Path) -> Result<ContextAlgorithm, KeyringError> {
    match index.algorithm.as_str() {
        "EdDSA" => Ok(ContextAlgorithm::EdDSA),
        "ES256" => Ok(ContextAlgorithm::ES256),
        other => Err(KeyringError::NotAKey {
            path: path.to_owned(),
            problem: format!("'{other}' is not an algorithm that Usher signs with"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;
    use http::HeaderName;
    use std::time::Duration;

    pub(crate) fn context(signing: ContextSigning) -> Context {
        Context {
            header: HeaderName::from_static("x-user-context"),
            issuer: "usher".to_owned(),
            ttl: Duration::from_secs(60),
            claims: Vec::new(),
            signing,
            jwks_path: "/.well-known/usher/jwks.json".to_owned(),
            rotate_every: None,
        }
    }

    pub(super) struct Scratch(pub(super) PathBuf);

    impl Scratch {
        pub(super) fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("usher-keyring-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    pub(super) fn generated(algorithm: ContextAlgorithm) -> Context {
        context(ContextSigning::Generated { algorithm })
    }

    fn kids(keyring: &Keyring) -> Vec<String> {
        keyring.jwks()["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["kid"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn keys_are_made_once_and_only_their_owner_can_read_them() {
        let scratch = Scratch::new("once");
        let now = Now::read();
        let first = Keyring::open(&generated(ContextAlgorithm::EdDSA), &scratch.0, now).unwrap();
        let again = Keyring::open(&generated(ContextAlgorithm::EdDSA), &scratch.0, now).unwrap();
        assert_eq!(kids(&first), kids(&again));
        assert_eq!(kids(&first).len(), 2, "current and next");
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(scratch.0.join("keys")), 0o700);
        for entry in fs::read_dir(scratch.0.join("keys")).unwrap() {
            assert_eq!(mode(entry.unwrap().path()), 0o600);
        }
    }

    #[test]
    fn a_rotation_moves_every_key_one_place() {
        let scratch = Scratch::new("rotate");
        let now = Now::read();
        let folder = KeyringFolder::of(&scratch.0);
        let first = folder.generate(ContextAlgorithm::ES256, now).unwrap();
        let second = folder.rotate(now).unwrap();
        assert_eq!(second.previous.as_ref().unwrap().kid, first.current.kid);
        assert_eq!(second.current.kid, first.next.kid);
        let third = folder.rotate(now).unwrap();
        assert!(!folder.key_path(&first.current.kid).exists(), "the retired key is gone");
        let keyring = Keyring::open(&generated(ContextAlgorithm::ES256), &scratch.0, now).unwrap();
        assert_eq!(keyring.key_id(), third.current.kid);
        assert_eq!(
            kids(&keyring),
            [third.current.kid, third.previous.unwrap().kid, third.next.kid]
        );
    }

    #[test]
    fn an_empty_list_of_key_files_is_refused_as_such() {
        let signing = ContextSigning::Files { algorithm: ContextAlgorithm::EdDSA, files: vec![] };
        let opened = Keyring::open(&context(signing), Path::new("/nowhere"), Now::read());
        assert!(matches!(opened, Err(KeyringError::NoFiles)));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let scratch = Scratch::new("exposed");
        let now = Now::read();
        let index = KeyringFolder::of(&scratch.0).generate(ContextAlgorithm::EdDSA, now).unwrap();
        let path = KeyringFolder::of(&scratch.0).key_path(&index.current.kid);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error =
            Keyring::open(&generated(ContextAlgorithm::EdDSA), &scratch.0, now).unwrap_err();
        assert!(matches!(error, KeyringError::Exposed { .. }), "{error}");
    }

    #[test]
    fn keys_of_another_algorithm_are_not_replaced_in_silence() {
        let scratch = Scratch::new("other");
        let now = Now::read();
        KeyringFolder::of(&scratch.0).generate(ContextAlgorithm::EdDSA, now).unwrap();
        let error =
            Keyring::open(&generated(ContextAlgorithm::ES256), &scratch.0, now).unwrap_err();
        assert!(matches!(error, KeyringError::OtherAlgorithm { .. }), "{error}");
    }

    #[test]
    fn keys_from_files_sign_and_are_published_and_may_belong_to_a_group() {
        let scratch = Scratch::new("files");
        let index =
            KeyringFolder::of(&scratch.0).generate(ContextAlgorithm::EdDSA, Now::read()).unwrap();
        let files: Vec<_> = [&index.next, &index.current]
            .map(|entry| KeyringFolder::of(&scratch.0).key_path(&entry.kid))
            .into();
        fs::set_permissions(&files[0], fs::Permissions::from_mode(0o440)).unwrap();
        let open = || {
            Keyring::open(
                &context(ContextSigning::Files {
                    algorithm: ContextAlgorithm::EdDSA,
                    files: files.clone(),
                }),
                &scratch.0,
                Now::read(),
            )
        };
        let keyring = open().unwrap();
        assert_eq!(
            (keyring.key_id(), kids(&keyring)),
            (index.next.kid.as_str(), vec![index.next.kid.clone(), index.current.kid])
        );
        fs::set_permissions(&files[0], fs::Permissions::from_mode(0o444)).unwrap();
        assert!(matches!(open(), Err(KeyringError::Exposed { .. })));
    }

    #[test]
    fn a_shared_secret_is_never_published() {
        let signing = ContextSigning::Shared {
            secret: Secret::from("a secret of more than thirty-two bytes"),
        };
        let keyring = Keyring::open(&context(signing), Path::new("/nowhere"), Now::read()).unwrap();
        assert_eq!((keyring.algorithm(), keyring.key_id()), ("HS256", "shared"));
        assert_eq!(keyring.jwks(), json!({ "keys": [] }));
    }
}
