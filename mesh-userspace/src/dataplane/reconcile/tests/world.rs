//! A model of the kernel half and of the daemon's life around it.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_common::{
    abi::{BackendState, Config, DISPLACEMENTS, Mode, NAT_SOURCES, ServiceInfo, SlotWord, Vip, VipKey, VipKind},
    hash,
    ledger::change::Times,
};
use proptest::prelude::*;

use super::{Act, LIMITS, WantedService, backend_id, plan_of, vip_addr};
use crate::{
    dataplane::{
        adopt::adopt,
        entry::Hop,
        extents::GRACE,
        image::Image,
        layout::{Layout, Service, address_key, vip_key},
        op::Op,
        reconcile::{Batch, Hops, Translation, reconcile, reconcile_some, standings::Clock},
        retire::{self, Live},
        vip_index::half_of,
    },
    plan::{Plan, ServicePlan},
};

const TRANSLATION: Translation<'static> = Translation { sources: &[], ports: true };

const TIMES: Times = Times { handshake: 1, idle: 2, patience: 1, lag: 1 };
/// More than a slot takes from one owner to the next.
const STEPS: usize = 24;

/// What a packet under way has read, and when.
struct Read {
    at: Instant,
    base: u32,
    local: u16,
    addr: [u8; 16],
}

/// A translated flow.
pub struct Flow {
    service: u32,
    local: u16,
    addr: [u8; 16],
}

/// The maps, the daemon's layout, the clock, and what packets and flows rely on.
pub struct World {
    pub image: Image,
    pub layout: Layout,
    pub now: Instant,
    /// The kernel half's clock.
    tick: u32,
    reads: Vec<Read>,
    vips: Vec<(Instant, Vip)>,
    pub flows: Vec<Flow>,
    flipped: Option<Instant>,
    pub hops: HopTable,
    published: HashMap<VipKey, Arc<ServicePlan>>,
    /// What was published whole, with which next hops.
    applied: Option<(Vec<Arc<ServicePlan>>, HopTable)>,
    /// What was wanted last.
    wanted: Vec<WantedService>,
    /// The last publication was cut off.
    pub cut_off: bool,
}

#[derive(Clone, PartialEq, Default)]
pub struct HopTable(BTreeMap<IpAddr, Hop>);

impl Hops for HopTable {
    fn hop(&self, addr: IpAddr) -> Option<Hop> {
        self.0.get(&addr).copied()
    }
}

impl World {
    pub fn new() -> Self {
        let layout = Layout::new(&LIMITS);
        let vips = 2 * layout.half_size as usize;
        let image = Image::heap(vips, LIMITS.services as usize + 1, LIMITS.slots as usize, LIMITS.backends as usize, 16);
        Self {
            image,
            layout,
            now: Instant::now(),
            tick: 1000,
            reads: Vec::new(),
            vips: Vec::new(),
            flows: Vec::new(),
            flipped: None,
            hops: HopTable::default(),
            published: HashMap::new(),
            applied: None,
            wanted: Vec::new(),
            cut_off: false,
        }
    }

    pub fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        self.happens(act)?;
        let missed = self.layout.services.values().find(|s| s.is_astir() && !self.layout.astir.contains(&s.id));
        prop_assert!(missed.is_none(), "nobody looks at {missed:?} after {act:?}");
        Ok(())
    }

    fn happens(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match act {
            Act::Publish { services, ready, source } => {
                self.set_hops(*ready, *source);
                self.wanted.clone_from(services);
                self.publish(&plan_of(services), usize::MAX).map(drop)
            }
            Act::Alter { pick, like, rerouted } => {
                if let Some((ready, source)) = rerouted {
                    self.set_hops(*ready, *source);
                }
                let at = pick % self.wanted.len().max(1);
                if let Some(service) = self.wanted.get_mut(at) {
                    *service = WantedService { vip: service.vip, nat: service.nat, ..like.clone() };
                }
                // Who is not altered is the very same as before.
                let before = self.applied.as_ref().map(|(services, _)| services.clone()).unwrap_or_default();
                let mut plan = plan_of(&self.wanted);
                for service in &mut plan.services {
                    if let Some(same) = before.iter().find(|old| *old == service) {
                        *service = same.clone();
                    }
                }
                self.publish(&plan, usize::MAX).map(drop)
            }
            Act::Crash { services, after } => {
                self.publish(&plan_of(services), *after)?;
                self.applied = None;
                let (layout, repairs) = adopt(&self.image, &LIMITS, self.now).map_err(|e| TestCaseError::fail(e.to_string()))?;
                self.layout = layout;
                self.execute(&repairs, usize::MAX)?;
                self.grace();
                Ok(())
            }
            Act::Sweep => self.sweep(),
            Act::OpenFlow { service, slot } => {
                let services: Vec<_> = self.layout.services.values().filter(|s| s.position.is_some() && s.mode == Mode::Nat).collect();
                let Some(service) = services.get(service % services.len().max(1)) else { return Ok(()) };
                let Some(table) = service.table else { return Ok(()) };
                let word =
                    self.image.slots.table(table.base(), 1 << table.log2_slots()).nth(slot % (1 << table.log2_slots())).unwrap_or_default();
                let entry = self.image.backends.get(service.base as usize + usize::from(word.target()));
                if word.target() != SlotWord::NONE && BackendState::from_u8(entry.state).takes_new() {
                    self.flows.push(Flow { service: service.id, local: word.target(), addr: entry.addr.0 });
                }
                Ok(())
            }
            Act::CloseFlow { flow } => {
                if !self.flows.is_empty() {
                    self.flows.swap_remove(flow % self.flows.len());
                }
                Ok(())
            }
        }
    }

    fn set_hops(&mut self, ready: u16, source: u8) {
        let hop = |i: usize| Hop {
            ifindex: 2 + i as u32 % 2,
            dst_mac: [2, 0, 0, 0, source, i as u8],
            src_mac: [2, 1, 0, 0, 0, 1],
            mtu: 1500,
            source: if backend_id(i).0.is_ipv4() {
                IpAddr::from([10, 9, source, 1])
            } else {
                IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(source)])
            },
        };
        self.hops.0 = (0..16).filter(|i| ready >> i & 1 == 1).map(|i| (backend_id(i).0.ip(), hop(i))).collect();
    }

    pub fn publish(&mut self, plan: &Plan, stores: usize) -> Result<(), TestCaseError> {
        // Only what is published for the first time has just come.
        self.layout.services.values_mut().for_each(|s| s.coming = None);
        let some = self.applied.take().and_then(|(before, hops)| {
            let rerouted = hops != self.hops;
            let (services, with) = ((&before[..], &plan.services[..]), (&self.hops, &TRANSLATION));
            let clock = self.clock();
            reconcile_some(&self.image, &mut self.layout, services, |_, _| rerouted, with, clock)
        });
        let batch = some.unwrap_or_else(|| self.reconcile(plan));
        if !self.execute(&batch.ops, stores)? {
            return Ok(());
        }
        // Slots whose flows nobody translates take their time.
        for _ in 0..STEPS {
            self.tick += 4;
            let ops = self.reconcile(plan).ops;
            self.execute(&ops, usize::MAX)?;
        }
        let refused: Vec<_> = batch.refused.iter().map(|(name, _)| name).collect();
        for service in &plan.services {
            if refused.contains(&&service.name) {
                continue;
            }
            self.published.insert(vip_key(&service.vip), service.clone());
            self.check_published(service)?;
        }
        for vip in 0..6 {
            let vip = vip_addr(vip);
            let planned = plan.services.iter().any(|s| s.vip == vip && !refused.contains(&&s.name));
            let kept = plan.services.iter().any(|s| s.vip == vip);
            let found = self.find(&vip_key(&vip)).is_some();
            prop_assert!(found || !planned, "{vip} is not found");
            prop_assert!(!found || kept, "{vip} is found still");
            prop_assert_eq!(
                self.find(&address_key(&vip_key(&vip))).is_some(),
                plan.services.iter().any(|s| s.vip.addr == vip.addr && self.find(&vip_key(&s.vip)).is_some())
            );
        }
        // The same once more changes nothing, all looked at.
        if refused.is_empty() {
            self.applied = Some((plan.services.clone(), self.hops.clone()));
            let again = self.reconcile(plan);
            prop_assert!(again.ops.is_empty(), "published twice: {:?}", again.ops);
        }
        Ok(())
    }

    fn reconcile(&mut self, plan: &Plan) -> Batch {
        let clock = self.clock();
        reconcile(&self.image, &mut self.layout, &plan.services, &self.hops, &TRANSLATION, clock)
    }

    fn clock(&self) -> Clock {
        Clock { now: self.tick, instant: self.now, times: TIMES }
    }

    /// Executes step by step. Tells whether all was done.
    fn execute(&mut self, ops: &[Op], mut stores: usize) -> Result<bool, TestCaseError> {
        self.look();
        for op in ops.iter().flat_map(single_stores) {
            if stores == 0 {
                self.cut_off = true;
                return Ok(false);
            }
            stores -= 1;
            self.check_op(&op)?;
            let mut waited = false;
            op.apply(&self.image, &mut || waited = true);
            if waited {
                self.grace();
            }
            if let Op::Active { .. } = op {
                self.flipped = Some(self.now);
            }
            self.look();
            self.check_reads()?;
        }
        Ok(true)
    }

    fn check_op(&self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Slots { changes } => {
                let (at, word) = changes[0];
                prop_assert_ne!(self.image.slots.get(at as usize), word, "slot {} is written without a change", at);
            }
            Op::Table { base, slots } => {
                let end = base + slots.len() as u32;
                for (_, vip) in &self.vips {
                    let (at, len) = (vip.table.base(), 1 << vip.table.log2_slots());
                    prop_assert!(end <= at || at + len <= *base, "a table that packets may read is overwritten");
                }
            }
            Op::Index(table) => {
                prop_assert_ne!(u64::from(table.number), u64::from(Config::half_number(self.image.config.word(0, 0) as u32)));
                prop_assert!(self.flipped.is_none_or(|at| self.now - at >= GRACE), "the other half may still be read");
            }
            _ => {}
        }
        Ok(())
    }

    /// Packets come: they read VIPs, slots and backends.
    fn look(&mut self) {
        for vip in self.reachable() {
            let named = self.named(&vip);
            let slots = self.image.slots.table(vip.table.base(), 1 << vip.table.log2_slots());
            for owners in
                slots.map(|word| [word.target(), word.default(), word.secondary()]).chain(named.into_iter().map(|(_, local)| [local; 3]))
            {
                for local in owners.into_iter().filter(|l| *l != SlotWord::NONE) {
                    let addr = self.image.backends.get((vip.backend_base + u32::from(local)) as usize).addr.0;
                    let known = |r: &Read| (r.base, r.local, r.addr) == (vip.backend_base, local, addr);
                    match self.reads.iter_mut().find(|r| known(r)) {
                        Some(read) => read.at = self.now,
                        None => self.reads.push(Read { at: self.now, base: vip.backend_base, local, addr }),
                    }
                }
            }
            match self.vips.iter_mut().find(|(_, v)| *v == vip) {
                Some(seen) => seen.0 = self.now,
                None => self.vips.push((self.now, vip)),
            }
        }
    }

    fn check_reads(&self) -> Result<(), TestCaseError> {
        // Every backend that a packet may be on its way to is there, and the same.
        for read in &self.reads {
            let entry = self.image.backends.get((read.base + u32::from(read.local)) as usize);
            prop_assert_ne!(entry.state, BackendState::Absent as u8, "a slot points at an absent backend");
            prop_assert_eq!(entry.addr.0, read.addr, "a slot points at another backend than before");
        }
        // Who has read a VIP and reads its slots now comes to the same backends as who reads both now.
        for (_, old) in &self.vips {
            let Some(new) = self.find(&VipKey { addr: old.addr, port: old.port, proto: old.proto, family: old.family }) else { continue };
            for word in self.image.slots.table(old.table.base(), 1 << old.table.log2_slots()).filter(|w| w.target() != SlotWord::NONE) {
                let at = |vip: &Vip| self.image.backends.get((vip.backend_base + u32::from(word.target())) as usize);
                prop_assert_eq!(at(old).addr, at(&new).addr, "an extent that was outgrown leads astray");
                prop_assert_ne!(at(old).state, BackendState::Absent as u8);
            }
        }
        for flow in &self.flows {
            let info: ServiceInfo = self.image.services.get(flow.service as usize);
            let entry = self.image.backends.get((info.backend_base + u32::from(flow.local)) as usize);
            prop_assert_eq!((entry.addr.0, entry.state != 0), (flow.addr, true), "a flow has lost its backend");
        }
        Ok(())
    }

    pub fn sweep(&mut self) -> Result<(), TestCaseError> {
        let over = |s: &Service, now: Instant| s.retired.is_some_and(|since| now - since >= GRACE);
        let (layout, now) = (&self.layout, self.now);
        self.flows.retain(|f| layout.services.get(&f.service).is_some_and(|s| !over(s, now)));
        let mut live = Live { since: now, sources: [true; NAT_SOURCES], ..Live::default() };
        for flow in &self.flows {
            *live.flows.entry((flow.service, flow.local)).or_default() += 1;
        }
        let freed = retire::collect(&self.image, &mut self.layout, &live);
        self.execute(&freed.ops, usize::MAX).map(drop)
    }

    /// Every packet that was under way is done.
    fn grace(&mut self) {
        self.reads.clear();
        self.vips.clear();
        self.flipped = None;
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        self.reads.retain(|r| now - r.at < GRACE);
        self.vips.retain(|(at, _)| now - *at < GRACE);
    }

    /// The search as the kernel half does it.
    pub fn find(&self, key: &VipKey) -> Option<Vip> {
        let active = Config::half_number(self.image.config.word(0, 0) as u32);
        let half = half_of(&self.image, active);
        let displacement = |index: u32| {
            let at = std::mem::offset_of!(Config, displacements) + 2 * (active as usize * DISPLACEMENTS + index as usize);
            (self.image.config.word(0, at / 8) >> (8 * (at % 8))) as u16
        };
        let vip = self.image.vips.get(hash::vip_position(key, &half, displacement) as usize);
        ((vip.addr, vip.port, vip.proto, vip.family) == (key.addr, key.port, key.proto, key.family) && vip.kind != VipKind::Empty as u8)
            .then_some(vip)
    }

    fn reachable(&self) -> Vec<Vip> {
        (0..6).filter_map(|vip| self.find(&vip_key(&vip_addr(vip)))).collect()
    }
}

/// An op as the single stores that others may see one by one.
fn single_stores(op: &Op) -> Vec<Op> {
    match op {
        Op::Slots { changes } => changes.iter().map(|c| Op::Slots { changes: vec![*c] }).collect(),
        Op::Backends { base, entries } => {
            (*base..).zip(entries).map(|(base, entry)| Op::Backends { base, entries: vec![*entry] }).collect()
        }
        other => vec![other.clone()],
    }
}
