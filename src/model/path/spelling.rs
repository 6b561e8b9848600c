//! Other spellings of a path, which a lax server behind Usher reads as the same path.
//!
//! Usher chooses a route by the percent-decoded path. Some servers are less exact: they ignore
//! case, `;parameters`, and slashes and dots at the end. Some decode twice, so an encoded question
//! mark begins a query. Such a server opens `/ws` for a request to `/WS`. Usher refuses a spelling
//! if its route has weaker rules than the route of the other path.

use std::cmp::Ordering;

use super::{CanonicalPath, HostPattern, PathPattern, Segment};

/// The parts of a path that the laxest server compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaxSpelling {
    segments: Vec<String>,
    /// The number of segments before a query that appears after a second decoding.
    before_query: Option<usize>,
}

/// A route with stronger rules, as a lax server matches its paths.
#[derive(Clone, Debug)]
pub struct RouteGuard {
    pub host: Option<HostPattern>,
    /// `None` stands for a parameter.
    segments: Vec<Option<String>>,
    open_ended: bool,
}

impl LaxSpelling {
    pub fn of(path: &CanonicalPath) -> Self {
        let (mut segments, mut before_query) = (Vec::new(), None);
        for segment in &path.segments {
            let kept = letters(segment);
            segments.extend((!kept.is_empty()).then_some(kept));
            if before_query.is_none() && decoded_again(segment).contains(['?', '#']) {
                before_query = Some(segments.len());
            }
        }
        Self { segments, before_query }
    }
}

impl RouteGuard {
    pub fn new(host: Option<&HostPattern>, path: &PathPattern) -> Self {
        let segment = |segment: &Segment| match segment {
            Segment::Literal(literal) => Some(letters(literal)),
            Segment::Parameter(_) => None,
        };
        let segments = path
            .segments
            .iter()
            .map(segment)
            .filter(|segment| segment.as_deref() != Some(""))
            .collect();
        Self { host: host.cloned(), segments, open_ended: path.open_ended }
    }

    /// Returns true if a lax server could read the path as a path of this route. A lax server also
    /// reads `/api` as `/api/`.
    pub fn matches(&self, path: &LaxSpelling) -> bool {
        let fits =
            |segments: &[String]| {
                let enough = segments.len() == self.segments.len()
                    || self.open_ended && segments.len() > self.segments.len();
                enough
                    && self.segments.iter().zip(segments).all(|(wanted, segment)| {
                        wanted.as_ref().is_none_or(|wanted| wanted == segment)
                    })
            };
        fits(&path.segments)
            || path.before_query.and_then(|count| path.segments.get(..count)).is_some_and(fits)
    }

    /// Returns true if some path matches both patterns.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_long_enough = match self.segments.len().cmp(&other.segments.len()) {
            Ordering::Less => self.open_ended,
            Ordering::Equal => true,
            Ordering::Greater => other.open_ended,
        };
        let is_same =
            |(a, b): (&Option<String>, &Option<String>)| a.is_none() || b.is_none() || a == b;
        is_long_enough && self.segments.iter().zip(&other.segments).all(is_same)
    }
}

fn letters(segment: &str) -> String {
    let decoded = decoded_again(segment);
    let kept =
        decoded.split([';', '?', '#']).next().unwrap_or_default().trim_end_matches(['.', ' ']);
    kept.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Decodes a segment once more. This hides no separator: a path with a separator that is encoded
/// twice was already refused.
fn decoded_again(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, behind @ ..] = rest {
        let digit = |at: usize| behind.get(at).copied().and_then(super::hex_digit);
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high << 4 | low);
                rest = behind.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards(pattern: &str, path: &str) -> bool {
        let guard = RouteGuard::new(None, &PathPattern::parse(pattern).unwrap());
        guard.matches(&LaxSpelling::of(&CanonicalPath::parse(path).unwrap()))
    }

    #[test]
    fn a_lax_server_takes_these_for_the_same() {
        for path in [
            "/ws",
            "/WS",
            "/wS/",
            "/ws//",
            "//ws",
            "/ws;x",
            "/ws;/",
            "/;x/ws",
            "/%77s",
            "/%57S",
            "/%2577s",
            "/%2557%2553",
            "/ws.",
            "/ws%20",
            "/ws..;v=1/",
            "/w%C5%BF",
            "/ws%3f",
            "/ws%3Fx=1",
            "/ws%253fx",
            "/ws%23",
            "/WS/%3fx",
            "/ws%3f/x",
            "/ws/%23/y/z",
        ] {
            assert!(guards("/ws", path), "{path}");
        }
        for path in ["/", "/w", "/wss", "/ws/x", "/x/ws", "/w%20s", "/ws-", "/ws.json", "/x%3f/ws"]
        {
            assert!(!guards("/ws", path), "{path}");
        }
    }

    #[test]
    fn patterns_meet_where_a_path_is_one_of_both() {
        for (one, other, expected) in [
            ("/*", "/ws", true),
            ("/*", "/", true),
            ("/ws", "/WS/", true),
            ("/{page}", "/ws", true),
            ("/{page}/x", "/ws/{y}", true),
            ("/a/*", "/a/b/c", true),
            ("/a/*", "/a", true),
            ("/a/*", "/{b}/*", true),
            ("/a/*", "/b/*", false),
            ("/{page}", "/a/b", false),
            ("/ws", "/wss", false),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                assert_eq!(
                    PathPattern::parse(one).unwrap().overlaps(&PathPattern::parse(other).unwrap()),
                    expected,
                    "{one} {other}"
                );
            }
        }
    }

    #[test]
    fn patterns_are_compared_by_their_letters_too() {
        for (pattern, path, expected) in [
            ("/Chat/{room}", "/chat/blue", true),
            ("/Chat/{room}", "/chat/blue/", true),
            ("/Chat/{room}", "/chat/", false),
            ("/api/*", "/API/x", true),
            ("/api/*", "/api", true),
            ("/api/*", "/apis", false),
            ("/{room}/log", "/blue%3f/LOG", true),
            ("/ws/", "/ws", true),
            ("/", "/", true),
            ("/", "//", true),
            ("/", "/x", false),
            ("/*", "/x", true),
            ("/Über", "/%C3%BCber", true),
        ] {
            assert_eq!(guards(pattern, path), expected, "{pattern} {path}");
        }
    }
}
