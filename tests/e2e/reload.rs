//! A reload of the configuration while Usher runs.

use std::process::{Output, Stdio};
use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::first_message::{auth, json as json_of};
use crate::support::client::{self, Answer, Raw};
use crate::support::usher::{acceptor, certificate, is_alive};
use crate::support::{Echo, KeyServer, Setup, Signer, Usher, eventually, token};

pub async fn usher_reload(usher: &Usher) -> (i32, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_usher"));
    command.args(["reload", "--admin", &usher.admin.to_string()]).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout) + &text(stderr))
}

fn edit(usher: &Usher, from: &str, to: &str) {
    let path = usher.folder().join("usher.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

async fn post(usher: &Usher, content_type: &str) -> Answer {
    let mut raw = Raw::connect(usher.admin).await;
    raw.send(format!(
        "POST /reload HTTP/1.1\r\nhost: {}\r\n{content_type}content-length: 2\r\n\r\n{{}}",
        usher.admin
    ))
    .await;
    Answer::parse(&raw.read_to_close().await)
}

async fn metric(usher: &Usher, line: &str) -> bool {
    usher.metrics().await.lines().any(|one| one == line)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_what_comes_next_and_no_live_session() {
    let (echo, other) = (Echo::start().await, Echo::start().await);
    let usher = Setup::new(echo.url()).start().await;
    let token = format!("Bearer {}", usher.token("ada"));
    let headers = [("authorization", token.as_str())];
    let mut first = usher.open("/ws", &headers).await.unwrap();

    edit(&usher, "path = \"/ws\"", "path = \"/v2\"\norigins = []");
    edit(&usher, &echo.url(), &other.url());
    let (code, said) = usher_reload(&usher).await;
    assert_eq!((code, said.as_str()), (0, "applied: route, upstream\n"));

    is_alive(&mut first).await;
    assert_eq!(client::get(usher.plain, "/ws").await.status, 404, "the old route is still there");
    let mut second = usher.open("/v2", &headers).await.unwrap();
    is_alive(&mut second).await;
    let status: Value =
        serde_json::from_str(&client::get(usher.admin, "/status").await.body).unwrap();
    assert_eq!((&status["routes"][0], &status["sessions"]), (&json!("/v2"), &json!(2)));
    let metrics = usher.metrics().await;
    for line in [
        "usher_sessions_active{route=\"/ws\"} 1",
        "usher_sessions_active{route=\"/v2\"} 1",
        "usher_reloads_total{outcome=\"applied\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    drop((first, second));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_says_why_as_check_does() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    edit(&usher, "path = \"/ws\"", "path = \"/v2\"\nhots = []");
    let (code, said) = usher_reload(&usher).await;
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("did you mean `hosts`?")
            && said.contains("hots = []")
            && said.contains("nothing has changed"),
        "{said}"
    );
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_usher"))
        .arg("check")
        .arg(usher.folder().join("usher.toml"))
        .output()
        .unwrap();
    assert!(said.starts_with(&*String::from_utf8(check.stderr).unwrap()), "the same words: {said}");

    let answer = post(&usher, "content-type: application/json\r\n").await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (answer.status, &body["code"], &body["errors"][0]["line"].is_u64()),
        (422, &json!("CONFIG_REFUSED"), &true)
    );
    assert_eq!(post(&usher, "").await.status, 415);
    // The files that a configuration names are checked before the reload too.
    edit(&usher, "\nhots = []", "");
    let key = usher.folder().join("key.pem");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "no key").unwrap();
    let (code, said) = usher_reload(&usher).await;
    assert!(code == 78 && said.contains("key.pem"), "{code} {said}");
    assert!(metric(&usher, "usher_config_is_current 0").await);
    assert_eq!(client::get(usher.plain, "/v2").await.status, 404);

    std::fs::write(&key, good).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    assert_eq!(client::get(usher.plain, "/v2").await.status, 401);
    assert!(metric(&usher, "usher_config_is_current 1").await);
    let audit = usher.finish().await;
    let told: Vec<_> = audit
        .iter()
        .filter_map(|line| line["event"].as_str().filter(|event| event.starts_with("config_")))
        .collect();
    assert_eq!(told, ["config_refused", "config_refused", "config_refused", "config_applied"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_loads_new_certificates_and_names_what_needs_a_start() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let connector = certificate(usher.folder());
    let connect = async || {
        let stream = tokio::net::TcpStream::connect(usher.tls).await.unwrap();
        connector.connect("localhost".try_into().unwrap(), stream).await
    };
    assert!(connect().await.is_err(), "the old certificate is in force");
    edit(&usher, "state_dir = \"state\"", "state_dir = \"elsewhere\"\nthreads = 3");
    usher.signal("HUP");
    usher.until_metric("usher_reloads_total{outcome=\"applied\"} 1").await;
    connect().await.expect("the new certificate is in force");
    let line = usher.logged(&["config_needs_restart"]).await;
    assert!(line.contains("threads, state_dir"), "{line}");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_loads_a_changed_file_once() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).argument("--watch").start().await;
    let token = format!("Bearer {}", usher.token("ada"));
    drop(usher.open("/ws", &[("authorization", &token)]).await.unwrap());
    // This file is written in place. The others are replaced by a rename.
    std::fs::write(usher.folder().join("secret"), "another secret that is long enough for HS256")
        .unwrap();
    usher.until_metric("usher_reloads_total{outcome=\"applied\"} 1").await;
    assert!(
        usher.open("/ws", &[("authorization", &token)]).await.is_err(),
        "a token under the old secret was accepted"
    );
    let rename = |from: &str, to: &str| {
        let path = usher.config_path();
        let text = std::fs::read_to_string(&path).unwrap().replacen(from, to, 1);
        std::fs::write(usher.folder().join("new"), text).unwrap();
        std::fs::rename(usher.folder().join("new"), path).unwrap();
    };
    rename("[drain]", "[drian]");
    usher.until_metric("usher_reloads_total{outcome=\"refused\"} 1").await;
    rename("[drian]", "[drain]");
    usher.until_metric("usher_reloads_total{outcome=\"applied\"} 2").await;
    assert!(metric(&usher, "usher_reloads_total{outcome=\"refused\"} 1").await);
    usher.finish().await;
}

/// The first part of a file may be a valid configuration that allows more than the whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_still_being_written_is_never_in_force() {
    use std::io::Write as _;
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).argument("--watch").start().await;
    let token =
        format!("Bearer {}", usher.token_with("ada", json!({ "permissions": ["chat:read"] })));
    let headers = [("authorization", token.as_str())];
    let whole = std::fs::read_to_string(usher.config_path()).unwrap();
    let (before, behind) = whole.split_once("path = \"/api/*\"").unwrap();
    let (key, behind) = behind.split_once("auth = [\"header\"]").unwrap();
    let require = format!("path = \"/api/*\"{key}auth = [\"header\"]\nrequire = [\"chat:write\"]");
    // Only the last write adds the line that protects the new route.
    let table = "\n[[route]]\npath = \"/late\"\nupstream = \"chat\"\nauth = [\"header\"]\n";
    let mut file = std::fs::File::create(usher.config_path()).unwrap();
    file.write_all(format!("{before}{require}{behind}{table}").as_bytes()).unwrap();
    // One process keeps the file open for longer than a file must be quiet.
    let pause = Duration::from_millis(100);
    for _ in
        0..(usher::edge::watch::QUIET + Duration::from_secs(2)).div_duration_f32(pause) as usize
    {
        assert!(usher.open("/late", &headers).await.is_err(), "half a file is in force");
        sleep(pause).await;
    }
    assert!(metric(&usher, "usher_reloads_total{outcome=\"applied\"} 0").await);
    file.write_all(b"require = [\"chat:write\"]\n").unwrap();
    drop(file);
    usher.until_metric("usher_reloads_total{outcome=\"applied\"} 1").await;
    assert_eq!(client::get(usher.plain, "/late").await.status, 401, "the whole file is in force");
    assert!(usher.open("/late", &headers).await.is_err(), "the last line is not in force");

    // Many writes: the file is closed after each, and the next one comes before the quiet time is
    // over.
    let rest = "\n[[route]]\npath = \"/later\"\nupstream = \"chat\"\nauth = [\"header\"]\n";
    let append = |text: &str| {
        std::fs::OpenOptions::new()
            .append(true)
            .open(usher.config_path())
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    };
    append(rest);
    for turn in 0..7 {
        sleep(Duration::from_secs(1)).await;
        assert!(usher.open("/later", &headers).await.is_err(), "{turn}");
        append(&format!("# {turn}\n"));
    }
    append("require = [\"chat:write\"]\n");
    usher.until_metric("usher_reloads_total{outcome=\"applied\"} 2").await;
    assert!(usher.open("/later", &headers).await.is_err());
    assert_eq!(client::get(usher.plain, "/later").await.status, 401);
    usher.finish().await;
}

/// The file is replaced as in a Kubernetes volume: a link leads over `..data` into a folder, and
/// `..data` is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_symlink_that_leads_elsewhere_is_taken_at_once() {
    use std::os::unix::fs::symlink;
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let folder = usher.folder().to_owned();
    let text = std::fs::read_to_string(usher.config_path()).unwrap();
    let publish = |version: &str, text: &str| {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("usher.toml"), text).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    publish("..1", &text);
    std::fs::remove_file(usher.config_path()).unwrap();
    symlink("..data/usher.toml", usher.config_path()).unwrap();
    let usher = usher.watching().kill_and_restart().await;
    for (version, path) in [("..2", "/v2"), ("..3", "/v3")] {
        publish(version, &text.replace("path = \"/ws\"", &format!("path = \"{path}\"")));
        let is_there = async || client::get(usher.plain, path).await.status == 401;
        eventually(format!("{path} is in force"), is_there).await;
    }
    usher.finish().await;
}

/// While the configuration is loaded again and again, no connection is refused and no session is
/// dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reloads_under_load_refuse_and_drop_no_client() {
    let echo = Echo::start().await;
    let usher = std::sync::Arc::new(Setup::new(echo.url()).start().await);
    let token = format!("Bearer {}", usher.token("ada"));
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.push(usher.open("/ws", &[("authorization", &token)]).await.unwrap());
    }
    let reloading = {
        let usher = std::sync::Arc::clone(&usher);
        tokio::spawn(async move {
            for turn in 0..20 {
                edit(&usher, "window = \"200ms\"", "window = \"200ms\" # again");
                assert_eq!(
                    post(&usher, "content-type: application/json\r\n").await.status,
                    200,
                    "{turn}"
                );
            }
        })
    };
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (usher, token) = (std::sync::Arc::clone(&usher), token.clone());
            tokio::spawn(async move {
                for _ in 0..30 {
                    let mut socket =
                        usher.open("/ws", &[("authorization", &token)]).await.expect("refused");
                    is_alive(&mut socket).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    reloading.await.unwrap();
    for socket in &mut kept {
        is_alive(socket).await;
    }
    drop(kept);
    std::sync::Arc::into_inner(usher).unwrap().finish().await;
}

/// A session may last longer than the keys of its start. The new token of its client has a
/// signature by the current keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_judged_by_the_keys_in_force_and_not_by_those_of_the_session_s_start() {
    let echo = Echo::start().await;
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let published = KeyServer::publishing(&[&old]).await;
    let routes = "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"header\"]\n\
        [route.reauth]\nproactive = true\n";
    let usher =
        Setup::new(echo.url()).routes(routes).issuer(&published.table("other", "")).start().await;
    let of = |signer: &Signer, seconds: u64| {
        let made = signer.token(
            &published,
            "ada",
            json!({ "exp": token::now() + seconds, "jti": seconds.to_string() }),
        );
        usher.keep_secret(&made);
        made
    };
    let open = async |token: &str| {
        usher.open("/ws", &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
    };
    let (mut remote, mut shared) = (open(&of(&old, 600)).await, usher.connect("ada").await);

    // The keys of the issuer change after a reload that did not concern them.
    edit(&usher, "path = \"/ws\"", "path = \"/v2\"");
    std::fs::write(usher.folder().join("secret"), "a new secret of enough bytes for HS256")
        .unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    published.publish(&[&new]);
    remote.send(auth(&of(&new, 1200))).await.unwrap();
    assert_eq!(json_of(&mut remote).await["type"], "auth_ok");
    remote.send(auth(&of(&old, 1800))).await.unwrap();
    assert_eq!(json_of(&mut remote).await["type"], "error", "a key that is gone was accepted");

    // A token under the old secret of the operator does not renew a session.
    shared
        .send(auth(&usher.token_with("ada", json!({ "exp": token::now() + 1800 }))))
        .await
        .unwrap();
    assert_eq!(json_of(&mut shared).await["type"], "error");
    for socket in [&mut remote, &mut shared] {
        is_alive(socket).await;
    }
    drop((remote, shared));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_listener_that_is_taken_out_of_the_file_still_asks_for_its_token() {
    let echo = Echo::start().await;
    let token = "0123456789abcdef";
    let setup = Setup::new(echo.url())
        .file("admin-token", token.to_owned())
        .admin_lines("token_file = \"admin-token\"");
    let usher = setup.start().await;
    let ask = async |authorization: &str| {
        let mut raw = Raw::connect(usher.admin).await;
        raw.send(format!("GET /status HTTP/1.1\r\nhost: {}\r\n{authorization}\r\n", usher.admin))
            .await;
        Answer::parse(&raw.read_to_close().await).status
    };
    let bearer = format!("authorization: Bearer {token}\r\n");
    assert_eq!((ask("").await, ask(&bearer).await), (401, 200));

    // On the new loopback address, the listener would need no token. It still has the old address
    // until a restart. Each reload names what waits for the restart.
    let path = usher.folder().join("usher.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("[admin]").unwrap();
    let behind = rest.split_once("[audit]").unwrap().1;
    for (turn, table) in ["[admin]\naddress = \"127.0.0.1:9\"\n", "", ""].into_iter().enumerate() {
        std::fs::write(&path, format!("{before}{table}[audit]{behind}")).unwrap();
        usher.signal("HUP");
        let is_it =
            |line: &&str| line.contains("config_needs_restart") && line.contains("admin.address");
        let is_named = async || usher.log().lines().filter(is_it).count() > turn;
        eventually("the log names what waits for a restart", is_named).await;
        assert_eq!((ask("").await, ask(&bearer).await), (401, 200), "{table}");
    }
    usher.finish().await;
}

/// Starts a server that answers every request, on connections that are kept.
async fn tls_server(
    certified: &rcgen::CertifiedKey<rcgen::KeyPair>,
) -> (String, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let acceptor = acceptor(certified);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|count| count > 0) {
                    let _ =
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    (url, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_is_not_reused_for_a_server_that_is_no_longer_trusted() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (url, serving) = tls_server(&certified).await;
    let usher = Setup::new(url)
        .upstream_lines("ca_file = \"ca.pem\"")
        .file("ca.pem", certified.cert.pem())
        .start()
        .await;
    // After this, every thread has a connection.
    for _ in 0..20 {
        assert_eq!(client::get(usher.plain, "/public/x").await.status, 200);
    }
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(usher.folder().join("ca.pem"), other.cert.pem()).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    for _ in 0..20 {
        assert_eq!(client::get(usher.plain, "/public/x").await.status, 502);
    }
    usher.finish().await;
    serving.abort();
}
