//! The program under test with its maps as the daemon would have filled them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use aya::programs::ProgramFd;
use mesh::{
    model::{BackendId, Weight},
    table::{self, BaseTable},
};
use mesh_common::abi::{
    Config, LedgerBucket, LedgerConfig, LedgerTags, LedgerWord, Mode, NatBucket, NatFlow, REASONS, Reason, SlotFlags, SlotWord,
    SlotsRefused, SlotsSeen, TableRef,
};

use super::{
    Case, Driver, Kind, Outer,
    cases::{PORT, Published},
};
use crate::fixture::{Engine, Hook, INGRESS, Kernel, Maps, Member, Nat, Service, Sizes, place, rows};

/// Backends of each service.
const BACKENDS: u32 = 100;
/// Counters of backends, shared beyond that number.
const STATS: u32 = 16_384;

/// A loaded program, and what its maps hold.
pub struct Rig {
    kernel: Kernel,
    program: ProgramFd,
    services: u32,
    published: Option<Published>,
}

impl Rig {
    /// Loads the program with maps for `services` services and `flows` translated flows.
    pub fn load(services: u32, flows: u32) -> Result<Self> {
        let nat_flows = (2 * flows).next_power_of_two().max(1 << 18);
        let sizes = Sizes {
            // As by default: room for a thousand services.
            vips: 2 * (4 * services).next_power_of_two().max(4096),
            services: services + 1,
            slots: 1 << table::log2_slots(&members()),
            backends: services * BACKENDS,
            backend_stats: (services * BACKENDS).min(STATS),
            ledger: 1 << 14,
            nat_index: nat_flows / 4,
            remembered: 1 << 12,
            nat_flows,
        };
        let mut kernel = Kernel::load_in_time(Hook::Xdp, sizes)?;
        let program = kernel.program()?.fd()?.try_clone()?;
        Ok(Self { kernel, program, services, published: None })
    }

    /// Whether the maps are large enough for a case.
    pub fn fits(&self, case: &Case) -> bool {
        self.services == case.services
    }

    pub fn program(&self) -> &ProgramFd {
        &self.program
    }

    /// Fills the maps for a case and, where flows are remembered, opens them all.
    pub fn establish(&mut self, driver: &mut Driver, case: &Case) -> Result<()> {
        if self.published != Some(case.published()) {
            let slots = shared_table()?;
            self.kernel.reset(&mut |maps| publish(case, &slots, maps));
            self.published = Some(case.published());
        }
        self.forget();
        let Some(flows) = case.flow_count().filter(|_| case.remembers()) else { return Ok(()) };
        driver.restart_flows();
        driver.slice(&self.program, &case.opening_run(flows))?;
        let mut maps = self.kernel.maps();
        let opened = maps.flows().count() as u64;
        // Near its limits translation finds no room for a few; they are accounted for as such.
        ensure!(opened <= flows && opened + flows / 100 >= flows, "{}: only {opened} of {flows} flows were opened", case.name());
        establish_all(&mut maps);
        driver.restart_flows();
        Ok(())
    }

    /// Forgets all flows, so that new ones find room.
    pub fn forget(&mut self) {
        let maps = self.kernel.maps();
        maps.nat_flows.fill(NatFlow::default());
        maps.nat_index.fill(NatBucket::default());
        maps.nat_gauges.half_open = 0;
    }

    /// Forgets how many connections came lately, so that no rate is exceeded.
    pub fn forget_connections(&mut self) {
        self.kernel.forget_connections();
    }

    /// Has so many percent of the slots be on their way to their secondary, and the others at rest.
    pub fn set_out(&mut self, percent: u32) {
        let maps = self.kernel.maps();
        for (slot, word) in (0_u32..).zip(maps.slots.iter_mut()) {
            // Who is on the way at 1 % is so at 5 % too, wherever in the table that is.
            let moves = slot.wrapping_mul(0x9e37_79b1) / (u32::MAX / 100) < percent;
            let (owner, other) = (word.default(), if word.target() == word.default() { word.secondary() } else { word.target() });
            *word = if moves { SlotWord::new(other, owner, owner, SlotFlags::TRANSITION) } else { SlotWord::steady(owner, other) };
        }
        maps.slots_seen.fill(SlotsSeen::default());
        maps.slots_refused.fill(SlotsRefused::default());
    }

    /// Forgets all flows of slots on their way.
    pub fn forget_ledger(&mut self) {
        let maps = self.kernel.maps();
        maps.ledger.fill(LedgerBucket::default());
        maps.ledger_tags.fill(LedgerTags::default());
    }

    /// Packets that went as they should so far, and those of flows that found no room.
    pub fn counted(&self, case: &Case) -> Result<Count> {
        let counters = self.kernel.counters();
        let ended =
            |reason: Reason| -> u64 { counters.reasons.iter().skip(reason as usize).step_by(REASONS as usize).map(|r| r.packets).sum() };
        let right = match case.kind {
            Kind::Service(_) => counters.backends.iter().map(|b| b.tx).sum(),
            Kind::NonVip => counters.reasons.get(Reason::NotForVip as usize).context("there are reason counters")?.packets,
        };
        Ok(Count { ended: counters.ended().packets, right, no_room: ended(Reason::NoFlow) + ended(Reason::NatFull) })
    }
}

/// What became of packets.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// All that were counted at all.
    pub ended: u64,
    pub right: u64,
    pub no_room: u64,
}

fn establish_all(maps: &mut Maps<'_>) {
    maps.nat_flows.iter_mut().filter(|f| f.claim != 0).for_each(|f| f.stage = NatFlow::ESTABLISHED);
    maps.nat_gauges.half_open = 0;
}

/// The table of each service: they all have the same number of backends with the same weights, and share one table.
fn shared_table() -> Result<Vec<SlotWord>> {
    let members = members();
    let base = BaseTable::build(&members, table::log2_slots(&members), 1)?;
    let table = table::overlay(&base, &base.weights());
    Ok(table.owner.iter().zip(&table.secondary).map(|(o, s)| SlotWord::steady(*o, *s)).collect())
}

fn members() -> Vec<table::Member> {
    let id = |i| BackendId(SocketAddr::new(backend(false, i), 8080));
    (0..BACKENDS).map(|i| table::Member { id: id(i), weight: Weight::ONE }).collect()
}

fn backend(v6: bool, n: u32) -> IpAddr {
    if v6 { Ipv6Addr::from((0xfd00_0080_u128 << 96) + 1 + u128::from(n)).into() } else { Ipv4Addr::from(0x0a80_0000 + n).into() }
}

fn publish(case: &Case, slots: &[SlotWord], maps: &mut Maps<'_>) {
    let port = if matches!(case.mode(), Mode::Nat | Mode::Dnat) { 8080 } else { PORT };
    let services = (0..case.services).map(|service| {
        let member = |i: u32| {
            let n = service * BACKENDS + i;
            Member::new(i as u8, (backend(case.outer_v6(), n), port))
                .with(|m| (m.ifindex, m.tunnel.gue) = (INGRESS, case.outer == Outer::Gue))
        };
        let mut service = Service::new((case.vip(service), PORT), case.proto(), case.mode(), (0..BACKENDS).map(member).collect());
        case.protect(&mut service);
        service
    });
    let nat = Nat {
        ports: vec![32_768..=65_534],
        half_open_limit: u32::MAX >> 1,
        half_open_ticks: u32::MAX >> 1,
        established_ticks: u32::MAX >> 1,
        closing_ticks: u32::MAX >> 1,
        udp_ticks: u32::MAX >> 1,
        ..Nat::default()
    };
    nat.publish(maps);
    maps.config.hash_key = [0x0123_4567_89ab_cdef, 0x0f1e_2d3c_4b5a_6978];
    maps.config.sample_mask = Config::SAMPLE_MASK;
    let long = LedgerWord::SEEN / 2;
    maps.config.ledger = LedgerConfig { bucket_mask: maps.ledger.len() as u32 - 1, handshake_ticks: long, idle_ticks: long, shared: 0 };
    maps.slots[..slots.len()].copy_from_slice(slots);
    let table = TableRef::new(0, slots.len().trailing_zeros());
    let mut vips = Vec::new();
    for (i, service) in (0..).zip(services) {
        let base = i * BACKENDS;
        for (n, member) in (base..).zip(&service.members) {
            maps.backends[n as usize] = rows::backend(&service, member, n % STATS);
        }
        maps.services[i as usize + 1] = rows::service_info(&service, base);
        maps.prefixes.extend(rows::prefixes(i + 1, &service));
        vips.extend([rows::vip(i + 1, &service, table, base), rows::address(service.vip)]);
    }
    place(&vips, 0, maps);
}
