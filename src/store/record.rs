//! The record of a ticket as bytes, in Redis and between two processes: compact JSON with a
//! version.
//!
//! While a fleet is upgraded, nodes of two versions share one Redis. So this is a wire format, not
//! an image of the memory.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TicketRecord;
use crate::base::clock::UnixMillis;
use crate::model::faults::TicketFault;
use crate::model::principal::Principal;

const VERSION: u8 = 1;
const USED: &[u8] = br#"{"v":1,"past":"used"}"#;
const EXPIRED: &[u8] = br#"{"v":1,"past":"expired"}"#;

/// The value of a ticket's key.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredTicket {
    Ticket(Box<TicketRecord>),
    /// The fate of the ticket. A node of an older version cannot read it, and rejects the ticket.
    Past(TicketMark),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketMark {
    Used,
    Expired,
}

impl TicketMark {
    pub fn mark(self) -> &'static [u8] {
        match self {
            Self::Used => USED,
            Self::Expired => EXPIRED,
        }
    }

    pub fn fault(self) -> TicketFault {
        match self {
            Self::Used => TicketFault::Used,
            Self::Expired => TicketFault::Expired,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct RecordJson {
    v: u8,
    sub: String,
    iss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    permissions: Vec<String>,
    /// When the credential behind the ticket was issued.
    iat: u64,
    /// When the credential behind the ticket expires.
    exp: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    in_leeway: bool,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    claims: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    created_at: u64,
    expires_at: u64,
    single_use: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

pub fn encode(record: TicketRecord) -> Option<Vec<u8>> {
    let TicketRecord {
        principal,
        route,
        origin,
        address,
        created_at,
        expires_at,
        single_use,
        traceparent,
    } = record;
    let written = RecordJson {
        v: VERSION,
        sub: principal.subject,
        iss: principal.issuer.as_ref().to_owned(),
        jti: principal.token_id,
        sid: principal.issuer_session,
        permissions: principal.permissions,
        iat: principal.issued_at.0,
        exp: principal.expires_at.0,
        in_leeway: principal.in_leeway,
        claims: principal.claims,
        route: route.map(|route| route.as_ref().to_owned()),
        origin,
        address,
        created_at: created_at.0,
        expires_at: expires_at.0,
        single_use,
        traceparent,
    };
    serde_json::to_vec(&written).ok()
}

/// Decodes the value of a key. `None`: Usher did not write it, or its version is unknown.
pub fn decode(bytes: &[u8]) -> Option<StoredTicket> {
    if let Some(fate) =
        [TicketMark::Used, TicketMark::Expired].into_iter().find(|fate| fate.mark() == bytes)
    {
        return Some(StoredTicket::Past(fate));
    }
    let written: RecordJson =
        serde_json::from_slice(bytes).ok().filter(|written: &RecordJson| written.v == VERSION)?;
    Some(StoredTicket::Ticket(Box::new(TicketRecord {
        principal: Principal {
            subject: written.sub,
            issuer: written.iss.into(),
            token_id: written.jti,
            issuer_session: written.sid,
            permissions: written.permissions,
            issued_at: UnixMillis(written.iat),
            expires_at: UnixMillis(written.exp),
            in_leeway: written.in_leeway,
            claims: written.claims,
        },
        route: written.route.map(Into::into),
        origin: written.origin,
        address: written.address,
        created_at: UnixMillis(written.created_at),
        expires_at: UnixMillis(written.expires_at),
        single_use: written.single_use,
        traceparent: written.traceparent,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = contract::record(UnixMillis(9));
        assert_eq!(
            decode(&encode(record.clone()).unwrap()),
            Some(StoredTicket::Ticket(Box::new(record)))
        );
        for fate in [TicketMark::Used, TicketMark::Expired] {
            assert_eq!(decode(fate.mark()), Some(StoredTicket::Past(fate)));
        }
    }

    #[test]
    fn what_is_not_ours_is_no_record() {
        let next = String::from_utf8(encode(contract::record(UnixMillis(9))).unwrap())
            .unwrap()
            .replace("\"v\":1", "\"v\":2");
        for bytes in
            [next.as_bytes(), b"", b"{}", b"null", b"{\"v\":1}", b"{\"v\":1,\"past\":\"lost\"}"]
        {
            assert_eq!(decode(bytes), None);
        }
    }
}
