//! `[context]`.

use super::*;

pub(super) fn signed_context(section: &Section<'_, '_>) -> Context {
    let header =
        section.parsed("header", |text| HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not a header name")));
    let algorithm = choice(section, "algorithm", &[("EdDSA", "EdDSA"), ("ES256", "ES256"), ("HS256", "HS256")], "EdDSA");
    let secret_written = section.value("secret_env").or_else(|| section.value("secret_file"));
    let secret = section.secret("secret_env", "secret_file");
    let files: Vec<_> = section.list("key_files").unwrap_or_default().iter().map(|(file, _)| section.reader.file(file)).collect();
    let at = section.value("algorithm").or(secret_written).map_or(0..0, toml::Spanned::span);
    let reader = section.reader;
    if algorithm == "HS256" {
        match (&secret, secret_written) {
            (_, None) => reader.error(&at, "HS256 needs a secret shared with the upstream", "add `secret_env` or `secret_file`"),
            (Some(secret), Some(value)) if secret.len() < 32 => {
                reader.error(
                    &value.span(),
                    format!("the secret has {} bytes; an HMAC secret has at least 32", secret.len()),
                    "make one: `openssl rand -hex 32`",
                );
            }
            _ => {}
        }
        if let Some(value) = section.value("key_files") {
            reader.error(&value.span(), "`key_files` has no use with HS256", "remove it");
        }
    } else if let Some(value) = secret_written {
        reader.error(&value.span(), format!("a secret has no use with {algorithm}"), "remove it, or set `algorithm = \"HS256\"`");
    }
    let asymmetric = if algorithm == "ES256" { ContextAlgorithm::ES256 } else { ContextAlgorithm::EdDSA };
    let signing = match secret {
        Some(secret) => ContextSigning::Shared { secret },
        None if files.is_empty() => ContextSigning::Generated { algorithm: asymmetric },
        None => ContextSigning::Files { algorithm: asymmetric, files },
    };
    let context = Context {
        header: header.unwrap_or(HeaderName::from_static("x-user-context")),
        issuer: section.text_or("issuer", "usher"),
        ttl: positive(section, "ttl", 60 * SECOND),
        claims: section.parsed_list("claims", |text| Ok(text.to_owned())),
        signing,
        jwks_path: absolute_path(section, "jwks_path", "/.well-known/usher/jwks.json"),
    };
    section.finish();
    context
}
