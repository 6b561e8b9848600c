//! `[acme]`, and its demands on the listeners.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Listener;
use crate::config::declare::{Table, table};
use crate::config::key_type::{
    Choice, FileToRead, Flag, List, LocatedTexts, OneOf, PositiveDuration, SecretFile,
    SecretVariable, Text, TextType,
};
use crate::config::reader::{Reader, Section, Span};
use crate::model::secret::Secret;
use crate::model::service_url::ServiceUrl;

/// Let's Encrypt accepts as many names in one certificate.
const MOST_DOMAINS: usize = 100;

table! {
    /// Certificates from an authority that speaks ACME (RFC 8555), such as Let's Encrypt; for
    /// listeners with `acme = true`.
    pub struct AcmeTable: [acme] commented {
        /// The host names of the certificate; at most 100, without wildcards.
        domains: LocatedTexts, required ["chat.example.com"];
        /// You agree to the terms of the authority, which are linked in its directory.
        terms_agreed: Flag, required true;
        /// Where the authority may write to you about your certificates.
        contact: List<Contact>, default [],
            because "an account needs no address",
            change_when "the authority sends warnings, or requires an address";
        /// The URL of the authority's directory.
        directory: Text, default "https://acme-v02.api.letsencrypt.org/directory",
            because "Let's Encrypt issues certificates without a fee",
            change_when "you test (`https://acme-staging-v02.api.letsencrypt.org/directory`), or \
                have another authority";
        /// How the authority checks the names: tls-alpn-01 (at port 443, in the handshake of a
        /// listener with `acme`) or http-01 (at port 80, by a request to a plain listener).
        challenge: OneOf<AcmeChallenge>, default "tls-alpn-01",
            because "it needs no port besides 443",
            change_when "another server terminates TLS in front of Usher, or only port 80 is open";
        /// PEM file of the authorities for the certificate of the directory's server, instead of
        /// the system's.
        ca_file: FileToRead, optional "acme-ca.pem";
        /// The key id of your account at the authority, if it requires external account binding.
        eab_kid: Text, optional "kid-1";
        /// Environment variable with the base64url key of `eab_kid`.
        eab_key_env: SecretVariable, optional "USHER_EAB_KEY";
        /// File with the base64url key of `eab_kid`, instead of `eab_key_env`.
        eab_key_file: SecretFile, optional "eab-key.txt";
        /// How long before its end a certificate is renewed, at most two thirds of its life.
        renew_before: PositiveDuration, derived "30d",
            because "a third of the certificate's life: the authority may be away for weeks",
            change_when "the authority recommends another time";
        /// How long one request to the authority may take.
        timeout: PositiveDuration, default "30s",
            because "large authorities answer slowly at times, and no client waits for it";
    }
}

/// The authority, and the certificate to order from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    pub directory: ServiceUrl,
    pub contact: Vec<String>,
    /// In lower case, each once. Never empty.
    pub domains: Vec<String>,
    pub challenge: AcmeChallenge,
    pub ca_file: Option<PathBuf>,
    pub account_binding: Option<AccountBinding>,
    /// `None`: a third of the certificate's life.
    pub renew_before: Option<Duration>,
    pub timeout: Duration,
}

/// An account that the authority knows already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountBinding {
    pub key_id: String,
    /// In base64url, as the authority shows it.
    pub key: Secret,
}

/// How the authority checks that a name belongs to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeChallenge {
    TlsAlpn01,
    Http01,
}

impl AcmeChallenge {
    /// Returns the name in RFC 8555 and RFC 8737.
    pub fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

impl Choice for AcmeChallenge {
    fn choices() -> Vec<(&'static str, Self)> {
        [Self::TlsAlpn01, Self::Http01].map(|challenge| (challenge.name(), challenge)).to_vec()
    }
}

/// A URL that names a mailbox.
pub struct Contact;

impl TextType for Contact {
    type Value = String;
    const NAME: &str = "mailto: URL";
    const PATTERN: Option<&str> = Some("^mailto:.+@.+$");

    fn parse(_key: &str, text: &str) -> Result<String, String> {
        let is_address = text.strip_prefix("mailto:").is_some_and(|address| {
            address.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
                && address.bytes().all(|byte| byte.is_ascii_graphic())
        });
        match is_address {
            true => Ok(text.to_owned()),
            false => Err(format!("`{text}` is not a contact; write \"mailto:ops@example.com\"")),
        }
    }
}

/// Returns `[acme]`, if the file has it.
pub fn acme(section: &Section<'_, '_>) -> Option<Acme> {
    if !section.is_written() {
        return None;
    }
    let reader = section.reader;
    let table = AcmeTable::read(section);
    if table.terms_agreed == Some(false)
        && let Some(value) = section.value("terms_agreed")
    {
        let help = "read the terms that the directory of the authority links (`termsOfService`), \
                    and write `terms_agreed = true`";
        reader.error(&value.span(), "the authority issues nothing without your agreement", help);
    }
    let domains = domains(reader, section, table.domains.unwrap_or_default());
    let place = section.value("directory").map_or(section.span.clone(), toml::Spanned::span);
    let help = "write https; plain http works only for this machine";
    let directory = ServiceUrl::parse(&table.directory, false)
        .map_err(|message| reader.error(&place, message, help))
        .ok();
    let key = section
        .one_of(("eab_key_env", table.eab_key_env), ("eab_key_file", table.eab_key_file))
        .map(|(key, span)| {
            if key.as_ref().is_some_and(|key| !is_base64url(key)) {
                let message = "the key of the external account is not base64url";
                reader.error(&span, message, "copy it as the authority shows it");
            }
            (key, span)
        });
    match (section.value("eab_kid"), &key) {
        (Some(kid), None) => {
            let help = "add `eab_key_env` or `eab_key_file`";
            reader.error(&kid.span(), "`eab_kid` needs a key", help);
        }
        (None, Some((_, span))) => {
            let help = "add `eab_kid`, the key id that the authority shows with the key";
            reader.error(span, "the key of an external account needs `eab_kid`", help);
        }
        _ => {}
    }
    let account_binding = table
        .eab_kid
        .zip(key.and_then(|(key, _)| key))
        .map(|(key_id, key)| AccountBinding { key_id, key });
    Some(Acme {
        directory: directory?,
        contact: table.contact,
        domains,
        challenge: table.challenge,
        ca_file: table.ca_file,
        account_binding,
        renew_before: table.renew_before,
        timeout: table.timeout,
    })
}

fn is_base64url(key: &Secret) -> bool {
    key.expose().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(byte))
}

/// Returns the names that can be in a certificate, and reports the others.
fn domains(
    reader: &Reader<'_>,
    section: &Section<'_, '_>,
    written: Vec<(String, Span)>,
) -> Vec<String> {
    let place = section.value("domains").map_or(section.span.clone(), toml::Spanned::span);
    if written.is_empty() && section.value("domains").is_some() {
        reader.error(&place, "`domains` is empty", "list the host names of your clients' URLs");
    }
    if written.len() > MOST_DOMAINS {
        let message = format!("`domains` has more than {MOST_DOMAINS} names");
        reader.error(&place, message, "authorities refuse such certificates");
    }
    let mut names: Vec<String> = Vec::new();
    for (name, span) in written {
        let name = name.to_ascii_lowercase();
        if name.contains('*') {
            let message = format!("`{name}` is a wildcard, which needs a DNS-01 challenge");
            let help = "Usher changes no DNS records: list each name, or name the files of a \
                        wildcard certificate in `certificates`";
            reader.error(&span, message, help);
        } else if !is_host_name(&name) {
            let message = format!("`{name}` is not a host name");
            reader.error(&span, message, "write it without scheme, port and path; IDNs as `xn--`");
        } else if names.contains(&name) {
            reader.error(&span, format!("`{name}` is listed twice"), "remove one of them");
        }
        names.push(name);
    }
    names
}

/// Returns true for a DNS name. An address of four numbers is none.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(is_label) && !name.split('.').all(is_number)
}

/// Reports an `[acme]` that no listener uses or answers for, and a listener without an `[acme]`.
pub fn check_listeners(
    section: &Section<'_, '_>,
    acme: Option<&Acme>,
    listener_sections: &[Section<'_, '_>],
    listeners: &[Arc<Listener>],
) {
    let reader = section.reader;
    if !section.is_written() {
        for listener in listener_sections {
            let value = listener.value("acme");
            if let Some(value) = value.filter(|value| value.get_ref().as_bool() == Some(true)) {
                let help = "add the table `[acme]` with `domains` and `terms_agreed`";
                reader.error(&value.span(), "`acme = true` needs the table [acme]", help);
            }
        }
        return;
    }
    // A listener with a mistake is not in the list, and is already reported.
    let Some(acme) = acme.filter(|_| listeners.len() == listener_sections.len()) else { return };
    let serving = || {
        let tls = listeners.iter().filter_map(|listener| listener.tls.as_ref());
        tls.filter(|tls| tls.has_acme)
    };
    if serving().next().is_none() {
        let help = "add `acme = true` to a [[listener]], or remove [acme]";
        reader.error(&section.span, "no listener serves the certificate of [acme]", help);
    } else if acme.challenge == AcmeChallenge::TlsAlpn01
        && serving().all(|tls| tls.clients.as_ref().is_some_and(|clients| clients.is_required))
    {
        let help = "the authority has no client certificate: write `client_auth = \"optional\"`, \
                    or `challenge = \"http-01\"`";
        let message = "each listener with `acme` requires client certificates, so tls-alpn-01 \
                       cannot succeed";
        reader.error(&section.span, message, help);
    } else if acme.challenge == AcmeChallenge::Http01
        && listeners.iter().all(|listener| listener.tls.is_some())
    {
        let help = "add a [[listener]] with `plain = true` that port 80 leads to";
        reader.error(&section.span, "http-01 needs a plain listener", help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse};

    const GOOD: &str = "domains = [\"A.example.com\", \"b.example.com\"]\nterms_agreed = true\n";

    fn read(listener: &str, acme: &str) -> Result<Config, String> {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{listener}\n{acme}\n\
             [[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n\
             [[route]]\npath = \"/\"\nupstream = \"a\"\nauth = []\n"
        );
        let env = |name: &str| (name == "EAB").then(|| "c2VjcmV0".to_owned());
        let loaded = parse(&text, None, &env).map_err(|errors| errors.render(false))?;
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        Ok(loaded.config)
    }

    #[test]
    fn a_table_and_a_listener_suffice() {
        let config = read("acme = true", &format!("[acme]\n{GOOD}")).unwrap();
        let acme = config.acme.unwrap();
        assert_eq!(acme.domains, ["a.example.com", "b.example.com"]);
        assert_eq!(acme.directory.written(), "https://acme-v02.api.letsencrypt.org/directory");
        assert!(config.listeners[0].tls.as_ref().unwrap().has_acme);
        let bound = format!("[acme]\n{GOOD}eab_kid = \"k\"\neab_key_env = \"EAB\"\n");
        assert!(read("acme = true", &bound).unwrap().acme.unwrap().account_binding.is_some());
    }

    #[test]
    fn each_mistake_is_named_with_its_remedy() {
        let change = |from: &str, to: &str| format!("[acme]\n{}", GOOD.replace(from, to));
        let add = |lines: &str| format!("[acme]\n{GOOD}{lines}\n");
        for (listener, acme, part) in [
            ("acme = true", String::new(), "needs the table [acme]"),
            ("plain = true", add(""), "no listener serves"),
            ("plain = true\nacme = true", add(""), "`plain = true` and `acme`"),
            ("acme = true", change("terms_agreed = true", ""), "needs `terms_agreed`"),
            ("acme = true", change("terms_agreed = true", ""), "help: You agree to the terms"),
            ("acme = true", change("true", "false"), "without your agreement"),
            ("acme = true", change("b.example.com", "*.example.com"), "needs a DNS-01 challenge"),
            ("acme = true", change("b.example.com", "a.example.com"), "listed twice"),
            ("acme = true", change("b.example.com", "192.0.2.1"), "is not a host name"),
            ("acme = true", change("b.example.com", "https://b"), "is not a host name"),
            ("acme = true", change("b.example.com", "-b"), "is not a host name"),
            ("acme = true", add("contact = [\"ops@example.com\"]"), "mailto:"),
            ("acme = true", add("directory = \"http://ca.example.com/\""), "plain http"),
            ("acme = true", add("challenge = \"dns-01\""), "tls-alpn-01"),
            ("acme = true", add("challenge = \"http-01\""), "needs a plain listener"),
            ("acme = true", add("eab_kid = \"k\""), "needs a key"),
            ("acme = true", add("eab_key_env = \"EAB\""), "needs `eab_kid`"),
            ("acme = true", add("eab_key = \"secret\""), "unknown key `eab_key`"),
            (
                "acme = true\nclient_ca = \"ca.pem\"\nclient_auth = \"required\"",
                add(""),
                "cannot succeed",
            ),
        ] {
            let error = read(listener, &acme).unwrap_err();
            assert!(error.contains(part), "{part} is not in\n{error}");
        }
        let many: Vec<_> = (0..=MOST_DOMAINS).map(|n| format!("\"d{n}.example.com\"")).collect();
        let many = change("\"b.example.com\"", &many.join(", "));
        assert!(read("acme = true", &many).unwrap_err().contains("more than 100 names"));
    }
}
