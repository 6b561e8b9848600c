//! `[context]`.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use serde_json::Value as Json;

use crate::config::declare::{Table, table};
use crate::config::key_type::{
    Choice, Duration as DurationType, EndpointPath, FileToRead, KeyType, List, OneOf, OwnHeader,
    PositiveDuration, SecretFile, SecretVariable, Text,
};
use crate::config::reader::{Entry, Section};
use crate::model::secret::Secret;

table! {
    /// The signed header that names the user to the upstream.
    pub struct ContextTable: [context] {
        /// The header that carries the signed context.
        header: OwnHeader, default "X-User-Context",
            because "the name that the specification gives it",
            change_when "the backend reads another header";
        /// EdDSA, ES256 (every library verifies it; some do not verify EdDSA) or HS256.
        algorithm: OneOf<WrittenAlgorithm>, default "EdDSA",
            because "short and fast, without parameters to choose wrongly; the backend holds no \
                secret",
            change_when "the backend's library verifies only ES256, or the backend shares a secret";
        /// The `iss` of the signed context.
        issuer: Text, default "usher",
            because "one name for all nodes",
            change_when "a backend serves several Ushers";
        /// How long a signed context is valid.
        ttl: PositiveDuration, default "60s",
            because "the header is used once, at the upgrade; 60 s allow for clocks that differ",
            change_when "clocks differ by more";
        /// Claims of the token that are copied into the signed context.
        claims: List<Text>, default [],
            because "the backend gets only the claims that it needs";
        /// The path of the public keys.
        jwks_path: EndpointPath, default "/.well-known/usher/jwks.json",
            because "the usual folder for such files",
            change_when "the application uses this path";
        /// How often the next key becomes the signing key, at least 10m; without it, only
        /// `usher keys rotate` does that.
        rotate_every: DurationType, optional "30d",
            because "keys that stay on one machine need no schedule, and a backend that never \
                fetches the key set again would reject contexts after a rotation",
            change_when "a policy asks for it: `\"30d\"`, with backends that fetch the key set \
                regularly";
        /// PKCS#8 PEM files, the signing key first; without it, Usher makes its own keys.
        key_files: FilesToRead, optional ["context.pem"];
        /// Environment variable with the shared secret, for HS256.
        secret_env: SecretVariable, optional "USHER_CONTEXT_SECRET";
        /// File with the shared secret, instead of `secret_env`.
        secret_file: SecretFile, optional "secret.txt";
    }
}

#[derive(Debug)]
pub struct Context {
    pub header: HeaderName,
    pub issuer: String,
    pub ttl: Duration,
    /// Claims of the token that are copied into the signed context.
    pub claims: Vec<String>,
    pub signing: ContextSigning,
    /// The time between two rotations of the keys that Usher makes. `None`: only
    /// `usher keys rotate` rotates them.
    pub rotate_every: Option<Duration>,
    pub jwks_path: String,
}

impl Context {
    /// How long a backend may keep the published keys.
    pub const KEY_SET_MAX_AGE: Duration = Duration::from_secs(300);
    /// The shortest time between two rotations. With it, a key set that a backend keeps always has
    /// the signing key, no matter which process sent the set and how late that process read it.
    pub const SHORTEST_ROTATION: Duration =
        Duration::from_secs(2 * Self::KEY_SET_MAX_AGE.as_secs());
}

#[derive(Debug)]
pub enum ContextSigning {
    /// Keys made by Usher and kept in `state_dir`.
    Generated { algorithm: ContextAlgorithm },
    /// PKCS#8 PEM files: current first, then next and previous ones to publish.
    Files { algorithm: ContextAlgorithm, files: Vec<PathBuf> },
    /// HS256: one secret shared with the upstream, never published.
    Shared { secret: Secret },
}

/// An algorithm with a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextAlgorithm {
    EdDSA,
    ES256,
}

/// `None`: HS256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenAlgorithm(Option<ContextAlgorithm>);

impl Choice for WrittenAlgorithm {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![
            ("EdDSA", Self(Some(ContextAlgorithm::EdDSA))),
            ("ES256", Self(Some(ContextAlgorithm::ES256))),
            ("HS256", Self(None)),
        ]
    }
}

/// Files that Usher reads.
pub struct FilesToRead;

impl KeyType for FilesToRead {
    type Value = Vec<PathBuf>;

    fn name() -> String {
        "list of files".to_owned()
    }

    fn schema() -> Json {
        List::<Text>::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<Vec<PathBuf>> {
        Some(entry.texts()?.iter().filter_map(FileToRead::read).collect())
    }
}

pub fn context(section: &Section<'_, '_>) -> Context {
    let reader = section.reader;
    let table = ContextTable::read(section);
    let files = table.key_files.unwrap_or_default();
    let secret =
        section.one_of(("secret_env", table.secret_env), ("secret_file", table.secret_file));
    let secret = match (table.algorithm, secret) {
        (WrittenAlgorithm(None), None) => {
            let at = section.value("algorithm").map_or(0..0, toml::Spanned::span);
            reader.error(
                &at,
                "HS256 needs a secret that the upstream shares",
                "add `secret_env` or `secret_file`",
            );
            None
        }
        (WrittenAlgorithm(None), Some((secret, span))) => {
            if let Some(length) = secret.as_ref().map(Secret::len).filter(|length| *length < 32) {
                reader.error(
                    &span,
                    format!("the secret has {length} bytes; an HMAC secret needs at least 32"),
                    "make one with `openssl rand -hex 32`",
                );
            }
            secret
        }
        (WrittenAlgorithm(Some(algorithm)), Some((secret, span))) => {
            reader.error(
                &span,
                format!("the secret is not used with {algorithm:?}"),
                "remove it, or set `algorithm = \"HS256\"`",
            );
            secret
        }
        (WrittenAlgorithm(Some(_)), None) => None,
    };
    if let Some(value) = section.value("key_files").filter(|_| table.algorithm.0.is_none()) {
        reader.error(&value.span(), "`key_files` is not used with HS256", "remove it");
    }
    let algorithm = table.algorithm.0.unwrap_or(ContextAlgorithm::EdDSA);
    let signing = match secret {
        Some(secret) => ContextSigning::Shared { secret },
        None if files.is_empty() => ContextSigning::Generated { algorithm },
        None => ContextSigning::Files { algorithm, files },
    };
    if let (Some(every), Some(value)) = (table.rotate_every, section.value("rotate_every")) {
        let shortest = Context::SHORTEST_ROTATION.max(table.ttl * 2);
        if !matches!(signing, ContextSigning::Generated { .. }) {
            reader.error(
                &value.span(),
                "`rotate_every` needs keys that Usher makes",
                "remove `rotate_every`, or remove `key_files` and the secret",
            );
        } else if every < shortest {
            let seconds = shortest.as_secs();
            reader.error(
                &value.span(),
                format!("`rotate_every` must be at least {seconds}s"),
                "backends keep the published keys for 5 minutes, and a signed context is valid for \
                 `ttl`; the time between two rotations must be twice the longer one",
            );
        }
    }
    Context {
        header: table.header,
        issuer: table.issuer,
        ttl: table.ttl,
        rotate_every: table.rotate_every,
        claims: table.claims,
        signing,
        jwks_path: table.jwks_path,
    }
}
