//! `mesh explain`: which packet is meant.

use std::{net::SocketAddr, str::FromStr};

use clap::Args;

use crate::{
    config::words::ProtoWord,
    control::{PacketSpec, TcpFlag},
};

#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Where the packet comes from, such as 198.51.100.7:40000 or [2001:db8::7]:40000
    #[arg(value_name = "ADDRESS:PORT")]
    pub source: SocketAddr,
    /// Where it goes to, such as 192.0.2.10:80 or 192.0.2.10:53/udp
    #[arg(value_name = "ADDRESS:PORT[/PROTOCOL]")]
    pub destination: Destination,
    /// Its TCP flags
    #[arg(long, value_delimiter = ',', default_value = "syn", value_name = "FLAGS")]
    pub flags: Vec<TcpFlag>,
    /// Connection id of a QUIC packet with a short header, hexadecimal
    #[arg(long, value_name = "HEX")]
    pub connection_id: Option<String>,
}

/// Address, port and protocol; without one it is TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    at: SocketAddr,
    protocol: ProtoWord,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (at, protocol) = match s.split_once('/') {
            None | Some((_, "tcp")) => (s.strip_suffix("/tcp").unwrap_or(s), ProtoWord::Tcp),
            Some((at, "udp")) => (at, ProtoWord::Udp),
            Some((_, other)) => return Err(format!("`{other}` is no protocol: write tcp or udp")),
        };
        let at = at.parse().map_err(|_| format!("`{at}` is no address with a port: write 192.0.2.10:80 or [2001:db8::10]:80"))?;
        Ok(Self { at, protocol })
    }
}

impl ExplainArgs {
    pub fn packet(&self) -> PacketSpec {
        let Destination { at, protocol } = self.destination;
        let flags = if protocol == ProtoWord::Tcp { self.flags.clone() } else { Vec::new() };
        PacketSpec { source: self.source, destination: at, protocol, flags, connection_id: self.connection_id.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_a_protocol() {
        let rows = [("192.0.2.10:80", ProtoWord::Tcp), ("192.0.2.10:80/tcp", ProtoWord::Tcp), ("[2001:db8::1]:53/udp", ProtoWord::Udp)];
        for (text, protocol) in rows {
            assert_eq!(text.parse::<Destination>().unwrap().protocol, protocol);
        }
        for bad in ["192.0.2.10", "192.0.2.10:80/sctp", "web:80", "192.0.2.10/udp"] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
