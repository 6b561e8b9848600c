//! Errors and warnings about a file: the fault, its place, and the remedy.
//!
//! A diagnostic owns all that it prints, so it can outlive the text of the file.

use std::fmt;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiagnosticSeverity {
    Error,
    Warning,
}

/// The kind of thing that must change. The fault decides the exit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Something outside the configuration, such as a port in use.
    Unavailable,
    /// A permission that is missing, or a file that other users may read.
    Permission,
    #[default]
    Config,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: DiagnosticSeverity,
    pub fault: FaultKind,
    pub message: String,
    pub place: Option<Location>,
    pub help: Option<String>,
}

/// A range of characters on one line of a file. Lines and columns are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub text: String,
    pub width: usize,
}

/// Every error of one file, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostic {
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: DiagnosticSeverity::Error,
            fault: FaultKind::Config,
            message: message.into(),
            place: None,
            help: None,
        }
    }

    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: DiagnosticSeverity::Warning, ..Self::error(message) }
    }

    pub fn at(mut self, file: &str, text: &str, span: Range<usize>) -> Self {
        self.place = Some(Location::of(file, text, span));
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn because(self, error: &std::io::Error) -> Self {
        Self { fault: FaultKind::of(error), ..self }
    }

    pub fn json(&self) -> serde_json::Value {
        let place = self.place.as_ref();
        serde_json::json!({
            "message": self.message,
            "kind": self.fault.name(),
            "file": place.map(|p| &p.file),
            "line": place.map(|p| p.line),
            "column": place.map(|p| p.column),
            "help": self.help,
        })
    }

    pub fn render(&self, colour: bool) -> String {
        let paint = |code: &str, text: &str| {
            if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let (word, code) = match self.severity {
            DiagnosticSeverity::Error => ("error", "1;31"),
            DiagnosticSeverity::Warning => ("warning", "1;33"),
        };
        let mut out = String::new();
        if let Some(place) = &self.place {
            out += &format!("{}:{}:{}: ", place.file, place.line, place.column);
        }
        out += &format!("{}: {}\n", paint(code, word), self.message);
        if let Some(place) = &self.place {
            let number = place.line.to_string();
            let gutter = " ".repeat(number.len());
            // Tabs are kept, so that the carets are under the span with any width of tabs.
            let indent: String = place
                .text
                .chars()
                .take(place.column - 1)
                .map(|c| if c == '\t' { c } else { ' ' })
                .collect();
            out += &format!(
                "  {number} | {}\n  {gutter} | {indent}{}\n",
                place.text,
                paint(code, &"^".repeat(place.width))
            );
        }
        if let Some(help) = &self.help {
            out += &format!("  {}: {help}\n", paint("1;36", "help"));
        }
        out
    }
}

impl FaultKind {
    const ALL: [Self; 3] = [Self::Unavailable, Self::Permission, Self::Config];

    pub fn of(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => Self::Permission,
            std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AddrNotAvailable => {
                Self::Unavailable
            }
            _ => Self::Config,
        }
    }

    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Permission => "permission",
            Self::Config => "config",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

impl Location {
    pub fn of(file: &str, text: &str, span: Range<usize>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        let prefix = before.get(line_start..).unwrap_or_default();
        let spanned = text.get(span).unwrap_or_default().lines().next().unwrap_or_default();
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: prefix.chars().count() + 1,
            text: line.to_owned(),
            width: spanned.chars().count().max(1),
        }
    }
}

impl Diagnostics {
    /// Returns the most severe fault. While the file has mistakes, no other fault decides.
    pub fn fault(&self) -> FaultKind {
        self.0.iter().map(|diagnostic| diagnostic.fault).max().unwrap_or_default()
    }

    pub fn render(&self, colour: bool) -> String {
        let all: Vec<_> = self.0.iter().map(|diagnostic| diagnostic.render(colour)).collect();
        all.join("\n")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Returns the known word that is most similar to `word`.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored =
        known.into_iter().map(|candidate| (strsim::jaro_winkler(word, candidate), candidate));
    scored
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Returns "did you mean `x`?" if a known word is similar, else all known words.
pub fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = nearest(word, known.clone()) {
        return format!("did you mean `{near}`?");
    }
    let all: Vec<_> = known.into_iter().map(|word| format!("`{word}`")).collect();
    if all.is_empty() {
        "remove it".to_owned()
    } else {
        format!("the possible names are {}", all.join(", "))
    }
}
