//! A packet on its way to a backend, and whose it is.

use network_types::tcp::TcpHdr;

use crate::{
    abi::{Config, LedgerEntry, Reason, ServiceFlags, TableRef, Vip},
    flow::{Address, Tuple},
    hash,
    header::{self, Headers, Ip, tcp},
    ledger::rules::Sent,
    packet::{Packet, u32_at},
    read, schedule,
    select::{self, Candidate},
    shared::Shared,
    tables::Tables,
};

/// A packet that was found to be for a VIP, with what is known of it.
pub(crate) struct Arrival<'a, A> {
    pub config: Shared<'a, Config>,
    pub vip: Shared<'a, Vip>,
    /// The same, for what every packet asks of it ([`Shared::again`]).
    pub near: Shared<'a, Vip>,
    pub headers: Headers<A>,
    pub src: A,
    /// TCP flags as they were read at first; 0 for UDP. To be asked for by [`Self::flags`].
    pub flags: u8,
    /// As in [`Sound`].
    pub bytes: usize,
    /// Hash of the flow.
    pub hash: u64,
    /// The service wants nothing beside balancing.
    pub plain: bool,
}

impl<A> Arrival<'_, A> {
    /// Id of the service. Read where it is needed, as what else stands in the VIP's entry: to keep it would take room on the stack.
    #[inline(always)]
    pub(crate) fn service(&self) -> u32 {
        read!(self.vip, Vip.service as u32)
    }

    /// [`ServiceFlags`], as far as they are asked about.
    #[inline(always)]
    pub(crate) fn wanted(&self) -> u16 {
        if self.plain { 0 } else { read!(self.vip, Vip.flags as u16) }
    }

    /// TCP flags; 0 for UDP. Where headers have one place they are read anew: to keep them would take longer.
    #[inline(always)]
    pub(crate) fn flags<P: Packet>(&self, packet: &P) -> u8 {
        match self.headers.proto {
            header::TCP if self.plain => packet.at::<{ TcpHdr::LEN }>(self.headers.l4).map_or(0, |tcp| tcp[13]),
            _ => self.flags,
        }
    }

    /// The packet asks for a TCP connection.
    #[inline(always)]
    pub(crate) fn connects<P: Packet>(&self, packet: &P) -> bool {
        self.flags(packet) & (tcp::SYN | tcp::ACK) == tcp::SYN
    }
}

impl<'a, A: Address> Arrival<'a, A> {
    /// What chooses the flow's slot: its hash, or that of some fields where the service wants it so.
    #[inline(always)]
    pub(crate) fn chooser(&self) -> u64 {
        let wanted = self.wanted();
        if wanted & ServiceFlags::FEWER_FIELDS == 0 {
            return self.hash;
        }
        let tuple = Tuple { src: self.src, dst: self.headers.dst, ports: self.headers.ports };
        hash::fields(&tuple, self.headers.proto, hash::key(self.config), wanted)
    }

    /// Where in the arena the flow's slot is.
    #[inline(always)]
    pub(crate) fn slot(&self) -> u32 {
        select::slot_index(TableRef(read!(self.near, Vip.table as u64)), self.chooser())
    }

    /// The backend that the packet's flow belongs to, where nobody translates.
    #[inline(always)]
    pub(crate) fn owner<P: Packet, T: Tables>(&self, packet: &P, tables: &'a T) -> Result<Candidate<'a>, Reason> {
        self.owners(packet, tables).map(|(owner, _)| owner)
    }

    /// The same, and who else may have the flow: a live backend of `tunnel` by GUE, or [`crate::abi::SlotWord::NONE`].
    #[inline(always)]
    pub(crate) fn owners<P: Packet, T: Tables>(&self, packet: &P, tables: &'a T) -> Result<(Candidate<'a>, u16), Reason> {
        let at = self.slot();
        let Some(slot) = tables.slot(at) else { return Err(Reason::BadTable) };
        // Not before: what is known by then would have to be kept meanwhile.
        let asked = schedule::ask_for_owner(tables, self);
        let base = || read!(self.near, Vip.backend_base as u32);
        select::owners(tables, (at, slot), base, asked, || LedgerEntry::key(self.hash, self.service()), || self.sent(packet))
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub(crate) fn ttl<P: Packet>(&self, packet: &P) -> u8
    where
        A: Ip,
    {
        A::network(packet, self.headers.l3).map_or(0, |network| network.ttl)
    }

    /// What the packet tells of its flow to the ledger.
    #[inline(always)]
    pub(crate) fn sent<P: Packet>(&self, packet: &P) -> Sent {
        if self.headers.proto != header::TCP {
            return Sent::Datagram;
        }
        let number = packet.at::<8>(self.headers.l4).map_or(0, |tcp| u32::from_be(u32_at::<4, _>(tcp)));
        let flags = self.flags(packet);
        match flags & (tcp::SYN | tcp::ACK | tcp::RST) {
            tcp::SYN => Sent::Syn { isn: number },
            flags if flags & tcp::RST != 0 => Sent::Reset { seq: number },
            _ if flags & tcp::FIN != 0 => Sent::Fin { seq: number },
            _ => Sent::Segment { seq: number },
        }
    }
}
