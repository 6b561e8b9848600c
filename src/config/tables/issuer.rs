//! `[[issuer]]`.

use serde_json::Value as Json;

use super::names::Names;
use crate::config::declare::{Table, table};
use crate::config::diagnostic::{Diagnostic, suggest};
use crate::config::key_type::{
    self, Choice, FileToRead, Flag, KeyType, List, NonEmpty, OneOf, PositiveDuration, SecretFile,
    SecretVariable, Size, Text,
};
use crate::config::reader::{Entry, Reader, Section, Span};
use crate::config::{Issuer, IssuerKeySource, KeyOrigin, RemoteKeys};
use crate::model::algorithm::{Algorithm, KeyFamily};
use crate::model::principal;
use crate::model::secret::Secret;
use crate::model::service_url::ServiceUrl;

table! {
    /// Issuers whose tokens are accepted.
    pub struct IssuerTable: [[issuer]] {
        /// Its name in logs and metrics.
        name: Text, required "main";
        /// The `iss` that its tokens carry.
        issuer: Text, required "https://id.example.com";
        /// Accepted audiences: the `aud` of a token must contain at least one.
        audience: NonEmpty<List<Text>>, required ["chat"];
        /// Signature algorithms; HS* cannot be combined with public-key algorithms.
        algorithms: NonEmpty<Algorithms>, required ["HS256"];
        /// Environment variable with the shared secret, for HS256, HS384 and HS512.
        secret_env: SecretVariable, derived "USHER_JWT_SECRET",
            because "HS* needs it; every other algorithm uses published keys";
        /// File with the shared secret, instead of `secret_env`.
        secret_file: SecretFile, optional "secret.txt";
        /// JSON Web Key Set with the public keys, for every other algorithm.
        jwks_file: FileToRead, optional "jwks.json";
        /// The URL of the published keys, instead of `jwks_file`.
        jwks_url: Text, optional "https://id.example.com/keys";
        /// Find the keys by OpenID Connect Discovery, from the URL in `issuer`.
        discovery: Flag, default false,
            because "the keys have one source, and the configuration names it";
        /// How often published keys are fetched again.
        jwks_refresh: key_type::Duration, default "10m" commented,
            at_least "1s" "every node fetches the keys this often; 10m is usual",
            because "a withdrawn key is rejected after this time at the latest; a new key is \
                fetched at once anyway",
            change_when "a withdrawn key must be rejected sooner";
        /// How long one fetch may take, and how long a client with an unknown key id waits for it.
        jwks_timeout: PositiveDuration, default "5s" commented,
            because "the start waits for it, and so do clients with a new key; it stays within \
                the 15 s of the handshake",
            change_when "the issuer is far away or slow";
        /// PEM file of the authorities for the certificate of the issuer's server, instead of the
        /// system's.
        ca_file: FileToRead, optional "authorities.pem";
        /// Fetch keys over plain http from another machine; the network between the two then
        /// decides which tokens are accepted.
        allow_plain: Flag, default false commented,
            because "an attacker who can change the keys on the network decides which tokens are \
                accepted",
            change_when "only you control the network between the two";
        /// How far the clocks of the issuer and of Usher may differ.
        leeway: key_type::Duration, default "30s",
            because "clocks differ; this is short compared with tokens that live for minutes",
            change_when "do not raise it without need";
        /// Claims that a token must carry besides `iss`, `aud` and `exp`.
        required_claims: List<Text>, default [],
            because "only the application knows which other claims its tokens have";
        /// The claim that names the user.
        user_claim: Text, default "sub",
            because "the subject of RFC 7519",
            change_when "another claim identifies the user";
        /// The claim that lists permissions; realm_access.roles reads a claim inside an object.
        permissions_claim: Text, default "permissions",
            because "the claim that the specification names",
            change_when "the issuer uses `scope` or roles";
        /// The claim that names the login session.
        session_claim: Text, default "sid",
            because "the claim of OpenID Connect";
        /// The largest token; a longer one is rejected.
        max_token_bytes: Size, default "8KiB",
            because "larger than the tokens of real issuers. A token is checked before the client \
                is authenticated, so the cost of the check has a limit",
            change_when "tokens carry long lists of groups";
        /// The longest remaining lifetime of a token; one that expires later is rejected.
        max_lifetime: PositiveDuration, default "30d",
            because "a token that is valid for years cannot be revoked in practice",
            change_when "an issuer makes long-lived tokens on purpose";
    }
}

/// Signature algorithms, each once.
pub struct Algorithms;

impl Choice for Algorithm {
    fn choices() -> Vec<(&'static str, Self)> {
        Self::ALL.map(|algorithm| (algorithm.name(), algorithm)).to_vec()
    }
}

impl KeyType for Algorithms {
    type Value = Vec<Algorithm>;

    fn name() -> String {
        format!("list of {}", OneOf::<Algorithm>::name())
    }

    fn schema() -> Json {
        serde_json::json!({ "type": "array", "items": OneOf::<Algorithm>::schema() })
    }

    fn read(entry: &Entry<'_>) -> Option<Vec<Algorithm>> {
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for item in entry.texts()? {
            let text = item.text()?;
            let Some(algorithm) = Algorithm::ALL.into_iter().find(|one| one.name() == text) else {
                let help = suggest(&text, Algorithm::ALL.iter().map(|one| one.name()));
                item.error(format!("`{text}` is not a supported algorithm"), help);
                continue;
            };
            // With both, an attacker could take a public key and sign with it as if it were the
            // shared secret.
            let is_shared = |one: &Algorithm| one.family() == KeyFamily::Hmac;
            let first = algorithms.first();
            if let Some(first) = first.filter(|first| is_shared(first) != is_shared(&algorithm)) {
                item.error(
                    format!(
                        "`{text}` and `{}` cannot be combined: one uses a shared secret, the other \
                         published keys",
                        first.name()
                    ),
                    "an issuer signs with a shared secret (HS*) or with published keys (others)",
                );
            }
            if algorithms.contains(&algorithm) {
                item.error(format!("`{text}` appears twice"), "list each algorithm once");
                continue;
            }
            algorithms.push(algorithm);
        }
        Some(algorithms)
    }
}

/// The names and `iss` values of the issuers. Each may appear once.
#[derive(Default)]
pub struct IssuerNames {
    pub names: Names,
    issuers: Names,
}

impl IssuerNames {
    /// Adds an `iss`. A token names its issuer only by `iss`. With two tables for one `iss`, chance
    /// would decide which rules apply.
    fn add_issuer(&mut self, section: &Section<'_, '_>, issuer: Option<&str>) {
        let (Some(issuer), Some(value)) = (issuer, section.value("issuer")) else { return };
        let help = "; put all of its audiences and algorithms into one table: \
                    `algorithms = [\"RS256\", \"ES256\"]`";
        let what = ("the `issuer`", issuer);
        self.issuers.add_with_help(section.reader, what, &value.span(), help);
    }
}

pub fn issuer(section: &Section<'_, '_>, seen: &mut IssuerNames) -> Option<Issuer> {
    let mut table = IssuerTable::read(section);
    check_name(section, seen, table.name.as_deref());
    seen.add_issuer(section, table.issuer.as_deref());
    let algorithms = table.algorithms.take().unwrap_or_default();
    let secret = section
        .one_of(("secret_env", table.secret_env.take()), ("secret_file", table.secret_file.take()));
    let public = public_keys(section, &table);
    check_keys(section, &algorithms, secret.as_ref(), public.as_ref());
    let keys = match (secret.and_then(|(secret, _)| secret), public) {
        (Some(secret), _) => IssuerKeySource::Secret(secret),
        (None, Some(public)) => public.source?,
        (None, None) => return None,
    };
    Some(Issuer {
        name: table.name?.into(),
        issuer: table.issuer?,
        audience: table.audience?,
        algorithms,
        keys,
        leeway: table.leeway,
        required_claims: table.required_claims,
        user_claim: table.user_claim,
        permissions_claim: table.permissions_claim,
        session_claim: table.session_claim,
        max_token_bytes: table.max_token_bytes,
        max_lifetime: table.max_lifetime,
    })
}

fn check_name(section: &Section<'_, '_>, seen: &mut IssuerNames, name: Option<&str>) {
    seen.names.add_name(section, "issuer", name);
    let taken = match name {
        Some(principal::CERTIFICATE_ISSUER) => "client certificates",
        Some(principal::BYPASS_ISSUER) => "test identities",
        _ => return,
    };
    if let (Some(name), Some(value)) = (name, section.value("name")) {
        let message = format!("the issuer name `{name}` is reserved for {taken}");
        section.reader.error(&value.span(), message, "give this issuer another name");
    }
}

/// Rejects a source of keys that does not fit the algorithms.
fn check_keys(
    section: &Section<'_, '_>,
    algorithms: &[Algorithm],
    secret: Option<&(Option<Secret>, Span)>,
    public: Option<&PublicKeys>,
) {
    let reader = section.reader;
    let is_hmac = algorithms.first().map(|algorithm| algorithm.family() == KeyFamily::Hmac);
    match (is_hmac, secret, public) {
        (_, Some(_), Some(public)) => reader.error(
            &public.span,
            format!("a secret and `{}` cannot be combined", public.key),
            "HS* needs a secret; every other algorithm needs `jwks_file`, `jwks_url` or \
             `discovery`",
        ),
        (Some(true), None, _) => section.missing(
            "secret_env",
            "HS256, HS384 and HS512 need a shared secret: `secret_env` or `secret_file`",
        ),
        (Some(false), Some((_, span)), None) => {
            let has_variable = section.value("secret_env").is_some();
            let key = if has_variable { "secret_env" } else { "secret_file" };
            let of = algorithms.first().map_or("this algorithm", |algorithm| algorithm.name());
            reader.error(
                span,
                format!("`{key}` is not used with {of}"),
                "public-key algorithms need published keys: `jwks_url`, `discovery = true` or \
                 `jwks_file`",
            );
        }
        (Some(false), None, None) => section.missing(
            "jwks_url",
            "public-key algorithms need published keys: `jwks_url`, `discovery = true` or \
             `jwks_file`",
        ),
        _ => {}
    }
    let least = algorithms.iter().map(|algorithm| algorithm.least_secret()).max().unwrap_or(0);
    if let (Some(true), Some((Some(secret), span))) = (is_hmac, secret)
        && secret.len() < least
    {
        let of = algorithms.iter().map(|algorithm| algorithm.name()).max().unwrap_or_default();
        reader.error(
            span,
            format!("the secret has {} bytes; {of} needs at least {least}", secret.len()),
            "make one with `openssl rand -hex 64`",
        );
    }
}

/// The source of public keys.
struct PublicKeys {
    /// The configuration key that names the source.
    key: &'static str,
    span: Span,
    /// `None`: the source has a mistake, which is reported.
    source: Option<IssuerKeySource>,
}

fn public_keys(section: &Section<'_, '_>, table: &IssuerTable) -> Option<PublicKeys> {
    let reader = section.reader;
    let is_remote = section.value("jwks_url").is_some() || table.discovery;
    for key in ["jwks_refresh", "jwks_timeout", "ca_file", "allow_plain"] {
        if let Some(value) = section.value(key).filter(|_| !is_remote) {
            reader.error(
                &value.span(),
                format!("`{key}` needs `jwks_url` or `discovery`"),
                "it applies to keys that are fetched; remove it, or name their URL",
            );
        }
    }
    if let Some(value) = section.value("allow_plain").filter(|_| table.allow_plain && is_remote) {
        let message =
            "keys are fetched over plain http: an attacker on the network could replace them";
        reader.report(&value.span(), Diagnostic::warning(message));
    }
    let written = |key| Some((key, section.value(key)?.span()));
    let discovery = written("discovery").filter(|_| table.discovery);
    let sources = [written("jwks_file"), written("jwks_url"), discovery];
    let mut sources = sources.into_iter().flatten();
    let (key, span) = sources.next()?;
    if let Some((other, span)) = sources.next() {
        reader.error(
            &span,
            format!("`{other}` and `{key}` cannot be combined: keys have one source"),
            "remove one of them",
        );
    }
    let source = match key {
        "jwks_file" => table.jwks_file.clone().map(IssuerKeySource::JwksFile),
        _ => remote_keys(reader, table, key, &span),
    };
    Some(PublicKeys { key, span, source })
}

fn remote_keys(
    reader: &Reader<'_>,
    table: &IssuerTable,
    key: &str,
    span: &Span,
) -> Option<IssuerKeySource> {
    let allow_plain = table.allow_plain;
    let origin = match key {
        "jwks_url" => ServiceUrl::parse(table.jwks_url.as_ref()?, allow_plain).map(KeyOrigin::Url),
        _ => discovery_place(table.issuer.as_ref()?, allow_plain).map(KeyOrigin::Discovery),
    };
    let help = "write https; plain http works only for this machine or with `allow_plain`";
    let origin = origin.map_err(|message| reader.error(span, message, help)).ok()?;
    Some(IssuerKeySource::Remote(Box::new(RemoteKeys {
        origin,
        refresh: table.jwks_refresh,
        timeout: table.jwks_timeout,
        ca_file: table.ca_file.clone(),
        allow_plain,
    })))
}

/// OpenID Connect Discovery 1.0 section 4: "If the Issuer value contains a path component, any
/// terminating / MUST be removed before appending /.well-known/openid-configuration".
fn discovery_place(issuer: &str, allow_plain: bool) -> Result<ServiceUrl, String> {
    if issuer.contains('?') {
        return Err(format!("`{issuer}` has a query, so discovery does not work"));
    }
    ServiceUrl::parse(
        &format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')),
        allow_plain,
    )
}
