//! The format of a ticket: 256 random bits in base64url, after an optional region such as `eu.`.
//!
//! The store keeps the hash of the whole text. If the region is changed, removed or added, the
//! result is another ticket, which no store has.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::store::is_region_name;
use crate::model::faults::TicketFault;
use crate::model::secret::Secret;

/// The length of 32 bytes in base64url.
const LENGTH: usize = 43;
/// Not a base64url character, and allowed in a query without encoding.
const SEPARATOR: char = '.';

/// Makes a ticket. `None`: the system has no randomness.
pub fn random(region: Option<&str>) -> Option<Secret> {
    let mut bits = [0; 32];
    rand::fill(&mut bits).ok()?;
    let text = URL_SAFE_NO_PAD.encode(bits);
    Some(Secret::new(match region {
        None => text,
        Some(region) => format!("{region}{SEPARATOR}{text}"),
    }))
}

/// Returns true if the text has the form of a ticket.
pub fn has_form(text: &str) -> bool {
    split(text).is_some()
}

/// Returns the region that a ticket names, if any.
pub fn region_of(ticket: &Secret) -> Result<Option<&str>, TicketFault> {
    let parts = ticket.expose_str().and_then(split);
    parts.map(|(region, _)| region).ok_or(TicketFault::Malformed)
}

/// Returns the region, if any, and the bits. `None`: the text has another form.
fn split(text: &str) -> Option<(Option<&str>, &str)> {
    let (region, bits) = match text.split_once(SEPARATOR) {
        None => (None, text),
        Some((region, bits)) => (Some(region), bits),
    };
    let is_good = bits.len() == LENGTH
        && bits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (is_good && region.is_none_or(is_region_name)).then_some((region, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_names_its_region_or_none() {
        for region in [None, Some("eu"), Some("ap-south-1"), Some("a"), Some("sixteen-letters-")] {
            let ticket = random(region).unwrap();
            assert_eq!(region_of(&ticket), Ok(region));
            assert_ne!(random(region).unwrap(), ticket);
        }
    }

    #[test]
    fn what_has_another_shape_is_no_ticket() {
        let bits = "A".repeat(43);
        let long = "r".repeat(17);
        for text in [
            String::new(),
            bits[1..].to_owned(),
            format!("{bits}A"),
            format!(".{bits}"),
            format!("EU.{bits}"),
            format!("e_u.{bits}"),
            format!("e%75.{bits}"),
            format!("{long}.{bits}"),
            format!("eu..{bits}"),
            format!("eu.us.{bits}"),
            format!("eu.{bits}."),
            format!("eu.{}", &bits[1..]),
            format!("eu.{}=", &bits[1..]),
            format!("eu-{bits}"),
            "eu.".to_owned(),
        ] {
            assert_eq!(
                region_of(&Secret::new(text.clone())),
                Err(TicketFault::Malformed),
                "{text}"
            );
        }
        assert_eq!(region_of(&Secret::new(vec![0xff; 43])), Err(TicketFault::Malformed));
    }

    #[test]
    fn a_changed_region_is_another_ticket_to_the_store() {
        let ticket = random(Some("eu")).unwrap();
        let bits = ticket.expose_str().unwrap().strip_prefix("eu.").unwrap();
        let hash = |text: String| crate::store::TicketHash::of(&Secret::new(text));
        let all = [hash(bits.to_owned()), hash(format!("eu.{bits}")), hash(format!("us.{bits}"))];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    }
}
