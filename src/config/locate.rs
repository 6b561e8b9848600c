//! Finds the place of a key in the file.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Location;
use super::reader::Span;

/// Finds values by their path, such as `listener.0.certificates.1.cert`.
pub struct Locator<'t> {
    file: String,
    text: &'t str,
    table: DeTable<'t>,
}

impl<'t> Locator<'t> {
    pub fn new(source: Option<&Path>, text: &'t str) -> Self {
        let file =
            source.map_or_else(|| "usher.toml".to_owned(), |path| path.display().to_string());
        let (table, _) = DeTable::parse_recoverable(text);
        Self { file, text, table: table.into_inner() }
    }

    /// Returns the location of the value, or else that of the table around it. `None`: the file
    /// does not even have the table.
    pub fn location(&self, path: &str) -> Option<Location> {
        let mut steps = path.split('.');
        let first = steps.next()?;
        let (name, mut value) = self.table.iter().find(|(name, _)| name.get_ref() == first)?;
        // The span of a list of tables is the span of its first header.
        let mut span = if value.get_ref().is_table() { name.span() } else { value.span() };
        for step in steps {
            let Some(inner) = inner(value, step) else { break };
            value = inner;
            span = value.span();
        }
        Some(self.at(span))
    }

    /// Returns true if the file has this key.
    pub fn is_written(&self, path: &str) -> bool {
        let mut steps = path.split('.');
        let first = steps
            .next()
            .and_then(|first| self.table.iter().find(|(name, _)| name.get_ref() == first));
        steps
            .try_fold(first.map(|(_, value)| value), |value, step| {
                value.map(|value| inner(value, step))
            })
            .flatten()
            .is_some()
    }

    fn at(&self, span: Span) -> Location {
        Location::of(&self.file, self.text, span)
    }
}

fn inner<'v, 't>(value: &'v Spanned<DeValue<'t>>, step: &str) -> Option<&'v Spanned<DeValue<'t>>> {
    match value.get_ref() {
        DeValue::Table(table) => {
            table.iter().find(|(name, _)| name.get_ref() == step).map(|(_, value)| value)
        }
        DeValue::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_path_and_else_what_is_around_it() {
        let text = "[[listener]]\nplain = true\n[[listener]]\n\
                    certificates = [{ cert = 'a' }, { cert = 'b' }]\n\
                    [store.regions.eu]\nurl = 'x'\n";
        let locator = Locator::new(None, text);
        let line = |path: &str| locator.location(path).map(|location| location.line);
        assert_eq!(line("listener.1.certificates.1.cert"), Some(4));
        assert_eq!(line("listener.1.address"), Some(3), "its table");
        assert_eq!(line("store.regions.eu.ca_file"), Some(5));
        assert_eq!(line("audit.file"), None);
    }
}
