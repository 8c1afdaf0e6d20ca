//! ICMP and ICMPv6: echo requests to a VIP are answered here, and errors find who sent what they are about.
//!
//! An error quotes the packet that it is about. That one went from a VIP to a client, so the error is its backend's; or, in `nat`, it went from a
//! source address of ours to a backend, and the error is its client's. Whoever gets it reads addresses, ports and checksums as it knows them.

mod relay;

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

pub use relay::Relayed;

use crate::{
    abi::Reason,
    answer::error,
    aside::{Cause, Outcome},
    checksum,
    flow::{Address, V4, V6},
    nat::{Translated, received_macs},
    outline::Outlined,
    packet::{Packet, u16_at, u32_at, u64_at},
    patch::Patch,
    rewrite::{Macs, Rewrite},
    shared::in_order,
    tables::Tables,
};

/// Bytes of an ICMP header.
pub(crate) const HEADER: usize = 8;
/// TTL of what is sent from here.
pub(crate) const TTL: u8 = 64;

/// Families with their kind of ICMP.
pub(crate) trait Icmp: Translated + Outlined {
    const ECHO: u8;
    const ECHO_REPLY: u8;
    /// The checksum covers a pseudo header.
    const PSEUDO: bool;

    /// A message of this type is an error, which quotes a packet.
    fn is_error(kind: u8) -> bool;

    /// What fits, of a message that says that something did not.
    fn too_big(header: &[u8; HEADER]) -> Option<u16>;

    /// Changes the addresses and the TTL of the IP header at `l3`.
    fn readdress<P: Patch>(packet: &mut P, l3: usize, src: Self, dst: Self, ttl: u8) -> Option<Readdressed>;
}

/// What a change of addresses adds to sums.
#[derive(Clone, Copy)]
pub(crate) struct Readdressed {
    /// Below a checksum that covers the addresses by a pseudo header.
    pub addresses: u64,
    /// Below one that covers the IP header itself.
    pub header: u64,
}

impl Icmp for V4 {
    const ECHO: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const PSEUDO: bool = false;

    /// Unreachable, source quench, time exceeded, parameter problem (RFC 792).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 4 | 11 | 12)
    }

    /// "Fragmentation needed and DF set", with the next hop's MTU (RFC 1191 section 4); 0 from routers that don't know of it.
    #[inline(always)]
    fn too_big(header: &[u8; HEADER]) -> Option<u16> {
        let &[kind, code, _, _, _, _, high, low] = header;
        let mtu = u16::from_be_bytes([high, low]);
        (kind == 3 && code == 4 && mtu != 0).then_some(mtu)
    }

    #[inline(always)]
    fn readdress<P: Patch>(packet: &mut P, l3: usize, src: Self, dst: Self, ttl: u8) -> Option<Readdressed> {
        const TTL: usize = offset_of!(Ipv4Hdr, ttl);
        const CHECK: usize = offset_of!(Ipv4Hdr, check);
        const SRC: usize = offset_of!(Ipv4Hdr, src_addr);
        let ip = packet.at::<{ Ipv4Hdr::LEN }>(l3)?;
        let addresses = checksum::replaced(u32_at::<SRC, _>(ip), src.0) + checksum::replaced(u32_at::<{ SRC + 4 }, _>(ip), dst.0);
        let old = u16_at::<TTL, _>(ip);
        let [_, proto] = old.to_ne_bytes();
        let new = u16::from_ne_bytes([ttl, proto]);
        let lives = (!old) as u64 + new as u64;
        let old_check = u16_at::<CHECK, _>(ip);
        let check = checksum::apply(old_check, addresses + lives);
        let done = packet.patch(l3 + TTL, (new as u32 | (check as u32) << 16).to_ne_bytes())
            && packet.patch(l3 + SRC, (src.0 as u64 | (dst.0 as u64) << 32).to_ne_bytes());
        done.then_some(Readdressed { addresses, header: addresses + lives + (!old_check) as u64 + check as u64 })
    }
}

impl Icmp for V6 {
    const ECHO: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const PSEUDO: bool = true;

    /// "Error messages are identified as such by a zero in the high-order bit" (RFC 4443 section 2.1).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    /// RFC 4443 section 3.2. More than a packet can have is no limit.
    #[inline(always)]
    fn too_big(header: &[u8; HEADER]) -> Option<u16> {
        let &[kind, _, _, _, a, b, c, d] = header;
        (kind == 2 && a == 0 && b == 0).then_some(u16::from_be_bytes([c, d]))
    }

    #[inline(always)]
    fn readdress<P: Patch>(packet: &mut P, l3: usize, src: Self, dst: Self, ttl: u8) -> Option<Readdressed> {
        const HOPS: usize = offset_of!(Ipv6Hdr, hop_limit);
        const SRC: usize = offset_of!(Ipv6Hdr, src_addr);
        const DST: usize = offset_of!(Ipv6Hdr, dst_addr);
        let ip = packet.at::<{ Ipv6Hdr::LEN }>(l3)?;
        // Two bytes, because sums are of 16-bit words.
        let old = u16_at::<{ HOPS - 1 }, _>(ip);
        let [next, _] = old.to_ne_bytes();
        let new = u16::from_ne_bytes([next, ttl]);
        let addresses = in_order(V6([u64_at::<SRC, _>(ip), u64_at::<{ SRC + 8 }, _>(ip)]).sum::<true>() + src.sum::<false>());
        let addresses = in_order(addresses + V6([u64_at::<DST, _>(ip), u64_at::<{ DST + 8 }, _>(ip)]).sum::<true>() + dst.sum::<false>());
        let done =
            packet.patch(l3 + HOPS - 1, new.to_ne_bytes()) && packet.patch(l3 + SRC, src.addr().0) && packet.patch(l3 + DST, dst.addr().0);
        done.then_some(Readdressed { addresses, header: addresses + (!old) as u64 + new as u64 })
    }
}

/// [`arrived`]'s [`Relayed`] for what is said in place of an error about an outer packet.
#[inline(always)]
fn told<P: Patch, T: Tables>(packet: &mut P, tables: &T, l3: usize) -> bool {
    let Some((v6, inside, mtu)) = relay::inside(tables) else { return false };
    if v6 {
        error::pass_on::<V6, P, T>(packet, tables, l3, inside, mtu)
    } else {
        error::pass_on::<V4, P, T>(packet, tables, l3, inside, mtu)
    }
}

/// Goes on with the ICMP packet whose IP header is at `l3`; `ours`: it is for a VIP's address.
#[inline(always)]
pub(crate) fn arrived<A: Icmp, P: Patch + Rewrite, T: Tables>(packet: &mut P, tables: &T, l3: usize, ours: bool) -> Outcome {
    let judged = Cause::from_word(judge::<A, P, T>(packet, tables, l3, ours));
    match judged.reason() {
        Reason::EchoAnswered => Outcome::end(0, Reason::from_u8(echo::<A, P>(packet, l3) as u8)),
        Reason::TooBigTold if !told(packet, tables, l3) => Outcome::end(judged.service(), Reason::TooBig),
        reason @ (Reason::Forwarded | Reason::Replied) => match relay::change::<A, P, T>(packet, tables, l3) {
            0 => relay::sent(tables, reason == Reason::Replied),
            refused => Outcome::end(judged.service(), Reason::from_u8(refused as u8)),
        },
        reason => Outcome::end(judged.service(), reason),
    }
}

/// What is to become of an ICMP packet: a [`Cause`], as a word. It is only looked at here, so that nothing of this step is on the stack of the next one.
#[inline(never)]
fn judge<A: Icmp, P: Packet, T: Tables>(packet: &P, tables: &T, l3: usize, ours: bool) -> u64 {
    let others = Cause::new(0, if ours { Reason::Icmp } else { Reason::NotForVip });
    let Some(ip) = A::outline(packet, l3) else { return Cause::new(0, Reason::Malformed).word() };
    if ip.proto != A::ICMP || ip.piece.is_part() {
        return others.word();
    }
    let Some(&[kind, code, ..]) = packet.at::<HEADER>(ip.l4) else {
        return if ours { Cause::new(0, Reason::Malformed) } else { others }.word();
    };
    if kind == A::ECHO && code == 0 && ours {
        return Cause::new(0, if ip.src == ip.dst { Reason::Spoofed } else { Reason::EchoAnswered }).word();
    }
    if A::is_error(kind) { relay::find(packet, tables, &ip, others) } else { others }.word()
}

/// Answers an echo request; the [`Reason`] that it ends for.
#[inline(never)]
fn echo<A: Icmp, P: Patch>(packet: &mut P, l3: usize) -> u32 {
    let mut answered = || {
        let ip = A::outline(packet, l3)?;
        if ip.end < ip.l4 + HEADER || !packet.holds(ip.end) {
            return None;
        }
        let word = u32_at::<0, _>(packet.at::<HEADER>(ip.l4)?);
        let reply = u16::from_ne_bytes([A::ECHO_REPLY, 0]);
        let check = checksum::apply((word >> 16) as u16, checksum::replaced(word & 0xffff, reply as u32));
        turn_around(packet)?;
        A::readdress(packet, ip.l3, ip.dst, ip.src, TTL)?;
        packet.patch(ip.l4, (reply as u32 | (check as u32) << 16).to_ne_bytes()).then_some(())
    };
    if answered().is_some() { Reason::EchoAnswered as u32 } else { Reason::Malformed as u32 }
}

/// Swaps the Ethernet addresses.
#[inline(always)]
pub(crate) fn turn_around<P: Patch>(packet: &mut P) -> Option<()> {
    let macs = received_macs(packet.at::<12>(0)?);
    put_macs(packet, Macs { dst: macs.src, src: macs.dst })
}

#[inline(always)]
pub(crate) fn put_macs<P: Patch>(packet: &mut P, macs: Macs) -> Option<()> {
    let (first, rest) = macs.words();
    (packet.patch(0, first.to_ne_bytes()) && packet.patch(8, rest.to_ne_bytes())).then_some(())
}
