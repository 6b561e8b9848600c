//! `[bypass]`.

use super::*;

const SHORTEST_SECRET: usize = 32;

pub(super) fn bypass(section: &Section<'_, '_>) -> Bypass {
    let header = section.parsed("header", |text| HeaderName::try_from(text).map_err(|_| format!("`{text}` is not a header name")));
    let secret = section.secret("secret_env", "secret_file");
    if let Some(secret) = &secret {
        let span = section.value("secret_env").or_else(|| section.value("secret_file")).map_or(0..0, toml::Spanned::span);
        if secret.len() < SHORTEST_SECRET {
            section.reader.error(&span, format!("the secret has less than {SHORTEST_SECRET} bytes"), "such as from `openssl rand -hex 32`");
        }
        if !secret.expose().iter().all(u8::is_ascii_graphic) {
            section.reader.error(&span, "the secret is not one word of ASCII", "such as from `openssl rand -hex 32`");
        }
    }
    section.finish();
    Bypass { header: header.unwrap_or(Bypass::HEADER), secret, is_allowed: false }
}
