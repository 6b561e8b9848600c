use super::*;
use crate::config::ProxyVersion::{V1, V2};

/// The example of section 2.1 of the specification, without the request behind it.
const EXAMPLE: &str = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
const SIGNATURE: &[u8] = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A";

fn addresses(source: &str, destination: &str) -> Option<ProxiedAddresses> {
    Some(ProxiedAddresses {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    })
}

fn proxied(source: &str, destination: &str) -> ProxyHeader {
    ProxyHeader { addresses: addresses(source, destination), ..ProxyHeader::default() }
}

/// Reads bytes that are exactly one header.
fn whole(bytes: &[u8]) -> Result<ProxyHeader, ProxyFault> {
    match read(bytes)? {
        HeaderProgress::Whole { header, length } => {
            assert_eq!(length, bytes.len());
            Ok(header)
        }
        HeaderProgress::Needs(missing) => panic!("{missing} bytes are missing behind {bytes:?}"),
    }
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

const V4_BLOCK: [u8; 12] = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];

/// A header of TCP over IPv4 with these extensions.
fn with_tlvs(tlvs: &[Vec<u8>]) -> Vec<u8> {
    v2(0x21, 0x11, &[&V4_BLOCK[..], &tlvs.concat()].concat())
}

#[test]
fn the_line_of_the_specification_is_read() {
    let request = format!("{EXAMPLE}GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n");
    let HeaderProgress::Whole { header, length } = read(request.as_bytes()).unwrap() else {
        panic!()
    };
    assert_eq!((header, length), (proxied("192.168.0.1:56324", "192.168.0.11:443"), 47));
}

#[test]
fn the_longest_lines_of_the_specification_are_read() {
    let most = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(line.len(), 56);
    let end = "255.255.255.255:65535";
    assert_eq!(whole(line.as_bytes()), Ok(proxied(end, end)));
    let line = format!("PROXY TCP6 {most} {most} 65535 65535\r\n");
    assert_eq!(line.len(), 104);
    let end = format!("[{most}]:65535");
    assert_eq!(whole(line.as_bytes()), Ok(proxied(&end, &end)));
    let line = format!("PROXY UNKNOWN {most} {most} 65535 65535\r\n");
    assert_eq!(line.len(), 107);
    assert_eq!(whole(line.as_bytes()), Ok(ProxyHeader::default()));
    assert_eq!(whole(b"PROXY UNKNOWN\r\n"), Ok(ProxyHeader::default()));
    let line = "PROXY TCP6 ::1 2001:db8::7 1 0\r\n";
    assert_eq!(whole(line.as_bytes()), Ok(proxied("[::1]:1", "[2001:db8::7]:0")));
}

#[test]
fn a_line_that_is_not_exactly_one_is_refused() {
    for line in [
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 7\r\n",
        "PROXY TCP4  192.168.0.1 192.168.0.11 56324 443\r\n",
        "PROXY  TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        "PROXY TCP4\t192.168.0.1 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 192.168.0.01 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 192.168.0.256 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 192.168.1 192.168.0.11 56324 443\r\n",
        "PROXY TCP4 ::1 ::1 56324 443\r\n",
        "PROXY TCP6 192.168.0.1 192.168.0.11 56324 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 056324 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 65536 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 +6324 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 -1 443\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11  443\r\n",
        "PROXY tcp4 192.168.0.1 192.168.0.11 56324 443\r\n",
        "PROXY UDP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        "PROXY UNKNOWNS ::1 ::1 1 1\r\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\n",
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\rx",
        "PROXY UNKNOWN \u{e9}\r\n",
        "PROXY UNKNOWN \0\r\n",
    ] {
        assert!(matches!(read(line.as_bytes()), Err(ProxyFault::Malformed(_))), "{line:?}");
    }
    for line in
        ["proxy TCP4 ", "PROXYTCP4", "\r\n\r\n\r\n\r\n", "GET / HTTP/1.1\r\n", "\x16\x03\x01"]
    {
        assert_eq!(read(line.as_bytes()), Err(ProxyFault::NotProxy), "{line:?}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert!(matches!(read(endless.as_bytes()), Err(ProxyFault::Malformed(_))));
    let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(too_long.len(), 108);
    assert!(matches!(read(too_long.as_bytes()), Err(ProxyFault::Malformed(_))));
}

#[test]
fn the_families_of_version_2_are_read() {
    assert_eq!(
        whole(&v2(0x21, 0x11, &V4_BLOCK)),
        Ok(proxied("192.168.0.1:56324", "192.168.0.11:443"))
    );
    let v6: Vec<u8> = (0..16).chain(16..32).chain([0x10, 0xe1, 0x00, 0x50]).collect();
    let source = "[1:203:405:607:809:a0b:c0d:e0f]:4321";
    let destination = "[1011:1213:1415:1617:1819:1a1b:1c1d:1e1f]:80";
    assert_eq!(whole(&v2(0x21, 0x21, &v6)), Ok(proxied(source, destination)));
    // "LOCAL: discard the protocol block including the family which is ignored."
    for (family, block) in [(0, &[][..]), (0x11, &V4_BLOCK), (0xff, b"any bytes")] {
        assert_eq!(whole(&v2(0x20, family, block)), Ok(ProxyHeader::default()));
    }
    // Valid, and without an address that Usher can use: "automatically falls back to the UNSPEC
    // mode".
    for (family, length) in
        [(0x00, 0), (0x00, 12), (0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)]
    {
        let header = v2(0x21, family, &vec![0; length]);
        assert_eq!(whole(&header), Ok(ProxyHeader::default()), "{family:#x}");
    }
}

#[test]
fn what_version_2_does_not_define_is_refused() {
    for (command, family, block) in [
        (0x22, 0x11, &V4_BLOCK[..]),
        (0x11, 0x11, &V4_BLOCK),
        (0x31, 0x11, &V4_BLOCK),
        (0x21, 0x41, &V4_BLOCK),
        (0x21, 0x13, &V4_BLOCK),
        (0x21, 0x11, &V4_BLOCK[..11]),
        (0x21, 0x21, &V4_BLOCK),
        (0x21, 0x31, &V4_BLOCK),
    ] {
        let header = v2(command, family, block);
        assert!(matches!(read(&header), Err(ProxyFault::Malformed(_))), "{header:?}");
    }
    // The version and the command are judged before the rest has arrived.
    assert!(read(&[SIGNATURE, &[0x22]].concat()).is_err());
    let mut signature = SIGNATURE.to_vec();
    signature[11] = b'\r';
    assert_eq!(read(&signature), Err(ProxyFault::NotProxy));
}

#[test]
fn a_header_of_version_2_has_at_most_4_kib() {
    let filler = |length: usize| with_tlvs(&[tlv(0x04, &vec![0; length - 16 - 12 - 3])]);
    assert_eq!(filler(MOST_BYTES).len(), MOST_BYTES);
    assert!(whole(&filler(MOST_BYTES)).is_ok());
    // The length field decides: none of these bytes is awaited.
    let larger = filler(MOST_BYTES + 1);
    assert_eq!(read(larger.split_at(16).0), Err(ProxyFault::TooLarge));
    assert_eq!(read(&v2(0x20, 0, &[0; 5000])), Err(ProxyFault::TooLarge));
}

#[test]
fn extensions_are_read_strictly() {
    let ssl = |flags: u8, version: &[u8]| {
        tlv(0x20, &[&[flags, 0, 0, 0, 1][..], &tlv(0x21, version), &tlv(0x22, b"admin")].concat())
    };
    let header = whole(&with_tlvs(&[
        tlv(0x01, b"http/1.1"),
        tlv(0x02, b"chat.example.com"),
        tlv(0x05, b"unique"),
        ssl(1, b"TLSv1.3"),
        tlv(0xea, b"\x01vpce-08d2bf15fac5001c9"),
    ]))
    .unwrap();
    assert_eq!(header.authority.as_deref(), Some("chat.example.com"));
    assert_eq!(header.tls, Some(ClientTls { version: Some(TlsVersion::Tls13) }));
    let tls = |tlv| whole(&with_tlvs(&[tlv])).unwrap().tls;
    assert_eq!(tls(ssl(0, b"TLSv1.3")), None);
    assert_eq!(tls(ssl(1, b"TLSv1")), Some(ClientTls { version: None }));
    // A name that no certificate can have is not passed on.
    for name in [&b"chat\r\nX-Evil: 1"[..], b"", &[b'a'; 254], "ü".as_bytes()] {
        assert_eq!(whole(&with_tlvs(&[tlv(0x02, name)])).unwrap().authority, None);
    }
    for broken in [
        vec![vec![0x02]],
        vec![vec![0x02, 0]],
        vec![vec![0x02, 0, 2, b'a']],
        vec![tlv(0x02, b"a"), tlv(0x02, b"b")],
        vec![ssl(1, b"TLSv1.3"), ssl(0, b"TLSv1.3")],
        vec![tlv(0x20, &[1, 0, 0, 0])],
        vec![tlv(0x20, &[1, 0, 0, 0, 0, 0x21, 0, 9])],
        vec![tlv(0x03, &[0; 3])],
        vec![tlv(0x03, &[0; 5])],
    ] {
        let header = with_tlvs(&broken);
        assert!(matches!(read(&header), Err(ProxyFault::Malformed(_))), "{broken:?}");
    }
}

#[test]
fn a_checksum_is_checked_where_it_is_there() {
    for (before, behind) in [(0, 0), (3, 0), (0, 5), (7, 9)] {
        let tlvs = [tlv(0x04, &vec![9; before]), tlv(0x03, &[0; 4]), tlv(0x05, &vec![8; behind])];
        let mut header = with_tlvs(&tlvs);
        let sum = crc32c::checksum(&[&header]).to_be_bytes();
        let at = 16 + 12 + 3 + before + 3;
        header[at..at + 4].copy_from_slice(&sum);
        assert_eq!(whole(&header), Ok(proxied("192.168.0.1:56324", "192.168.0.11:443")));
        for flipped in [16, 27, at, at + 3] {
            let mut wrong = header.clone();
            wrong[flipped] ^= 1;
            assert_eq!(read(&wrong), Err(ProxyFault::Checksum), "byte {flipped}");
        }
    }
}

#[test]
fn a_header_that_arrives_in_pieces_is_asked_for_and_never_more_than_it() {
    let checked = with_tlvs(&[tlv(0x02, b"chat.example.com")]);
    for header in [EXAMPLE.as_bytes(), b"PROXY UNKNOWN\r\n", &v2(0x20, 0, &[]), &checked] {
        for have in 0..header.len() {
            let HeaderProgress::Needs(missing) = read(header.split_at(have).0).unwrap() else {
                panic!("whole after {have} of {} bytes", header.len())
            };
            assert!(missing > 0 && have + missing <= header.len(), "{missing} at {have}");
        }
    }
}

#[test]
fn what_is_written_is_read_again() {
    assert_eq!(write(V1, &proxied("192.168.0.1:56324", "192.168.0.11:443")), EXAMPLE.as_bytes());
    assert_eq!(
        write(V2, &proxied("192.168.0.1:56324", "192.168.0.11:443")),
        v2(0x21, 0x11, &V4_BLOCK)
    );
    assert_eq!(write(V1, &ProxyHeader::default()), b"PROXY UNKNOWN\r\n");
    assert_eq!(write(V2, &ProxyHeader::default()), v2(0x20, 0, &[]));
    let header = ProxyHeader {
        authority: Some("chat.example.com".into()),
        tls: Some(ClientTls { version: Some(TlsVersion::Tls12) }),
        ..proxied("[2001:db8::1]:4711", "[2001:db8::2]:443")
    };
    assert_eq!(whole(&write(V2, &header)), Ok(header.clone()));
    let line = ProxyHeader { authority: None, tls: None, ..header };
    assert_eq!(whole(&write(V1, &line)), Ok(line));
    // Both addresses of a header are of one family.
    let mixed = proxied("[2001:db8::1]:0", "192.168.0.11:443");
    let mapped = proxied("[2001:db8::1]:0", "[::ffff:192.168.0.11]:443");
    for version in [V1, V2] {
        assert_eq!(whole(&write(version, &mixed)), Ok(mapped.clone()));
    }
}
