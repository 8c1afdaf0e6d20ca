use bytemuck::{Pod, Zeroable};

/// An IPv4 or IPv6 address in network order. IPv4 takes the first four bytes, the rest is zero; the family is told by its neighbour field.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct Addr(pub [u8; 16]);

const _: () = assert!(size_of::<Addr>() == 16);

impl Addr {
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// The first four bytes, which are all of an IPv4 address.
    pub const fn v4_octets(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

/// Address family, numbered by IP version.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    V4 = 4,
    V6 = 6,
}

/// Transport protocol, numbered as in the IP header (IANA protocol numbers).
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Proto {
    Tcp = 6,
    Udp = 17,
}
