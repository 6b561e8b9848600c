//! Finds the route of a request: the most specific one that matches its host and path.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::config::{Route, RouteMatch};
use crate::model::host_pattern::HostPattern;
use crate::model::path::{AmbiguousPath, CanonicalPath, LaxSpelling, RouteGuard};
use crate::rejection::Rejection;

#[derive(Debug)]
pub struct Router {
    /// Most specific first.
    entries: Vec<Entry>,
}

/// A route at one of its hosts.
#[derive(Debug)]
struct Entry {
    host: Option<HostPattern>,
    route: Arc<Route>,
    /// More specific routes with stricter rules than this one, each with its name.
    guards: Vec<(RouteGuard, Arc<str>)>,
}

impl Router {
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let mut entries = Vec::new();
        for route in routes {
            let entry = |host| Entry { host, route: Arc::clone(route), guards: Vec::new() };
            if route.hosts.is_empty() {
                entries.push(entry(None));
            }
            entries.extend(route.hosts.iter().cloned().map(Some).map(entry));
        }
        entries.sort_by(Entry::cmp_specificity);
        for index in 0..entries.len() {
            let (before, rest) = entries.split_at_mut(index);
            let Some(entry) = rest.first_mut() else { break };
            let guards = before.iter().filter(|one| {
                one.cmp_specificity(entry).is_lt() && !entry.route.asks_for_as_much_as(&one.route)
            });
            entry.guards = guards
                .map(|one| {
                    (
                        RouteGuard::new(one.host.as_ref(), &one.route.path),
                        Arc::clone(&one.route.name),
                    )
                })
                .collect();
        }
        Self { entries }
    }

    /// Returns the route of a request; `Ok(None)` if none matches.
    pub fn find(&self, host: &str, path: &str) -> Result<Option<RouteMatch>, Rejection> {
        // `OPTIONS *` asks about the server as a whole, which is not a route.
        if path == "*" {
            return Ok(None);
        }
        let canonical = CanonicalPath::parse(path)?;
        let found = self.fitting(host, &canonical).next();
        // A server behind Usher may drop `;parameters` or merge slashes. That is harmless only if
        // the path then still belongs to the same route.
        if let Some(looser) = canonical.looser_reading() {
            let other = self.fitting(host, &looser).next();
            let same = match (&found, &other) {
                (None, None) => true,
                (Some((_, a)), Some((_, b))) => {
                    Arc::ptr_eq(&a.route, &b.route) && a.parameters == b.parameters
                }
                _ => false,
            };
            if !same {
                return Err(AmbiguousPath(
                    "path parameters or empty segments would change the route",
                )
                .into());
            }
        }
        let Some((entry, matched)) = found else { return Ok(None) };
        entry.check_spelling(host, &canonical)?;
        Ok(Some(matched.with_upstream_path(path, &canonical)?))
    }

    /// Returns every route that matches, the most specific first.
    fn fitting(
        &self,
        host: &str,
        path: &CanonicalPath,
    ) -> impl Iterator<Item = (&Entry, RouteMatch)> {
        self.entries.iter().filter_map(move |entry| {
            if !entry.host.as_ref().is_none_or(|pattern| pattern.matches(host)) {
                return None;
            }
            let parameters = entry.route.path.matches(path)?;
            Some((
                entry,
                RouteMatch { route: Arc::clone(&entry.route), parameters, upstream_path: None },
            ))
        })
    }

    /// Returns the routes that match too, but are less specific than the result of
    /// [`Router::find`].
    pub fn others(&self, host: &str, path: &str) -> Vec<Arc<Route>> {
        let Ok(path) = CanonicalPath::parse(path) else { return Vec::new() };
        self.fitting(host, &path).skip(1).map(|(_, matched)| matched.route).collect()
    }

    /// Returns the routes that would match if the host, the last slash or the case were different.
    pub fn near_misses(&self, host: &str, path: &str) -> Vec<(Arc<Route>, String)> {
        let slash = path.strip_suffix('/').map_or_else(|| format!("{path}/"), str::to_owned);
        let bent = [
            (slash, "with the last slash added or removed"),
            (path.to_lowercase(), "in lower case"),
        ];
        let matches = |route: &Route, path: &str| {
            CanonicalPath::parse(path).is_ok_and(|path| route.path.matches(&path).is_some())
        };
        let miss = |Entry { host: pattern, route, .. }: &Entry| {
            let path_why = match bent.iter().find(|(path, _)| matches(route, path)) {
                _ if matches(route, path) => None,
                Some((_, why)) => Some(format!("the path matches {why}")),
                None => return None,
            };
            let host_why = pattern
                .as_ref()
                .filter(|pattern| !pattern.matches(host))
                .map(|pattern| format!("the route is for the host {pattern}"));
            let why: Vec<String> = host_why.into_iter().chain(path_why).collect();
            Some((Arc::clone(route), why.join(", and ")))
        };
        self.entries.iter().filter_map(miss).collect()
    }
}

impl Entry {
    fn cmp_specificity(&self, other: &Self) -> Ordering {
        let by_host = host_rank(other.host.as_ref()).cmp(&host_rank(self.host.as_ref()));
        by_host.then_with(|| self.route.path.cmp_specificity(&other.route.path))
    }

    /// Rejects another spelling of a path that a more specific route guards. A server that reads
    /// both spellings alike would serve under this route a path that the other route refuses.
    fn check_spelling(&self, host: &str, path: &CanonicalPath) -> Result<(), Rejection> {
        if self.guards.is_empty() {
            return Ok(());
        }
        let letters = LaxSpelling::of(path);
        let is_here =
            |guard: &RouteGuard| guard.host.as_ref().is_none_or(|pattern| pattern.matches(host));
        match self.guards.iter().find(|(guard, _)| is_here(guard) && guard.matches(&letters)) {
            Some((_, name)) => Err(Rejection::PathSpelling(Arc::clone(name))),
            None => Ok(()),
        }
    }
}

fn host_rank(host: Option<&HostPattern>) -> (u8, usize) {
    match host {
        Some(HostPattern::Exact(name)) => (2, name.len()),
        Some(HostPattern::Subdomain(name)) => (1, name.len()),
        None => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[&str]) -> Router {
        let mut text = "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n\
            [[issuer]]\nname = \"main\"\nissuer = \"https://id.example.com\"\n\
            audience = [\"chat\"]\n\
            algorithms = [\"HS256\"]\nsecret_env = \"KEY\"\n\
            [[upstream]]\nname = \"chat\"\nservers = [\"http://127.0.0.1:1\"]\n"
            .to_owned();
        for route in routes {
            text.push_str(&format!("[[route]]\nupstream = \"chat\"\n{route}\n"));
        }
        Router::new(
            &crate::config::parse(&text, None, &|_| Some(crate::config::TEST_SECRET.to_owned()))
                .unwrap()
                .config
                .routes,
        )
    }

    fn public(hosts: &str, path: &str) -> String {
        format!("{hosts}path = \"{path}\"\nauth = []")
    }

    fn named(router: &Router, host: &str, path: &str) -> Result<Option<String>, Rejection> {
        Ok(router
            .find(host, path)?
            .map(|matched| format!("{} {:?}", matched.route.name, matched.parameters)))
    }

    fn found(host: &str, path: &str) -> Result<Option<String>, Rejection> {
        let routes = [
            public("", "/ws"),
            public("", "/*"),
            public("hosts = [\"chat.example.com\"]\n", "/chat/{room}"),
            public("hosts = [\"*.example.com\"]\n", "/any/*"),
        ];
        named(&router(&routes.each_ref().map(String::as_str)), host, path)
    }

    #[test]
    fn a_host_of_its_own_beats_none_and_falls_back_to_it() {
        let at = |host, path| found(host, path).unwrap().unwrap();
        assert_eq!(at("chat.example.com", "/chat/blue"), "/chat/{room} [(\"room\", \"blue\")]");
        assert_eq!(at("other.example.com", "/chat/blue"), "/* []");
        assert_eq!(at("other.example.com", "/any/x"), "/any/* []");
        assert_eq!(at("elsewhere.test", "/any/x"), "/* []");
        assert_eq!(at("chat.example.com", "/ws"), "/ws []");
    }

    #[test]
    fn what_a_lax_server_would_read_as_another_route_is_refused_and_nothing_else() {
        assert!(found("x", "/ws;a=1").is_err());
        assert!(found("x", "//ws").is_err());
        assert!(found("chat.example.com", "/chat/blue;v=1").is_err(), "another room");
        assert_eq!(
            found("x", "/files//a;v=1").unwrap().unwrap(),
            "/* []",
            "the same route either way"
        );
        assert_eq!(found("x", "/files/").unwrap().unwrap(), "/* []");
    }

    const GUARDED: &str = "path = \"/ws\"\nauth = [\"header\"]\nrequire = [\"chat:read\"]";

    fn spelling_of(router: &Router, path: &str) -> Option<String> {
        match router.find("x", path) {
            Err(Rejection::PathSpelling(route)) => Some(route.to_string()),
            Err(Rejection::AmbiguousRequest(_)) => Some("ambiguous".to_owned()),
            Ok(_) => None,
            Err(other) => panic!("{path}: {other}"),
        }
    }

    #[test]
    fn another_spelling_of_a_guarded_path_falls_to_no_weaker_route() {
        let router = router(&[
            GUARDED,
            "path = \"/Rooms/{room}\"\nauth = [\"header\"]",
            "path = \"/*\"\nauth = []",
        ]);
        for path in [
            "/WS", "/ws/", "/Ws/", "/wS.", "/ws%20", "/%57S", "/%2577s", "/WS;x", "/WS//",
            "/ws%3fx",
        ] {
            assert_eq!(spelling_of(&router, path).as_deref(), Some("/ws"), "{path}");
        }
        for path in ["/rooms/blue", "/ROOMS/blue", "/Rooms/blue/"] {
            assert_eq!(spelling_of(&router, path).as_deref(), Some("/Rooms/{room}"), "{path}");
        }
        for path in ["/ws;x", "//ws", "/;a/ws"] {
            assert_eq!(spelling_of(&router, path).as_deref(), Some("ambiguous"), "{path}");
        }
        for path in ["/ws", "/%77s", "/wss", "/ws/x", "/WS/x", "/", "/rooms", "/Rooms/blue"] {
            assert_eq!(spelling_of(&router, path), None, "{path}");
        }
    }

    #[test]
    fn a_spelling_that_is_listed_itself_wins_and_so_does_a_route_that_asks_for_as_much() {
        let listed = router(&[
            GUARDED,
            "path = \"/WS\"\nauth = []",
            "path = \"/ws/\"\nauth = []",
            "path = \"/*\"\nauth = []",
        ]);
        for (path, route) in [("/WS", "/WS []"), ("/ws/", "/ws/ []")] {
            assert_eq!(named(&listed, "x", path), Ok(Some(route.to_owned())));
        }
        assert_eq!(spelling_of(&listed, "/Ws").as_deref(), Some("/ws"));
        for (other, refused) in [
            ("auth = [\"header\"]\nrequire = [\"chat:read\", \"more\"]", false),
            (
                "auth = [\"header\"]\nrequire = [\"chat:read\"]\n\
                 origins = [\"https://a.example.com\"]",
                false,
            ),
            ("auth = [\"header\"]", true),
            ("auth = [\"header\", \"query\"]\nrequire = [\"chat:read\"]", true),
            ("auth = [\"query\"]\nrequire = [\"chat:read\"]", true),
        ] {
            let router = router(&[GUARDED, &format!("path = \"/*\"\n{other}")]);
            assert_eq!(spelling_of(&router, "/WS").is_some(), refused, "{other}");
        }
        // A page that may not connect may not connect by another spelling either.
        let paged = router(&[
            "path = \"/ws\"\nauth = []\norigins = [\"https://a.example.com\"]",
            "path = \"/*\"\nauth = []",
        ]);
        assert_eq!(spelling_of(&paged, "/WS").as_deref(), Some("/ws"));
    }

    #[test]
    fn only_a_route_that_the_right_spelling_would_choose_guards() {
        let elsewhere = router(&[
            "path = \"/ws\"\nhosts = [\"chat.example.com\"]\nauth = [\"header\"]",
            "path = \"/admin\"\nauth = [\"header\"]",
            "path = \"/*\"\nhosts = [\"chat.example.com\", \"site.example.com\"]\nauth = []",
            "path = \"/*\"\nauth = []",
        ]);
        let is_refused =
            |host, path| matches!(elsewhere.find(host, path), Err(Rejection::PathSpelling(_)));
        assert!(is_refused("chat.example.com", "/WS"));
        assert!(
            !is_refused("site.example.com", "/WS") && !is_refused("other", "/WS"),
            "there is no such route at this host"
        );
        assert!(is_refused("other", "/ADMIN"));
        assert!(
            !is_refused("site.example.com", "/ADMIN"),
            "its host's own route has /admin as well"
        );
    }
}
