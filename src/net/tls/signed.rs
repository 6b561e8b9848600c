//! Signatures of authorities over lists of revoked certificates and over OCSP answers.

use rustls::crypto::aws_lc_rs;

use super::der::{self, BIT_STRING, SEQUENCE, Value};

/// A signed structure: the outer form of certificates, of their revocation lists and of OCSP
/// answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    /// The signed part.
    pub(super) body: Value<'a>,
    algorithm: Value<'a>,
    signature: &'a [u8],
    /// The values after the signature.
    pub(super) rest: der::Der<'a>,
}

impl<'a> Signed<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut outer = der::only(bytes, SEQUENCE)?.inside();
        Some(Self {
            body: outer.take(SEQUENCE)?,
            algorithm: outer.take(SEQUENCE)?,
            signature: outer.take(BIT_STRING)?.bits()?,
            rest: outer,
        })
    }

    /// Returns true if the owner of this public key (a `SubjectPublicKeyInfo` in DER) signed the
    /// body, with an algorithm that TLS accepts for certificates.
    pub(super) fn is_signed_by(&self, public_key: &[u8]) -> bool {
        let Some(mut info) = der::only(public_key, SEQUENCE).map(|info| info.inside()) else {
            return false;
        };
        let (Some(key_algorithm), Some(key)) =
            (info.take(SEQUENCE), info.take(BIT_STRING).and_then(|key| key.bits()))
        else {
            return false;
        };
        let accepted = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        accepted.iter().any(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == key_algorithm.content
                && algorithm.signature_alg_id().as_ref() == self.algorithm.content
                && algorithm.verify_signature(key, self.body.whole, self.signature).is_ok()
        })
    }
}
