//! JSON objects in which each name stands once.
//!
//! A token that says `"sub"` twice is read as one user here and as another elsewhere, so it is not read at all.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

/// `None`: it is not JSON, not an object, or a name at its top stands twice.
pub fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice::<Once>(bytes).ok().map(|once| once.0)
}

struct Once(Map<String, Value>);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OnceVisitor)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Once;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Once, A::Error> {
        let mut map = Map::new();
        while let Some((name, value)) = access.next_entry::<String, Value>()? {
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Once(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_stands_twice_spoils_the_object() {
        assert!(object(br#"{"sub":"ada","exp":1}"#).is_some());
        for bad in [&br#"{"sub":"ada","sub":"eve"}"#[..], b"[]", b"{", br#"{} x"#, b"null"] {
            assert!(object(bad).is_none());
        }
    }
}
