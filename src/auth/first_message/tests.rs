//! Each dialect's words, and what it does with the secret.

use serde_json::{Value, json};

use super::*;

fn rules(table: &str) -> Arc<FirstMessage> {
    let config = crate::config::for_test(&format!("auth = [\"message\"]\n[route.first_message]\n{table}"));
    Arc::clone(&config.routes[0].first_message)
}

fn dialect(table: &str) -> Dialect {
    Dialect::new(&rules(table))
}

fn hear(dialect: &mut Dialect, text: &str) -> Result<Heard, Rejection> {
    dialect.hear(&Message::text(text))
}

fn auth(heard: Result<Heard, Rejection>) -> AuthMessage {
    match heard.unwrap() {
        Heard::Auth(auth) => auth,
        other => panic!("{other:?}"),
    }
}

fn token(proof: &Proof) -> &str {
    match proof {
        Proof::Token(secret) | Proof::Ticket(secret) | Proof::Session(secret) | Proof::Bypass(secret) => secret.expose_str().unwrap(),
        Proof::Certificate(_) => panic!("a certificate is in no message"),
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
    request_id: "r1",
    id: Some("m1"),
    now: UnixMillis(0),
};
const ACCEPTED: Accepted<'static> =
    Accepted { user: "ada", session_id: "s1", expires_at: Some(UnixMillis(9_000)), id: Some("m1"), now: UnixMillis(0) };
const QUESTION: Question = Question { expires_at: UnixMillis(9_000), grace: Duration::from_secs(30), now: UnixMillis(0) };

#[test]
fn json_takes_a_token_or_a_ticket_and_answers_under_the_client_s_id() {
    let mut dialect = dialect("");
    let heard = auth(hear(&mut dialect, r#"{"type":"auth","id":"m1","payload":{"token":"t.o.k"}}"#));
    assert!(matches!(heard.proof, Proof::Token(_)));
    assert_eq!((token(&heard.proof), heard.id.as_deref(), heard.forward), ("t.o.k", Some("m1"), None));
    let heard = auth(hear(&mut dialect, r#"{"type":"auth","payload":{"token":"Bearer t.o.k"}}"#));
    assert_eq!(token(&heard.proof), "t.o.k");
    let heard = auth(hear(&mut dialect, r#" {"payload":{"ticket":"abc"},"type":"\u0061uth"}"#));
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
        assert_eq!(hear(&mut dialect, message).unwrap_err(), Rejection::FirstMessage(fault), "{message}");
    }
    let binary = Message::binary(br#"{"type":"auth","payload":{"token":"t"}}"#.to_vec());
    assert_eq!(dialect.hear(&binary).unwrap_err(), Rejection::FirstMessage(FirstMessageFault::NotAuth));

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
               "payload": {"code": "INVALID_TOKEN", "message": "the token is not valid", "recoverable": true, "request_id": "r1"}})
    );
    let said: Value = serde_json::from_str(&text(dialect.ask(&QUESTION))).unwrap();
    assert_eq!(said["payload"], json!({"reason": "Token expiring soon", "expires_at": 9000, "grace_seconds": 30}));
    let id = said["id"].as_str().unwrap();
    assert!(id.len() == 36 && id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
}

#[test]
fn an_answer_is_found_and_everything_else_is_the_application_s() {
    let dialect = dialect("");
    assert!(matches!(dialect.answer(br#"{"type":"auth","payload":{"token":"t"}}"#), Some(Answer::Proof { .. })));
    assert!(matches!(dialect.answer(br#"{"type":"\u0061\u0075th","payload":{"token":"t"}}"#), Some(Answer::Proof { .. })));
    assert!(matches!(dialect.answer(br#"{"type":"auth","id":"x"}"#), Some(Answer::Missing { id: Some(_) })));
    for other in [&b"hello"[..], b"{\"type\":\"chat\",\"text\":\"auth\"}", b"{broken auth", b"\xff\\auth", b"", b"[\"auth\"]"] {
        assert!(dialect.answer(other).is_none());
    }
}

#[test]
fn other_json_dialects_fit_by_pointers() {
    let table = "type_pointer = \"/msg\"\ntype_value = \"login\"\ntoken_pointer = \"/params/0/resume\"\nforward = \"redact\"\nack = false\ngreeting = '{\"server\":1}'";
    let mut dialect = dialect(table);
    assert_eq!(text(dialect.greeting()), r#"{"server":1}"#);
    let heard = auth(hear(&mut dialect, r#"{"msg":"login","params":[{"resume":"secret"}]}"#));
    assert_eq!(token(&heard.proof), "secret");
    assert_eq!(text(heard.forward), r#"{"msg":"login","params":[{"resume":""}]}"#);
    assert!(dialect.accepted(&ACCEPTED).is_none());
}

#[test]
fn graphql_hears_connection_init_and_asks_by_ping() {
    let mut dialect = dialect("preset = \"graphql-transport-ws\"");
    match hear(&mut dialect, r#"{"type":"ping"}"#).unwrap() {
        Heard::More(answer) => assert_eq!(text(answer), r#"{"type":"pong"}"#),
        other => panic!("{other:?}"),
    }
    let heard = auth(hear(&mut dialect, r#"{"type":"connection_init","payload":{"token":"secret","more":1}}"#));
    assert_eq!(text(heard.forward), r#"{"type":"connection_init","payload":{"token":"","more":1}}"#);
    let subscribe = hear(&mut dialect, r#"{"type":"subscribe","id":"1"}"#);
    assert_eq!(subscribe.unwrap_err(), Rejection::FirstMessage(FirstMessageFault::NotAuth));
    assert!(dialect.accepted(&ACCEPTED).is_none() && dialect.refused(&REFUSED).is_none());
    let asked: Value = serde_json::from_str(&text(dialect.ask(&QUESTION))).unwrap();
    assert_eq!((&asked["type"], &asked["payload"]["type"]), (&json!("ping"), &json!("auth_required")));
    assert!(matches!(dialect.answer(br#"{"type":"pong","payload":{"token":"t"}}"#), Some(Answer::Proof { .. })));
    assert!(matches!(dialect.answer(br#"{"type":"pong","payload":{"type":"auth_required","id":"q"}}"#), Some(Answer::Echo)));
    assert!(dialect.answer(br#"{"type":"pong"}"#).is_none());
    assert!(dialect.answer(br#"{"type":"subscribe","payload":{"token":"t"}}"#).is_none());
}

#[test]
fn socket_io_greets_first_and_keeps_to_the_client_s_namespace() {
    let mut dialect = dialect("preset = \"socketio\"");
    let open = text(dialect.greeting());
    let open: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
    assert_eq!((&open["pingInterval"], &open["upgrades"]), (&json!(25_000), &json!([])));
    assert!(open["sid"].is_string());
    let heard = auth(hear(&mut dialect, r#"40/admin,{"token":"secret"}"#));
    assert_eq!((token(&heard.proof), text(heard.forward)), ("secret", r#"40/admin,{"token":""}"#.to_owned()));
    assert!(text(dialect.refused(&REFUSED)).starts_with(r#"44/admin,{"message":"the token is not valid","data":{"code":"INVALID_TOKEN""#));
    assert!(text(dialect.ask(&QUESTION)).starts_with(r#"42/admin,["auth_required",{"#));
    assert!(matches!(dialect.answer(br#"42/admin,["auth",{"token":"t"}]"#), Some(Answer::Proof { .. })));
    assert!(matches!(dialect.answer(br#"427["auth",{"token":"t"}]"#), Some(Answer::Proof { .. })));
    assert!(dialect.answer(br#"42["chat","auth"]"#).is_none());
    assert!(dialect.always_listens());
    assert_eq!(text(dialect.redacted(br#"40/more,{"token":"secret","a":1}"#)), r#"40/more,{"token":"","a":1}"#);
    for other in [&b"40/more,"[..], b"40/more,{\"a\":1}", b"42[\"token\"]", b"2"] {
        assert!(dialect.redacted(other).is_none());
    }
    assert!(dialect.greeted_for_the_upstream() && dialect.is_greeting(b"0{\"sid\":\"x\"}") && !dialect.is_greeting(b"2"));
    for (message, fault) in
        [("40", FirstMessageFault::MissingToken), ("2probe", FirstMessageFault::NotAuth), ("42[\"x\"]", FirstMessageFault::NotAuth)]
    {
        assert_eq!(hear(&mut dialect, message).unwrap_err(), Rejection::FirstMessage(fault));
    }
}

#[test]
fn home_assistant_names_its_version_in_every_answer() {
    let mut dialect = dialect("preset = \"home-assistant\"\ngreeting = '{\"type\":\"auth_required\",\"ha_version\":\"2026.11.0\"}'");
    assert!(text(dialect.greeting()).contains("auth_required"));
    assert_eq!(token(&auth(hear(&mut dialect, r#"{"type":"auth","access_token":"secret"}"#)).proof), "secret");
    assert_eq!(text(dialect.accepted(&ACCEPTED)), r#"{"type":"auth_ok","ha_version":"2026.11.0"}"#);
    assert_eq!(text(dialect.refused(&REFUSED)), r#"{"type":"auth_invalid","message":"the token is not valid"}"#);
    assert!(!dialect.greeted_for_the_upstream());
    let mut dialect = self::dialect("preset = \"home-assistant\"\nforward = \"redact\"");
    assert!(dialect.greeted_for_the_upstream() && dialect.is_greeting(br#"{"type":"auth_required","ha_version":"1"}"#));
    let heard = auth(hear(&mut dialect, r#"{"type":"auth","access_token":"secret"}"#));
    assert_eq!(text(heard.forward), r#"{"type":"auth","access_token":""}"#);
    assert!(dialect.accepted(&ACCEPTED).is_none(), "the upstream says it");
}

#[test]
fn stomp_hides_the_secret_wherever_it_may_stand() {
    let mut dialect = dialect("preset = \"stomp\"");
    assert!(matches!(hear(&mut dialect, "\n\r\n"), Ok(Heard::More(None))));
    let heard = auth(hear(&mut dialect, "\nCONNECT\naccept-version:1.2\nAuthorization:Bearer secret\r\npasscode:hush\n\n\0\n"));
    assert_eq!(token(&heard.proof), "secret");
    assert_eq!(text(heard.forward), "CONNECT\naccept-version:1.2\nAuthorization:\r\npasscode:\n\n\0");
    assert!(heard.rest.is_none());
    let heard = auth(hear(&mut dialect, "STOMP\nlogin:ada\npasscode:secret\n\n\0SUBSCRIBE\nid:0\n\n\0"));
    assert_eq!((token(&heard.proof), text(heard.rest)), ("secret", "SUBSCRIBE\nid:0\n\n\0".to_owned()));
    assert_eq!(hear(&mut dialect, "CONNECT\n\n\0").unwrap_err(), Rejection::FirstMessage(FirstMessageFault::MissingToken));
    assert_eq!(hear(&mut dialect, "SEND\n\n\0").unwrap_err(), Rejection::FirstMessage(FirstMessageFault::NotAuth));
    assert!(text(dialect.refused(&REFUSED)).starts_with("ERROR\nmessage:the token is not valid\n"));
    let refused = text(dialect.refused(&Refused { message: "lacks `room:a\\b`", ..REFUSED }));
    assert!(refused.starts_with("ERROR\nmessage:lacks `room\\ca\\\\b`\n"), "{refused}");
    assert!(dialect.ask(&QUESTION).is_none());
}

fn connect(level: u8, will: bool, password: Option<&[u8]>) -> Vec<u8> {
    fn field(packet: &mut Vec<u8>, bytes: &[u8]) {
        packet.extend((bytes.len() as u16).to_be_bytes());
        packet.extend(bytes);
    }
    let mut packet = Vec::new();
    field(&mut packet, b"MQTT");
    packet.push(level);
    packet.push(0x82 | if will { 0x04 } else { 0 } | if password.is_some() { 0x40 } else { 0 });
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
    field(&mut packet, b"ada");
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
            let mut dialect = dialect("preset = \"mqtt\"");
            let stream = [&with[..], b"\xc0\0"].concat();
            let mut heard = None;
            for piece in stream.chunks(step) {
                match dialect.hear(&Message::binary(piece.to_vec())).unwrap() {
                    Heard::More(answer) => assert!(answer.is_none()),
                    Heard::Auth(auth) => {
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
            assert_eq!(refused, if level == 5 { vec![0x20, 3, 0, 0x86, 0] } else { vec![0x20, 2, 0, 4] });
        }
    }
    let whole = [connect(4, false, Some(b"secret")), b"\xc0\0".to_vec()].concat();
    let heard = auth(dialect("preset = \"mqtt\"").hear(&Message::binary(whole)));
    assert_eq!(heard.rest, Some(Message::binary(b"\xc0\0".to_vec())));
}

#[test]
fn what_is_no_connect_packet_is_refused_at_once() {
    let fault = |bytes: &[u8]| dialect("preset = \"mqtt\"").hear(&Message::binary(bytes.to_vec())).unwrap_err();
    for bytes in [&b"\x82\x05"[..], b"\x10\xff\xff\xff\xff\x01", b"\x10\x02\0\x04"] {
        assert_eq!(fault(bytes), Rejection::FirstMessage(FirstMessageFault::NotAuth), "{bytes:?}");
    }
    assert_eq!(fault(b"\x10\xff\xff\x03"), Rejection::FirstMessage(FirstMessageFault::TooBig));
    assert_eq!(fault(&connect(4, false, None)), Rejection::FirstMessage(FirstMessageFault::MissingToken));
    let mut longer = connect(4, false, Some(b"secret"));
    longer[1] += 1;
    longer.push(0);
    assert_eq!(fault(&longer), Rejection::FirstMessage(FirstMessageFault::NotAuth), "more in it than it says");
    let mut dialect = dialect("preset = \"mqtt\"");
    assert!(hear(&mut dialect, "text").is_err());
    assert!(dialect.refused(&REFUSED).is_none(), "nobody knows its version");
}
