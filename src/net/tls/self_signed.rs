//! Makes a certificate that no authority has signed.

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use time::OffsetDateTime;

use crate::base::clock::{Now, UnixMillis};

/// A certificate and its key, as PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
    pub expires: UnixMillis,
}

/// Makes an ECDSA P-256 certificate of its own key, valid from yesterday for `days` days.
pub fn self_signed(
    names: &[String],
    common_name: &str,
    days: i64,
    now: Now,
) -> anyhow::Result<Pair> {
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    // Strict clients require each of these. With them, no client takes it for an authority.
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    let now = OffsetDateTime::from_unix_timestamp(i64::try_from(now.wall.as_secs())?)?;
    // The clock of a client may be behind.
    parameters.not_before = now - time::Duration::DAY;
    parameters.not_after = parameters.not_before + time::Duration::days(days);
    let expires = UnixMillis::from_secs(u64::try_from(parameters.not_after.unix_timestamp())?);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    Ok(Pair { certificate: parameters.self_signed(&key)?.pem(), key: key.serialize_pem(), expires })
}
