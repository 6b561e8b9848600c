//! Names that may appear once in the file.

use std::collections::BTreeMap;

use crate::config::reader::{Reader, Section, Span};

/// The names of one kind, each with the place where it appears first.
#[derive(Default)]
pub struct Names(BTreeMap<String, Span>);

impl Names {
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.keys().map(String::as_str)
    }

    /// Adds the value of the key `name`.
    pub fn add_name(&mut self, section: &Section<'_, '_>, what: &str, name: Option<&str>) {
        if let (Some(name), Some(value)) = (name, section.value("name")) {
            self.add(section.reader, what, name, &value.span());
        }
    }

    pub fn add(&mut self, reader: &Reader<'_>, what: &str, name: &str, span: &Span) {
        self.add_with_help(reader, (what, name), span, "");
    }

    /// Adds a name, or reports that it appears twice. `help` is appended to the help text.
    pub fn add_with_help(
        &mut self,
        reader: &Reader<'_>,
        (what, name): (&str, &str),
        span: &Span,
        help: &str,
    ) {
        if let Some(first) = self.0.get(name) {
            let line = reader.text.get(..first.start).unwrap_or_default().matches('\n').count() + 1;
            reader.error(
                span,
                format!("{what} `{name}` appears twice"),
                format!("line {line} has it already{help}"),
            );
        } else {
            self.0.insert(name.to_owned(), span.clone());
        }
    }
}
