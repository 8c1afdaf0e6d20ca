//! The kernel half's maps and programs: from the object that the build embedded, on top of what is pinned already.

use std::{os::fd::AsFd, path::Path, sync::Arc};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError, MapInfo, ProgramArray, RingBuf, lpm_trie::Key},
    programs::{Program, SchedClassifier, Xdp},
};
use bytemuck::Pod;
use mesh_common::{
    abi::{
        BackendStats, Explained, FRAGMENTED, LEDGER_WAYS, LedgerStats, REASONS, ReasonStats, SOURCE_PREFIXES, ScheduleStats, SlotsRefused,
        SlotsSeen, Table, map, program,
    },
    guard,
};

use super::{
    clock::Jiffies,
    counters::Stats,
    error::DataplaneError,
    image::{Image, Row},
    lists::Trie,
    options::{Limits, Options},
    pins::{self, Pins},
    quic::Ids,
    tables::Tables,
    vip_index,
};

/// The kernel half, built from source by the build.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-datapath"));

const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_MAP_TYPE_PERCPU_ARRAY: u32 = 6;
const BPF_MAP_TYPE_LPM_TRIE: u32 = 11;
const BPF_F_NO_PREALLOC: u32 = 1;

/// Entries of the flow map for two flows: where two of three places are taken, a new flow finds one in its tries, but for a few in a million.
const ENTRIES_FOR_TWO: u32 = 3;
/// Flows for each bucket of the index: four words for each flow, so that eight of one bucket are rare.
const FLOWS_PER_BUCKET: u32 = 2;

/// What has been loaded.
pub struct Loaded {
    pub ebpf: Ebpf,
    /// The programs that are not loaded yet know them by descriptor.
    _tables: Tables,
    rest: ProgramArray<MapData>,
    pub image: Image,
    pub stats: Stats,
    pub explained: Row<Explained>,
    /// Where flows are sampled, and nobody has taken it.
    pub flows: Option<RingBuf<MapData>>,
    /// The maps were there before.
    pub reused: bool,
    pub sizes: Sizes,
}

/// A map as it has to be.
struct Shape {
    name: &'static str,
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

/// Numbers of elements that follow from the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    pub vips: u32,
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
    pub ledger_buckets: u32,
    pub nat_flows: u32,
    pub nat_buckets: u32,
    pub flow_buckets: u32,
}

impl Sizes {
    pub fn of(limits: &Limits) -> Self {
        let nat_flows = limits.nat_flows.clamp(FLOWS_PER_BUCKET, 1 << 30).next_power_of_two();
        Self {
            vips: 2 * vip_index::half_size(limits.services.min(1 << 26)),
            services: limits.services.min(1 << 26) + 1,
            slots: limits.slots.max(1),
            backends: limits.backends.max(1),
            ledger_buckets: (limits.ledger.clamp(LEDGER_WAYS as u32, 1 << 26) / LEDGER_WAYS as u32).next_power_of_two(),
            nat_flows: nat_flows / 2 * ENTRIES_FOR_TWO,
            nat_buckets: nat_flows / FLOWS_PER_BUCKET,
            flow_buckets: limits.flows.clamp(FLOWS_PER_BUCKET, 1 << 24).next_power_of_two() / FLOWS_PER_BUCKET,
        }
    }

    /// Number of entries of a table.
    const fn entries(&self, table: Table) -> u32 {
        match table {
            Table::Config | Table::LedgerCrowd | Table::NatGauges => 1,
            Table::Vips => self.vips,
            Table::Services | Table::Schedules => self.services,
            Table::Slots => self.slots,
            Table::SlotsSeen => self.slots.div_ceil(SlotsSeen::SLOTS),
            Table::SlotsRefused => self.slots.div_ceil(SlotsRefused::SLOTS),
            Table::LedgerTags | Table::Ledger => self.ledger_buckets,
            Table::Backends | Table::BackendSignals | Table::BackendLoads => self.backends,
            Table::NatIndex => self.nat_buckets,
            Table::NatFlows => self.nat_flows,
            Table::Fragments => FRAGMENTED,
            Table::Pacers => guard::PACERS,
            Table::Flows => self.flow_buckets,
        }
    }

    fn shapes(&self) -> [Shape; 7] {
        fn percpu<T>(name: &'static str, entries: u32) -> Shape {
            Shape { name, kind: BPF_MAP_TYPE_PERCPU_ARRAY, key_size: 4, value_size: size_of::<T>() as u32, entries, flags: 0 }
        }
        [
            percpu::<LedgerStats>(map::LEDGER_STATS, 1),
            percpu::<ScheduleStats>(map::SCHEDULE_STATS, 1),
            percpu::<BackendStats>(map::BACKEND_STATS, self.backends),
            percpu::<ReasonStats>(map::REASON_STATS, self.services * REASONS),
            Shape {
                name: map::SOURCES,
                kind: BPF_MAP_TYPE_LPM_TRIE,
                key_size: size_of::<Key<[u32; 5]>>() as u32,
                value_size: size_of::<u32>() as u32,
                entries: SOURCE_PREFIXES,
                flags: BPF_F_NO_PREALLOC,
            },
            Shape {
                name: map::QUIC_IDS,
                kind: BPF_MAP_TYPE_HASH,
                key_size: size_of::<u64>() as u32,
                value_size: size_of::<u32>() as u32,
                // While their length changes, a service's backends have two each.
                entries: self.backends.saturating_mul(2),
                flags: BPF_F_NO_PREALLOC,
            },
            // A map of programs forgets them when nobody holds it but programs: its pin does.
            Shape { name: map::XDP_REST, kind: BPF_MAP_TYPE_PROG_ARRAY, key_size: 4, value_size: 4, entries: 1, flags: 0 },
        ]
    }
}

/// Creates the maps, or takes over those that are pinned, and parses the programs. Loads no program yet.
pub fn load(options: &Options, pins: &Pins) -> Result<Loaded, DataplaneError> {
    let sizes = Sizes::of(&options.limits);
    let shapes = sizes.shapes();
    let (tables, mut reused) = Tables::open(|table| sizes.entries(table), |name| pins.object(name))?;
    for shape in &shapes {
        reused |= check_pin(&pins.object(shape.name), shape)?;
    }
    let level = options.kernel_log as u8;
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, false);
    let jiffies = Jiffies::measure()?;
    jiffies.tell(&mut loader);
    for shape in &shapes {
        loader.map_max_entries(shape.name, shape.entries);
        loader.map_pin_path(shape.name, pins.object(shape.name));
    }
    if options.flow_sample == 0 {
        // The loader makes it a page.
        loader.map_max_entries(map::FLOW_RECORDS, 1);
    }
    let mut ebpf = loader.load(&tables.object(OBJECT)?).map_err(DataplaneError::Load)?;
    let image = Image {
        config: tables.row(Table::Config)?,
        vips: tables.row(Table::Vips)?,
        services: tables.row(Table::Services)?,
        slots: tables.row(Table::Slots)?,
        slots_seen: tables.row(Table::SlotsSeen)?,
        slots_refused: tables.row(Table::SlotsRefused)?,
        ledger_tags: Arc::new(tables.row(Table::LedgerTags)?),
        ledger: Arc::new(tables.row(Table::Ledger)?),
        backends: tables.row(Table::Backends)?,
        nat_flows: tables.row(Table::NatFlows)?,
        nat_gauges: tables.row(Table::NatGauges)?,
        signals: tables.row(Table::BackendSignals)?,
        schedules: tables.row(Table::Schedules)?,
        loads: tables.row(Table::BackendLoads)?,
        remembered: tables.row(Table::Flows)?,
        lists: Trie::map(take(&mut ebpf, map::SOURCES)?),
        ids: Ids::map(take(&mut ebpf, map::QUIC_IDS)?),
    };
    let stats = Stats {
        reasons: take(&mut ebpf, map::REASON_STATS)?,
        ledger: take(&mut ebpf, map::LEDGER_STATS)?,
        choices: take(&mut ebpf, map::SCHEDULE_STATS)?,
        backends: take(&mut ebpf, map::BACKEND_STATS)?,
        flows: take(&mut ebpf, map::FLOW_LOG_STATS)?,
    };
    let flows = if options.flow_sample == 0 { None } else { Some(take(&mut ebpf, map::FLOW_RECORDS)?) };
    let rest = take(&mut ebpf, map::XDP_REST)?;
    let explained = row(&ebpf, map::EXPLAINED, 1)?;
    Ok(Loaded { ebpf, _tables: tables, rest, image, stats, explained, flows, reused, sizes })
}

impl Loaded {
    /// The XDP program, loaded and pinned at the first call, with the one that it calls.
    pub fn xdp(&mut self, pins: &Pins) -> Result<&mut Xdp, DataplaneError> {
        if self.xdp_program()?.fd().is_err() {
            load_xdp(&mut self.ebpf, &mut self.rest)?;
            let path = fresh(pins, program::XDP)?;
            self.xdp_program()?.pin(&path).map_err(|source| DataplaneError::Pin { path, source })?;
        }
        self.xdp_program()
    }

    fn xdp_program(&mut self) -> Result<&mut Xdp, DataplaneError> {
        xdp_program(&mut self.ebpf, program::XDP)
    }

    /// The TC program, loaded and pinned at the first call.
    pub fn tc(&mut self, pins: &Pins) -> Result<&mut SchedClassifier, DataplaneError> {
        let refused = DataplaneError::program(program::TC);
        let tc: &mut SchedClassifier = self.program(program::TC)?.try_into().map_err(&refused)?;
        if tc.fd().is_err() {
            tc.load().map_err(&refused)?;
            let path = fresh(pins, program::TC)?;
            tc.pin(&path).map_err(|source| DataplaneError::Pin { path, source })?;
        }
        Ok(tc)
    }

    /// Loads the program that only looks, which is attached nowhere.
    pub fn explain(&mut self) -> Result<(), DataplaneError> {
        xdp_program(&mut self.ebpf, program::EXPLAIN)?.load().map_err(DataplaneError::program(program::EXPLAIN))
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Program, DataplaneError> {
        self.ebpf.program_mut(name).ok_or(DataplaneError::Object { kind: "program", name })
    }
}

/// Loads the XDP program, which leaves what is unlike most packets to another one: that has to be in its place before.
pub fn load_xdp(ebpf: &mut Ebpf, rest: &mut ProgramArray<MapData>) -> Result<(), DataplaneError> {
    let other = xdp_program(ebpf, program::XDP_REST)?;
    other.load().map_err(DataplaneError::program(program::XDP_REST))?;
    let fd = other.fd().map_err(DataplaneError::program(program::XDP_REST))?;
    rest.set(0, fd, 0).map_err(|source| DataplaneError::Map { name: map::XDP_REST, source })?;
    xdp_program(ebpf, program::XDP)?.load().map_err(DataplaneError::program(program::XDP))
}

fn xdp_program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DataplaneError> {
    let program = ebpf.program_mut(name).ok_or(DataplaneError::Object { kind: "program", name })?;
    program.try_into().map_err(DataplaneError::program(name))
}

/// The pin of a program, free of an earlier version of it.
fn fresh(pins: &Pins, name: &str) -> Result<std::path::PathBuf, DataplaneError> {
    let path = pins.object(name);
    pins::remove(&path)?;
    Ok(path)
}

/// Compares a pinned map with what it has to be; the loader would take whatever it finds. Tells whether there is one.
fn check_pin(path: &Path, shape: &Shape) -> Result<bool, DataplaneError> {
    if !path.exists() {
        return Ok(false);
    }
    let info = MapInfo::from_pin(path).map_err(|source| DataplaneError::Map { name: shape.name, source })?;
    let kind = info.map_type().map(|t| t as u32).map_err(|source| DataplaneError::Map { name: shape.name, source })?;
    let fields = [
        ("map type", kind, shape.kind),
        ("key size", info.key_size(), shape.key_size),
        ("value size", info.value_size(), shape.value_size),
        ("number of elements", info.max_entries(), shape.entries),
        ("flags", info.map_flags(), shape.flags),
    ];
    pins::compare(path, &fields).map(|()| true)
}

fn row<T: Pod>(ebpf: &Ebpf, name: &'static str, len: u32) -> Result<Row<T>, DataplaneError> {
    // The map stays in there: programs that are loaded later name it by its descriptor.
    let Some(Map::Array(map)) = ebpf.map(name) else { return Err(DataplaneError::Object { kind: "map", name }) };
    Row::map(map.fd().as_fd(), len as usize).map_err(|source| DataplaneError::Mapping { name, source })
}

/// Takes a map out of the object, as what it is.
pub(super) fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DataplaneError> {
    let map = ebpf.take_map(name).ok_or(DataplaneError::Object { kind: "map", name })?;
    map.try_into().map_err(|source| DataplaneError::Map { name, source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The loader knows functions that are called by their address alone, counted from the beginning of their section.
    #[test]
    fn no_two_functions_stand_at_one_address() {
        let object = aya_obj::Object::parse(OBJECT).unwrap();
        let programs: BTreeSet<_> = object.programs.values().map(|program| program.function_key()).collect();
        let called: Vec<_> = object.functions.iter().filter(|(key, _)| !programs.contains(key)).collect();
        let addresses: BTreeSet<_> = called.iter().map(|(_, function)| function.address).collect();
        assert!(called.len() > 20 && addresses.len() == called.len(), "{} functions have {} addresses", called.len(), addresses.len());
    }
}
