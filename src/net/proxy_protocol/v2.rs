//! Version 2: sixteen bytes, the addresses, and extensions (TLVs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::crc32c::checksum;
use super::read::{HeaderProgress, check_start, missing};
use super::{ClientTls, MOST_BYTES, ProxiedAddresses, ProxyFault, ProxyHeader, host_name};
use crate::config::TlsVersion;

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and the length of the rest.
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_4: u8 = 0x11;
const UDP_4: u8 = 0x12;
const TCP_6: u8 = 0x21;
const UDP_6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;

const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
/// The client is connected over TLS.
const CLIENT_SSL: u8 = 0x01;
/// The result of a verification that did not happen: the field is zero only for a verified
/// certificate.
const NOT_VERIFIED: u32 = 1;
const VERSIONS: [(&[u8], TlsVersion); 2] =
    [(b"TLSv1.2", TlsVersion::Tls12), (b"TLSv1.3", TlsVersion::Tls13)];

pub(super) fn read(bytes: &[u8]) -> Result<HeaderProgress, ProxyFault> {
    check_start(bytes, SIGNATURE)?;
    let command = bytes.get(SIGNATURE.len()).copied();
    if command.is_some_and(|command| command != LOCAL && command != PROXY) {
        return Err(ProxyFault::Malformed("not version 2, or an unknown command"));
    }
    let Some(&[.., command, family, high, low]) = bytes.first_chunk::<FIXED>() else {
        return missing(bytes, FIXED).ok_or(ProxyFault::NotProxy);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MOST_BYTES {
        return Err(ProxyFault::TooLarge);
    }
    if let Some(missing) = missing(bytes, length) {
        return Ok(missing);
    }
    let whole = bytes.split_at(length).0;
    // "The receiver must accept this connection as valid and must use the real connection
    // endpoints and discard the protocol block including the family which is ignored."
    let header = if command == LOCAL { ProxyHeader::default() } else { proxied(whole, family)? };
    Ok(HeaderProgress::Whole { header, length })
}

/// Reads the header of a connection of another client.
fn proxied(whole: &[u8], family: u8) -> Result<ProxyHeader, ProxyFault> {
    if family >> 4 > 3 || family & 0x0f > 2 {
        return Err(ProxyFault::Malformed("an unknown family or transport"));
    }
    let block = whole.split_at(FIXED).1;
    let short = ProxyFault::Malformed("shorter than its addresses");
    let (addresses, tlvs) = match family {
        TCP_4 => {
            let (addresses, tlvs) = block.split_at_checked(12).ok_or(short)?;
            (Some(ends::<4>(addresses).ok_or(short)?), tlvs)
        }
        TCP_6 => {
            let (addresses, tlvs) = block.split_at_checked(36).ok_or(short)?;
            (Some(ends::<16>(addresses).ok_or(short)?), tlvs)
        }
        UDP_4 => (None, block.split_at_checked(12).ok_or(short)?.1),
        UDP_6 => (None, block.split_at_checked(36).ok_or(short)?.1),
        UNIX_STREAM | UNIX_DATAGRAM => (None, block.split_at_checked(216).ok_or(short)?.1),
        // "The receiver should ignore address information": where it ends is not known.
        _ => return Ok(ProxyHeader::default()),
    };
    let mut header = ProxyHeader { addresses, ..ProxyHeader::default() };
    take_tlvs(whole, tlvs, &mut header)?;
    Ok(header)
}

/// Reads two addresses and two ports.
fn ends<const N: usize>(bytes: &[u8]) -> Option<ProxiedAddresses>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let destination_port = rest.first_chunk::<2>()?;
    let end = |address: &[u8; N], port: &[u8; 2]| {
        SocketAddr::new((*address).into(), u16::from_be_bytes(*port))
    };
    Some(ProxiedAddresses {
        source: end(source, source_port),
        destination: end(destination, destination_port),
    })
}

/// Takes the extensions that Usher knows. None of them is a credential. Two of a kind are refused:
/// which one counted would be left to chance.
fn take_tlvs(whole: &[u8], tlvs: &[u8], header: &mut ProxyHeader) -> Result<(), ProxyFault> {
    let (mut has_authority, mut has_ssl, mut has_checksum) = (false, false, false);
    let once = |has: &mut bool| {
        let is_first = !std::mem::replace(has, true);
        is_first.then_some(()).ok_or(ProxyFault::Malformed("two extensions of a kind"))
    };
    let mut rest = tlvs;
    while let Some((kind, value)) = next_tlv(&mut rest)? {
        match kind {
            AUTHORITY => {
                once(&mut has_authority)?;
                header.authority = host_name(value);
            }
            SSL => {
                once(&mut has_ssl)?;
                header.tls = client_tls(value)?;
            }
            CRC32C => {
                once(&mut has_checksum)?;
                check_sum(whole, value, rest.len())?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes the next extension off the front.
fn next_tlv<'a>(rest: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, ProxyFault> {
    if rest.is_empty() {
        return Ok(None);
    }
    let short = ProxyFault::Malformed("an extension is longer than the header");
    let (&[kind, high, low], behind) = rest.split_first_chunk::<3>().ok_or(short)?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (value, behind) = behind.split_at_checked(length).ok_or(short)?;
    *rest = behind;
    Ok(Some((kind, value)))
}

/// Checks the sum over the whole header, in which the field itself counts as zeros. `behind` bytes
/// follow the field.
fn check_sum(whole: &[u8], value: &[u8], behind: usize) -> Result<(), ProxyFault> {
    let wrong = ProxyFault::Malformed("a checksum has four bytes");
    let sum = u32::from_be_bytes(*value.first_chunk::<4>().ok_or(wrong)?);
    if value.len() != 4 {
        return Err(wrong);
    }
    let (front, tail) = whole.split_at_checked(whole.len() - behind).ok_or(wrong)?;
    let front = front.split_at_checked(front.len() - value.len()).ok_or(wrong)?.0;
    if checksum(&[front, &[0; 4], tail]) == sum { Ok(()) } else { Err(ProxyFault::Checksum) }
}

fn client_tls(value: &[u8]) -> Result<Option<ClientTls>, ProxyFault> {
    // One byte of flags, four of the verification, and extensions.
    let wrong = ProxyFault::Malformed("the extension about TLS is too short");
    let (&[flags, ..], mut rest) = value.split_first_chunk::<5>().ok_or(wrong)?;
    let mut version = None;
    while let Some((kind, value)) = next_tlv(&mut rest)? {
        if kind == SSL_VERSION {
            let known = VERSIONS.iter().find(|(name, _)| *name == value);
            version = known.map(|(_, version)| *version);
        }
    }
    Ok((flags & CLIENT_SSL != 0).then_some(ClientTls { version }))
}

/// Appends the header.
pub(super) fn write(header: &ProxyHeader, out: &mut Vec<u8>) {
    let mut block = Vec::new();
    let (command, family) = match header.addresses.map(|both| (both.source, both.destination)) {
        None => (LOCAL, UNSPECIFIED),
        Some((SocketAddr::V4(source), SocketAddr::V4(destination))) => {
            let addresses: [Ipv4Addr; 2] = [*source.ip(), *destination.ip()];
            addresses.iter().for_each(|address| block.extend_from_slice(&address.octets()));
            block.extend_from_slice(&source.port().to_be_bytes());
            block.extend_from_slice(&destination.port().to_be_bytes());
            (PROXY, TCP_4)
        }
        Some((source, destination)) => {
            let addresses: [Ipv6Addr; 2] =
                [source, destination].map(|end| super::write::v6(end.ip()));
            addresses.iter().for_each(|address| block.extend_from_slice(&address.octets()));
            block.extend_from_slice(&source.port().to_be_bytes());
            block.extend_from_slice(&destination.port().to_be_bytes());
            (PROXY, TCP_6)
        }
    };
    if command == PROXY {
        if let Some(name) = &header.authority {
            push_tlv(&mut block, AUTHORITY, name.as_bytes());
        }
        if let Some(tls) = header.tls {
            let mut value = vec![CLIENT_SSL];
            value.extend_from_slice(&NOT_VERIFIED.to_be_bytes());
            let name = VERSIONS.iter().find(|(_, version)| Some(*version) == tls.version);
            if let Some((name, _)) = name {
                push_tlv(&mut value, SSL_VERSION, name);
            }
            push_tlv(&mut block, SSL, &value);
        }
    }
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[command, family]);
    out.extend_from_slice(&length(&block));
    out.extend_from_slice(&block);
}

fn push_tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&length(value));
    out.extend_from_slice(value);
}

/// Returns the length as it is written. A name has at most 253 bytes, so every length fits.
fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes()
}
