//! OCSP answers in handshakes: made by `openssl ocsp`, seen by `openssl s_client`.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::reload::usher_reload;
use crate::support::openssl_ca::OpensslCa;
use crate::support::{Echo, Setup, Usher, eventually};

const SERVER: &str = "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth";
/// The listeners of a test come after those of every Usher.
const FIRST: usize = 2;

/// Returns what a client sees of the staple.
async fn seen(address: SocketAddr, ca: &OpensslCa) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-status", "-servername", "localhost", "-CAfile"])
        .arg(ca.path("ca.pem"))
        .args(["-connect", &address.to_string()])
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn is_stapled(address: SocketAddr, ca: &OpensslCa) -> bool {
    let text = seen(address, ca).await;
    let is_stapled = text.contains("OCSP Response Status: successful");
    assert_ne!(is_stapled, text.contains("OCSP response: no response sent"), "{text}");
    assert_eq!(is_stapled, text.contains("Cert Status: good"), "{text}");
    is_stapled
}

/// Answers a question as `openssl ocsp` does for this authority.
fn answer(ca: &OpensslCa, question: &str, answer: &str, signer: &str, options: &str) -> Vec<u8> {
    ca.openssl(&format!(
        "ocsp -index index.txt -CA ca.pem -rsigner {signer}.pem -rkey {signer}.key -reqin \
         {question} -respout {answer} {options}"
    ));
    fs::read(ca.path(answer)).unwrap()
}

/// Makes the answer for a certificate, in a file.
fn file_answer(ca: &OpensslCa, name: &str) -> Vec<u8> {
    ca.openssl(&format!("ocsp -issuer ca.pem -cert {name}.pem -no_nonce -reqout {name}.req"));
    answer(ca, &format!("{name}.req"), &format!("{name}.ocsp"), "ca", "-ndays 2")
}

/// A responder whose answer depends on the path.
struct Responder {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Responder {
    async fn start(ca: &Arc<OpensslCa>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ca = Arc::clone(ca);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, Arc::clone(&ca)));
            }
        });
        Self { address, task }
    }

    async fn serve(mut stream: TcpStream, ca: Arc<OpensslCa>) {
        let mut request = Vec::new();
        let (path, question) = loop {
            if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.unwrap().trim().parse().unwrap();
            let body = &request[end + 4..];
            if body.len() >= length {
                assert!(text.contains("content-type: application/ocsp-request"), "{text}");
                let path = text.split(' ').nth(1).unwrap().trim_matches('/').to_owned();
                break (path, body.to_vec());
            }
        };
        let name = path.clone();
        let made = tokio::task::spawn_blocking(move || {
            fs::write(ca.path(&format!("{name}.req")), question).unwrap();
            let signer = match name.as_str() {
                "delegated" => "delegate",
                "impostor" => "client",
                _ => "ca",
            };
            let asked = if name == "other" { "good" } else { &name };
            if name == "other" {
                ca.openssl("ocsp -issuer ca.pem -cert good.pem -no_nonce -reqout good.req");
            }
            let options = if name == "endless" { "" } else { "-ndays 2" };
            answer(&ca, &format!("{asked}.req"), &format!("{name}.resp"), signer, options)
        });
        let body = match path.as_str() {
            "hang" => {
                // Until the client gives up.
                let _ = stream.read_u8().await;
                return;
            }
            "big" => vec![0x30; 3 << 20],
            "nonsense" => b"<html>".to_vec(),
            _ => made.await.unwrap(),
        };
        let status = if path == "broken" { "500 Internal Server Error" } else { "200 OK" };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&body).await;
    }
}

/// Adds a listener with a certificate for each name.
fn with_listeners(mut setup: Setup, ca: &OpensslCa, names: &[&str], ocsp: &str) -> Setup {
    for name in names {
        let ocsp = ocsp.replace("NAME", name);
        setup = setup
            .extra(&format!(
                "[[listener]]\naddress = \"127.0.0.1:0\"\n\
                 certificates = [{{ cert = \"{name}.pem\", key = \"{name}.key\", {ocsp} }}]\n"
            ))
            .file(&format!("{name}.pem"), ca.text(&format!("{name}.pem")) + &ca.text("ca.pem"))
            .file(&format!("{name}.key"), ca.text(&format!("{name}.key")));
    }
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_answer_is_fetched_and_stapled_and_every_other_is_not() {
    let echo = Echo::start().await;
    let ca = Arc::new(OpensslCa::new("servers"));
    let responder = Responder::start(&ca).await;
    ca.issue("delegate", "extendedKeyUsage=OCSPSigning\nnoCheck=yes");
    ca.issue_client("client");
    let cases = [
        ("good", "stapled"),
        ("delegated", "stapled"),
        ("revoked", "revoked"),
        ("other", "other_certificate"),
        ("impostor", "signature"),
        ("hang", "timeout"),
        ("big", "too_large"),
        ("nonsense", "malformed"),
        ("endless", "malformed"),
        ("broken", "status"),
    ];
    let names: Vec<_> = cases.iter().map(|(name, _)| *name).collect();
    for name in &names {
        let url = format!("http://{}/{name}", responder.address);
        ca.issue(name, &format!("{SERVER}\nauthorityInfoAccess=OCSP;URI:{url}"));
    }
    ca.revoke("revoked");
    let setup = Setup::new(echo.url()).extra("[certificates]\nocsp_timeout = \"3s\"\n");
    let usher = with_listeners(setup, &ca, &names, "ocsp = \"fetch\"").start().await;
    for outcome in ["stapled", "malformed"] {
        usher.until_metric(&format!("usher_ocsp_fetches_total{{outcome=\"{outcome}\"}} 2")).await;
    }
    for (_, outcome) in &cases[2..7] {
        usher.until_metric(&format!("usher_ocsp_fetches_total{{outcome=\"{outcome}\"}} 1")).await;
    }
    for (index, (name, outcome)) in cases.iter().enumerate() {
        let address = usher.listeners[FIRST + index];
        assert_eq!(is_stapled(address, &ca).await, *outcome == "stapled", "{name}");
    }
    usher.logged(&["certificate_is_revoked", "revoked.pem"]).await;
    usher.logged(&["ocsp_fetch_failed", "impostor.pem", "not signed by the issuer"]).await;
    let series = |usher: &Usher, name: &str| {
        let file = usher.folder().join(format!("{name}.pem"));
        format!("usher_ocsp_staple_expiry_timestamp_seconds{{file=\"{}\"}}", file.display())
    };
    let metrics = usher.metrics().await;
    assert!(metrics.contains(&series(&usher, "good")), "{metrics}");
    assert!(!metrics.contains(&series(&usher, "revoked")), "{metrics}");

    // The kept answer of a certificate that is revoked is removed.
    let kept = |name: &str| {
        let file = usher.folder().join(format!("{name}.pem"));
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            file.as_os_str().as_encoded_bytes(),
        );
        let name = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}"));
        usher.folder().join("state/ocsp").join(name.collect::<String>() + ".der")
    };
    fs::copy(kept("good"), kept("revoked")).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    eventually("the answer is removed", async || !kept("revoked").exists()).await;

    // The authority is away: a reload and a restart keep the answer.
    responder.task.abort();
    assert_eq!(usher_reload(&usher).await.0, 0);
    assert!(is_stapled(usher.listeners[FIRST], &ca).await);
    let usher = usher.kill_and_restart().await;
    assert!(is_stapled(usher.listeners[FIRST], &ca).await);
    usher.until_metric("usher_ocsp_fetches_total{outcome=\"unreachable\"} 8").await;
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_a_file_is_stapled_and_checked_at_each_reload() {
    let echo = Echo::start().await;
    let ca = OpensslCa::new("servers");
    for name in ["server", "other"] {
        ca.issue(name, SERVER);
    }
    let twin = OpensslCa::new("servers");
    let setup = Setup::new(echo.url());
    let names = ["server"];
    let first = file_answer(&ca, "server");
    let others = file_answer(&ca, "other");
    let setup = with_listeners(setup, &ca, &names, "ocsp_file = \"NAME.ocsp\"");
    let usher = setup.binary("server.ocsp", first.clone()).start().await;
    let address = usher.listeners[FIRST];
    assert!(is_stapled(address, &ca).await);
    usher.logged(&["ocsp_stapled", "server.pem", "\"is_fetched\":false"]).await;

    // An answer that the authority has not signed: by another key under its name.
    for ending in ["pem", "key"] {
        fs::copy(twin.path(&format!("ca.{ending}")), ca.path(&format!("twin.{ending}"))).unwrap();
    }
    let forged = answer(&ca, "server.req", "forged.ocsp", "twin", "-ndays 2");
    ca.revoke("server");
    let revoked = file_answer(&ca, "server");
    for (bytes, part) in [
        (others, "about another certificate"),
        (forged, "not signed by the issuer"),
        (revoked, "THE CERTIFICATE IS REVOKED"),
        (first[..first.len() - 9].to_vec(), "not an OCSP answer"),
        (vec![0x30; 1 << 17], "larger than 64 KiB"),
    ] {
        fs::write(usher.folder().join("server.ocsp"), bytes).unwrap();
        let (code, said) = usher_reload(&usher).await;
        assert!(code != 0 && said.contains(part), "{part}: {code} {said}");
        assert!(is_stapled(address, &ca).await, "{part}");
    }
    fs::write(usher.folder().join("server.ocsp"), first).unwrap();
    assert_eq!(usher_reload(&usher).await.0, 0);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_requires_a_staple_is_warned_of_without_one() {
    let echo = Echo::start().await;
    let ca = OpensslCa::new("servers");
    ca.issue("must", &format!("{SERVER}\ntlsfeature=status_request"));
    let setup = with_listeners(Setup::new(echo.url()), &ca, &["must"], "");
    let usher = setup.start().await;
    usher.logged(&["config_warning", "must-staple"]).await;
    // This certificate names no responder.
    let path = usher.config_path();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"must.key\", ", "\"must.key\", ocsp = \"fetch\"")).unwrap();
    let (code, said) = usher_reload(&usher).await;
    assert!(code != 0 && said.contains("names no responder"), "{code} {said}");
    usher.finish().await;
}
