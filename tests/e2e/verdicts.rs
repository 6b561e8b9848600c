//! `usher check`, `usher run` and a reload judge alike: all three report the same errors in the
//! same words for a broken file, and have the same exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::openssl_ca::OpensslCa;
use crate::support::usher::certificate;
use crate::support::{Echo, Setup, Usher};

/// In seconds.
const PATIENCE: &str = "30";
/// The exit code of `timeout` after it has killed the command.
const KILLED: i32 = 137;

const BASE: &str = r#"state_dir = "state"
threads = 1

[[listener]]
address = "127.0.0.1:0"
certificates = [{ cert = "cert.pem", key = "key.pem" }]

[[listener]]
address = "127.0.0.1:0"
plain = true

[[issuer]]
name = "main"
issuer = "https://id.example.com"
audience = ["chat"]
algorithms = ["HS256"]
secret_file = "secret"

[[issuer]]
name = "keys"
issuer = "https://keys.example.com"
audience = ["chat"]
algorithms = ["ES256"]
jwks_file = "jwks.json"

[[verifier]]
name = "login"
kind = "http"
url = "https://localhost:1/verify"
ca_file = "ca.pem"

[[upstream]]
name = "chat"
servers = ["https://localhost:1"]
ca_file = "ca.pem"

[[route]]
path = "/ws"
upstream = "chat"
auth = ["ticket", "message", "header"]
origins = ["https://app.example.com"]

[admin]
address = "127.0.0.1:0"

[audit]
file = "audit.jsonl"
"#;

/// RFC 7517, appendix A.1.
const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","kid":"1"}]}"#;

/// Faulty files: a part of the base, its replacement, and a part of the error.
const WRONG_TEXT: &[(&str, &str, &str)] = &[
    // Syntax.
    ("audience = [\"chat\"]", "audience = [\"chat\"", "`[` is not closed"),
    ("[admin]", "[admin", "`[` is not closed"),
    ("path = \"/ws\"", "path = \"/ws", "invalid basic string"),
    ("path = \"/ws\"", "path = /ws", "string values must be quoted"),
    ("threads = 1", "threads =", "string values must be quoted"),
    ("threads = 1", "threads = 1\nthreads = 2", "duplicate key"),
    ("path = \"/ws\"", "path = \"/ws\" upstream = \"chat\"", "unexpected key or value"),
    // Keys.
    ("audience = [\"chat\"]", "audiense = [\"chat\"]", "did you mean `audience`?"),
    ("[audit]", "[adit]", "did you mean `audit`?"),
    ("[audit]", "[[audit]]", "`audit` must be a table"),
    ("plain = true", "", "has no certificates"),
    ("plain = true", "plain = \"yes\"", "`plain` must be `true` or `false`"),
    ("threads = 1", "threads = 0", "at least 1"),
    ("threads = 1", "threads = 5000", "at most 1024"),
    ("threads = 1", "threads = \"4\"", "whole number"),
    ("threads = 1", "node = \"a b\"", "visible ASCII"),
    // Listeners.
    ("address = \"127.0.0.1:0\"\nplain", "address = \"localhost:0\"\nplain", "is not an address"),
    ("address = \"127.0.0.1:0\"\nplain", "address = \":8080\"\nplain", "is not an address"),
    ("address = \"127.0.0.1:0\"\nplain", "address = 8080\nplain", "`address` must be a string"),
    (
        "address = \"127.0.0.1:0\"\nplain",
        "address = \"192.0.2.1:0\"\nplain",
        "does not have the address",
    ),
    (
        "plain = true",
        "plain = true\ncertificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]",
        "cannot be combined",
    ),
    ("plain = true", "plain = true\nclient_ca = \"ca.pem\"", "client certificates need TLS"),
    ("plain = true", "plain = true\ntrusted_peers = [\"10.0.0.0/33\"]", "is not a network"),
    ("plain = true", "plain = true\nmin_tls = \"1.1\"", "not a value of `min_tls`"),
    ("cert = \"cert.pem\"", "cert = \"missing.pem\"", "missing.pem cannot be read"),
    ("key = \"key.pem\"", "key = \"missing.pem\"", "missing.pem cannot be read"),
    ("key = \"key.pem\"", "key = \"ca.pem\"", "ca.pem"),
    ("cert = \"cert.pem\"", "cert = \"secret\"", "holds no certificate"),
    ("cert = \"cert.pem\"", "cert = \".\"", "cannot be read"),
    ("cert = \"cert.pem\"", "cert = \"ca.pem\"", "does not belong to"),
    (
        "certificates = [",
        "client_ca = \"missing.pem\"\ncertificates = [",
        "missing.pem cannot be read",
    ),
    ("certificates = [", "client_ca = \"key.pem\"\ncertificates = [", "holds no certificate"),
    ("certificates = [", "client_auth = \"required\"\ncertificates = [", "needs `client_ca`"),
    // Issuers.
    ("audience = [\"chat\"]", "", "needs `audience`"),
    ("audience = [\"chat\"]", "audience = \"chat\"", "write `audience = [\"chat\"]`"),
    ("audience = [\"chat\"]", "audience = []", "needs `audience`"),
    ("\"HS256\"", "\"none\"", "is not a supported algorithm"),
    ("\"HS256\"", "\"RS256\"", "`secret_file` is not used with RS256"),
    ("secret_file = \"secret\"", "secret = \"x\"", "never written in the file"),
    ("secret_file = \"secret\"", "secret_file = \"missing\"", "cannot read `missing`"),
    ("secret_file = \"secret\"", "secret_env = \"USHER_TEST_NOT_SET\"", "is not set"),
    ("secret_file = \"secret\"", "secret_env = \"$HOME\"", "write `secret_env = \"HOME\"`"),
    ("secret_file = \"secret\"", "", "needs `secret_env`"),
    ("secret_file = \"secret\"", "secret_file = \"secret\"\nleeway = 30", "has no unit"),
    (
        "secret_file = \"secret\"",
        "secret_file = \"secret\"\nmax_lifetime = \"0s\"",
        "greater than zero",
    ),
    (
        "secret_file = \"secret\"",
        "secret_file = \"secret\"\nca_file = \"ca.pem\"",
        "needs `jwks_url` or `discovery`",
    ),
    ("name = \"keys\"", "name = \"main\"", "appears twice"),
    ("https://keys.example.com", "https://id.example.com", "https://id.example.com"),
    ("jwks_file = \"jwks.json\"", "jwks_file = \"missing.json\"", "missing.json cannot be read"),
    ("jwks_file = \"jwks.json\"", "jwks_file = \"secret\"", "keys of issuer keys: "),
    ("\"ES256\"", "\"EdDSA\"", "keys of issuer keys: "),
    (
        "jwks_file = \"jwks.json\"",
        "jwks_url = \"http://example.com/jwks\"",
        "plain http to another machine",
    ),
    (
        "jwks_file = \"jwks.json\"",
        "jwks_url = \"https://localhost:1/\"\nca_file = \"no.pem\"",
        "no.pem cannot be read",
    ),
    (
        "jwks_file = \"jwks.json\"",
        "jwks_url = \"https://localhost:1/\"\nca_file = \"key.pem\"",
        "holds no certificate",
    ),
    // Verifiers.
    ("kind = \"http\"", "kind = \"oauth\"", "is not a value of `kind`"),
    (
        "https://localhost:1/verify\"\nca_file = \"ca.pem\"",
        "https://localhost:1/\"\nca_file = \"no.pem\"",
        "no.pem cannot be read",
    ),
    (
        "https://localhost:1/verify\"\nca_file = \"ca.pem\"",
        "https://localhost:1/\"\nca_file = \"secret\"",
        "holds no certificate",
    ),
    (
        "url = \"https://localhost:1/verify\"",
        "url = \"ftp://localhost\"",
        "url = \"ftp://localhost\"",
    ),
    // Upstreams.
    ("servers = [\"https://localhost:1\"]", "servers = []", "needs `servers`"),
    (
        "servers = [\"https://localhost:1\"]",
        "servers = \"https://localhost:1\"",
        "write `servers = ",
    ),
    ("servers = [\"https://localhost:1\"]", "servers = [\"localhost:1\"]", "is not a server"),
    (
        "servers = [\"https://localhost:1\"]",
        "servers = [\"https://localhost:1/path\"]",
        "more than a host and a port",
    ),
    (
        "https://localhost:1\"]\nca_file = \"ca.pem\"",
        "https://localhost:1\"]\nca_file = \"no.pem\"",
        "no.pem cannot be read",
    ),
    (
        "https://localhost:1\"]\nca_file = \"ca.pem\"",
        "https://localhost:1\"]\nca_file = \"secret\"",
        "holds no certificate",
    ),
    (
        "https://localhost:1\"]",
        "https://localhost:1\"]\nserver_name = \"a b\"",
        "is not a server name",
    ),
    (
        "https://localhost:1\"]",
        "https://localhost:1\"]\nserver_name = \"chat:443\"",
        "without a port",
    ),
    ("https://localhost:1\"]", "https://a_*b:1\"]", "is not a server name"),
    ("https://localhost:1\"]", "https://localhost:1\"]\ndial_timeout = \"3\"", "has no unit"),
    (
        "https://localhost:1\"]",
        "https://localhost:1\"]\ndial_timeout = \"3 parsecs\"",
        "is not a unit of time",
    ),
    // Routes.
    ("path = \"/ws\"", "path = \"ws\"", "a path must begin with '/'"),
    ("path = \"/ws\"", "", "needs `path`"),
    ("upstream = \"chat\"", "upstream = \"chta\"", "did you mean `chat`?"),
    (
        "upstream = \"chat\"",
        "upstream = \"chat\"\nstrip_prefix = \"/chat\"",
        "does not lie under `/chat`",
    ),
    ("upstream = \"chat\"", "upstream = \"chat\"\nstrip_prefix = \"/ws/\"", "write `/ws`"),
    ("upstream = \"chat\"", "upstream = \"chat\"\nupstream_path = \"//host/ws\"", "is ambiguous"),
    (
        "upstream = \"chat\"",
        "upstream = \"chat\"\nupstream_path = \"/x\"\nstrip_prefix = \"/ws\"",
        "remove one of them",
    ),
    ("\"ticket\",", "\"tikcet\",", "did you mean `ticket`?"),
    ("\"ticket\",", "\"header\",", "appears twice"),
    ("\"ticket\",", "\"session\",", "needs a verifier"),
    ("\"ticket\",", "\"mtls\",", "no listener asks for client certificates"),
    ("\"ticket\",", "\"bypass\",", "`bypass` needs a secret"),
    ("auth = [\"ticket\", \"message\", \"header\"]", "", "needs `auth`"),
    (
        "auth = [\"ticket\", \"message\", \"header\"]",
        "auth = \"ticket\"",
        "write `auth = [\"ticket\"]`",
    ),
    (
        "origins = [\"https://app.example.com\"]",
        "origins = [\"app.example.com\"]",
        "app.example.com",
    ),
    ("origins =", "hosts = [\"chat.example.com:8443\"]\norigins =", "write 'chat.example.com'"),
    ("origins =", "hosts = [\"https://chat.example.com\"]\norigins =", "without scheme or port"),
    ("origins =", "require = [\"room:{room}\"]\norigins =", "has no `{room}`"),
    ("origins =", "reject_mode = \"https\"\norigins =", "not a value of `reject_mode`"),
    ("origins =", "subprotocols = [\"a b\"]\norigins =", "not a valid subprotocol name"),
    (
        "[admin]",
        "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = []\n[admin]",
        "appears twice",
    ),
    // The rest.
    ("address = \"127.0.0.1:0\"\n\n[audit]", "address = \"0.0.0.0:0\"\n\n[audit]", "needs a token"),
    (
        "address = \"127.0.0.1:0\"\n\n[audit]",
        "address = \"127.0.0.1:0\"\ntoken_file = \"missing\"\n[audit]",
        "cannot read `missing`",
    ),
    (
        "address = \"127.0.0.1:0\"\n\n[audit]",
        "address = \"192.0.2.1:0\"\ntoken_file = \"secret\"\n[audit]",
        "does not have the address",
    ),
    ("file = \"audit.jsonl\"", "file = \"missing/audit.jsonl\"", "does not exist"),
    ("file = \"audit.jsonl\"", "file = \".\"", "is a directory"),
    ("file = \"audit.jsonl\"", "file = \"secret/audit.jsonl\"", "does not exist"),
    ("[audit]", "[log]\nfilter = \"verbose\"\n[audit]", "is not a log level"),
    ("[audit]", "[log]\nfilter = \"usher=loud\"\n[audit]", "is not a filter"),
    ("[audit]", "[log]\nformat = \"yaml\"\n[audit]", "not a value of `format`"),
    ("[audit]", "[tickets]\nrate_per_user = \"60/m\"\n[audit]", "write \"60/1m\""),
    ("[audit]", "[tickets]\nttl = \"10m\"\n[audit]", "`max_ttl`"),
    ("[audit]", "[tickets]\npath = \"ticket\"\n[audit]", "a path must begin with '/'"),
    ("[audit]", "[limits]\nhead_bytes = 16\n[audit]", "has no unit"),
    (
        "[audit]",
        "[store]\nurl = \"rediss://127.0.0.1:1\"\nca_file = \"no.pem\"\n[audit]",
        "no.pem cannot be read",
    ),
    (
        "[audit]",
        "[store]\nurl = \"rediss://127.0.0.1:1\"\nca_file = \"secret\"\n[audit]",
        "holds no certificate",
    ),
    ("[audit]", "[store]\nurl = \"http://127.0.0.1\"\n[audit]", "url = \"http://127.0.0.1\""),
    ("[audit]", "[context]\nkey_files = [\"missing.pem\"]\n[audit]", "missing.pem cannot be read"),
    ("[audit]", "[context]\nkey_files = [\"secret\"]\n[audit]", "signing key: "),
    (
        "[audit]",
        "[context]\nalgorithm = \"ES256\"\nkey_files = [\"signing.pem\"]\n[audit]",
        "is not an ES256 key",
    ),
    ("[audit]", "[context]\nalgorithm = \"ES256\"\n[audit]", "the keys are for EdDSA"),
    ("[audit]", "[context]\nalgorithm = \"HS256\"\n[audit]", "needs a secret"),
    ("[audit]", "[context]\nheader = \"X User\"\n[audit]", "is not a header name"),
    ("state_dir = \"state\"", "state_dir = \"secret\"", "is not a directory"),
    ("state_dir = \"state\"", "state_dir = \"secret/state\"", "is not a directory"),
];

fn lay_out(folder: &Path) {
    drop(certificate(folder));
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.join("ca.pem"), other.cert.pem()).unwrap();
    fs::write(folder.join("jwks.json"), JWKS).unwrap();
    chmod(&folder.join("secret"), 0o600);
    let signing = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    fs::write(folder.join("signing.pem"), signing.serialize_pem()).unwrap();
    chmod(&folder.join("signing.pem"), 0o600);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn edited(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "{from}");
    BASE.replacen(from, to, 1)
}

/// Returns the exit code and standard error. The code is `None` if the command went on serving.
fn outcome(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", PATIENCE, env!("CARGO_BIN_EXE_usher")]).args(arguments);
    let Output { status, stderr, .. } = command.env("NO_COLOR", "1").output().unwrap();
    let code = status.code().filter(|code| *code != KILLED);
    (code, String::from_utf8(stderr).unwrap())
}

/// Returns what all three say about the file, after checking that it is the same.
fn verdict(usher: &Usher, text: &str) -> (Option<i32>, String) {
    fs::write(usher.config_path(), text).unwrap();
    let path = usher.config_path();
    let path = path.to_str().unwrap();
    let check = outcome(&["check", "-c", path]);
    let run = outcome(&["run", "-c", path]);
    let (code, reload) = outcome(&["reload", "--admin", &usher.admin.to_string()]);
    assert_eq!(check, run, "check and run\n{text}");
    assert_eq!(code, run.0, "reload and run\n{text}\n{reload}\n{}", run.1);
    assert_eq!(
        reload.strip_prefix(&run.1).map(str::trim),
        Some("usher: configuration rejected; nothing has changed")
    );
    run
}

async fn started() -> (Echo, Usher) {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    lay_out(usher.folder());
    (echo, usher)
}

fn check(usher: &Usher, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_usher"))
        .arg("check")
        .args(arguments)
        .arg(usher.config_path())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_run_and_reload_say_the_same_of_a_hundred_broken_files() {
    let (_echo, usher) = started().await;
    fs::write(usher.config_path(), BASE).unwrap();
    let good = check(&usher, &["--offline"]);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(WRONG_TEXT.len() >= 100, "{}", WRONG_TEXT.len());
    let mut faults = Vec::new();
    for (from, to, part) in WRONG_TEXT {
        let (code, text) = verdict(&usher, &edited(from, to));
        let wanted = if part.contains("does not have the address") { 69 } else { 78 };
        // One mistake gives one error, with its line, the reason and the exit code of the page.
        let is_as_wanted = code == Some(wanted) && text.matches(": error: ").count() == 1;
        if !(is_as_wanted && text.contains(part) && text.contains("usher.toml:")) {
            faults.push(format!("{to}: not {wanted} and {part}, but {code:?}\n{text}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_outside_of_the_file_gets_the_same_verdict() {
    let (_echo, usher) = started().await;
    let folder = usher.folder().to_owned();
    let says = |text: &str, code: i32, part: &str| {
        let (found, said) = verdict(&usher, text);
        assert!(
            found == Some(code) && said.contains(part) && said.contains("usher.toml:"),
            "{part}, {found:?}:\n{said}"
        );
    };
    // A port of another program is an error. The ports of the running Usher are no error for its
    // reload.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().to_string();
    says(
        &edited("\"127.0.0.1:0\"\nplain", &format!("\"{port}\"\nplain")),
        69,
        "the port is in use",
    );
    says(
        &edited("\"127.0.0.1:0\"\n\n[audit]", &format!("\"{port}\"\n\n[audit]")),
        69,
        "the port is in use",
    );
    // The most serious error decides the exit code.
    let text = edited("\"127.0.0.1:0\"\nplain", &format!("\"{port}\"\nplain"));
    says(&text.replace("cert = \"cert.pem\"", "cert = \"missing.pem\""), 78, "the port is in use");
    // The admin listener on the port of another listener, at any address.
    let same = BASE.replace("\"127.0.0.1:0\"\nplain", "\"0.0.0.0:18443\"\nplain");
    says(
        &same.replace("\"127.0.0.1:0\"\n\n[audit]", "\"127.0.0.1:18443\"\n\n[audit]"),
        78,
        "have the same port",
    );
    // Keys that other users of the machine can read.
    let files = edited("[audit]", "[context]\nkey_files = [\"signing.pem\"]\n[audit]");
    chmod(&folder.join("signing.pem"), 0o644);
    says(&files, 77, "others can read the key file");
    chmod(&folder.join("signing.pem"), 0o600);
    let keys: Vec<_> = fs::read_dir(folder.join("state/keys"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let key = keys
        .iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "pem"))
        .unwrap();
    chmod(key, 0o604);
    says(BASE, 77, "others can read the key file");
    chmod(key, 0o600);
    // Files that have changed since.
    fs::write(folder.join("jwks.json"), "{\"keys\":[]}").unwrap();
    says(BASE, 78, "keys of issuer keys: ");
    fs::write(folder.join("jwks.json"), JWKS).unwrap();
    fs::write(folder.join("secret"), "short").unwrap();
    says(BASE, 78, "has 5 bytes");
    fs::remove_file(folder.join("secret")).unwrap();
    says(BASE, 78, "cannot read `secret`");
    fs::write(folder.join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
    // Lists of revoked clients that no handshake could use.
    let ca = OpensslCa::new("clients");
    fs::write(folder.join("clients.pem"), ca.text("ca.pem")).unwrap();
    let lines = "client_ca = \"clients.pem\"\nclient_crls = [\"clients.crl\"]\ncertificates = [";
    let listed = edited("certificates = [", lines);
    let indirect = "[scope]\nissuingDistributionPoint = critical, @indirect\n\
                    [indirect]\nindirectCRL = TRUE\n";
    for (list, part) in [
        (ca.crl_with("", ""), "has version 1; version 2 with a CRL number is needed"),
        (ca.crl_with("crl_extensions = scope", indirect), "the CRL of CN=clients cannot be used"),
    ] {
        fs::write(folder.join("clients.crl"), list).unwrap();
        says(&listed, 78, part);
    }
    // Two mistakes of two kinds are reported together.
    let two = BASE
        .replace("cert = \"cert.pem\"", "cert = \"one.pem\"")
        .replace("audit.jsonl", "nowhere/audit.jsonl");
    let (_, said) = verdict(&usher, &two);
    assert!(said.contains("one.pem") && said.contains("nowhere"), "{said}");
    // So are those in the file and those in the files that it names.
    let two = BASE
        .replace("cert = \"cert.pem\"", "cert = \"one.pem\"")
        .replace("secret_file = \"secret\"", "secret_env = \"USHER_TEST_NOT_SET\"");
    let (_, said) = verdict(&usher, &two);
    assert!(said.contains("one.pem") && said.contains("is not set"), "{said}");
    // All three accept a good file.
    fs::write(usher.config_path(), BASE).unwrap();
    let reload = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["reload", "--admin", &usher.admin.to_string()])
        .output()
        .unwrap();
    assert!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_running_usher_is_free_for_its_reload_and_for_check() {
    let (_echo, usher) = started().await;
    // A reload and a check with exactly the listeners that are open.
    let text = BASE
        .replacen("\"127.0.0.1:0\"", &format!("\"{}\"", usher.tls), 1)
        .replacen("\"127.0.0.1:0\"", &format!("\"{}\"", usher.plain), 1)
        .replacen("\"127.0.0.1:0\"", &format!("\"{}\"", usher.admin), 1);
    fs::write(usher.config_path(), &text).unwrap();
    let checked = check(&usher, &[]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned()
        + &String::from_utf8_lossy(&checked.stderr);
    assert!(
        checked.status.success() && said.matches("bound by the running Usher").count() == 3,
        "{said}"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_out_of_its_dates_is_served_with_a_warning_everywhere() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let now = time::OffsetDateTime::now_utc();
    let day = time::Duration::days(1);
    for (from, to, part) in
        [(now - day * 90, now - day, "expired on"), (now + day, now + day * 90, "not valid before")]
    {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (from, to);
        fs::write(usher.folder().join("cert.pem"), params.self_signed(&key).unwrap().pem())
            .unwrap();
        fs::write(usher.folder().join("key.pem"), key.serialize_pem()).unwrap();

        let checked = check(&usher, &[]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(
            checked.status.success()
                && said.contains("warning: certificate ")
                && said.contains(part),
            "{said}"
        );
        assert_eq!(check(&usher, &["--strict"]).status.code(), Some(1));
        let reload = Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(["reload", "--admin", &usher.admin.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&reload.stdout).into_owned();
        assert!(reload.status.success() && said.contains(part), "{said}");
        usher.logged(&["config_warning", part]).await;
    }
    let usher = usher.kill_and_restart().await;
    usher.logged(&["config_warning", "not valid before"]).await;
    usher.finish().await;
}

#[test]
fn colours_follow_the_variables() {
    let render = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command
            .args(["check", "/nowhere/usher.toml"])
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR_FORCE");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        String::from_utf8(output.stderr).unwrap().contains('\u{1b}')
    };
    assert!(!render(&[]), "not a terminal");
    assert!(render(&[("CLICOLOR_FORCE", "1")]));
    assert!(!render(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    // `script` gives the command a terminal.
    let in_terminal = |variables: &str| {
        let line = format!(
            "env -u NO_COLOR -u CLICOLOR_FORCE {variables} {} check /nowhere/usher.toml",
            env!("CARGO_BIN_EXE_usher")
        );
        let output = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).contains('\u{1b}')
    };
    assert!(in_terminal("TERM=xterm"));
    assert!(!in_terminal("TERM=dumb") && !in_terminal("TERM=xterm NO_COLOR=1"));
}

#[test]
fn the_configuration_is_named_alike_for_every_command() {
    let folder = std::env::temp_dir().join(format!("usher-e2e-named-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("usher.toml");
    fs::write(&file, "[admin\n").unwrap();
    let path = file.to_str().unwrap();
    for command in [
        &["check"][..],
        &["run"],
        &["reload"],
        &["status"],
        &["sessions"],
        &["explain", "ws://localhost/ws"],
    ] {
        let by_flag = Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(command)
            .args(["-c", path])
            .output()
            .unwrap();
        let by_variable = Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(command)
            .env("USHER_CONFIG", path)
            .output()
            .unwrap();
        for output in [by_flag, by_variable] {
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(
                output.status.code() == Some(78) && said.contains("usher.toml:1:"),
                "{command:?}: {said}"
            );
        }
    }
    // The variable does not prevent an address on the command line.
    let output = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["status", "--admin", "127.0.0.1:1"])
        .env("USHER_CONFIG", path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
    let json =
        Command::new(env!("CARGO_BIN_EXE_usher")).args(["check", "--json", path]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(
        json.status.code() == Some(78) && value["errors"][0]["line"] == 1 && value["ok"] == false,
        "{value}"
    );
    fs::remove_dir_all(folder).unwrap();
}
