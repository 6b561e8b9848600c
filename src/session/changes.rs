//! Sessions that begin and end, for another process whose limits count them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::registry::{SessionHandle, SessionId};

/// One session, as limits count it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedSession {
    pub id: String,
    /// The issuer and the name of the user; `None` on a public route.
    pub user: Option<(String, String)>,
    pub route: String,
    pub address: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    Began(CountedSession),
    Ended(SessionId),
}

pub type SessionChanges = mpsc::UnboundedSender<SessionChange>;

impl CountedSession {
    pub fn of(session: &SessionHandle) -> Self {
        let user = session.issuer.as_deref().zip(session.user.as_deref());
        Self {
            id: session.id.to_string(),
            user: user.map(|(issuer, user)| (issuer.to_owned(), user.to_owned())),
            route: session.route.name.to_string(),
            address: session.peer,
        }
    }
}
