//! Plan, counters, health and next hops -> what the daemon tells about itself. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Instant, SystemTime},
};

use mesh_common::abi::{BackendSignals, BackendStats, NatConfig, Reason, ReasonStats};

use super::{
    asking::{self, Passages},
    changes::word,
    core::Core,
    explaining::listed,
    merge::Merged,
    view::{
        BackendView, BreakerView, HandshakeView, HealthView, LedgerView, LimitView, NatView, NextHopView, Origin, ResetsView,
        SchedulingView, ServiceScheduling, ServiceView, StateWord, SuspicionView, TimesView, Traffic, Usage,
    },
    weight_view::WeightView,
};
use crate::{
    config::{Check, balanced::SchedulerWord, words::Span},
    dataplane::{
        Counters, LayoutError, NatReport, ServiceCounters, Sum,
        net::{Resolution, nexthop::Resolutions},
    },
    events::{millis, unix_ms},
    health::{Suspicion, TargetKey, TargetStatus},
    model::{BackendId, ServiceName, VipAddr},
    plan::{PlannedBackend, ServicePlan},
};

/// What a backend's weight is made of.
pub type Weighed<'a> = dyn Fn(&ServicePlan, &PlannedBackend) -> WeightView + 'a;

/// How a backend's breaker and its limits stand.
pub type Guarding<'a> = dyn Fn(&ServiceName, &BackendId) -> (Option<BreakerView>, Option<LimitView>) + 'a;

/// All that is known at one moment.
pub struct Facts<'a> {
    pub core: &'a Core,
    pub counters: &'a Counters,
    /// The counters of services by VIP.
    pub by_vip: HashMap<VipAddr, &'a ServiceCounters>,
    pub nat: &'a NatReport,
    pub targets: &'a BTreeMap<TargetKey, TargetStatus>,
    pub next_hops: &'a Resolutions,
    pub passages: &'a Passages,
    /// Services that could not be published as wanted.
    pub refused: &'a BTreeMap<ServiceName, LayoutError>,
    /// What a backend's weight is made of.
    pub weighing: Box<Weighed<'a>>,
    /// How a backend's breaker and its limits stand.
    pub guarding: Box<Guarding<'a>>,
    pub now: Instant,
    pub clock: SystemTime,
}

impl Facts<'_> {
    pub fn services(&self) -> Vec<ServiceView> {
        let live = self.live_of_services();
        self.core.plan().services.iter().filter_map(|plan| self.service(plan, &live)).collect()
    }

    /// One service; `None` = it is not planned yet.
    pub fn service_named(&self, name: &ServiceName) -> Option<ServiceView> {
        self.service(self.core.plan().service(name)?, &self.live_of_services())
    }

    /// Backends of one service, or of all.
    pub fn backends(&self, only: Option<&ServiceName>) -> Vec<BackendView> {
        let live = self.live_flows();
        match only {
            Some(name) => self.core.plan().service(name).map(|plan| self.backends_of(plan, &live)).unwrap_or_default(),
            None => self.core.plan().services.iter().flat_map(|plan| self.backends_of(plan, &live)).collect(),
        }
    }

    /// Packets by reason, over all services and those that are for none.
    pub fn reasons(&self) -> BTreeMap<String, Traffic> {
        let rows = self.counters.services.iter().map(|s| &s.reasons).chain([&self.counters.no_service]);
        let mut sums = [ReasonStats::default(); Reason::ALL.len()];
        for row in rows {
            for (sum, stats) in sums.iter_mut().zip(row) {
                sum.packets += stats.packets;
                sum.bytes += stats.bytes;
            }
        }
        by_name(&sums, |_| true)
    }

    pub fn backend_states(&self) -> BTreeMap<StateWord, u32> {
        let mut states = BTreeMap::new();
        for member in self.core.plan().services.iter().flat_map(|s| &s.members) {
            *states.entry(word(member.standing)).or_insert(0) += 1;
        }
        states
    }

    pub fn nat(&self) -> NatView {
        NatView {
            flows: Usage { used: self.nat.flows, limit: self.nat.capacity },
            half_open: i64::try_from(self.nat.half_open).unwrap_or(i64::MAX),
        }
    }

    pub fn ledger(&self) -> LedgerView {
        let (entries, stats) = (self.nat.ledger, self.counters.ledger);
        LedgerView {
            moving: self.nat.moving,
            entries: Usage { used: entries.pending + entries.flows, limit: entries.capacity },
            pending: entries.pending,
            oldest_ms: (u64::from(entries.oldest) << NatConfig::TICK_SHIFT) / 1_000_000,
            remembered: stats.remembered,
            refused: stats.refused,
            elsewhere: stats.elsewhere,
            settled: self.nat.settled.slots,
            settle_ms: millis(self.nat.settled.took),
            settle_longest_ms: millis(self.nat.settled.longest),
        }
    }

    pub fn scheduling(&self) -> SchedulingView {
        let (held, stats) = (self.nat.remembered, self.counters.choices);
        SchedulingView {
            remembered: Usage { used: held.flows + held.sources, limit: held.capacity },
            chosen: stats.chosen,
            affine: stats.affine,
            full: stats.full,
            lost: stats.lost,
        }
    }

    /// Slots of all tables that could be published.
    pub fn slots(&self) -> Usage {
        let published = self.core.plan().services.iter().filter(|s| !self.refused.contains_key(&s.name));
        let used = published.map(|s| s.table.owner.len() as u64).sum();
        Usage { used, limit: u64::from(self.core.config().limits.slots) }
    }

    /// How full the maps are whose sizes the configuration limits.
    pub fn maps(&self) -> BTreeMap<String, Usage> {
        let (limits, services) = (self.core.config().limits, &self.core.plan().services);
        let backends = services.iter().map(|s| s.members.len() as u64).sum();
        let rows = [
            ("services", Usage { used: services.len() as u64, limit: limits.services.into() }),
            ("slots", self.slots()),
            ("backends", Usage { used: backends, limit: limits.backends.into() }),
            ("nat_flows", self.nat().flows),
        ];
        rows.into_iter().map(|(map, usage)| (map.to_owned(), usage)).collect()
    }

    fn live_flows(&self) -> HashMap<(VipAddr, BackendId), u64> {
        self.nat.backends.iter().map(|(vip, id, flows)| ((*vip, *id), *flows)).collect()
    }

    fn live_of_services(&self) -> HashMap<VipAddr, u64> {
        let mut live = HashMap::new();
        for (vip, _, flows) in &self.nat.backends {
            *live.entry(*vip).or_default() += flows;
        }
        live
    }

    fn counters_of(&self, vip: VipAddr) -> Option<&ServiceCounters> {
        self.by_vip.get(&vip).copied()
    }

    fn service(&self, plan: &ServicePlan, live: &HashMap<VipAddr, u64>) -> Option<ServiceView> {
        let merged = self.core.services().get(&plan.name)?;
        let counters = self.counters_of(plan.vip);
        let stats = counters.map_or_else(BackendStats::default, |c| {
            c.backends.iter().fold(c.gone, |mut sum, (_, s)| {
                sum.add(s);
                sum
            })
        });
        Some(ServiceView {
            name: plan.name.clone(),
            address: plan.vip.addr,
            port: plan.vip.port,
            protocol: plan.vip.proto.into(),
            mode: plan.mode.into(),
            origin: merged.origin,
            when_empty: plan.when_empty,
            hash: listed(plan.ways.hash),
            announce: plan.announce.clone(),
            check: merged.service.check.as_ref().map_or_else(|| "none".to_owned(), check_in_words),
            scheduling: ServiceScheduling {
                scheduler: SchedulerWord::of(merged.service.scheduler, plan.ways.choosing),
                affinity_s: plan.ways.choosing.affinity.map(|time| time.as_secs()),
                quic_server_id_length: plan.ways.quic,
            },
            slots: plan.table.owner.len() as u32,
            backends: plan.members.len() as u32,
            taking: plan.members.iter().filter(|m| m.takes_new()).count() as u32,
            forwarded: forwarded(&stats),
            replied: replied(&stats),
            flows: stats.flows,
            live_flows: live.get(&plan.vip).copied().unwrap_or(0),
            reasons: counters.map_or_else(BTreeMap::new, |c| by_name(&c.reasons, |r| !matches!(r, Reason::Forwarded | Reason::Replied))),
            problem: self.problem(plan),
        })
    }

    fn backends_of(&self, plan: &ServicePlan, live: &HashMap<(VipAddr, BackendId), u64>) -> Vec<BackendView> {
        let Some(merged) = self.core.services().get(&plan.name) else { return Vec::new() };
        let counters = self.counters_of(plan.vip);
        let stats: HashMap<BackendId, &BackendStats> =
            counters.map(|c| c.backends.iter().map(|(id, s)| (*id, s)).collect()).unwrap_or_default();
        let signals: HashMap<BackendId, &BackendSignals> =
            counters.map(|c| c.backends.iter().map(|(id, _)| *id).zip(&c.signals).collect()).unwrap_or_default();
        let total = plan.table.owner.len().max(1) as f64;
        let rows = plan.members.iter().zip(plan.table.counts(plan.members.len()));
        rows.map(|(member, slots)| {
            let stats = stats.get(&member.id).map_or_else(BackendStats::default, |s| **s);
            let (breaker, limits) = (self.guarding)(&plan.name, &member.id);
            BackendView {
                service: plan.name.clone(),
                id: member.id,
                name: member.name.clone(),
                origin: merged.origins.get(&member.id).copied().unwrap_or(Origin::Cli),
                state: word(member.standing),
                admin: merged.admin(&member.id),
                health: self.health(merged, member),
                weight: member.configured.0,
                weighing: (self.weighing)(plan, member),
                effective_weight: f64::from(member.configured.0) * member.factor.as_f64(),
                slots,
                share: f64::from(slots) / total,
                next_hop: self.next_hop(member.id),
                forwarded: forwarded(&stats),
                replied: replied(&stats),
                flows: stats.flows,
                live_flows: live.get(&(plan.vip, member.id)).copied().unwrap_or(0),
                breaker,
                limits,
                backup: member.backup,
                quic_server_id: member.quic,
                resets: ResetsView { client: stats.client_resets, backend: stats.backend_resets },
                handshakes: signals.get(&member.id).map(|s| handshakes(s)).unwrap_or_default(),
            }
        })
        .collect()
    }

    fn health(&self, merged: &Merged, member: &PlannedBackend) -> HealthView {
        if !merged.spec.checked {
            return HealthView { health: "unchecked".to_owned(), ..HealthView::default() };
        }
        let key = TargetKey { service: merged.spec.name.clone(), backend: member.id };
        let heartbeat = merged.service.heartbeat.and_then(|_| self.core.beat_of(&key)).map(|lease| lease.view(self.now));
        let Some(status) = self.targets.get(&key) else {
            let alive = heartbeat.as_ref().filter(|_| merged.service.check.is_none()).map(|b| if b.alive { "up" } else { "down" });
            return HealthView { health: alive.unwrap_or("unknown").to_owned(), heartbeat, ..HealthView::default() };
        };
        let moment = |at| self.clock.checked_sub(self.now.saturating_duration_since(at)).map(unix_ms);
        HealthView {
            health: status.health.to_string(),
            asked: self.asked(merged, member.id),
            since_ms: moment(status.since),
            last_probe_ms: status.last_check.and_then(moment),
            rtt_us: status.last_rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            error: status.last_error.clone(),
            probes: status.checks_done,
            failures: status.checks_failed,
            suspicion: status.suspicion.map(suspicion),
            heartbeat,
        }
    }

    /// Of a service whose VIP is asked: how.
    fn asked(&self, merged: &Merged, id: BackendId) -> Option<String> {
        let check = merged.service.check.as_ref().filter(|check| check.through_vip)?;
        let Some(passage) = asking::passage(merged, check, id) else {
            return Some("directly, for the VIP is of another family".to_owned());
        };
        let open = self.passages.is_open(&passage);
        Some(if open { passage.to_string() } else { "directly, for the way of the service is not to be had; the log says why".to_owned() })
    }

    /// What keeps the service as a whole from forwarding as it should.
    fn problem(&self, plan: &ServicePlan) -> Option<String> {
        if let Some(refused) = self.refused.get(&plan.name) {
            return Some(refused.to_string());
        }
        if let Some(error) = plan.problem {
            return Some(error.to_string());
        }
        if plan.no_backends {
            return Some("no backend takes new flows".to_owned());
        }
        let mut taking = plan.members.iter().filter(|m| m.effective > 0);
        let unreachable = taking.all(|m| !matches!(self.next_hops.get(&m.id.0.ip()), Some(Resolution::Ready(_))));
        unreachable.then(|| "no backend that takes new flows has a next hop".to_owned())
    }

    fn next_hop(&self, id: BackendId) -> NextHopView {
        match self.next_hops.get(&id.0.ip()) {
            Some(Resolution::Ready(hop)) => {
                NextHopView { ready: true, mac: Some(mac(hop.dst_mac)), interface: Some(hop.ifname.clone()), reason: None }
            }
            Some(Resolution::NotReady(reason)) => NextHopView { reason: Some(reason.to_string()), ..NextHopView::default() },
            None => NextHopView { reason: Some("its next hop is being looked up".to_owned()), ..NextHopView::default() },
        }
    }
}

fn suspicion(s: Suspicion) -> SuspicionView {
    SuspicionView {
        phase: s.phase,
        phi: s.signals.sum(),
        signals: s.signals,
        penalty: s.penalty,
        unanswered: s.unanswered,
        pulse_rtt_us: s.pulse_rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
    }
}

/// Six octets as people write them.
pub fn mac(octets: [u8; 6]) -> String {
    octets.map(|b| format!("{b:02x}")).join(":")
}

fn check_in_words(check: &Check) -> String {
    let port = check.port.map(|p| format!(" port {p}")).unwrap_or_default();
    let (what, way) = (&check.kind, if check.through_vip { " through the VIP" } else { "" });
    format!("{what}{port}{way} every {}", Span(check.interval))
}

fn handshakes(s: &BackendSignals) -> HandshakeView {
    let course = |total: u64, steps: &[u32]| TimesView {
        count: steps.iter().map(|n| u64::from(*n)).sum(),
        total_us: u64::try_from((u128::from(total) << BackendSignals::TIME_SHIFT) / 1000).unwrap_or(u64::MAX),
        steps: steps.iter().rposition(|n| *n > 0).map_or_else(Vec::new, |last| steps[..=last].to_vec()),
    };
    HandshakeView {
        sampled: s.sampled,
        syn_retransmits: s.syn_retransmits,
        answers: course(s.answer_time, &s.answers),
        accepts: course(s.accept_time, &s.accepts),
    }
}

fn forwarded(s: &BackendStats) -> Traffic {
    Traffic { packets: s.tx + s.redirect, bytes: s.bytes }
}

fn replied(s: &BackendStats) -> Traffic {
    Traffic { packets: s.reply_tx + s.reply_redirect, bytes: s.reply_bytes }
}

fn by_name(row: &[ReasonStats; Reason::ALL.len()], wanted: impl Fn(Reason) -> bool) -> BTreeMap<String, Traffic> {
    let rows = Reason::ALL.into_iter().zip(row).filter(|(reason, _)| wanted(*reason));
    rows.map(|(reason, s)| (reason.name().to_owned(), Traffic { packets: s.packets, bytes: s.bytes })).collect()
}
