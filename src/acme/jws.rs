//! Signed requests: RFC 8555 section 6.2, with ES256 (RFC 7518) and a flattened JWS (RFC 7515).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::fault::AcmeFault;
use crate::config::AccountBinding;
use crate::model::secret::Secret;

/// The key of an account.
pub struct AccountKey {
    pair: EcdsaKeyPair,
    pkcs8: Secret,
}

/// The way in which a request names its account.
pub enum AccountReference<'a> {
    /// The public key, for a request without an account.
    Key,
    /// The URL of the account.
    Account(&'a str),
}

impl AccountKey {
    pub fn generate() -> Result<Self, AcmeFault> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| AcmeFault::State("no key can be made".to_owned()))?;
        let pkcs8 = pair
            .to_pkcs8v1()
            .map_err(|_| AcmeFault::State("the key cannot be written".to_owned()))?;
        Ok(Self { pkcs8: Secret::new(pkcs8.as_ref()), pair })
    }

    /// Reads a key that [`Self::to_base64`] wrote.
    pub fn from_base64(text: &Secret) -> Option<Self> {
        let pkcs8 = Secret::new(URL_SAFE_NO_PAD.decode(text.expose()).ok()?);
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose()).ok()?;
        Some(Self { pair, pkcs8 })
    }

    pub fn to_base64(&self) -> Secret {
        Secret::new(URL_SAFE_NO_PAD.encode(self.pkcs8.expose()))
    }

    /// Returns the token with the thumbprint of this key: RFC 8555 section 8.1.
    pub fn key_authorization(&self, token: &str) -> String {
        // RFC 7638: these members, in this order.
        let members = self.public_key().to_string();
        let thumbprint = digest::digest(&digest::SHA256, members.as_bytes());
        format!("{token}.{}", URL_SAFE_NO_PAD.encode(thumbprint))
    }

    /// Signs a request. `payload` is `None` for a POST-as-GET.
    pub fn sign(
        &self,
        signer: &AccountReference<'_>,
        url: &str,
        nonce: &str,
        payload: Option<&Value>,
    ) -> Result<String, AcmeFault> {
        let mut header = json!({ "alg": "ES256", "nonce": nonce, "url": url });
        let (name, value) = match signer {
            AccountReference::Key => ("jwk", self.public_key()),
            AccountReference::Account(url) => ("kid", Value::from(*url)),
        };
        if let Some(members) = header.as_object_mut() {
            members.insert(name.to_owned(), value);
        }
        let payload = payload.map(Value::to_string).unwrap_or_default();
        let sign = |message: &[u8]| {
            let signature = self.pair.sign(&SystemRandom::new(), message);
            signature.map(|signature| signature.as_ref().to_vec())
        };
        flattened(&header, &payload, sign)
            .map(|jws| jws.to_string())
            .map_err(|_| AcmeFault::State("the key cannot sign".to_owned()))
    }

    /// Binds a new account to one that the authority knows: RFC 8555 section 7.3.4.
    pub fn bind(&self, binding: &AccountBinding, url: &str) -> Result<Value, AcmeFault> {
        let text = binding.key.expose();
        let text = text.iter().rposition(|byte| *byte != b'=').and_then(|end| text.get(..=end));
        let key = text
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .map(Secret::new)
            .ok_or_else(|| AcmeFault::State("`eab_key` is not base64url".to_owned()))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let header = json!({ "alg": "HS256", "kid": binding.key_id, "url": url });
        let sign = |message: &[u8]| Ok(hmac::sign(&key, message).as_ref().to_vec());
        flattened(&header, &self.public_key().to_string(), sign)
            .map_err(|_| AcmeFault::State("the key cannot sign".to_owned()))
    }

    fn public_key(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y })
    }
}

fn flattened(
    header: &Value,
    payload: &str,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified>,
) -> Result<Value, aws_lc_rs::error::Unspecified> {
    let header = URL_SAFE_NO_PAD.encode(header.to_string());
    let payload = URL_SAFE_NO_PAD.encode(payload);
    let signature = sign(format!("{header}.{payload}").as_bytes())?;
    Ok(json!({
        "protected": header,
        "payload": payload,
        "signature": URL_SAFE_NO_PAD.encode(signature),
    }))
}

/// Returns the digest that a challenge certificate carries: RFC 8737 section 3.
pub fn digest_of(key_authorization: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    let digest = digest::digest(&digest::SHA256, key_authorization.as_bytes());
    bytes.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn part(jws: &Value, name: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(jws[name].as_str().unwrap()).unwrap()
    }

    #[test]
    fn a_request_is_signed_by_the_key_that_it_names() {
        let key = AccountKey::generate().unwrap();
        let again = AccountKey::from_base64(&key.to_base64()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        let payload = json!({ "a": 1 });
        let jws =
            again.sign(&AccountReference::Key, "https://ca/new", "n1", Some(&payload)).unwrap();
        let jws: Value = serde_json::from_str(&jws).unwrap();
        let header: Value = serde_json::from_slice(&part(&jws, "protected")).unwrap();
        assert_eq!(
            header,
            json!({ "alg": "ES256", "nonce": "n1", "url": "https://ca/new",
                "jwk": key.public_key() })
        );
        assert_eq!(part(&jws, "payload"), br#"{"a":1}"#);
        let message =
            format!("{}.{}", jws["protected"].as_str().unwrap(), jws["payload"].as_str().unwrap());
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.pair.public_key().as_ref())
            .verify(message.as_bytes(), &part(&jws, "signature"))
            .unwrap();
        let signer = AccountReference::Account("https://ca/account/1");
        let jws = key.sign(&signer, "https://ca/order", "n2", None).unwrap();
        let jws: Value = serde_json::from_str(&jws).unwrap();
        assert_eq!(jws["payload"], "", "a POST-as-GET has an empty payload");
        let header: Value = serde_json::from_slice(&part(&jws, "protected")).unwrap();
        assert!(header["kid"] == "https://ca/account/1" && header.get("jwk").is_none());
    }

    /// The key and the thumbprint of RFC 7638 section 3.1 are RSA; this one was computed apart.
    #[test]
    fn a_key_authorization_has_the_thumbprint_of_the_key() {
        let key = AccountKey::generate().unwrap();
        let (x, y) = (key.public_key()["x"].clone(), key.public_key()["y"].clone());
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":{x},"y":{y}}}"#);
        let thumbprint = URL_SAFE_NO_PAD.encode(digest_of(&members));
        assert_eq!(key.key_authorization("token"), format!("token.{thumbprint}"));
    }

    #[test]
    fn a_binding_is_signed_with_the_key_of_the_external_account() {
        let key = AccountKey::generate().unwrap();
        let binding = AccountBinding { key_id: "kid-1".to_owned(), key: "c2VjcmV0".into() };
        let jws = key.bind(&binding, "https://ca/new-account").unwrap();
        let mac = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let message =
            format!("{}.{}", jws["protected"].as_str().unwrap(), jws["payload"].as_str().unwrap());
        hmac::verify(&mac, message.as_bytes(), &part(&jws, "signature")).unwrap();
        assert_eq!(part(&jws, "payload"), key.public_key().to_string().as_bytes());
    }
}
