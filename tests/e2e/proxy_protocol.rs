//! The PROXY protocol: in front of Usher and behind it, with real proxies, and the attackers that
//! write headers themselves.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::client::{self, Answer};
use crate::support::proxy::{Kind, Proxy};
use crate::support::{
    Backend, Echo, Raw, Recorder, Script, Setup, Usher, eventually, upgrade_request,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// The address of clients. Proxies have 127.0.0.1.
const CLIENT: [u8; 4] = [127, 0, 0, 2];

/// Returns two listeners that require a header of 127.0.0.1: one plain, one with TLS.
fn proxied_listeners(lines: &str) -> String {
    let required = "proxy_protocol = \"required\"\nproxy_peers = [\"127.0.0.1\"]\n";
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n{required}{lines}\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         certificates = [{{ cert = \"cert.pem\", key = \"key.pem\" }}]\n{required}"
    )
}

fn line(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 192.0.2.1 4711 443\r\n").into_bytes()
}

/// Returns a header of version 2 from 198.51.100.9, with these bytes behind its addresses.
fn binary(tlvs: &[u8]) -> Vec<u8> {
    let block = [&[198, 51, 100, 9, 192, 0, 2, 1, 0x12, 0x67, 0x01, 0xbb][..], tlvs].concat();
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x21, 0x11], &length, &block].concat()
}

fn claims(head: &str) -> Value {
    let token = head.lines().find_map(|line| line.strip_prefix("x-user-context: ")).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap())
        .unwrap()
}

fn bearer(usher: &Usher) -> String {
    format!("Authorization: Bearer {}\r\n", usher.token("ada"))
}

/// Sends these bytes and then an upgrade. Returns the answer; its status is 0 if there is none.
async fn upgrade_behind(address: SocketAddr, bytes: &[u8], headers: &str) -> Answer {
    let mut raw = Raw::connect(address).await;
    raw.send([bytes, upgrade_request("/ws", headers).as_bytes()].concat()).await;
    let answer = Answer::parse(&raw.read_to_close().await);
    let request_id = answer.header("x-request-id");
    crate::support::upgrade_ends::note(Some(address), request_id);
    answer
}

async fn outcome_is(usher: &Usher, outcome: &str, count: u64) {
    let series = format!("usher_proxy_headers_total{{outcome=\"{outcome}\"}}");
    usher.until_at_least(&series, count).await;
}

fn haproxy(listeners: &[(String, String)]) -> String {
    let listens = listeners.iter().enumerate().map(|(number, (bind, server))| {
        format!("listen l{number}\n  bind {bind}\n  server usher {server}\n")
    });
    format!(
        "defaults\n  mode tcp\n  timeout connect 30s\n  timeout client 60s\n  \
         timeout server 60s\n{}",
        listens.collect::<String>()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_names_the_client_in_both_versions() {
    let recorder = Recorder::start(Script::AnswerAndClose(OK.to_vec())).await;
    let usher = Setup::new(recorder.url()).extra(&proxied_listeners("")).start().await;
    let (plain, tls) = (usher.listeners[2], usher.listeners[3]);
    let pem =
        ["cert.pem", "key.pem"].map(|file| std::fs::read_to_string(usher.folder().join(file)));
    let pem = pem.map(Result::unwrap).concat();
    let check = "check inter 100ms check-send-proxy";
    let proxy = Proxy::start(Kind::HaProxy, 6, &[("both.pem", pem)], |ports, folder: &Path| {
        let both = folder.join("both.pem");
        let bind = |number: usize| format!("127.0.0.1:{}", ports[number]);
        let ends_tls = format!("{} ssl crt {}", bind(3), both.display());
        haproxy(&[
            (bind(0), format!("{plain} send-proxy {check}")),
            (bind(1), format!("{plain} send-proxy-v2 {check}")),
            (bind(2), format!("{plain} send-proxy-v2 proxy-v2-options crc32c,unique-id")),
            (ends_tls, format!("{plain} send-proxy-v2-ssl-cn")),
            (bind(4), format!("{tls} send-proxy")),
            (bind(5), format!("{tls} send-proxy-v2")),
        ])
    })
    .await;
    let bearer = bearer(&usher);
    let mut requests = 0;
    for (number, is_tls) in [false, false, false, true, true, true].into_iter().enumerate() {
        // A forwarding header of the client itself does not count.
        let forged = format!("{bearer}X-Forwarded-For: 6.6.6.6\r\n");
        let mut raw = Raw::connect_from(CLIENT, proxy.addresses[number]).await;
        let answer = if is_tls {
            let connector = crate::support::usher::connector_for(usher.certificate());
            let name = "localhost".try_into().unwrap();
            let mut raw = Raw(connector.connect(name, raw.0).await.unwrap());
            raw.send(upgrade_request("/ws", &forged)).await;
            raw.read_to_close().await
        } else {
            raw.send(upgrade_request("/ws", &forged)).await;
            raw.read_to_close().await
        };
        assert_eq!(Answer::parse(&answer).status, 200, "{number}");
        requests += 1;
        let heads = recorder.connections();
        assert_eq!(heads.len(), requests);
        let head = heads.last().unwrap();
        assert!(head.to_ascii_lowercase().contains("x-forwarded-for: 127.0.0.2\r\n"), "{head}");
        // HAProxy ended the TLS of the fourth one, and its header says so.
        let proto = if is_tls { "https" } else { "http" };
        let proto = format!("x-forwarded-proto: {proto}\r\n");
        assert!(head.to_ascii_lowercase().contains(&proto), "{number}: {head}");
        assert_eq!(claims(head)["client"], "127.0.0.2", "{number}");
    }
    outcome_is(&usher, "client", 6).await;
    // The checks of its health are connections of HAProxy itself.
    outcome_is(&usher, "local", 1).await;
    usher.logged(&["upgrade_rejected", "127.0.0.2"]).await;
    drop(proxy);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_behind_gets_the_client_in_front_of_tls_and_for_each_request() {
    let echo = Echo::start().await;
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let files = [("cert.pem", cert.clone()), ("key.pem", key)];
    let backend = echo.url().replace("localhost", "127.0.0.1");
    let proxy = Proxy::start(Kind::Nginx, 2, &files, |ports, folder| {
        let server = format!(
            "location /api {{ return 200 \"$proxy_protocol_addr:$proxy_protocol_port \
             $proxy_protocol_server_addr:$proxy_protocol_server_port $connection\"; }}\n\
             location /ws {{ proxy_pass {backend}; proxy_http_version 1.1;\n\
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection Upgrade;\n\
             proxy_set_header X-Proxied \"$proxy_protocol_addr:$proxy_protocol_port\"; }}\n"
        );
        format!(
            "daemon off; master_process off; worker_processes 1; pid {0}/pid;\n\
             error_log stderr; events {{}}\nhttp {{ access_log off; keepalive_timeout 60s;\n\
             client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n\
             uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             server {{ listen 127.0.0.1:{1} proxy_protocol; {server} }}\n\
             server {{ listen 127.0.0.1:{2} ssl proxy_protocol; ssl_certificate cert.pem;\n\
             ssl_certificate_key key.pem; {server} }} }}\n",
            folder.display(),
            ports[0],
            ports[1]
        )
    })
    .await;
    let [plain, tls] = [0, 1].map(|number| proxy.addresses[number].port());
    let routes = ["v1", "v2"].map(|version| {
        format!(
            "[[upstream]]\nname = \"{version}\"\nservers = [\"http://127.0.0.1:{plain}\"]\n\
             proxy_protocol = \"{version}\"\n\
             [[route]]\npath = \"/ws/{version}\"\nupstream = \"{version}\"\nauth = [\"header\"]\n\
             [[route]]\npath = \"/api/{version}\"\nupstream = \"{version}\"\nauth = [\"header\"]\n\
             [[upstream]]\nname = \"{version}-tls\"\nservers = [\"https://localhost:{tls}\"]\n\
             ca_file = \"ca.pem\"\nproxy_protocol = \"{version}\"\n\
             [[route]]\npath = \"/ws/{version}-tls\"\nupstream = \"{version}-tls\"\n\
             auth = [\"header\"]\n"
        )
    });
    let setup = Setup::new(echo.url()).routes(&routes.concat()).file("ca.pem", cert);
    let usher = setup.start().await;
    let bearer = bearer(&usher);
    for version in ["v1", "v2", "v1-tls", "v2-tls"] {
        let mut raw = Raw::connect_from(CLIENT, usher.plain).await;
        let port = raw.0.local_addr().unwrap().port();
        raw.send(upgrade_request(&format!("/ws/{version}"), &bearer)).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{version}: {head}");
        let visits = echo.visits();
        let seen = visits.last().unwrap().all("x-proxied");
        assert_eq!(seen, [format!("127.0.0.2:{port}")], "{version}");
    }
    // A kept connection names one client: the requests of another go on one of their own.
    for version in ["v1", "v2"] {
        let request =
            format!("GET /api/{version} HTTP/1.1\r\nHost: chat.example.com\r\n{bearer}\r\n");
        let mut clients = [Raw::connect_from(CLIENT, usher.plain).await];
        let mut others = [Raw::connect_from([127, 0, 0, 3], usher.plain).await];
        let mut seen: Vec<(String, String)> = Vec::new();
        eventually("a connection is used again, for its own client", async || {
            for raw in clients.iter_mut().chain(&mut others) {
                let own = raw.0.local_addr().unwrap();
                let to = usher.plain;
                raw.send(&request).await;
                let head = raw.read_head().await;
                let length = Answer::parse(head.as_bytes());
                let length = length.header("content-length").unwrap().parse().unwrap();
                let body = String::from_utf8(raw.read_exactly(length).await).unwrap();
                let (ends, connection) = body.rsplit_once(' ').unwrap();
                assert_eq!(ends, format!("{own} {to}"));
                seen.push((own.to_string(), connection.to_owned()));
            }
            let is_again = |own: IpAddr| {
                let own = |one: &&(String, String)| one.0.starts_with(&own.to_string());
                let all = seen.iter().filter(own).count();
                let mut numbers: Vec<_> = seen.iter().filter(own).map(|one| &one.1).collect();
                numbers.sort();
                numbers.dedup();
                numbers.len() < all
            };
            is_again(CLIENT.into()) && is_again([127, 0, 0, 3].into())
        })
        .await;
        for (own, connection) in &seen {
            let is_shared = seen.iter().any(|(other, one)| one == connection && other != own);
            assert!(!is_shared, "two clients on one connection: {seen:?}");
        }
    }
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_behind_gets_the_host_of_the_handshake() {
    let proxy = Proxy::start(Kind::HaProxy, 1, &[], |ports, _| {
        format!(
            "defaults\n  mode http\n  timeout client 60s\n\
             frontend f\n  bind 127.0.0.1:{} accept-proxy\n  http-request return status 200 \
             content-type text/plain lf-string \"%[src]:%[src_port] %[dst_port] \
             %[fc_pp_authority]\"\n",
            ports[0]
        )
    })
    .await;
    let usher = Setup::new(format!("http://{}", proxy.addresses[0]))
        .upstream_lines("proxy_protocol = \"v2\"")
        .extra(&proxied_listeners(""))
        .start()
        .await;
    let request = format!(
        "GET /api/x HTTP/1.1\r\nHost: inner\r\nConnection: close\r\n{}\r\n",
        bearer(&usher)
    );
    let mut raw = Raw(usher.tls_stream().await);
    let own = raw.0.get_ref().0.local_addr().unwrap();
    raw.send(&request).await;
    let answer = Answer::parse(&raw.read_to_close().await);
    assert_eq!(answer.body, format!("{own} {} localhost", usher.tls.port()));
    // The host and the addresses that a header in front names are passed on.
    let header = binary(b"\x02\x00\x10chat.example.com");
    let sent = [&header, request.as_bytes()].concat();
    let answer = client::http(usher.listeners[2], &sent).await;
    assert_eq!(answer.body, "198.51.100.9:4711 443 chat.example.com");
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_in_front_and_behind_agrees() {
    // Envoy writes the address of its own client, and shows the address that it reads.
    let behind = Proxy::start(Kind::Envoy, 1, &[], |ports, _| envoy_behind(ports[0])).await;
    let usher = Setup::new(format!("http://{}", behind.addresses[0]))
        .upstream_lines("proxy_protocol = \"v2\"")
        .extra(&proxied_listeners(""))
        .start()
        .await;
    for version in ["V1", "V2"] {
        let to = usher.listeners[2].port();
        let front =
            Proxy::start(Kind::Envoy, 1, &[], |ports, _| envoy_front(ports[0], to, version)).await;
        let mut raw = Raw::connect_from(CLIENT, front.addresses[0]).await;
        let own = raw.0.local_addr().unwrap();
        let request = format!(
            "GET /api/x HTTP/1.1\r\nHost: inner\r\nConnection: close\r\n{}\r\n",
            bearer(&usher)
        );
        raw.send(&request).await;
        let answer = Answer::parse(&raw.read_to_close().await);
        assert_eq!((answer.status, answer.header("x-seen")), (200, Some(&*own.to_string())));
    }
    usher.finish().await;
}

fn envoy_behind(port: u16) -> String {
    let listener = "envoy.extensions.filters.listener.proxy_protocol.v3";
    let http = "envoy.extensions.filters.network.http_connection_manager.v3";
    format!(
        r#"
static_resources:
  listeners:
    - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
      listener_filters:
        - name: envoy.filters.listener.proxy_protocol
          typed_config:
            "@type": type.googleapis.com/{listener}.ProxyProtocol
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/{http}.HttpConnectionManager
                stat_prefix: behind
                use_remote_address: true
                route_config:
                  response_headers_to_add:
                    - header: {{ key: x-seen, value: "%DOWNSTREAM_REMOTE_ADDRESS%" }}
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200 }} }}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"#
    )
}

fn envoy_front(port: u16, to: u16, version: &str) -> String {
    let sockets = "envoy.extensions.transport_sockets";
    let usher = format!("{{ address: 127.0.0.1, port_value: {to} }}");
    format!(
        r#"
static_resources:
  listeners:
    - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.tcp_proxy
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: front
                cluster: usher
  clusters:
    - name: usher
      connect_timeout: 30s
      transport_socket:
        name: envoy.transport_sockets.upstream_proxy_protocol
        typed_config:
          "@type": type.googleapis.com/{sockets}.proxy_protocol.v3.ProxyProtocolUpstreamTransport
          config: {{ version: {version} }}
          transport_socket:
            name: envoy.transport_sockets.raw_buffer
            typed_config:
              "@type": type.googleapis.com/{sockets}.raw_buffer.v3.RawBuffer
      load_assignment:
        cluster_name: usher
        endpoints:
          - lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {usher} }} }} }}]
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_writes_a_header_gets_no_other_address() {
    let recorder = Recorder::start(Script::AnswerAndClose(OK.to_vec())).await;
    let usher = Setup::new(recorder.url()).extra(&proxied_listeners("")).start().await;
    let bearer = bearer(&usher);
    // A listener that requires the header closes a socket of another address before it reads.
    for header in [line("198.51.100.9"), binary(&[]), Vec::new()] {
        for listener in [usher.listeners[2], usher.listeners[3]] {
            let mut raw = Raw::connect_from(CLIENT, listener).await;
            let sent = [&header, upgrade_request("/ws", &bearer).as_bytes()].concat();
            let _ = raw.0.write_all(&sent).await;
            assert_eq!(raw.read_to_close().await, b"");
        }
    }
    outcome_is(&usher, "not_listed", 6).await;
    usher.logged(&["proxy_header_refused", "not_listed", "127.0.0.2"]).await;
    // A listener without the key never takes the bytes for a header.
    for header in [line("198.51.100.9"), binary(&[])] {
        let answer = upgrade_behind(usher.plain, &header, &bearer).await;
        assert!([0, 400].contains(&answer.status), "{}", answer.head);
    }
    assert_eq!(recorder.connections().len(), 0, "a refused client reached the upstream");
    assert!(!usher.log().contains("198.51.100.9"), "{}", usher.log());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_whole_small_and_in_time() {
    let recorder = Recorder::start(Script::AnswerAndClose(OK.to_vec())).await;
    let limits = "[limits]\nhead_timeout = \"1s\"\n";
    let listeners = proxied_listeners("");
    let usher = Setup::new(recorder.url()).extra(&(listeners + limits)).start().await;
    let (plain, tls) = (usher.listeners[2], usher.listeners[3]);
    let bearer = bearer(&usher);
    // These never end: one sends nothing, one stops in the middle, one goes on byte by byte.
    let endings = [&b""[..], b"PROXY TCP4 198.51.100.9", &SIGNATURE[..8]];
    for (number, beginning) in endings.into_iter().enumerate() {
        let mut raw = Raw::connect([plain, tls][number % 2]).await;
        raw.send(beginning).await;
        assert_eq!(raw.read_to_close().await, b"");
    }
    let (mut trickle, mut sent) = (TcpStream::connect(plain).await.unwrap(), 0);
    let header = binary(&[&[0x04, 0x0f, 0x00][..], &[0; 0x0f00]].concat());
    eventually("a header that goes on byte by byte is closed", async || {
        sent += 1;
        trickle.write_all(&header[sent - 1..sent]).await.is_err()
    })
    .await;
    assert!(sent < header.len());
    outcome_is(&usher, "timeout", 4).await;
    // No other protocol, no header behind a wrong byte, and none that is too large.
    let huge = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 4096]].concat();
    for (bytes, outcome) in [
        (&b""[..], "malformed"),
        (b"\x16\x03\x01\x02\x00\x01", "malformed"),
        (b"PROXY TCP4 198.51.100.9 192.0.2.1 04711 443\r\n", "malformed"),
        (&endless, "malformed"),
        (&huge, "too_large"),
        (&binary(b"\x03\x00\x04abcd"), "checksum"),
    ] {
        for listener in [plain, tls] {
            let mut raw = Raw::connect(listener).await;
            let request = upgrade_request("/ws", &bearer);
            let _ = raw.0.write_all(&[bytes, request.as_bytes()].concat()).await;
            assert_eq!(raw.read_to_close().await, b"", "{bytes:?}");
        }
        outcome_is(&usher, outcome, 1).await;
    }
    // The places of all of them are free again.
    usher.until_metric("usher_unauthenticated_open 0").await;
    assert_eq!(recorder.connections().len(), 0);
    let answer = upgrade_behind(plain, &line("198.51.100.9"), &bearer).await;
    assert_eq!(answer.status, 200);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_header_and_one_inside_tls_are_no_headers() {
    let recorder = Recorder::start(Script::AnswerAndClose(OK.to_vec())).await;
    let usher = Setup::new(recorder.url()).extra(&proxied_listeners("")).start().await;
    let (plain, tls) = (usher.listeners[2], usher.listeners[3]);
    let bearer = bearer(&usher);
    for (first, second) in [
        (line("198.51.100.9"), line("203.0.113.7")),
        (binary(&[]), line("203.0.113.7")),
        (line("198.51.100.9"), binary(&[])),
        (b"PROXY UNKNOWN\r\n".to_vec(), line("203.0.113.7")),
    ] {
        let both = [first, second].concat();
        let answer = upgrade_behind(plain, &both, &bearer).await;
        assert!([0, 400].contains(&answer.status), "{}", answer.head);
        // The second one is not a TLS record.
        let answer = upgrade_behind(tls, &both, &bearer).await;
        assert_eq!(answer.status, 0);
    }
    usher.until_at_least("usher_tls_handshakes_total{outcome=\"protocol\"}", 4).await;
    // Inside TLS, behind a header in front of it or on a listener that requires none.
    let connector = crate::support::usher::connector_for(usher.certificate());
    for (listener, outside) in [(tls, line("198.51.100.9")), (usher.tls, Vec::new())] {
        let mut tcp = TcpStream::connect(listener).await.unwrap();
        tcp.write_all(&outside).await.unwrap();
        let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        let mut raw = Raw(stream);
        let inside = line("203.0.113.7");
        raw.send([&inside, upgrade_request("/ws", &bearer).as_bytes()].concat()).await;
        let answer = Answer::parse(&raw.read_to_close().await);
        assert_eq!(answer.status, 400, "{}", answer.head);
    }
    assert_eq!(recorder.connections().len(), 0);
    assert!(!usher.log().contains("203.0.113.7"), "{}", usher.log());
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_extension_of_a_header_is_a_credential() {
    let recorder = Recorder::start(Script::AnswerAndClose(OK.to_vec())).await;
    let usher = Setup::new(recorder.url()).extra(&proxied_listeners("")).start().await;
    // A verified client certificate with a name, the name of a host, a unique id.
    let mut tls = vec![0x07, 0, 0, 0, 0];
    tls.extend_from_slice(b"\x21\x00\x07TLSv1.3\x22\x00\x05admin");
    let mut tlvs = vec![0x20, 0, u8::try_from(tls.len()).unwrap()];
    tlvs.extend_from_slice(&tls);
    tlvs.extend_from_slice(b"\x02\x00\x05admin\x05\x00\x05admin");
    let answer = upgrade_behind(usher.listeners[2], &binary(&tlvs), "").await;
    assert_eq!(answer.status, 401);
    assert_eq!(recorder.connections().len(), 0);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_peers_and_the_waiting_room_judge_the_address_in_the_header() {
    let backend = Backend::start().await;
    let listeners = proxied_listeners("trusted_peers = [\"203.0.113.0/24\"]");
    let limits = "[limits]\nunauthenticated = 20\nunauthenticated_per_address = 2\n";
    let usher = Setup::new(backend.url()).extra(&(listeners + limits)).start().await;
    let listener = usher.listeners[2];
    let bearer = bearer(&usher);
    let request = format!(
        "GET /api/x HTTP/1.1\r\nHost: inner\r\nConnection: close\r\n{bearer}\
         X-Forwarded-For: 6.6.6.6\r\n\r\n"
    );
    for (header, client) in [
        (line("198.51.100.9"), "198.51.100.9"),
        (line("203.0.113.7"), "6.6.6.6, 203.0.113.7"),
        // The socket's address is a proxy's, and not a trusted peer.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY TCP6 ::ffff:198.51.100.9 ::1 1 2\r\n".to_vec(), "198.51.100.9"),
    ] {
        let answer = client::http(listener, &[&header, request.as_bytes()].concat()).await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert_eq!(backend.heads().last().unwrap()["x-forwarded-for"], client);
    }
    // Two strangers of one address, and then no more; another address has places of its own.
    let mut strangers = Vec::new();
    for address in ["198.51.100.1", "198.51.100.1", "198.51.100.2", "198.51.100.2"] {
        let mut raw = Raw::connect(listener).await;
        raw.send(line(address)).await;
        strangers.push(raw);
        let open = format!("usher_unauthenticated_open {}", strangers.len());
        usher.until_metric(&open).await;
    }
    outcome_is(&usher, "client", 7).await;
    let mut third = Raw::connect(listener).await;
    third.send(line("198.51.100.1")).await;
    assert_eq!(third.read_to_close().await, b"");
    let limit = "usher_limits_hit_total{limit=\"unauthenticated_per_address\"}";
    usher.until_at_least(limit, 1).await;
    usher.logged(&["limit_reached", "198.51.100.1"]).await;
    drop(strangers);
    tokio::time::timeout(Duration::from_secs(60), usher.finish()).await.unwrap();
}
