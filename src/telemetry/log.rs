//! The log on stderr, as text for people or JSON for machines.
//!
//! Lines go through a bounded [`LineSink`], so that a slow reader of stderr does not stall a
//! session.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use super::InstallError;
use super::line_sink::LineSink;

/// The format of log lines, and the filter that selects them.
#[derive(Clone, Debug)]
pub struct LogSettings {
    pub format: Format,
    /// A level, or a list of `target=level`.
    pub filter: String,
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
pub fn install(
    settings: &LogSettings,
    capacity: usize,
) -> Result<Option<Arc<LineSink>>, InstallError> {
    let (terminal, colours) =
        (io::stderr().is_terminal(), crate::base::terminal::is_coloured(&io::stderr()));
    let sink = LineSink::start("usher-log", capacity, io::stderr())
        .map_err(|why| InstallError::Thread { purpose: "the log", why })?;
    let sink = Arc::new(sink);
    let subscriber = subscriber(settings, (terminal, colours), SinkWriter(Arc::clone(&sink)))?;
    Ok(tracing::subscriber::set_global_default(subscriber).is_ok().then_some(sink))
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
                .finish()
                .with(filter),
        )
    } else {
        Box::new(builder.finish().with(filter))
    })
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

    fn written(format: Format, filter: &str, log: impl FnOnce()) -> String {
        let page = Page::default();
        let settings = LogSettings { format, filter: filter.to_owned() };
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
    fn a_filter_that_cannot_be_read_is_named() {
        let (format, filter) = (Format::Json, "usher=loud".to_owned());
        let settings = LogSettings { format, filter };
        let outcome = subscriber(&settings, (false, false), io::sink);
        let Err(InstallError::LogFilter { filter, .. }) = outcome else {
            panic!("the filter was read");
        };
        assert_eq!(filter, "usher=loud");
    }
}
