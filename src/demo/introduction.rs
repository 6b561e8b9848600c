//! The introduction of the demo on the terminal: addresses, configuration, and commands to paste.

use std::fmt::Write as _;
use std::path::Path;

use super::configuration::Ports;

// Parts of the commands.
const NAME: &str = r#"-H 'Content-Type: application/json' -d '{"name":"ada"}'"#;
const FIND_TOKEN: &str = r#"| sed -E 's/.*"token":"([^"]+)".*/\1/'"#;
const FIND_TICKET: &str = r#"| sed -E 's/.*"ticket_id": ?"([^"]+)".*/\1/'"#;
const BEARER: &str = r#"-H "Authorization: Bearer $TOKEN""#;
const UPGRADE: &str = "-H 'Connection: Upgrade' -H 'Upgrade: websocket' \
                       -H 'Sec-WebSocket-Version: 13' \
                       -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='";

#[derive(Clone, Copy)]
pub struct Colours(bool);

impl Colours {
    pub fn of_stdout() -> Self {
        Self(crate::base::terminal::is_coloured(&std::io::stdout()))
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

pub fn introduction(folder: &Path, ports: Ports, configuration: &str, colours: Colours) -> String {
    let Ports { plain, tls, admin } = ports;
    let base = format!("http://127.0.0.1:{plain}");
    let cert = folder.join("cert.pem");
    let cert = cert.display();
    let heading = |text: &str| colours.paint("1", text);
    let note = |text: &str| colours.paint("2", text);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "\n  {}  {}\n",
        heading("Usher demo"),
        note("loopback only, with temporary files")
    );
    let _ = writeln!(
        out,
        "  Open   {}   {}",
        colours.paint("1;36", &base),
        note("and follow the three steps")
    );
    let _ = writeln!(
        out,
        "  TLS    https://localhost:{tls}   {}",
        note("with a certificate made for this run")
    );
    let _ = writeln!(out, "  Admin  http://127.0.0.1:{admin}\n");

    let _ = writeln!(
        out,
        "{}  {}",
        heading("usher.toml"),
        note("the configuration of the demo; its files are removed at the end")
    );
    for line in configuration.lines() {
        let _ = writeln!(
            out,
            "{}",
            if line.is_empty() {
                String::new()
            } else {
                format!("    {}", colours.paint("32", line))
            }
        );
    }

    let commands = [
        ("log in", format!("TOKEN=$(curl -s {base}/login {NAME} {FIND_TOKEN})")),
        ("call the API as that user", format!("curl -s {base}/api/hello {BEARER}")),
        (
            "request a ticket",
            format!("TICKET=$(curl -s -X POST {base}/websocket/ticket {BEARER} {FIND_TICKET})"),
        ),
        (
            "check whether the ticket is valid (without using it)",
            format!("curl -s {base}/websocket/ticket/$TICKET/validate {BEARER}"),
        ),
        (
            "open the WebSocket with the ticket for three seconds; a second run is rejected",
            format!(
                "curl -isN --http1.1 --max-time 3 --output - \"{base}/ws?ticket=$TICKET\" {UPGRADE}"
            ),
        ),
        ("list the open sessions", format!("curl -s http://127.0.0.1:{admin}/sessions")),
        (
            "call the API over TLS",
            format!("curl -s --cacert {cert} https://localhost:{tls}/api/hello {BEARER}"),
        ),
    ];
    let _ = writeln!(out, "\n{}  {}", heading("Commands"), note("to paste, one line at a time"));
    for (purpose, command) in commands {
        let _ = writeln!(out, "    {}\n    {command}", note(&format!("# {purpose}")));
    }
    let _ = writeln!(out, "\n  Stop with Ctrl-C.\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { plain: 7080, tls: 7443, admin: 7090 };

    #[test]
    fn the_introduction_shows_no_secret_and_no_colour_off_a_terminal() {
        let text =
            introduction(Path::new("/tmp/x"), PORTS, "state_dir = \"/tmp/x\"\n", Colours(false));
        assert!(text.contains("http://127.0.0.1:7080") && text.contains("state_dir"));
        assert!(!text.contains('\x1b'));
        assert!(introduction(Path::new("/tmp/x"), PORTS, "", Colours(true)).contains('\x1b'));
    }
}
