//! What balancers say to each other of slots and flows, as bytes. All numbers are big-endian; whatever is cut short or out of range is refused whole.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use mesh_common::ledger::among::Progress;

use super::{Entry, Kind, Report, Said, Words};
use crate::{
    model::{BackendId, Proto, VipAddr},
    peers::datagram::MAX_PAYLOAD,
};

/// Bytes of a [`Header`].
pub const HEADER: usize = 86;
/// Bytes that may follow it.
pub const ROOM: usize = MAX_PAYLOAD - HEADER;
/// The owner that is nobody, by the index in a block.
const NOBODY: u8 = u8::MAX;
/// Backends that one block may name.
const NAMES: usize = 200;

/// What stands before every message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// What follows are entries; else it is a part of a report, or nothing.
    pub entries: bool,
    /// The sender does not know yet what others know.
    pub joining: bool,
    /// The sender has counted on the receiver without a break, also over its restart.
    pub held: bool,
    /// The report tells of slots at rest as well.
    pub full: bool,
    /// Nodes with other keys know nothing of each other's flows.
    pub tag: u64,
    /// Starts of sender and receiver; 0 = not known.
    pub from: u64,
    pub to: u64,
    /// The sender's report, and which part of how many this is. No parts: only the header counts.
    pub version: u64,
    pub part: u16,
    pub parts: u16,
    /// The receiver's report that the sender has taken in.
    pub heard: u64,
    /// The receiver's report that the sender's knew when it made its own.
    pub weighed: u64,
    /// Entries: the number of this message. Else: those up to this one go before the report.
    pub number: u64,
    /// With the messages of entries up to this one the receiver knows all that there are. 0 = they are still to come.
    pub all: u64,
    /// Messages of entries from the receiver that were taken in: all up to this one.
    pub got: u64,
    /// Messages of entries up to this one are not sent any more.
    pub gone: u64,
}

impl Header {
    pub fn write(&self) -> Vec<u8> {
        let flags = [self.entries, self.joining, self.held, self.full];
        let mut bytes = vec![1, flags.iter().enumerate().map(|(i, set)| u8::from(*set) << i).sum()];
        for word in [self.tag, self.from, self.to, self.version, self.heard, self.weighed, self.number, self.all, self.got, self.gone] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(self.part.to_be_bytes());
        bytes.extend(self.parts.to_be_bytes());
        bytes
    }

    /// The header, and what follows it.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        if header[0] != 1 {
            return None;
        }
        let mut reader = Reader(&header[2..]);
        let set = |bit: u8| header[1] >> bit & 1 == 1;
        let mut word = || reader.u64();
        let (tag, from, to, version, heard, weighed, number, all, got, gone) =
            (word()?, word()?, word()?, word()?, word()?, word()?, word()?, word()?, word()?, word()?);
        let (part, parts) = (reader.u16()?, reader.u16()?);
        let (entries, joining, held, full) = (set(0), set(1), set(2), set(3));
        Some((Self { entries, joining, held, full, tag, from, to, version, part, parts, heard, weighed, number, all, got, gone }, rest))
    }
}

/// A report as parts, each of which has room behind a header.
pub fn report_parts(report: &Report) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    for (vip, words) in report {
        let mut groups: BTreeMap<Said, Vec<u32>> = BTreeMap::new();
        for (slot, said) in &words.slots {
            groups.entry(*said).or_default().push(*slot);
        }
        let mut groups: Vec<(Said, &[u32])> = groups.iter().map(|(said, slots)| (*said, &slots[..])).collect();
        // A service without slots is told as well: it may be one that the node does not serve.
        loop {
            let (block, left) = report_block(vip, words, &groups, ROOM - part.len());
            let stuck = left.len() == groups.len() && left.iter().zip(&groups).all(|(a, b)| a.1.len() == b.1.len());
            if !block.is_empty() && (!stuck || groups.is_empty()) {
                part.extend(block);
                groups = left;
                if groups.is_empty() {
                    break;
                }
            }
            parts.push(std::mem::take(&mut part));
        }
    }
    if !part.is_empty() || parts.is_empty() {
        parts.push(part);
    }
    parts
}

/// As much of the groups as `room` holds, and what is left. Empty: not even the names fit.
fn report_block<'a>(vip: &VipAddr, words: &Words, groups: &[(Said, &'a [u32])], room: usize) -> (Vec<u8>, Vec<(Said, &'a [u32])>) {
    let mut names = Names::default();
    let (mut body, mut count, mut left) = (Vec::new(), 0_u8, Vec::new());
    // Address, table, counts.
    let fixed = 19 + 2 + 2;
    if room < fixed {
        return (Vec::new(), groups.to_vec());
    }
    for (said, slots) in groups {
        let mut tried = names.clone();
        let ids = [said.target, said.default, said.asks].map(|id| tried.index(id));
        let head = 3 + 2 + 2;
        let used = fixed + tried.len() + body.len() + head;
        let most = room.saturating_sub(used) / 4;
        let ids = match ids {
            [Some(a), Some(b), Some(c)] if most > 0 && count < u8::MAX && left.is_empty() => [a, b, c],
            _ => {
                left.push((*said, *slots));
                continue;
            }
        };
        let (now, later) = slots.split_at(slots.len().min(most).min(usize::from(u16::MAX)));
        names = tried;
        count += 1;
        body.extend(ids);
        body.extend([said.progress.0, u8::from(said.rest)]);
        body.extend((now.len() as u16).to_be_bytes());
        now.iter().for_each(|slot| body.extend(slot.to_be_bytes()));
        if !later.is_empty() {
            left.push((*said, later));
        }
    }
    let mut block = vip_bytes(vip);
    block.extend([words.log2_slots, u8::from(words.foreign)]);
    names.write(&mut block);
    block.push(count);
    block.extend(body);
    (block, left)
}

/// Adds what a part says to the report that it belongs to.
pub fn read_report(bytes: &[u8], report: &mut Report) -> Option<()> {
    let mut reader = Reader(bytes);
    while !reader.0.is_empty() {
        let vip = reader.vip()?;
        let (log2_slots, foreign) = (reader.u8()?, reader.u8()? == 1);
        if log2_slots > 31 {
            return None;
        }
        let names = reader.names()?;
        let name = |index: u8| if index == NOBODY { Some(None) } else { names.get(usize::from(index)).map(|id| Some(*id)) };
        let words = report.entry(vip).or_default();
        (words.log2_slots, words.foreign) = (log2_slots, foreign);
        for _ in 0..reader.u8()? {
            let (target, default, asks) = (name(reader.u8()?)?, name(reader.u8()?)?, name(reader.u8()?)?);
            let (progress, rest) = (Progress(reader.u8()?), reader.u8()? == 1);
            let said = Said { target, default, asks, progress, rest };
            for _ in 0..reader.u16()? {
                words.slots.insert(reader.u32()?, said);
            }
        }
    }
    Some(())
}

/// Entries as messages, each of which has room behind a header.
pub fn entry_parts(entries: &[Entry]) -> Vec<Vec<u8>> {
    let mut by_vip: HashMap<VipAddr, Vec<&Entry>> = HashMap::new();
    for entry in entries {
        by_vip.entry(entry.vip).or_default().push(entry);
    }
    let mut parts = Vec::new();
    let mut part: Vec<u8> = Vec::new();
    for (vip, mut entries) in by_vip {
        while !entries.is_empty() {
            let (block, told) = entry_block(&vip, &entries, ROOM - part.len());
            if told == 0 {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            part.extend(block);
            entries.drain(..told);
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// Bytes of an entry: hash, backend, what it is, number.
const ENTRY: usize = 6 + 1 + 2 + 4;

fn entry_block(vip: &VipAddr, entries: &[&Entry], room: usize) -> (Vec<u8>, usize) {
    let mut names = Names::default();
    let (mut body, mut count) = (Vec::new(), 0_u8);
    for entry in entries {
        let mut tried = names.clone();
        let Some(backend) = tried.index(Some(entry.backend)) else { break };
        if 19 + 2 + tried.len() + body.len() + ENTRY > room || count == u8::MAX {
            break;
        }
        names = tried;
        count += 1;
        body.extend(&entry.hash.to_be_bytes()[2..]);
        body.push(backend);
        let (flow, isn) = match entry.kind {
            Kind::Flow => (1 << 15, 0),
            Kind::Pending { isn } => (0, isn),
        };
        body.extend((flow | entry.age.min(0x7fff)).to_be_bytes());
        body.extend(isn.to_be_bytes());
    }
    let mut block = vip_bytes(vip);
    names.write(&mut block);
    block.push(count);
    block.extend(body);
    (block, usize::from(count))
}

/// The entries of a message.
pub fn read_entries(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (mut reader, mut entries) = (Reader(bytes), Vec::new());
    while !reader.0.is_empty() {
        let vip = reader.vip()?;
        let names = reader.names()?;
        for _ in 0..reader.u8()? {
            let hash = u64::from(reader.u16()?) << 32 | u64::from(reader.u32()?);
            let backend = *names.get(usize::from(reader.u8()?))?;
            let (what, isn) = (reader.u16()?, reader.u32()?);
            let kind = if what >> 15 == 1 { Kind::Flow } else { Kind::Pending { isn } };
            entries.push(Entry { vip, hash, backend, kind, age: what & 0x7fff });
        }
    }
    Some(entries)
}

/// Backends that a block names, in the order in which they came up.
#[derive(Clone, Default)]
struct Names(Vec<BackendId>);

impl Names {
    fn index(&mut self, id: Option<BackendId>) -> Option<u8> {
        let Some(id) = id else { return Some(NOBODY) };
        let at = self.0.iter().position(|known| *known == id).unwrap_or(self.0.len());
        if at == self.0.len() {
            if at == NAMES {
                return None;
            }
            self.0.push(id);
        }
        Some(at as u8)
    }

    fn len(&self) -> usize {
        18 * self.0.len()
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.0.len() as u8);
        for id in &self.0 {
            bytes.extend(ip_bytes(id.0.ip()));
            bytes.extend(id.0.port().to_be_bytes());
        }
    }
}

fn vip_bytes(vip: &VipAddr) -> Vec<u8> {
    let mut bytes = ip_bytes(vip.addr).to_vec();
    bytes.extend(vip.port.to_be_bytes());
    bytes.push(vip.proto as u8);
    bytes
}

/// IPv4 as RFC 4291 section 2.5.5.2 maps it.
fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn ip(&mut self) -> Option<IpAddr> {
        let ip = Ipv6Addr::from(self.take::<16>()?);
        Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
    }

    fn vip(&mut self) -> Option<VipAddr> {
        let (addr, port, proto) = (self.ip()?, self.u16()?, self.u8()?);
        let proto = [Proto::Tcp, Proto::Udp].into_iter().find(|p| *p as u8 == proto)?;
        Some(VipAddr { addr, port, proto })
    }

    fn names(&mut self) -> Option<Vec<BackendId>> {
        let count = self.u8()?;
        (0..count).map(|_| Some(BackendId(SocketAddr::new(self.ip()?, self.u16()?)))).collect()
    }
}
