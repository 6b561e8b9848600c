//! `[[issuer]]`.

use super::*;

pub(super) fn issuer(section: &Section<'_, '_>, seen: &mut Names) -> Option<Issuer> {
    let reader = section.reader;
    let name = section.required("name", "such as `name = \"main\"`");
    if let Some((name, span)) = &name {
        seen.add(reader, "issuer", name, span);
        if name == crate::auth::certificate::ISSUER {
            reader.error(span, format!("`{name}` is the issuer of client certificates"), "give this one another name");
        }
        if name == crate::auth::bypass::ISSUER {
            reader.error(span, format!("`{name}` is the issuer of test identities"), "give this one another name");
        }
    }
    let issuer = section.required("issuer", "the `iss` that its tokens carry");
    let audience = section.list("audience").unwrap_or_default();
    if audience.is_empty() {
        section.missing("audience", "name at least one `aud` that tokens for this service carry: `audience = [\"chat\"]`");
    }
    let algorithms = algorithms(section);
    let secret_written = section.value("secret_env").or_else(|| section.value("secret_file"));
    let secret = section.secret("secret_env", "secret_file");
    let public = public_keys(section, issuer.as_ref().map(|(issuer, _)| issuer.as_str()));
    let hmac = algorithms.first().map(|a| a.family() == Family::Hmac);
    match (hmac, secret_written, &public) {
        (_, Some(_), Some((key, span, _))) => reader.error(
            span,
            format!("a secret and `{key}` cannot stand together"),
            "HS* takes a secret, every other algorithm takes `jwks_file`, `jwks_url` or `discovery`",
        ),
        (Some(true), None, _) => {
            section.missing("secret_env", "HS256, HS384 and HS512 check with a shared secret: `secret_env` or `secret_file`");
        }
        (Some(false), _, None) => {
            section.missing("jwks_url", "public-key algorithms check with published keys: `jwks_url`, `discovery = true` or `jwks_file`");
        }
        _ => {}
    }
    let least = algorithms.iter().map(|algorithm| algorithm.least_secret()).max().unwrap_or(0);
    if let (Some(true), Some(value), Some(secret)) = (hmac, secret_written, &secret)
        && secret.len() < least
    {
        let of = algorithms.iter().map(|algorithm| algorithm.name()).max().unwrap_or_default();
        reader.error(
            &value.span(),
            format!("the secret has {} bytes; one for {of} has at least {least}", secret.len()),
            "make one: `openssl rand -hex 64`",
        );
    }
    let leeway = section.duration("leeway", 30 * SECOND);
    let required_claims = section.parsed_list("required_claims", |text| Ok(text.to_owned()));
    let (user_claim, permissions_claim) = (section.text_or("user_claim", "sub"), section.text_or("permissions_claim", "permissions"));
    let session_claim = section.text_or("session_claim", "sid");
    let max_token_bytes = section.size("max_token_bytes", 8 << 10);
    let max_lifetime = positive(section, "max_lifetime", 30 * 86_400 * SECOND);
    section.finish();
    let keys = match (secret, public) {
        (Some(secret), _) => IssuerKeySource::Secret(secret),
        (None, Some((_, _, source))) => source?,
        (None, None) => return None,
    };
    Some(Issuer {
        name: name?.0.into(),
        issuer: issuer?.0,
        audience: audience.into_iter().map(|(text, _)| text).collect(),
        algorithms,
        keys,
        leeway,
        required_claims,
        user_claim,
        permissions_claim,
        session_claim,
        max_token_bytes,
        max_lifetime,
    })
}

/// Where public keys come from: the key that says so, its place, and what it means where that is good.
fn public_keys(section: &Section<'_, '_>, issuer: Option<&str>) -> Option<(&'static str, Span, Option<IssuerKeySource>)> {
    let reader = section.reader;
    let file = section.text("jwks_file").map(|(file, span)| ("jwks_file", span, file));
    let url = section.text("jwks_url").map(|(url, span)| ("jwks_url", span, url));
    let discovers = section.boolean("discovery", false);
    let discovery = section.value("discovery").filter(|_| discovers).map(|value| ("discovery", value.span(), String::new()));
    let is_remote = url.is_some() || discovery.is_some();
    for key in ["jwks_refresh", "jwks_timeout", "ca_file", "allow_plain"] {
        if let Some(value) = section.value(key).filter(|_| !is_remote) {
            reader.error(&value.span(), format!("`{key}` is about keys that are fetched"), "it goes with `jwks_url` or `discovery`");
        }
    }
    let (refresh, timeout) = (section.duration("jwks_refresh", 600 * SECOND), positive(section, "jwks_timeout", 5 * SECOND));
    if let Some(value) = section.value("jwks_refresh").filter(|_| refresh < SECOND) {
        reader.error(&value.span(), "`jwks_refresh` is at least 1s", "the issuer is asked so often by every node; 10m is usual");
    }
    let ca_file = section.text("ca_file").map(|(file, _)| reader.file(&file));
    let allow_plain = section.boolean("allow_plain", false);
    if let Some(value) = section.value("allow_plain").filter(|_| allow_plain && is_remote) {
        let message = "keys are fetched over plain http: whoever sits in between chooses who gets in";
        reader.report(&value.span(), Diagnostic::warning(message));
    }
    let mut written: Vec<_> = [file, url, discovery].into_iter().flatten().collect();
    if let [_, (key, span, _), ..] = written.as_slice() {
        reader.error(span, format!("`{key}` and another source of keys cannot stand together"), "keep one of them");
    }
    let (key, span, text) = if written.is_empty() { return None } else { written.remove(0) };
    let origin = match key {
        "jwks_file" => return Some((key, span, Some(IssuerKeySource::JwksFile(reader.file(&text))))),
        "jwks_url" => Place::parse(&text, allow_plain).map(KeyOrigin::Url),
        _ => discovery_place(issuer?, allow_plain).map(KeyOrigin::Discovery),
    };
    let origin = origin.map_err(|message| reader.error(&span, message, "write https; plain http is for this machine, or `allow_plain`"));
    let remote = origin.ok().map(|origin| RemoteKeys { origin, refresh, timeout, ca_file, allow_plain });
    Some((key, span, remote.map(|remote| IssuerKeySource::Remote(Box::new(remote)))))
}

/// OpenID Connect Discovery 1.0, section 4: "If the Issuer value contains a path component, any terminating / MUST be removed
/// before appending /.well-known/openid-configuration".
fn discovery_place(issuer: &str, allow_plain: bool) -> Result<Place, String> {
    if issuer.contains('?') {
        return Err(format!("`{issuer}` has a query, so it cannot be discovered"));
    }
    Place::parse(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')), allow_plain)
}

fn algorithms(section: &Section<'_, '_>) -> Vec<Algorithm> {
    let written = section.list("algorithms").unwrap_or_default();
    if written.is_empty() {
        section.missing("algorithms", "name what its tokens are signed with: `algorithms = [\"RS256\"]`");
    }
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for (text, span) in written {
        let Some(algorithm) = Algorithm::ALL.into_iter().find(|a| a.name() == text) else {
            let help = suggest(&text, Algorithm::ALL.iter().map(|a| a.name()));
            section.reader.error(&span, format!("`{text}` is not an algorithm that Usher accepts"), help);
            continue;
        };
        if algorithms.first().is_some_and(|first| first.family() != algorithm.family()) {
            let help = "one issuer's algorithms are of one family; write a second [[issuer]] for the other";
            section.reader.error(&span, format!("`{text}` is of another family than the algorithms before it"), help);
        }
        algorithms.push(algorithm);
    }
    algorithms
}
