//! Writes a header.

use std::net::{IpAddr, Ipv6Addr};

use super::{ProxyHeader, v1, v2};
use crate::config::ProxyVersion;

/// Returns the bytes of a header. Version 1 carries the addresses alone.
pub fn write(version: ProxyVersion, header: &ProxyHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    match version {
        ProxyVersion::V1 => v1::write(header.addresses, &mut out),
        ProxyVersion::V2 => v2::write(header, &mut out),
    }
    out
}

/// Returns the address in the form of IPv6: both addresses of a header are of one family.
pub(super) fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
