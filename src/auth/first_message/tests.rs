//! Tests of the messages of each dialect, and of its treatment of the secret.

use serde_json::{Value, json};

use super::*;
use crate::config::TEST_SECRET as SECRET;

fn rules(table: &str) -> Arc<FirstMessage> {
    let config =
        crate::config::for_test(&format!("auth = [\"message\"]\n[route.first_message]\n{table}"));
    Arc::clone(&config.routes[0].first_message)
}

fn dialect(table: &str) -> Dialect {
    Dialect::new(&rules(table))
}

fn read(dialect: &mut Dialect, text: &str) -> Result<FirstMessageContent, Rejection> {
    dialect.read(&Message::text(text))
}

fn auth(heard: Result<FirstMessageContent, Rejection>) -> AuthMessage {
    match heard.unwrap() {
        FirstMessageContent::Auth(auth) => auth,
        other => panic!("{other:?}"),
    }
}

fn token(proof: &Proof) -> &str {
    match proof {
        Proof::Token(secret)
        | Proof::Ticket(secret)
        | Proof::Session(secret)
        | Proof::Bypass(secret) => secret.expose_str().unwrap(),
        Proof::Certificate(_) => panic!("a message cannot carry a certificate"),
    }
}

fn text(message: Option<Message>) -> String {
    String::from_utf8(message.unwrap().payload).unwrap()
}

const REFUSED: Refused<'static> = Refused {
    code: "INVALID_TOKEN",
    message: "the token is not valid",
    status: 401,
    recoverable: true,
    details: &[],
    request_id: "r1",
    id: Some("m1"),
    now: UnixMillis(0),
};
const ACCEPTED: Accepted<'static> = Accepted {
    user: "ada",
    session_id: "s1",
    expires_at: Some(UnixMillis(9_000)),
    id: Some("m1"),
    now: UnixMillis(0),
};
const QUESTION: RenewalQuestion = RenewalQuestion {
    expires_at: UnixMillis(9_000),
    grace: Duration::from_secs(30),
    now: UnixMillis(0),
};

#[test]
fn json_takes_a_token_or_a_ticket_and_answers_under_the_client_s_id() {
    let mut dialect = dialect("");
    let heard =
        auth(read(&mut dialect, r#"{"type":"auth","id":"m1","payload":{"token":"t.o.k"}}"#));
    assert!(matches!(heard.proof, Proof::Token(_)));
    assert_eq!(
        (token(&heard.proof), heard.id.as_deref(), heard.forward),
        ("t.o.k", Some("m1"), None)
    );
    let heard = auth(read(&mut dialect, r#"{"type":"auth","payload":{"token":"Bearer t.o.k"}}"#));
    assert_eq!(token(&heard.proof), "t.o.k");
    let heard = auth(read(&mut dialect, r#" {"payload":{"ticket":"abc"},"type":"\u0061uth"}"#));
    assert!(matches!(heard.proof, Proof::Ticket(_)));
    for (message, fault) in [
        ("hello", FirstMessageFault::NotAuth),
        ("[]", FirstMessageFault::NotAuth),
        (r#"{"type":"hello","payload":{"token":"t"}}"#, FirstMessageFault::NotAuth),
        (r#"{"type":"auth","type":"hello","payload":{"token":"t"}}"#, FirstMessageFault::NotAuth),
        (r#"{"type":"auth"}"#, FirstMessageFault::MissingToken),
        (r#"{"type":"auth","payload":{"token":""}}"#, FirstMessageFault::MissingToken),
        (r#"{"type":"auth","payload":{"token":5}}"#, FirstMessageFault::MissingToken),
    ] {
        assert_eq!(
            read(&mut dialect, message).unwrap_err(),
            Rejection::FirstMessage(fault),
            "{message}"
        );
    }
    let binary = Message::binary(br#"{"type":"auth","payload":{"token":"t"}}"#.to_vec());
    assert_eq!(
        dialect.read(&binary).unwrap_err(),
        Rejection::FirstMessage(FirstMessageFault::NotAuth)
    );

    let said: Value = serde_json::from_str(&text(dialect.accepted(&ACCEPTED))).unwrap();
    assert_eq!(
        said,
        json!({"type": "auth_ok", "id": "m1", "timestamp": "1970-01-01T00:00:00.000Z",
               "payload": {"user": "ada", "session_id": "s1", "expires_at": 9000}})
    );
    let said: Value = serde_json::from_str(&text(dialect.refused(&REFUSED))).unwrap();
    assert_eq!(
        said,
        json!({"type": "error", "id": "m1", "timestamp": "1970-01-01T00:00:00.000Z",
               "payload": {"code": "INVALID_TOKEN", "message": "the token is not valid",
                           "recoverable": true, "details": {"status": 401}, "request_id": "r1"}})
    );
    let details = [("attempts_left", json!(2))];
    let told = Refused { details: &details, ..REFUSED };
    let said: Value = serde_json::from_str(&text(dialect.not_renewed(&told))).unwrap();
    assert_eq!(said["payload"]["details"], json!({"status": 401, "attempts_left": 2}));
    let said: Value = serde_json::from_str(&text(dialect.ask(&QUESTION))).unwrap();
    assert_eq!(
        said["payload"],
        json!({"reason": "Token expiring soon", "expires_at": 9000, "grace_seconds": 30})
    );
    let id = said["id"].as_str().unwrap();
    assert!(
        id.len() == 36 && id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]),
        "{id}"
    );
}

#[test]
fn an_answer_is_found_and_everything_else_is_the_application_s() {
    let dialect = dialect("");
    assert!(matches!(
        dialect.answer(br#"{"type":"auth","payload":{"token":"t"}}"#),
        Some(RenewalAnswer::Proof { .. })
    ));
    assert!(matches!(
        dialect.answer(br#"{"type":"\u0061\u0075th","payload":{"token":"t"}}"#),
        Some(RenewalAnswer::Proof { .. })
    ));
    assert!(matches!(
        dialect.answer(br#"{"type":"auth","id":"x"}"#),
        Some(RenewalAnswer::Wrong { id: Some(_), .. })
    ));
    for other in [
        &b"hello"[..],
        b"{\"type\":\"chat\",\"text\":\"auth\"}",
        b"{broken auth",
        b"\xff\\auth",
        b"",
        b"[\"auth\"]",
    ] {
        assert!(dialect.answer(other).is_none());
    }
    for doubled in [
        &br#"{"type":"auth","payload":{"token":"t","token":null}}"#[..],
        br#"{"type":"auth","payload":{"token":null},"payload":{"token":"t"}}"#,
    ] {
        assert!(matches!(
            dialect.answer(doubled),
            Some(RenewalAnswer::Wrong { fault: FirstMessageFault::TwoCredentials, .. })
        ));
    }
    assert!(dialect.answer(br#"{"type":"chat","text":"auth","text":"token"}"#).is_none());
}

#[test]
fn other_json_dialects_fit_by_pointers() {
    let table = "type_pointer = \"/msg\"\ntype_value = \"login\"\n\
                 token_pointer = \"/params/0/resume\"\nforward = \"redact\"\nack = false\n\
                 greeting = '{\"server\":1}'";
    let mut dialect = dialect(table);
    assert_eq!(text(dialect.greeting()), r#"{"server":1}"#);
    let heard = auth(read(&mut dialect, r#"{"msg":"login","params":[{"resume":"secret"}]}"#));
    assert_eq!(token(&heard.proof), "secret");
    assert_eq!(text(heard.forward), r#"{"msg":"login","params":[{"resume":""}]}"#);
    assert!(dialect.accepted(&ACCEPTED).is_none());
}

#[test]
fn graphql_hears_connection_init_and_asks_by_ping() {
    let mut dialect = dialect("preset = \"graphql-transport-ws\"");
    match read(&mut dialect, r#"{"type":"ping"}"#).unwrap() {
        FirstMessageContent::More(answer) => assert_eq!(text(answer), r#"{"type":"pong"}"#),
        other => panic!("{other:?}"),
    }
    let heard = auth(read(
        &mut dialect,
        r#"{"type":"connection_init","payload":{"token":"secret","more":1}}"#,
    ));
    assert_eq!(
        text(heard.forward),
        r#"{"type":"connection_init","payload":{"token":"","more":1}}"#
    );
    let subscribe = read(&mut dialect, r#"{"type":"subscribe","id":"1"}"#);
    assert_eq!(subscribe.unwrap_err(), Rejection::FirstMessage(FirstMessageFault::MissingToken));
    let complete = read(&mut dialect, r#"{"type":"complete","id":"1"}"#);
    assert_eq!(complete.unwrap_err(), Rejection::FirstMessage(FirstMessageFault::NotAuth));
    assert!(dialect.accepted(&ACCEPTED).is_none() && dialect.refused(&REFUSED).is_none());
    let asked: Value = serde_json::from_str(&text(dialect.ask(&QUESTION))).unwrap();
    assert_eq!(
        (&asked["type"], &asked["payload"]["type"]),
        (&json!("ping"), &json!("auth_required"))
    );
    assert!(matches!(
        dialect.answer(br#"{"type":"pong","payload":{"token":"t"}}"#),
        Some(RenewalAnswer::Proof { .. })
    ));
    assert!(matches!(
        dialect.answer(br#"{"type":"pong","payload":{"type":"auth_required","id":"q"}}"#),
        Some(RenewalAnswer::Echo)
    ));
    assert!(dialect.answer(br#"{"type":"pong"}"#).is_none());
    assert!(dialect.answer(br#"{"type":"pong","payload":{"a":1,"a":2}}"#).is_none());
    assert!(matches!(
        dialect.answer(br#"{"type":"pong","payload":{"token":"t","token":null}}"#),
        Some(RenewalAnswer::Wrong { fault: FirstMessageFault::TwoCredentials, .. })
    ));
    assert!(dialect.answer(br#"{"type":"subscribe","payload":{"token":"t"}}"#).is_none());
}

#[test]
fn socket_io_greets_first_and_keeps_to_the_client_s_namespace() {
    let mut dialect = dialect("preset = \"socketio\"");
    let open = text(dialect.greeting());
    let open: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
    assert_eq!((&open["pingInterval"], &open["upgrades"]), (&json!(25_000), &json!([])));
    assert!(open["sid"].is_string());
    let heard = auth(read(&mut dialect, r#"40/admin,{"token":"secret"}"#));
    assert_eq!(
        (token(&heard.proof), text(heard.forward)),
        ("secret", r#"40/admin,{"token":""}"#.to_owned())
    );
    assert!(text(dialect.refused(&REFUSED)).starts_with(
        r#"44/admin,{"message":"the token is not valid","data":{"code":"INVALID_TOKEN""#
    ));
    assert!(text(dialect.ask(&QUESTION)).starts_with(r#"42/admin,["auth_required",{"#));
    assert!(matches!(
        dialect.answer(br#"42/admin,["auth",{"token":"t"}]"#),
        Some(RenewalAnswer::Proof { .. })
    ));
    assert!(matches!(
        dialect.answer(br#"427["auth",{"token":"t"}]"#),
        Some(RenewalAnswer::Proof { .. })
    ));
    assert!(dialect.answer(br#"42["chat","auth"]"#).is_none());
    assert!(dialect.logs_in_again());
    let more = dialect.login_again(true, br#"40/more,{"token":"secret","a":1}"#);
    assert_eq!(text(more), r#"40/more,{"token":"","a":1}"#);
    for other in [&b"40/more,"[..], b"40/more,{\"a\":1}", b"42[\"token\"]", b"2"] {
        assert!(dialect.login_again(true, other).is_none());
    }
    assert!(
        dialect.greeted_for_the_upstream()
            && dialect.is_greeting(b"0{\"sid\":\"x\"}")
            && !dialect.is_greeting(b"2")
    );
    for (message, fault) in [
        ("40", FirstMessageFault::MissingToken),
        ("2probe", FirstMessageFault::NotAuth),
        ("42[\"x\"]", FirstMessageFault::NotAuth),
    ] {
        assert_eq!(read(&mut dialect, message).unwrap_err(), Rejection::FirstMessage(fault));
    }
}

#[test]
fn home_assistant_names_its_version_in_every_answer() {
    let mut dialect = dialect(
        "preset = \"home-assistant\"\n\
         greeting = '{\"type\":\"auth_required\",\"ha_version\":\"2026.11.0\"}'",
    );
    assert!(text(dialect.greeting()).contains("auth_required"));
    assert_eq!(
        token(&auth(read(&mut dialect, r#"{"type":"auth","access_token":"secret"}"#)).proof),
        "secret"
    );
    assert_eq!(text(dialect.accepted(&ACCEPTED)), r#"{"type":"auth_ok","ha_version":"2026.11.0"}"#);
    assert_eq!(
        text(dialect.refused(&REFUSED)),
        r#"{"type":"auth_invalid","message":"the token is not valid"}"#
    );
    assert!(!dialect.greeted_for_the_upstream());
    let mut dialect = self::dialect("preset = \"home-assistant\"\nforward = \"redact\"");
    assert!(
        dialect.greeted_for_the_upstream()
            && dialect.is_greeting(br#"{"type":"auth_required","ha_version":"1"}"#)
    );
    let heard = auth(read(&mut dialect, r#"{"type":"auth","access_token":"secret"}"#));
    assert_eq!(text(heard.forward), r#"{"type":"auth","access_token":""}"#);
    assert!(dialect.accepted(&ACCEPTED).is_none(), "the upstream sends it");
}

#[test]
fn stomp_hides_the_secret_wherever_it_may_stand() {
    let mut dialect = dialect("preset = \"stomp\"\nforward = \"redact\"");
    assert!(matches!(read(&mut dialect, "\n\r\n"), Ok(FirstMessageContent::More(None))));
    let heard = auth(read(
        &mut dialect,
        "\nCONNECT\naccept-version:1.2\nAuthorization:Bearer secret\r\npasscode:\n\n\0\n",
    ));
    assert_eq!(token(&heard.proof), "secret");
    assert_eq!(
        text(heard.forward),
        "CONNECT\naccept-version:1.2\nAuthorization:\r\npasscode:\n\n\0"
    );
    assert!(heard.rest.is_none());
    let heard =
        auth(read(&mut dialect, "STOMP\nlogin:ada\npasscode:secret\n\n\0SUBSCRIBE\nid:0\n\n\0"));
    assert_eq!(
        (token(&heard.proof), text(heard.rest)),
        ("secret", "SUBSCRIBE\nid:0\n\n\0".to_owned())
    );
    assert_eq!(
        read(&mut dialect, "CONNECT\n\n\0").unwrap_err(),
        Rejection::FirstMessage(FirstMessageFault::MissingToken)
    );
    for message in [
        "SEND\n\n\0",
        "\0CONNECT\npasscode:secret\n\n\0",
        "CONNECT\npasscode:secret\nx:y\rlogin:root\n\n\0",
    ] {
        assert_eq!(
            read(&mut dialect, message).unwrap_err(),
            Rejection::FirstMessage(FirstMessageFault::NotAuth),
            "{message:?}"
        );
    }
    assert!(text(dialect.refused(&REFUSED)).starts_with("ERROR\nmessage:the token is not valid\n"));
    let refused = text(dialect.refused(&Refused { message: "lacks `room:a\\b\r\nc`", ..REFUSED }));
    assert!(refused.starts_with("ERROR\nmessage:lacks `room\\ca\\\\b\\r\\nc`\n"), "{refused}");
    assert!(dialect.ask(&QUESTION).is_none());
}

fn connect(level: u8, will: bool, password: Option<&[u8]>) -> Vec<u8> {
    connect_as(level, will, Some(b"ada"), password)
}

fn connect_as(level: u8, will: bool, user: Option<&[u8]>, password: Option<&[u8]>) -> Vec<u8> {
    fn field(packet: &mut Vec<u8>, bytes: &[u8]) {
        packet.extend((bytes.len() as u16).to_be_bytes());
        packet.extend(bytes);
    }
    let mut packet = Vec::new();
    field(&mut packet, b"MQTT");
    packet.push(level);
    let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
    packet.push(
        0x02 | flag(will, 0x04) | flag(user.is_some(), 0x80) | flag(password.is_some(), 0x40),
    );
    packet.extend([0, 60]);
    if level == 5 {
        packet.extend([5, 0x11, 0, 0, 0, 10]);
    }
    field(&mut packet, b"client-1");
    if will {
        if level == 5 {
            packet.push(0);
        }
        field(&mut packet, b"topic");
        field(&mut packet, b"gone");
    }
    if let Some(user) = user {
        field(&mut packet, user);
    }
    if let Some(password) = password {
        field(&mut packet, password);
    }
    let mut wire = vec![0x10];
    let mut length = packet.len();
    while length > 127 {
        wire.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    wire.push(length as u8);
    wire.extend(packet);
    wire
}

#[test]
fn mqtt_is_gathered_from_any_pieces_and_loses_its_password() {
    for (level, will, size) in [(4, false, 6), (4, true, 300), (5, false, 300), (5, true, 6)] {
        let secret = vec![b's'; size];
        let with = connect(level, will, Some(&secret));
        let without = connect(level, will, Some(b""));
        for step in [1, 2, 7, with.len()] {
            let mut dialect = dialect("preset = \"mqtt\"\nforward = \"redact\"");
            let stream = [&with[..], b"\xc0\0"].concat();
            let mut heard = None;
            for piece in stream.chunks(step) {
                match dialect.read(&Message::binary(piece.to_vec())).unwrap() {
                    FirstMessageContent::More(answer) => assert!(answer.is_none()),
                    FirstMessageContent::Auth(auth) => {
                        heard = Some(auth);
                        break;
                    }
                }
            }
            let heard = heard.unwrap();
            assert_eq!(token(&heard.proof).as_bytes(), secret);
            assert_eq!(heard.forward.unwrap(), Message::binary(without.clone()));
            if step == with.len() {
                assert!(heard.rest.is_none());
            }
            let refused = dialect.refused(&REFUSED).unwrap().payload;
            assert_eq!(
                refused,
                if level == 5 { vec![0x20, 3, 0, 0x86, 0] } else { vec![0x20, 2, 0, 4] }
            );
        }
    }
    let whole = [connect(4, false, Some(b"secret")), b"\xc0\0".to_vec()].concat();
    let heard = auth(dialect("preset = \"mqtt\"").read(&Message::binary(whole)));
    assert_eq!(heard.rest, Some(Message::binary(b"\xc0\0".to_vec())));
}

#[test]
fn what_is_no_connect_packet_is_refused_at_once() {
    let fault = |bytes: &[u8]| {
        dialect("preset = \"mqtt\"").read(&Message::binary(bytes.to_vec())).unwrap_err()
    };
    for bytes in [&b"\x82\x05"[..], b"\x10\xff\xff\xff\xff\x01", b"\x10\x02\0\x04"] {
        assert_eq!(fault(bytes), Rejection::FirstMessage(FirstMessageFault::NotAuth), "{bytes:?}");
    }
    assert_eq!(fault(b"\x10\xff\xff\x03"), Rejection::FirstMessage(FirstMessageFault::TooBig));
    assert_eq!(
        fault(&connect(4, false, None)),
        Rejection::FirstMessage(FirstMessageFault::MissingToken)
    );
    let mut longer = connect(4, false, Some(b"secret"));
    longer[1] += 1;
    longer.push(0);
    assert_eq!(
        fault(&longer),
        Rejection::FirstMessage(FirstMessageFault::NotAuth),
        "longer than its fields"
    );
    let mut dialect = dialect("preset = \"mqtt\"");
    assert!(read(&mut dialect, "text").is_err());
    assert!(dialect.refused(&REFUSED).is_none(), "the version of the protocol is unknown");
}

const TWO: Rejection = Rejection::FirstMessage(FirstMessageFault::TwoCredentials);

#[test]
fn a_second_credential_is_refused_in_every_dialect() {
    for (preset, message) in [
        ("json", r#"{"type":"auth","payload":{"token":"good","ticket":"junk"}}"#),
        ("json", r#"{"type":"auth","payload":{"token":5,"ticket":"good"}}"#),
        ("json", r#"{"type":"auth","payload":{"token":"good","ticket":{}}}"#),
        (
            "graphql-transport-ws",
            r#"{"type":"connection_init","payload":{"token":"good","ticket":"junk"}}"#,
        ),
        ("socketio", r#"40{"token":"good","ticket":"junk"}"#),
        ("home-assistant", r#"{"type":"auth","access_token":"good","ticket":"junk"}"#),
        ("stomp", "CONNECT\nAuthorization:Bearer good\npasscode:junk\n\n\0"),
        ("stomp", "CONNECT\npasscode:good\npasscode:junk\n\n\0"),
        ("stomp", "CONNECT\nauthorization:good\nAuthorization:junk\n\n\0"),
        ("stomp", "CONNECT\npasscode:good\n\n\0CONNECT\npasscode:junk\n\n\0"),
        ("stomp", "CONNECT\npasscode:good\n\n\0CONNECT\rpasscode:junk\r\r\0"),
        // RabbitMQ skips the second NUL.
        ("stomp", "CONNECT\npasscode:good\n\n\0\0CONNECT\npasscode:junk\n\n\0"),
    ] {
        let heard = read(&mut dialect(&format!("preset = \"{preset}\"")), message);
        assert_eq!(heard.unwrap_err(), TWO, "{message}");
    }
    // Values that clients write for an absent field do not count as credentials.
    for message in [
        r#"{"type":"auth","payload":{"token":"good","ticket":null}}"#,
        r#"{"type":"auth","payload":{"token":"","ticket":"good"}}"#,
    ] {
        assert_eq!(token(&auth(read(&mut dialect(""), message)).proof), "good", "{message}");
    }
    let mut twice = connect(4, false, Some(b"good"));
    twice.extend(connect(4, false, Some(b"junk")));
    assert_eq!(dialect("preset = \"mqtt\"").read(&Message::binary(twice)).unwrap_err(), TWO);
    // The properties get an authentication method, with and without its data.
    for more in [&b"\x15\0\x02xy\x16\0\x03key"[..], b"\x15\0\x02xy"] {
        let mut enhanced = connect(5, false, Some(b"good"));
        let at = 2 + 6 + 1 + 1 + 2;
        enhanced[at] += more.len() as u8;
        enhanced.splice(at + 6..at + 6, more.iter().copied());
        enhanced[1] += more.len() as u8;
        assert_eq!(
            dialect("preset = \"mqtt\"").read(&Message::binary(enhanced)).unwrap_err(),
            TWO,
            "{more:?}"
        );
    }
}

#[test]
fn a_second_credential_in_an_answer_is_one_too_many() {
    for (preset, message) in [
        ("json", &br#"{"type":"auth","payload":{"token":"good","ticket":"junk"}}"#[..]),
        ("graphql-transport-ws", br#"{"type":"pong","payload":{"token":"good","ticket":"junk"}}"#),
        ("socketio", br#"42["auth",{"token":"good","ticket":"junk"}]"#),
        ("socketio", br#"42["auth",{"token":"good","token":"junk"}]"#),
        ("socketio", br#"42/a,7["auth",{"token":"good","token":null}]"#),
        ("home-assistant", br#"{"type":"auth","access_token":"good","ticket":"junk"}"#),
    ] {
        let answer = dialect(&format!("preset = \"{preset}\"")).answer(message);
        assert!(
            matches!(
                answer,
                Some(RenewalAnswer::Wrong { fault: FirstMessageFault::TwoCredentials, .. })
            ),
            "{preset}: {answer:?}"
        );
    }
}

#[test]
fn the_upstream_gets_no_login_or_that_of_the_service() {
    let text_of =
        |table: &str, message: &str| text(auth(read(&mut dialect(table), message)).forward);
    let login = "forward = \"replace\"\nsecret_env = \"ANY\"";
    let stomp = "CONNECT\r\nlogin:ada\r\npasscode:token\r\nhost:/\r\n\r\n\0";
    assert_eq!(
        text_of("preset = \"stomp\"", stomp),
        "CONNECT\r\nhost:/\r\n\r\n\0",
        "a broker gets no login by default"
    );
    assert_eq!(
        text_of("preset = \"stomp\"\nforward = \"remove\"", stomp),
        "CONNECT\r\nhost:/\r\n\r\n\0"
    );
    assert_eq!(
        text_of(&format!("preset = \"stomp\"\nuser = \"svc\"\n{login}"), stomp),
        format!("CONNECT\r\nlogin:svc\r\npasscode:{SECRET}\r\nhost:/\r\n\r\n\0")
    );
    // The client's own user is removed in every spelling. Lines below the headers are not headers.
    let spelled = "STOMP\nLogin:root\n login :root\nlogin:root\nAuthorization:Bearer token\n\
                   content-length:8\n\nlogin:me\0";
    assert_eq!(
        text_of(&format!("preset = \"stomp\"\nuser = \"svc\"\n{login}"), spelled),
        format!("STOMP\nlogin:svc\npasscode:{SECRET}\ncontent-length:8\n\nlogin:me\0")
    );
    let init = r#"{"type":"connection_init","payload":{"ticket":"t","a":1}}"#;
    let graphql = "preset = \"graphql-transport-ws\"";
    assert_eq!(
        text_of(&format!("{graphql}\nforward = \"remove\""), init),
        r#"{"type":"connection_init","payload":{"a":1}}"#
    );
    assert_eq!(
        text_of(&format!("{graphql}\n{login}"), init),
        format!(r#"{{"type":"connection_init","payload":{{"a":1,"token":"{SECRET}"}}}}"#)
    );
    for (level, will) in [(4, false), (4, true), (5, false), (5, true)] {
        let packet =
            |user: Option<&[u8]>, password: Option<&[u8]>| connect_as(level, will, user, password);
        let sent = Message::binary(packet(Some(b"ada"), Some(b"token")));
        let got = |table: &str| {
            auth(dialect(&format!("preset = \"mqtt\"\n{table}")).read(&sent))
                .forward
                .unwrap()
                .payload
        };
        assert_eq!(got(""), packet(None, None), "a broker gets no login by default");
        assert_eq!(got("forward = \"remove\""), packet(None, None));
        assert_eq!(
            got(&format!("user = \"svc\"\n{login}")),
            packet(Some(b"svc"), Some(SECRET.as_bytes()))
        );
    }
}

#[test]
fn nothing_but_the_credential_of_a_login_is_written_anew() {
    // Numbers that a double does not hold, blanks, and a letter that is escaped.
    let rest = r#""n": 12345678901234567890123, "f" :1.10000000000000000001e2,"u":"\u00fc""#;
    let login = |credential: &str| {
        let comma = if credential.is_empty() { "" } else { "," };
        format!(r#"{{ "type":"auth","payload":{{{credential}{comma}{rest}}}}}"#)
    };
    let token = login(r#""token":"secret""#);
    let forwarded =
        |table: &str, message: &str| text(auth(read(&mut dialect(table), message)).forward);
    assert_eq!(forwarded("forward = \"redact\"", &token), login(r#""token":"""#));
    assert_eq!(forwarded("forward = \"remove\"", &token), login(""));
    let replace = "forward = \"replace\"\nsecret_env = \"ANY\"";
    let replaced = login("").replace(rest, &format!(r#"{rest},"token":"{SECRET}""#));
    assert_eq!(forwarded(replace, &token), replaced);
    assert_eq!(forwarded(replace, &login(r#""ticket":"t""#)), replaced);
    // The object of the token does not exist: the message is written as a whole.
    let pointers = format!("{replace}\ntoken_pointer = \"/login/token\"");
    let written = forwarded(&pointers, r#"{"type":"auth", "payload":{"ticket":"t"}}"#);
    assert_eq!(
        written,
        format!(r#"{{"type":"auth","payload":{{}},"login":{{"token":"{SECRET}"}}}}"#)
    );
    let packet = format!(r#"40/a,{{"token":"secret",{rest}}}"#);
    let socket_io = forwarded("preset = \"socketio\"\nforward = \"redact\"", &packet);
    assert_eq!(socket_io, format!(r#"40/a,{{"token":"",{rest}}}"#));
}

#[test]
fn a_login_that_comes_again_shows_the_upstream_no_secret() {
    let again = |preset: &str, is_text: bool, message: &[u8]| {
        dialect(&format!("preset = \"{preset}\"\nforward = \"redact\""))
            .login_again(is_text, message)
    };
    let init = br#"{"type":"connection_init","payload":{"token":"secret"}}"#;
    assert_eq!(
        text(again("graphql-transport-ws", true, init)),
        r#"{"type":"connection_init","payload":{"token":""}}"#
    );
    for is_text in [true, false] {
        let frame = again("stomp", is_text, b"\nSTOMP\nlogin:ada\npasscode:secret\n\n\0SEND\n\n\0")
            .unwrap();
        assert_eq!(
            (frame.is_text, frame.payload.as_slice()),
            (is_text, &b"STOMP\nlogin:ada\npasscode:\n\n\0SEND\n\n\0"[..])
        );
    }
    for (message, expected) in [
        (&b"CONNECT\rpasscode:secret\r\r\0"[..], &b"CONNECT\n\n\0"[..]),
        (b"\nSTOMP\r\nx:y\rpasscode:secret\r\n\r\n\0SEND\n\n\0", b"STOMP\n\n\0SEND\n\n\0"),
        (b"CONNECT\nx:y\r\rpasscode:secret", b"CONNECT\n\n"),
    ] {
        assert_eq!(again("stomp", true, message).unwrap().payload, expected, "{message:?}");
    }
    for (message, expected) in [
        (
            &b"SEND\n\nhello\0\nCONNECT\npasscode:secret\n\n\0\n"[..],
            &b"SEND\n\nhello\0\nCONNECT\npasscode:\n\n\0\n"[..],
        ),
        (
            b"SEND\ncontent-length:2\n\na\0\0CONNECT\npasscode:secret\n\n\0",
            b"SEND\ncontent-length:2\n\na\0\0CONNECT\npasscode:\n\n\0",
        ),
        // A length that leads nowhere hides nothing.
        (
            b"SEND\ncontent-length:900\n\na\0STOMP\npasscode:secret\n\n\0",
            b"SEND\ncontent-length:900\n\na\0STOMP\npasscode:\n\n\0",
        ),
    ] {
        assert_eq!(again("stomp", true, message).unwrap().payload, expected, "{message:?}");
    }
    for doubled in [
        &br#"{"type":"connection_init","payload":{"token":"secret","token":null}}"#[..],
        br#"{"type":"connection_init","payload":{"token":null},"payload":{"token":"secret"}}"#,
    ] {
        assert_eq!(
            text(again("graphql-transport-ws", true, doubled)),
            r#"{"type":"connection_init"}"#
        );
    }
    let packet = again("mqtt", false, &connect(5, true, Some(b"secret")));
    assert_eq!(packet.unwrap().payload, connect(5, true, Some(b"")));
    for (preset, is_text, other) in [
        ("graphql-transport-ws", true, &br#"{"type":"connection_init"}"#[..]),
        ("stomp", true, b"SEND\npasscode:mine\n\n\0"),
        ("stomp", true, b"CONNECTED\n\n\0"),
        ("stomp", true, b"SEND\ncontent-length:22\n\na\0CONNECT\npasscode:x\n\n\0"),
        ("stomp", true, b"SEND\n\nhello\0\n"),
        ("mqtt", false, b"\xc0\0"),
        ("mqtt", true, b"\x10\0"),
        ("json", true, br#"{"type":"hello"}"#),
    ] {
        assert!(again(preset, is_text, other).is_none(), "{preset}");
    }
}

#[test]
fn a_broker_s_answer_to_the_login_is_known_from_any_pieces() {
    let accepted = |preset: &str, sent: &[u8]| {
        dialect(&format!("preset = \"{preset}\"")).is_login_accepted(sent)
    };
    for (preset, answer, is_accepted) in [
        ("stomp", &b"CONNECTED\nversion:1.2\n\n\0"[..], true),
        ("stomp", b"\n\r\nCONNECTED\r\n\r\n\0", true),
        ("stomp", b"ERROR\nmessage:Bad CONNECT\n\n\0", false),
        ("stomp", b"CONNECTEDX\n\n\0", false),
        ("stomp", b"MESSAGE\n\nCONNECTED\n\0", false),
        ("mqtt", b"\x20\x02\0\0", true),
        ("mqtt", b"\x20\x02\0\x05", false),
        ("mqtt", b"\x20\x09\0\0\x06\x22\0\x0a\x21\0\x14", true),
        ("mqtt", b"\x20\x82\x01\0\x87", false),
        ("mqtt", b"\x20\x82\x01\x01\0", true),
        ("mqtt", b"\xf0\x02\x18\0", false),
        ("mqtt", b"\x20\xff\xff\xff\xff", false),
    ] {
        let decided = (0..=answer.len()).find_map(|end| accepted(preset, &answer[..end]));
        assert_eq!(decided, Some(is_accepted), "{answer:?}");
        assert_eq!(accepted(preset, answer), Some(is_accepted), "{answer:?}");
    }
    for (table, waits) in [
        ("preset = \"stomp\"", true),
        ("preset = \"mqtt\"\nforward = \"forward\"", false),
        ("", false),
    ] {
        assert_eq!(dialect(table).waits_for_login_answer(), waits, "{table}");
    }
}

#[test]
fn every_dialect_renews_in_its_own_words_or_not_at_all() {
    let begins = |message: Option<Message>| {
        message
            .map(|message| String::from_utf8(message.payload).unwrap().chars().take(16).collect())
    };
    for (preset, ask, renewed, not_renewed) in [
        ("json", r#"{"type":"auth_re"#, r#"{"type":"auth_ok"#, r#"{"type":"error","#),
        (
            "graphql-transport-ws",
            r#"{"type":"ping",""#,
            r#"{"type":"ping",""#,
            r#"{"type":"ping",""#,
        ),
        ("home-assistant", r#"{"type":"auth_re"#, r#"{"type":"auth_ok"#, r#"{"type":"auth_in"#),
        ("stomp", "", "", ""),
        ("mqtt", "", "", ""),
    ] {
        let dialect = dialect(&format!("preset = \"{preset}\""));
        let expected = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        assert_eq!(begins(dialect.ask(&QUESTION)), expected(ask), "{preset}");
        assert_eq!(begins(dialect.renewed(&ACCEPTED)), expected(renewed), "{preset}");
        assert_eq!(begins(dialect.not_renewed(&REFUSED)), expected(not_renewed), "{preset}");
        assert_eq!(dialect.is_binary(), ["stomp", "mqtt"].contains(&preset), "{preset}");
        assert!(!dialect.logs_in_again(), "{preset}");
        if expected(ask).is_none() {
            assert!(dialect.answer(b"{\"type\":\"auth\",\"payload\":{\"token\":\"t\"}}").is_none());
        }
    }
    assert!(dialect("ack = false").renewed(&ACCEPTED).is_none());
    assert!(!dialect("preset = \"socketio\"\nforward = \"forward\"").logs_in_again());
}

#[test]
fn an_answer_with_a_credential_is_told_from_one_without() {
    let dialect = dialect("");
    let has = |text: &str| dialect.answer(text.as_bytes()).unwrap().has_credential();
    assert!(has(r#"{"type":"auth","payload":{"token":"t"}}"#));
    assert!(has(r#"{"type":"auth","payload":{"token":"t","ticket":"x"}}"#));
    assert!(!has(r#"{"type":"auth","payload":{}}"#));
}

#[test]
fn the_id_of_a_refused_message_is_repeated_if_it_is_short() {
    let id = |table: &str, id: &str| {
        let message = Message::text(format!(r#"{{"type":"hello","id":"{id}"}}"#));
        dialect(table).id_in(&message)
    };
    let longest = "i".repeat(LONGEST_ID);
    assert_eq!(id("", "m7").as_deref(), Some("m7"));
    assert_eq!(id("", &longest).as_deref(), Some(longest.as_str()));
    assert_eq!(id("", &format!("{longest}i")), None);
    assert_eq!(id("preset = \"graphql-transport-ws\"", "m7"), None);
}

#[test]
fn a_refusal_names_the_request_or_leaves_it_to_the_close_frame() {
    for (preset, login) in [
        ("json", &b"{}"[..]),
        ("graphql-transport-ws", b"{}"),
        ("home-assistant", b"{}"),
        ("socketio", b"40"),
        ("stomp", b"CONNECT\n\n\0"),
        ("mqtt", b"\x10\x0c\0\x04MQTT\x04\0\0\0\0\0"),
    ] {
        let mut dialect = dialect(&format!("preset = \"{preset}\""));
        let is_text = preset != "mqtt";
        let _ = dialect.read(&Message { is_text, payload: login.to_vec() });
        let refused = dialect.refused(&REFUSED).map(|message| message.payload).unwrap_or_default();
        let names_it = refused.windows(2).any(|part| part == b"r1");
        assert_eq!(names_it, dialect.refusal_has_request_id(), "{preset}: {refused:?}");
    }
}
