//! Interfaces as the kernel describes them.

use rtnetlink::{
    Handle,
    packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
};

use super::{NetError, answers, connect};

/// One network interface of the daemon's namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// The Ethernet address; none on devices that have no Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// Octets of layer 3.
    pub mtu: u32,
    /// The operator wants it up (IFF_UP).
    pub up: bool,
    /// There is a peer (IFF_LOWER_UP).
    pub carrier: bool,
    /// Neighbours can be asked for their address; not so on point-to-point and dummy devices (IFF_NOARP).
    pub resolves: bool,
}

impl Interface {
    /// Packets can leave here.
    pub fn is_running(&self) -> bool {
        self.up && self.carrier
    }

    /// None for messages that describe no interface in full (wireless events, ports of a bridge).
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        let flags = message.header.flags;
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        let (mut name, mut mac, mut mtu) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(n) => name = Some(n.clone()),
                LinkAttribute::Address(a) => mac = <[u8; 6]>::try_from(a.as_slice()).ok(),
                LinkAttribute::Mtu(m) => mtu = Some(*m),
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            name: name?,
            mac: mac.filter(|mac| ethernet && *mac != [0; 6]),
            mtu: mtu?,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            resolves: !flags.contains(LinkFlags::Noarp),
        })
    }
}

/// Looks interfaces up.
#[derive(Clone, Debug)]
pub struct Interfaces(Handle);

impl Interfaces {
    /// Opens a netlink socket in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open() -> Result<Self, NetError> {
        Ok(Self(connect()?))
    }

    pub(super) fn with(handle: &Handle) -> Self {
        Self(handle.clone())
    }

    /// The interface of that name; [`NetError::NoSuchInterface`] if there is none.
    pub async fn by_name(&self, name: &str) -> Result<Interface, NetError> {
        let none = || NetError::NoSuchInterface(name.to_owned());
        // IFNAMSIZ, with its closing zero: longer names are refused with an error that names nothing.
        if name.is_empty() || name.len() > 15 {
            return Err(none());
        }
        let what = format!("look interface `{name}` up");
        let found = answers(&what, self.0.link().get().match_name(name).execute()).await;
        first(found)?.ok_or_else(none)
    }

    /// The interface with that index; [`NetError::NoSuchInterface`] if there is none.
    pub async fn by_index(&self, index: u32) -> Result<Interface, NetError> {
        let what = format!("look interface number {index} up");
        let found = answers(&what, self.0.link().get().match_index(index).execute()).await;
        first(found)?.ok_or_else(|| NetError::NoSuchInterface(format!("number {index}")))
    }

    /// All interfaces, by index.
    pub async fn list(&self) -> Result<Vec<Interface>, NetError> {
        let messages = answers("list the interfaces", self.0.link().get().execute()).await?;
        Ok(messages.iter().filter_map(Interface::from_message).collect())
    }
}

fn first(found: Result<Vec<LinkMessage>, NetError>) -> Result<Option<Interface>, NetError> {
    match found {
        Ok(messages) => Ok(messages.first().and_then(Interface::from_message)),
        Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}
