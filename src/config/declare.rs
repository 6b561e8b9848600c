//! The declaration of a table of the file, with each key once.
//!
//! [`table!`] takes a list of keys. It makes a struct with a field for each key, the code that
//! reads the struct from the file, and a [`Declaration`]. From the declaration, `schema.rs` and
//! `pages.rs` generate the JSON schema, `config/reference.toml` and the tables of the documents. A
//! key is written as
//!
//! ```text
//! /// One sentence for the user who writes the file.
//! name: Type, presence value, because "why this default", change_when "another one is better";
//! ```
//!
//! `Type` is a [`KeyType`](super::key_type::KeyType). `value` is TOML. `presence` is one of
//!
//! | presence | without the key | the field is | `value` is |
//! |---|---|---|---|
//! | `default` | `value`; needs a reason | `T` | read like the file |
//! | `required` | an error | `Option<T>`: `None` if it was wrong | an example |
//! | `optional` | nothing | `Option<T>` | an example |
//! | `derived` | a value from other keys; needs a reason | `Option<T>` | an example |
//!
//! With `commented` after the value or the header, the reference shows the key or the table as
//! comments, because it belongs to keys that are comments there too. `at_least` and `at_most`, each
//! with a value and a help text, are bounds. `with name: Table` after the header adds the keys of a
//! table that several tables have in common. `was old until "1.0.0"` accepts the old name of a key
//! too, with a warning.

use serde_json::Value as Json;

use super::reader::Section;

/// A table that was made by [`table!`].
pub trait Table: Sized {
    const DECLARATION: Declaration;

    /// Reads every key.
    fn read_keys(section: &Section<'_, '_>) -> Self;

    /// Reads every key, and reports keys that are not declared.
    fn read(section: &Section<'_, '_>) -> Self {
        let table = Self::read_keys(section);
        section.finish();
        table
    }
}

#[derive(Clone, Copy)]
pub struct Declaration {
    /// The header as in the file: `[drain]`, `[[route]]`, and `[]` for the top.
    pub header: &'static str,
    pub sentence: &'static str,
    /// Whether the reference shows the whole table as comments.
    pub is_commented: bool,
    pub own_keys: &'static [Key],
    /// Keys that other tables have in common with this one.
    pub group: Option<&'static Self>,
}

#[derive(Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub sentence: &'static str,
    pub presence: KeyPresence,
    /// The default or an example, in TOML.
    pub value: &'static str,
    /// Whether the reference shows the key as a comment.
    pub is_commented: bool,
    /// The smallest value, in TOML.
    pub least: Option<&'static str>,
    /// The largest value, in TOML.
    pub most: Option<&'static str>,
    /// The reason for the default.
    pub reason: Option<&'static str>,
    /// When another value is better.
    pub change: Option<&'static str>,
    /// A name that is still accepted, with a warning.
    pub old_name: Option<OldName>,
    pub type_name: fn() -> String,
    pub schema: fn() -> Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldName {
    pub name: &'static str,
    /// The version that does not accept it any more.
    pub until: &'static str,
}

/// The effect of a key that is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPresence {
    Default,
    Required,
    Optional,
    Derived,
}

impl Declaration {
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.own_keys.iter().chain(self.group.map_or(&[][..], |group| group.own_keys))
    }

    /// Returns the header without brackets.
    pub fn name(&self) -> &'static str {
        self.header.trim_matches(['[', ']'])
    }

    /// Returns true if the file may have the table several times.
    pub fn is_list(&self) -> bool {
        self.header.starts_with("[[")
    }
}

macro_rules! table {
    (
        $(#[doc = $table_doc:literal])+
        pub struct $table:ident: $header:tt $($table_commented:ident)?
            $(, with $group:ident: $group_table:ty)? {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $type:ty, $presence:ident $value:tt $($commented:ident)?
                    $(, was $old:ident until $version:literal)?
                    $(, at_least $least:tt $least_help:literal)?
                    $(, at_most $most:tt $most_help:literal)?
                    $(, because $reason:literal)?
                    $(, change_when $change:literal)?
                ;
            )+
        }
    ) => {
        $(#[doc = $table_doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $table {
            $(
                $(#[doc = $doc])+
                pub $key: $crate::config::declare::table!(@field $presence $type),
            )+
            $(pub $group: $group_table,)?
        }

        impl $crate::config::declare::Table for $table {
            const DECLARATION: $crate::config::declare::Declaration =
                $crate::config::declare::Declaration {
                    header: stringify!($header),
                    sentence: concat!($($table_doc),+),
                    is_commented: $crate::config::declare::table!(
                        @is_commented $($table_commented)?
                    ),
                    group: $crate::config::declare::table!(@group $($group_table)?),
                    own_keys: &[$(
                        $crate::config::declare::Key {
                            name: stringify!($key),
                            sentence: concat!($($doc),+),
                            presence: $crate::config::declare::table!(@presence $presence),
                            value: stringify!($value),
                            is_commented: $crate::config::declare::table!(
                                @is_commented $($commented)?
                            ),
                            least: $crate::config::declare::table!(@text $($least)?),
                            most: $crate::config::declare::table!(@text $($most)?),
                            reason: $crate::config::declare::table!(@reason $presence $($reason)?),
                            change: $crate::config::declare::table!(@option $($change)?),
                            old_name: $crate::config::declare::table!(@old $($old $version)?),
                            type_name: <$type as $crate::config::key_type::KeyType>::name,
                            schema: <$type as $crate::config::key_type::KeyType>::schema,
                        },
                    )+],
                };

            fn read_keys(section: &$crate::config::reader::Section<'_, '_>) -> Self {
                $(
                    $(section.accept_old_name(stringify!($key), stringify!($old), $version);)?
                    let $key = $crate::config::declare::table!(
                        @read $presence $type, section, stringify!($key), stringify!($value),
                        concat!($($doc),+)
                    );
                    $(
                        section.at_least::<$type>(
                            stringify!($key), stringify!($least), $least_help
                        );
                    )?
                    $(
                        section.at_most::<$type>(stringify!($key), stringify!($most), $most_help);
                    )?
                )+
                $(
                    let $group =
                        <$group_table as $crate::config::declare::Table>::read_keys(section);
                )?
                Self { $($key,)+ $($group)? }
            }
        }
    };

    (@field default $type:ty) => { <$type as $crate::config::key_type::KeyType>::Value };
    (@field $other:ident $type:ty) => {
        Option<<$type as $crate::config::key_type::KeyType>::Value>
    };

    (@presence default) => { $crate::config::declare::KeyPresence::Default };
    (@presence required) => { $crate::config::declare::KeyPresence::Required };
    (@presence optional) => { $crate::config::declare::KeyPresence::Optional };
    (@presence derived) => { $crate::config::declare::KeyPresence::Derived };

    (@read default $type:ty, $section:ident, $key:expr, $value:expr, $doc:expr) => {
        $section.read_or_default::<$type>($key, $value)
    };
    (@read required $type:ty, $section:ident, $key:expr, $value:expr, $doc:expr) => {
        $section.read_required::<$type>($key, $value, $doc)
    };
    (@read $other:ident $type:ty, $section:ident, $key:expr, $value:expr, $doc:expr) => {
        $section.read_optional::<$type>($key)
    };

    (@is_commented) => { false };
    (@is_commented commented) => { true };

    (@reason default) => { compile_error!("a default needs a reason: add `because`") };
    (@reason derived) => { compile_error!("a default needs a reason: add `because`") };
    (@reason $presence:ident) => { None };
    (@reason $presence:ident $reason:literal) => { Some($reason) };

    (@old) => { None };
    (@old $old:ident $version:literal) => {
        Some($crate::config::declare::OldName { name: stringify!($old), until: $version })
    };

    (@group) => { None };
    (@group $table:ty) => {
        Some(&<$table as $crate::config::declare::Table>::DECLARATION)
    };

    (@text) => { None };
    (@text $value:tt) => { Some(stringify!($value)) };
    (@option) => { None };
    (@option $value:literal) => { Some($value) };
}
pub(in crate::config) use table;

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    use super::Table as _;
    use crate::config::key_type::PositiveDuration;
    use crate::config::reader::{Reader, Section};
    use crate::config::{pages, schema};

    table! {
        /// The table of this test.
        pub struct TestTable: [kettle] {
            /// How long it
            /// boils.
            boiling_time: PositiveDuration, default "40s",
                at_most "10m" "the water is gone",
                because "it is done then",
                change_when "the water is cold";
        }
    }

    /// Returns the table and the messages about it.
    fn read(text: &str) -> (TestTable, String) {
        let reader = Reader::new(text, None, &|_| None);
        let (table, _) = DeTable::parse_recoverable(text);
        let kettle =
            TestTable::read(&Section::new(&reader, "[kettle]", 0..0, Some(table.get_ref())));
        let messages = reader.found.take().into_iter().map(|(_, found)| found.render(false));
        (kettle, messages.collect())
    }

    #[test]
    fn a_key_that_is_declared_is_read_and_documented() {
        assert_eq!(read("").0.boiling_time.as_secs(), 40);
        assert_eq!(read("boiling_time = '1m'").0.boiling_time.as_secs(), 60);
        for (text, part) in [
            ("boiling_tim = '1m'", "did you mean `boiling_time`?"),
            ("boiling_time = 5", "write \"5s\""),
            ("boiling_time = '0s'", "must be greater than zero"),
            ("boiling_time = '11m'", "`boiling_time` must be at most 10m"),
        ] {
            let messages = read(text).1;
            assert!(messages.contains(part), "{part} is not in\n{messages}");
        }
        let table = &TestTable::DECLARATION;
        let key = &schema::table_schema(table)["properties"]["boiling_time"];
        assert_eq!((&key["default"], &key["type"]), (&"40s".into(), &"string".into()));
        assert_eq!(key["description"], "How long it boils.");
        assert_eq!(
            pages::reference(table),
            "# The table of this test.\n[kettle]\n# How long it boils.\nboiling_time = \"40s\"\n"
        );
        let row =
            "| `boiling_time` | duration, at most `\"10m\"` | `\"40s\"` | How long it boils. |";
        assert!(pages::keys(&[table]).contains(row), "{}", pages::keys(&[table]));
        let row = "| `kettle.boiling_time` | `\"40s\"` | it is done then | the water is cold |";
        assert!(pages::reasons(&[table]).contains(row), "{}", pages::reasons(&[table]));
    }
}
