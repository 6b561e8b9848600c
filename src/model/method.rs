//! The ways in: by which method a client shows its credential.

/// The ways in. The name is the same in config, metrics, logs and the signed context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    Ticket,
    Message,
    Header,
    Subprotocol,
    Query,
    Cookie,
    Session,
    Mtls,
    Bypass,
}

impl Method {
    pub const ALL: [Self; 9] = [
        Self::Ticket,
        Self::Message,
        Self::Header,
        Self::Subprotocol,
        Self::Query,
        Self::Cookie,
        Self::Session,
        Self::Mtls,
        Self::Bypass,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Message => "message",
            Self::Header => "header",
            Self::Subprotocol => "subprotocol",
            Self::Query => "query",
            Self::Cookie => "cookie",
            Self::Session => "session",
            Self::Mtls => "mtls",
            Self::Bypass => "bypass",
        }
    }

    /// Does a browser show it by itself, whichever page asks? Then the page's origin has to be
    /// known.
    pub fn is_sent_by_browsers(self) -> bool {
        matches!(self, Self::Cookie | Self::Session)
    }

    /// Can the script of any page show it with `new WebSocket`?
    pub fn is_shown_by_pages(self) -> bool {
        matches!(self, Self::Ticket | Self::Message | Self::Subprotocol | Self::Query)
    }
}
