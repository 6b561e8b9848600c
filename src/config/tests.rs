//! Tests of the messages about a wrong file, and of the reference file.

use super::*;
use std::time::Duration;

const MINIMAL: &str = include_str!("../../config/usher.toml");
/// A line of `MINIMAL`.
const ORIGINS: &str = "origins = [\"https://app.example.com\"]";
const REFERENCE: &str = include_str!("../../config/reference.toml");

fn read(text: &str) -> Result<Loaded, String> {
    parse(text, None, &|_| Some("0123456789abcdef0123456789abcdef".to_owned()))
        .map_err(|diagnostics| diagnostics.to_string())
}

fn load_admin_from(text: &str) -> Result<Option<Admin>, diagnostic::Diagnostics> {
    load::parse_admin(text, std::path::Path::new("usher.toml"), &|_| None)
}

fn error_of(text: &str) -> String {
    read(text).unwrap_err()
}

#[test]
fn the_minimal_config_is_good() {
    let loaded = read(MINIMAL).unwrap();
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.config.routes[0].auth, [Method::Ticket, Method::Message, Method::Header]);
    read(include_str!("../../config/examples/public-keys.toml")).unwrap();
}

#[test]
fn an_unknown_key_is_shown_in_its_line_with_the_nearest_known_one() {
    let error = error_of(&MINIMAL.replace("certificates =", "certificate ="));
    let golden = concat!(
        "usher.toml:7:1: error: unknown key `certificate` in [[listener]]\n",
        "  7 | certificate = [{ cert = \"cert.pem\", key = \"key.pem\" }]\n",
        "    | ^^^^^^^^^^^\n",
        "  help: did you mean `certificates`?\n",
    );
    assert!(error.contains(golden), "{error}");
}

#[test]
fn what_is_known_is_told_once() {
    let error = error_of(&(MINIMAL.to_owned() + "\n[drain]\nzzzzzzzz = 1\n"));
    assert!(error.contains("the possible names are `delay`, `window`"), "{error}");
    let error = error_of(&MINIMAL.replace("path = \"/ws\"", "path = \"/ws\"\nzzzzzzzz = 1"));
    assert_eq!(
        (error.matches("`path`").count(), error.matches("`sunset`").count()),
        (1, 1),
        "{error}"
    );
}

#[test]
fn a_prefix_that_leads_to_what_another_route_guards_is_warned_about() {
    let warned = |routes: &[&str]| {
        let more: String = routes
            .iter()
            .map(|lines| format!("\n[[route]]\nupstream = \"chat\"\n{lines}\n"))
            .collect();
        let warnings = read(&(MINIMAL.to_owned() + &more)).unwrap().warnings;
        warnings.iter().filter(|one| one.message.contains("protects more strictly")).count()
    };
    let site = "path = \"/site/*\"\nstrip_prefix = \"/site\"\n";
    let header = format!("{ORIGINS}\nauth = [\"header\"]");
    assert_eq!(warned(&[&format!("{site}auth = []")]), 1, "/site/ws is /ws");
    assert_eq!(warned(&["path = \"/site/{page}\"\nstrip_prefix = \"/site\"\nauth = []"]), 1);
    assert_eq!(warned(&[&format!("{site}{header}")]), 0, "it asks for as much");
    assert_eq!(warned(&["path = \"/site/*\"\nauth = []"]), 0, "nothing is stripped");
    assert_eq!(
        warned(&["path = \"/site/x/*\"\nstrip_prefix = \"/site\"\nauth = []"]),
        0,
        "/x/* is not /ws"
    );
    assert_eq!(
        warned(&["path = \"/open\"\nupstream_path = \"/ws\"\nauth = []"]),
        0,
        "it is written so"
    );
    let mq = format!("path = \"/stomp\"\nupstream_path = \"/mq\"\n{header}");
    assert_eq!(warned(&[&mq, "path = \"/*\"\nauth = []"]), 1, "/mq is public");
    let alias = format!("path = \"/socket\"\nupstream_path = \"/ws\"\n{header}");
    assert_eq!(warned(&[&alias, "path = \"/*\"\nauth = []"]), 0, "/ws has a route of its own");
    assert_eq!(
        warned(&[&alias, "path = \"/*\"\nhosts = [\"a.example.com\"]\nauth = []"]),
        1,
        "but not at this host"
    );
    let api = format!("path = \"/api/*\"\nstrip_prefix = \"/api\"\n{header}");
    assert_eq!(warned(&[&api, "path = \"/*\"\nauth = []"]), 1, "so is all of the other");
    assert_eq!(
        warned(&[&api, "path = \"/public/*\"\nauth = []"]),
        0,
        "the more specific one is meant"
    );
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = MINIMAL
        .replace("upstream = \"chat\"", "upstream = \"chta\"")
        .replace("HS256\"]", "HS265\"]")
        + "\n[keepalive]\nping = 25\n[tickets]\nttl = \"10m\"\n";
    let error = error_of(&text);
    assert_eq!(error.matches(": error: ").count(), 4, "{error}");
    for part in [
        "no upstream is named `chta`",
        "did you mean `chat`?",
        "did you mean `HS256`?",
        "`25` has no unit; write \"25s\"",
        "must not be longer than `max_ttl`",
    ] {
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

#[test]
fn the_readable_parts_of_a_broken_file_are_kept() {
    let broken = load::parse_parts(MINIMAL, None, &|_| None).unwrap_err();
    assert!(broken.errors.to_string().contains("USHER_JWT_SECRET"));
    let parts = broken.parts.unwrap();
    assert_eq!((parts.listeners.len(), parts.issuers.len()), (1, 0));
    // A list is kept whole or not at all: findings count its tables.
    let second =
        "[[listener]]\naddress = \":1\"\n[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true";
    let text = MINIMAL.replacen("[[issuer]]", &format!("{second}\n[[issuer]]"), 1);
    let parts = load::parse_parts(&text, None, &|_| Some("0123456789abcdef".repeat(4)));
    assert_eq!(parts.unwrap_err().parts.unwrap().listeners.len(), 0);
    assert!(load::parse_parts("threads =", None, &|_| None).unwrap_err().parts.is_none());
}

#[test]
fn who_steers_needs_the_admin_table_alone() {
    let admin = |text: &str| {
        load_admin_from(text)
            .map(|admin| admin.map(|admin| admin.address.to_string()))
            .map_err(|e| e.to_string())
    };
    let broken = MINIMAL.replace("auth =", "auht =");
    assert_eq!(
        admin(&broken),
        Ok(Some("127.0.0.1:9090".into())),
        "no secret is set, a key is unknown"
    );
    assert_eq!(admin("[[route]]\npath = \"/ws\"\n"), Ok(None));
    assert!(
        admin(&MINIMAL.replace("\"127.0.0.1:9090\"", "9090"))
            .unwrap_err()
            .contains("`address` must be")
    );
    assert!(admin("[admin\n").unwrap_err().contains("usher.toml:1:"));
}

#[test]
fn addresses_that_one_process_cannot_bind_together_are_refused() {
    let listeners = |one: &str, other: &str, admin: &str| {
        let listener =
            |address: &str| format!("[[listener]]\naddress = \"{address}\"\nplain = true\n");
        let text = format!(
            "{}{}[admin]\naddress = \"{admin}\"\n[[upstream]]\nname = \"a\"\n\
             servers = [\"http://a\"]\n[[route]]\npath = \"/\"\nupstream = \"a\"\nauth = []\n",
            listener(one),
            listener(other)
        );
        parse(&text, None, &|_| None).map(drop).map_err(|errors| errors.render(false))
    };
    listeners("0.0.0.0:8080", "0.0.0.0:8081", "127.0.0.1:9090").unwrap();
    listeners("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0").unwrap();
    let error = listeners("127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1:9090").unwrap_err();
    assert!(error.contains("address `127.0.0.1:8080` appears twice"), "{error}");
    let error = listeners("0.0.0.0:8080", "127.0.0.1:8080", "127.0.0.1:9090").unwrap_err();
    assert!(error.contains("is covered by `0.0.0.0:8080`"), "{error}");
    // The same for the admin listener: with `SO_REUSEPORT`, the kernel would give it some clients.
    for listener in ["127.0.0.1:9090", "0.0.0.0:9090", "[::]:9090"] {
        let error = listeners("127.0.0.1:8080", listener, "127.0.0.1:9090").unwrap_err();
        assert!(error.contains("have the same port"), "{error}");
    }
}

#[test]
fn a_route_that_stands_twice_is_refused() {
    let error = error_of(
        &(MINIMAL.to_owned() + "\n[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = []\n"),
    );
    assert!(error.contains("route `/ws` appears twice"), "{error}");
}

#[test]
fn what_would_be_unsafe_is_refused() {
    let secret = "secret_env = \"ANY\"\n";
    let other_issuer = "[[issuer]]\nname = \"other\"\nissuer = \"https://id.example.com\"\n\
                        audience = [\"b\"]\nalgorithms = [\"HS256\"]\nsecret_env = \"ANY\"";
    for (from, to, part) in [
        ("certificates =", "#", "has no certificates"),
        ("127.0.0.1:9090", "0.0.0.0:9090", "needs a token"),
        ("secret_env = \"USHER_JWT_SECRET\"", "secret = \"x\"", "never written in the file"),
        ("\"HS256\"", "\"HS256\", \"RS256\"", "cannot be combined"),
        ("audience = [\"chat\"]", "audience = []", "needs `audience`"),
        ("auth = [\"ticket\", \"message\", \"header\"]", "", "needs `auth`"),
        ("\"ticket\",", "\"session\",", "`session` needs a verifier"),
        (
            "[[route]]",
            "[first_message]\npreset = \"mqtt\"\n[reauth]\nmode = \"message\"\n[[route]]",
            "cannot ask clients for a new token",
        ),
        (
            "[[route]]",
            "[first_message]\npreset = \"stomp\"\nforward = \"consume\"\n[[route]]",
            "waits for its first message",
        ),
        ("[[route]]", "[first_message]\npreset = \"jsno\"\n[[route]]", "did you mean `json`?"),
        ("[[route]]", "[first_message]\nmax_bytes = \"1MiB\"\n[[route]]", "at most 64KiB"),
        ("[[route]]", "[first_message]\ngreeting = \"{\"\n[[route]]", "must be JSON"),
        (
            "[[route]]",
            "[first_message]\ntoken_pointer = \"token\"\n[[route]]",
            "not a JSON pointer",
        ),
        (
            "[[route]]",
            "[first_message]\npreset = \"stomp\"\nforward = \"replace\"\n[[route]]",
            "needs a secret",
        ),
        (
            "[[route]]",
            &format!(
                "[first_message]\npreset = \"stomp\"\nforward = \"replace\"\n{secret}[[route]]"
            ),
            "needs `user`",
        ),
        (
            "[[route]]",
            &format!("[first_message]\nforward = \"replace\"\nuser = \"u\"\n{secret}[[route]]"),
            "has no user name",
        ),
        (
            "[[route]]",
            &format!("[first_message]\nforward = \"redact\"\n{secret}[[route]]"),
            "needs `forward = \"replace\"`",
        ),
        ("[[route]]", "[first_message]\nuser = \"u\"\n[[route]]", "needs `forward = \"replace\"`"),
        (
            "[[route]]",
            &format!("[first_message]\nforward = \"replace\"\n{secret}[[route]]"),
            "`ticket` could send the upstream a login",
        ),
        (
            "[admin]",
            &format!("[route.first_message]\nforward = \"replace\"\n{secret}[admin]"),
            "write `auth = [\"message\"]`",
        ),
        (
            "\"message\", \"header\"]",
            &format!("\"header\"]\n[route.first_message]\nforward = \"replace\"\n{secret}"),
            "needs the method `message`",
        ),
        (
            "[[route]]",
            "[first_message]\ntoken_pointer = \"/a\"\nticket_pointer = \"/a/b\"\n[[route]]",
            "overlap",
        ),
        (
            "[[upstream]]",
            &format!("{other_issuer}\n[[upstream]]"),
            "the `issuer` `https://id.example.com` appears twice",
        ),
        ("\"HS256\"", "\"HS256\", \"HS256\"", "`HS256` appears twice"),
    ] {
        let error = error_of(&MINIMAL.replace(from, to));
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    let verifier =
        |lines: &str| error_of(&format!("{MINIMAL}\n[[verifier]]\nname = \"login\"\n{lines}\n"));
    let introspection = "kind = \"introspection\"\nurl = \"https://a/\"\n";
    for (lines, part) in [
        ("", "needs `kind`".to_owned()),
        ("kind = \"oauth\"", "`oauth` is not a value of `kind`".to_owned()),
        ("kind = \"http\"", "needs `url`".to_owned()),
        (
            "kind = \"http\"\nurl = \"http://login.example.com\"",
            "plain http to another machine".to_owned(),
        ),
        (
            "kind = \"http\"\nurl = \"https://a/\"\nkey = \"x:{id}\"",
            "`key` is not used with `kind = \"http\"`".to_owned(),
        ),
        ("kind = \"http\"\nurl = \"https://a/\"\nrevalidate = \"10ms\"", "at least 1s".to_owned()),
        (
            "kind = \"http\"\nurl = \"https://a/\"\nrevalidate_grace = \"1m\"",
            "needs `revalidate`".to_owned(),
        ),
        (introspection, "needs `client_id`".to_owned()),
        (&format!("{introspection}client_id = \"a\""), "`client_id` needs a secret".to_owned()),
        (&format!("{introspection}client_secret_env = \"A\""), "needs `client_id`".to_owned()),
        (
            &format!(
                "{introspection}client_id = \"a\"\nclient_secret_env = \"A\"\ntoken_env = \"A\""
            ),
            "cannot be combined".to_owned(),
        ),
        ("kind = \"redis\"\nkey = \"sess:{id}\"", "needs `url`".to_owned()),
        ("kind = \"redis\"\nurl = \"redis://a\"", "needs `key`".to_owned()),
        ("kind = \"redis\"\nurl = \"redis://a\"\nkey = \"{id}\"", "after a prefix".to_owned()),
        (
            "kind = \"redis\"\nurl = \"redis://a\"\nkey = \"sess:id\"",
            "must have {id} once".to_owned(),
        ),
    ] {
        let error = verifier(lines);
        assert!(error.contains(&part), "{part} is not in\n{error}");
    }
    let good = "\n[[verifier]]\nname = \"NAME\"\nkind = \"http\"\nurl = \"https://a/\"\n";
    for (from, to, name, part) in [
        ("[[route]]", "[[route]]\nverifier = \"lgoin\"", "login", "did you mean `login`?"),
        ("[[route]]", "[[route]]\nverifier_tokens = \"opaque\"", "login", "needs `verifier`"),
        ("\"ticket\",", "\"session\",", "login", "`session` needs a verifier"),
        (
            "[[route]]",
            "[[route]]\nshadow = [\"session\"]",
            "login",
            "the shadow method `session` needs a verifier",
        ),
        ("[\"ticket\",", "[\"session\",", "main", "an issuer has the name `main` already"),
        (
            "auth = [\"ticket\", \"message\", \"header\"]",
            "auth = [\"session\"]\nverifier = \"login\"",
            "login",
            "`session` needs `origins`",
        ),
    ] {
        let error = error_of(
            &(MINIMAL.replace(ORIGINS, "").replace(from, to) + &good.replace("NAME", name)),
        );
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    for (keys, part) in [
        ("", "needs `jwks_url`"),
        ("jwks_url = \"http://id.example.com/keys\"", "plain http to another machine"),
        ("jwks_url = \"https://id.example.com/keys\"\ndiscovery = true", "cannot be combined"),
        ("jwks_file = \"keys.json\"\njwks_refresh = \"1h\"", "needs `jwks_url` or `discovery`"),
        ("discovery = true\njwks_refresh = \"10ms\"", "at least 1s"),
        ("discovery = true\nsecret_env = \"KEY\"", "cannot be combined"),
    ] {
        let error = error_of(
            &MINIMAL
                .replace("\"HS256\"", "\"ES256\"")
                .replace("secret_env = \"USHER_JWT_SECRET\"", keys),
        );
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    let short = parse(MINIMAL, None, &|_| Some("short".to_owned())).unwrap_err().to_string();
    assert!(short.contains("at least 32") && !short.contains("\"short\""), "{short}");
}

#[test]
fn what_a_browser_sends_by_itself_needs_a_list_of_pages() {
    let with = |auth: &str, lines: &str| {
        read(&MINIMAL.replace(ORIGINS, lines).replace("auth = [", &format!("auth = [{auth}, ")))
    };
    let error = with("\"cookie\"", "").unwrap_err();
    assert!(error.contains("`cookie` needs `origins`") && !error.contains("warning"), "{error}");
    assert!(with("\"cookie\"", ORIGINS).unwrap().warnings.is_empty());
    let loaded = with("\"cookie\"", "origins = [\"*\"]").unwrap();
    assert!(
        loaded.warnings.iter().any(|warning| warning.message.contains("in the user's name")),
        "{:?}",
        loaded.warnings
    );
    let error = with("\"query\"", "token_parameter = \"ticket\"").unwrap_err();
    assert!(error.contains("the same query parameter"), "{error}");
    let error = with("\"query\"", "token_cookie = \"a b\"").unwrap_err();
    assert!(error.contains("not a valid cookie name"), "{error}");
}

#[test]
fn a_test_identity_needs_a_secret_a_warning_and_the_command_line() {
    let text = MINIMAL.replace("auth = [", "auth = [\"bypass\", ");
    let error = error_of(&text);
    assert!(error.contains("`bypass` needs a secret"), "{error}");
    let text = text + "\n[bypass]\nsecret_env = \"B\"\n";
    let mut loaded = read(&text).unwrap();
    assert_eq!(loaded.warnings.len(), 1, "so that `usher check --strict` refuses it");
    assert!(!loaded.config.bypass.is_allowed);
    let refused = loaded.config.allow_bypass(false).unwrap_err().to_string();
    assert!(
        refused.contains("the method `bypass` opens /ws") && refused.contains("--allow-bypass"),
        "{refused}"
    );
    loaded.config.allow_bypass(true).unwrap();
    assert!(loaded.config.bypass.is_allowed);
    for (secret, part) in [
        ("tiny", "shorter than 32"),
        ("0123456789 0123456789 0123456789 0123456789", "must be one word"),
    ] {
        let secret_of =
            |name: &str| Some(if name == "B" { secret } else { TEST_SECRET }.to_owned());
        let error = parse(&text, None, &secret_of).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains(secret), "{error}");
    }
}

#[test]
fn what_a_route_requires_is_held_against_its_path() {
    let with = |lines: &str| MINIMAL.replace("path = \"/ws\"", lines);
    let room = |require: &str| with(&format!("path = \"/chat/{{room}}\"\nrequire = {require}"));
    let loaded = read(&room("[\"chat:read\", \"room:{room}\"]")).unwrap();
    let names: Vec<_> = loaded.config.routes[0].require.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["chat:read", "room:{room}"]);
    for (require, part) in [
        ("[\"room:{rom}\"]", "has no `{rom}`"),
        ("[\"\"]", "not be empty"),
        ("[\"chat:read chat:write\"]", "white space"),
        ("[\"{room}\"]", "any permission"),
        ("\"chat:read\"", "a list"),
    ] {
        let error = error_of(&room(require));
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    let public = with("path = \"/ws\"\nrequire = [\"chat:read\"]")
        .replace("[\"ticket\", \"message\", \"header\"]", "[]");
    assert!(error_of(&public).contains("a public route cannot require permissions"));
}

#[test]
fn client_certificates_want_an_authority_where_they_are_shown() {
    let route = MINIMAL.replace("\"header\"]", "\"mtls\"]");
    assert!(error_of(&route).contains("no listener asks for client certificates"));
    let asking = route.replace("certificates =", "client_ca = \"clients.pem\"\ncertificates =");
    let loaded = read(&asking).unwrap();
    assert!(
        loaded.warnings.len() == 1
            && loaded.warnings[0].to_string().contains("is accepted again after"),
        "{:?}",
        loaded.warnings
    );
    assert_eq!(
        loaded.config.listeners[0]
            .tls
            .as_ref()
            .unwrap()
            .clients
            .as_ref()
            .map(|clients| clients.is_required),
        Some(false)
    );
    let asking = asking + "\n[revocation]\nttl = \"90d\"\n";
    assert!(read(&asking).unwrap().warnings.is_empty());
    let second = "\n[[listener]]\naddress = \"127.0.0.1:8080\"\nplain = true\n";
    let warned = read(&(asking.clone() + second)).unwrap().warnings;
    assert!(
        warned.len() == 1 && warned[0].to_string().contains("this listener does not ask for them"),
        "{warned:?}"
    );
    for (from, to, part) in [
        (
            "client_ca = \"clients.pem\"",
            "client_auth = \"required\"",
            "`client_auth` needs `client_ca`",
        ),
        ("client_ca =", "client_auth = \"always\"\nclient_ca =", "is not a value of `client_auth`"),
        ("[[route]]", "[mtls]\nuser = \"cn\"\n[[route]]", "is not a value of `user`"),
        ("name = \"main\"", "name = \"mtls\"", "is reserved for client certificates"),
        ("name = \"main\"", "name = \"bypass\"", "is reserved for test identities"),
        (
            "[[upstream]]",
            "[[listener]]\naddress = \"127.0.0.1:1\"\nplain = true\nclient_ca = \"x\"\n\
             [[upstream]]",
            "client certificates need TLS",
        ),
    ] {
        let error = error_of(&asking.replace(from, to));
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    // A route with only client certificates does not need an issuer.
    let alone = asking.replace("[\"ticket\", \"message\", \"mtls\"]", "[\"mtls\"]");
    let (before, rest) = alone.split_once("[[issuer]]").unwrap();
    let (_, after) = rest.split_once("[[upstream]]").unwrap();
    read(&format!("{before}[[upstream]]{after}")).unwrap();
}

#[test]
fn an_hmac_secret_is_as_long_as_its_hash() {
    let of = |algorithm: &str, length: usize| {
        parse(&MINIMAL.replace("HS256", algorithm), None, &|_| Some("x".repeat(length)))
            .map(drop)
            .map_err(|errors| errors.to_string())
    };
    for (algorithm, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        assert!(of(algorithm, least).is_ok());
        assert!(of(algorithm, least - 1).unwrap_err().contains(&format!("at least {least}")));
    }
}

/// Methods that pages can use need `origins`. A page cannot set headers of its socket, a client
/// certificate needs `origins` anyway, and a public route is open to every page.
#[test]
fn a_route_that_pages_can_use_says_which_pages() {
    let warnings = |auth: &str, lines: &str| {
        let listener = "client_ca = \"clients.pem\"\n\n# The issuer";
        let text = MINIMAL
            .replace("\"ticket\", \"message\", \"header\"", auth)
            .replace("\n# The issuer", listener);
        read(&(text.replace(ORIGINS, lines) + "[revocation]\nttl = \"400d\"\n")).unwrap().warnings
    };
    for auth in [
        "\"ticket\"",
        "\"message\"",
        "\"subprotocol\"",
        "\"query\"",
        "\"mtls\", \"header\", \"ticket\"",
    ] {
        let found = warnings(auth, "");
        let [warning] = &found[..] else { panic!("not one warning for {auth}: {found:?}") };
        let said = warning.to_string();
        assert!(
            said.contains("route `/ws` has no `origins`") && said.contains("origins = []"),
            "{said}"
        );
        let line = warning.place.as_ref().map(|place| place.text.as_str());
        assert_eq!(line, Some(&*format!("auth = [{auth}]")));
        assert!(
            warnings(auth, ORIGINS).is_empty() && warnings(auth, "origins = []").is_empty(),
            "{auth}"
        );
    }
    for auth in ["", "\"header\"", "\"mtls\"", "\"header\", \"mtls\""] {
        assert!(warnings(auth, "").is_empty(), "{auth}");
    }
}

#[test]
fn an_open_origin_list_warns() {
    let loaded = read(&MINIMAL.replace(ORIGINS, "origins = [\"*\"]")).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn an_issuer_is_discovered_at_its_own_address() {
    let origin = |issuer: &str, keys: &str| {
        let text = MINIMAL
            .replace("\"HS256\"", "\"ES256\"")
            .replace("secret_env = \"USHER_JWT_SECRET\"", keys);
        let loaded = read(&text.replace("https://id.example.com", issuer)).unwrap();
        let IssuerKeySource::Remote(from) = &loaded.config.issuers[0].keys else {
            panic!("it is not remote")
        };
        let (KeyOrigin::Url(place) | KeyOrigin::Discovery(place)) = &from.origin;
        (place.written().to_owned(), loaded.warnings.len())
    };
    let at = |place: &str, warnings| (place.to_owned(), warnings);
    let discovery = "discovery = true";
    assert_eq!(origin("https://a", discovery), at("https://a/.well-known/openid-configuration", 0));
    assert_eq!(
        origin("https://a/realms/b/", discovery),
        at("https://a/realms/b/.well-known/openid-configuration", 0)
    );
    assert_eq!(origin("any", "jwks_url = \"https://a/keys\""), at("https://a/keys", 0));
    assert_eq!(
        origin("http://a", "discovery = true\nallow_plain = true"),
        at("http://a/.well-known/openid-configuration", 1)
    );
}

#[test]
fn a_revocation_is_kept_for_as_long_as_a_token_can_live() {
    let keep = |extra: &str| {
        read(
            &(MINIMAL
                .replace("[[upstream]]", "max_lifetime = \"12h\"\nleeway = \"30s\"\n[[upstream]]")
                + extra),
        )
        .unwrap()
    };
    let loaded = keep("");
    assert_eq!(
        (loaded.config.revocation.keep, loaded.warnings.len()),
        (Duration::from_secs(12 * 3600 + 30), 0)
    );
    let loaded = keep("\n[revocation]\nttl = \"1h\"\n");
    assert_eq!(
        (loaded.config.revocation.keep, loaded.warnings.len()),
        (Duration::from_secs(3600), 1)
    );
    assert!(
        loaded.warnings[0].to_string().contains("is accepted again after"),
        "{}",
        loaded.warnings[0]
    );
}

#[test]
fn the_reference_shows_the_defaults_of_the_code() {
    let meant = |text: &str| {
        format!("{:?}", Config { written: ConfigText::default(), ..read(text).unwrap().config })
    };
    assert_eq!(meant(REFERENCE), meant(&MINIMAL.replace(ORIGINS, "")));
}

#[test]
fn every_key_of_the_reference_is_known() {
    let uncommented: Vec<_> = REFERENCE
        .lines()
        .map(|line| {
            if line.starts_with('#') && !line.starts_with("# ") {
                line.trim_start_matches('#')
            } else {
                line
            }
        })
        .collect();
    let error = error_of(&uncommented.join("\n"));
    assert!(error.contains("cannot be combined") && !error.contains("unknown key"), "{error}");
}

#[test]
fn a_key_is_read_by_its_old_name_with_a_warning() {
    let with = |lines: &str| read(&format!("{MINIMAL}\n{lines}\n"));
    let loaded =
        with("[limits]\non_limit = \"replace-oldest\"\n[revocation]\nkeep = \"90d\"").unwrap();
    assert_eq!(loaded.config.limits.extra_sessions, ExtraSessions::ReplaceOldest);
    assert_eq!(loaded.config.revocation.keep, Duration::from_secs(90 * 86_400));
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("`on_limit` has the new name `extra_sessions`")
            && warnings[0].contains("version 0.3.0"),
        "{warnings:?}"
    );
    for (lines, part) in [
        ("[limits]\non_limit = \"no\"", "not a value of `extra_sessions`"),
        ("[revocation]\nkeep = \"1h\"\nttl = \"2h\"", "`keep` is the old name of `ttl`"),
        ("[limits]\non_limits = \"refuse\"", "unknown key `on_limits`"),
    ] {
        let error = with(lines).unwrap_err();
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

#[test]
fn the_readme_s_configuration_is_good() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<_> =
        readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        read(block).unwrap();
    }
}

#[test]
fn routes_that_nobody_could_reach_are_told() {
    let second = |path: &str| {
        format!("{MINIMAL}\n[[route]]\npath = \"{path}\"\nupstream = \"chat\"\nauth = []\n")
    };
    let first = |path: &str| MINIMAL.replace("path = \"/ws\"", &format!("path = \"{path}\""));
    let error = error_of(&second("/ws"));
    assert!(error.contains("route `/ws` appears twice"), "{error}");
    let error = error_of(&format!(
        "{}\n[[route]]\npath = \"/a/{{y}}\"\nupstream = \"chat\"\nauth = []\n",
        first("/a/{x}")
    ));
    assert!(error.contains("route `/a/{}` appears twice"), "{error}");
    for own in ["/websocket/ticket", "/websocket/config", "/.well-known/usher/jwks.json"] {
        let warnings = read(&second(own)).unwrap().warnings;
        assert!(
            warnings.len() == 1 && warnings[0].to_string().contains("Usher answers"),
            "{warnings:?}"
        );
    }
    assert!(read(&second("/websocket/*")).unwrap().warnings.is_empty());
}

#[test]
fn a_mistake_is_told_once_and_with_its_remedy() {
    let rs256 = MINIMAL.replace("\"HS256\"", "\"RS256\"");
    for (text, line, part) in [
        (
            MINIMAL.replace("audience = [\"chat\"]", "audience = [\"chat\""),
            "audience =",
            "`[` is not closed",
        ),
        (
            MINIMAL.replace("key = \"key.pem\" }]", "key = \"key.pem\"]"),
            "certificates =",
            "`{` is not closed",
        ),
        (
            MINIMAL.replace("audience = [\"chat\"]", "audience = \"chat\""),
            "audience =",
            "write `audience = [\"chat\"]`",
        ),
        (
            MINIMAL.replace("algorithms = [\"HS256\"]", "algorithms = \"HS256\""),
            "algorithms =",
            "write `algorithms = [\"HS256\"]`",
        ),
        (
            MINIMAL.replace("servers = [\"http://127.0.0.1:9000\"]", "servers = \"http://a\""),
            "servers =",
            "write `servers = ",
        ),
        (
            MINIMAL.replace("auth = [\"ticket\", \"message\", \"header\"]", "auth = \"ticket\""),
            "auth =",
            "write `auth = ",
        ),
        (
            MINIMAL.replace("\"USHER_JWT_SECRET\"", "\"$SECRET\""),
            "secret_env =",
            "write `secret_env = \"SECRET\"`",
        ),
        (
            MINIMAL.replace("\"USHER_JWT_SECRET\"", "\"${SECRET}\""),
            "secret_env =",
            "write `secret_env = \"SECRET\"`",
        ),
        (
            MINIMAL.replace("secret_env = \"USHER_JWT_SECRET\"", "secret = \"x\""),
            "secret =",
            "never written in the file",
        ),
        (rs256, "secret_env =", "`secret_env` is not used with RS256"),
        (
            MINIMAL.to_owned() + "\n[tickets]\nrate_per_user = \"60/m\"\n",
            "rate_per_user =",
            "write \"60/1m\"",
        ),
        (MINIMAL.to_owned() + "\n[log]\nfilter = \"verbose\"\n", "filter =", "is not a log level"),
        (MINIMAL.to_owned() + "\n[log]\nfilter = \"debgu\"\n", "filter =", "did you mean `debug`?"),
        (MINIMAL.to_owned() + "\n[log]\nfilter = \"=debug\"\n", "filter =", "is not a log level"),
        (format!("threads = 5000\n{MINIMAL}"), "threads =", "at most 1024"),
        (
            MINIMAL.replace("127.0.0.1:9090", "127.0.0.1:8443"),
            "address = \"127.0.0.1:8443\"",
            "have the same port",
        ),
        (
            MINIMAL.replace("upstream =", "hosts = [\"a.example.com:8443\"]\nupstream ="),
            "hosts =",
            "write 'a.example.com'",
        ),
        (
            MINIMAL.replace("http://127.0.0.1:9000\"]", "https://a\"]\nserver_name = \"a b\""),
            "server_name =",
            "not a server name",
        ),
        (
            MINIMAL.replace("http://127.0.0.1:9000\"]", "https://a:1\"]\nserver_name = \"a:1\""),
            "server_name =",
            "without a port",
        ),
    ] {
        let error = error_of(&text);
        assert_eq!(error.matches(": error: ").count(), 1, "{part}: {error}");
        assert!(
            error.contains(part) && error.lines().nth(1).is_some_and(|shown| shown.contains(line)),
            "{part}: {error}"
        );
    }
    for filter in ["info", "WARN", "off", "info,usher=debug", "usher=trace", "error,hyper=off"] {
        read(&format!("{MINIMAL}\n[log]\nfilter = \"{filter}\"\n")).unwrap();
    }
}

#[test]
fn an_identity_header_takes_no_other_name_s_place() {
    let error = |names: &str, more: &str| {
        let route = format!("[[route]]\nidentity_headers = {{ {names} }}");
        error_of(&format!("{}\n{more}", MINIMAL.replace("[[route]]", &route)))
    };
    for name in [
        "X-User-Context",
        "x_user_context",
        "X.User-Context",
        "X-USHER-BYPASS",
        "Host",
        "Connection",
        "Sec-WebSocket-Key",
    ] {
        let found = error(&format!("\"{name}\" = \"sub\""), "");
        assert!(found.contains(name) && found.contains("choose another name"), "{found}");
    }
    for name in [
        "X_Forwarded_For",
        "Forwarded",
        "Authorization",
        "cookie",
        "X-Request-Id",
        "Transfer-Encoding",
        "sec_websocket.protocol",
    ] {
        assert!(
            error(&format!("\"{name}\" = \"sub\""), "").contains("choose another name"),
            "{name}"
        );
    }
    assert!(
        error("\"X-Me\" = \"sub\"", "[context]\nheader = \"x.me\"\n")
            .contains("header of the signed context")
    );
    assert!(error("X-User-Id = \"sub\", x_user_id = \"tenant\"", "").contains("listed twice"));
    for header in ["Connection", "x_forwarded_for", "Authorization"] {
        let found = error_of(&format!("{MINIMAL}\n[context]\nheader = \"{header}\"\n"));
        assert!(found.contains("has another meaning"), "{found}");
    }
    assert!(
        error_of(&format!("{MINIMAL}\n[bypass]\nheader = \"x_user_context\"\n"))
            .contains("header of the signed context")
    );
}

#[test]
fn public_key_families_may_be_listed_together() {
    let text = MINIMAL
        .replace("\"HS256\"", "\"RS256\", \"PS256\", \"ES256\", \"EdDSA\"")
        .replace("secret_env = \"USHER_JWT_SECRET\"", "jwks_file = \"keys.json\"");
    let loaded = parse(&text, None, &|_| None).map_err(|errors| errors.to_string()).unwrap();
    let names: Vec<_> = loaded.config.issuers[0].algorithms.iter().map(|one| one.name()).collect();
    assert_eq!(names, ["RS256", "PS256", "ES256", "EdDSA"]);
    assert!(error_of(&text.replace("\"EdDSA\"", "\"HS256\"")).contains("cannot be combined"));
}

#[test]
fn the_admin_listener_takes_an_address_or_the_path_of_a_socket() {
    let admin = |address: &str| {
        let text = MINIMAL.replace("\"127.0.0.1:9090\"", &format!("\"{address}\""));
        read(&text).map(|loaded| loaded.config.admin.unwrap().address.to_string())
    };
    assert_eq!(admin("unix:/run/usher/admin.sock"), Ok("unix:/run/usher/admin.sock".to_owned()));
    assert!(admin("unix:admin.sock").is_ok(), "beside the configuration, and without a token");
    for (address, why) in [
        ("unix:", "does not name a file"),
        ("unix:/run/usher/", "does not name a file"),
        (&*format!("unix:/{}", "x".repeat(100)), "101 bytes"),
        ("unix", "is not an address"),
        ("0.0.0.0:9090", "needs a token"),
    ] {
        let error = admin(address).unwrap_err();
        assert!(error.contains(why), "{address}: {error}");
    }
}

#[test]
fn a_rotation_leaves_backends_time_and_is_for_keys_that_usher_makes() {
    let with = |lines: &str| read(&format!("{MINIMAL}\n[context]\n{lines}\n"));
    let every = |lines| with(lines).unwrap().config.context.rotate_every;
    assert_eq!(
        (every("ttl = \"60s\""), every("rotate_every = \"10m\"")),
        (None, Some(Duration::from_secs(600)))
    );
    for (lines, why) in [
        ("rotate_every = \"9m\"", "must be at least 600s"),
        ("rotate_every = \"15m\"\nttl = \"10m\"", "must be at least 1200s"),
        ("rotate_every = \"0s\"", "must be at least 600s"),
        ("rotate_every = \"1h\"\nkey_files = [\"a.pem\"]", "needs keys that Usher makes"),
    ] {
        let error = with(lines).unwrap_err();
        assert!(error.contains(why), "{lines}: {error}");
    }
}

#[test]
fn a_login_that_brokers_read_in_two_ways_is_refused() {
    let with = |preset: &str, user: &str, secret: &str| {
        let table = format!(
            "[route.first_message]\npreset = \"{preset}\"\nforward = \"replace\"\n\
             user = '{user}'\nsecret_env = \"BROKER\"\n[admin]"
        );
        let text = MINIMAL
            .replace("\"ticket\", \"message\", \"header\"", "\"message\"")
            .replace("[admin]", &table);
        let env = |name: &str| {
            Some(
                if name == "BROKER" { secret } else { "0123456789abcdef0123456789abcdef" }
                    .to_owned(),
            )
        };
        parse(&text, None, &env).map(drop).map_err(|diagnostics| diagnostics.to_string())
    };
    for (preset, user, secret) in [("stomp", "svc:a", "p:ss w.rd"), ("mqtt", "/:svc", " p\\ss ")] {
        assert_eq!(with(preset, user, secret), Ok(()));
    }
    for (preset, user, secret, part) in [
        ("stomp", "svc", "pa\\ss", "the secret has a backslash"),
        ("stomp", "s\\vc", "secret", "`user` has a backslash"),
        ("stomp", "svc", "s3cr3t ", "the secret begins or ends with white space"),
        ("stomp", " svc", "secret", "`user` begins or ends with white space"),
        ("stomp", "svc", "se\ncret", "must be one line"),
        ("mqtt", "svc", "se\0cret", "must be one line"),
    ] {
        let error = with(preset, user, secret).unwrap_err();
        assert!(error.contains(part) && !error.contains(secret), "{part} is not in\n{error}");
    }
}
