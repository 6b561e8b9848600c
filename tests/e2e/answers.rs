//! An answer of the upstream has one reading, for an upgrade and for plain HTTP.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::client::{self, Answer};
use crate::support::{Raw, Setup, Usher, upgrade_request};

/// A server that answers `/public/NUMBER` with the bytes of that number. It may close the
/// connection after each answer.
struct Server {
    url: String,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(answers: Vec<Vec<u8>>, closes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let answers = answers.clone();
                tokio::spawn(async move {
                    while let Some(number) = asked_for(&mut socket).await {
                        let answer: &[u8] = answers.get(number).map_or(b"", Vec::as_slice);
                        if socket.write_all(answer).await.is_err() || closes {
                            return;
                        }
                    }
                });
            }
        });
        Self { url, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the number in the target of the next request. A body is left unread.
async fn asked_for(socket: &mut TcpStream) -> Option<usize> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    head.split(' ').nth(1)?.rsplit('/').next()?.parse().ok()
}

async fn usher(answers: &[Vec<u8>], closes: bool) -> (Server, Usher) {
    let server = Server::start(answers.to_vec(), closes).await;
    let usher = Setup::new(server.url.clone()).start().await;
    (server, usher)
}

async fn ask(usher: &Usher, method: &str, number: usize) -> Answer {
    let request =
        format!("{method} /public/{number} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    client::http(usher.plain, request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_two_readings_is_502_to_an_upgrade_and_to_plain_http() {
    let long = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(33 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(300));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(17)
        + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let bad = [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n\
         0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\
         \r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\
         ok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\
         Content-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
        "HTTP/1.1 200 OK\r\nX-A: b\rX-B: c\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nok",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
        "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "ok\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "",
        &long,
        &many,
        &interim,
    ];
    let answers: Vec<Vec<u8>> = bad.iter().map(|answer| answer.as_bytes().to_vec()).collect();
    let (_server, usher) = usher(&answers, true).await;
    for (number, answer) in bad.iter().enumerate() {
        let start: String = answer.chars().take(120).collect();
        let got = ask(&usher, "GET", number).await;
        assert_eq!(
            (got.status, got.body.contains("UPSTREAM_PROTOCOL")),
            (502, true),
            "{start:?}: {} {}",
            got.head,
            got.body
        );
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(upgrade_request(&format!("/public/{number}"), "")).await;
        let got = Answer::parse(&raw.read_to_close().await);
        assert_eq!(got.status, 502, "an upgrade, {start:?}: {} {}", got.head, got.body);
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_answer_passes_with_its_own_framing() {
    let good = [
        (
            "GET",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            200,
            "ok",
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\
             \r\n",
            200,
            "2\r\nok\r\n0\r\n\r\n",
        ),
        ("GET", "HTTP/1.1 200\r\nX-Text: caf\u{e9}\r\n\r\nuntil the end", 200, "until the end"),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, ""),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n", 304, ""),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, ""),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, ""),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, ""),
    ];
    let answers: Vec<Vec<u8>> =
        good.iter().map(|(_, answer, ..)| answer.as_bytes().to_vec()).collect();
    let (_server, usher) = usher(&answers, true).await;
    for (number, (method, answer, status, body)) in good.iter().enumerate() {
        let got = ask(&usher, method, number).await;
        assert_eq!(got.status, *status, "{answer:?}: {}", got.head);
        let whole = got.body == *body
            || (got.header("transfer-encoding") == Some("chunked") && got.body.contains(body));
        assert!(whole, "{answer:?}: {:?}", got.body);
        assert!(
            !(*status == 204 && got.header("content-length").is_some_and(|length| length != "0")),
            "{}",
            got.head
        );
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_misframed_or_cut_has_no_clean_end() {
    let bad = [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\nmore\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\nx\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-A: b\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok",
    ];
    let answers: Vec<Vec<u8>> = bad.iter().map(|answer| answer.as_bytes().to_vec()).collect();
    let (_server, usher) = usher(&answers, true).await;
    for (number, answer) in bad.iter().enumerate() {
        let got = ask(&usher, "GET", number).await;
        let is_cut = got
            .header("content-length")
            .is_some_and(|length| length == "100" && got.body.len() < 100);
        let is_open = got.header("transfer-encoding").is_some() && !got.body.ends_with("0\r\n\r\n");
        // The upstream may fail before the head has gone out to the client. Then the client gets
        // the end of the connection alone.
        assert!(
            [0, 502].contains(&got.status) || is_cut || is_open,
            "{answer:?}: {} {:?}",
            got.head,
            got.body
        );
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_not_asked_for_reaches_no_other_client() {
    let behind = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";
    let answers: Vec<Vec<u8>> = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{behind}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{behind}"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{behind}"
        ),
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec();
    let (_server, usher) = usher(&answers, false).await;
    // A client connection stays on one thread and shares the upstream connections of that thread.
    for number in 0..3 {
        let mut raw = Raw::connect(usher.plain).await;
        raw.send(format!("GET /public/{number} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let head = raw.read_head().await.to_ascii_lowercase();
        if head.contains("chunked") {
            assert_eq!(raw.read_exactly(12).await, b"2\r\nok\r\n0\r\n\r\n");
        } else if head.contains("content-length: 2") {
            assert_eq!(raw.read_exactly(2).await, b"ok");
        }
        raw.send("GET /public/3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let answer = Answer::parse(&raw.read_to_close().await);
        assert_eq!((answer.status, answer.body.as_str()), (200, "mine"), "behind answer {number}");
    }
    usher.finish().await;
}

/// The server answers the first request on each connection, and closes the connection when it has
/// read the second one. A server whose idle timeout ends at that moment does the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_changes_nothing_survives_a_kept_connection_that_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                if asked_for(&mut socket).await.is_some() {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    socket.write_all(answer).await.unwrap();
                    asked_for(&mut socket).await;
                }
            });
        }
    });
    let usher = Setup::new(url).start().await;
    // On one connection, because each thread of Usher keeps its own connections.
    let mut client = TcpStream::connect(usher.plain).await.unwrap();
    let mut ask = async |method: &str| {
        let request = format!("{method} /public/1 HTTP/1.1\r\nHost: x\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(client.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        let length = answer.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length = if method == "HEAD" { 0 } else { length.unwrap().parse().unwrap() };
        client.read_exact(&mut vec![0; length]).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    for method in ["GET", "GET", "HEAD", "OPTIONS", "GET"] {
        assert_eq!(ask(method).await, "200", "{method}");
    }
    // The server may have done what a POST asks for, so Usher does not send it again.
    assert_eq!(ask("POST").await, "502");
    usher.finish().await;
    server.abort();
}
