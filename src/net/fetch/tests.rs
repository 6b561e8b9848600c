use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

fn fetcher(timeout: Duration) -> Fetcher {
    Fetcher::new(FetchConfig { ca_file: None, timeout, max_body: 1000, max_idle: 2 }).unwrap()
}

/// A server that answers each request with the same bytes, and records the requests.
struct Server {
    place: ServiceUrl,
    connections: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn answering(answer: &'static str) -> Self {
        Self::new(answer, usize::MAX, None).await
    }

    /// Closes a connection without an answer once it has answered `most` requests.
    async fn new(answer: &'static str, most: usize, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https://localhost" } else { "http://127.0.0.1" };
        let place = ServiceUrl::parse(&format!("{scheme}:{port}/keys?a=b"), false).unwrap();
        let (connections, asked) =
            (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<Vec<String>>>::default());
        let (counter, log) = (Arc::clone(&connections), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let (log, tls) = (Arc::clone(&log), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                converse(stream, answer, most, log).await;
                            }
                        }
                        None => converse(stream, answer, most, log).await,
                    }
                });
            }
        });
        Self { place, connections, asked }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &str,
    most: usize,
    log: Arc<Mutex<Vec<String>>>,
) {
    let mut answered = 0;
    loop {
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte).await {
                Ok(1) => request.push(byte[0]),
                _ => return,
            }
        }
        let text = String::from_utf8(request).unwrap();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        log.lock().unwrap().push(text + &String::from_utf8(body).unwrap());
        if answered == most {
            return;
        }
        answered += 1;
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn an_answer_comes_whole_and_the_connection_serves_the_next_question() {
    let server = Server::answering(WHOLE).await;
    let fetcher = fetcher(Duration::from_secs(30));
    for _ in 0..3 {
        let fetched = fetcher.get(&server.place, None).await.unwrap().success().unwrap();
        assert_eq!((fetched.status, &fetched.body[..]), (StatusCode::OK, &b"{}"[..]));
        while fetcher.idle.0.lock().unwrap().get(server.place.server()).is_none_or(Vec::is_empty) {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.connections(), 1);
    let asked = server.asked.lock().unwrap()[0].clone();
    assert!(asked.starts_with("GET /keys?a=b HTTP/1.1\r\n"), "{asked}");
    assert!(
        asked.contains("accept: application/json\r\n") && asked.contains("host: 127.0.0.1:"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_question_carries_its_body_type_and_authorization() {
    let server = Server::answering("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
    let (kind, authorization) = (HeaderValue::from_static("text/plain"), Secret::from("Basic abc"));
    let fetched = fetcher(Duration::from_secs(30))
        .post(&server.place, kind, Some(&authorization), "token".into())
        .await
        .unwrap();
    assert_eq!(fetched.status, StatusCode::UNAUTHORIZED);
    assert_eq!(fetched.success().unwrap_err().label(), "status");
    let asked = server.asked.lock().unwrap()[0].clone();
    assert!(asked.starts_with("POST /keys") && asked.ends_with("\r\n\r\ntoken"), "{asked}");
    assert!(
        asked.contains("content-type: text/plain\r\n")
            && asked.contains("authorization: Basic abc\r\n"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_question_that_a_kept_connection_lost_is_asked_again() {
    let server = Server::new(WHOLE, 1, None).await;
    let fetcher = fetcher(Duration::from_secs(30));
    fetcher.get(&server.place, None).await.unwrap();
    while fetcher.idle.0.lock().unwrap().get(server.place.server()).is_none_or(Vec::is_empty) {
        tokio::task::yield_now().await;
    }
    fetcher.get(&server.place, None).await.unwrap();
    assert_eq!((server.connections(), server.asked.lock().unwrap().len()), (2, 3));
}

#[tokio::test]
async fn each_bad_answer_has_its_own_name() {
    for (answer, label) in [
        (
            "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
            "redirect",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n", "too_large"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\n", "too_large"),
        ("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", "malformed"),
        ("it is not HTTP\r\n\r\n", "malformed"),
    ] {
        let server = Server::answering(answer).await;
        let error = fetcher(Duration::from_secs(30)).get(&server.place, None).await.unwrap_err();
        assert_eq!(error.label(), label, "{answer} {error}");
        assert_eq!(server.connections(), 1, "{answer}");
    }
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let chunk = "64\r\n".to_owned() + &"x".repeat(100) + "\r\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(11)
    );
    let server = Server::answering(answer.leak()).await;
    assert_eq!(
        fetcher(Duration::from_secs(30)).get(&server.place, None).await.unwrap_err(),
        FetchError::TooLarge(1000)
    );
}

#[tokio::test]
async fn who_says_nothing_or_stops_half_way_is_given_up() {
    for answer in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{"] {
        let server = Server::answering(answer).await;
        let error = fetcher(Duration::from_millis(30)).get(&server.place, None).await.unwrap_err();
        assert_eq!(error.label(), "timeout", "{answer}");
    }
}

#[tokio::test]
async fn who_is_not_there_or_leaves_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place =
        ServiceUrl::parse(&format!("http://{}/", listener.local_addr().unwrap()), false).unwrap();
    drop(listener);
    assert_eq!(
        fetcher(Duration::from_secs(30)).get(&place, None).await.unwrap_err().label(),
        "unreachable"
    );
    let server = Server::new("", 0, None).await;
    assert_eq!(
        fetcher(Duration::from_secs(30)).get(&server.place, None).await.unwrap_err().label(),
        "unreachable"
    );
}

#[tokio::test]
async fn a_server_is_believed_only_with_a_certificate_of_its_own() {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let server = Server::new(WHOLE, usize::MAX, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let file = std::env::temp_dir().join(format!("usher-fetch-{}.pem", std::process::id()));
    std::fs::write(&file, certificate.pem()).unwrap();
    let config = FetchConfig {
        ca_file: Some(file.clone()),
        timeout: Duration::from_secs(30),
        max_body: 1000,
        max_idle: 1,
    };
    let trusting = Fetcher::new(config).unwrap();
    std::fs::remove_file(file).unwrap();
    assert_eq!(&trusting.get(&server.place, None).await.unwrap().body[..], b"{}");
    assert_eq!(
        fetcher(Duration::from_secs(30)).get(&server.place, None).await.unwrap_err().label(),
        "tls"
    );
    assert!(
        Fetcher::new(FetchConfig {
            ca_file: Some("/nowhere.pem".into()),
            ..(*trusting.config).clone()
        })
        .is_err()
    );
}
