//! The keys of `[[route]]` and `[tickets]` that name the cookies and the verifiers of credentials.

use std::sync::Arc;

use super::names::Names;
use crate::config::Judges;
use crate::config::declare::table;
use crate::config::diagnostic::suggest;
use crate::config::key_type::{Choice, CookieName, OneOf, Text};
use crate::config::reader::Section;

table! {
    /// The cookies and the verifiers of credentials.
    pub struct JudgesTable: [] {
        /// The cookie that carries a token, for the method cookie; a page can send it for a ticket
        /// too.
        token_cookie: CookieName, default "access_token",
            because "the name that RFC 6750 gives the parameter",
            change_when "the cookie can be called `__Host-...`, which a page of a neighbouring \
                host cannot set";
        /// The cookie that carries a session id, for the method session; it counts where there is
        /// a verifier for it.
        session_cookie: CookieName, default "session",
            because "the name that most frameworks give it";
        /// The verifier of tokens; the issuers verify them unless written.
        verifier: Text, optional "login";
        /// The tokens that go to `verifier`: all, or opaque (those in the shape of a JWT go to the
        /// issuers).
        verifier_tokens: OneOf<VerifierTokens>, default "all" commented,
            was verifier_for until "0.3.0",
            because "one place decides";
        /// The verifier of sessions; the one of `verifier` unless written.
        session_verifier: Text, optional "login";
    }
}

/// The tokens that go to a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifierTokens {
    All,
    /// Tokens in the shape of a JWT go to the issuers.
    Opaque,
}

impl Choice for VerifierTokens {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("all", Self::All), ("opaque", Self::Opaque)]
    }
}

impl JudgesTable {
    /// Holds the names of verifiers to those that are there.
    pub fn judges(&self, section: &Section<'_, '_>, verifiers: &Names) -> Judges {
        let named = |key: &'static str, name: &Option<String>| {
            let name = name.as_deref()?;
            if !verifiers.contains(name)
                && let Some(value) = section.value(key)
            {
                let help = match verifiers.is_empty() {
                    true => "add a [[verifier]] of that name".to_owned(),
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
        Judges {
            sessions: sessions.or_else(|| tokens.clone()),
            tokens,
            opaque_only: self.verifier_tokens == VerifierTokens::Opaque,
        }
    }
}
