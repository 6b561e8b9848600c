//! The path that the upstream gets instead of the client's path.
//!
//! A prefix is a number of whole segments of the path as the client sent it. The rest of the path
//! is passed on byte by byte. Nothing is decoded or encoded again, so no encoding moves the cut,
//! and no dot segment appears. If the rest could mean something else without its prefix, the
//! request is refused before any credential is checked.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::model::path::{AmbiguousPath, CanonicalPath, PathPattern};

pub const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The rule of a route for the path of its requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpstreamPath {
    #[default]
    AsSent,
    /// The same path for every request, as written and as parsed: `upstream_path`.
    Fixed(String, CanonicalPath),
    /// The path without its first segments: `strip_prefix`.
    Stripped(Prefix),
}

/// The first segments of a route's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The text in the configuration.
    text: String,
    segments: usize,
}

impl UpstreamPath {
    /// Parses the `upstream_path` of a route.
    pub fn fixed(text: &str, route: &PathPattern) -> Result<Self, String> {
        let path = one_reading(text)?;
        if !route.is_literal() {
            return Err(format!(
                "every path of `{route}` would become `{text}`; give each exact path its own \
                 route, or use `strip_prefix`"
            ));
        }
        Ok(Self::Fixed(text.to_owned(), path))
    }

    /// Parses the `strip_prefix` of a route.
    pub fn stripped(text: &str, route: &PathPattern) -> Result<Self, String> {
        if text.ends_with('/') {
            let shorter = text.trim_end_matches('/');
            return Err(match shorter {
                "" => "`/` strips nothing; remove `strip_prefix`".to_owned(),
                _ => format!("`{text}` must not end in a slash; write `{shorter}`"),
            });
        }
        if text.contains(['*', '{', '}']) {
            return Err(format!(
                "`{text}` is not a prefix of literal segments; write a prefix such as `/chat`, \
                 without `*` and `{{name}}`"
            ));
        }
        let prefix = one_reading(text)?;
        if !route.lies_under(&prefix) {
            return Err(format!(
                "the path `{route}` does not lie under `{text}`; write the first segments of `path`"
            ));
        }
        Ok(Self::Stripped(Prefix { text: text.to_owned(), segments: prefix.segments().len() }))
    }

    /// Returns the upstream's path for a request of the route. `None`: the upstream gets the
    /// client's path.
    pub fn of(
        &self,
        path: &str,
        canonical: &CanonicalPath,
    ) -> Result<Option<String>, AmbiguousPath> {
        match self {
            Self::AsSent => Ok(None),
            Self::Fixed(fixed, _) => Ok(Some(fixed.clone())),
            Self::Stripped(prefix) => prefix.cut(path, canonical).map(|rest| Some(rest.to_owned())),
        }
    }

    /// Returns the pattern of the paths that the upstream gets for this route.
    pub fn pattern(&self, route: &PathPattern) -> PathPattern {
        match self {
            Self::AsSent => route.clone(),
            Self::Fixed(_, path) => PathPattern::exact(path),
            Self::Stripped(prefix) => route.behind(prefix.segments),
        }
    }

    /// Sets `X-Forwarded-Prefix` to the stripped prefix, after the prefixes that a trusted peer
    /// reports.
    pub fn set_forwarded_prefix(&self, headers: &mut HeaderMap) {
        let Self::Stripped(prefix) = self else { return };
        // Each proxy adds its prefix, in its own header line or to the list.
        let lines = headers.get_all(X_FORWARDED_PREFIX).iter().map(|line| line.to_str().ok());
        let outer =
            lines.collect::<Option<Vec<_>>>().and_then(|lines| outer_prefix(&lines.join(",")));
        if let Ok(value) =
            HeaderValue::try_from(format!("{}{}", outer.unwrap_or_default(), prefix.text))
        {
            headers.insert(X_FORWARDED_PREFIX, value);
        }
    }
}

impl Prefix {
    /// Returns the path after the prefix, or `/` if nothing follows.
    fn cut<'p>(&self, path: &'p str, canonical: &CanonicalPath) -> Result<&'p str, AmbiguousPath> {
        let mut behind = canonical.segments().iter().skip(self.segments);
        let first = behind.next();
        // `//evil.example.com` is another host to a server that resolves the path as a URI
        // reference, and `/;/evil` is `//evil` to a server that drops parameters.
        if first.is_some_and(|first| first.split(';').next() == Some("")) && behind.next().is_some()
        {
            return Err(AmbiguousPath("the path has an empty segment after the stripped prefix"));
        }
        Ok(path.match_indices('/').nth(self.segments).map_or("/", |(at, _)| path.split_at(at).1))
    }
}

/// Joins the prefixes of the proxies before this one. `None`: a prefix is not a path.
fn outer_prefix(list: &str) -> Option<String> {
    let prefixes = list.split(',').map(|prefix| prefix.trim().trim_end_matches('/'));
    prefixes.map(|prefix| one_reading(prefix).is_ok().then_some(prefix)).collect()
}

/// Parses a path of the configuration. Every server must read it in the same way.
fn one_reading(text: &str) -> Result<CanonicalPath, String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>?\\^`{|}".contains(&byte);
    if let Some(odd) = text.chars().find(|c| !u8::try_from(*c).is_ok_and(is_plain)) {
        return Err(format!(
            "`{}` is not allowed in a path; percent-encode it, and leave out a query",
            odd.escape_default()
        ));
    }
    let path = CanonicalPath::parse(text)
        .map_err(|error| format!("`{text}` is ambiguous: {}", error.0))?;
    if path.looser_reading().is_some() {
        return Err(format!(
            "`{text}` is ambiguous: a server may drop its empty segments and `;parameters`"
        ));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Uri;
    use proptest::prelude::*;

    use super::*;
    use crate::config::Route;
    use crate::edge::router::Router;
    use crate::http::headers::tests::headers;
    use crate::rejection::Rejection;

    const ROUTES: [(&str, &str); 6] = [
        ("/chat/*", "strip_prefix = \"/chat\""),
        ("/a/{room}/log", "strip_prefix = \"/a\""),
        ("/deep/er/*", "strip_prefix = \"/deep/er\""),
        ("/stomp", "upstream_path = \"/ws\""),
        ("/root", "strip_prefix = \"/root\""),
        ("/*", ""),
    ];

    fn routes() -> Vec<Arc<Route>> {
        let mut text = "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n\
            [[upstream]]\nname = \"chat\"\nservers = [\"http://127.0.0.1:1\"]\n"
            .to_owned();
        for (path, rule) in ROUTES {
            text.push_str(&format!(
                "[[route]]\npath = \"{path}\"\nupstream = \"chat\"\nauth = []\n{rule}\n"
            ));
        }
        crate::config::parse(&text, None, &|_| None).unwrap().config.routes
    }

    /// Returns the route, and the target that its upstream gets.
    fn target(router: &Router, sent: &str) -> Result<(String, String), Rejection> {
        let uri: Uri = sent.parse().unwrap();
        let matched = router.find("x", uri.path())?.unwrap();
        Ok((matched.route.name.to_string(), matched.upstream_target(&uri).unwrap().to_string()))
    }

    #[test]
    fn whole_segments_are_cut_and_every_other_byte_stays() {
        let router = Router::new(&routes());
        for (sent, route, expected) in [
            ("/chat/rooms/blue?a=%2f&b=%7E&c", "/chat/*", "/rooms/blue?a=%2f&b=%7E&c"),
            ("/chat/", "/chat/*", "/"),
            ("/chat/?a", "/chat/*", "/?a"),
            ("/chat/x?", "/chat/*", "/x?"),
            ("/chat/rooms/", "/chat/*", "/rooms/"),
            ("/%63h%61t/%41%7e;v=1", "/chat/*", "/%41%7e;v=1"),
            ("/chat/chat/chat", "/chat/*", "/chat/chat"),
            ("/chat/x//y", "/chat/*", "/x//y"),
            ("/chat/;v", "/chat/*", "/;v"),
            ("/a/b%20c/log?x=/a", "/a/{room}/log", "/b%20c/log?x=/a"),
            ("/deep/er/y", "/deep/er/*", "/y"),
            ("/root?q", "/root", "/?q"),
            ("/stomp?vhost=%2f", "/stomp", "/ws?vhost=%2f"),
            ("/st%6fmp", "/stomp", "/ws"),
            // A prefix matches whole segments only.
            ("/chatter/x", "/*", "/chatter/x"),
            ("/chat../x", "/*", "/chat../x"),
            ("/chat", "/*", "/chat"),
            ("/stomp/", "/*", "/stomp/"),
        ] {
            assert_eq!(
                target(&router, sent).unwrap(),
                (route.to_owned(), expected.to_owned()),
                "{sent}"
            );
        }
    }

    #[test]
    fn what_would_mean_another_thing_without_its_prefix_is_refused() {
        let router = Router::new(&routes());
        for sent in [
            "/chat//evil.example.com",
            "/chat//",
            "/chat///x",
            "/chat/;/evil.example.com",
            "/chat/;v=1/x",
            "/chat/%3b/x",
            "/deep/er//x",
            "/chat/../admin",
            "/chat/..;/admin",
            "/chat/%2e%2e/admin",
            "/chat/.%2e/admin",
            "/chat/%252e%252e/admin",
            "/chat/%2fevil.example.com",
            "/chat/%5cevil.example.com",
            "/chat%2fx",
            "//chat/x",
            "/chat;v/x",
        ] {
            assert!(target(&router, sent).is_err(), "{sent}");
        }
    }

    /// Reads a path as a lax server: it decodes twice, reads a backslash as a slash, drops
    /// parameters and merges slashes.
    fn lax_segments(path: &str) -> Vec<String> {
        let decoded = |text: String| {
            let pieces: Vec<_> = text.split('%').collect();
            let mut out = pieces[0].to_owned();
            for piece in &pieces[1..] {
                match piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => out.push_str(&format!("{}{}", char::from(byte), &piece[2..])),
                    None => out.push_str(&format!("%{piece}")),
                }
            }
            out
        };
        let text = decoded(decoded(path.to_owned())).replace('\\', "/");
        let mut segments = Vec::new();
        for segment in text
            .split('/')
            .map(|segment| segment.split(';').next().unwrap())
            .filter(|segment| !segment.is_empty())
        {
            match segment {
                "." => {}
                ".." => drop(segments.pop()),
                segment => segments.push(segment.to_owned()),
            }
        }
        segments
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// For every spelling, the route and the laxest server cut the same prefix, and the rest is
        /// the client's own bytes.
        #[test]
        fn no_spelling_moves_the_cut(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "/", "/chat", "/%63hat", "/CHAT", "chat", "/a", "/x", ".", "..", "%2e", "%2E",
                    "%252e", "%2f", "%252f", "%5c", "%255c", ";", ";v=1", "%3b", "%253b", "%25",
                    "%2561", "%20", "@", ":80", "evil.example.com", "~", "%c3%a9", "%00", "%",
                ]),
                0..7,
            ),
            query in "(\\?[a-z%/=&;.2f]{0,8})?",
        ) {
            let routes = routes();
            let path = format!("/chat{}", pieces.concat());
            let Ok(uri) = format!("{path}{query}").parse::<Uri>() else { return Ok(()) };
            let router = Router::new(&routes);
            let Ok(Some(matched)) = router.find("x", uri.path()) else { return Ok(()) };
            let target = matched.upstream_target(&uri).unwrap();
            prop_assert_eq!(target.query(), uri.query());
            prop_assert!(target.scheme().is_none() && target.authority().is_none());
            if &*matched.route.name != "/chat/*" {
                prop_assert_eq!(target.path(), path);
                return Ok(());
            }
            let rest = target.path();
            prop_assert!(rest.starts_with('/') && path.ends_with(rest), "{rest}");
            prop_assert!(!rest.starts_with("//") && !rest.starts_with("/;/"), "{rest}");
            let whole = lax_segments(&path);
            prop_assert_eq!(whole.first().map(String::as_str), Some("chat"));
            prop_assert_eq!(&whole[1..], &lax_segments(rest)[..]);
        }
    }

    fn headers_after(rule: &UpstreamPath, sent: &[(&str, &str)]) -> Vec<String> {
        let mut headers = headers(sent);
        rule.set_forwarded_prefix(&mut headers);
        headers
            .get_all(X_FORWARDED_PREFIX)
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn the_upstream_is_told_what_was_cut_off_here_and_before() {
        let chat =
            UpstreamPath::stripped("/chat", &PathPattern::parse("/chat/*").unwrap()).unwrap();
        let before = |value| [("x-forwarded-prefix", value)];
        assert_eq!(headers_after(&chat, &[]), ["/chat"]);
        assert_eq!(headers_after(&chat, &before("/outer/")), ["/outer/chat"]);
        assert_eq!(headers_after(&chat, &before("/one, /two")), ["/one/two/chat"]);
        assert_eq!(
            headers_after(&chat, &[before("/one")[0], before("/two")[0]]),
            ["/one/two/chat"]
        );
        for odd in [
            "//evil.example.com",
            "https://evil.example.com",
            "evil",
            "/a/../b",
            "/a;b",
            "/a?b",
            "/a,//b",
            "",
            "/",
            "/\"><script>",
        ] {
            assert_eq!(headers_after(&chat, &before(odd)), ["/chat"], "{odd}");
        }
        let fixed = UpstreamPath::fixed("/ws", &PathPattern::parse("/stomp").unwrap()).unwrap();
        for rule in [fixed, UpstreamPath::AsSent] {
            assert_eq!(
                headers_after(&rule, &before("/outer")),
                ["/outer"],
                "this rule strips no prefix"
            );
        }
    }

    #[test]
    fn a_rule_that_cannot_be_meant_is_refused_with_a_remedy() {
        let error = |rule: fn(&str, &PathPattern) -> Result<UpstreamPath, String>,
                     text: &str,
                     path: &str| {
            rule(text, &PathPattern::parse(path).unwrap()).unwrap_err()
        };
        for (text, path, part) in [
            ("/chat/", "/chat/*", "write `/chat`"),
            ("/", "/*", "remove `strip_prefix`"),
            ("/chat/*", "/chat/*", "without `*`"),
            ("/{room}", "/{room}/log", "without `*` and `{name}`"),
            ("/chat", "/chatter/*", "does not lie under `/chat`"),
            ("/chat/x", "/chat/*", "does not lie under"),
            ("/Chat", "/chat/*", "does not lie under"),
            ("/chat", "/*", "does not lie under"),
            ("chat", "/chat/*", "does not begin with '/'"),
            ("/a/../chat", "/chat/*", "dot segment"),
            ("//chat", "/chat/*", "empty segments"),
            ("/ch at", "/chat/*", "percent-encode"),
            ("", "/chat/*", "does not begin with '/'"),
        ] {
            let error = error(UpstreamPath::stripped, text, path);
            assert!(error.contains(part), "{text}: {error}");
        }
        for (text, path, part) in [
            ("/ws", "/chat/*", "its own route"),
            ("/ws", "/{room}", "its own route"),
            ("ws", "/stomp", "does not begin with '/'"),
            ("http://backend/ws", "/stomp", "does not begin with '/'"),
            ("//backend/ws", "/stomp", "empty segments"),
            ("/ws?vhost=a", "/stomp", "leave out a query"),
            ("/ws#a", "/stomp", "percent-encode"),
            ("/w s", "/stomp", "percent-encode"),
            ("/wé", "/stomp", "percent-encode"),
            ("/a/%2e%2e/ws", "/stomp", "dot segment"),
            ("/a%2fws", "/stomp", "encoded slash"),
            ("/ws;v=1", "/stomp", "`;parameters`"),
            ("/ws\r\nX: 1", "/stomp", "percent-encode"),
        ] {
            let error = error(UpstreamPath::fixed, text, path);
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(UpstreamPath::fixed("/w%C3%A9/", &PathPattern::parse("/stomp").unwrap()).is_ok());
    }
}
