//! Reads typed values out of a spanned TOML table and goes on after a mistake.
//!
//! Each read notes its key as known; [`Section::finish`] reports the keys that nobody asked for. So the known keys are
//! exactly those that are read.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, suggest};
use super::secret::Secret;
use super::value;

pub type Span = Range<usize>;

pub struct Reader<'a> {
    pub file: String,
    pub text: &'a str,
    pub base: PathBuf,
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub found: RefCell<Vec<(Span, Diagnostic)>>,
    /// The files that it names.
    pub files: RefCell<Vec<PathBuf>>,
}

/// One table of the file, or an absent one, which reads as all defaults.
pub struct Section<'r, 't> {
    pub reader: &'r Reader<'r>,
    pub title: String,
    pub span: Span,
    table: Option<&'t DeTable<'t>>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str, source: Option<&Path>, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        let file = source.map_or_else(|| "usher.toml".to_owned(), |path| path.display().to_string());
        let base = source.and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        Self { file, text, base, env, found: Default::default(), files: Default::default() }
    }
}

impl Reader<'_> {
    pub fn report_syntax(&self, errors: &[toml::de::Error]) {
        for error in errors {
            self.report(&error.span().unwrap_or(0..0), Diagnostic::error(error.message().to_owned()));
        }
    }

    pub fn report(&self, span: &Span, diagnostic: Diagnostic) {
        self.found.borrow_mut().push((span.clone(), diagnostic.at(&self.file, self.text, span.clone())));
    }

    pub fn error(&self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.report(span, Diagnostic::error(message).help(help));
    }

    /// Relative paths are relative to the file that names them.
    pub fn path(&self, text: &str) -> PathBuf {
        self.base.join(Path::new(text))
    }

    /// The same for a file that is read: another content of it is another configuration.
    pub fn file(&self, text: &str) -> PathBuf {
        let path = self.path(text);
        self.files.borrow_mut().push(path.clone());
        path
    }
}

impl<'r, 't> Section<'r, 't> {
    pub fn new(reader: &'r Reader<'r>, title: impl Into<String>, span: Span, table: Option<&'t DeTable<'t>>) -> Self {
        Self { reader, title: title.into(), span, table, known: RefCell::default() }
    }

    pub fn is_written(&self) -> bool {
        self.table.is_some()
    }

    pub fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        // Some keys are read more than once.
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        drop(known);
        self.table?.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    pub fn missing(&self, key: &str, help: &str) {
        self.reader.error(&self.span, format!("{} needs `{key}`", self.title), help);
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'t>>, wanted: &str) {
        let message = format!("`{key}` is {wanted}, not {} {}", article(value.get_ref().type_str()), value.get_ref().type_str());
        self.reader.report(&value.span(), Diagnostic::error(message));
    }

    pub fn text(&self, key: &'static str) -> Option<(String, Span)> {
        let value = self.value(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a string");
        }
        Some((text?.to_owned(), value.span()))
    }

    pub fn required(&self, key: &'static str, help: &str) -> Option<(String, Span)> {
        if self.value(key).is_none() {
            self.missing(key, help);
        }
        self.text(key)
    }

    pub fn text_or(&self, key: &'static str, default: &str) -> String {
        self.text(key).map_or_else(|| default.to_owned(), |(text, _)| text)
    }

    pub fn parsed<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (text, span) = self.text(key)?;
        parse(&text).map_err(|message| self.reader.report(&span, Diagnostic::error(message))).ok()
    }

    pub fn duration(&self, key: &'static str, default: Duration) -> Duration {
        self.with_unit(key, default, value::duration)
    }

    pub fn size(&self, key: &'static str, default: usize) -> usize {
        self.with_unit(key, default, value::size)
    }

    pub fn with_unit<T>(&self, key: &'static str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        if let Some(bare) = self.value(key).filter(|value| value.get_ref().is_integer()) {
            let digits = self.reader.text.get(bare.span()).unwrap_or_default();
            let message = parse(digits).err().unwrap_or_else(|| format!("`{key}` is a string with a unit"));
            self.reader.report(&bare.span(), Diagnostic::error(message));
            return default;
        }
        self.parsed(key, parse).unwrap_or(default)
    }

    /// A count; none of them may be zero.
    pub fn count(&self, key: &'static str, default: usize) -> usize {
        let Some(value) = self.value(key) else { return default };
        let number = value.get_ref().as_integer().and_then(|n| usize::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok());
        number.filter(|n| *n > 0).unwrap_or_else(|| {
            self.reader.report(&value.span(), Diagnostic::error(format!("`{key}` is a whole number of at least 1")));
            default
        })
    }

    pub fn boolean(&self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(key, value, "`true` or `false`");
            default
        })
    }

    pub fn list(&self, key: &'static str) -> Option<Vec<(String, Span)>> {
        let value = self.value(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings");
            return None;
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), item.span())),
                None => self.wrong_type(key, item, "a list of strings"),
            }
        }
        Some(texts)
    }

    pub fn parsed_list<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let parse = |(text, span): (String, Span)| parse(&text).map_err(|e| self.reader.report(&span, Diagnostic::error(e))).ok();
        self.list(key).unwrap_or_default().into_iter().filter_map(parse).collect()
    }

    pub fn section(&self, key: &'static str) -> Self {
        let value = self.value(key);
        let table = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, table) {
            self.wrong_type(key, value, "a table");
        }
        Section::new(self.reader, format!("[{key}]"), value.map_or(0..0, Spanned::span), table)
    }

    pub fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.reader.error(&value.span(), format!("`{key}` is a list of tables"), format!("write `[[{key}]]`"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(self.reader, format!("[[{key}]]"), item.span(), Some(table))),
                None => self.wrong_type(key, item, "a list of tables"),
            }
        }
        sections
    }

    /// A table with free keys and a table behind each, such as regions: their names, and where those stand.
    pub fn tables(&self, key: &'static str) -> Vec<(String, Span, Self)> {
        let outer = self.section(key);
        let mut tables = Vec::new();
        for (name, value) in outer.table.into_iter().flatten() {
            let title = format!("[{}.{key}.{}]", self.title.trim_matches(['[', ']']), name.get_ref());
            match value.get_ref().as_table() {
                Some(table) => {
                    let section = Section::new(self.reader, title, name.span(), Some(table));
                    tables.push((name.get_ref().to_string(), name.span(), section));
                }
                None => self.wrong_type(name.get_ref(), value, "a table"),
            }
        }
        tables
    }

    /// A table with free keys and string values, such as header names.
    pub fn pairs(&self, key: &'static str) -> Vec<(String, String, Span)> {
        let section = self.section(key);
        let mut pairs = Vec::new();
        for (name, value) in section.table.into_iter().flatten() {
            match value.get_ref().as_str() {
                Some(text) => pairs.push((name.get_ref().to_string(), text.to_owned(), name.span())),
                None => self.wrong_type(name.get_ref(), value, "a string"),
            }
        }
        pairs
    }

    pub fn secret(&self, env_key: &'static str, file_key: &'static str) -> Option<Secret> {
        let (from_env, from_file) = (self.text(env_key), self.text(file_key));
        if let (Some(_), Some((_, span))) = (&from_env, &from_file) {
            self.reader.error(span, format!("`{env_key}` and `{file_key}` cannot stand together"), "keep one of them");
        }
        let (secret, span) = if let Some((name, span)) = from_env {
            let Some(value) = (self.reader.env)(&name) else {
                self.reader.error(
                    &span,
                    format!("the environment variable `{name}` is not set"),
                    format!("set it, or name a file with `{file_key}`"),
                );
                return None;
            };
            (value.into_bytes(), span)
        } else {
            let (name, span) = from_file?;
            match std::fs::read(self.reader.file(&name)) {
                Ok(bytes) => (bytes, span),
                Err(error) => {
                    self.reader.report(&span, Diagnostic::error(format!("cannot read `{name}`: {error}")));
                    return None;
                }
            }
        };
        let line = secret.strip_suffix(b"\n").unwrap_or(&secret);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.reader.report(&span, Diagnostic::error("the secret is empty"));
            return None;
        }
        Some(Secret::new(line))
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for name in self.table.into_iter().flatten().map(|(name, _)| name) {
            let key: &str = name.get_ref();
            if known.contains(&key) {
                continue;
            }
            let place = if self.title.is_empty() { "at the top level".to_owned() } else { format!("in {}", self.title) };
            if matches!(key, "secret" | "token" | "password") {
                let help = format!("a secret is never written in the file: use `{key}_env` or `{key}_file`");
                self.reader.error(&name.span(), format!("unknown key `{key}` {place}"), help);
            } else {
                self.reader.error(&name.span(), format!("unknown key `{key}` {place}"), suggest(key, known.iter().copied()));
            }
        }
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'i', 'o']) { "an" } else { "a" }
}
