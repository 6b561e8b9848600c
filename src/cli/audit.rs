//! `usher audit`: reads and filters an audit log, and follows it.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's product is what it prints"
)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value};

use crate::admin_client::find_config;
use crate::base::clock::{Now, UnixMillis};
use crate::base::text::printable;
use crate::config::value;
use crate::exit::Exit;
use crate::telemetry::audit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The audit log, or - for standard input; by default `audit.file` of the configuration
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only lines about this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only lines about this session, or about a login session in tokens
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Only lines about this request, by the id that its client received
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Only lines of this event, such as `session_ended`
    #[arg(long, value_name = "EVENT", hide_possible_values = true)]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(audit::EVENTS))]
    event: Option<String>,
    /// Only lines from this time on: RFC 3339, or an age such as 15m
    #[arg(long, value_name = "TIME", value_parser = time_or_age)]
    since: Option<UnixMillis>,
    /// Go on with lines that are added, until Ctrl-C; after a rotation, with the new file
    #[arg(short, long)]
    follow: bool,
    /// Print the lines as they are in the file
    #[arg(long)]
    json: bool,
    /// The configuration file; by default `usher.toml` here or in /etc/usher [env: USHER_CONFIG]
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

/// The longest line that is read. Usher itself writes much shorter ones.
const LONGEST_LINE: u64 = 1 << 20;
const PAUSE: Duration = Duration::from_millis(250);
/// The fields of a line that stand in front, in this order.
const FIRST: [&str; 4] = ["time", "event", "outcome", "user"];

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let path = match &arguments.file {
        Some(file) => file.clone(),
        None => {
            let config = find_config(arguments.config.clone())?;
            crate::config::load_audit(&config)?.with_context(|| {
                format!(
                    "{} has no [audit] file; add `file = \"audit.jsonl\"` below `[audit]`, or name \
                     the file: usher audit FILE",
                    config.display()
                )
            })?
        }
    };
    let mut output = Output { arguments, out: io::stdout().lock(), unreadable: 0 };
    let printed = if path == Path::new("-") { output.print_stdin() } else { output.print(&path) };
    match printed {
        // A reader such as `head` has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        done => done.with_context(|| format!("cannot read {}", path.display()))?,
    }
    if output.unreadable > 0 {
        eprintln!("usher: lines left out that are not audit lines: {}", output.unreadable);
        return Ok(Exit::Failed.into());
    }
    Ok(Exit::Ok.into())
}

#[allow(clippy::disallowed_methods, reason = "a file that grows gives no event to wait on")]
fn pause() {
    std::thread::sleep(PAUSE);
}

fn time_or_age(text: &str) -> Result<UnixMillis, String> {
    if let Some(time) = UnixMillis::from_rfc3339(text) {
        return Ok(time);
    }
    let age = value::duration(text).map_err(|_| {
        "write a time such as 2026-01-31T12:00:00Z, or an age such as 15m or 24h".to_owned()
    })?;
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    Ok(UnixMillis(Now::read().wall.0.saturating_sub(age)))
}

struct Output<W> {
    arguments: Arguments,
    out: W,
    unreadable: u64,
}

impl<W: Write> Output<W> {
    /// Prints the lines of standard input as they come, such as those of compressed old files.
    fn print_stdin(&mut self) -> io::Result<()> {
        let mut lines = Lines::of(io::stdin());
        while let Some(line) = lines.next(true)? {
            self.line(&line)?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn print(&mut self, path: &Path) -> io::Result<()> {
        let mut lines = Lines::open(path)?;
        loop {
            while let Some(line) = lines.next(!self.arguments.follow)? {
                self.line(&line)?;
            }
            self.out.flush()?;
            if !self.arguments.follow {
                return Ok(());
            }
            pause();
            if lines.is_replaced(path) {
                // The old file may have got more lines before it was moved away.
                while let Some(line) = lines.next(true)? {
                    self.line(&line)?;
                }
                lines = match Lines::open(path) {
                    // Moved away again at this moment.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    opened => opened?,
                };
            }
        }
    }

    /// Prints a line if the filters let it pass.
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(line) else {
            self.unreadable += u64::from(!line.trim_ascii().is_empty());
            return Ok(());
        };
        if !is_wanted(&self.arguments, &fields) {
            return Ok(());
        }
        if self.arguments.json {
            self.out.write_all(line.trim_ascii_end())?;
            return self.out.write_all(b"\n");
        }
        writeln!(self.out, "{}", readable(&fields))
    }
}

fn is_wanted(arguments: &Arguments, fields: &Map<String, Value>) -> bool {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let has = |wanted: &Option<String>, names: &[&str]| {
        wanted.as_deref().is_none_or(|wanted| names.iter().any(|name| text(name) == Some(wanted)))
    };
    has(&arguments.user, &["user"])
        && has(&arguments.session, &["session_id", "token_session"])
        && has(&arguments.request, &["request_id"])
        && has(&arguments.event, &["event"])
        && arguments.since.is_none_or(|since| {
            text("time").and_then(UnixMillis::from_rfc3339).is_some_and(|time| time >= since)
        })
}

/// Formats a line for a person: the most important fields, then the others with their names.
fn readable(fields: &Map<String, Value>) -> String {
    let plain = |value: &Value| match value {
        Value::String(text) => printable(text),
        other => other.to_string(),
    };
    let mut line: Vec<String> =
        FIRST.iter().map(|name| fields.get(*name).map_or("-".to_owned(), plain)).collect();
    // Earlier versions wrote the empty route of a ticket for every route.
    let others = fields
        .iter()
        .filter(|(name, value)| !FIRST.contains(&name.as_str()) && value.as_str() != Some(""));
    line.extend(others.map(|(name, value)| format!("{}={}", printable(name), plain(value))));
    line.join("  ")
}

/// The lines of a file that may grow.
struct Lines<R> {
    file: BufReader<R>,
    /// 0 without a file.
    inode: u64,
    /// The bytes that were read.
    offset: u64,
    /// The beginning of a line that is not whole yet.
    begun: Vec<u8>,
}

impl Lines<File> {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { inode, ..Self::of(file) })
    }

    /// Returns true if the path leads to another file now, or the file has become shorter.
    fn is_replaced(&self, path: &Path) -> bool {
        // While the file is missing, a new one may still come.
        let Ok(metadata) = std::fs::metadata(path) else { return false };
        metadata.ino() != self.inode || metadata.len() < self.offset
    }
}

impl<R: Read> Lines<R> {
    fn of(file: R) -> Self {
        Self { file: BufReader::new(file), inode: 0, offset: 0, begun: Vec::new() }
    }

    /// Returns the next line without its end. `None`: there is none yet. With `takes_rest`, the
    /// last line needs no end. A line that is too long is cut in pieces, which are no lines.
    fn next(&mut self, takes_rest: bool) -> io::Result<Option<Vec<u8>>> {
        let room = LONGEST_LINE.saturating_sub(self.begun.len() as u64);
        let count = (&mut self.file).take(room).read_until(b'\n', &mut self.begun)?;
        self.offset += count as u64;
        let is_whole = self.begun.last() == Some(&b'\n') || self.begun.len() as u64 == LONGEST_LINE;
        if self.begun.is_empty() || !(is_whole || takes_rest) {
            return Ok(None);
        }
        if self.begun.last() == Some(&b'\n') {
            self.begun.pop();
        }
        Ok(Some(std::mem::take(&mut self.begun)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    const LINES: &str = r#"{"time":"2026-01-01T10:00:00.000Z","event":"upgrade_rejected","outcome":"invalid_token","request_id":"r1"}
{"time":"2026-01-01T11:00:00.000Z","event":"session_started","outcome":"accepted","session_id":"s1","user":"ada"}
{"time":"2026-01-01T12:00:00.000Z","event":"session_ended","outcome":"revoked","session_id":"s1","user":"ada","duration_ms":7}
{"time":"2026-01-01T12:00:01.000Z","event":"revoked","outcome":"accepted","token_session":"s2","user":"bob\u001b[2J"}
"#;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir()
            .join(format!("usher-audit-{}", crate::model::request_id::RequestId::random()));
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn printed(text: &str, options: &[&str]) -> (String, u64) {
        let folder = folder();
        let path = folder.join("audit.jsonl");
        std::fs::write(&path, text).unwrap();
        let command = std::iter::once("audit").chain(options.iter().copied());
        let arguments = Command::parse_from(command).arguments;
        let mut output = Output { arguments, out: Vec::new(), unreadable: 0 };
        output.print(&path).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        (String::from_utf8(output.out).unwrap(), output.unreadable)
    }

    #[test]
    fn each_filter_keeps_its_lines() {
        let times = |options: &[&str]| {
            let (text, unreadable) = printed(LINES, options);
            assert_eq!(unreadable, 0);
            text.lines().map(|line| line[11..13].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(times(&[]), ["10", "11", "12", "12"]);
        assert_eq!(times(&["--user", "ada"]), ["11", "12"]);
        assert_eq!(times(&["--session", "s1"]), ["11", "12"]);
        assert_eq!(times(&["--session", "s2"]), ["12"]);
        assert_eq!(times(&["--event", "session_ended"]), ["12"]);
        assert_eq!(times(&["--request", "r1"]), ["10"]);
        assert_eq!(times(&["--since", "2026-01-01T12:00:00Z"]), ["12", "12"]);
        assert_eq!(times(&["--since", "1h", "--user", "ada"]), Vec::<String>::new());
        assert_eq!(times(&["--user", "ad"]), Vec::<String>::new());
    }

    #[test]
    fn an_event_that_no_line_has_is_refused() {
        let said = |event: &str| match Command::try_parse_from(["audit", "--event", event]) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(said("foo").contains("session_ended, session_started"), "{}", said("foo"));
        let near = said("session_end");
        assert!(near.contains("a similar value exists: 'session_ended'"), "{near}");
        assert_eq!(said("session_ended"), "");
    }

    #[test]
    fn a_line_is_printed_for_a_person_or_as_it_is() {
        let (text, _) = printed(LINES, &["--event", "session_ended"]);
        assert_eq!(
            text,
            "2026-01-01T12:00:00.000Z  session_ended  revoked  ada  session_id=s1  duration_ms=7\n"
        );
        let (text, _) = printed(LINES, &["--json"]);
        assert_eq!(text, LINES);
        let empty = r#"{"time":"t","event":"ticket_issued","outcome":"accepted","route":""}"#;
        assert_eq!(printed(empty, &[]).0, "t  ticket_issued  accepted  -\n");
        let (text, _) = printed(LINES, &["--session", "s2"]);
        assert!(text.contains(r"bob\u{1b}[2J"), "{text}");
    }

    #[test]
    fn other_lines_are_counted_and_left_out() {
        let text = format!("nothing\n\n[1]\n{LINES}{{\"time\":\"cut");
        let (text, unreadable) = printed(&text, &["--json"]);
        assert_eq!((text.as_str(), unreadable), (LINES, 3));
        let long = "x".repeat(3 << 20);
        assert_eq!(printed(&long, &[]), (String::new(), 3));
    }

    #[test]
    fn a_file_is_followed_over_half_a_line_and_a_rotation() {
        let folder = folder();
        let path = folder.join("audit.jsonl");
        let append = |path: &Path, text: &str| {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            file.unwrap().write_all(text.as_bytes()).unwrap();
        };
        append(&path, "{\"a\":");
        let mut lines = Lines::open(&path).unwrap();
        assert_eq!(lines.next(false).unwrap(), None);
        append(&path, "1}\n{\"b\":2}\n");
        assert_eq!(lines.next(false).unwrap().as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(lines.next(false).unwrap().as_deref(), Some(&b"{\"b\":2}"[..]));
        assert_eq!(lines.next(false).unwrap(), None);
        assert!(!lines.is_replaced(&path));
        std::fs::rename(&path, folder.join("audit.1")).unwrap();
        assert!(!lines.is_replaced(&path), "the new file is not there yet");
        append(&path, "{\"c\":3}\n");
        assert!(lines.is_replaced(&path));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_time_or_an_age_is_read() {
        assert_eq!(time_or_age("1970-01-01T00:00:01Z"), Ok(UnixMillis(1000)));
        let hour_ago = time_or_age("1h").unwrap();
        // The clock is read after it, so that the difference cannot be too small.
        let hour = Now::read().wall.0 - hour_ago.0;
        assert!((3_600_000..3_660_000).contains(&hour), "{hour}");
        assert!(time_or_age("yesterday").unwrap_err().contains("24h"));
    }
}
