//! What the loaded program would make of a packet: run in the kernel on the live maps by a sibling of it that leaves no trace.

use std::net::{IpAddr, SocketAddr};

use aya::{TestRun, TestRunOptions, programs::Xdp};
use mesh_common::abi::{Addr, BackendState, Explained, Family, Mode, Reason, SlotWord, TableRef, program};
use mesh_common::schedule::By;

use super::{
    Dataplane,
    error::DataplaneError,
    image::Image,
    layout::{Layout, Service, ip_of},
};
use crate::model::{BackendId, HashFields, ServiceName, VipAddr};

/// What would become of one packet, as the kernel half says it, with names in place of indices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    pub reason: Reason,
    /// The service that the packet is for, or that it is an answer of.
    pub service: Option<(VipAddr, Option<ServiceName>)>,
    /// How the flow was looked for; `None` = the packet reached no service.
    pub choice: Option<Choice>,
    pub opens: bool,
    /// Who has chosen the backend, where that is a matter of schedulers.
    pub by: By,
    pub backend: Option<Owner>,
    pub way: Option<Way>,
    pub edit: Edit,
}

/// From the flow's hash to the word of its slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    pub mode: Mode,
    pub hash: u64,
    /// What the hash is of.
    pub fields: HashFields,
    pub slot: u32,
    pub slots: u32,
    pub target: Option<Owner>,
    pub default: Option<Owner>,
    pub secondary: Option<Owner>,
    /// 0 = the slot is at rest.
    pub flags: u16,
}

/// One backend with its state as published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub id: BackendId,
    pub state: BackendState,
}

/// How the frame leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// 0 = by the interface that it came in by; `u32::MAX` = the host routes it.
    pub ifindex: u32,
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
}

/// What is changed behind the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edit {
    None,
    /// New source and destination.
    Translate(SocketAddr, SocketAddr),
    /// A header around it, from and to these.
    Encapsulate(IpAddr, IpAddr),
}

impl Dataplane {
    /// Has the kernel look what it would make of `frame` (from the Ethernet header on). Maps and counters stay as they are.
    pub fn explain(&self, frame: &[u8]) -> Result<Explanation, DataplaneError> {
        let name = program::EXPLAIN;
        if let Some(reason) = &self.unexplained {
            return Err(DataplaneError::Program { name, reason: reason.clone() });
        }
        let program = self.loaded.ebpf.program(name).ok_or(DataplaneError::Object { kind: "program", name })?;
        let refused = DataplaneError::program(name);
        let program: &Xdp = program.try_into().map_err(&refused)?;
        self.loaded.explained.set(0, &Explained::default());
        program.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() }).map_err(&refused)?;
        Ok(describe(&self.loaded.image, &self.layout, &self.loaded.explained.get(0)))
    }
}

fn describe(image: &Image, layout: &Layout, told: &Explained) -> Explanation {
    let reason = Reason::from_u8(told.reason);
    let service = layout.services.get(&told.service);
    let sent = matches!(reason, Reason::Forwarded | Reason::Replied);
    let mac = |word: u64| {
        let [a, b, c, d, e, f, ..] = word.to_ne_bytes();
        [a, b, c, d, e, f]
    };
    let stats = |s: &Service| s.present().find(|(_, e)| e.stats == told.stats).map(|(local, _)| local);
    Explanation {
        reason,
        service: service.map(|s| (s.vip, s.name.clone())),
        choice: service.and_then(|s| choice(image, s, told)),
        opens: told.opens == 1,
        by: By::from_u8(told.by),
        backend: service.filter(|_| sent).and_then(|s| owner(image, s, stats(s)?)),
        way: sent.then(|| Way { ifindex: told.ifindex, dst_mac: mac(told.dst_mac), src_mac: mac(told.src_mac) }),
        edit: edit(told),
    }
}

fn choice(image: &Image, service: &Service, told: &Explained) -> Option<Choice> {
    let mode = Mode::from_u8(told.mode)?;
    let table = TableRef(told.table);
    let log2 = table.log2_slots();
    let slot = ((told.hash >> 1) >> table.half_shift().min(63)) as u32;
    let word = image.slots.table(table.base(), 1 << log2.min(31)).nth(slot as usize)?;
    Some(Choice {
        mode,
        hash: told.hash,
        fields: HashFields::from_flags(service.flags),
        slot,
        slots: 1 << log2.min(31),
        target: owner(image, service, word.target()),
        default: owner(image, service, word.default()),
        secondary: owner(image, service, word.secondary()),
        flags: word.flags().0,
    })
}

fn owner(image: &Image, service: &Service, local: u16) -> Option<Owner> {
    if local == SlotWord::NONE {
        return None;
    }
    let entry = service.entries.get(usize::from(local))?.as_ref()?;
    let state = BackendState::from_u8(image.backends.get((service.base + u32::from(local)) as usize).state);
    Some(Owner { id: entry.id, state })
}

fn edit(told: &Explained) -> Edit {
    let address = |addr: Addr, family: Family| ip_of(addr, family as u32).unwrap_or(IpAddr::from([0; 4]));
    // As they lie in a packet.
    let port = |word: u32| u16::from_be_bytes((word as u16).to_ne_bytes());
    let pair = |family| (address(told.src, family), address(told.dst, family));
    let (source, destination) = (port(told.ports), port(told.ports >> 16));
    match told.edit {
        Explained::V4 | Explained::V6 => {
            let (src, dst) = pair(if told.edit == Explained::V4 { Family::V4 } else { Family::V6 });
            Edit::Translate((src, source).into(), (dst, destination).into())
        }
        Explained::OUTER_V4 | Explained::OUTER_V6 => {
            let (src, dst) = pair(if told.edit == Explained::OUTER_V4 { Family::V4 } else { Family::V6 });
            Edit::Encapsulate(src, dst)
        }
        _ => Edit::None,
    }
}
