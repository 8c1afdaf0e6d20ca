//! Hosts on one Ethernet: each is a namespace with `eth0`, all joined by a bridge in a namespace of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::Result;

use super::{Namespace, link, xdp_pass};
use crate::daemon::wait_for;

/// Hosts have `10.77.0.<number>/24` ...
pub const V4_PREFIX: [u8; 3] = [10, 77, 0];
/// ... and `fd77::<number>/64`.
pub const V6_PREFIX: u16 = 0xfd77;

/// The Ethernet; ends with this value, unless it is kept.
#[derive(Debug)]
pub struct Fabric {
    group: String,
    switch: Namespace,
}

/// One host on the fabric: its interface is `eth0`.
#[derive(Debug)]
pub struct Host {
    pub ns: Namespace,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Fabric {
    pub fn new(group: &str) -> Result<Self> {
        let switch = Namespace::new(group, "switch")?;
        switch.ip("link add br0 type bridge")?;
        switch.sysctl("net/ipv6/conf/br0/disable_ipv6", "1")?;
        switch.ip("link set br0 up")?;
        Ok(Self { group: group.to_owned(), switch })
    }

    /// Joins a host called `label`; `number` (1 to 254) makes its addresses.
    pub fn host(&self, label: &str, number: u8) -> Result<Host> {
        let ns = Namespace::new(&self.group, label)?;
        let port = format!("p{number}");
        self.switch.ip(&format!("link add {port} type veth peer name eth0 netns {}", ns.name()))?;
        self.switch.sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
        self.switch.ip(&format!("link set {port} master br0 up"))?;
        self.switch.enter(|| xdp_pass::attach(nix::net::if_::if_nametoindex(port.as_str())?))??;
        let [a, b, c] = V4_PREFIX;
        let v4 = Ipv4Addr::new(a, b, c, number);
        let v6 = Ipv6Addr::new(V6_PREFIX, 0, 0, 0, 0, 0, 0, number.into());
        ns.sysctl("net/ipv6/conf/eth0/accept_dad", "0")?;
        ns.ip(&format!("address add {v4}/24 dev eth0"))?;
        ns.ip(&format!("address add {v6}/64 dev eth0 nodad"))?;
        ns.ip("link set eth0 up")?;
        ns.enter(|| link::tx_checksum_off("eth0"))??;
        Ok(Host { ns, v4, v6 })
    }

    /// The namespace of the bridge. The port of host number N is called `pN`.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Leaves the switch behind when this value goes.
    pub fn keep(&mut self) {
        self.switch.keep();
    }
}

impl Host {
    /// Has the host own a VIP without telling anybody, as a `dsr` backend does.
    pub fn own_quietly(&self, vip: std::net::IpAddr) -> Result<()> {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        self.ns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        self.ns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
        // Without a wait for duplicates, so that a server can listen at once.
        self.ns.ip(&format!("address add {vip}/{bits} dev lo{}", if vip.is_ipv6() { " nodad" } else { "" }))
    }

    /// Waits until the host has the address and a server can listen there: one that an agent has not added yet, or that the kernel still asks others
    /// about, can't be listened at. Asked at a port that no server wants: a process that is being started meanwhile holds the socket for a moment too.
    pub fn until_owned(&self, vip: SocketAddr) -> Result<()> {
        wait_for(&format!("{} owns {vip}", self.ns.name()), || Ok(self.ns.enter(|| UdpSocket::bind((vip.ip(), 0)))?.is_ok()))
    }

    /// Has packets to another host on the same Ethernet go by a third one, until it is unplugged.
    pub fn route_by(&self, to: Ipv4Addr, by: Ipv4Addr) -> Result<()> {
        self.ns.ip(&format!("route replace {to}/32 via {by}"))?;
        ["all", "eth0"].into_iter().try_for_each(|key| self.ns.sysctl(&format!("net/ipv4/conf/{key}/accept_redirects"), "0"))
    }

    /// Has answers to these addresses or networks go back by another host on the same Ethernet, whatever it may say of a shorter way.
    pub fn lead_back(&self, to: impl IntoIterator<Item: ToString>, by: &Self) -> Result<()> {
        for to in to {
            let to = to.to_string();
            let (family, via) = if to.contains(':') { ("-6", by.v6.to_string()) } else { ("-4", by.v4.to_string()) };
            self.ns.ip(&format!("{family} route replace {to} via {via}"))?;
        }
        let keys = ["ipv4", "ipv6"].into_iter().flat_map(|family| ["all", "eth0"].map(|name| format!("net/{family}/conf/{name}")));
        keys.into_iter().try_for_each(|key| self.ns.sysctl(&format!("{key}/accept_redirects"), "0"))
    }

    /// Its addresses of both families.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Attaches an XDP program that is none of mesh's to `eth0`.
    pub fn occupy_xdp(&self) -> Result<()> {
        self.ns.enter(|| xdp_pass::attach(nix::net::if_::if_nametoindex("eth0")?))?
    }

    /// Takes the host off the Ethernet, as a pulled cable does.
    pub fn unplug(&self) -> Result<()> {
        self.ns.ip("link set eth0 down")
    }

    /// Puts it back.
    pub fn plug(&self) -> Result<()> {
        self.ns.ip("link set eth0 up")?;
        self.ns.ip(&format!("address replace {}/64 dev eth0 nodad", self.v6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hosts_reach_each_other_by_both_families() -> Result<()> {
        let fabric = Fabric::new("mesh-unit-fabric")?;
        let (a, b) = (fabric.host("a", 1)?, fabric.host("b", 2)?);
        for to in [std::net::IpAddr::from(b.v4), b.v6.into()] {
            let listener = b.ns.enter(|| std::net::TcpListener::bind((to, 80)))??;
            let stream = a.ns.enter(|| std::net::TcpStream::connect_timeout(&(to, 80).into(), std::time::Duration::from_secs(5)))??;
            assert_eq!(listener.accept()?.1, stream.local_addr()?);
        }
        Ok(())
    }
}
