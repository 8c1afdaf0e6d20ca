//! VIPs as addresses of an interface, so that clients' packets arrive.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo},
    },
};
use tokio::time::sleep;

use super::{
    NetError, OWNER, answers, connect,
    gratuitous::Teller,
    iface::{Interface, Interfaces},
    order,
};

/// A new VIP is told this many times in all, MAX_NEIGHBOR_ADVERTISEMENT of RFC 4861 section 10: frames get lost.
const TELLINGS: u32 = 3;
/// RETRANS_TIMER of the same section.
const PAUSE: Duration = Duration::from_secs(1);

/// How an address came to be on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announced {
    /// Added now.
    Added,
    /// Added before, by this daemon or an earlier life of it.
    Kept,
    /// It was there already, by others: it is never removed.
    Foreign,
}

/// An address on an interface.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Address {
    pub ifindex: u32,
    pub addr: IpAddr,
    /// How many of its bits name the network that it is on.
    pub bits: u8,
    /// It was added by a daemon of this project.
    pub ours: bool,
}

/// Adds and removes VIPs. Ours carry the mark [`OWNER`] in the kernel, so nothing has to be remembered across restarts.
#[derive(Clone, Debug)]
pub struct Announcer {
    handle: Handle,
    interfaces: Interfaces,
    teller: Arc<Teller>,
    owner: u8,
}

impl Announcer {
    /// Opens its sockets in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open() -> Result<Self, NetError> {
        Self::with(Teller::open())
    }

    /// The same, where the socket that tells the link was opened before.
    pub fn with(teller: Teller) -> Result<Self, NetError> {
        Self::new(teller, OWNER)
    }

    /// The same for another owner than the balancer, whose addresses carry another mark.
    pub fn of(owner: u8) -> Result<Self, NetError> {
        Self::new(Teller::open(), owner)
    }

    fn new(teller: Teller, owner: u8) -> Result<Self, NetError> {
        let handle = connect()?;
        let interfaces = Interfaces::with(&handle);
        Ok(Self { handle, interfaces, teller: Arc::new(teller), owner })
    }

    /// Makes `vip` an address of `interface`. One that was not there is told to the link, at once and twice more (see [`Self::advertise`]);
    /// a loopback or point-to-point device has nobody to tell.
    pub async fn add(&self, vip: IpAddr, interface: &str) -> Result<Announced, NetError> {
        let interface = self.interfaces.by_name(interface).await?;
        if let Some(present) = self.find(vip, interface.index).await? {
            return Ok(if present.ours { Announced::Kept } else { Announced::Foreign });
        }
        let what = format!("add {vip} to interface {}", interface.name);
        let mut request = self.handle.address().add(interface.index, vip, full(vip));
        *request.message_mut() = self.message(vip, &interface);
        match order(&what, request.execute()).await {
            // Somebody else was faster.
            Err(e) if e.errno() == Some(libc::EEXIST) => return Ok(Announced::Foreign),
            other => other?,
        }
        if interface.mac.is_some() {
            match tell(&self.teller, vip, &interface) {
                Ok(()) => drop(tokio::spawn(self.clone().repeat(vip, interface))),
                Err(e) => log::warn!("{e}: neighbours that knew another owner of {vip} may take a while to notice"),
            }
        }
        Ok(Announced::Added)
    }

    /// Takes `vip` from `interface` if it is ours; true if it was.
    pub async fn remove(&self, vip: IpAddr, interface: &str) -> Result<bool, NetError> {
        let interface = self.interfaces.by_name(interface).await?;
        match self.find(vip, interface.index).await? {
            Some(address) if address.ours => self.delete(&address).await,
            _ => Ok(false),
        }
    }

    /// Tells the link once more who owns `vip`: gratuitous ARP, or an unsolicited neighbour advertisement.
    ///
    /// The kernel's own `arp_notify` and `ndisc_notify` are no substitute: they speak when a link comes up or changes its MAC, not when an
    /// address is added, and in a container their files are read-only.
    pub async fn advertise(&self, vip: IpAddr, interface: &str) -> Result<(), NetError> {
        tell(&self.teller, vip, &self.interfaces.by_name(interface).await?)
    }

    async fn repeat(self, vip: IpAddr, interface: Interface) {
        for _ in 1..TELLINGS {
            sleep(PAUSE).await;
            // It may have been removed, or moved to another node.
            match self.find(vip, interface.index).await {
                Ok(Some(_)) => {}
                _ => return,
            }
            if let Err(e) = tell(&self.teller, vip, &interface) {
                log::warn!("{e}: {vip} is not announced once more");
            }
        }
    }

    /// All addresses of the namespace, with those that are ours marked.
    pub async fn list(&self) -> Result<Vec<Address>, NetError> {
        let messages = answers("list the addresses", self.handle.address().get().execute()).await?;
        Ok(messages.iter().filter_map(|m| address(m, self.owner)).collect())
    }

    /// Removes every address that is ours, and says how many there were: for `detach`.
    pub async fn remove_all(&self) -> Result<usize, NetError> {
        let mut removed = 0;
        for address in self.list().await?.iter().filter(|a| a.ours) {
            removed += usize::from(self.delete(address).await?);
        }
        Ok(removed)
    }

    async fn find(&self, vip: IpAddr, ifindex: u32) -> Result<Option<Address>, NetError> {
        Ok(self.list().await?.into_iter().find(|a| a.addr == vip && a.ifindex == ifindex))
    }

    async fn delete(&self, address: &Address) -> Result<bool, NetError> {
        let what = format!("remove {} from interface number {}", address.addr, address.ifindex);
        match order(&what, self.handle.address().del(key(address.addr, address.ifindex)).execute()).await {
            Ok(()) => Ok(true),
            Err(e) if e.errno() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn tell(teller: &Teller, vip: IpAddr, interface: &Interface) -> Result<(), NetError> {
    let Some(mac) = interface.mac else { return Err(NetError::NotEthernet(interface.name.clone())) };
    teller.send(vip, interface.index, mac).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => NetError::NotPermitted { what: format!("send a frame on {}", interface.name), capability: "CAP_NET_RAW" },
        _ => NetError::Kernel { what: format!("send a frame on {}", interface.name), source },
    })
}

const fn full(vip: IpAddr) -> u8 {
    if vip.is_ipv4() { 32 } else { 128 }
}

impl Announcer {
    fn message(&self, vip: IpAddr, interface: &Interface) -> AddressMessage {
        let mut message = key(vip, interface.index);
        // On loopback nobody else can reach it, and connections of the node's own don't start from it.
        message.header.scope = if interface.name == "lo" { AddressScope::Host } else { AddressScope::Universe };
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(self.owner)));
        // The balancer alone decides who owns a VIP: waiting for duplicates would only delay a failover.
        let flags = if vip.is_ipv4() { AddressFlags::Noprefixroute } else { AddressFlags::Noprefixroute | AddressFlags::Nodad };
        message.attributes.push(AddressAttribute::Flags(flags));
        if vip.is_ipv6() {
            // Never preferred, so that the node's own connections don't start from a VIP.
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        message
    }
}

/// What an address is found by.
fn key(vip: IpAddr, ifindex: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if vip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = full(vip);
    message.header.index = ifindex;
    message.attributes = vec![AddressAttribute::Local(vip), AddressAttribute::Address(vip)];
    message
}

fn address(message: &AddressMessage, owner: u8) -> Option<Address> {
    let (mut local, mut address, mut ours) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => address = Some(*a),
            AddressAttribute::Protocol(protocol) => ours = *protocol == AddressProtocol::Other(owner),
            _ => {}
        }
    }
    // On point-to-point links the second one is the peer's.
    Some(Address { ifindex: message.header.index, addr: local.or(address)?, bits: message.header.prefix_len, ours })
}
