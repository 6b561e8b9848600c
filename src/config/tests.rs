//! What the user reads when a file is wrong, and the reference held to the code.

use std::collections::BTreeSet;

use super::*;

const MINIMAL: &str = include_str!("../../config/usher.toml");
const REFERENCE: &str = include_str!("../../config/reference.toml");

fn read(text: &str) -> Result<Loaded, String> {
    parse(text, None, &|_| Some("0123456789abcdef0123456789abcdef".to_owned())).map_err(|diagnostics| diagnostics.to_string())
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
        ("\"ticket\",", "\"session\",", "not available in this version"),
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
fn an_open_origin_list_warns() {
    let loaded = read(&MINIMAL.replace("# origins = [\"https://app.example.com\"]", "origins = [\"*\"]")).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
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
