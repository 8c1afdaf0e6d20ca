//! The pure part: what routes, neighbours and interfaces say of one target.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::super::iface::Interface;

/// What is known of a target's next hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    Ready(NextHop),
    NotReady(Reason),
}

/// All that a frame to the target needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NextHop {
    pub ifindex: u32,
    pub ifname: String,
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    /// The node's address that the kernel prefers towards the target.
    pub source: IpAddr,
    /// None if the target is on the interface's own link.
    pub gateway: Option<IpAddr>,
    /// Bytes of an IP packet that the interface takes.
    pub mtu: u32,
}

/// Why packets can't be sent to a target, with the remedy in its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Not looked up yet.
    Pending,
    NoRoute(String),
    /// A route of a type that drops (blackhole, unreachable, prohibit).
    RouteDrops(&'static str),
    /// The route wraps packets (MPLS, SRv6, lightweight tunnels).
    RouteEncapsulates,
    /// The target is an address of this node.
    Local,
    /// Broadcast, multicast or unspecified.
    NotUnicast,
    /// A link-local target names no interface.
    LinkLocal,
    NoInterface(u32),
    LinkDown {
        ifname: String,
    },
    NoCarrier {
        ifname: String,
    },
    NoMac {
        ifname: String,
    },
    NoNeighbours {
        ifname: String,
    },
    NoSource {
        ifname: String,
    },
    NeighbourIncomplete {
        address: IpAddr,
        ifname: String,
    },
    NeighbourFailed {
        address: IpAddr,
        ifname: String,
    },
    /// The kernel could not be asked.
    Unknown(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => write!(f, "its next hop is being looked up"),
            Self::NoRoute(why) => write!(f, "no route to it ({why}): add a route"),
            Self::RouteDrops(kind) => write!(f, "its route is of type {kind}: replace the route"),
            Self::RouteEncapsulates => write!(f, "its route encapsulates packets, which is not supported: use a plain route"),
            Self::Local => write!(f, "it is an address of this node: a backend must be on another host"),
            Self::NotUnicast => write!(f, "it is no unicast address: correct the configuration"),
            Self::LinkLocal => write!(f, "it is link-local and names no interface: use a global or unique local address"),
            Self::NoInterface(index) => write!(f, "its route leaves by interface number {index}, which is gone"),
            Self::LinkDown { ifname } => write!(f, "interface {ifname} is down: `ip link set {ifname} up`"),
            Self::NoCarrier { ifname } => write!(f, "interface {ifname} has no carrier: check its cable or peer"),
            Self::NoMac { ifname } => write!(f, "interface {ifname} has no Ethernet address: route it through an Ethernet interface"),
            Self::NoNeighbours { ifname } => {
                write!(f, "interface {ifname} resolves no neighbours (NOARP): route it through an ordinary Ethernet interface")
            }
            Self::NoSource { ifname } => write!(f, "interface {ifname} gives no source address of its family: add one"),
            Self::NeighbourIncomplete { address, ifname } => write!(f, "waiting for {address} on {ifname} to tell its Ethernet address"),
            Self::NeighbourFailed { address, ifname } => {
                write!(f, "{address} does not answer on {ifname}: check that the host is up and on that link")
            }
            Self::Unknown(why) => write!(f, "the kernel could not be asked: {why}"),
        }
    }
}

/// A neighbour's place: interface and address.
pub type Key = (u32, IpAddr);

/// A neighbour entry of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pub state: NeighbourUse,
    pub mac: Option<[u8; 6]>,
    /// The kernel keeps it alive (NTF_EXT_MANAGED).
    pub managed: bool,
    /// It carries our mark.
    pub ours: bool,
}

/// What a neighbour's state means for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NeighbourUse {
    /// Its address may be used: reachable, stale, delay, probe.
    Valid,
    /// Its address may be used, and it is not the kernel's to change: permanent, noarp, or learned by a routing daemon.
    Fixed,
    /// Asked, no answer yet.
    Incomplete,
    Failed,
}

/// The kernel's answer to "how would you send to this target?"
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    Via { ifindex: u32, gateway: Option<IpAddr>, source: Option<IpAddr> },
    Not(Reason),
}

/// What has been seen of the kernel's tables.
#[derive(Default, Debug)]
pub struct Observed {
    pub links: BTreeMap<u32, Interface>,
    pub neighbours: BTreeMap<Key, Neighbour>,
    pub routes: BTreeMap<IpAddr, Route>,
}

impl Observed {
    /// What is known of `target` by now.
    pub fn resolve(&self, target: IpAddr) -> Resolution {
        self.next_hop(target).map_or_else(Resolution::NotReady, Resolution::Ready)
    }

    /// The neighbour that packets to `target` need, whether or not it is there.
    pub fn neighbour_key(&self, target: IpAddr) -> Option<Key> {
        let way = self.way(target).ok()?;
        Some((way.link.index, way.gateway.unwrap_or(target)))
    }

    fn next_hop(&self, target: IpAddr) -> Result<NextHop, Reason> {
        let Way { link, mac, gateway, source } = self.way(target)?;
        let address = gateway.unwrap_or(target);
        let ifname = link.name.clone();
        let dst_mac = match self.neighbours.get(&(link.index, address)) {
            Some(Neighbour { state: NeighbourUse::Valid | NeighbourUse::Fixed, mac: Some(mac), .. }) => *mac,
            Some(Neighbour { state: NeighbourUse::Failed, .. }) => return Err(Reason::NeighbourFailed { address, ifname }),
            _ => return Err(Reason::NeighbourIncomplete { address, ifname }),
        };
        let Some(source) = source else { return Err(Reason::NoSource { ifname }) };
        Ok(NextHop { ifindex: link.index, ifname, src_mac: mac, dst_mac, source, gateway, mtu: link.mtu })
    }

    fn way(&self, target: IpAddr) -> Result<Way<'_>, Reason> {
        let (ifindex, gateway, source) = match self.routes.get(&target) {
            None => return Err(Reason::Pending),
            Some(Route::Not(reason)) => return Err(reason.clone()),
            Some(Route::Via { ifindex, gateway, source }) => (*ifindex, *gateway, *source),
        };
        let link = self.links.get(&ifindex).ok_or(Reason::NoInterface(ifindex))?;
        let ifname = || link.name.clone();
        if !link.up {
            return Err(Reason::LinkDown { ifname: ifname() });
        }
        if !link.carrier {
            return Err(Reason::NoCarrier { ifname: ifname() });
        }
        let mac = link.mac.ok_or_else(|| Reason::NoMac { ifname: ifname() })?;
        if !link.resolves {
            return Err(Reason::NoNeighbours { ifname: ifname() });
        }
        Ok(Way { link, mac, gateway, source })
    }
}

/// How packets to a target leave the node, whoever takes them next.
struct Way<'a> {
    link: &'a Interface,
    mac: [u8; 6],
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1));
    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 7));

    fn observed(gateway: Option<IpAddr>) -> Observed {
        let link =
            Interface { index: 3, name: "eth0".into(), mac: Some([2, 0, 0, 0, 0, 1]), mtu: 1500, up: true, carrier: true, resolves: true };
        let neighbour = Neighbour { state: NeighbourUse::Valid, mac: Some([2, 0, 0, 0, 0, 9]), managed: true, ours: true };
        let route = Route::Via { ifindex: 3, gateway, source: Some(SOURCE) };
        Observed {
            links: [(3, link)].into(),
            neighbours: [((3, gateway.unwrap_or(TARGET)), neighbour)].into(),
            routes: [(TARGET, route)].into(),
        }
    }

    #[test]
    fn ready_on_link_and_through_a_gateway() {
        for gateway in [None, Some(GATEWAY)] {
            let o = observed(gateway);
            let Resolution::Ready(hop) = o.resolve(TARGET) else { panic!("{:?}", o.resolve(TARGET)) };
            assert_eq!((hop.ifindex, hop.dst_mac, hop.source, hop.gateway), (3, [2, 0, 0, 0, 0, 9], SOURCE, gateway));
            assert_eq!(o.neighbour_key(TARGET), Some((3, gateway.unwrap_or(TARGET))));
        }
    }

    #[test]
    fn every_missing_piece_has_its_reason() {
        type Break = fn(&mut Observed);
        let rows: [(Break, Reason); 10] = [
            (|o| o.routes.clear(), Reason::Pending),
            (|o| _ = o.routes.insert(TARGET, Route::Not(Reason::Local)), Reason::Local),
            (|o| o.links.clear(), Reason::NoInterface(3)),
            (|o| link(o).up = false, Reason::LinkDown { ifname: "eth0".into() }),
            (|o| link(o).carrier = false, Reason::NoCarrier { ifname: "eth0".into() }),
            (|o| link(o).mac = None, Reason::NoMac { ifname: "eth0".into() }),
            (|o| link(o).resolves = false, Reason::NoNeighbours { ifname: "eth0".into() }),
            (|o| o.neighbours.clear(), Reason::NeighbourIncomplete { address: TARGET, ifname: "eth0".into() }),
            (|o| neighbour(o).state = NeighbourUse::Failed, Reason::NeighbourFailed { address: TARGET, ifname: "eth0".into() }),
            (
                |o| _ = o.routes.insert(TARGET, Route::Via { ifindex: 3, gateway: None, source: None }),
                Reason::NoSource { ifname: "eth0".into() },
            ),
        ];
        for (break_it, reason) in rows {
            let mut o = observed(None);
            break_it(&mut o);
            assert_eq!(o.resolve(TARGET), Resolution::NotReady(reason));
        }
    }

    fn link(o: &mut Observed) -> &mut Interface {
        o.links.get_mut(&3).expect("made above")
    }

    fn neighbour(o: &mut Observed) -> &mut Neighbour {
        o.neighbours.get_mut(&(3, TARGET)).expect("made above")
    }
}
