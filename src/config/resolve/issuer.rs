//! `[[issuer]]`.

use super::*;

pub(super) fn issuer(section: &Section<'_, '_>, seen: &mut Names) -> Option<Issuer> {
    let reader = section.reader;
    let name = section.required("name", "such as `name = \"main\"`");
    if let Some((name, span)) = &name {
        seen.add(reader, "issuer", name, span);
    }
    let issuer = section.required("issuer", "the `iss` that its tokens carry");
    let audience = section.list("audience").unwrap_or_default();
    if audience.is_empty() {
        section.missing("audience", "name at least one `aud` that tokens for this service carry: `audience = [\"chat\"]`");
    }
    let algorithms = algorithms(section);
    let secret_written = section.value("secret_env").or_else(|| section.value("secret_file"));
    let secret = section.secret("secret_env", "secret_file");
    let jwks = section.text("jwks_file");
    let hmac = algorithms.first().map(|a| a.family() == Family::Hmac);
    match (hmac, secret_written, &jwks) {
        (_, Some(_), Some((_, span))) => reader.error(
            span,
            "a secret and `jwks_file` cannot stand together",
            "HS* takes a secret, every other algorithm takes `jwks_file`",
        ),
        (Some(true), None, _) => {
            section.missing("secret_env", "HS256, HS384 and HS512 check with a shared secret: `secret_env` or `secret_file`");
        }
        (Some(false), _, None) => section.missing("jwks_file", "public-key algorithms check with the keys of a `jwks_file`"),
        _ => {}
    }
    if let (Some(true), Some(value), Some(secret)) = (hmac, secret_written, &secret)
        && secret.len() < 32
    {
        reader.error(
            &value.span(),
            format!("the secret has {} bytes; an HMAC secret has at least 32", secret.len()),
            "make one: `openssl rand -hex 32`",
        );
    }
    let leeway = section.duration("leeway", 30 * SECOND);
    let required_claims = section.parsed_list("required_claims", |text| Ok(text.to_owned()));
    let (user_claim, permissions_claim) = (section.text_or("user_claim", "sub"), section.text_or("permissions_claim", "permissions"));
    let session_claim = section.text_or("session_claim", "sid");
    let max_token_bytes = section.size("max_token_bytes", 8 << 10);
    let max_lifetime = positive(section, "max_lifetime", 30 * 86_400 * SECOND);
    section.finish();
    let keys = match (secret, jwks) {
        (Some(secret), _) => IssuerKeySource::Secret(secret),
        (None, Some((file, _))) => IssuerKeySource::JwksFile(reader.file(&file)),
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
