//! The CONNECT frame of STOMP: it has one token in one header. The broker gets the frame with
//! another login or none, and without another change. This is true even for a broker that ends
//! lines at a bare carriage return.

use std::sync::{Arc, LazyLock};

use super::login::{self, Credential, Login, SERVICE, UserName};
use super::settings::SECRET;
use usher::config::{FirstMessage, Forward};
use usher::model::faults::FirstMessageFault;
use usher::ws::frame::Message;

static RULES: LazyLock<Vec<Arc<FirstMessage>>> =
    LazyLock::new(|| login::rules("stomp", UserName::OfTheService));

pub fn run(bytes: &[u8]) {
    for rules in RULES.iter() {
        let login = login::read(rules, true, &[bytes]);
        if let Login::Read { token, forward, rest } = &login {
            check(rules, bytes, token, forward, rest);
        }
        // RabbitMQ and others also accept binary messages.
        let binary = match login::read(rules, false, &[bytes]) {
            Login::Read { token, mut forward, rest } => {
                forward.is_text = true;
                Login::Read { token, forward, rest }
            }
            other => other,
        };
        assert_eq!(binary, login, "a binary message is read differently");
        login::check_decided_once(rules, bytes);
    }
}

fn check(
    rules: &Arc<FirstMessage>,
    bytes: &[u8],
    token: &Credential,
    forward: &Message,
    rest: &[u8],
) {
    let text = std::str::from_utf8(bytes).expect("a login is UTF-8");
    let (frame, behind) = text.split_once('\0').expect("a login has an end");
    let behind = behind.trim_start_matches(['\r', '\n', '\0']);
    assert_eq!(behind.as_bytes(), rest, "the bytes after the frame are not complete");
    let written = Frame::read(frame);
    let tokens: Vec<_> = written.headers.iter().filter(|header| header.is_a_secret()).collect();
    let [header] = tokens.as_slice() else { panic!("{} tokens in one login", tokens.len()) };
    let value = header.value.trim();
    let token = std::str::from_utf8(token.bytes()).expect("a token is UTF-8");
    let scheme = value.strip_suffix(token).expect("the token ends its header").trim();
    assert!(scheme.is_empty() || scheme.eq_ignore_ascii_case("bearer"), "not a scheme: {scheme}");

    let sent = std::str::from_utf8(&forward.payload).expect("the frame was text");
    let sent = sent.strip_suffix('\0').expect("the frame ends");
    assert!(!sent.contains('\0'), "two frames are forwarded instead of one");
    let sent = Frame::read(sent);
    assert_eq!(sent.command, written.command);
    assert_eq!(sent.body, written.body, "the body has changed");
    let others = |frame: &Frame| -> Vec<Header> {
        frame.headers.iter().filter(|header| !header.is_of_a_login()).cloned().collect()
    };
    assert_eq!(others(&sent), others(&written), "more than the login has changed");
    let logins: Vec<_> = sent.headers.iter().filter(|header| header.is_of_a_login()).collect();
    match rules.forward {
        Forward::Forward => assert_eq!(sent.headers, written.headers),
        Forward::Redact => assert!(!sent.headers.iter().any(Header::is_a_secret), "{logins:?}"),
        Forward::Remove => assert!(logins.is_empty(), "{logins:?}"),
        Forward::Replace => {
            let login =
                |(name, value): (&str, &str)| Header { name: name.into(), value: value.into() };
            let service = [("login", SERVICE), ("passcode", SECRET)].map(login);
            assert_eq!(logins, service.iter().collect::<Vec<_>>());
        }
        Forward::Consume => panic!("no target consumes the login"),
    }
    login::check_again(rules, &Credential::Token(token.into()), forward);
    let whole = Message::text([frame, "\0"].concat());
    login::check_later(rules, &whole, &forward.payload);
    if text.starts_with(['\r', '\n']) {
        let at_once = login::read(rules, true, &[text.trim_start_matches(['\r', '\n']).as_bytes()]);
        assert!(matches!(at_once, Login::Read { .. }), "heart-beats change the login");
    }
    let headless = [&[0], bytes].concat();
    let fault = Login::Refused(FirstMessageFault::NotAuth);
    assert_eq!(login::read(rules, true, &[&headless]), fault, "a login begins with NUL");
}

/// A frame, read by a reader that accepts every line end.
#[derive(Debug)]
struct Frame {
    command: String,
    headers: Vec<Header>,
    body: String,
}

/// A header with its name and value as written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    name: String,
    value: String,
}

impl Frame {
    fn read(frame: &str) -> Self {
        let frame = frame.trim_start_matches(['\r', '\n']);
        let mut lines = frame.split_inclusive('\n');
        let line_of = |line: &str| line.trim_end_matches(['\r', '\n']).to_owned();
        let command = lines.next().map(line_of).unwrap_or_default();
        let mut headers = Vec::new();
        for line in lines.by_ref().map(line_of).take_while(|line| !line.is_empty()) {
            for line in line.split('\r') {
                // A line without a colon is not a header, and is forwarded unchanged.
                let (name, value) = line.split_once(':').unwrap_or(("", line));
                headers.push(Header { name: name.to_owned(), value: value.to_owned() });
            }
        }
        Self { command, headers, body: lines.collect() }
    }
}

impl Header {
    fn is_named(&self, names: &[&str]) -> bool {
        names.contains(&self.name.trim().to_ascii_lowercase().as_str())
    }

    fn is_of_a_login(&self) -> bool {
        self.is_named(&["login", "passcode", "authorization"])
    }

    fn is_a_secret(&self) -> bool {
        self.is_named(&["passcode", "authorization"]) && !self.value.trim().is_empty()
    }
}
