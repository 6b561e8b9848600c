//! `[[upstream]]`.

use super::*;

pub(super) fn upstream(section: &Section<'_, '_>, seen: &mut Names) -> Option<Upstream> {
    let name = section.required("name", "such as `name = \"chat\"`");
    if let Some((name, span)) = &name {
        seen.add(section.reader, "upstream", name, span);
    }
    if section.list("servers").is_none_or(|servers| servers.is_empty()) {
        section.missing("servers", "name at least one: `servers = [\"http://127.0.0.1:9000\"]`");
    }
    let upstream = Upstream {
        name: name.map(|(name, _)| name).unwrap_or_default().into(),
        servers: section.parsed_list("servers", |text| server(section.reader, text)),
        dial_timeout: positive(section, "dial_timeout", 3 * SECOND),
        answer_timeout: positive(section, "answer_timeout", 10 * SECOND),
        max_idle: section.count("max_idle", 32),
        idle_timeout: positive(section, "idle_timeout", 60 * SECOND),
        ca_file: section.text("ca_file").map(|(file, _)| section.reader.file(&file)),
        server_name: section.text("server_name").map(|(name, _)| name),
    };
    section.finish();
    Some(upstream)
}

fn server(reader: &Reader<'_>, text: &str) -> Result<Server, String> {
    let wrong = || format!("`{text}` is not a server; write \"http://host:port\", \"https://host:port\" or \"unix:/path\"");
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() { Err(wrong()) } else { Ok(Server::Unix { path: reader.path(path) }) };
    }
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or_else(wrong)?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(format!("`{text}` has more than a host and a port; a server takes neither path, query nor user"));
    }
    let host = authority.host().to_owned();
    match scheme {
        "http" => Ok(Server::Plain { host, port: authority.port_u16().unwrap_or(80) }),
        "https" => Ok(Server::Tls { host, port: authority.port_u16().unwrap_or(443) }),
        _ => Err(wrong()),
    }
}
