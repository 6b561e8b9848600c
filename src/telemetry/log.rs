//! The log on stderr or in a file, as text for people or JSON for machines.
//!
//! Lines go through a bounded [`LineSink`], so that a slow reader of stderr does not stall a
//! session.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;

use super::line_sink::LineSink;
use super::severity::CRITICAL;
use super::{InstallError, LogKind, log_file};

/// The format of log lines, and the filter that selects them.
#[derive(Clone, Debug)]
pub struct LogSettings {
    pub format: Format,
    /// A level, or a list of `target=level`.
    pub filter: String,
    /// `None`: stderr.
    pub file: Option<PathBuf>,
}

/// The queue of the log, and its file.
pub struct LogSink {
    lines: Arc<LineSink>,
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

/// Sets the subscriber of the process. Returns `None` if the process already has one, which then
/// gets the lines.
pub fn install(settings: &LogSettings, capacity: usize) -> Result<Option<LogSink>, InstallError> {
    let name = "usher-log";
    let (lines, terminal, colours) = match &settings.file {
        Some(path) => {
            let file = log_file::open(LogKind::Log, path)?;
            (LineSink::start(name, capacity, file), false, false)
        }
        None => (
            LineSink::start(name, capacity, io::stderr()),
            io::stderr().is_terminal(),
            crate::base::terminal::is_coloured(&io::stderr()),
        ),
    };
    let lines = lines.map_err(|why| InstallError::Thread { purpose: "the log", why })?;
    let sink = LogSink { lines: Arc::new(lines), file: settings.file.clone() };
    let writer = SinkWriter(Arc::clone(&sink.lines));
    let subscriber = subscriber(settings, (terminal, colours), writer)?;
    Ok(tracing::subscriber::set_global_default(subscriber).is_ok().then_some(sink))
}

impl LogSink {
    /// Opens the file again: it may have been moved away. Returns false without a file.
    pub fn reopen(&self) -> bool {
        if let Some(path) = &self.file {
            log_file::reopen(LogKind::Log, path, &self.lines);
        }
        self.file.is_some()
    }

    pub fn dropped(&self) -> u64 {
        self.lines.dropped()
    }

    pub fn flush(&self, patience: Duration) -> bool {
        self.lines.flush(patience)
    }
}

fn subscriber<W>(
    settings: &LogSettings,
    (terminal, colours): (bool, bool),
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, InstallError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = settings.filter.parse::<Targets>().map_err(|why| InstallError::LogFilter {
        filter: settings.filter.clone(),
        why: why.to_string(),
    })?;
    // The library logs parts of heads that it refuses. A ticket may stand in them.
    let filter = filter.with_target("h2", LevelFilter::OFF);
    let json = match settings.format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !terminal,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(writer)
        .with_ansi(colours && !json);
    Ok(if json {
        Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .map_event_format(NamesCritical)
                .finish()
                .with(filter),
        )
    } else {
        Box::new(builder.map_event_format(NamesCritical).finish().with(filter))
    })
}

/// Writes the level `CRITICAL` in the lines of critical events, which `tracing` knows as errors.
struct NamesCritical<F>(F);

impl<S, N, F> FormatEvent<S, N> for NamesCritical<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if event.metadata().name() != CRITICAL {
            return self.0.format_event(context, writer, event);
        }
        // The copy has no colours, also on a terminal.
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        // Only the time stands before the level, so this is the level and no value of a client.
        writer.write_str(&line.replacen("ERROR", "CRITICAL", 1))
    }
}

/// A writer for the subscriber, which writes each line in one call.
#[derive(Clone)]
struct SinkWriter(Arc<LineSink>);

impl Write for SinkWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for SinkWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::line_sink::tests::Page;
    use crate::telemetry::severity::{Severity, log_at};

    fn written(format: Format, filter: &str, log: impl FnOnce()) -> String {
        let page = Page::default();
        let settings = LogSettings { format, filter: filter.to_owned(), file: None };
        let theirs = page.clone();
        let writer = move || theirs.clone();
        tracing::subscriber::with_default(
            subscriber(&settings, (false, false), writer).unwrap(),
            log,
        );
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_the_event_name_and_its_fields_at_the_top() {
        let text = written(Format::Json, "info", || {
            tracing::info!(
                target: "usher", event = "session_started", user = "ann\nbob", "session started"
            );
            tracing::debug!(target: "usher", event = "hidden", "hidden");
            tracing::error!(target: "h2::server", "a library that logs heads");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["event"], &line["user"]),
            (&"session_started".into(), &"ann\nbob".into())
        );
    }

    #[test]
    fn a_value_cannot_begin_a_text_line_of_its_own() {
        let text = written(Format::Text, "info", || {
            tracing::info!(
                target: "usher", event = "x", user = "ann\n2026 ERROR forged", "started"
            );
        });
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_critical_line_says_so_and_passes_a_filter_of_errors() {
        for (severity, level) in [
            (Severity::Warn, None),
            (Severity::Error, Some("ERROR")),
            (Severity::Critical, Some("CRITICAL")),
        ] {
            let log = || log_at!(severity, target: "usher", event = "x", why = "ERROR", "an ERROR");
            let json = written(Format::Json, "usher=error", log);
            let found = serde_json::from_str::<serde_json::Value>(&json).ok();
            let found = found.map(|line| (line["level"].clone(), line["why"].clone()));
            assert_eq!(found, level.map(|level| (level.into(), "ERROR".into())), "{json}");
            let text = written(Format::Text, "error", log);
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(words.get(1).copied(), level, "{text}");
            assert_eq!(text.is_empty(), level.is_none());
            assert!(level.is_none() || text.contains("an ERROR"), "{text}");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let (format, filter) = (Format::Json, "usher=loud".to_owned());
        let settings = LogSettings { format, filter, file: None };
        let outcome = subscriber(&settings, (false, false), io::sink);
        let Err(InstallError::LogFilter { filter, .. }) = outcome else {
            panic!("the filter was read");
        };
        assert_eq!(filter, "usher=loud");
    }
}
