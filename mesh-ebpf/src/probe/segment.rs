//! What of a transport header a probe is known by.

use mesh_common::abi::probe::{Ends, ProbeFlow};

use crate::skb::Skb;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub const ECHO: [u8; 2] = [8, 128];
pub const ECHO_REPLY: [u8; 2] = [0, 129];

const RST: u64 = 4;
const ACK: u64 = 16;

/// The start of a transport header. In whole words: smaller fields the compiler would join where no verifier takes it.
#[derive(Clone, Copy)]
pub struct Segment {
    pub proto: u64,
    /// Source and destination, as they lie in the packet; of an echo its identifier, and 0.
    pub ports: [u64; 2],
    pub seq: u64,
    pub ack: u64,
    /// TCP.
    flags: u64,
}

impl Segment {
    /// `None`: nothing that a probe sends or gets. `echoes`: the types that count, of ICMP and of ICMPv6.
    #[inline(always)]
    pub fn read(skb: &Skb, proto: u8, at: u32, echoes: [u8; 2]) -> Option<Self> {
        match proto {
            TCP => {
                let ([src, dst], numbers) = (ports(skb, at)?, at + 4);
                let (seq, ack) = (skb.load::<u32>(numbers)?.to_be() as u64, skb.load::<u32>(numbers + 4)?.to_be() as u64);
                let flags = (skb.load::<u16>(numbers + 8)? >> 8) as u64;
                Some(Self { proto: TCP as u64, ports: [src, dst], seq, ack, flags })
            }
            UDP => Some(Self { proto: UDP as u64, ports: ports(skb, at)?, seq: 0, ack: 0, flags: 0 }),
            ICMP | ICMPV6 => {
                let kind = skb.load::<u16>(at)? as u8;
                let wanted = if proto == ICMP { echoes[0] } else { echoes[1] };
                let number = skb.load::<u32>(at + 4)?;
                let (id, number) = (number as u16 as u64, number.to_be() as u64);
                (kind == wanted).then_some(Self { proto: proto as u64, ports: [id, 0], seq: number, ack: number, flags: ACK })
            }
            _ => None,
        }
    }

    #[inline(always)]
    pub fn resets(&self) -> bool {
        self.proto == TCP as u64 && self.flags & RST != 0
    }

    /// It says what it answers.
    #[inline(always)]
    pub fn answers(&self) -> bool {
        self.flags & ACK != 0
    }

    /// The number by which the answer to this pulse is known.
    #[inline(always)]
    pub fn expected(&self) -> u32 {
        let seq = self.seq as u32;
        if self.proto == TCP as u64 { seq.wrapping_add(1) } else { seq }
    }

    /// The flow from `local` that this is of; `ports`: this node's first. A pulse's echo is known by its number alone.
    #[inline(always)]
    pub fn flow(&self, local: Ends, remote: Ends, ports: [u64; 2], number: u32) -> ProbeFlow {
        let ports = if number != 0 && self.proto != TCP as u64 { 0 } else { ports[0] | ports[1] << 16 };
        ProbeFlow { local, remote, ports: ports | (number as u64) << 32, proto: self.proto }
    }

    /// Where in the header the checksum over both addresses is.
    #[inline(always)]
    pub fn checksum(&self) -> Option<u32> {
        match self.proto as u8 {
            TCP => Some(16),
            UDP => Some(6),
            ICMPV6 => Some(2),
            _ => None,
        }
    }
}

#[inline(always)]
fn ports(skb: &Skb, at: u32) -> Option<[u64; 2]> {
    let both = skb.load::<u32>(at)?;
    Some([both as u16 as u64, (both >> 16) as u64])
}
