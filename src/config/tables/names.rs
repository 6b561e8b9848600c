//! Names that may stand once in the file.

use std::collections::BTreeMap;

use crate::config::reader::{Reader, Section, Span};

/// Names of one kind, and where each stood first.
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

    /// Reports a name that stands twice; `help` follows the line of the first one.
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
                format!("{what} `{name}` stands twice"),
                format!("it stands on line {line} already{help}"),
            );
        } else {
            self.0.insert(name.to_owned(), span.clone());
        }
    }
}
