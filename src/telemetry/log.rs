//! Where log lines go: stderr, as text for people or JSON for machines.
//!
//! Lines pass a bounded [`LineSink`], so that whoever reads our stderr can stall without stalling a session.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::InstallError;
use super::line_sink::LineSink;
use crate::config::{Log, LogFormat};

/// Sets the process-wide subscriber. `None` where there was one already: then the lines go where that one sends them.
pub fn install(config: &Log, capacity: usize) -> Result<Option<Arc<LineSink>>, InstallError> {
    let terminal = io::stderr().is_terminal();
    let sink = LineSink::start("usher-log", capacity, io::stderr()).map_err(|why| InstallError::Thread { purpose: "the log", why })?;
    let sink = Arc::new(sink);
    let subscriber = subscriber(config, terminal, SinkWriter(Arc::clone(&sink)))?;
    Ok(tracing::subscriber::set_global_default(subscriber).is_ok().then_some(sink))
}

fn subscriber<W>(config: &Log, terminal: bool, writer: W) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, InstallError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|why| InstallError::LogFilter { filter: config.filter.clone(), why: why.to_string() })?;
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(terminal && !json);
    Ok(if json {
        Box::new(builder.json().flatten_event(true).with_current_span(false).with_span_list(false).finish())
    } else {
        Box::new(builder.finish())
    })
}

/// The subscriber hands over each line in one write.
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

    fn written(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let page = Page::default();
        let config = Log { format, filter: filter.to_owned() };
        let theirs = page.clone();
        let writer = move || theirs.clone();
        tracing::subscriber::with_default(subscriber(&config, false, writer).unwrap(), log);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_the_event_name_and_its_fields_at_the_top() {
        let text = written(LogFormat::Json, "info", || {
            tracing::info!(target: "usher", event = "session_started", user = "ann\nbob", "session started");
            tracing::debug!(target: "usher", event = "hidden", "hidden");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["event"], &line["user"]), (&"session_started".into(), &"ann\nbob".into()));
    }

    #[test]
    fn a_value_cannot_begin_a_text_line_of_its_own() {
        let text = written(LogFormat::Text, "info", || {
            tracing::info!(target: "usher", event = "x", user = "ann\n2026 ERROR forged", "started");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let config = Log { format: LogFormat::Json, filter: "usher=loud".to_owned() };
        assert!(matches!(subscriber(&config, false, io::sink), Err(InstallError::LogFilter { filter, .. }) if filter == "usher=loud"));
    }
}
