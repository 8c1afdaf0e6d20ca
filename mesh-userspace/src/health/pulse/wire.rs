use std::net::IpAddr;

/// TCP header with the one option that every SYN has: the largest segment.
pub const SYN: usize = 24;
/// Header and eight bytes of data.
pub const ECHO: usize = 16;

const FLAGS_SYN: u8 = 0x02;
const FLAGS_RST: u8 = 0x04;
const FLAGS_ACK: u8 = 0x10;

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Who was asked.
    pub host: IpAddr,
    /// Port that was asked; `None` = an echo.
    pub port: Option<u16>,
    pub number: u32,
    pub said: Said,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    Yes,
    Refused,
    Unreachable,
}

/// A SYN (RFC 9293 section 3.1) whose sequence number is `number`.
pub fn syn(source: IpAddr, target: IpAddr, ports: (u16, u16), number: u32) -> [u8; SYN] {
    let mut p = [0; SYN];
    p[0..2].copy_from_slice(&ports.0.to_be_bytes());
    p[2..4].copy_from_slice(&ports.1.to_be_bytes());
    p[4..8].copy_from_slice(&number.to_be_bytes());
    p[12] = (SYN as u8 / 4) << 4;
    p[13] = FLAGS_SYN;
    p[14..16].copy_from_slice(&1024u16.to_be_bytes());
    p[20..24].copy_from_slice(&[2, 4, 0x05, 0xb4]);
    let pseudo = octets(source).chain(octets(target)).chain([0, 6, 0, SYN as u8]);
    let sum = checksum(pseudo.chain(p));
    p[16..18].copy_from_slice(&sum.to_be_bytes());
    p
}

/// An echo request (RFC 792, RFC 4443 section 4.1); the number is in its data, because identifiers are few.
pub fn echo(v6: bool, number: u32) -> [u8; ECHO] {
    let mut p = [0; ECHO];
    p[0] = if v6 { 128 } else { 8 };
    p[4..8].copy_from_slice(&number.to_be_bytes());
    p[8..16].copy_from_slice(&data(number));
    // For ICMPv6 the kernel replaces it.
    let sum = checksum(p);
    p[2..4].copy_from_slice(&sum.to_be_bytes());
    p
}

/// A segment that came from `host` to one of `ports`.
pub fn read_segment(host: IpAddr, p: &[u8], ports: &[u16]) -> Option<Answer> {
    let (from, to) = (be16(p, 0)?, be16(p, 2)?);
    let flags = *p.get(13)?;
    if !ports.contains(&to) || flags & FLAGS_ACK == 0 {
        return None;
    }
    let said = match flags & (FLAGS_SYN | FLAGS_RST) {
        FLAGS_SYN => Said::Yes,
        FLAGS_RST => Said::Refused,
        _ => return None,
    };
    Some(Answer { host, port: Some(from), number: be32(p, 8)?.wrapping_sub(1), said })
}

/// An ICMP message that came from `host`: an answer to an echo, or a router's word about a SYN or an echo of ours.
pub fn read_icmp(host: IpAddr, p: &[u8], ports: &[u16]) -> Option<Answer> {
    let v6 = host.is_ipv6();
    let (reply, unreachable) = if v6 { (129, 1) } else { (0, 3) };
    let kind = *p.first()?;
    if kind == reply {
        let number = be32(p, 4)?;
        return (p.get(8..16)? == data(number)).then_some(Answer { host, port: None, number, said: Said::Yes });
    }
    if kind != unreachable {
        return None;
    }
    let (target, protocol, inner) = quoted(v6, p.get(8..)?)?;
    // Port unreachable comes from the target itself.
    match protocol {
        6 if ports.contains(&be16(inner, 0)?) => {
            Some(Answer { host: target, port: Some(be16(inner, 2)?), number: be32(inner, 4)?, said: Said::Unreachable })
        }
        1 | 58 => Some(Answer { host: target, port: None, number: be32(inner, 4)?, said: Said::Unreachable }),
        _ => None,
    }
}

/// The packet in an ICMP error: where it went, its protocol and what follows its IP header.
fn quoted(v6: bool, p: &[u8]) -> Option<(IpAddr, u8, &[u8])> {
    if v6 {
        let target: [u8; 16] = p.get(24..40)?.try_into().ok()?;
        Some((target.into(), *p.get(6)?, p.get(40..)?))
    } else {
        let header = usize::from(p.first()? & 15) * 4;
        let target: [u8; 4] = p.get(16..20)?.try_into().ok()?;
        Some((target.into(), *p.get(9)?, p.get(header..)?))
    }
}

fn data(number: u32) -> [u8; 8] {
    let mut data = *b"mesh\0\0\0\0";
    data[4..].copy_from_slice(&(!number).to_be_bytes());
    data
}

fn octets(addr: IpAddr) -> impl Iterator<Item = u8> {
    let (bytes, length) = match addr {
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            (bytes, 4)
        }
        IpAddr::V6(a) => (a.octets(), 16),
    };
    bytes.into_iter().take(length)
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: impl IntoIterator<Item = u8>) -> u16 {
    let sum: u32 = bytes.into_iter().enumerate().map(|(i, b)| if i % 2 == 0 { u32::from(b) << 8 } else { u32::from(b) }).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

fn be16(p: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(p.get(at..at + 2)?.try_into().ok()?))
}

fn be32(p: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(p.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn packets_are_as_others_read_them() {
        let p = syn(A, B, (40_000, 80), 0x0102_0304);
        let (header, rest) = etherparse::TcpHeader::from_slice(&p).unwrap();
        assert!(header.syn && !header.ack && rest.is_empty());
        assert_eq!((header.source_port, header.destination_port, header.sequence_number), (40_000, 80, 0x0102_0304));
        let (IpAddr::V4(a), IpAddr::V4(b)) = (A, B) else { panic!() };
        assert_eq!(header.checksum, header.calc_checksum_ipv4_raw(a.octets(), b.octets(), &[]).unwrap());
        let (a6, b6): (std::net::Ipv6Addr, std::net::Ipv6Addr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let (header, _) = etherparse::TcpHeader::from_slice(&syn(a6.into(), b6.into(), (1, 2), 3)).map(|(h, r)| (h, r.len())).unwrap();
        assert_eq!(header.checksum, header.calc_checksum_ipv6_raw(a6.octets(), b6.octets(), &[]).unwrap());
        assert_eq!(checksum(echo(false, 77)), 0);
    }

    fn segment(flags: u8, ack: u32) -> Vec<u8> {
        let mut p = syn(B, A, (80, 40_000), 99).to_vec();
        p[13] = flags;
        p[8..12].copy_from_slice(&ack.to_be_bytes());
        p
    }

    #[test]
    fn answers_to_syns() {
        let read = |p: &[u8]| read_segment(B, p, &[39_999, 40_000]);
        let yes = Answer { host: B, port: Some(80), number: 4, said: Said::Yes };
        assert_eq!(read(&segment(0x12, 5)), Some(yes));
        assert_eq!(read(&segment(0x14, 5)), Some(Answer { said: Said::Refused, ..yes }));
        assert_eq!(read(&segment(0x12, 0)), Some(Answer { number: u32::MAX, ..yes }));
        for other in [0x02, 0x10, 0x04, 0x11] {
            assert_eq!(read(&segment(other, 5)), None, "{other:#x}");
        }
        assert_eq!(read_segment(B, &segment(0x12, 5), &[1]), None);
        for end in 0..14 {
            assert_eq!(read(&segment(0x12, 5)[..end]), None);
        }
    }

    #[test]
    fn answers_to_echoes_and_words_of_routers() {
        let mut reply = echo(false, 7);
        reply[0] = 0;
        assert_eq!(read_icmp(B, &reply, &[]), Some(Answer { host: B, port: None, number: 7, said: Said::Yes }));
        reply[9] ^= 1;
        assert_eq!(read_icmp(B, &reply, &[]), None);
        assert_eq!(read_icmp(B, &echo(false, 7), &[]), None, "our own request");
        let mut ip = vec![0x45; 20];
        ip[9] = 6;
        ip[16..20].copy_from_slice(&[10, 0, 0, 2]);
        let error = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &ip, &syn(A, B, (40_000, 80), 9)[..8]].concat();
        let unreachable = Answer { host: B, port: Some(80), number: 9, said: Said::Unreachable };
        assert_eq!(read_icmp(A, &error, &[40_000]), Some(unreachable));
        assert_eq!(read_icmp(A, &error, &[40_001]), None);
        for end in 0..error.len() {
            assert_eq!(read_icmp(A, &error[..end], &[40_000]), None);
        }
    }
}
