//! The admin page: three files, and an icon. They have no data, so they need no login.
//!
//! The script asks the endpoints of this listener. Text of clients, such as a user's name, gets
//! into the page only as text. The content security policy allows nothing from elsewhere and
//! nothing inline.

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::answer;

struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const FILES: [File; 5] = [
    File { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("index.html") },
    File {
        path: "/assets/page.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("page.css"),
    },
    File {
        path: "/assets/page.js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("page.js"),
    },
    File {
        path: "/assets/chart.js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("chart.js"),
    },
    File {
        path: "/assets/icon.svg",
        content_type: "image/svg+xml",
        text: include_str!("icon.svg"),
    },
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; \
    base-uri 'none'; require-trusted-types-for 'script'";

pub(super) fn has(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

pub(super) fn file(path: &str) -> Option<Response<Full<Bytes>>> {
    let file = FILES.iter().find(|file| file.path == path)?;
    let body = Bytes::from_static(file.text.as_bytes());
    let mut response = answer(StatusCode::OK, file.content_type, body);
    response.headers_mut().extend([
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        fixed("cross-origin-opener-policy", "same-origin"),
        fixed("cross-origin-resource-policy", "same-origin"),
    ]);
    Some(response)
}

fn fixed(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_nothing_inline_and_nothing_from_elsewhere() {
        for File { path, text, .. } in &FILES {
            assert!(file(path).is_some() && has(path));
            for part in ["<style", "style=", " onclick", " onload", "javascript:", "innerHTML"] {
                assert!(!text.contains(part), "{path} has {part}");
            }
            for part in ["src=\"http", "href=\"http", "url(", "import 'http", "fetch('http"] {
                assert!(!text.contains(part), "{path} has {part}");
            }
        }
        assert!(file("/assets/").is_none() && file("/index.html").is_none());
    }
}
