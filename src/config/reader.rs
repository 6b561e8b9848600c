//! Reads typed values from a TOML table with spans, and continues after a mistake.
//!
//! The declaration of a table ([`table!`](super::declare)) reads it key by key. Keys that were read
//! are known, and [`Section::finish`] reports all others.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, nearest, suggest};
use super::key_type::KeyType;

pub type Span = Range<usize>;

pub struct Reader<'a> {
    pub file: String,
    pub text: &'a str,
    pub base: PathBuf,
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub found: RefCell<Vec<(Span, Diagnostic)>>,
    /// The files that the configuration names.
    pub files: RefCell<Vec<PathBuf>>,
}

/// One table of the file. A table that the file does not have reads as all defaults.
pub struct Section<'r, 't> {
    pub reader: &'r Reader<'r>,
    pub title: String,
    pub span: Span,
    table: Option<&'t DeTable<'t>>,
    /// The table for keys that `table` leaves out.
    base: Option<&'t DeTable<'t>>,
    known: RefCell<Vec<&'static str>>,
    /// The new names of keys, each with its old name.
    old_names: RefCell<Vec<(&'static str, &'static str)>>,
    is_finished: Cell<bool>,
    /// Keys that the file has under a misspelt name.
    misspelt: RefCell<Vec<String>>,
}

/// A value and its key.
pub struct Entry<'e> {
    pub reader: &'e Reader<'e>,
    pub key: &'e str,
    pub value: &'e Spanned<DeValue<'e>>,
}

impl Entry<'_> {
    pub fn span(&self) -> Span {
        self.value.span()
    }

    pub fn report(&self, diagnostic: Diagnostic) {
        self.reader.report(&self.span(), diagnostic);
    }

    pub fn error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.reader.error(&self.span(), message, help);
    }

    /// Reports a value of the wrong type.
    pub fn wrong_type(&self, wanted: &str) {
        let found = self.value.get_ref().type_str();
        let message = format!("`{}` must be {wanted}, not {} {found}", self.key, article(found));
        self.report(Diagnostic::error(message));
    }

    pub fn text(&self) -> Option<String> {
        let text = self.value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type("a string");
        }
        Some(text?.to_owned())
    }

    /// Returns a whole number in any notation of TOML. Does not report a wrong value.
    pub fn integer(&self) -> Option<usize> {
        let number = self.value.get_ref().as_integer()?;
        usize::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
    }

    /// Reads a string with a unit. For a number without a unit, the error names the missing unit.
    pub fn with_unit<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if self.value.get_ref().is_integer() {
            let digits = self.reader.text.get(self.span()).unwrap_or_default();
            let message = parse(digits)
                .err()
                .unwrap_or_else(|| format!("`{}` must be a string with a unit", self.key));
            self.report(Diagnostic::error(message));
            return None;
        }
        parse(&self.text()?).map_err(|message| self.report(Diagnostic::error(message))).ok()
    }

    /// Returns the strings of a list.
    pub fn texts(&self) -> Option<Vec<Entry<'_>>> {
        let Some(items) = self.value.get_ref().as_array() else {
            match self.value.get_ref().as_str() {
                Some(text) => self.error(
                    format!("`{}` must be a list of strings, not a string", self.key),
                    format!("write `{} = [\"{text}\"]`", self.key),
                ),
                None => self.wrong_type("a list of strings"),
            }
            return None;
        };
        let items = items.iter().map(|value| Entry { reader: self.reader, key: self.key, value });
        let (texts, others): (Vec<_>, Vec<_>) =
            items.partition(|item| item.value.get_ref().as_str().is_some());
        for other in others {
            other.wrong_type("a list of strings");
        }
        Some(texts)
    }
}

impl<'e> Entry<'e> {
    /// Returns the tables of a list of tables.
    pub fn sections(&self) -> Option<Vec<Section<'e, 'e>>> {
        let title = format!("[[{}]]", self.key);
        let Some(items) = self.value.get_ref().as_array() else {
            self.error(
                format!("`{}` must be a list of tables", self.key),
                format!("write `{title}`"),
            );
            return None;
        };
        let mut sections = Vec::new();
        for value in items.iter() {
            match value.get_ref().as_table() {
                Some(table) => {
                    let span = value.span();
                    sections.push(Section::new(self.reader, title.as_str(), span, Some(table)));
                }
                None => Entry { value, ..*self }.wrong_type("a list of tables"),
            }
        }
        Some(sections)
    }
}

impl<'a> Reader<'a> {
    pub fn new(
        text: &'a str,
        source: Option<&Path>,
        env: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let file =
            source.map_or_else(|| "usher.toml".to_owned(), |path| path.display().to_string());
        let base = source.and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        Self { file, text, base, env, found: Default::default(), files: Default::default() }
    }
}

impl Reader<'_> {
    /// Reports only the first syntax error: the parser reads the text after it in the wrong
    /// context.
    pub fn report_syntax(&self, errors: &[toml::de::Error]) {
        let Some(first) =
            errors.iter().min_by_key(|error| error.span().map_or(0, |span| span.start))
        else {
            return;
        };
        let span = first.span().unwrap_or(0..0);
        let is_unclosed = errors.iter().any(|error| error.message().starts_with("unclosed"));
        match self.open_bracket(span.start).filter(|_| is_unclosed) {
            Some(at) => {
                let bracket = self.text.get(at..=at).unwrap_or("[");
                let closing = if bracket == "[" { "]" } else { "}" };
                self.error(
                    &(at..at + 1),
                    format!("`{bracket}` is not closed"),
                    format!("add `{closing}`"),
                );
            }
            None => self.report(&span, Diagnostic::error(first.message().to_owned())),
        }
    }

    /// Returns the place of the last bracket that is still open at `end`, within one statement.
    fn open_bracket(&self, end: usize) -> Option<usize> {
        let before = self.text.get(..end)?;
        // A statement begins on a new line, with a key and an equals sign.
        let mut start = before.len();
        for line in before.split_inclusive('\n').rev() {
            start -= line.len();
            if line.split_once('=').is_some_and(|(key, _)| key.trim().chars().all(is_of_a_key)) {
                break;
            }
        }
        let (mut open, mut quote, mut is_comment) = (Vec::new(), None, false);
        for (at, c) in before.get(start..)?.char_indices() {
            match (quote, c) {
                _ if is_comment => is_comment = c != '\n',
                (Some(end), c) if c == end => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '#') => is_comment = true,
                (None, '[' | '{') => open.push(start + at),
                (None, ']' | '}') => drop(open.pop()),
                _ => {}
            }
        }
        open.pop()
    }

    pub fn report(&self, span: &Span, diagnostic: Diagnostic) {
        self.found
            .borrow_mut()
            .push((span.clone(), diagnostic.at(&self.file, self.text, span.clone())));
    }

    pub fn error(&self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.report(span, Diagnostic::error(message).help(help));
    }

    /// Reads a value from a declaration.
    fn read_toml<K: KeyType>(&self, key: &str, text: &str) -> K::Value {
        DeValue::parse(text)
            .ok()
            .and_then(|value| K::read(&Entry { reader: self, key, value: &value }))
            .unwrap_or_else(|| {
                unreachable!("`{key}` is declared with {text}, which has another type")
            })
    }

    /// Returns a path. A relative path is relative to the folder of the configuration.
    pub fn path(&self, text: &str) -> PathBuf {
        self.base.join(Path::new(text))
    }

    /// Returns the path of a file that Usher reads, and records it: if the content of the file
    /// changes, the configuration has changed.
    pub fn file(&self, text: &str) -> PathBuf {
        let path = self.path(text);
        self.files.borrow_mut().push(path.clone());
        path
    }
}

impl<'r, 't> Section<'r, 't> {
    pub fn new(
        reader: &'r Reader<'r>,
        title: impl Into<String>,
        span: Span,
        table: Option<&'t DeTable<'t>>,
    ) -> Self {
        let title = title.into();
        Self {
            reader,
            title,
            span,
            table,
            base: None,
            known: RefCell::default(),
            old_names: RefCell::default(),
            is_finished: Cell::default(),
            misspelt: RefCell::default(),
        }
    }

    pub fn is_written(&self) -> bool {
        self.table.is_some()
    }

    /// Returns the value of a key as written in the file. Until the table is
    /// [finished](Self::finish), this makes the key known. Afterwards, the key must be known.
    pub fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        let is_known = self.known.borrow().contains(&key);
        debug_assert!(is_known || !self.is_finished.get(), "`{key}` is not declared");
        if !is_known {
            self.known.borrow_mut().push(key);
        }
        let old_names = self.old_names.borrow();
        let old_name = old_names.iter().find(|(new, _)| *new == key).map(|(_, old)| *old);
        let tables = self.table.into_iter().chain(self.base);
        let mut keys = tables.flat_map(|table| table.iter());
        keys.find(|(name, _)| {
            name.get_ref() == key || old_name.is_some_and(|old| name.get_ref() == old)
        })
        .map(|(_, value)| value)
    }

    /// Accepts the old name of a key, with a warning.
    pub fn accept_old_name(&self, new: &'static str, old: &'static str, until: &str) {
        self.old_names.borrow_mut().push((new, old));
        let Some(table) = self.table else { return };
        let name_of = |key: &str| table.keys().find(|name| name.get_ref() == key);
        match (name_of(old), name_of(new)) {
            (Some(written), None) => {
                let message = format!("`{old}` has the new name `{new}`");
                let help = format!("rename it: version {until} will not accept `{old}`");
                let warning = Diagnostic::warning(message).help(help);
                self.reader.report(&written.span(), warning);
            }
            (Some(written), Some(_)) => {
                let message = format!("`{old}` is the old name of `{new}`, which is set too");
                let help = format!("remove `{old}`");
                self.reader.error(&written.span(), message, help);
            }
            (None, _) => {}
        }
    }

    fn entry(&self, key: &'static str) -> Option<Entry<'_>> {
        Some(Entry { reader: self.reader, key, value: self.value(key)? })
    }

    /// Returns the value, or nothing if the key is not written or the value is wrong.
    pub fn read_optional<K: KeyType>(&self, key: &'static str) -> Option<K::Value> {
        K::read(&self.entry(key)?)
    }

    /// Reads a required key. The error about a missing key quotes `sentence` and `example`.
    pub fn read_required<K: KeyType>(
        &self,
        key: &'static str,
        example: &str,
        sentence: &str,
    ) -> Option<K::Value> {
        let is_empty = |value: &Spanned<DeValue<'t>>| {
            K::IS_NEVER_EMPTY && value.get_ref().as_array().is_some_and(|items| items.is_empty())
        };
        if self.is_written() && self.value(key).is_none_or(is_empty) {
            let sentence = sentence.trim().trim_end_matches('.');
            self.missing(key, &format!("{sentence}: `{key} = {example}`"));
        }
        self.read_optional::<K>(key)
    }

    /// Reads a key. Returns the default, which is TOML, if the key is not written or wrong.
    pub fn read_or_default<K: KeyType>(&self, key: &'static str, default: &str) -> K::Value {
        self.read_optional::<K>(key).unwrap_or_else(|| self.reader.read_toml::<K>(key, default))
    }

    pub fn at_least<K: KeyType<Value: PartialOrd>>(
        &self,
        key: &'static str,
        least: &str,
        help: &str,
    ) {
        let least_value = self.reader.read_toml::<K>(key, least);
        if self.read_optional::<K>(key).is_some_and(|value| value < least_value) {
            self.out_of_bounds(key, &format!("must be at least {least}"), help);
        }
    }

    pub fn at_most<K: KeyType<Value: PartialOrd>>(
        &self,
        key: &'static str,
        most: &str,
        help: &str,
    ) {
        let most_value = self.reader.read_toml::<K>(key, most);
        if self.read_optional::<K>(key).is_some_and(|value| value > most_value) {
            self.out_of_bounds(key, &format!("must be at most {most}"), help);
        }
    }

    fn out_of_bounds(&self, key: &'static str, bound: &str, help: &str) {
        if let Some(entry) = self.entry(key) {
            entry.error(format!("`{key}` {}", bound.replace('"', "")), help);
        }
    }

    pub fn missing(&self, key: &str, help: &str) {
        if self.misspelt.borrow().iter().any(|misspelt| misspelt == key) {
            return;
        }
        self.reader.error(&self.span, self.needs(key), help);
    }

    fn needs(&self, key: &str) -> String {
        format!("{} needs `{key}`", self.title)
    }

    /// Removes the error about a missing key: the file has the key under a misspelt name, which has
    /// an error of its own.
    fn forgive_missing(&self, key: &str) {
        self.misspelt.borrow_mut().push(key.to_owned());
        let message = self.needs(key);
        self.reader
            .found
            .borrow_mut()
            .retain(|(span, found)| *span != self.span || found.message != message);
    }

    /// Returns the table under a key. A missing table reads as all defaults.
    pub fn section(&self, key: &'static str) -> Self {
        let value = self.value(key);
        let table = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, table) {
            Entry { reader: self.reader, key, value }.wrong_type("a table");
        }
        let span = value.map_or(0..0, Spanned::span);
        Section::new(self.reader, format!("[{key}]"), span, table)
    }

    /// Returns the tables of a list of tables.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'_, '_>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        Entry { reader: self.reader, key, value }.sections().unwrap_or_default()
    }

    /// Returns the tables whose names the user chooses, each with its name and its place.
    pub fn tables(&self, key: &'static str) -> Vec<(String, Span, Self)> {
        let outer = self.section(key);
        let mut tables = Vec::new();
        for (name, value) in outer.table.into_iter().flatten() {
            let title =
                format!("[{}.{key}.{}]", self.title.trim_matches(['[', ']']), name.get_ref());
            match value.get_ref().as_table() {
                Some(table) => {
                    let section = Section::new(self.reader, title, name.span(), Some(table));
                    tables.push((name.get_ref().to_string(), name.span(), section));
                }
                None => {
                    Entry { reader: self.reader, key: name.get_ref(), value }.wrong_type("a table");
                }
            }
        }
        tables
    }

    /// Returns this table. Keys that it leaves out come from `base`.
    pub fn over(&self, base: &Self) -> Self {
        Self {
            base: base.table,
            ..Section::new(self.reader, self.title.as_str(), self.span.clone(), self.table)
        }
    }

    /// Returns the value of one of two keys, with its place, or nothing if neither is written.
    /// Reports an error if both are written.
    pub fn one_of<T>(
        &self,
        (first_key, first): (&'static str, Option<T>),
        (second_key, second): (&'static str, Option<T>),
    ) -> Option<(Option<T>, Span)> {
        match (self.value(first_key), self.value(second_key)) {
            (Some(one), Some(other)) => {
                self.reader.error(
                    &other.span(),
                    format!("`{first_key}` and `{second_key}` cannot be combined"),
                    "remove one of them",
                );
                Some((first, one.span()))
            }
            (Some(one), None) => Some((first, one.span())),
            (None, Some(other)) => Some((second, other.span())),
            (None, None) => None,
        }
    }

    /// Reports unknown keys.
    pub fn finish(&self) {
        self.is_finished.set(true);
        let (known, old_names) = (self.known.borrow(), self.old_names.borrow());
        for name in self.table.into_iter().flatten().map(|(name, _)| name) {
            let key: &str = name.get_ref();
            if known.contains(&key) || old_names.iter().any(|(_, old)| *old == key) {
                continue;
            }
            let place = if self.title.is_empty() {
                "at the top level".to_owned()
            } else {
                format!("in {}", self.title)
            };
            if matches!(key, "secret" | "token" | "password") {
                let help = format!(
                    "a secret is never written in the file: use `{key}_env` or `{key}_file`"
                );
                self.forgive_missing(&format!("{key}_env"));
                self.reader.error(&name.span(), format!("unknown key `{key}` {place}"), help);
            } else {
                if let Some(near) = nearest(key, known.iter().copied()) {
                    self.forgive_missing(near);
                }
                self.reader.error(
                    &name.span(),
                    format!("unknown key `{key}` {place}"),
                    suggest(key, known.iter().copied()),
                );
            }
        }
    }
}

fn is_of_a_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '"' | '\'' | ' ')
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'i', 'o']) { "an" } else { "a" }
}
