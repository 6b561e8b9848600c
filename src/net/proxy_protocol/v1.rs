//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::read::{HeaderProgress, SHORTEST, check_start, missing};
use super::{ProxiedAddresses, ProxyFault, ProxyHeader};

pub(super) const PREFIX: &[u8] = b"PROXY ";
const LINE_END: &[u8] = b"\r\n";
/// "If the CRLF sequence is not found in the first 107 characters, the receiver should declare the
/// line invalid."
const LONGEST: usize = 107;
const NO_LINE_END: ProxyFault = ProxyFault::Malformed("no line end within 107 bytes");

pub(super) fn read(bytes: &[u8]) -> Result<HeaderProgress, ProxyFault> {
    check_start(bytes, PREFIX)?;
    let is_text = |byte: &u8| (b' '..=b'~').contains(byte);
    let Some(length) = bytes.iter().take(LONGEST).position(|byte| !is_text(byte)) else {
        let whole = (bytes.len() + LINE_END.len()).max(SHORTEST);
        if whole > LONGEST {
            return Err(NO_LINE_END);
        }
        return missing(bytes, whole).ok_or(NO_LINE_END);
    };
    // "The receiver must not tolerate a single CR or LF character to end the line when a complete
    // CRLF sequence is expected."
    let (line, end) = bytes.split_at(length);
    let whole = length + LINE_END.len();
    if !LINE_END.starts_with(end.get(..LINE_END.len()).unwrap_or(end)) {
        return Err(ProxyFault::Malformed("a byte that is not text, or half a line end"));
    }
    if whole > LONGEST {
        return Err(NO_LINE_END);
    }
    if let Some(missing) = missing(bytes, whole) {
        return Ok(missing);
    }
    let addresses = addresses(std::str::from_utf8(line).unwrap_or_default())?;
    let header = ProxyHeader { addresses, ..ProxyHeader::default() };
    Ok(HeaderProgress::Whole { header, length: whole })
}

/// Reads the line without its end. Exactly one space separates two fields.
fn addresses(line: &str) -> Result<Option<ProxiedAddresses>, ProxyFault> {
    let mut fields = line.split(' ').skip(1);
    let family = fields.next().unwrap_or_default();
    // "SHOULD accept the connection and use the real connection's parameters": the rest of this
    // line has no meaning.
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let fields: Vec<&str> = fields.collect();
    let &[source, destination, source_port, destination_port] = fields.as_slice() else {
        return Err(ProxyFault::Malformed("a line has two addresses and two ports"));
    };
    let address: fn(&str) -> Option<IpAddr> = match family {
        "TCP4" => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(ProxyFault::Malformed("the family is not TCP4, TCP6 or UNKNOWN")),
    };
    let end = |text, port_text| {
        let address = address(text).ok_or(ProxyFault::Malformed("not an address of its family"))?;
        let port = port(port_text).ok_or(ProxyFault::Malformed("not a port"))?;
        Ok(SocketAddr::new(address, port))
    };
    let (source, destination) = (end(source, source_port)?, end(destination, destination_port)?);
    Ok(Some(ProxiedAddresses { source, destination }))
}

/// Reads a port. Leading zeros are not allowed: other readers take them for octal.
fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let has_zero = text.len() > 1 && text.starts_with('0');
    if is_number && !has_zero { text.parse().ok() } else { None }
}

/// Appends the line.
pub(super) fn write(addresses: Option<ProxiedAddresses>, out: &mut Vec<u8>) {
    let line = match addresses.map(|both| (both.source, both.destination)) {
        None => "UNKNOWN".to_owned(),
        Some((SocketAddr::V4(source), SocketAddr::V4(destination))) => format!(
            "TCP4 {} {} {} {}",
            source.ip(),
            destination.ip(),
            source.port(),
            destination.port()
        ),
        Some((source, destination)) => format!(
            "TCP6 {} {} {} {}",
            super::write::v6(source.ip()),
            super::write::v6(destination.ip()),
            source.port(),
            destination.port()
        ),
    };
    out.extend_from_slice(PREFIX);
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(LINE_END);
}
