//! A model of the kernel half reads the maps after every single store, with what it has read before still in mind.

mod published;
mod world;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use mesh_common::abi::{Proto, SlotWord};
use proptest::prelude::*;

use super::*;
use crate::{
    dataplane::options::Limits,
    model::{BackendId, BackendState, Mode, VipAddr, Weight},
    plan::{Plan, PlannedBackend, Standing},
    table::Table,
    weights::{Factor, Parts},
};
use world::World;

const LIMITS: Limits = Limits { services: 4, slots: 192, backends: 40, nat_flows: 16, ledger: 16, flows: 16 };

#[derive(Clone, Debug)]
struct WantedService {
    vip: usize,
    nat: bool,
    members: BTreeMap<usize, BackendState>,
    log2_slots: u8,
    owners: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Act {
    Publish {
        services: Vec<WantedService>,
        ready: u16,
        source: u8,
    },
    /// One service of those that were published last becomes like this one, and perhaps next hops change: `ready` and `source` as above.
    Alter {
        pick: usize,
        like: WantedService,
        rerouted: Option<(u16, u8)>,
    },
    /// The daemon dies after so many stores of the publication, and another one adopts.
    Crash {
        services: Vec<WantedService>,
        after: usize,
    },
    Sweep,
    OpenFlow {
        service: usize,
        slot: usize,
    },
    CloseFlow {
        flow: usize,
    },
}

fn states() -> impl Strategy<Value = BackendState> {
    use BackendState::{Active, Down, Draining, Maintenance, Recovering, Soft};
    prop_oneof![4 => Just(Active), 1 => Just(Draining), 1 => Just(Soft), 1 => Just(Down), 1 => Just(Recovering), 1 => Just(Maintenance)]
}

fn services() -> impl Strategy<Value = Vec<WantedService>> {
    prop::collection::vec(service(), 0..6)
}

fn service() -> impl Strategy<Value = WantedService> {
    let members = prop::collection::btree_map(0usize..8, states(), 0..8);
    (0usize..6, any::<bool>(), members, 0u8..7, prop::collection::vec(0u8..9, 1..9))
        .prop_map(|(vip, nat, members, log2_slots, owners)| WantedService { vip, nat, members, log2_slots, owners })
}

fn acts() -> impl Strategy<Value = Vec<(Act, u64)>> {
    let act = prop_oneof![
        5 => (services(), any::<u16>(), 0u8..3).prop_map(|(services, ready, source)| Act::Publish { services, ready, source }),
        5 => (any::<usize>(), service(), prop::option::of((any::<u16>(), 0u8..3))).prop_map(|(pick, like, rerouted)| Act::Alter { pick, like, rerouted }),
        2 => (services(), 0usize..200).prop_map(|(services, after)| Act::Crash { services, after }),
        3 => Just(Act::Sweep),
        3 => (any::<usize>(), any::<usize>()).prop_map(|(service, slot)| Act::OpenFlow { service, slot }),
        1 => any::<usize>().prop_map(|flow| Act::CloseFlow { flow }),
    ];
    prop::collection::vec((act, prop_oneof![Just(0u64), Just(30), Just(150)]), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// After every store all tables are such that packets may go by them, whoever published what, and died when.
    #[test]
    fn every_prefix_is_safe(acts in acts()) {
        let mut world = World::new();
        for (act, pause) in &acts {
            world.act(act)?;
            world.pass(Duration::from_millis(*pause));
        }
        // When all is removed, all comes back.
        world.flows.clear();
        world.publish(&Plan::default(), usize::MAX)?;
        for _ in 0..2 {
            world.pass(2 * GRACE);
            world.sweep()?;
        }
        world.pass(2 * GRACE);
        let (layout, now) = (&mut world.layout, world.now);
        prop_assert!(layout.services.is_empty());
        prop_assert_eq!(layout.slots.take(LIMITS.slots, now), Some(0));
        prop_assert_eq!(layout.backends.take(LIMITS.backends, now), Some(0));
        prop_assert_eq!(layout.stats.take(LIMITS.backends, now), Some(0));
    }
}

/// A service outgrows its extent, gets another table and another VIP beside it; the daemon dies at each single store of that.
#[test]
fn dying_at_any_store_loses_nothing() {
    let service = |vip, members: usize, log2_slots| WantedService {
        vip,
        nat: true,
        members: (0..members).map(|i| (i, BackendState::Active)).collect(),
        log2_slots,
        owners: (1..9).collect(),
    };
    let small = vec![service(0, 3, 4), service(2, 2, 3)];
    let grown = vec![service(0, 7, 4), service(1, 3, 4), service(2, 6, 5)];
    for after in 0.. {
        let mut world = World::new();
        let acts = [
            Act::Publish { services: small.clone(), ready: u16::MAX, source: 0 },
            Act::Crash { services: grown.clone(), after },
            Act::Sweep,
            Act::Publish { services: if after % 2 == 0 { grown.clone() } else { small.clone() }, ready: u16::MAX, source: 1 },
        ];
        for act in &acts {
            world.act(act).unwrap_or_else(|e| panic!("dead after {after} stores, at {act:?}: {e}"));
            world.pass(2 * GRACE);
        }
        if !world.cut_off {
            assert!(after > 30, "the publication takes {after} stores only");
            return;
        }
    }
}

fn vip_addr(i: usize) -> VipAddr {
    let addr = match i % 3 {
        0 => IpAddr::from([192, 0, 2, 1]),
        1 => IpAddr::from([192, 0, 2, 2]),
        _ => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    };
    VipAddr { addr, port: 80 + i as u16 / 3, proto: if i < 3 { Proto::Tcp } else { Proto::Udp } }
}

/// The first eight are IPv4, the others IPv6.
fn backend_id(i: usize) -> BackendId {
    let addr = if i < 8 { IpAddr::from([10, 0, 0, i as u8]) } else { IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, i as u16]) };
    BackendId((addr, 8080).into())
}

fn plan_of(services: &[WantedService]) -> Plan {
    let mut plan = Plan::default();
    for wanted in services {
        let vip = vip_addr(wanted.vip);
        if plan.services.iter().any(|s| s.vip == vip) {
            continue;
        }
        let offset = if vip.addr.is_ipv4() { 0 } else { 8 };
        let quic = (vip.proto == Proto::Udp && wanted.log2_slots > 0).then_some(1 + wanted.log2_slots % 2);
        let members = wanted.members.iter().map(|(i, state)| PlannedBackend {
            // Who has which id changes with the table.
            quic: quic.map(|_| (*i as u32 + u32::from(wanted.owners[0])) % 9),
            ..planned(backend_id(i + offset), *state)
        });
        let members: Vec<PlannedBackend> = members.collect();
        let owner = |i: usize| match usize::from(wanted.owners[i % wanted.owners.len()]) {
            o if members.is_empty() || o == 0 => SlotWord::NONE,
            o => (o % members.len()) as u16,
        };
        let slots = 1usize << wanted.log2_slots;
        let table = Table {
            log2_slots: wanted.log2_slots,
            owner: (0..slots).map(owner).collect(),
            secondary: (0..slots).map(|i| owner(i + 1)).collect(),
        };
        plan.services.push(Arc::new(ServicePlan {
            name: format!("s{}", wanted.vip).parse().unwrap(),
            vip,
            mode: if wanted.nat { Mode::Nat } else { Mode::Dsr },
            ways: crate::model::Ways { quic, ..Default::default() },
            when_empty: Default::default(),
            announce: None,
            no_backends: members.is_empty(),
            members,
            table: Arc::new(table),
            problem: None,
        }));
    }
    plan
}

fn planned(id: BackendId, state: BackendState) -> PlannedBackend {
    PlannedBackend {
        id,
        name: None,
        state,
        standing: Standing::Serving,
        configured: Weight::ONE,
        factor: Factor::ONE,
        effective: 0,
        parts: Parts::ONE,
        capacity: None,
        backup: 0,
        quic: None,
        sparing: Default::default(),
    }
}
