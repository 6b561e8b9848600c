//! The keys of `[[route]]` and `[tickets]` that name the cookies and the verifiers of credentials.

use std::sync::Arc;

use super::names::Names;
use crate::config::CredentialVerifiers;
use crate::config::declare::table;
use crate::config::diagnostic::suggest;
use crate::config::key_type::{Choice, CookieName, OneOf, Text};
use crate::config::reader::Section;

table! {
    /// The cookies and the verifiers of credentials.
    pub struct CredentialVerifiersTable: [] {
        /// The cookie that carries a token, for the method cookie; a page can also send it to get a
        /// ticket.
        token_cookie: CookieName, default "access_token",
            because "the name of the parameter in RFC 6750",
            change_when "you can name it `__Host-...`, because a page of a neighbouring host \
                cannot set such a cookie";
        /// The cookie that carries a session id, for the method session; it is read only where a
        /// verifier of sessions is named.
        session_cookie: CookieName, default "session",
            because "the name that most frameworks use";
        /// The verifier of tokens; without it, the issuers verify them.
        verifier: Text, optional "login";
        /// The tokens that go to `verifier`: all, or opaque (tokens in the form of a JWT go to the
        /// issuers).
        verifier_tokens: OneOf<VerifierTokens>, default "all" commented,
            was verifier_for until "0.3.0",
            because "with all, one service decides about every token";
        /// The verifier of sessions; without it, the one in `verifier`.
        session_verifier: Text, optional "login";
    }
}

/// The tokens that go to a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifierTokens {
    All,
    /// Tokens in the form of a JWT go to the issuers.
    Opaque,
}

impl Choice for VerifierTokens {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("all", Self::All), ("opaque", Self::Opaque)]
    }
}

impl CredentialVerifiersTable {
    /// Returns the verifiers that the keys name, and reports names that no verifier has.
    pub fn credential_verifiers(
        &self,
        section: &Section<'_, '_>,
        verifiers: &Names,
    ) -> CredentialVerifiers {
        let named = |key: &'static str, name: &Option<String>| {
            let name = name.as_deref()?;
            if !verifiers.contains(name)
                && let Some(value) = section.value(key)
            {
                let help = match verifiers.is_empty() {
                    true => "add a [[verifier]] with that name".to_owned(),
                    false => suggest(name, verifiers.iter()),
                };
                let message = format!("no verifier is named `{name}`");
                section.reader.error(&value.span(), message, help);
            }
            Some(Arc::<str>::from(name))
        };
        let tokens = named("verifier", &self.verifier);
        let sessions = named("session_verifier", &self.session_verifier);
        if let Some(value) = section.value("verifier_tokens").filter(|_| tokens.is_none()) {
            section.reader.error(
                &value.span(),
                "`verifier_tokens` needs `verifier`",
                "name the verifier, or remove it",
            );
        }
        CredentialVerifiers {
            sessions: sessions.or_else(|| tokens.clone()),
            tokens,
            opaque_only: self.verifier_tokens == VerifierTokens::Opaque,
        }
    }
}
