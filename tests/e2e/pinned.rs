//! Servers with a self-signed certificate of openssl, which serves as their `ca_file`.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::store_redis::redeem;
use crate::support::redis::{RedisServer, TLS, TLS_CLI};
use crate::support::usher::is_alive;
use crate::support::verifier_server::VerifierServer;
use crate::support::{Echo, KeyServer, Setup, Signer, client, eventually};

const OPAQUE: &str = "opaque-canary-1234567890";

/// A certificate with CA:TRUE for localhost, and its key.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn make() -> Self {
        let folder = crate::support::redis::folder();
        let request =
            "req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out cert.pem";
        let names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
        openssl(&folder, &[&request.split(' ').collect::<Vec<_>>(), &names[..]].concat());
        let shown = openssl(&folder, &["x509", "-in", "cert.pem", "-noout", "-text"]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains("CA:TRUE"));
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let pair = Self { certificate: read("cert.pem"), key: read("key.pem") };
        std::fs::remove_dir_all(folder).unwrap();
        pair
    }

    /// Returns a certificate that ended long ago. openssl 3.0 cannot make one.
    fn past() -> Self {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions();
        let config =
            builder.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key);
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }

    fn redis_files(&self) -> [(&str, &str); 2] {
        [("cert.pem", &self.certificate), ("key.pem", &self.key)]
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("openssl").current_dir(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Puts TLS in front of a plain server. Returns the port.
async fn secured(acceptor: TlsAcceptor, plain: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            tokio::spawn(async move {
                let mut client = acceptor.accept(stream).await.ok()?;
                let mut server = TcpStream::connect(plain).await.ok()?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_is_its_own_ca_file_for_every_server() {
    let pair = Pair::make();
    let echo = Echo::start_tls(pair.acceptor()).await;
    let verifier = VerifierServer::start_with(Some(pair.acceptor()), 0).await;
    verifier.knows(OPAQUE, "ada");
    let signer = Signer::new("one");
    let keys = KeyServer::publishing(&[&signer]).await;
    let keys_port = secured(pair.acceptor(), keys.issuer.replace("http://", "")).await;
    let redis = RedisServer::start_with(TLS, &pair.redis_files(), TLS_CLI);

    let issuer = &keys.issuer;
    let issuer = format!(
        "[[issuer]]\nname = \"keys\"\nissuer = \"{issuer}\"\naudience = [\"chat\"]\n\
         algorithms = [\"EdDSA\"]\n\
         jwks_url = \"https://localhost:{keys_port}/keys\"\nca_file = \"ca.pem\"\n"
    );
    let routes = "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"ticket\", \"header\"]\n\
                  [[route]]\npath = \"/opaque\"\nupstream = \"chat\"\nauth = [\"header\"]\n\
                  verifier = \"login\"\n";
    let store = format!(
        "[store]\nurl = \"rediss://localhost:{}\"\ntimeout = \"10s\"\nca_file = \"ca.pem\"\n",
        redis.port
    );
    let login = verifier.table("login", "http", "ca_file = \"ca.pem\"\ntimeout = \"10s\"");
    let setup = Setup::new(echo.url())
        .upstream_lines("ca_file = \"ca.pem\"")
        .routes(routes)
        .issuer(&issuer);
    let setup = setup.extra(&(login + &store)).file("ca.pem", pair.certificate.clone());
    let usher = setup
        .file("cert.pem", pair.certificate.clone())
        .file("key.pem", pair.key.clone())
        .start()
        .await;

    // In this order: the upstream and the keys of the issuer, the verifier, the store.
    let token = signer.token(&keys, "ada", json!({}));
    for (path, credential) in [("/ws", token.as_str()), ("/opaque", OPAQUE)] {
        let head = format!("Authorization: Bearer {credential}\r\nConnection: close\r\n");
        let answer = client::attempt(usher.plain, path, &head).await;
        assert_eq!(answer.status, 101, "{path}: {}", answer.body);
    }
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    assert_eq!((redeem(&usher, &ticket).await, redeem(&usher, &ticket).await), (101, 403));
    assert!(
        redis.cli(&["INFO", "commandstats"]).contains("cmdstat_set"),
        "the ticket was not in Redis"
    );
    // The certificate of the listener itself is the `--ca` of the bench.
    let url = format!("wss://localhost:{}/ws", usher.tls.port());
    let ca = usher.certificate_path();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_usher"));
    bench
        .args(["bench", "--auth", "header", "--connections", "2", "--token-env", "BENCH_TOKEN"])
        .arg("--ca")
        .arg(ca)
        .arg(url);
    let bench = bench.env("BENCH_TOKEN", usher.token("ada"));
    let output = tokio::task::block_in_place(|| bench.output().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_and_their_master_are_known_by_their_own_certificate() {
    let pair = Pair::make();
    let master = RedisServer::start_with(TLS, &pair.redis_files(), TLS_CLI);
    let sentinel = RedisServer::sentinel_with(master.port, &pair.redis_files());
    eventually("the sentinel knows the master", async || {
        sentinel.cli(&["SENTINEL", "MASTERS"]).contains("chat")
    })
    .await;
    let echo = Echo::start().await;
    let store = format!(
        "[store]\nurl = \"rediss+sentinel://127.0.0.1:{}/chat\"\ntimeout = \"10s\"\n\
         ca_file = \"ca.pem\"\n",
        sentinel.port
    );
    let usher =
        Setup::new(echo.url()).extra(&store).file("ca.pem", pair.certificate.clone()).start().await;
    let ticket = usher.issue_ticket(&usher.token("ada")).await;
    assert_eq!((redeem(&usher, &ticket).await, redeem(&usher, &ticket).await), (101, 403));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_another_name_and_a_past_date_are_refused() {
    let (pair, other) = (Pair::make(), Pair::make());
    let past = Pair::past();
    let trust = "ca_file = \"ca.pem\"";
    let wrong_name = format!("{trust}\nserver_name = \"other.example.com\"");
    for (shown, trusted, lines, status) in [
        (&pair, &pair, trust, 101),
        (&other, &pair, trust, 502),
        (&pair, &pair, &wrong_name, 502),
        (&past, &past, trust, 502),
    ] {
        let echo = Echo::start_tls(shown.acceptor()).await;
        let setup = Setup::new(echo.url()).upstream_lines(lines);
        let usher = setup.file("ca.pem", trusted.certificate.clone()).start().await;
        let head = format!("Authorization: Bearer {}\r\nConnection: close\r\n", usher.token("ada"));
        assert_eq!(client::attempt(usher.plain, "/ws", &head).await.status, status, "{lines}");
        if status == 101 {
            is_alive(&mut usher.connect("bob").await).await;
        }
        usher.finish().await;
    }
}
