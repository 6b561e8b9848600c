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
use crate::model::algorithm::{Algorithm, Family};
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
        /// A token carries at least one of these as `aud`.
        audience: NonEmpty<List<Text>>, required ["chat"];
        /// Signature algorithms; those of public keys may stand together.
        algorithms: NonEmpty<Algorithms>, required ["HS256"];
        /// Environment variable with the shared secret, for HS256, HS384 and HS512.
        secret_env: SecretVariable, derived "USHER_JWT_SECRET",
            because "HS* needs it, every other algorithm has published keys";
        /// File with the shared secret, instead of `secret_env`.
        secret_file: SecretFile, optional "secret.txt";
        /// JSON Web Key Set with the public keys, for every other algorithm.
        jwks_file: FileToRead, optional "jwks.json";
        /// Where the keys are published, instead of `jwks_file`.
        jwks_url: Text, optional "https://id.example.com/keys";
        /// Find the keys by OpenID discovery, from the issuer's own address.
        discovery: Flag, default false,
            because "keys come from one place, which the file names";
        /// How often published keys are fetched again.
        jwks_refresh: key_type::Duration, default "10m" commented,
            at_least "1s" "the issuer is asked so often by every node; 10m is usual",
            because "a key that is withdrawn is refused after it, a new one is fetched at once \
                anyway",
            change_when "keys must be taken back sooner";
        /// How long one fetch may take, and how long a client with an unknown key id waits for it.
        jwks_timeout: PositiveDuration, default "5s" commented,
            because "the start and clients with a new key wait for it; inside the 15 s of the \
                handshake",
            change_when "the issuer is far away, or slow";
        /// PEM file of the authorities that sign the issuer's server, instead of those of the
        /// system.
        ca_file: FileToRead, optional "authorities.pem";
        /// Fetch keys over plain http from another machine; the network in between then decides
        /// which tokens are accepted.
        allow_plain: Flag, default false commented,
            because "a party that can change the keys on their way decides which clients get in",
            change_when "the network in between is yours alone";
        /// How far clocks may differ.
        leeway: key_type::Duration, default "30s",
            because "clocks differ; short enough not to matter for tokens that live minutes",
            change_when "never up without need";
        /// Claims that a token must carry besides `iss`, `aud` and `exp`.
        required_claims: List<Text>, default [],
            because "what else a token says is the application's to know";
        /// The claim that names the user.
        user_claim: Text, default "sub",
            because "the subject of RFC 7519",
            change_when "users are known by another name";
        /// The claim that lists permissions; realm_access.roles leads into an object.
        permissions_claim: Text, default "permissions",
            because "the claim of the contract",
            change_when "the issuer writes `scope` or roles";
        /// The claim that names the login session.
        session_claim: Text, default "sid",
            because "the claim of OpenID Connect";
        /// A longer token is refused.
        max_token_bytes: Size, default "8KiB",
            because "above what real issuers send. A token is checked before the client is known: \
                its cost has to be bounded",
            change_when "tokens carry long lists of groups";
        /// A token that is valid for longer than this from now is refused.
        max_lifetime: PositiveDuration, default "30d",
            because "a token that is valid for years is one that cannot be taken back",
            change_when "an issuer makes long ones on purpose";
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
                item.error(format!("`{text}` is not an algorithm that Usher accepts"), help);
                continue;
            };
            // With both, a party that knows a public key could sign with it as if it were a secret.
            let is_shared = |one: &Algorithm| one.family() == Family::Hmac;
            let first = algorithms.first();
            if let Some(first) = first.filter(|first| is_shared(first) != is_shared(&algorithm)) {
                item.error(
                    format!(
                        "`{text}` is of another family than `{}`, and one of them takes a shared \
                         secret",
                        first.name()
                    ),
                    "an issuer signs with a shared secret (HS*) or with published keys (others)",
                );
            }
            if algorithms.contains(&algorithm) {
                item.error(format!("`{text}` stands twice"), "name each algorithm once");
                continue;
            }
            algorithms.push(algorithm);
        }
        Some(algorithms)
    }
}

/// Names and `iss` values of the issuers, each of which stands once.
#[derive(Default)]
pub struct IssuerNames {
    pub names: Names,
    issuers: Names,
}

impl IssuerNames {
    /// Adds an `iss`. A token names its issuer by `iss` alone: of two tables with one `iss`, chance
    /// would choose the rules.
    fn add_issuer(&mut self, section: &Section<'_, '_>, issuer: Option<&str>) {
        let (Some(issuer), Some(value)) = (issuer, section.value("issuer")) else { return };
        let help = "; one table holds all of its audiences and algorithms: \
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
        let message = format!("`{name}` is the issuer of {taken}");
        section.reader.error(&value.span(), message, "give this one another name");
    }
}

/// Holds the source of the keys against the algorithms.
fn check_keys(
    section: &Section<'_, '_>,
    algorithms: &[Algorithm],
    secret: Option<&(Option<Secret>, Span)>,
    public: Option<&PublicKeys>,
) {
    let reader = section.reader;
    let is_hmac = algorithms.first().map(|algorithm| algorithm.family() == Family::Hmac);
    match (is_hmac, secret, public) {
        (_, Some(_), Some(public)) => reader.error(
            &public.span,
            format!("a secret and `{}` cannot stand together", public.key),
            "HS* takes a secret, every other algorithm takes `jwks_file`, `jwks_url` or \
             `discovery`",
        ),
        (Some(true), None, _) => section.missing(
            "secret_env",
            "HS256, HS384 and HS512 check with a shared secret: `secret_env` or `secret_file`",
        ),
        (Some(false), Some((_, span)), None) => {
            let has_variable = section.value("secret_env").is_some();
            let key = if has_variable { "secret_env" } else { "secret_file" };
            let of = algorithms.first().map_or("this algorithm", |algorithm| algorithm.name());
            reader.error(
                span,
                format!("`{key}` has no use with {of}"),
                "public-key algorithms check with published keys: `jwks_url`, `discovery = true` \
                 or `jwks_file`",
            );
        }
        (Some(false), None, None) => section.missing(
            "jwks_url",
            "public-key algorithms check with published keys: `jwks_url`, `discovery = true` or \
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
            format!("the secret has {} bytes; one for {of} has at least {least}", secret.len()),
            "make one: `openssl rand -hex 64`",
        );
    }
}

/// Where public keys come from.
struct PublicKeys {
    /// The key that says so.
    key: &'static str,
    span: Span,
    /// `None`: it is wrong and reported.
    source: Option<IssuerKeySource>,
}

fn public_keys(section: &Section<'_, '_>, table: &IssuerTable) -> Option<PublicKeys> {
    let reader = section.reader;
    let is_remote = section.value("jwks_url").is_some() || table.discovery;
    for key in ["jwks_refresh", "jwks_timeout", "ca_file", "allow_plain"] {
        if let Some(value) = section.value(key).filter(|_| !is_remote) {
            reader.error(
                &value.span(),
                format!("`{key}` is about keys that are fetched"),
                "it goes with `jwks_url` or `discovery`",
            );
        }
    }
    if let Some(value) = section.value("allow_plain").filter(|_| table.allow_plain && is_remote) {
        let message =
            "keys are fetched over plain http: the network in between decides who gets in";
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
            format!("`{other}` and another source of keys cannot stand together"),
            "keep one of them",
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
    let help = "write https; plain http is for this machine, or `allow_plain`";
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
        return Err(format!("`{issuer}` has a query, so it cannot be discovered"));
    }
    ServiceUrl::parse(
        &format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')),
        allow_plain,
    )
}
