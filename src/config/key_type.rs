//! The types of keys: how a value is read, the name of the type in documents, and its JSON schema.

use std::marker::PhantomData;
use std::path::PathBuf;

use http::HeaderName;
use serde_json::{Value as Json, json};

use super::declare::Table;
use super::diagnostic::Diagnostic;
use super::reader::{Entry, Span};
use super::{diagnostic, header_name, schema, value};
use crate::base::rate::Rate;
use crate::model::path::PathPattern;
use crate::model::secret::Secret;

pub trait KeyType {
    type Value;

    /// Whether an empty list counts as a missing key.
    const IS_NEVER_EMPTY: bool = false;

    /// Returns the name of the type in the documents.
    fn name() -> String;

    fn schema() -> Json;

    /// Reads a value. Reports a wrong value and returns nothing.
    fn read(entry: &Entry<'_>) -> Option<Self::Value>;
}

/// A string with rules of its own.
pub trait TextType {
    type Value;
    const NAME: &str;
    /// A regular expression for editors. It may accept more than `parse`.
    const PATTERN: Option<&str> = None;

    fn parse(key: &str, text: &str) -> Result<Self::Value, String>;
}

impl<T: TextType> KeyType for T {
    type Value = <T as TextType>::Value;

    fn name() -> String {
        T::NAME.to_owned()
    }

    fn schema() -> Json {
        match T::PATTERN {
            Some(pattern) => json!({ "type": "string", "pattern": pattern }),
            None => json!({ "type": "string" }),
        }
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        let text = entry.text()?;
        T::parse(entry.key, &text).map_err(|message| entry.report(Diagnostic::error(message))).ok()
    }
}

/// Any string.
pub struct Text;

impl TextType for Text {
    type Value = String;
    const NAME: &str = "string";

    fn parse(_key: &str, text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
}

pub struct Flag;

impl KeyType for Flag {
    type Value = bool;

    fn name() -> String {
        "`true` or `false`".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }

    fn read(entry: &Entry<'_>) -> Option<bool> {
        let found = entry.value.get_ref().as_bool();
        if found.is_none() {
            entry.wrong_type("`true` or `false`");
        }
        found
    }
}

/// A whole number of at least 1.
pub struct Count;

impl KeyType for Count {
    type Value = usize;

    fn name() -> String {
        "number".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 1 })
    }

    fn read(entry: &Entry<'_>) -> Option<usize> {
        let count = entry.integer().filter(|count| *count > 0);
        if count.is_none() {
            let message = format!("`{}` must be a whole number of at least 1", entry.key);
            entry.report(Diagnostic::error(message));
        }
        count
    }
}

/// A duration, including zero.
pub struct Duration;

/// A duration longer than zero.
pub struct PositiveDuration;

const DURATION_PATTERN: &str = r"^\s*[0-9]+\s*(ms|s|m|h|d)\s*$";

impl KeyType for Duration {
    type Value = std::time::Duration;

    fn name() -> String {
        "duration".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": DURATION_PATTERN })
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        entry.with_unit(value::duration)
    }
}

impl KeyType for PositiveDuration {
    type Value = std::time::Duration;

    fn name() -> String {
        Duration::name()
    }

    fn schema() -> Json {
        Duration::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        let duration = Duration::read(entry)?;
        if duration.is_zero() {
            let message = format!("`{}` must be greater than zero", entry.key);
            entry.report(Diagnostic::error(message));
        }
        Some(duration)
    }
}

/// A number of bytes, greater than zero.
pub struct Size;

impl KeyType for Size {
    type Value = usize;

    fn name() -> String {
        "size".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^\s*[0-9]+\s*(B|KiB|MiB|GiB)\s*$" })
    }

    fn read(entry: &Entry<'_>) -> Option<usize> {
        entry.with_unit(value::size)
    }
}

/// A closed set of words.
pub trait Choice: Copy + 'static {
    fn choices() -> Vec<(&'static str, Self)>;
}

pub struct OneOf<C>(PhantomData<C>);

impl<C: Choice> KeyType for OneOf<C> {
    type Value = C;

    fn name() -> String {
        let words: Vec<_> = C::choices().iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
        words.join(", ")
    }

    fn schema() -> Json {
        json!({ "enum": C::choices().iter().map(|(word, _)| *word).collect::<Vec<_>>() })
    }

    fn read(entry: &Entry<'_>) -> Option<C> {
        let text = entry.text()?;
        let choices = C::choices();
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words = choices.iter().map(|(word, _)| *word);
            let all: Vec<_> = words.clone().map(|word| format!("\"{word}\"")).collect();
            let near = diagnostic::nearest(&text, words)
                .map(|near| format!("did you mean `{near}`? "))
                .unwrap_or_default();
            entry.error(
                format!("`{text}` is not a value of `{}`", entry.key),
                format!("{near}the possible values are {}", all.join(", ")),
            );
        }
        found
    }
}

/// A list of strings.
pub struct List<K>(PhantomData<K>);

impl<K: TextType> KeyType for List<K> {
    type Value = Vec<<K as TextType>::Value>;

    fn name() -> String {
        format!("list: {}", K::NAME)
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": K::schema() })
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        Some(entry.texts()?.iter().filter_map(K::read).collect())
    }
}

/// A file that Usher reads. If its content changes, the configuration has changed.
pub struct FileToRead;

impl KeyType for FileToRead {
    type Value = PathBuf;

    fn name() -> String {
        "file".to_owned()
    }

    fn schema() -> Json {
        Text::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<PathBuf> {
        Some(entry.reader.file(&entry.text()?))
    }
}

/// A file or a folder that Usher writes.
pub struct PathToWrite;

impl KeyType for PathToWrite {
    type Value = PathBuf;

    fn name() -> String {
        "path".to_owned()
    }

    fn schema() -> Json {
        Text::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<PathBuf> {
        Some(entry.reader.path(&entry.text()?))
    }
}

/// The name of an environment variable that holds a secret.
pub struct SecretVariable;

impl KeyType for SecretVariable {
    type Value = Secret;

    fn name() -> String {
        "variable".to_owned()
    }

    fn schema() -> Json {
        Text::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<Secret> {
        let name = entry.text()?;
        if let Some(bare) = bare_variable(&name) {
            entry.error(
                format!("`{name}` must be a variable name without `$`"),
                format!("write `{} = \"{bare}\"`", entry.key),
            );
            return None;
        }
        let Some(value) = (entry.reader.env)(&name) else {
            let file_key = entry.key.replace("_env", "_file");
            entry.error(
                format!("the environment variable `{name}` is not set"),
                format!("set the variable, or use a file: `{file_key}`"),
            );
            return None;
        };
        first_line(entry, value.as_bytes())
    }
}

/// A file that holds a secret.
pub struct SecretFile;

impl KeyType for SecretFile {
    type Value = Secret;

    fn name() -> String {
        "file".to_owned()
    }

    fn schema() -> Json {
        Text::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<Secret> {
        let name = entry.text()?;
        match std::fs::read(entry.reader.file(&name)) {
            Ok(bytes) => first_line(entry, &bytes),
            Err(error) => {
                let diagnostic = Diagnostic::error(format!("cannot read `{name}`: {error}"));
                entry.report(diagnostic.because(&error));
                None
            }
        }
    }
}

/// Returns a secret without the line end after it.
fn first_line(entry: &Entry<'_>, secret: &[u8]) -> Option<Secret> {
    let line = secret.strip_suffix(b"\n").unwrap_or(secret);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        entry.report(Diagnostic::error("the secret is empty"));
        return None;
    }
    Some(Secret::new(line))
}

/// Returns the name in `$NAME` and `${NAME}`.
fn bare_variable(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    (!name.is_empty()).then_some(name)
}

/// A path that Usher answers itself.
pub struct EndpointPath;

impl TextType for EndpointPath {
    type Value = String;
    const NAME: &str = "path";
    const PATTERN: Option<&str> = Some("^/[^*{]*$");

    fn parse(key: &str, text: &str) -> Result<String, String> {
        match PathPattern::parse(text) {
            Ok(_) if !text.contains(['*', '{']) => Ok(text.to_owned()),
            Ok(_) => Err(format!("`{key}` must be one exact path, without '*' or '{{name}}'")),
            Err(message) => Err(message),
        }
    }
}

/// The name of a header that Usher sends to upstreams.
pub struct OwnHeader;

impl TextType for OwnHeader {
    type Value = HeaderName;
    const NAME: &str = "header name";

    fn parse(_key: &str, text: &str) -> Result<HeaderName, String> {
        header_name::parse(text)
    }
}

/// The name of a cookie: a token (RFC 6265 section 4.1.1).
pub struct CookieName;

impl TextType for CookieName {
    type Value = String;
    const NAME: &str = "cookie name";

    fn parse(_key: &str, text: &str) -> Result<String, String> {
        // A header name is a token too.
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(format!("`{text}` is not a valid cookie name")),
        }
    }
}

impl KeyType for Rate {
    type Value = Self;

    fn name() -> String {
        "rate".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^\s*[0-9]+\s*/\s*[0-9]+\s*(ms|s|m|h|d)\s*$" })
    }

    fn read(entry: &Entry<'_>) -> Option<Self> {
        entry.with_unit(value::rate)
    }
}

/// A list that must not be empty if the key is required.
pub struct NonEmpty<K>(PhantomData<K>);

impl<K: KeyType> KeyType for NonEmpty<K> {
    type Value = K::Value;
    const IS_NEVER_EMPTY: bool = true;

    fn name() -> String {
        K::name()
    }

    fn schema() -> Json {
        let mut schema = K::schema();
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("minItems".to_owned(), json!(1));
        }
        schema
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        K::read(entry)
    }
}

/// A value with its place in the file.
pub struct Located<K>(PhantomData<K>);

impl<K: KeyType> KeyType for Located<K> {
    type Value = (K::Value, Span);

    fn name() -> String {
        K::name()
    }

    fn schema() -> Json {
        K::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        Some((K::read(entry)?, entry.span()))
    }
}

/// A list of strings, each with its place in the file.
pub struct LocatedTexts;

impl KeyType for LocatedTexts {
    type Value = Vec<(String, Span)>;

    fn name() -> String {
        List::<Text>::name()
    }

    fn schema() -> Json {
        List::<Text>::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        Some(entry.texts()?.iter().filter_map(|item| Some((item.text()?, item.span()))).collect())
    }
}

/// Words of a closed set, each at most once and with its place in the file.
pub struct SetOf<C>(PhantomData<C>);

/// A word of a set, such as a method.
pub trait Member: Choice + PartialEq {
    /// The noun in error messages, with its article.
    const NOUN: &str;
}

impl<C: Member> KeyType for SetOf<C> {
    type Value = Vec<(C, Span)>;

    fn name() -> String {
        format!("list of {}", OneOf::<C>::name())
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": OneOf::<C>::schema(), "uniqueItems": true })
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        let choices = C::choices();
        let mut members: Vec<(C, Span)> = Vec::new();
        for item in entry.texts()? {
            let text = item.text()?;
            match choices.iter().find(|(word, _)| *word == text).map(|(_, member)| *member) {
                Some(member) if members.iter().any(|(other, _)| *other == member) => {
                    item.error(format!("`{text}` appears twice"), "list each word once");
                }
                Some(member) => members.push((member, item.span())),
                None => {
                    let words = choices.iter().map(|(word, _)| *word);
                    let help = diagnostic::suggest(&text, words);
                    item.error(format!("`{text}` is not {}", C::NOUN), help);
                }
            }
        }
        Some(members)
    }
}

/// A table inside another one, which `Section::section` reads.
pub struct Nested<T>(PhantomData<T>);

impl<T: Table> KeyType for Nested<T> {
    type Value = Span;

    fn name() -> String {
        format!("table `{}`", T::DECLARATION.header)
    }

    fn schema() -> Json {
        schema::table_schema(&T::DECLARATION)
    }

    fn read(entry: &Entry<'_>) -> Option<Span> {
        Some(entry.span())
    }
}

/// Tables inside another one, each under a name, which `Section::tables` reads.
pub struct NestedByName<T>(PhantomData<T>);

impl<T: Table> KeyType for NestedByName<T> {
    type Value = Span;

    fn name() -> String {
        format!("tables `{}`", T::DECLARATION.header)
    }

    fn schema() -> Json {
        json!({
            "type": "object",
            "additionalProperties": schema::table_schema(&T::DECLARATION),
        })
    }

    fn read(entry: &Entry<'_>) -> Option<Span> {
        Some(entry.span())
    }
}

/// A list of tables inside another one.
pub struct NestedList<T>(PhantomData<T>);

impl<T: Table> KeyType for NestedList<T> {
    type Value = Vec<T>;

    fn name() -> String {
        format!("list of tables `{}`", T::DECLARATION.header)
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": schema::table_schema(&T::DECLARATION) })
    }

    fn read(entry: &Entry<'_>) -> Option<Vec<T>> {
        Some(entry.sections()?.iter().map(T::read).collect())
    }
}

/// A table of strings under names that the user chooses, each with the place of its name.
pub struct StringsByName;

impl KeyType for StringsByName {
    type Value = Vec<(String, String, Span)>;

    fn name() -> String {
        "table of strings".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "object", "additionalProperties": { "type": "string" } })
    }

    fn read(entry: &Entry<'_>) -> Option<Self::Value> {
        let Some(table) = entry.value.get_ref().as_table() else {
            entry.wrong_type("a table");
            return None;
        };
        let pairs = table.iter().filter_map(|(name, value)| {
            let inner = Entry { reader: entry.reader, key: name.get_ref(), value };
            Some((name.get_ref().to_string(), inner.text()?, name.span()))
        });
        Some(pairs.collect())
    }
}
