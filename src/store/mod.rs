//! Where tickets are kept.

pub mod memory;

/// Why a ticket is not redeemed. The client cannot tell them apart; the audit log does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketFault {
    #[error("it has not the shape of a ticket")]
    Malformed,
    #[error("it is unknown, or was redeemed, or expired long ago")]
    Unknown,
    #[error("it has expired")]
    Expired,
    #[error("it was redeemed before")]
    Used,
}
