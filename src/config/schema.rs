//! The JSON schema of the file, for editors.
#![allow(clippy::indexing_slicing, reason = "an index into a JSON object adds the field")]

use serde_json::{Map, Value as Json, json};

use super::declare::{Declaration, Key, KeyPresence};
use super::tables::{TABLES, TOP};

pub fn schema() -> Json {
    let mut schema = table_schema(TOP);
    for table in TABLES {
        let one = table_schema(table);
        let value = if table.is_list() { json!({ "type": "array", "items": one }) } else { one };
        schema["properties"][table.name()] = described(value, table.sentence);
    }
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Configuration of Usher");
    schema
}

pub fn table_schema(table: &Declaration) -> Json {
    let required: Vec<_> = table
        .keys()
        .filter(|key| key.presence == KeyPresence::Required)
        .map(|key| key.name)
        .collect();
    let mut keys = Map::new();
    for key in table.keys() {
        keys.insert(key.name.to_owned(), key_schema(key));
        if let Some(old) = key.old_name {
            let sentence = format!("The old name of {}, until version {}.", key.name, old.until);
            let mut schema = described((key.schema)(), &sentence);
            schema["deprecated"] = json!(true);
            keys.insert(old.name.to_owned(), schema);
        }
    }
    let mut schema = json!({ "type": "object", "properties": keys, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn key_schema(key: &Key) -> Json {
    let mut schema = described((key.schema)(), key.sentence);
    if key.presence == KeyPresence::Default {
        schema["default"] = to_json(key.value);
    }
    // JSON schema compares only numbers. The bound of a duration or a size is a string.
    for (name, bound) in [("minimum", key.least), ("maximum", key.most)] {
        if let Some(bound) = bound.map(to_json).filter(Json::is_number) {
            schema[name] = bound;
        }
    }
    schema
}

fn described(mut schema: Json, sentence: &str) -> Json {
    schema["description"] = json!(sentence.trim());
    schema
}

/// Converts a TOML value to JSON.
fn to_json(value: &str) -> Json {
    let table: toml::Table = format!("value = {value}").parse().unwrap_or_default();
    table.get("value").and_then(|value| serde_json::to_value(value).ok()).unwrap_or_default()
}
