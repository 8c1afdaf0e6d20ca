//! Addresses and flows in the shape that the packet path computes with: machine words that hold the bytes as they lie in the packet.

use crate::{
    abi::{Addr, Family},
    hash,
    shared::Shared,
};

/// An address of one family; the engine is compiled once for each.
pub trait Address: Copy + PartialEq {
    const FAMILY: Family;

    fn from_addr(addr: Addr) -> Self;
    fn addr(self) -> Addr;
    /// The address that begins at byte `AT` of a shared value.
    fn load<T, const AT: usize, const NEXT: usize>(place: Shared<'_, T>) -> Self;
    fn store<T, const AT: usize, const NEXT: usize>(self, place: Shared<'_, T>);
    /// As two words, of which an IPv4 address is the first.
    fn words(self) -> [u64; 2];
    /// Hash of this address and 32 bits more, still without its last step.
    fn absorb(self, word: u64, seed: u64) -> u64;
    /// This address and 32 bits more in one word; of IPv4 nothing is lost.
    fn gather(self, word: u64) -> u64;
    /// [`Self::absorb`] of two addresses.
    fn absorb_two(a: Self, b: Self, seed: u64) -> u64;
    /// All of it, or nothing: `keep` has all bits set or none.
    fn masked(self, keep: u64) -> Self;
    /// Sum of its 32-bit words; the sum of their complements if `INVERT`. For checksums.
    fn sum<const INVERT: bool>(self) -> u64;
}

/// IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct V4(pub u32);

/// IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct V6(pub [u64; 2]);

/// Addresses and ports of a packet. `ports` holds the source port's two bytes, then the destination's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple<A> {
    pub src: A,
    pub dst: A,
    pub ports: u32,
}

/// Joins two ports, each as it lies in the packet.
#[inline(always)]
pub const fn ports(src: u16, dst: u16) -> u32 {
    src as u32 | (dst as u32) << 16
}

/// A port that is the service's or the backend's own, or else, where that is none (0), the one that the packet says.
#[inline(always)]
pub(crate) const fn either(own: u16, said: u16) -> u16 {
    if own == 0 { said } else { own }
}

impl<A> Tuple<A> {
    /// As it lies in the packet.
    #[inline(always)]
    pub const fn src_port(&self) -> u16 {
        self.ports as u16
    }

    /// As it lies in the packet.
    #[inline(always)]
    pub const fn dst_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }
}

/// A macro's shorthand for the two consts that [`Address::load`] takes: `address!(vip, Vip.addr)`.
macro_rules! load_address {
    ($a:ty, $shared:expr, $t:ident . $field:ident) => {
        <$a as $crate::flow::Address>::load::<$t, { ::core::mem::offset_of!($t, $field) }, { ::core::mem::offset_of!($t, $field) + 8 }>(
            $shared,
        )
    };
}
pub(crate) use load_address;

impl Address for V4 {
    const FAMILY: Family = Family::V4;

    #[inline(always)]
    fn from_addr(addr: Addr) -> Self {
        Self(u32::from_ne_bytes(addr.v4_octets()))
    }

    #[inline(always)]
    fn addr(self) -> Addr {
        Addr::v4(self.0.to_ne_bytes())
    }

    #[inline(always)]
    fn load<T, const AT: usize, const NEXT: usize>(place: Shared<'_, T>) -> Self {
        Self(place.load::<u32, AT>())
    }

    #[inline(always)]
    fn store<T, const AT: usize, const NEXT: usize>(self, place: Shared<'_, T>) {
        place.store::<u64, AT>(self.0 as u64);
        place.store::<u64, NEXT>(0);
    }

    #[inline(always)]
    fn words(self) -> [u64; 2] {
        [self.0 as u64, 0]
    }

    #[inline(always)]
    fn absorb(self, word: u64, seed: u64) -> u64 {
        hash::step(seed, self.0 as u64 | word << 32)
    }

    #[inline(always)]
    fn gather(self, word: u64) -> u64 {
        self.0 as u64 | word << 32
    }

    #[inline(always)]
    fn absorb_two(a: Self, b: Self, seed: u64) -> u64 {
        hash::step(seed, a.0 as u64 | (b.0 as u64) << 32)
    }

    #[inline(always)]
    fn masked(self, keep: u64) -> Self {
        Self(self.0 & keep as u32)
    }

    #[inline(always)]
    fn sum<const INVERT: bool>(self) -> u64 {
        (if INVERT { !self.0 } else { self.0 }) as u64
    }
}

impl Address for V6 {
    const FAMILY: Family = Family::V6;

    #[inline(always)]
    fn from_addr(addr: Addr) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.0;
        Self([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])])
    }

    #[inline(always)]
    fn addr(self) -> Addr {
        let [a, b, c, d, e, f, g, h] = self.0[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.0[1].to_ne_bytes();
        Addr([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    #[inline(always)]
    fn load<T, const AT: usize, const NEXT: usize>(place: Shared<'_, T>) -> Self {
        Self([place.load::<u64, AT>(), place.load::<u64, NEXT>()])
    }

    #[inline(always)]
    fn store<T, const AT: usize, const NEXT: usize>(self, place: Shared<'_, T>) {
        place.store::<u64, AT>(self.0[0]);
        place.store::<u64, NEXT>(self.0[1]);
    }

    #[inline(always)]
    fn words(self) -> [u64; 2] {
        self.0
    }

    #[inline(always)]
    fn absorb(self, word: u64, seed: u64) -> u64 {
        let [a, b] = self.0;
        hash::step(hash::step(hash::step(seed, a), b), word)
    }

    #[inline(always)]
    fn gather(self, word: u64) -> u64 {
        let [a, b] = self.0;
        hash::fold(a, b).wrapping_add(word)
    }

    #[inline(always)]
    fn absorb_two(a: Self, b: Self, seed: u64) -> u64 {
        let h = hash::step(hash::step(seed, a.0[0]), a.0[1]);
        hash::step(hash::step(h, b.0[0]), b.0[1])
    }

    #[inline(always)]
    fn masked(self, keep: u64) -> Self {
        Self(self.0.map(|word| word & keep))
    }

    #[inline(always)]
    fn sum<const INVERT: bool>(self) -> u64 {
        let [a, b] = if INVERT { [!self.0[0], !self.0[1]] } else { self.0 };
        (a & 0xffff_ffff) + (a >> 32) + (b & 0xffff_ffff) + (b >> 32)
    }
}
