//! Moves clients from old methods to new ones, share by share, with a trial before.
//!
//! A route names its legacy methods (`legacy`), the share of its clients that must use a new method
//! (`rollout`), and methods that are only tried (`shadow`). `share.rs` decides whether a client is
//! in a share, `shadow.rs` checks credentials without consequences, and `uses.rs` remembers which
//! users still use a legacy method. `http/endpoints/methods.rs` tells a client which method to use.

pub mod events;
pub mod shadow;
pub mod share;
pub mod uses;

use std::net::IpAddr;

use http::header::LINK;
use http::{HeaderMap, HeaderName, HeaderValue};

use self::events::{LegacyUsed, RolledOut};
use crate::auth::grant::Grant;
use crate::base::clock::UnixMillis;
use crate::config::{Migration, Route};
use crate::model::method::Method;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use share::ShareKey;
use uses::LegacyUses;

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// The position of an upgrade in the route's rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutStanding {
    /// The client is in a share, and used its assigned method or another one that is not legacy.
    Followed,
    /// The client is in a share, and used a legacy method.
    Lagging,
    /// The client is in no share.
    Outside,
}

impl RolloutStanding {
    pub const ALL: [Self; 3] = [Self::Followed, Self::Lagging, Self::Outside];

    pub fn name(self) -> &'static str {
        match self {
            Self::Followed => "followed",
            Self::Lagging => "lagging",
            Self::Outside => "outside",
        }
    }
}

impl Migration {
    /// Returns the method that this client must use, if it is in a share.
    pub fn assigned_method(&self, route: &str, client: &ShareKey<'_>) -> Option<Method> {
        share::assigned_method(&self.rollout.shares, share::place(route, client))
    }

    pub fn is_legacy(&self, method: Method) -> bool {
        self.legacy.contains(&method)
    }

    /// Adds the headers that announce the end of a legacy method: RFC 9745 and RFC 8594.
    pub fn mark(&self, method: Option<Method>, headers: &mut HeaderMap) {
        let Some(deprecated) =
            self.deprecated.filter(|_| method.is_some_and(|method| self.is_legacy(method)))
        else {
            return;
        };
        headers.insert(
            DEPRECATION,
            HeaderValue::try_from(format!("@{}", deprecated.as_secs()))
                .unwrap_or(HeaderValue::from_static("@0")),
        );
        if let Some(Ok(sunset)) =
            self.sunset.map(|sunset| HeaderValue::try_from(sunset.to_http_date()))
        {
            headers.insert(SUNSET, sunset);
        }
        if let Some(link) = &self.link {
            headers.append(LINK, link.clone());
        }
    }
}

/// Checks a grant against the rollout of its route. Only this function refuses a client because of
/// its method. Without `uses` nothing is counted: the request is only explained.
pub fn admit(
    grant: &Grant,
    peer: IpAddr,
    uses: Option<&LegacyUses>,
    now: UnixMillis,
) -> Result<(), Rejection> {
    let route: &Route = grant.route();
    let migration = &route.migration;
    let (Some(method), Some(principal)) = (grant.method(), grant.principal()) else {
        return Ok(());
    };
    if migration.legacy.is_empty() && migration.rollout.shares.is_empty() {
        return Ok(());
    }
    let is_legacy = migration.is_legacy(method);
    let client = ShareKey::of(migration.rollout.sticky, principal, peer);
    let assigned_method = migration.assigned_method(&route.name, &client);
    if let Some(assigned_method) =
        assigned_method.filter(|_| is_legacy && migration.rollout.enforce)
    {
        return Err(Rejection::LegacyMethod(assigned_method));
    }
    let Some(uses) = uses else { return Ok(()) };
    let standing = match assigned_method {
        None => RolloutStanding::Outside,
        Some(_) if is_legacy => RolloutStanding::Lagging,
        Some(_) => RolloutStanding::Followed,
    };
    if !migration.rollout.shares.is_empty() {
        RolledOut { route: &route.name, standing }.emit();
    }
    if is_legacy {
        uses.note(&route.name, method, &principal.subject, now);
        LegacyUsed {
            route: &route.name,
            method,
            user: &principal.subject,
            deprecated: migration.deprecated,
            sunset: migration.sunset,
        }
        .emit();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::model::principal::tests::principal;
    use std::sync::Arc;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn admitted(route: &str, method: Method) -> Result<(), Rejection> {
        let config = config::for_test(route);
        let grant = Grant::for_test(
            Arc::clone(&config.routes[0]),
            Some(principal("ada", "main", None, None, 0)),
            method,
        );
        admit(&grant, PEER, Some(&LegacyUses::default()), UnixMillis(0))
    }

    #[test]
    fn only_those_in_an_enforced_share_are_refused_and_only_by_a_legacy_method() {
        let route = |ticket: u8, enforce: bool| {
            format!(
                "auth = [\"ticket\", \"header\", \"query\"]\nlegacy = [\"header\"]\n\
                 deprecated = \"2026-11-01\"\n\
                 rollout = {{ ticket = {ticket}, enforce = {enforce} }}"
            )
        };
        assert_eq!(
            admitted(&route(100, true), Method::Header),
            Err(Rejection::LegacyMethod(Method::Ticket))
        );
        assert_eq!(admitted(&route(100, true), Method::Ticket), Ok(()));
        assert_eq!(
            admitted(&route(100, true), Method::Query),
            Ok(()),
            "another method that is not legacy"
        );
        assert_eq!(admitted(&route(100, false), Method::Header), Ok(()));
        assert_eq!(admitted(&route(0, true), Method::Header), Ok(()));
    }

    #[test]
    fn a_legacy_method_is_marked_with_its_dates() {
        let config = config::for_test(
            "auth = [\"ticket\", \"header\"]\nlegacy = [\"header\"]\n\
             deprecated = \"2026-11-01\"\nsunset = \"2027-03-01\"\n\
             migration_link = \"https://example.com/login\"",
        );
        let marked = |method| {
            let mut headers = HeaderMap::new();
            config.routes[0].migration.mark(Some(method), &mut headers);
            headers
        };
        let headers = marked(Method::Header);
        assert_eq!(headers[DEPRECATION], "@1793491200");
        assert_eq!(headers[SUNSET], "Mon, 01 Mar 2027 00:00:00 GMT");
        assert_eq!(
            headers[LINK],
            "<https://example.com/login>; rel=\"deprecation\"; type=\"text/html\""
        );
        assert!(marked(Method::Ticket).is_empty());
    }
}
