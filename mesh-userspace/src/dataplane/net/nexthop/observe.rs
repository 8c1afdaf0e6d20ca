//! From netlink messages to what we keep of them.

use std::net::IpAddr;

use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::LinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType, RouteVia},
    },
};

use super::{
    super::{OWNER, iface::Interface},
    resolve::{Key, Neighbour, NeighbourUse, Observed, Reason, Route},
};

/// What an event asks of the service beyond what it has already changed in [`Observed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    Nothing,
    /// Links or neighbours have changed.
    Resolve,
    /// This neighbour is gone from the kernel.
    Forgot(Key),
    /// Routes, rules, addresses or links have changed: look the targets up anew.
    Lookup,
    /// Events were lost: read everything anew.
    Resync,
}

impl Observed {
    /// Takes an event in.
    pub fn apply(&mut self, event: NetlinkMessage<RouteNetlinkMessage>) -> Effect {
        let message = match event.payload {
            NetlinkPayload::InnerMessage(message) => message,
            NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => return Effect::Resync,
            _ => return Effect::Nothing,
        };
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(&link),
            RouteNetlinkMessage::DelLink(link) => self.gone_link(&link),
            RouteNetlinkMessage::NewNeighbour(neighbour) => self.new_neighbour(&neighbour),
            RouteNetlinkMessage::DelNeighbour(neighbour) => self.gone_neighbour(&neighbour),
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => Effect::Lookup,
            _ => Effect::Nothing,
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> Effect {
        // A bridge tells of its ports by messages of its own family.
        let Some(link) = Interface::from_message(message).filter(|_| message.header.interface_family == AddressFamily::Unspec) else {
            return Effect::Nothing;
        };
        let before = self.links.insert(link.index, link.clone());
        // The kernel takes IPv4 routes of a downed link away without a word.
        if before.as_ref() == Some(&link) { Effect::Nothing } else { Effect::Lookup }
    }

    fn gone_link(&mut self, message: &LinkMessage) -> Effect {
        if message.header.interface_family != AddressFamily::Unspec {
            return Effect::Nothing;
        }
        self.links.remove(&message.header.index);
        self.neighbours.retain(|(ifindex, _), _| *ifindex != message.header.index);
        Effect::Lookup
    }

    /// Takes one neighbour in, from a dump or an event.
    pub fn new_neighbour(&mut self, message: &NeighbourMessage) -> Effect {
        let Some((key, neighbour)) = neighbour(message) else { return Effect::Nothing };
        let before = self.neighbours.insert(key, neighbour.clone());
        if before.as_ref() == Some(&neighbour) { Effect::Nothing } else { Effect::Resolve }
    }

    fn gone_neighbour(&mut self, message: &NeighbourMessage) -> Effect {
        let Some((key, _)) = neighbour(message) else { return Effect::Nothing };
        self.neighbours.remove(&key);
        Effect::Forgot(key)
    }
}

/// Proxy entries and the tables of bridges and tunnels are no neighbours of ours.
fn neighbour(message: &NeighbourMessage) -> Option<(Key, Neighbour)> {
    let header = &message.header;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) || header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac, mut managed, mut ours) = (None, None, false, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(a) => mac = <[u8; 6]>::try_from(a.as_slice()).ok(),
            NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(protocol) => ours = *protocol == RouteProtocol::Other(OWNER),
            _ => {}
        }
    }
    let state = match header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => NeighbourUse::Fixed,
        NeighbourState::Failed => NeighbourUse::Failed,
        NeighbourState::Incomplete | NeighbourState::None => NeighbourUse::Incomplete,
        _ if header.flags.contains(NeighbourFlags::ExtLearned) => NeighbourUse::Fixed,
        _ => NeighbourUse::Valid,
    };
    Some(((header.ifindex, address?), Neighbour { state, mac, managed, ours }))
}

/// The kernel's answer for one target.
pub fn route(message: &RouteMessage) -> Route {
    let refused = match message.header.kind {
        RouteType::Unicast => None,
        RouteType::Local | RouteType::Anycast => Some(Reason::Local),
        RouteType::Broadcast | RouteType::Multicast => Some(Reason::NotUnicast),
        RouteType::BlackHole => Some(Reason::RouteDrops("blackhole")),
        RouteType::Unreachable => Some(Reason::RouteDrops("unreachable")),
        RouteType::Prohibit => Some(Reason::RouteDrops("prohibit")),
        _ => Some(Reason::RouteDrops("unknown")),
    };
    if let Some(reason) = refused {
        return Route::Not(reason);
    }
    let (mut oif, mut gateway, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(a)) => gateway = Some(IpAddr::V4(*a)),
            RouteAttribute::Via(RouteVia::Inet6(a)) => gateway = Some(IpAddr::V6(*a)),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::EncapType(_) => return Route::Not(Reason::RouteEncapsulates),
            _ => {}
        }
    }
    match oif {
        Some(ifindex) => Route::Via { ifindex, gateway, source },
        None => Route::Not(Reason::NoRoute("the kernel names no interface".to_owned())),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}
