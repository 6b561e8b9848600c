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
        /// The header that carries it.
        header: OwnHeader, default "X-User-Context",
            because "the name of the contract",
            change_when "the backend reads another";
        /// EdDSA, ES256 (which every library verifies, where EdDSA fails in some) or HS256.
        algorithm: OneOf<Algorithm>, default "EdDSA",
            because "short, quick, nothing to choose wrongly; the backend holds no secret",
            change_when "the backend's library knows only ES256, or shares a secret";
        /// Its `iss`.
        issuer: Text, default "usher",
            because "one name for all nodes",
            change_when "a backend serves several Ushers";
        /// How long it is valid.
        ttl: PositiveDuration, default "60s",
            because "the header is used once, at the upgrade; 60 s forgives clocks that differ",
            change_when "clocks differ by more";
        /// Claims of the token that it carries on.
        claims: List<Text>, default [],
            because "a backend gets what it asks for, and nothing else";
        /// The path of the public keys.
        jwks_path: EndpointPath, default "/.well-known/usher/jwks.json",
            because "where such sets are looked for",
            change_when "it collides";
        /// How often the next key becomes the signing one, at least 10m; by `usher keys rotate`
        /// alone unless written.
        rotate_every: DurationType, optional "30d",
            because "keys that stay on one machine need no schedule, and a backend that never \
                fetches the set again would reject",
            change_when "a rule asks for it: `\"30d\"`, with backends that fetch the set now and \
                then";
        /// PKCS#8 PEM files, the signing one first; Usher makes its own unless written.
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
    /// Claims of the token that the signed context carries on.
    pub claims: Vec<String>,
    pub signing: ContextSigning,
    /// From one rotation of the keys that Usher makes to the next; `None`: by hand alone.
    pub rotate_every: Option<Duration>,
    pub jwks_path: String,
}

impl Context {
    /// How long a backend may keep the published keys.
    pub const KEY_SET_MAX_AGE: Duration = Duration::from_secs(300);
    /// The shortest time between two rotations. A key set that a backend keeps then has the key
    /// that signs, whichever process sent the set and however late that process looked.
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
pub struct Algorithm(Option<ContextAlgorithm>);

impl Choice for Algorithm {
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
        (Algorithm(None), None) => {
            let at = section.value("algorithm").map_or(0..0, toml::Spanned::span);
            reader.error(
                &at,
                "HS256 needs a secret shared with the upstream",
                "add `secret_env` or `secret_file`",
            );
            None
        }
        (Algorithm(None), Some((secret, span))) => {
            if let Some(length) = secret.as_ref().map(Secret::len).filter(|length| *length < 32) {
                reader.error(
                    &span,
                    format!("the secret has {length} bytes; an HMAC secret has at least 32"),
                    "make one: `openssl rand -hex 32`",
                );
            }
            secret
        }
        (Algorithm(Some(algorithm)), Some((secret, span))) => {
            reader.error(
                &span,
                format!("a secret has no use with {algorithm:?}"),
                "remove it, or set `algorithm = \"HS256\"`",
            );
            secret
        }
        (Algorithm(Some(_)), None) => None,
    };
    if let Some(value) = section.value("key_files").filter(|_| table.algorithm.0.is_none()) {
        reader.error(&value.span(), "`key_files` has no use with HS256", "remove it");
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
                "`rotate_every` is for keys that Usher makes",
                "remove it, or `key_files` and the secret",
            );
        } else if every < shortest {
            let seconds = shortest.as_secs();
            reader.error(
                &value.span(),
                format!("`rotate_every` is shorter than {seconds}s"),
                "backends keep the published keys for 5 minutes, and a context is valid for `ttl`: \
                 allow for both",
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
