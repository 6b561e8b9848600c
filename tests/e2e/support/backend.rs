//! An HTTP backend behind Usher that records the heads of its requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

type Body = StreamBody<Frames>;

/// The frames of a body, from a channel.
struct Frames(mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>);

impl futures_util::Stream for Frames {
    type Item = Result<Frame<Bytes>, std::io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

pub struct Backend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    task: JoinHandle<()>,
}

impl Backend {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::default());
        let task = tokio::spawn({
            let connections = Arc::clone(&connections);
            let requests: Arc<Mutex<Vec<_>>> = Arc::clone(&requests);
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    connections.fetch_add(1, Ordering::Relaxed);
                    let requests = Arc::clone(&requests);
                    let service = service_fn(move |request: Request<Incoming>| {
                        let head = (request.uri().to_string(), request.headers().clone());
                        requests.lock().unwrap().push(head);
                        async { Ok::<_, Infallible>(answer(request)) }
                    });
                    tokio::spawn(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(socket), service),
                    );
                }
            }
        });
        Self { address, connections, requests, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn heads(&self) -> Vec<HeaderMap> {
        self.requests.lock().unwrap().iter().map(|(_, headers)| headers.clone()).collect()
    }

    pub fn targets(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(target, _)| target.clone()).collect()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(request: Request<Incoming>) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(4);
    let mut response = Response::new(StreamBody::new(Frames(receiver)));
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/public/echo" | "/api/echo" => {
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(frame) = body.frame().await {
                    if sender.send(frame.map_err(std::io::Error::other)).await.is_err() {
                        break;
                    }
                }
            });
        }
        "/public/events" => {
            response
                .headers_mut()
                .insert("content-type", HeaderValue::from_static("text/event-stream"));
            // The pause separates the events, so that each is written by itself.
            tokio::spawn(async move {
                for number in 0..3 {
                    let _ =
                        sender.send(Ok(Frame::data(format!("data: {number}\n\n").into()))).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
        "/public/trailers" => {
            response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
            tokio::spawn(async move {
                let _ = sender.send(Ok(Frame::data("body".into()))).await;
                let trailers = HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-sum"),
                    HeaderValue::from_static("42"),
                )]);
                let _ = sender.send(Ok(Frame::trailers(trailers))).await;
            });
        }
        "/public/broken" => {
            tokio::spawn(async move {
                let _ = sender.send(Ok(Frame::data("half".into()))).await;
                // The server must take the first half and send it before the connection breaks.
                while sender.capacity() < sender.max_capacity() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = sender.send(Err(std::io::Error::other("broken"))).await;
            });
        }
        _ => {
            response.headers_mut().insert("connection", HeaderValue::from_static("x-hop"));
            response.headers_mut().insert("x-hop", HeaderValue::from_static("1"));
            response.headers_mut().insert("content-length", HeaderValue::from_static("5"));
            tokio::spawn(async move { sender.send(Ok(Frame::data("hello".into()))).await });
        }
    }
    response
}
