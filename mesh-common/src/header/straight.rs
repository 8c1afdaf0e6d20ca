//! Frames as nearly all are: a bare Ethernet header, IPv4 without options or IPv6 without extension headers, TCP or UDP, no fragment. Every header of theirs has
//! one place, so that a program which is compiled for them alone computes no offsets, and compares the frame's length once.

use core::mem::offset_of;

use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use super::{Headers, TCP, UDP};
use crate::{
    flow::{V4, V6},
    forward::{self, Run, Sink},
    packet::{Packet, halves_at, u16_at, u32_at, v6_at},
    tables::Tables,
};

const L3: usize = EthHdr::LEN;
const IPV4_L4: usize = L3 + Ipv4Hdr::LEN;
const IPV6_L4: usize = L3 + Ipv6Hdr::LEN;
/// Up to the end of a TCP header, whatever the packet is: a datagram that is shorter takes the other way.
const IPV4: usize = IPV4_L4 + TcpHdr::LEN;
const IPV6: usize = IPV6_L4 + TcpHdr::LEN;

/// Goes on with a frame that is straight; what is not is left to [`Sink::other`].
#[inline(always)]
pub(crate) fn straight<P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>) -> S::Done {
    let Some(frame) = run.packet.at::<IPV4>(0) else { return run.other() };
    let ether_type = u16_at::<{ offset_of!(EthHdr, ether_type) }, _>(frame);
    if ether_type == EtherType::Ipv4 as u16 {
        return ipv4(run);
    }
    if ether_type == EtherType::Ipv6 as u16 {
        return ipv6(run);
    }
    run.other()
}

#[inline(always)]
fn ipv4<P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>) -> S::Done {
    const NO_OPTIONS: u8 = 4 << 4 | 5;
    /// `flags and fragment offset | TTL | protocol`, as they lie in memory: what has to be as it is.
    const WHOLE: u32 = u32::from_ne_bytes([0x3f, 0xff, 0, 0xff]);
    const TCP_WHOLE: u32 = u32::from_ne_bytes([0, 0, 0, TCP]);
    const UDP_WHOLE: u32 = u32::from_ne_bytes([0, 0, 0, UDP]);
    let Some(frame) = run.packet.at::<IPV4>(0) else { return run.other() };
    let what = u32_at::<{ L3 + offset_of!(Ipv4Hdr, frags) }, _>(frame) & WHOLE;
    if frame[L3] != NO_OPTIONS {
        return run.other();
    }
    let dst = V4(halves_at::<{ L3 + offset_of!(Ipv4Hdr, dst_addr) }, _>(frame));
    let headers = Headers { dst, ports: halves_at::<IPV4_L4, _>(frame), proto: 0, fragment: Some(false), l3: L3, l4: IPV4_L4 };
    // Each protocol by itself, so that which one it is isn't asked again.
    match what {
        TCP_WHOLE => forward::flow(run, Headers { proto: TCP, ..headers }),
        UDP_WHOLE => forward::flow(run, Headers { proto: UDP, ..headers }),
        _ => run.other(),
    }
}

#[inline(always)]
fn ipv6<P: Packet, T: Tables, S: Sink<P, T>>(run: Run<'_, P, T, S>) -> S::Done {
    let Some(frame) = run.packet.at::<IPV6>(0) else { return run.other() };
    let proto = frame[L3 + offset_of!(Ipv6Hdr, next_hdr)];
    if frame[L3] >> 4 != 6 {
        return run.other();
    }
    let dst = V6(v6_at::<{ L3 + offset_of!(Ipv6Hdr, dst_addr) }, _>(frame));
    let headers = Headers { dst, ports: halves_at::<IPV6_L4, _>(frame), proto: 0, fragment: Some(false), l3: L3, l4: IPV6_L4 };
    match proto {
        TCP => forward::flow(run, Headers { proto: TCP, ..headers }),
        UDP => forward::flow(run, Headers { proto: UDP, ..headers }),
        _ => run.other(),
    }
}
