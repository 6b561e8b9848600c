//! What the user reads when a file is wrong, and the reference held to the code.

use std::collections::BTreeSet;

use super::*;

const MINIMAL: &str = include_str!("../../config/usher.toml");
const REFERENCE: &str = include_str!("../../config/reference.toml");

fn read(text: &str) -> Result<Loaded, String> {
    parse(text, None, &|_| Some("0123456789abcdef0123456789abcdef".to_owned())).map_err(|diagnostics| diagnostics.to_string())
}

fn load_admin_from(text: &str) -> Result<Option<Admin>, diagnostic::Diagnostics> {
    resolve::parse_admin(text, std::path::Path::new("usher.toml"), &|_| None)
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
    let golden = "usher.toml:7:1: error: unknown key `certificate` in [[listener]]\n  7 | certificate = [{ cert = \"cert.pem\", key = \"key.pem\" }]\n    | ^^^^^^^^^^^\n  help: did you mean `certificates`?\n";
    assert!(error.contains(golden), "{error}");
}

#[test]
fn what_is_known_is_told_once() {
    let error = error_of(&(MINIMAL.to_owned() + "\n[drain]\nzzzzzzzz = 1\n"));
    assert!(error.contains("known here: `window`"), "{error}");
    let error = error_of(&MINIMAL.replace("path = \"/ws\"", "path = \"/ws\"\nzzzzzzzz = 1"));
    assert_eq!((error.matches("`path`").count(), error.matches("`sunset`").count()), (1, 1), "{error}");
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = MINIMAL.replace("upstream = \"chat\"", "upstream = \"chta\"").replace("HS256\"]", "HS265\"]")
        + "\n[keepalive]\nping = 25\n[tickets]\nttl = \"10m\"\n";
    let error = error_of(&text);
    assert_eq!(error.matches(": error: ").count(), 4, "{error}");
    for part in [
        "no upstream is named `chta`",
        "did you mean `chat`?",
        "did you mean `HS256`?",
        "`25` has no unit; write \"25s\"",
        "longer than `max_ttl`",
    ] {
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

#[test]
fn who_steers_needs_the_admin_table_alone() {
    let admin = |text: &str| load_admin_from(text).map(|admin| admin.map(|admin| admin.address.to_string())).map_err(|e| e.to_string());
    let broken = MINIMAL.replace("auth =", "auht =");
    assert_eq!(admin(&broken), Ok(Some("127.0.0.1:9090".into())), "no secret is set, a key is unknown");
    assert_eq!(admin("[[route]]\npath = \"/ws\"\n"), Ok(None));
    assert!(admin(&MINIMAL.replace("\"127.0.0.1:9090\"", "9090")).unwrap_err().contains("`address` is"));
    assert!(admin("[admin\n").unwrap_err().contains("usher.toml:1:"));
}

#[test]
fn a_route_that_stands_twice_is_refused() {
    let error = error_of(&(MINIMAL.to_owned() + "\n[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = []\n"));
    assert!(error.contains("route `/ws` stands twice"), "{error}");
}

#[test]
fn what_would_be_unsafe_is_refused() {
    for (from, to, part) in [
        ("certificates =", "#", "has no certificates"),
        ("127.0.0.1:9090", "0.0.0.0:9090", "needs a token"),
        ("secret_env = \"USHER_JWT_SECRET\"", "secret = \"x\"", "never written in the file"),
        ("\"HS256\"", "\"HS256\", \"RS256\"", "another family"),
        ("audience = [\"chat\"]", "audience = []", "needs `audience`"),
        ("auth = [\"ticket\", \"message\", \"header\"]", "", "needs `auth`"),
        ("\"ticket\",", "\"session\",", "`session` needs a verifier"),
        ("[[route]]", "[first_message]\npreset = \"mqtt\"\n[reauth]\nmode = \"message\"\n[[route]]", "cannot be asked for a new token"),
        ("[[route]]", "[first_message]\npreset = \"stomp\"\nforward = \"consume\"\n[[route]]", "waits for its first message"),
        ("[[route]]", "[first_message]\npreset = \"jsno\"\n[[route]]", "did you mean `json`?"),
        ("[[route]]", "[first_message]\nmax_bytes = \"1MiB\"\n[[route]]", "at most 64KiB"),
        ("[[route]]", "[first_message]\ngreeting = \"{\"\n[[route]]", "is not JSON"),
        ("[[route]]", "[first_message]\ntoken_pointer = \"token\"\n[[route]]", "not a JSON pointer"),
    ] {
        let error = error_of(&MINIMAL.replace(from, to));
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    let verifier = |lines: &str| error_of(&format!("{MINIMAL}\n[[verifier]]\nname = \"login\"\n{lines}\n"));
    let introspection = "kind = \"introspection\"\nurl = \"https://a/\"\n";
    for (lines, part) in [
        ("", "needs `kind`".to_owned()),
        ("kind = \"oauth\"", "`oauth` is not a value of `kind`".to_owned()),
        ("kind = \"http\"", "needs `url`".to_owned()),
        ("kind = \"http\"\nurl = \"http://login.example.com\"", "plain http to another machine".to_owned()),
        ("kind = \"http\"\nurl = \"https://a/\"\nkey = \"x:{id}\"", "`key` has no use with `kind = \"http\"`".to_owned()),
        ("kind = \"http\"\nurl = \"https://a/\"\nrevalidate = \"10ms\"", "at least 1s".to_owned()),
        ("kind = \"http\"\nurl = \"https://a/\"\nrevalidate_grace = \"1m\"", "needs `revalidate`".to_owned()),
        (introspection, "needs `client_id`".to_owned()),
        (&format!("{introspection}client_id = \"a\""), "`client_id` needs its secret".to_owned()),
        (&format!("{introspection}client_secret_env = \"A\""), "needs `client_id`".to_owned()),
        (&format!("{introspection}client_id = \"a\"\nclient_secret_env = \"A\"\ntoken_env = \"A\""), "cannot stand together".to_owned()),
        ("kind = \"redis\"\nkey = \"sess:{id}\"", "needs `url`".to_owned()),
        ("kind = \"redis\"\nurl = \"redis://a\"", "needs `key`".to_owned()),
        ("kind = \"redis\"\nurl = \"redis://a\"\nkey = \"{id}\"", "behind a prefix".to_owned()),
        ("kind = \"redis\"\nurl = \"redis://a\"\nkey = \"sess:id\"", "holds {id} once".to_owned()),
    ] {
        let error = verifier(lines);
        assert!(error.contains(&part), "{part} is not in\n{error}");
    }
    let good = "\n[[verifier]]\nname = \"NAME\"\nkind = \"http\"\nurl = \"https://a/\"\n";
    for (from, to, name, part) in [
        ("[[route]]", "[[route]]\nverifier = \"lgoin\"", "login", "did you mean `login`?"),
        ("[[route]]", "[[route]]\nverifier_for = \"opaque\"", "login", "needs `verifier`"),
        ("\"ticket\",", "\"session\",", "login", "`session` needs a verifier"),
        ("[[route]]", "[[route]]\nshadow = [\"session\"]", "login", "in the shadow too"),
        ("[\"ticket\",", "[\"session\",", "main", "an issuer is named `main` already"),
        (
            "auth = [\"ticket\", \"message\", \"header\"]",
            "auth = [\"session\"]\nverifier = \"login\"",
            "login",
            "`session` needs `origins`",
        ),
    ] {
        let error = error_of(&(MINIMAL.replace(from, to) + &good.replace("NAME", name)));
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    for (keys, part) in [
        ("", "needs `jwks_url`"),
        ("jwks_url = \"http://id.example.com/keys\"", "plain http to another machine"),
        ("jwks_url = \"https://id.example.com/keys\"\ndiscovery = true", "cannot stand together"),
        ("jwks_file = \"keys.json\"\njwks_refresh = \"1h\"", "goes with `jwks_url` or `discovery`"),
        ("discovery = true\njwks_refresh = \"10ms\"", "at least 1s"),
        ("discovery = true\nsecret_env = \"KEY\"", "cannot stand together"),
    ] {
        let error = error_of(&MINIMAL.replace("\"HS256\"", "\"ES256\"").replace("secret_env = \"USHER_JWT_SECRET\"", keys));
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    let short = parse(MINIMAL, None, &|_| Some("short".to_owned())).unwrap_err().to_string();
    assert!(short.contains("at least 32") && !short.contains("\"short\""), "{short}");
}

#[test]
fn what_a_browser_sends_by_itself_needs_a_list_of_pages() {
    let with = |auth: &str, origins: &str| read(&MINIMAL.replace("auth = [", &format!("{origins}\nauth = [{auth}, ")));
    let error = with("\"cookie\"", "").unwrap_err();
    assert!(error.contains("`cookie` needs `origins`"), "{error}");
    assert!(with("\"cookie\"", "origins = [\"https://app.example.com\"]").unwrap().warnings.is_empty());
    let loaded = with("\"cookie\"", "origins = [\"*\"]").unwrap();
    assert!(loaded.warnings.iter().any(|warning| warning.message.contains("in the user's name")), "{:?}", loaded.warnings);
    let error = with("\"query\"", "token_parameter = \"ticket\"").unwrap_err();
    assert!(error.contains("the same query parameter"), "{error}");
    let error = with("\"query\"", "token_cookie = \"a b\"").unwrap_err();
    assert!(error.contains("not the name of a cookie"), "{error}");
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
    assert!(refused.contains("the method `bypass` opens /ws") && refused.contains("--allow-bypass"), "{refused}");
    loaded.config.allow_bypass(true).unwrap();
    assert!(loaded.config.bypass.is_allowed);
    for (secret, part) in [("short", "less than 32"), ("0123456789 0123456789 0123456789 0123456789", "not one word")] {
        let secret_of = |name: &str| Some(if name == "B" { secret } else { TEST_SECRET }.to_owned());
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
        ("[\"\"]", "not empty"),
        ("[\"chat:read chat:write\"]", "white space"),
        ("[\"{room}\"]", "any permission"),
        ("\"chat:read\"", "a list"),
    ] {
        let error = error_of(&room(require));
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    let public = with("path = \"/ws\"\nrequire = [\"chat:read\"]").replace("[\"ticket\", \"message\", \"header\"]", "[]");
    assert!(error_of(&public).contains("a public route gives no grant"));
}

#[test]
fn client_certificates_want_an_authority_where_they_are_shown() {
    let route = MINIMAL.replace("\"header\"]", "\"mtls\"]");
    assert!(error_of(&route).contains("no listener asks for client certificates"));
    let asking = route.replace("certificates =", "client_ca = \"clients.pem\"\ncertificates =");
    let loaded = read(&asking).unwrap();
    assert!(loaded.warnings.len() == 1 && loaded.warnings[0].to_string().contains("comes back to life"), "{:?}", loaded.warnings);
    assert_eq!(loaded.config.listeners[0].tls.as_ref().unwrap().clients.as_ref().map(|clients| clients.is_required), Some(false));
    let asking = asking + "\n[revocation]\nkeep = \"90d\"\n";
    assert!(read(&asking).unwrap().warnings.is_empty());
    let second = "\n[[listener]]\naddress = \"127.0.0.1:8080\"\nplain = true\n";
    let warned = read(&(asking.clone() + second)).unwrap().warnings;
    assert!(warned.len() == 1 && warned[0].to_string().contains("nobody can show one here"), "{warned:?}");
    for (from, to, part) in [
        ("client_ca = \"clients.pem\"", "client_auth = \"required\"", "`client_auth` needs `client_ca`"),
        ("client_ca =", "client_auth = \"always\"\nclient_ca =", "is not a value of `client_auth`"),
        ("[[route]]", "[mtls]\nuser = \"cn\"\n[[route]]", "is not a value of `user`"),
        ("name = \"main\"", "name = \"mtls\"", "is the issuer of client certificates"),
        ("name = \"main\"", "name = \"bypass\"", "is the issuer of test identities"),
        ("[[upstream]]", "[[listener]]\naddress = \"127.0.0.1:1\"\nplain = true\nclient_ca = \"x\"\n[[upstream]]", "come with TLS"),
    ] {
        let error = error_of(&asking.replace(from, to));
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    // A route of certificates alone needs no issuer.
    let alone = asking.replace("[\"ticket\", \"message\", \"mtls\"]", "[\"mtls\"]");
    let (before, rest) = alone.split_once("[[issuer]]").unwrap();
    let (_, after) = rest.split_once("[[upstream]]").unwrap();
    read(&format!("{before}[[upstream]]{after}")).unwrap();
}

#[test]
fn an_hmac_secret_is_as_long_as_its_hash() {
    let of = |algorithm: &str, length: usize| {
        parse(&MINIMAL.replace("HS256", algorithm), None, &|_| Some("x".repeat(length))).map(drop).map_err(|errors| errors.to_string())
    };
    for (algorithm, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        assert!(of(algorithm, least).is_ok());
        assert!(of(algorithm, least - 1).unwrap_err().contains(&format!("at least {least}")));
    }
}

#[test]
fn an_open_origin_list_warns() {
    let loaded = read(&MINIMAL.replace("# origins = [\"https://app.example.com\"]", "origins = [\"*\"]")).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn an_issuer_is_discovered_at_its_own_address() {
    let origin = |issuer: &str, keys: &str| {
        let text = MINIMAL.replace("\"HS256\"", "\"ES256\"").replace("secret_env = \"USHER_JWT_SECRET\"", keys);
        let loaded = read(&text.replace("https://id.example.com", issuer)).unwrap();
        let IssuerKeySource::Remote(from) = &loaded.config.issuers[0].keys else { panic!("it is not remote") };
        let (KeyOrigin::Url(place) | KeyOrigin::Discovery(place)) = &from.origin;
        (place.written().to_owned(), loaded.warnings.len())
    };
    let at = |place: &str, warnings| (place.to_owned(), warnings);
    let discovery = "discovery = true";
    assert_eq!(origin("https://a", discovery), at("https://a/.well-known/openid-configuration", 0));
    assert_eq!(origin("https://a/realms/b/", discovery), at("https://a/realms/b/.well-known/openid-configuration", 0));
    assert_eq!(origin("any", "jwks_url = \"https://a/keys\""), at("https://a/keys", 0));
    assert_eq!(origin("http://a", "discovery = true\nallow_plain = true"), at("http://a/.well-known/openid-configuration", 1));
}

#[test]
fn a_revocation_is_kept_for_as_long_as_a_token_can_live() {
    let keep =
        |extra: &str| read(&(MINIMAL.replace("[[upstream]]", "max_lifetime = \"12h\"\nleeway = \"30s\"\n[[upstream]]") + extra)).unwrap();
    let loaded = keep("");
    assert_eq!((loaded.config.revocation.keep, loaded.warnings.len()), (Duration::from_secs(12 * 3600 + 30), 0));
    let loaded = keep("\n[revocation]\nkeep = \"1h\"\n");
    assert_eq!((loaded.config.revocation.keep, loaded.warnings.len()), (Duration::from_secs(3600), 1));
    assert!(loaded.warnings[0].to_string().contains("comes back to life"), "{}", loaded.warnings[0]);
}

#[test]
fn the_reference_holds_exactly_the_keys_of_the_schema() {
    let schema = serde_json::to_value(schemars::schema_for!(file::File)).unwrap();
    let mut wanted = BTreeSet::new();
    for (key, value) in schema["properties"].as_object().unwrap() {
        let text = value.to_string();
        let table = text.split("#/$defs/").nth(1).and_then(|rest| rest.split('"').next());
        match table {
            None => drop(wanted.insert(key.clone())),
            Some(name) => {
                wanted.extend(schema["$defs"][name]["properties"].as_object().unwrap().keys().map(|inner| format!("{key}.{inner}")));
            }
        }
    }
    let mut section = String::new();
    let mut written = BTreeSet::new();
    for line in REFERENCE.lines() {
        // A table that has no default is commented out as a whole.
        if let Some(name) = line.trim_start_matches('#').strip_prefix('[') {
            section = format!("{}.", name.trim_matches(['[', ']']));
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with("# ")) {
            written.insert(format!("{section}{}", key.trim_start_matches('#')));
        }
    }
    assert_eq!(written, wanted);
}

#[test]
fn the_reference_shows_the_defaults_of_the_code() {
    let meant = |text: &str| format!("{:?}", Config { written: Written::default(), ..read(text).unwrap().config });
    let bare: Vec<_> = MINIMAL.lines().collect();
    assert_eq!(meant(REFERENCE), meant(&bare.join("\n")));
}

#[test]
fn every_key_of_the_schema_is_one_that_is_read() {
    let uncommented: Vec<_> = REFERENCE
        .lines()
        .map(|line| if line.starts_with('#') && !line.starts_with("# ") { line.trim_start_matches('#') } else { line })
        .collect();
    let error = error_of(&uncommented.join("\n"));
    assert!(error.contains("cannot stand together") && !error.contains("unknown key"), "{error}");
}

#[test]
fn the_readme_s_configuration_is_good() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<_> = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        read(block).unwrap();
    }
}

#[test]
fn routes_that_nobody_could_reach_are_told() {
    let second = |path: &str| format!("{MINIMAL}\n[[route]]\npath = \"{path}\"\nupstream = \"chat\"\nauth = []\n");
    let first = |path: &str| MINIMAL.replace("path = \"/ws\"", &format!("path = \"{path}\""));
    let error = error_of(&second("/ws"));
    assert!(error.contains("route `/ws` stands twice"), "{error}");
    let error = error_of(&format!("{}\n[[route]]\npath = \"/a/{{y}}\"\nupstream = \"chat\"\nauth = []\n", first("/a/{x}")));
    assert!(error.contains("route `/a/{}` stands twice"), "{error}");
    for own in ["/websocket/ticket", "/websocket/config", "/.well-known/usher/jwks.json"] {
        let warnings = read(&second(own)).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].to_string().contains("Usher's own"), "{warnings:?}");
    }
    assert!(read(&second("/websocket/*")).unwrap().warnings.is_empty());
}
