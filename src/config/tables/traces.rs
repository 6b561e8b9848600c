//! `[traces]`, and the environment variables of OpenTelemetry that fill what the table leaves out.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value as Json, json};

use crate::config::declare::{Table, table};
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{
    self, Count, FileToRead, Flag, KeyType, PositiveDuration, SecretFile, SecretVariable, Text,
};
use crate::config::reader::{Entry, Section};
use crate::model::secret::Secret;
use crate::model::service_url::ServiceUrl;

table! {
    /// Traces, sent to a receiver of OpenTelemetry by OTLP over HTTP; the environment variables of
    /// OpenTelemetry count where the table leaves a key out.
    pub struct TracesTable: [traces] commented {
        /// The URL of the receiver, with its path; without it OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
        /// counts, or OTEL_EXPORTER_OTLP_ENDPOINT followed by /v1/traces.
        url: Text, optional "https://collector.example.com/v1/traces";
        /// Send traces over plain http to another machine; the network between the two can then
        /// read them.
        allow_plain: Flag, default false,
            because "traces show who calls when, and the headers may hold a key",
            change_when "only you control the network between the two";
        /// PEM file of the authorities for the receiver's certificate, instead of the system's.
        ca_file: FileToRead, optional "authorities.pem";
        /// Environment variable with headers for the receiver, such as its API key; written as
        /// name=value, with commas between several. OTEL_EXPORTER_OTLP_HEADERS by default.
        headers_env: SecretVariable, optional "USHER_TRACES_HEADERS";
        /// File with these headers, instead of `headers_env`.
        headers_file: SecretFile, optional "traces-headers";
        /// The name of this service in traces; without it OTEL_SERVICE_NAME counts, then
        /// service.name in OTEL_RESOURCE_ATTRIBUTES, then usher.
        service_name: Text, optional "chat-edge";
        /// The share of new traces that is recorded, from 0 to 1. A trusted peer decides for its
        /// own traces.
        sample_ratio: SampleRatio, default 1.0,
            because "a quiet service wants every trace",
            change_when "the traces cost too much: `0.01`";
        /// Whether spans have the client's address.
        client_address: Flag, default false,
            because "an address is data about a person, and traces often go to another company",
            change_when "the receiver is yours";
        /// Spans that wait for the receiver; of more, new ones are dropped.
        queue: Count, default 4096,
            because "some megabytes of memory, and the spans of a thousand upgrades",
            change_when "`usher_trace_spans_dropped_total` grows by `queue_full`";
        /// Spans in one request to the receiver.
        batch: Count, default 512,
            because "the default of OpenTelemetry";
        /// How long a span waits for others before it is sent.
        delay: PositiveDuration, default "5s",
            because "the default of OpenTelemetry";
        /// How long one request may take.
        timeout: PositiveDuration, default "10s",
            because "the default of OpenTelemetry";
        /// How long spans are sent again while the receiver is away or busy; then they are dropped.
        retry_for: key_type::Duration, default "1m",
            because "a restart of the receiver takes less";
        /// How long the exit waits for the receiver to take the last spans.
        exit_timeout: key_type::Duration, default "2s",
            because "the last spans are seldom worth a late exit",
            change_when "the receiver is far away";
    }
}

/// Where traces go, and which ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    pub endpoint: ServiceUrl,
    pub ca_file: Option<PathBuf>,
    /// Headers for the receiver. Their values are secrets.
    pub headers: HeaderMap,
    /// The attributes of this process, without its node.
    pub resource: Vec<(String, String)>,
    pub sample_ratio: f64,
    pub client_address: bool,
    pub queue: usize,
    pub batch: usize,
    pub delay: Duration,
    pub timeout: Duration,
    pub retry_for: Duration,
    pub exit_timeout: Duration,
}

/// A number from 0 to 1.
pub struct SampleRatio;

impl KeyType for SampleRatio {
    type Value = f64;

    fn name() -> String {
        "number from 0 to 1".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }

    fn read(entry: &Entry<'_>) -> Option<f64> {
        let value = entry.value.get_ref();
        let number = match value.as_float() {
            Some(float) => float.as_str().replace('_', "").parse().ok(),
            None => entry.integer().map(|integer| integer as f64),
        };
        let ratio = number.filter(|ratio| (0.0..=1.0).contains(ratio));
        if ratio.is_none() {
            let message = format!("`{}` must be a number from 0 to 1", entry.key);
            entry.error(message, "write 0.1 for every tenth trace");
        }
        ratio
    }
}

/// The path at which receivers take traces.
const TRACES_PATH: &str = "v1/traces";
/// The most attributes of OTEL_RESOURCE_ATTRIBUTES, and headers.
const MOST_PAIRS: usize = 64;

/// Returns `[traces]`, if the file has it.
pub fn traces(section: &Section<'_, '_>) -> Option<Traces> {
    if !section.is_written() {
        return None;
    }
    let mut table = TracesTable::read(section);
    if let Some(value) = section.value("allow_plain").filter(|_| table.allow_plain) {
        let message = "traces are sent over plain http: the network can read them";
        section.reader.report(&value.span(), Diagnostic::warning(message));
    }
    let endpoint = endpoint(section, &table);
    let headers = headers(section, &mut table);
    let resource = resource(section, table.service_name.take());
    if table.batch > table.queue {
        let span = section.value("batch").or_else(|| section.value("queue"));
        section.reader.error(
            &span.map_or(section.span.clone(), toml::Spanned::span),
            "`batch` is larger than `queue`",
            "a batch is taken from the queue: make the queue a few times larger",
        );
    }
    Some(Traces {
        endpoint: endpoint?,
        ca_file: table.ca_file,
        headers: headers?,
        resource: resource?,
        sample_ratio: table.sample_ratio,
        client_address: table.client_address,
        queue: table.queue,
        batch: table.batch,
        delay: table.delay,
        timeout: table.timeout,
        retry_for: table.retry_for,
        exit_timeout: table.exit_timeout,
    })
}

fn endpoint(section: &Section<'_, '_>, table: &TracesTable) -> Option<ServiceUrl> {
    let reader = section.reader;
    let place = section.value("url").map_or(section.span.clone(), toml::Spanned::span);
    let named = |name| variable(section, name).map(|url| (url, Some(name)));
    let found = table
        .url
        .clone()
        .map(|url| (url, None))
        .or_else(|| named("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        .or_else(|| {
            let (base, name) = named("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            Some((format!("{}/{TRACES_PATH}", base.trim_end_matches('/')), name))
        });
    let Some((url, variable)) = found else {
        // A wrong value was reported already.
        if section.value("url").is_none() {
            section.missing(
                "url",
                "add the URL of the receiver: `url = \"https://collector.example.com/v1/traces\"`, \
                 or set OTEL_EXPORTER_OTLP_ENDPOINT",
            );
        }
        return None;
    };
    let help = "write https; plain http works only for this machine or with `allow_plain`";
    let endpoint = ServiceUrl::parse(&url, table.allow_plain)
        .map_err(|message| match variable {
            Some(name) => reader.error(&place, format!("{name}: {message}"), help),
            None => reader.error(&place, message, help),
        })
        .ok()?;
    if endpoint.target().path() == "/" {
        let message = "the URL of the receiver has no path";
        let help = format!("most receivers take traces at /{TRACES_PATH}");
        reader.report(&place, Diagnostic::warning(message).help(help));
    }
    Some(endpoint)
}

fn headers(section: &Section<'_, '_>, table: &mut TracesTable) -> Option<HeaderMap> {
    let written = section.one_of(
        ("headers_env", table.headers_env.take()),
        ("headers_file", table.headers_file.take()),
    );
    let (text, span, place) = match written {
        Some((text, span)) => (text?, span, "the value"),
        None => match variable(section, "OTEL_EXPORTER_OTLP_HEADERS") {
            Some(text) => {
                (Secret::from(&*text), section.span.clone(), "OTEL_EXPORTER_OTLP_HEADERS")
            }
            None => return Some(HeaderMap::new()),
        },
    };
    let headers = text.expose_str().and_then(parse_headers);
    if headers.is_none() {
        // The message must not quote the secret.
        let message = format!("{place} does not hold headers");
        section.reader.error(&span, message, "write name=value, with commas between several");
    }
    headers
}

/// Reads `name=value,name=value`. Values are percent-encoded, as in OTEL_EXPORTER_OTLP_HEADERS.
fn parse_headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(text)? {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).ok()?;
        if OWN_HEADERS.contains(&name.as_str()) {
            return None;
        }
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Some(headers)
}

/// The headers that belong to the request itself.
const OWN_HEADERS: [&str; 7] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "upgrade",
];

fn resource(section: &Section<'_, '_>, name: Option<String>) -> Option<Vec<(String, String)>> {
    let text = variable(section, "OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let Some(mut resource) = pairs(&text) else {
        let message = "OTEL_RESOURCE_ATTRIBUTES does not hold attributes";
        let help = "write key=value, with commas between several";
        section.reader.error(&section.span, message, help);
        return None;
    };
    match name.or_else(|| variable(section, "OTEL_SERVICE_NAME")) {
        Some(name) => {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        None if resource.iter().any(|(key, _)| key == "service.name") => {}
        None => resource.push(("service.name".to_owned(), "usher".to_owned())),
    }
    Some(resource)
}

/// Returns a variable of the environment that is set and not empty: OpenTelemetry takes an empty
/// one as not set.
fn variable(section: &Section<'_, '_>, name: &str) -> Option<String> {
    (section.reader.env)(name).filter(|value| !value.trim().is_empty())
}

/// Reads pairs in the notation of OpenTelemetry: `key=value,key=value`, percent-encoded.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let written = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pairs: Option<Vec<_>> = written
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let key = key.trim();
            (!key.is_empty()).then_some(())?;
            Some((key.to_owned(), percent_decoded(value.trim())?))
        })
        .collect();
    pairs.filter(|pairs| pairs.len() <= MOST_PAIRS)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        match (first, behind) {
            (b'%', [high, low, behind @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = behind;
            }
            (b'%', _) => return None,
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse};

    const TABLE: &str = "[traces]\nurl = \"https://otel.example.com/v1/traces\"\n";

    fn read(table: &str, env: &[(&str, &str)]) -> Result<(Config, String), String> {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n[[upstream]]\nname = \"a\"\n\
             servers = [\"http://a\"]\n[[route]]\npath = \"/\"\nupstream = \"a\"\nauth = []\n\
             {table}"
        );
        let env = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        parse(&text, None, &env)
            .map(|loaded| {
                let warnings = loaded.warnings.iter().map(|warning| warning.render(false));
                (loaded.config, warnings.collect())
            })
            .map_err(|errors| errors.render(false))
    }

    fn traces_of(table: &str, env: &[(&str, &str)]) -> Traces {
        *read(table, env).unwrap().0.traces.unwrap()
    }

    #[test]
    fn without_the_table_nothing_is_traced_whatever_the_environment_says() {
        let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")];
        assert_eq!(read("", &env).unwrap().0.traces, None);
    }

    #[test]
    fn the_environment_fills_what_the_table_leaves_out() {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%3Db, X-Team=edge"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=lost"),
            ("OTEL_SERVICE_NAME", "chat"),
        ];
        let traces = traces_of("[traces]", &env);
        assert_eq!(traces.endpoint.written(), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(traces.headers["api-key"], "a=b");
        assert_eq!(traces.headers["x-team"], "edge");
        assert!(!format!("{traces:?}").contains("a=b"));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let resource = [pair("deployment.environment.name", "test"), pair("service.name", "chat")];
        assert_eq!(traces.resource, resource);

        let exact = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/exact");
        let exact = traces_of("[traces]", &[&env[..], &[exact]].concat());
        assert_eq!(exact.endpoint.written(), "http://127.0.0.1:1/exact");
        let named = traces_of(&format!("{TABLE}service_name = \"edge\""), &env);
        assert_eq!(named.endpoint.written(), "https://otel.example.com/v1/traces");
        assert_eq!(named.resource[1], pair("service.name", "edge"));
        assert_eq!(traces_of(TABLE, &[]).resource, [pair("service.name", "usher")]);
    }

    #[test]
    fn mistakes_are_named_without_the_secret() {
        for (lines, part) in [
            ("url = \"http://otel.example.com/v1/traces\"", "is plain http to another machine"),
            ("sample_ratio = 1.5", "`sample_ratio` must be a number from 0 to 1"),
            ("sample_ratio = \"1\"", "`sample_ratio` must be a number from 0 to 1"),
            ("batch = 10\nqueue = 5", "`batch` is larger than `queue`"),
            ("headers_env = \"KEY\"", "does not hold headers"),
            ("headers_env = \"HOST\"", "does not hold headers"),
            ("", "needs `url`"),
        ] {
            let table = match lines.starts_with("url") || lines.is_empty() {
                true => format!("[traces]\n{lines}"),
                false => format!("{TABLE}{lines}"),
            };
            let env = [("KEY", "the-secret"), ("HOST", "host=the-secret")];
            let message = read(&table, &env).unwrap_err();
            assert!(message.contains(part), "{part} is not in\n{message}");
            assert!(!message.contains("the-secret"), "{message}");
        }
    }

    #[test]
    fn a_url_without_a_path_is_warned_about() {
        let (_, warnings) = read("[traces]\nurl = \"http://127.0.0.1:4318\"", &[]).unwrap();
        assert!(warnings.contains("the URL of the receiver has no path"), "{warnings}");
    }

    #[test]
    fn a_ratio_may_be_a_whole_number() {
        assert_eq!(traces_of(&format!("{TABLE}sample_ratio = 0"), &[]).sample_ratio, 0.0);
        assert_eq!(traces_of(&format!("{TABLE}sample_ratio = 0.25"), &[]).sample_ratio, 0.25);
        assert_eq!(traces_of(TABLE, &[]).sample_ratio, 1.0);
    }
}
