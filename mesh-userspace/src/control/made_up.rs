//! The packet that `mesh explain` asks about: as it is named, and as it is made up.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::error::ControlError;
use crate::config::words::ProtoWord;

/// The packet that is asked about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketSpec {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    #[serde(default = "tcp")]
    pub protocol: ProtoWord,
    /// Of TCP; without any it is a SYN.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<TcpFlag>,
    /// Connection id of a QUIC packet with a short header, hexadecimal; of UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TcpFlag {
    Fin,
    Syn,
    Rst,
    Psh,
    Ack,
}

/// Bytes of a connection id at most (RFC 9000 section 17.2).
const MOST_ID: usize = 20;

const fn tcp() -> ProtoWord {
    ProtoWord::Tcp
}

/// The packet as a client would send it: without payload but for a connection id, with checksums left out, which the balancer does not look at.
pub(super) fn frame(packet: &PacketSpec) -> Result<Vec<u8>, ControlError> {
    let l4 = match packet.protocol {
        ProtoWord::Tcp => tcp_header(packet),
        ProtoWord::Udp => datagram(packet)?,
    };
    let (number, len) = (if packet.protocol == ProtoWord::Tcp { 6 } else { 17 }, l4.len() as u16);
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02];
    match (packet.source, packet.destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + len).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, number, 0, 0]);
            frame.extend(source.ip().octets());
            frame.extend(destination.ip().octets());
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([number, 64]);
            frame.extend(source.ip().octets());
            frame.extend(destination.ip().octets());
        }
        _ => return Err(ControlError::Invalid("source and destination are of different address families".to_owned())),
    }
    frame.extend(l4);
    Ok(frame)
}

fn tcp_header(packet: &PacketSpec) -> Vec<u8> {
    let bit = |flag: &TcpFlag| match flag {
        TcpFlag::Fin => 0x01,
        TcpFlag::Syn => 0x02,
        TcpFlag::Rst => 0x04,
        TcpFlag::Psh => 0x08,
        TcpFlag::Ack => 0x10,
    };
    let flags = packet.flags.iter().map(bit).fold(0, |all, bit| all | bit);
    let mut header = [packet.source.port().to_be_bytes(), packet.destination.port().to_be_bytes()].concat();
    header.extend([0; 8]);
    header.extend([5 << 4, if flags == 0 { 0x02 } else { flags }, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn datagram(packet: &PacketSpec) -> Result<Vec<u8>, ControlError> {
    let mut payload = Vec::new();
    if let Some(text) = &packet.connection_id {
        let id = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().filter(|id| id.len() <= MOST_ID);
        let invalid = || ControlError::Invalid(format!("`{text}` is no connection id: write up to {MOST_ID} bytes as hexadecimal digits"));
        payload.push(0x40);
        payload.extend(id.ok_or_else(invalid)?);
        // What is encrypted.
        payload.extend([0; 20]);
    }
    let mut datagram = [packet.source.port().to_be_bytes(), packet.destination.port().to_be_bytes()].concat();
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    Ok(datagram)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A packet as it is asked for, without flags.
    pub fn spec(source: &str, destination: &str, protocol: ProtoWord) -> PacketSpec {
        PacketSpec {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            flags: Vec::new(),
            connection_id: None,
        }
    }

    #[test]
    fn frames_have_the_lengths_that_they_say() {
        for (source, destination, protocol, len) in [
            ("10.0.0.1:1", "10.0.0.2:2", ProtoWord::Tcp, 54),
            ("10.0.0.1:1", "10.0.0.2:2", ProtoWord::Udp, 42),
            ("[2001:db8::1]:1", "[2001:db8::2]:2", ProtoWord::Tcp, 74),
            ("[2001:db8::1]:1", "[2001:db8::2]:2", ProtoWord::Udp, 62),
        ] {
            assert_eq!(frame(&spec(source, destination, protocol)).unwrap().len(), len);
        }
        let named = |id: &str| {
            let plain = spec("10.0.0.1:1", "10.0.0.2:2", ProtoWord::Udp);
            frame(&PacketSpec { connection_id: Some(id.to_owned()), ..plain })
        };
        assert_eq!(named("0501ff").unwrap()[38..].len(), 4 + 1 + 3 + 20);
        assert_eq!(named("0501ff").unwrap()[42..46], [0x40, 5, 1, 0xff]);
        assert!(named("05x").is_err() && named(&"00".repeat(21)).is_err());
        assert!(frame(&spec("10.0.0.1:1", "[2001:db8::2]:2", ProtoWord::Tcp)).is_err());
    }
}
