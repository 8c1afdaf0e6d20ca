//! The only room that knows aya and netlink: load, attach, pins, and the reconciliation of a plan with the maps.

mod adopt;
mod agent;
mod attach;
pub mod clock;
mod counters;
mod detach;
pub mod entry;
mod error;
mod explain;
pub mod extents;
mod filter;
mod flow_records;
mod flow_watch;
mod grace;
pub mod image;
mod journeys;
mod kernel_log;
pub mod layout;
pub mod ledger;
mod lists;
mod load;
mod nat;
pub mod net;
pub mod op;
mod options;
mod owner;
mod peers;
mod pins;
mod probe;
mod quic;
pub mod reconcile;
pub mod replica;
mod report;
mod retire;
mod schedules;
mod settings;
pub mod source_ports;
mod sources;
mod sweep;
pub mod tables;
pub mod vip_index;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_common::abi::{BackendSignals, FlowLogStats, FlowRecord, NatConfig};

pub use adopt::Contradiction;
pub use agent::AgentPlane;
use counters::Gone;
pub use counters::{BackendRows, Sum, totals};
pub use detach::Detached;
use entry::Hop;
pub use error::DataplaneError;
pub use explain::{Choice, Edit, Explanation, Owner, Way};
pub use flow_records::FlowRecords;
pub use flow_watch::{FlowChange, FlowNote};
use grace::grace_period;
pub use kernel_log::{KernelLog, KernelLogError};
use layout::Layout;
pub use layout::LayoutError;
use load::Loaded;
pub use load::load_xdp;
use mesh_common::ledger::change::Times;
use net::nexthop::Resolution;
use op::Op;
pub use options::{HookChoice, InterfaceOptions, LedgerTimes, Limits, NatOptions, NatTimeouts, Options};
use pins::Pins;
pub use probe::ProbePlane;
use reconcile::{Batch, Hops, Translation, nodes::key, standings::Clock};
pub use report::{
    Adopted, AdoptedService, AttachedIface, Counters, Hook, Journey, NatReport, OpenFlows, Published, ServiceCounters, Settled,
};
pub use schedules::Remembered;

use crate::{
    model::{BackendId, Epoch, ServiceName, VipAddr},
    peers::ledger::link::Link,
    plan::{Plan, ServicePlan},
};

/// A batch that takes longer than this waits for packets under way before it counts as done: what it gave up is reused after a fixed time.
const QUICK: Duration = Duration::from_millis(20);

/// The loaded kernel half of one instance, and all that is published in it.
///
/// Dropping it leaves everything pinned: packets are forwarded by what was published last.
pub struct Dataplane {
    pins: Pins,
    loaded: Loaded,
    layout: Layout,
    sources: Vec<IpAddr>,
    nat: NatConfig,
    times: Times,
    sweeper: nat::Sweeper,
    sweeping: Option<sweep::Sweeping>,
    interfaces: Vec<AttachedIface>,
    epoch: Epoch,
    gone: Gone,
    /// What was published whole; empty = nothing was.
    applied: Vec<Arc<ServicePlan>>,
    /// Why the program that only looks could not be loaded.
    unexplained: Option<String>,
    /// Slots that came to rest since the start.
    settled: Settled,
    /// Other balancers of the same services.
    peers: Option<Arc<Link>>,
    /// How often one of them has not taken in what it was told, as known when they were looked at last.
    given_up: u64,
    response_times: schedules::Times,
    /// Backends that were removed and that QUIC packets still name.
    leaving: quic::Leaving,
}

impl Hops for BTreeMap<IpAddr, Resolution> {
    fn hop(&self, addr: IpAddr) -> Option<Hop> {
        match self.get(&addr)? {
            Resolution::Ready(hop) => Some(Hop {
                ifindex: hop.ifindex,
                dst_mac: hop.dst_mac,
                src_mac: hop.src_mac,
                mtu: u16::try_from(hop.mtu).unwrap_or(u16::MAX),
                source: hop.source,
            }),
            Resolution::NotReady(_) => None,
        }
    }
}

impl Dataplane {
    /// Loads the kernel half and attaches it, or takes over what an earlier life of the daemon has left: maps, links, and what is published.
    ///
    /// Programs and links are swapped without a gap. Where an interface fails, those before it stay attached.
    pub fn open(options: &Options) -> Result<(Self, Adopted), DataplaneError> {
        let pins = Pins::open(&options.bpffs, &options.instance)?;
        let mut loaded = load::load(options, &pins)?;
        let (layout, repairs) = adopt::adopt(&loaded.image, &options.limits, Instant::now())?;
        execute(&loaded.image, &repairs);
        if !repairs.is_empty() {
            grace_period();
        }
        let mut ports = options.nat.ports.clone();
        if ports.is_empty() {
            ports.extend(source_ports::free());
        }
        let nat = nat::config(&options.nat, &loaded.sizes, &ports);
        let times = ledger::times(&options.ledger);
        ledger::publish(&loaded.image, &times, options.shared);
        settings::publish(&loaded.image, options.hash_key, options.flow_sample, &nat)?;
        let adopted = Adopted { reused: loaded.reused, services: adopt::describe(&loaded.image, &layout) };
        let interfaces = Self::attach(&mut loaded, &pins, options)?;
        // Nothing is forwarded by it, so that a kernel that refuses it is none the worse.
        let unexplained = loaded.explain().err().map(|error| error.to_string());
        if let Some(why) = &unexplained {
            log::warn!("`mesh explain` is not to be had: {why}");
        }
        let plane = Self {
            pins,
            loaded,
            layout,
            sources: options.nat.sources.clone(),
            nat,
            times,
            sweeper: nat::Sweeper::watching(options.flow_sample),
            sweeping: None,
            interfaces,
            epoch: Epoch::default(),
            gone: Gone::default(),
            applied: Vec::new(),
            unexplained,
            settled: Settled::default(),
            peers: None,
            given_up: 0,
            response_times: schedules::Times::default(),
            leaving: quic::Leaving::default(),
        };
        Ok((plane, adopted))
    }

    fn attach(loaded: &mut Loaded, pins: &Pins, options: &Options) -> Result<Vec<AttachedIface>, DataplaneError> {
        let others: Vec<_> = pins::versions(&options.bpffs, &options.instance)?.into_iter().filter(|dir| dir != pins.dir()).collect();
        attach::detach_others(pins, &options.interfaces)?;
        options.interfaces.iter().map(|wanted| attach::attach(loaded, pins, &others, wanted)).collect()
    }

    /// Publishes `plan`: packets go by it when this returns. `hops`: where frames to each backend's address go.
    ///
    /// Services that there is no room for are refused, and stay as they were. Usually takes microseconds; up to a tenth of a second where a
    /// service has outgrown its place, or other VIPs come so soon that packets may still be reading the table before the last.
    pub fn apply(&mut self, plan: &Plan, hops: &BTreeMap<IpAddr, Resolution>) -> Published {
        self.hear_peers();
        let clock = self.clock();
        let translation = Translation { sources: &self.sources, ports: self.nat.ports.count > 0 };
        let batch = reconcile::reconcile(&self.loaded.image, &mut self.layout, &plan.services, hops, &translation, clock);
        self.carry_out(batch, plan)
    }

    /// The same where it is known what has changed since the last publication: next hops of the addresses in `rerouted`, and services whose plan is not the
    /// same value as then. Takes time in proportion to that.
    pub fn apply_changes(&mut self, plan: &Plan, hops: &BTreeMap<IpAddr, Resolution>, rerouted: &BTreeSet<IpAddr>) -> Published {
        let touched = |_, service: &ServicePlan| !rerouted.is_empty() && service.members.iter().any(|m| rerouted.contains(&m.id.0.ip()));
        self.apply_some(plan, hops, touched, self.clock())
    }

    /// Compares a part of the services with the maps, by their place in the plan, and puts right what differs.
    pub fn repair(&mut self, plan: &Plan, hops: &BTreeMap<IpAddr, Resolution>, part: std::ops::Range<usize>) -> Published {
        let clock = self.clock();
        // A step of a slot on its way that is due now is no difference.
        self.step_at(plan, hops, clock);
        self.apply_some(plan, hops, |place, _| part.contains(&place), clock)
    }

    /// Takes slots on their way one step further.
    pub fn step(&mut self, plan: &Plan, hops: &BTreeMap<IpAddr, Resolution>) -> Published {
        self.step_at(plan, hops, self.clock())
    }

    fn step_at(&mut self, plan: &Plan, hops: &BTreeMap<IpAddr, Resolution>, clock: Clock) -> Published {
        self.hear_peers();
        let asked = self.asked();
        let place = |name: &ServiceName| plan.services.binary_search_by(|s| s.name.cmp(name)).ok();
        let on_their_way = self.layout.stirring().filter(|s| !s.moves.at_rest()).filter_map(|s| s.name.as_ref());
        let moving: HashSet<usize> = on_their_way.filter_map(place).collect();
        let asked_for = |service: &ServicePlan| !asked.is_empty() && asked.contains(&key(&service.vip));
        self.apply_some(plan, hops, |place, service| moving.contains(&place) || asked_for(service), clock)
    }

    fn apply_some(
        &mut self,
        plan: &Plan,
        hops: &BTreeMap<IpAddr, Resolution>,
        look_at: impl Fn(usize, &ServicePlan) -> bool,
        clock: Clock,
    ) -> Published {
        let translation = Translation { sources: &self.sources, ports: self.nat.ports.count > 0 };
        let services = (&self.applied[..], &plan.services[..]);
        let (image, layout) = (&self.loaded.image, &mut self.layout);
        match reconcile::reconcile_some(image, layout, services, look_at, (hops, &translation), clock) {
            Some(batch) => self.carry_out(batch, plan),
            None => self.apply(plan, hops),
        }
    }

    fn carry_out(&mut self, Batch { ops, refused }: Batch, plan: &Plan) -> Published {
        execute(&self.loaded.image, &ops);
        schedules::publish(&self.loaded.image, &self.layout, &self.applied, &plan.services);
        if !ops.is_empty() {
            self.epoch = Epoch(self.epoch.0 + 1);
        }
        self.tell_peers();
        self.remember(plan, refused.is_empty());
        Published { epoch: self.epoch, ops: ops.len(), slots_written: ops.iter().map(Op::slots_written).sum(), refused }
    }

    /// Remembers what was published. A service that stayed is not touched: ten thousand would take longer than the change.
    fn remember(&mut self, plan: &Plan, whole: bool) {
        if !whole {
            self.applied = Vec::new();
        } else if self.applied.len() == plan.services.len() {
            let pairs = self.applied.iter_mut().zip(&plan.services);
            pairs.filter(|(old, new)| !Arc::ptr_eq(old, new)).for_each(|(old, new)| old.clone_from(new));
        } else {
            self.applied.clone_from(&plan.services);
        }
    }

    /// How handshakes with the backends of each service went so far, by the addresses of both. Takes no system call.
    pub fn signals(&self) -> impl Iterator<Item = (VipAddr, BackendId, BackendSignals)> {
        self.layout.services.values().flat_map(|service| {
            let signals = |stats: u32| self.loaded.image.signals.get(stats as usize);
            service.present().map(move |(_, entry)| (service.vip, entry.id, signals(entry.stats)))
        })
    }

    fn clock(&self) -> Clock {
        Clock { now: nat::tick(), instant: Instant::now(), times: self.times }
    }

    /// All counters, summed over the CPUs.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        self.loaded.stats.read(&self.layout, &self.loaded.image.signals, &self.gone)
    }

    /// Counters of one service; `None` = no such VIP was published.
    pub fn service_counters(&self, vip: VipAddr) -> Result<Option<ServiceCounters>, DataplaneError> {
        let service = self.layout.find(&layout::vip_key(&vip)).and_then(|id| self.layout.services.get(&id));
        service.map(|s| self.loaded.stats.of_service(s, &self.loaded.image.signals, &self.gone)).transpose()
    }

    /// Counters of backends alone, by service: cheap enough to be read every few milliseconds.
    pub fn backend_stats(&self) -> Result<BackendRows, DataplaneError> {
        self.loaded.stats.backends(&self.layout, &self.loaded.image.signals)
    }

    /// Has connections of more flows timed, or of as few as ever.
    pub fn time_many(&self, many: bool) {
        settings::watch_many(&self.loaded.image, many);
    }

    /// Beginnings of sampled flows that nobody translates; `None` where no flows are sampled. Needs a tokio runtime with IO; works once.
    pub fn flow_records(&mut self) -> io::Result<Option<FlowRecords>> {
        self.loaded.flows.take().map(FlowRecords::watch).transpose()
    }

    /// What such records say of flows.
    pub fn flow_notes(&self, records: &[FlowRecord]) -> Vec<FlowNote> {
        flow_records::notes(records, &self.layout, flow_records::nanoseconds())
    }

    /// How many such records there were, and how many were lost, for which there was no room.
    pub fn flow_log_stats(&self) -> Result<FlowLogStats, DataplaneError> {
        self.loaded.stats.flow_log()
    }

    /// Interfaces that packets are balanced on, in the order of the options.
    pub fn interfaces(&self) -> &[AttachedIface] {
        &self.interfaces
    }

    /// Secret of the flow hash: the configured one, or the one that was drawn when the maps were made.
    pub fn hash_key(&self) -> [u64; 2] {
        settings::hash_key(&self.loaded.image)
    }

    /// Version of what is published.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where the maps, programs and links are pinned.
    pub fn pin_dir(&self) -> &Path {
        self.pins.dir()
    }

    /// Hands what the kernel half says to the daemon's log. Needs a tokio runtime with IO; works once.
    pub fn kernel_log(&mut self) -> Result<KernelLog, KernelLogError> {
        kernel_log::start(&mut self.loaded.ebpf)
    }

    /// Ends all forwarding of an instance whose daemon does not run, and forgets its maps. An instance that is not there is a success.
    pub fn detach(bpffs: &Path, instance: &str) -> Result<Detached, DataplaneError> {
        detach::detach(bpffs, instance)
    }
}

fn execute(image: &image::Image, ops: &[Op]) {
    let began = Instant::now();
    ops.iter().for_each(|op| op.apply(image, &mut grace_period));
    if !ops.is_empty() && began.elapsed() > QUICK {
        grace_period();
    }
}
