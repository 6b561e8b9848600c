//! The methods by which a client sends its credential.

/// A method by which a client sends its credential. Its name is the same in config, metrics, logs
/// and the signed context.
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

    /// Returns true if a browser sends the credential by itself, from any page. Then the origin of
    /// the page must be checked.
    pub fn is_sent_by_browsers(self) -> bool {
        matches!(self, Self::Cookie | Self::Session)
    }

    /// Returns true if a script of any page can send the credential with `new WebSocket`.
    pub fn is_shown_by_pages(self) -> bool {
        matches!(self, Self::Ticket | Self::Message | Self::Subprotocol | Self::Query)
    }
}
