//! The canonical form of a request path, and the patterns for it.
//!
//! Every path has one canonical form. A path that another server could read differently is refused
//! before a route is chosen: dot segments, encoded slashes, backslashes, and path parameters that
//! hide a segment. The route that authorises the request must be the route that the upstream sees.

mod spelling;

use std::cmp::Ordering;
use std::fmt;

use super::host_pattern::HostPattern;
pub use spelling::{LaxSpelling, RouteGuard};

/// A pattern such as `/exact` or `/prefix/*`, which may have `{name}` segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<Segment>,
    /// The pattern ends in `/*` and matches every path below.
    open_ended: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
}

/// A request path in its canonical form: percent-decoded segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath {
    segments: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path can be read in more than one way: {0}")]
pub struct AmbiguousPath(pub &'static str);

impl PathPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err("a path must begin with '/'".to_owned());
        };
        let mut open_ended = false;
        let mut segments = Vec::new();
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            if part == "*" {
                if !last {
                    return Err("'*' may stand only at the end: '/prefix/*'".to_owned());
                }
                open_ended = true;
            } else if let Some(name) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                {
                    return Err(format!(
                        "'{part}' needs a name of letters, digits and '_' between the braces"
                    ));
                }
                if segments.iter().any(|s| matches!(s, Segment::Parameter(other) if other == name))
                {
                    return Err(format!("the parameter '{{{name}}}' appears twice"));
                }
                segments.push(Segment::Parameter(name.to_owned()));
            } else if part.contains(['*', '{', '}', '?', '#']) {
                return Err(format!(
                    "'{part}' is not a segment: a parameter is a whole segment like '{{room}}', \
                     and a prefix ends in '/*'"
                ));
            } else if part.is_empty() && !last {
                return Err("a path must not have empty segments".to_owned());
            } else {
                let literal =
                    CanonicalPath::parse(&format!("/{part}")).map_err(|error| error.to_string())?;
                segments.extend(literal.segments.into_iter().map(Segment::Literal));
            }
        }
        Ok(Self { segments, open_ended })
    }

    /// Returns the parameters if the path matches.
    pub fn matches(&self, path: &CanonicalPath) -> Option<Vec<(String, String)>> {
        let enough = if self.open_ended {
            path.segments.len() > self.segments.len()
        } else {
            path.segments.len() == self.segments.len()
        };
        if !enough {
            return None;
        }
        let mut parameters = Vec::new();
        for (pattern, segment) in self.segments.iter().zip(&path.segments) {
            match pattern {
                Segment::Literal(literal) if literal == segment => {}
                Segment::Parameter(name) if !segment.is_empty() => {
                    parameters.push((name.clone(), segment.clone()));
                }
                _ => return None,
            }
        }
        Some(parameters)
    }

    /// Returns true if the pattern matches exactly one path, so that a URL can be built from it.
    pub fn is_literal(&self) -> bool {
        !self.open_ended
            && self.segments.iter().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// Returns true if every path that matches begins with these segments.
    pub fn lies_under(&self, prefix: &CanonicalPath) -> bool {
        let is_same = |(segment, wanted): (&Segment, &String)| match segment {
            Segment::Literal(literal) => literal == wanted,
            Segment::Parameter(_) => false,
        };
        self.segments.len() >= prefix.segments.len()
            && self.segments.iter().zip(&prefix.segments).all(is_same)
    }

    pub fn exact(path: &CanonicalPath) -> Self {
        Self {
            segments: path.segments.iter().cloned().map(Segment::Literal).collect(),
            open_ended: false,
        }
    }

    /// Returns the pattern without its first segments.
    pub fn behind(&self, segments: usize) -> Self {
        Self {
            segments: self.segments.iter().skip(segments).cloned().collect(),
            open_ended: self.open_ended,
        }
    }

    /// Returns true if a lax server could match one path to both patterns.
    pub fn overlaps(&self, other: &Self) -> bool {
        RouteGuard::new(None, self).overlaps(&RouteGuard::new(None, other))
    }

    pub fn is_more_specific_than(&self, other: &Self) -> bool {
        self.cmp_specificity(other).is_lt()
    }

    /// Returns a text that is equal for patterns that match the same paths.
    pub fn without_names(&self) -> String {
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Literal(literal) => literal.as_str(),
            Segment::Parameter(_) => "{}",
        });
        let path = segments.fold(String::new(), |path, segment| path + "/" + segment);
        if self.open_ended { path + "/*" } else { path }
    }

    pub fn parameter_names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Compares two patterns; `Less` is more specific. A literal segment comes before a parameter,
    /// the longer pattern before the shorter, a closed pattern before an open one.
    pub fn cmp_specificity(&self, other: &Self) -> Ordering {
        for (a, b) in self.segments.iter().zip(&other.segments) {
            match (a, b) {
                (Segment::Literal(_), Segment::Parameter(_)) => return Ordering::Less,
                (Segment::Parameter(_), Segment::Literal(_)) => return Ordering::Greater,
                _ => {}
            }
        }
        other.segments.len().cmp(&self.segments.len()).then(self.open_ended.cmp(&other.open_ended))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Parameter(name) => write!(f, "/{{{name}}}")?,
            }
        }
        if self.open_ended { f.write_str("/*") } else { Ok(()) }
    }
}

impl CanonicalPath {
    /// Parses the path of a request target, still encoded and without its query.
    pub fn parse(path: &str) -> Result<Self, AmbiguousPath> {
        let rest =
            path.strip_prefix('/').ok_or(AmbiguousPath("the path does not begin with '/'"))?;
        let segments = rest.split('/').map(decode_segment).collect::<Result<_, _>>()?;
        Ok(Self { segments })
    }

    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// Returns the path as a lax server reads it, without `;parameters` and inner empty segments.
    /// `None`: the two readings are equal.
    pub fn looser_reading(&self) -> Option<Self> {
        let lax = |segment: &String| segment.contains(';') || segment.is_empty();
        let inner = self.segments.len().saturating_sub(1);
        let differs = self.segments.iter().take(inner).any(lax)
            || self.segments.last().is_some_and(|last| last.contains(';'));
        if !differs {
            return None;
        }
        let mut segments: Vec<String> = Vec::with_capacity(self.segments.len());
        for (index, segment) in self.segments.iter().enumerate() {
            let kept = segment.split(';').next().unwrap_or_default();
            if !kept.is_empty() || index == inner {
                segments.push(kept.to_owned());
            }
        }
        Some(Self { segments })
    }
}

fn decode_segment(raw: &str) -> Result<String, AmbiguousPath> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let value = if byte == b'%' {
            let digits = bytes.next().and_then(hex_digit).zip(bytes.next().and_then(hex_digit));
            let (high, low) = digits
                .ok_or(AmbiguousPath("a '%' in the path is not followed by two hex digits"))?;
            match high << 4 | low {
                b'/' | b'\\' => {
                    return Err(AmbiguousPath("the path has an encoded slash or backslash"));
                }
                value => value,
            }
        } else {
            byte
        };
        if value == b'\\' {
            return Err(AmbiguousPath("the path has a backslash"));
        }
        if value.is_ascii_control() {
            return Err(AmbiguousPath("the path has a control character"));
        }
        decoded.push(value);
    }
    let decoded = String::from_utf8(decoded).map_err(|_| AmbiguousPath("the path is not UTF-8"))?;
    if hides_a_second_encoding(&decoded) {
        return Err(AmbiguousPath("the path has a separator or dot that is encoded twice"));
    }
    // A server that drops parameters reads `..;x` as `..`.
    if matches!(decoded.split(';').next(), Some("." | "..")) {
        return Err(AmbiguousPath("the path has a dot segment"));
    }
    Ok(decoded)
}

fn hides_a_second_encoding(decoded: &str) -> bool {
    decoded.as_bytes().windows(3).any(|window| {
        let [b'%', high, low] = window else { return false };
        matches!(
            (high, low.to_ascii_lowercase()),
            (b'2', b'5' | b'e' | b'f') | (b'5', b'c') | (b'0', b'0') | (b'3', b'b')
        )
    })
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap()
    }

    fn matches(text: &str, path: &str) -> Option<Vec<(String, String)>> {
        pattern(text).matches(&CanonicalPath::parse(path).unwrap())
    }

    #[test]
    fn a_path_matches_exactly_by_prefix_or_by_parameter() {
        assert!(matches("/ws", "/ws").is_some());
        assert!(matches("/ws", "/ws/").is_none());
        assert!(matches("/ws", "/%77s").is_some());
        assert!(matches("/api/*", "/api/v1/users").is_some());
        assert!(matches("/api/*", "/api/").is_some());
        assert!(matches("/api/*", "/api").is_none());
        assert!(matches("/*", "/").is_some());
        assert_eq!(
            matches("/chat/{room}", "/chat/blue"),
            Some(vec![("room".to_owned(), "blue".to_owned())])
        );
        assert!(matches("/chat/{room}", "/chat/").is_none());
    }

    #[test]
    fn the_more_specific_pattern_comes_first() {
        let mut patterns =
            ["/*", "/chat/*", "/chat/{room}", "/chat/blue", "/chat/{room}/log"].map(pattern);
        patterns.sort_by(PathPattern::cmp_specificity);
        let names: Vec<_> = patterns.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["/chat/blue", "/chat/{room}/log", "/chat/{room}", "/chat/*", "/*"]);
    }

    #[test]
    fn a_path_that_two_servers_could_read_differently_is_refused() {
        for path in [
            "/a/../b",
            "/a/./b",
            "/a/%2e%2e/b",
            "/a/..%2fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%",
            "/a%zz",
            "/..;x/b",
            "/a/%252e%252e/b",
            "/a%252fb",
            "/%ff",
        ] {
            assert!(CanonicalPath::parse(path).is_err(), "{path} was accepted");
        }
    }

    #[test]
    fn a_bad_pattern_says_what_a_good_one_looks_like() {
        for text in ["ws", "/a/*/b", "/a//b", "/{}", "/{a}/{a}", "/x{y}", "/a?b", "/../a"] {
            assert!(PathPattern::parse(text).is_err(), "{text} was accepted");
        }
    }
}
