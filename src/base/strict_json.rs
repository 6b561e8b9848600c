//! A JSON parser that rejects an object with two equal names.
//!
//! With two `"sub"` in a token, one parser would use the first and another the second: they would
//! see different users. The rule also applies to nested objects.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value};

/// Parses an object. `None`: the bytes are not JSON or not an object, or a name appears twice in
/// one object.
pub fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice::<Once>(bytes) {
        Ok(Once(Value::Object(object))) => Some(object),
        _ => None,
    }
}

/// Parses an object into its type. serde itself would also accept an array, by position, and would
/// use the last of two equal names.
pub fn record<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    match serde_json::from_slice(bytes)? {
        Once(object @ Value::Object(_)) => serde_json::from_value(object),
        Once(_) => Err(serde_json::Error::custom("not a JSON object")),
    }
}

struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(value)) = access.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Once(value))) = access.next_entry::<String, Once>()? {
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a name appears twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_by_name_and_never_by_position() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Order {
            user: Option<String>,
            limit: Option<u64>,
        }
        let order = Order { user: Some("ada".to_owned()), limit: None };
        assert_eq!(record::<Order>(br#"{"user":"ada"}"#).unwrap(), order);
        for bad in [
            r#"["ada",7]"#,
            r#"[]"#,
            r#"{"user":"ada","user":"eve"}"#,
            "null",
            "7",
            "",
            r#"{"user":7}"#,
        ] {
            assert!(record::<Order>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_stands_twice_spoils_the_object() {
        for good in [
            r#"{"sub":"ada","exp":1}"#,
            r#"{"a":[null,true,-1,1.5,{"b":"\u00fc"}],"b":{"a":{}},"c":18446744073709551615}"#,
        ] {
            let read = object(good.as_bytes()).unwrap();
            assert_eq!(Value::Object(read), serde_json::from_str::<Value>(good).unwrap());
        }
        for bad in [
            &br#"{"sub":"ada","sub":"eve"}"#[..],
            br#"{"sub":"ada","s\u0075b":"eve"}"#,
            br#"{"realm_access":{"roles":[],"roles":["admin"]}}"#,
            br#"{"a":[{"b":1,"b":1}]}"#,
            br#"{"exp":1e400}"#,
            b"[]",
            b"{",
            br#"{} x"#,
            b"null",
        ] {
            assert!(object(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
