//! The principal of a client certificate.
//!
//! The handshake has already verified the chain, the signature and the purpose with the listener's
//! authorities. A resumed session has the certificate of the full handshake, which may have expired
//! since. So the dates are checked again for every credential.

use crate::model::client_certificate::ClientCertificate;
use crate::model::faults::InvalidCertificate;
use crate::model::principal::CERTIFICATE_ISSUER;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Map;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::base::clock::{Now, UnixMillis};
use crate::config::{CertificateUser, Mtls};
use crate::model::principal::Principal;

const LONGEST_USER: usize = 1024;

impl ClientCertificate {
    pub fn principal(&self, rules: &Mtls, now: Now) -> Result<Principal, InvalidCertificate> {
        if let Some(why) = self.distrust() {
            return Err(why);
        }
        let (rest, certificate) =
            X509Certificate::from_der(self.leaf()).map_err(|_| InvalidCertificate::Malformed)?;
        if !rest.is_empty() {
            return Err(InvalidCertificate::Malformed);
        }
        let validity = certificate.validity();
        let at = |seconds: i64| UnixMillis::from_secs(u64::try_from(seconds).unwrap_or(0));
        let (begins, ends) =
            (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
        // RFC 5280 section 4.1.2.5: "from notBefore through notAfter, inclusive". Usher treats
        // the last second as expired, because clocks differ.
        if now.wall >= ends {
            return Err(InvalidCertificate::Expired);
        }
        if now.wall < begins {
            return Err(InvalidCertificate::NotYetValid);
        }
        Ok(Principal {
            subject: user(&certificate, rules.user)?,
            issuer: CERTIFICATE_ISSUER.into(),
            token_id: Some(self.fingerprint()),
            issuer_session: None,
            permissions: rules.permissions.clone(),
            issued_at: begins,
            expires_at: ends,
            in_leeway: false,
            claims: Map::new(),
        })
    }

    /// Returns the SHA-256 hash of the certificate in lower-case hex.
    fn fingerprint(&self) -> String {
        digest(&SHA256, self.leaf()).as_ref().iter().fold(
            String::with_capacity(64),
            |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            },
        )
    }
}

/// Returns the one name of this kind. Refuses two names: which one counts would be left to chance.
fn user(
    certificate: &X509Certificate<'_>,
    kind: CertificateUser,
) -> Result<String, InvalidCertificate> {
    let names: Vec<&str> = match kind {
        CertificateUser::CommonName => certificate
            .subject()
            .iter_common_name()
            .map(|name| name.as_str().map_err(|_| InvalidCertificate::UserName))
            .collect::<Result<_, _>>()?,
        _ => {
            let extension = certificate
                .subject_alternative_name()
                .map_err(|_| InvalidCertificate::Malformed)?;
            let names = extension
                .map(|extension| extension.value.general_names.as_slice())
                .unwrap_or_default();
            names
                .iter()
                .filter_map(|name| match (kind, name) {
                    (CertificateUser::SanUri, GeneralName::URI(name))
                    | (CertificateUser::SanDns, GeneralName::DNSName(name))
                    | (CertificateUser::SanEmail, GeneralName::RFC822Name(name)) => Some(*name),
                    _ => None,
                })
                .collect()
        }
    };
    match names.as_slice() {
        [] => Err(InvalidCertificate::NoUser),
        [name]
            if name.is_empty() || name.len() > LONGEST_USER || name.contains(char::is_control) =>
        {
            Err(InvalidCertificate::UserName)
        }
        [name] => Ok((*name).to_owned()),
        _ => Err(InvalidCertificate::ManyUsers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.not_before = time::OffsetDateTime::from_unix_timestamp(1_000).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(2_000).unwrap();
        change(&mut params);
        ClientCertificate::new(
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone(),
        )
    }

    fn accepted_user(
        certificate: &ClientCertificate,
        user: CertificateUser,
        at: u64,
    ) -> Result<Principal, InvalidCertificate> {
        let rules = Mtls { user, permissions: vec!["chat:read".to_owned()] };
        certificate.principal(&rules, Now { wall: UnixMillis(at), ..Now::read() })
    }

    #[test]
    fn a_certificate_becomes_its_principal_from_its_first_moment_to_its_last() {
        let ada = certificate(|params| params.distinguished_name.push(DnType::CommonName, "ada"));
        let principal = accepted_user(&ada, CertificateUser::CommonName, 1_500_000).unwrap();
        assert_eq!(
            (principal.subject.as_str(), &*principal.issuer, principal.issuer_session),
            ("ada", "mtls", None)
        );
        assert_eq!(
            (principal.issued_at, principal.expires_at),
            (UnixMillis(1_000_000), UnixMillis(2_000_000))
        );
        assert_eq!(principal.permissions, ["chat:read"]);
        assert!(
            principal.token_id.is_some_and(|id| id.len() == 64
                && id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()))
        );
        let at = |at| accepted_user(&ada, CertificateUser::CommonName, at).map(drop);
        assert_eq!(at(999_999), Err(InvalidCertificate::NotYetValid));
        assert_eq!((at(1_000_000), at(1_999_999)), (Ok(()), Ok(())));
        assert_eq!(at(2_000_000), Err(InvalidCertificate::Expired));
    }

    #[test]
    fn the_user_is_the_one_name_of_the_kind_that_was_chosen() {
        let all = certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, "ada");
            params.subject_alt_names = vec![
                SanType::URI("spiffe://example.com/ada".try_into().unwrap()),
                SanType::DnsName("ada.example.com".try_into().unwrap()),
                SanType::Rfc822Name("ada@example.com".try_into().unwrap()),
            ];
        });
        for (kind, user) in [
            (CertificateUser::CommonName, "ada"),
            (CertificateUser::SanUri, "spiffe://example.com/ada"),
            (CertificateUser::SanDns, "ada.example.com"),
            (CertificateUser::SanEmail, "ada@example.com"),
        ] {
            assert_eq!(accepted_user(&all, kind, 1_500_000).unwrap().subject, user);
        }
        let nobody = certificate(|_| {});
        let two = certificate(|params| {
            params.subject_alt_names =
                ["a", "b"].map(|one| SanType::DnsName(one.try_into().unwrap())).into();
        });
        assert_eq!(
            accepted_user(&nobody, CertificateUser::CommonName, 1_500_000),
            Err(InvalidCertificate::NoUser)
        );
        assert_eq!(
            accepted_user(&two, CertificateUser::SanUri, 1_500_000),
            Err(InvalidCertificate::NoUser)
        );
        assert_eq!(
            accepted_user(&two, CertificateUser::SanDns, 1_500_000),
            Err(InvalidCertificate::ManyUsers)
        );
        for name in ["", "ada\nX-User-Id: eve", "ada\u{0}", &"a".repeat(1025)] {
            let odd =
                certificate(|params| params.distinguished_name.push(DnType::CommonName, name));
            assert_eq!(
                accepted_user(&odd, CertificateUser::CommonName, 1_500_000),
                Err(InvalidCertificate::UserName),
                "{name:?}"
            );
        }
        let garbage = ClientCertificate::new(vec![0x30, 0x03, 1, 2, 3].into());
        assert_eq!(
            accepted_user(&garbage, CertificateUser::CommonName, 0),
            Err(InvalidCertificate::Malformed)
        );
    }
}
