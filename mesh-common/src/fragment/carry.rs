//! The last step: the fragment is changed as its packet's course says.

use core::mem::offset_of;

use network_types::ip::Ipv4Hdr;

use crate::{
    abi::{Fragmented, Reason},
    aside::{Cause, Outcome},
    checksum,
    flow::{V4, V6, load_address},
    fragment::{Course, Identified},
    header::TCP,
    icmp::{Icmp, put_macs},
    outline::Outline,
    packet::{Packet, u16_at, u32_at},
    patch::Patch,
    read,
    rewrite::{Edit, Encap, Macs, Network, Outer, Rewrite, checksum_offset, class_of},
    shared::Shared,
    tables::Tables,
    tunnel,
};

/// Carries out what [`Tables::course`] says, or the end that `cause` is.
#[inline(always)]
pub(crate) fn carry<A: Identified, P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, l3: usize, cause: Cause) -> Outcome {
    if cause.reason() != Reason::Forwarded {
        return Outcome::end(cause.service(), cause.reason());
    }
    let changed = change::<A, P, T>(packet, tables, l3);
    let Some(course) = tables.course() else { return Outcome::end(0, Reason::BadTable) };
    let entry = course.fragmented();
    if changed != 0 {
        return Outcome::end(read!(entry, Fragmented.service as u32), Reason::from_u8(changed as u8));
    }
    let reply = read!(entry, Fragmented.done as u8) & Fragmented::REPLY != 0;
    let (stats, ifindex) = (read!(entry, Fragmented.stats as u32), read!(entry, Fragmented.ifindex as u32));
    Outcome::sent(reply, stats, ifindex, read!(course, Course.end as u32) as usize)
}

/// 0, or the [`Reason`] that the fragment ends for.
#[inline(never)]
fn change<A: Identified, P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, l3: usize) -> u32 {
    let Some(course) = tables.course() else { return Reason::BadTable as u32 };
    let entry = course.fragmented();
    let done = read!(entry, Fragmented.done as u8);
    if done & (Fragmented::OUTER_V4 | Fragmented::OUTER_V6) != 0 {
        return wrap::<A, P>(packet, course, l3) as u32;
    }
    if done & Fragmented::TRANSLATED != 0 {
        let Some(ip) = A::outline(packet, l3) else { return Reason::Malformed as u32 };
        if ip.ttl <= 1 {
            return Reason::TtlExceeded as u32;
        }
        if translate(packet, course, &ip).is_none() {
            return Reason::Malformed as u32;
        }
    }
    if put_macs(packet, macs(entry)).is_some() { 0 } else { Reason::Malformed as u32 }
}

#[inline(always)]
fn macs(entry: Shared<'_, Fragmented>) -> Macs {
    Macs { dst: read!(entry, Fragmented.to_mac as u64), src: read!(entry, Fragmented.from_mac as u64) }
}

/// Addresses and identification; the first fragment has ports and a checksum as well, which covers all of the packet and is brought up to date by what changed.
#[inline(always)]
fn translate<A: Identified, P: Patch>(packet: &mut P, course: Shared<'_, Course>, ip: &Outline<A>) -> Option<()> {
    let entry = course.fragmented();
    let (src, dst) = (load_address!(A, entry, Fragmented.new_src), load_address!(A, entry, Fragmented.new_dst));
    let delta = A::readdress(packet, ip.l3, src, dst, ip.ttl - 1)?.addresses;
    A::identify(packet, ip, read!(entry, Fragmented.new_id as u32))?;
    if ip.piece.later {
        return Some(());
    }
    let new = read!(course, Course.new_ports as u32);
    let delta = delta + checksum::replaced(u32_at::<0, _>(packet.at::<4>(ip.l4)?), new);
    let tcp = ip.proto == TCP;
    let at = ip.l4 + if tcp { checksum_offset(true) } else { checksum_offset(false) };
    let old = u16_at::<0, _>(packet.at::<2>(at)?);
    let check = if tcp { checksum::apply(old, delta) } else { checksum::apply_udp(old, delta) };
    (packet.patch(ip.l4, new.to_ne_bytes()) && packet.patch(at, check.to_ne_bytes())).then_some(())
}

/// Puts the outer header in front. 0, or a reason.
#[inline(always)]
pub(crate) fn wrap<A: Icmp, P: Patch + Rewrite>(packet: &mut P, course: Shared<'_, Course>, l3: usize) -> u8 {
    let entry = course.fragmented();
    let done = read!(entry, Fragmented.done as u8);
    let (gue, v6) = (done & Fragmented::GUE != 0, done & Fragmented::OUTER_V6 != 0);
    let (len, mtu) = (read!(course, Course.len as u32) as usize, read!(entry, Fragmented.mtu as u16) as usize);
    let room = tunnel::room(v6, gue);
    if len + room > if mtu == 0 { u16::MAX as usize } else { mtu } {
        return Reason::TooBig as u8;
    }
    let Some(class) = packet.at::<4>(l3).map(|ip| class_of(A::FAMILY, ip)) else { return Reason::Malformed as u8 };
    let label = read!(entry, Fragmented.new_id as u32);
    let udp = if gue { Some(read!(entry, Fragmented.port as u16)) } else { None };
    let encap = |outer| Encap { outer, l3, len: len as u16, class, inner: A::FAMILY, udp, label };
    let rewritten = if v6 {
        let (src, dst) = (load_address!(V6, entry, Fragmented.new_src), load_address!(V6, entry, Fragmented.new_dst));
        packet.rewrite(room, || Edit { macs: macs(entry), network: Network::Encap(encap(Outer::V6 { src, dst, hop: None })) })
    } else {
        let (src, dst) = (load_address!(V4, entry, Fragmented.new_src), load_address!(V4, entry, Fragmented.new_dst));
        let sum = read!(entry, Fragmented.sum as u16);
        packet.rewrite(room, || Edit { macs: macs(entry), network: Network::Encap(encap(Outer::V4 { src, dst, sum, hop: None })) })
    };
    if rewritten { 0 } else { Reason::Malformed as u8 }
}

impl Identified for V4 {
    #[inline(always)]
    fn identification<P: Packet>(packet: &P, ip: &Outline<Self>) -> Option<u32> {
        Some(u16_at::<{ offset_of!(Ipv4Hdr, id) }, _>(packet.at::<{ Ipv4Hdr::LEN }>(ip.l3)?) as u32)
    }

    #[inline(always)]
    fn identify<P: Patch>(packet: &mut P, ip: &Outline<Self>, id: u32) -> Option<()> {
        const CHECK: usize = offset_of!(Ipv4Hdr, check);
        let header = packet.at::<{ Ipv4Hdr::LEN }>(ip.l3)?;
        let (old, new) = (u16_at::<{ offset_of!(Ipv4Hdr, id) }, _>(header), id as u16);
        let check = checksum::apply(u16_at::<CHECK, _>(header), (!old) as u64 + new as u64);
        (packet.patch(ip.l3 + offset_of!(Ipv4Hdr, id), new.to_ne_bytes()) && packet.patch(ip.l3 + CHECK, check.to_ne_bytes())).then_some(())
    }
}

/// RFC 8200 section 4.5: next header, reserved, offset and flags, then four bytes of identification.
impl Identified for V6 {
    #[inline(always)]
    fn identification<P: Packet>(packet: &P, ip: &Outline<Self>) -> Option<u32> {
        Some(u32_at::<4, _>(packet.at::<8>(ip.fragment)?))
    }

    #[inline(always)]
    fn identify<P: Patch>(packet: &mut P, ip: &Outline<Self>, id: u32) -> Option<()> {
        packet.patch(ip.fragment + 4, id.to_ne_bytes()).then_some(())
    }
}
