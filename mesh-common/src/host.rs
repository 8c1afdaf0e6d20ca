//! The engine on the host: a frame in a vector, tables in vectors. For tests, and for explaining what the kernel would do.

mod frame;
mod seen;
mod tables;

use core::cell::{Cell, RefCell};
use std::{boxed::Box, collections::BTreeMap, vec, vec::Vec};

use bytemuck::Zeroable;

use crate::{
    abi::{
        Backend, BackendLoad, BackendSignals, BackendStats, Config, DISPLACEMENTS, FRAGMENTED, FlowBucket, FlowLogStats, FlowRecord,
        Fragmented, LedgerBucket, LedgerCrowd, LedgerStats, LedgerTags, Mode, NatBucket, NatConfig, NatFlow, NatGauges, REASONS, Reason,
        ReasonStats, Schedule, ScheduleStats, ServiceInfo, SlotWord, SlotsRefused, SlotsSeen, SourcePrefix, Vip, VipHalf, VipKey, VipKind,
    },
    account::{Exit, process},
    answer::Said,
    flow_log,
    forward::Verdict,
    fragment::Course,
    guard, handshake, hash,
    icmp::Relayed,
    nat::Opening,
    packet::Packet,
    patch::Quote,
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
    pub slots_seen: Vec<Cell<SlotsSeen>>,
    pub slots_refused: Vec<Cell<SlotsRefused>>,
    pub ledger_tags: Vec<Cell<LedgerTags>>,
    pub ledger_crowd: Cell<LedgerCrowd>,
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
    pub left: Cell<u64>,
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
            slots_seen: vec![Cell::default(); slots.div_ceil(SlotsSeen::SLOTS as usize)],
            slots_refused: vec![Cell::default(); slots.div_ceil(SlotsRefused::SLOTS as usize)],
            ledger_tags: vec![Cell::default(); buckets],
            ledger_crowd: Cell::default(),
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
            left: Cell::default(),
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
            if vips.iter().any(|vip| vip.mode == Mode::Nat as u8) {
                config.flags |= Config::NAT;
            }
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

/// A half of either kind, as `seed` is odd or even.
fn place(entries: &[Vip], seed: u64) -> Option<(VipHalf, [u16; DISPLACEMENTS], Vec<Vip>)> {
    if seed % 2 == 1 { place_plainly(entries, seed) } else { place_displaced(entries, seed) }
}

fn key(vip: &Vip) -> VipKey {
    VipKey { addr: vip.addr, port: vip.port, proto: vip.proto, family: vip.family }
}

fn place_plainly(entries: &[Vip], seed: u64) -> Option<(VipHalf, [u16; DISPLACEMENTS], Vec<Vip>)> {
    let positions = (entries.len() * entries.len()).next_power_of_two().max(2);
    let half = VipHalf::plain(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), positions as u32, 0);
    let mut table = vec![Vip::default(); positions];
    for vip in entries {
        let place = table.get_mut(hash::plain_position(&key(vip), &half) as usize)?;
        if place.family != 0 {
            return None;
        }
        *place = *vip;
    }
    Some((half, [0; DISPLACEMENTS], table))
}

/// A half without empty displacements: keys that share a displacement are placed together, the largest groups first.
fn place_displaced(entries: &[Vip], seed: u64) -> Option<(VipHalf, [u16; DISPLACEMENTS], Vec<Vip>)> {
    let positions = (entries.len() * 2).next_power_of_two();
    let groups = (entries.len() / 2).next_power_of_two().clamp(2, DISPLACEMENTS);
    let half = VipHalf { seed, mask: positions as u32 - 1, displacement_mask: groups as u32 - 1, base: 0, ..VipHalf::default() };
    let mut members: Vec<(usize, Vec<(u64, Vip)>)> = (0..groups).map(|group| (group, Vec::new())).collect();
    for vip in entries {
        let hash = hash::vip_hash(&key(vip), seed);
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
