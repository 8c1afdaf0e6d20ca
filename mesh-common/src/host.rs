//! The engine on the host: a frame in a vector, tables in vectors. For tests, and for explaining what the kernel would do.

mod frame;
mod seen;

use core::cell::{Cell, RefCell};
use std::{boxed::Box, collections::BTreeMap, vec, vec::Vec};

use bytemuck::Zeroable;

use crate::{
    abi::{
        Backend, BackendLoad, BackendSignals, BackendStats, Config, DISPLACEMENTS, FRAGMENTED, FlowBucket, FlowLogStats, FlowRecord,
        Fragmented, LedgerBucket, LedgerStats, NatBucket, NatConfig, NatFlow, NatGauges, REASONS, Reason, ReasonStats, Schedule,
        ScheduleStats, ServiceInfo, SlotMemo, SlotWord, SourcePrefix, Vip, VipHalf, VipKey, VipKind,
    },
    account::{Exit, process},
    answer::Said,
    flow_log::{self, Beginning},
    forward::Verdict,
    fragment::Course,
    guard, handshake, hash,
    icmp::Relayed,
    ledger::places,
    nat::{Opening, open_flow},
    packet::Packet,
    patch::Quote,
    schedule,
    shared::Shared,
    tables::Tables,
};

pub use frame::Frame;
use seen::Seen;

/// Tables in vectors, of one CPU and one thread. Sizes are those of the vectors; a new one has one half of eight VIP positions and room for a few
/// of everything. Publish VIPs by [`HostTables::publish`], the rest by setting elements.
#[derive(Clone, Debug)]
pub struct HostTables {
    pub config: Box<Cell<Config>>,
    pub vips: Vec<Cell<Vip>>,
    pub services: Vec<Cell<ServiceInfo>>,
    pub slots: Vec<Cell<SlotWord>>,
    pub slot_memos: Vec<Cell<SlotMemo>>,
    pub ledger: Vec<Cell<LedgerBucket>>,
    pub ledger_stats: Cell<LedgerStats>,
    pub backends: Vec<Cell<Backend>>,
    pub nat_index: Vec<Cell<NatBucket>>,
    pub nat_flows: Vec<Cell<NatFlow>>,
    pub nat_gauges: Cell<NatGauges>,
    /// What [`Tables::tick`] says.
    pub now: Cell<u32>,
    pub opening: Cell<Opening>,
    /// Frames that [`HostTables::run`] was given, counted beside the engine.
    pub received: Cell<ReasonStats>,
    pub quote: Cell<Quote>,
    pub relayed: Cell<Relayed>,
    pub course: Cell<Course>,
    pub fragmented: Vec<Cell<Fragmented>>,
    pub said: Cell<Said>,
    pub reason_stats: Vec<Cell<ReasonStats>>,
    pub backend_stats: Vec<Cell<BackendStats>>,
    pub backend_signals: Vec<Cell<BackendSignals>>,
    /// Handshakes that are being watched; by default those of all flows.
    pub watched: Vec<Cell<u64>>,
    pub pacers: Vec<Cell<u64>>,
    pub schedules: Vec<Cell<Schedule>>,
    pub backend_loads: Vec<Cell<BackendLoad>>,
    pub remembered: Vec<Cell<FlowBucket>>,
    pub schedule_stats: Cell<ScheduleStats>,
    /// Flows that the log was told of, as words and as records; there is always room.
    pub told: Vec<Cell<u64>>,
    pub flow_records: RefCell<Vec<FlowRecord>>,
    pub flow_log_stats: Cell<FlowLogStats>,
    pub prefixes: Vec<SourcePrefix>,
    /// Backends by [`crate::abi::quic_key`].
    pub quic: BTreeMap<u64, u16>,
    /// What [`Tables::nanoseconds`] says.
    pub nanoseconds: Cell<u64>,
}

impl HostTables {
    /// Empty tables with room for this many services (ids from 1), slots, backends and NAT flows.
    pub fn new(services: usize, slots: usize, backends: usize, flows: usize) -> Self {
        let mut config = Config::zeroed();
        let buckets = (flows / 2).next_power_of_two();
        config.nat.flows = flows as u32;
        config.nat.bucket_mask = buckets as u32 - 1;
        config.nat.remembered_mask = buckets as u32 - 1;
        config.ledger.bucket_mask = buckets as u32 - 1;
        Self {
            config: Box::new(Cell::new(config)),
            vips: vec![Cell::default(); 1],
            services: vec![Cell::default(); services + 1],
            slots: vec![Cell::new(SlotWord::EMPTY); slots],
            slot_memos: vec![Cell::default(); slots],
            ledger: vec![Cell::default(); buckets],
            ledger_stats: Cell::default(),
            backends: vec![Cell::default(); backends],
            nat_index: vec![Cell::default(); buckets],
            nat_flows: vec![Cell::default(); flows],
            nat_gauges: Cell::default(),
            now: Cell::new(1),
            opening: Cell::default(),
            received: Cell::default(),
            quote: Cell::default(),
            relayed: Cell::default(),
            course: Cell::default(),
            fragmented: vec![Cell::default(); FRAGMENTED as usize],
            said: Cell::default(),
            reason_stats: vec![Cell::default(); (services + 1) * REASONS as usize],
            backend_stats: vec![Cell::default(); backends],
            backend_signals: vec![Cell::default(); backends],
            watched: vec![Cell::default(); handshake::WATCHED as usize],
            schedules: vec![Cell::default(); services + 1],
            backend_loads: vec![Cell::default(); backends],
            remembered: vec![Cell::default(); buckets],
            schedule_stats: Cell::default(),
            pacers: vec![Cell::default(); guard::PACERS as usize],
            told: vec![Cell::default(); flow_log::TOLD as usize],
            flow_records: RefCell::default(),
            flow_log_stats: Cell::default(),
            prefixes: Vec::new(),
            quic: BTreeMap::new(),
            nanoseconds: Cell::new(1 << 30),
        }
    }

    /// Sets the clock, which is the same in ticks and in nanoseconds.
    pub fn set_tick(&mut self, tick: u32) {
        self.now.set(tick);
        self.nanoseconds.set(u64::from(tick) << NatConfig::TICK_SHIFT);
    }

    /// Changes the configuration.
    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        let mut config = self.config.get();
        change(&mut config);
        self.config.set(config);
    }

    /// Builds the VIP table of these services (their [`ServiceInfo`] too is set), with an entry for each of their addresses.
    ///
    /// Returns `false` if no perfect hash was found, which takes two equal keys.
    #[must_use]
    pub fn publish(&mut self, vips: &[Vip]) -> bool {
        let mut entries: BTreeMap<([u8; 16], u32), Vip> = BTreeMap::new();
        for vip in vips {
            let address = Vip { addr: vip.addr, family: vip.family, kind: VipKind::Address as u8, ..Vip::default() };
            entries.insert((vip.addr.0, u32::from_ne_bytes([0, 0, 0, vip.family])), address);
        }
        for vip in vips {
            let vip = Vip { kind: VipKind::Service as u8, ..*vip };
            if entries.insert((vip.addr.0, u32::from_ne_bytes([vip.port[0], vip.port[1], vip.proto, vip.family])), vip).is_some() {
                return false;
            }
        }
        let entries: Vec<Vip> = entries.into_values().collect();
        let Some((half, displacements, table)) = (1..=64).find_map(|seed| place(&entries, seed)) else { return false };
        self.vips = table.into_iter().map(Cell::new).collect();
        self.configure(|config| {
            config.active = 0;
            config.halves[0] = half;
            config.displacements[0] = displacements;
        });
        for vip in vips {
            if let Some(service) = self.services.get(vip.service as usize) {
                let Vip { addr, port, proto, family, backend_base, .. } = *vip;
                let backend_capacity = (self.backends.len() as u32).saturating_sub(backend_base);
                service.set(ServiceInfo { addr, port, proto, family, backend_base, backend_capacity, flags: vip.flags.into() });
            }
        }
        true
    }

    /// Takes a frame all the way: decides, changes and counts it.
    pub fn run(&self, frame: &mut Frame<'_>) -> (Verdict, Exit) {
        let ReasonStats { packets, bytes } = self.received.get();
        self.received.set(ReasonStats { packets: packets + 1, bytes: bytes + frame.size() as u64 });
        let verdict = Cell::new(Verdict::End { service: 0, reason: Reason::NotForVip });
        let exit = process(frame, self, Seen(&verdict));
        (verdict.get(), exit)
    }

    /// Packets that ended at a service for a reason.
    pub fn ended(&self, service: u32, reason: Reason) -> u64 {
        self.reason_stats.get((service * REASONS + reason as u32) as usize).map_or(0, |stats| stats.get().packets)
    }
}

/// A half without empty displacements: keys that share a displacement are placed together, the largest groups first.
fn place(entries: &[Vip], seed: u64) -> Option<(VipHalf, [u16; DISPLACEMENTS], Vec<Vip>)> {
    let positions = (entries.len() * 2).next_power_of_two();
    let groups = (entries.len() / 2).next_power_of_two().min(DISPLACEMENTS);
    let half = VipHalf { seed, mask: positions as u32 - 1, displacement_mask: groups as u32 - 1, base: 0, reserved: 0 };
    let mut members: Vec<(usize, Vec<(u64, Vip)>)> = (0..groups).map(|group| (group, Vec::new())).collect();
    for vip in entries {
        let key = VipKey { addr: vip.addr, port: vip.port, proto: vip.proto, family: vip.family };
        let hash = hash::vip_hash(&key, seed);
        members.get_mut(hash::displacement_index(hash, half.displacement_mask) as usize)?.1.push((hash, *vip));
    }
    members.sort_by_key(|(_, group)| core::cmp::Reverse(group.len()));
    let mut displacements = [0; DISPLACEMENTS];
    let mut table = vec![Vip::default(); positions];
    for (group, keys) in members {
        let displacement = (0..=u16::MAX).find(|&displacement| fits(&keys, &half, displacement, &table))?;
        *displacements.get_mut(group)? = displacement;
        for (hash, vip) in keys {
            *table.get_mut(hash::position(hash, &half, displacement) as usize)? = vip;
        }
    }
    Some((half, displacements, table))
}

fn fits(keys: &[(u64, Vip)], half: &VipHalf, displacement: u16, table: &[Vip]) -> bool {
    let mut taken = Vec::with_capacity(keys.len());
    keys.iter().all(|(hash, _)| {
        let position = hash::position(*hash, half, displacement);
        let free = table.get(position as usize).is_some_and(|vip| vip.family == 0) && !taken.contains(&position);
        taken.push(position);
        free
    })
}

impl Tables for HostTables {
    fn config(&self) -> Option<Shared<'_, Config>> {
        Some(Shared::of(&self.config))
    }

    fn vip(&self, position: u32) -> Option<Shared<'_, Vip>> {
        self.vips.get(position as usize).map(Shared::of)
    }

    fn service(&self, id: u32) -> Option<Shared<'_, ServiceInfo>> {
        self.services.get(id as usize).map(Shared::of)
    }

    fn slot(&self, index: u32) -> Option<SlotWord> {
        self.slots.get(index as usize).map(Cell::get)
    }

    fn backend(&self, index: u32) -> Option<Shared<'_, Backend>> {
        self.backends.get(index as usize).map(Shared::of)
    }

    fn slot_memo(&self, index: u32) -> Option<Shared<'_, SlotMemo>> {
        self.slot_memos.get(index as usize).map(Shared::of)
    }

    fn ledger_bucket(&self, index: u32) -> Option<Shared<'_, LedgerBucket>> {
        self.ledger.get(index as usize).map(Shared::of)
    }

    fn ledger_stats(&self) -> Option<Shared<'_, LedgerStats>> {
        Some(Shared::of(&self.ledger_stats))
    }

    fn follow(&self, slot: u32, base: u32, hash: u64, sent: u64) -> u64 {
        places::follow(self, slot, base, hash, sent)
    }

    fn owner(&self, slot: u32, base: u32, key: u64, sent: u64, asked: u64) -> u64 {
        schedule::owner(self, slot, base, key, sent, asked)
    }

    fn nat_bucket(&self, index: u32) -> Option<Shared<'_, NatBucket>> {
        self.nat_index.get(index as usize).map(Shared::of)
    }

    fn nat_flow(&self, index: u32) -> Option<Shared<'_, NatFlow>> {
        self.nat_flows.get(index as usize).map(Shared::of)
    }

    fn nat_gauges(&self) -> Option<Shared<'_, NatGauges>> {
        Some(Shared::of(&self.nat_gauges))
    }

    fn opening(&self) -> Option<Shared<'_, Opening>> {
        Some(Shared::of(&self.opening))
    }

    fn open_flow(&self) -> u64 {
        open_flow(self)
    }

    fn quote(&self) -> Option<Shared<'_, Quote>> {
        Some(Shared::of(&self.quote))
    }

    fn relayed(&self) -> Option<Shared<'_, Relayed>> {
        Some(Shared::of(&self.relayed))
    }

    fn course(&self) -> Option<Shared<'_, Course>> {
        Some(Shared::of(&self.course))
    }

    fn fragmented(&self, index: u32) -> Option<Shared<'_, Fragmented>> {
        self.fragmented.get(index as usize).map(Shared::of)
    }

    fn said(&self) -> Option<Shared<'_, Said>> {
        Some(Shared::of(&self.said))
    }

    fn guard(&self, source: [u64; 2], limits: u64, question: u64, list: u32) -> u32 {
        guard::guard(self, source, limits, question, list)
    }

    fn listed(&self, list: u32, source: [u64; 2]) -> u32 {
        SourcePrefix::longest(&self.prefixes, &SourcePrefix::key(list, source))
    }

    fn quic(&self, key: u64) -> u32 {
        self.quic.get(&key).copied().unwrap_or(SlotWord::NONE).into()
    }

    fn pacer(&self, index: u32) -> Option<Shared<'_, u64>> {
        self.pacers.get(index as usize).map(Shared::of)
    }

    fn schedule(&self, id: u32) -> Option<Shared<'_, Schedule>> {
        self.schedules.get(id as usize).map(Shared::of)
    }

    fn backend_load(&self, index: u32) -> Option<Shared<'_, BackendLoad>> {
        self.backend_loads.get(index as usize).map(Shared::of)
    }

    fn flow_bucket(&self, index: u32) -> Option<Shared<'_, FlowBucket>> {
        self.remembered.get(index as usize).map(Shared::of)
    }

    fn schedule_stats(&self) -> Option<Shared<'_, ScheduleStats>> {
        Some(Shared::of(&self.schedule_stats))
    }

    fn choose(&self, sent: u64) -> u64 {
        schedule::choose(self, sent)
    }

    fn pick(&self) -> u64 {
        schedule::pick(self)
    }

    fn cost(&self, base: u32, index: u16, scheduler: u32) -> u64 {
        schedule::cost(self, base, index, scheduler)
    }

    fn tick(&self) -> u32 {
        self.now.get()
    }

    fn reason_stats(&self, index: u32) -> Option<Shared<'_, ReasonStats>> {
        self.reason_stats.get(index as usize).map(Shared::of)
    }

    fn backend_stats(&self, index: u32) -> Option<Shared<'_, BackendStats>> {
        self.backend_stats.get(index as usize).map(Shared::of)
    }

    fn backend_signals(&self, index: u32) -> Option<Shared<'_, BackendSignals>> {
        self.backend_signals.get(index as usize).map(Shared::of)
    }

    fn watched(&self, index: u32) -> Option<Shared<'_, u64>> {
        self.watched.get(index as usize).map(Shared::of)
    }

    fn note_handshake(&self, hash: u64, stats: u32, step: u32) {
        handshake::note(self, hash, stats, step);
    }

    fn nanoseconds(&self) -> u64 {
        self.nanoseconds.get()
    }

    fn tell_flow(&self, beginning: Beginning) {
        flow_log::tell(self, beginning);
    }

    fn told(&self, index: u32) -> Option<Shared<'_, u64>> {
        self.told.get(index as usize).map(Shared::of)
    }

    fn put_flow_record(&self, record: FlowRecord) -> bool {
        self.flow_records.borrow_mut().push(record);
        true
    }

    fn flow_log_stats(&self) -> Option<Shared<'_, FlowLogStats>> {
        Some(Shared::of(&self.flow_log_stats))
    }
}
