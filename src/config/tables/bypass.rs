//! `[bypass]`.

use http::HeaderName;

use crate::config::Bypass;
use crate::config::declare::{Table, table};
use crate::config::header_name::is_same;
use crate::config::key_type::{OwnHeader, SecretFile, SecretVariable};
use crate::config::reader::Section;

table! {
    /// A test identity from a header, for end-to-end tests; it works only with `usher run
    /// --allow-bypass`.
    pub struct BypassTable: [bypass] {
        /// The header. Its value is the secret, the user and optional permissions, separated by
        /// spaces.
        header: OwnHeader, default "X-Usher-Bypass",
            because "no application uses this name";
        /// Environment variable with the secret.
        secret_env: SecretVariable, optional "USHER_BYPASS_SECRET";
        /// File with the secret, instead of `secret_env`.
        secret_file: SecretFile, optional "bypass-secret.txt";
    }
}

const SHORTEST_SECRET: usize = 32;

pub fn bypass(section: &Section<'_, '_>, signed_context: &HeaderName) -> Bypass {
    let table = BypassTable::read(section);
    if let Some(value) = section.value("header").filter(|_| is_same(&table.header, signed_context))
    {
        let message = format!("`{}` is the header of the signed context", table.header);
        section.reader.error(&value.span(), message, "choose another name");
    }
    let written =
        section.one_of(("secret_env", table.secret_env), ("secret_file", table.secret_file));
    let secret = written.and_then(|(secret, span)| {
        let secret = secret?;
        let help = "make one with `openssl rand -hex 32`";
        if secret.len() < SHORTEST_SECRET {
            let message = format!("the secret is shorter than {SHORTEST_SECRET} bytes");
            section.reader.error(&span, message, help);
        }
        if !secret.expose().iter().all(u8::is_ascii_graphic) {
            section.reader.error(&span, "the secret must be one word of visible ASCII", help);
        }
        Some(secret)
    });
    Bypass { header: table.header, secret, is_allowed: false }
}
