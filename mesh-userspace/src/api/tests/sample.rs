//! One moment of a small node.

use std::collections::BTreeMap;

use crate::{
    config::{
        balanced::SchedulerWord,
        words::{ModeWord, ProtoWord},
    },
    control::{
        DrainEnd, DrainState, DrainView, ExplainView, Intention, PacketSpec, PlanView, Then, WeightView,
        explaining::{ByWord, EntryWord, OwnerView, RewriteView, SlotView, VerdictWord, WayView},
        view::{
            Admin, BackendView, BeatView, BreakerView, ConfigView, FlowsState, FlowsView, HandshakeView, HealthView, InterfaceView,
            LedgerView, LimitView, MovingView, NatView, NextHopView, Origin, PeerView, PeersView, Publications, Readiness, ResetsView,
            SchedulingView, ServiceScheduling, ServiceView, Snapshot, SourceStateWord, SourceView, Stage, StateWord, Status, SuspicionView,
            TimesView, Traffic, Usage,
        },
    },
    health::{
        breaker::{Circuit, Reading},
        detector::{Phase, Signals},
    },
    model::{BackendId, Epoch, HashField},
    plan::{BackendPreview, BackendShare, FlowsPreview, KeptBy, Preview, Standing},
};

fn traffic(packets: u64) -> Traffic {
    Traffic { packets, bytes: packets * 100 }
}

pub(crate) fn status() -> Status {
    let flows =
        FlowsView { state: FlowsState::Here, epoch: 7, behind: 1, moving: 1, sent: 40, waiting: 2, received: 30, again: 3, garbled: 0 };
    Status {
        version: "0.1.0".into(),
        instance: "default".into(),
        pid: 4711,
        started_ms: 1_767_225_599_001,
        epoch: Epoch(7),
        readiness: Readiness { ready: false, waiting: vec!["the first round of health checks".into()] },
        config: ConfigView { file: "/etc/mesh.yaml".into(), loaded_ms: 1_767_225_599_002, error: None, warnings: Vec::new() },
        pins: "/sys/fs/bpf/mesh/default/v1".into(),
        interfaces: vec![
            InterfaceView { name: "eth0".into(), ifindex: 2, hook: "xdp".into(), problem: None },
            InterfaceView { name: "eth1".into(), ifindex: 3, hook: String::new(), problem: Some("no such interface".into()) },
        ],
        rx: traffic(1000),
        reasons: BTreeMap::from([
            ("forwarded".into(), traffic(900)),
            ("not_for_vip".into(), traffic(100)),
            ("fragment".into(), traffic(0)),
        ]),
        scheduling: SchedulingView { remembered: Usage { used: 5, limit: 64 }, chosen: 6, affine: 7, full: 8, lost: 9 },
        ledger: LedgerView { moving: 3, entries: Usage { used: 2, limit: 64 }, settled: 4, settle_ms: 50_000, ..LedgerView::default() },
        peers: Some(PeersView {
            quorum: 2,
            nodes: vec![PeerView { address: ([192, 0, 2, 3], 7946).into(), age_ms: Some(40), fresh: true, doubts: 1, flows }],
            forged: 3,
            refused: 0,
            epoch: 9,
            joining: false,
            no_room: 2,
        }),
        nat: NatView { flows: Usage { used: 5, limit: 1024 }, half_open: 1 },
        services: 2,
        backends: BTreeMap::from([(StateWord::Active, 2), (StateWord::Down, 1), (StateWord::Soft, 0)]),
        slots: Usage { used: 2048, limit: 1 << 20 },
        maps: BTreeMap::from([("backends".into(), Usage { used: 3, limit: 16_384 })]),
        stale: vec![source()],
    }
}

pub(crate) fn moving() -> Vec<MovingView> {
    let row = |stage, to, slots| MovingView { service: "web".parse().unwrap(), from: Some(id(1)), to, stage, slots, longest_ms: 12_340 };
    vec![row(Stage::Prepare, Some(id(1)), 1), row(Stage::Divert, Some(id(2)), 40), row(Stage::Learn, None, 2)]
}

pub(crate) fn service(name: &str) -> ServiceView {
    ServiceView {
        name: name.parse().unwrap(),
        address: [192, 0, 2, 10].into(),
        port: 80,
        protocol: ProtoWord::Tcp,
        mode: ModeWord::Nat,
        origin: Origin::Config,
        when_empty: Default::default(),
        hash: vec![],
        announce: None,
        check: "http /healthz every 1s".into(),
        scheduling: ServiceScheduling { scheduler: SchedulerWord::RoundRobin, affinity_s: Some(600), quic_server_id_length: Some(2) },
        slots: 1024,
        backends: 2,
        taking: 1,
        forwarded: traffic(900),
        replied: traffic(800),
        flows: 50,
        live_flows: 5,
        reasons: BTreeMap::from([("no_flow".into(), traffic(3))]),
        problem: None,
    }
}

pub(crate) fn backend(service: &str, last: u8, name: Option<&str>) -> BackendView {
    BackendView {
        service: service.parse().unwrap(),
        id: id(last),
        name: name.map(str::to_owned),
        origin: Origin::Config,
        state: StateWord::Active,
        admin: Admin::In,
        health: HealthView {
            health: "up".into(),
            asked: None,
            since_ms: Some(1_767_225_599_001),
            last_probe_ms: Some(1_767_225_600_001),
            rtt_us: Some(1500),
            error: None,
            probes: 20,
            failures: 2,
            suspicion: None,
            heartbeat: None,
        },
        weight: 3,
        effective_weight: 2.5,
        weighing: WeightView {
            slow_start: 1.0,
            dynamic: 0.83,
            locality: 1.0,
            zone: Some("eu-1a".into()),
            latency_us: Some(1500),
            unloaded_us: Some(1000),
            stay_us: Some(20_000),
            stay_unloaded_us: Some(12_500),
            inflation: Some(1.5),
            why: vec!["configured 3".into(), "x 0.83: it gets less".into()],
            ..WeightView::default()
        },
        slots: 512,
        share: 0.5,
        next_hop: NextHopView { ready: true, mac: Some("02:00:00:00:00:01".into()), interface: Some("eth0".into()), reason: None },
        forwarded: traffic(450),
        replied: traffic(400),
        flows: 25,
        live_flows: 2,
        breaker: None,
        limits: None,
        quic_server_id: None,
        backup: 0,
        resets: ResetsView { client: 4, backend: 5 },
        handshakes: HandshakeView {
            sampled: 3,
            syn_retransmits: 1,
            answers: TimesView { count: 2, total_us: 900, steps: vec![0, 2] },
            accepts: TimesView { count: 1, total_us: 700, steps: vec![0, 0, 1] },
        },
    }
}

pub(crate) fn id(last: u8) -> BackendId {
    BackendId(([10, 0, 0, last], 8080).into())
}

pub(crate) fn source() -> SourceView {
    SourceView {
        service: "web".parse().unwrap(),
        source: "dns web.test".into(),
        state: SourceStateWord::Stale,
        endpoints: 2,
        answered_ms: Some(1_767_225_599_001),
        error: Some("unreachable: 10.0.0.53:53: Connection refused".into()),
        updates: 1,
        failures: 3,
    }
}

/// The first backend, with a breaker and limits.
fn guarded() -> BackendView {
    BackendView {
        breaker: Some(BreakerView {
            state: Circuit::Closed,
            next_ms: None,
            reading: Reading { flows: 100, failures: Some(0.25), in_row: 0, latency: None },
        }),
        limits: Some(LimitView { max_connections: Some(500), max_connection_rate: Some(50), connections: Some(2), reached: None }),
        ..backend("web", 1, Some("b1"))
    }
}

/// One of which all is known that can be.
fn doubted() -> BackendView {
    let plain = backend("shop/api", 1, Some("b1"));
    let suspicion =
        SuspicionView { phase: Phase::Soft, phi: 5.5, signals: Signals::default(), penalty: 1.0, unanswered: 3, pulse_rtt_us: Some(120) };
    let beat = BeatView { alive: true, ttl_ms: 5000, age_ms: Some(40), load: Some(0.5) };
    BackendView {
        health: HealthView { suspicion: Some(suspicion), heartbeat: Some(beat), ..plain.health },
        weighing: WeightView { reference: Some(1.2), load: Some(0.5), agent: Some(1.0), ..plain.weighing },
        backup: 1,
        ..plain
    }
}

pub(crate) fn snapshot() -> Snapshot {
    let down = BackendView {
        state: StateWord::Down,
        health: HealthView { health: "down".into(), rtt_us: None, error: Some("connecting failed".into()), ..Default::default() },
        ..backend("web", 2, None)
    };
    Snapshot {
        status: status(),
        services: vec![service("web"), service("shop/api")],
        backends: vec![guarded(), down, doubted()],
        sources: vec![source()],
        publications: Publications {
            count: 7,
            failures: 1,
            last_plan_us: 1500,
            last_apply_us: 40,
            repairs: 0,
            reloads: 2,
            reload_failures: 1,
            flows_logged: 8,
            flows_dropped: 2,
            flows_lost: 1,
        },
    }
}

/// What draining `b1` of `web` would do, whatever is asked.
pub(crate) fn plan<B>(intention: &Intention<B>) -> PlanView {
    if matches!(intention, Intention::Apply { .. }) {
        return PlanView { services: Vec::new(), moved_share: 0.0, flows_kept: 0, flows_lost: 0, assumed: Vec::new() };
    }
    let share = |standing, slots: u32| BackendShare { standing, weight: 3, slots, share: f64::from(slots) / 1024.0 };
    let preview = Preview {
        service: "web".parse().unwrap(),
        moved: 512,
        slots: 1024,
        moved_share: 0.5,
        secondaries: 512,
        no_backends: false,
        flows: FlowsPreview { kept_by: Some(KeptBy::Translation), live: Some(5), kept: Some(5), lost: Some(0), lost_share: 0.0 },
        over_capacity: vec![id(2)],
        backends: vec![
            BackendPreview {
                id: id(1),
                before: Some(share(Standing::Serving, 512)),
                after: Some(share(Standing::Draining, 0)),
                live_flows: 2,
                expected_flows: None,
                capacity: None,
            },
            BackendPreview {
                id: id(2),
                before: Some(share(Standing::Serving, 512)),
                after: Some(share(Standing::Serving, 1024)),
                live_flows: 3,
                expected_flows: Some(5),
                capacity: Some(4),
            },
        ],
    };
    PlanView { services: vec![preview], moved_share: 0.5, flows_kept: 5, flows_lost: 0, assumed: vec!["web: as it is".into()] }
}

/// The drain of a backend that is over.
pub(crate) fn drained(backend: &BackendView) -> DrainView {
    DrainView {
        service: backend.service.clone(),
        backend: backend.id,
        name: backend.name.clone(),
        state: DrainState::Ended,
        ended: Some(DrainEnd::Empty),
        then: Then::Wait,
        since_ms: 1_767_225_599_001,
        took_ms: 2500,
        deadline_ms: None,
        flows_at_start: Some(2),
        flows: Some(0),
        slots: Some(0),
        quiet_ms: None,
        oldest_ms: None,
        packets_per_s: 0.0,
        ended_per_s: 0.8,
        estimate_ms: None,
        new_flows: 0,
    }
}

/// A packet that opens a translated flow.
pub(crate) fn explained(packet: PacketSpec) -> ExplainView {
    let owner = |id: &str, state| OwnerView { id: BackendId(id.parse().unwrap()), state };
    ExplainView {
        packet,
        service: Some("web".parse().unwrap()),
        slot: Some(SlotView {
            mode: ModeWord::Nat,
            hash: "00000000deadbeef".into(),
            fields: vec![HashField::Source],
            slot: 7,
            slots: 1024,
            target: Some(owner("10.0.0.1:8080", StateWord::Draining)),
            default: Some(owner("10.0.0.1:8080", StateWord::Draining)),
            secondary: Some(owner("10.0.0.2:8080", StateWord::Active)),
            moving: false,
        }),
        entry: Some(EntryWord::New),
        by: Some(ByWord::Scheduler),
        backend: Some(owner("10.0.0.2:8080", StateWord::Active)),
        next_hop: Some(WayView { interface: None, dst_mac: "02:00:00:00:00:02".into(), src_mac: "02:00:00:00:00:01".into() }),
        rewrite: Some(RewriteView { source: "10.0.0.9:1024".into(), destination: "10.0.0.2:8080".into(), encapsulated: false }),
        reason: "forwarded".into(),
        verdict: VerdictWord::Forward,
    }
}
