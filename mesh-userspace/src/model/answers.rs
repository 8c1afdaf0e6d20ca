//! Whose an answer is: in `dnat` nothing is remembered, so the backend's address and port have to say it.

use mesh_common::abi::Vip;

use super::{BackendId, Proto, VipAddr};

/// Ports of one backend that answers of one `dnat` service come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answers {
    vip: VipAddr,
    first: u16,
    last: u16,
}

impl Answers {
    /// Ranges of ports that can stand at one backend's address, for one protocol.
    pub const RANGES: usize = Vip::RANGES.len();

    /// `ports`: of a service of several, first and last.
    pub fn of(vip: VipAddr, ports: Option<(u16, u16)>, backend: BackendId) -> Self {
        let (first, last) = ports.unwrap_or((backend.0.port(), backend.0.port()));
        Self { vip, first, last }
    }

    pub fn proto(&self) -> Proto {
        self.vip.proto
    }

    /// The service has several ports.
    pub fn are_several(&self) -> bool {
        self.vip.port == 0
    }

    /// An answer from there could be of this service or of the other one. Not if the one port is the other's own on the same VIP: the service of several
    /// ports has no packet for it then.
    pub fn collide(&self, other: &Self) -> bool {
        let meet = self.vip.proto == other.vip.proto && self.first <= other.last && other.first <= self.last;
        let own = |one: &Self, several: &Self| {
            !one.are_several() && several.are_several() && one.vip.addr == several.vip.addr && one.vip.port == one.first
        };
        meet && self.vip != other.vip && !own(self, other) && !own(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(vip: &str, port: u16, to: u16) -> Answers {
        let vip = VipAddr { addr: vip.parse().unwrap(), port, proto: Proto::Tcp };
        Answers::of(vip, None, BackendId(([10, 0, 0, 1], to).into()))
    }

    fn several(vip: &str, first: u16, last: u16) -> Answers {
        let vip = VipAddr { addr: vip.parse().unwrap(), port: 0, proto: Proto::Tcp };
        Answers::of(vip, Some((first, last)), BackendId(([10, 0, 0, 1], 0).into()))
    }

    #[test]
    fn only_what_could_be_of_either_collides() {
        let (a, b) = ("192.0.2.1", "192.0.2.2");
        let range = several(a, 8000, 8100);
        for (other, collides) in [
            (single(b, 80, 8080), true),
            (single(b, 80, 8000), true),
            (single(b, 80, 8100), true),
            (single(b, 80, 7999), false),
            (single(b, 8080, 80), false),
            (single(a, 8080, 8080), false),
            (single(a, 8080, 8081), true),
            (several(b, 8100, 8200), true),
            (several(b, 1, 65535), true),
            (several(b, 8101, 8200), false),
        ] {
            assert_eq!((range.collide(&other), other.collide(&range)), (collides, collides), "{other:?}");
        }
        assert!(single(a, 80, 8080).collide(&single(b, 80, 8080)));
        assert!(!single(a, 80, 8080).collide(&single(b, 80, 8081)));
        let udp = Answers { vip: VipAddr { proto: Proto::Udp, ..several(b, 1, 9000).vip }, ..several(b, 1, 9000) };
        assert!(!range.collide(&udp));
    }
}
