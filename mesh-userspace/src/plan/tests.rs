//! Plans of whole services: who gets what, what is shared, what a change costs.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{model::Proto, table::tests::id};

const SEED: u64 = 99;

struct Fixture {
    spec: ServiceSpec,
    endpoints: Vec<Endpoint>,
    intents: BTreeMap<BackendId, Intent>,
    seen: BTreeMap<BackendId, Seen>,
    dynamic: BTreeMap<BackendId, Factor>,
    gates: BTreeMap<BackendId, Gate>,
    shared: bool,
    now: Instant,
}

impl Fixture {
    /// Healthy backends of these weights.
    fn new(name: &str, weights: &[u16]) -> Self {
        let endpoints: Vec<_> =
            weights.iter().enumerate().map(|(i, &w)| Endpoint { name: Some(format!("b{i}")), ..Endpoint::new(id(i), Weight(w)) }).collect();
        Self {
            spec: ServiceSpec {
                name: name.parse().unwrap(),
                vip: VipAddr { addr: "192.0.2.1".parse().unwrap(), port: 80, proto: Proto::Tcp },
                mode: Mode::Nat,
                ways: crate::model::Ways::default(),
                when_empty: Default::default(),
                announce: None,
                checked: true,
                log2_slots: None,
                scheduler: Scheduler::default(),
                locality: None,
                backup_below: 0,
            },
            seen: endpoints.iter().map(|e| (e.id, UNCHECKED_IS_UP)).collect(),
            endpoints,
            intents: BTreeMap::new(),
            dynamic: BTreeMap::new(),
            gates: BTreeMap::new(),
            shared: false,
            now: Instant::now(),
        }
    }

    fn input(&self) -> ServiceInput<'_> {
        ServiceInput {
            spec: &self.spec,
            endpoints: &self.endpoints,
            intents: &self.intents,
            seen: &self.seen,
            dynamic: &self.dynamic,
            gates: &self.gates,
            shared: self.shared,
        }
    }

    fn plan(&self) -> Plan {
        plan(&[self.input()], SEED, self.now, &mut Cache::default())
    }

    fn health(&mut self, i: usize, health: Health) {
        self.seen.insert(id(i), Seen { health, back_since: None });
    }

    fn admin(&mut self, i: usize, admin: Admin) {
        self.intents.insert(id(i), Intent { admin, weight: None });
    }
}

fn slots(plan: &Plan) -> Vec<u32> {
    plan.services[0].table.counts(plan.services[0].members.len())
}

fn changed(before: &Plan, after: &Plan) -> ServiceChange {
    match diff(before, after).as_slice() {
        [Change::Changed(change)] => change.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_is_out_owns_nothing_and_stays_visible() {
    let mut f = Fixture::new("web", &[1; 6]);
    f.health(1, Health::Down);
    f.admin(2, Admin::Drain);
    f.admin(3, Admin::Maintenance);
    f.seen.remove(&id(4));
    f.endpoints[5].weight = Weight(0);
    let plan = f.plan();
    let states: Vec<_> = plan.services[0].members.iter().map(|m| m.state).collect();
    use BackendState::*;
    assert_eq!(states, [Active, Down, Draining, Maintenance, Down, Active]);
    assert_eq!(slots(&plan), [1024, 0, 0, 0, 0, 0]);
    assert!(!plan.services[0].no_backends);
}

#[test]
fn breakers_and_limits_keep_new_flows_away_and_a_trial_gets_its_share() {
    let mut f = Fixture::new("web", &[1; 4]);
    f.gates = [(id(0), Gate::Open), (id(1), Gate::Full), (id(2), Gate::Trial(Factor::of(0.1)))].into();
    let plan = f.plan();
    let members = &plan.services[0].members;
    let shown: Vec<_> = members.iter().map(|m| (m.standing, m.state)).collect();
    use BackendState::*;
    assert_eq!(shown, [(Standing::Broken, Soft), (Standing::Full, Soft), (Standing::OnTrial, Recovering), (Standing::Serving, Active)]);
    let slots = slots(&plan);
    assert_eq!((slots[0], slots[1], members[2].parts.trial), (0, 0, Factor::of(0.1)));
    let share = f64::from(slots[2]) / f64::from(slots[3]);
    assert!((0.06..0.14).contains(&share), "{slots:?}");
    f.gates = (0..4).map(|i| (id(i), Gate::Open)).collect();
    assert!(f.plan().services[0].no_backends, "and then the service's policy counts");
}

#[test]
fn who_fails_static_uses_open_breakers_before_the_dead_and_backups_last() {
    let mut f = Fixture::new("web", &[1; 4]);
    f.spec.when_empty = WhenEmpty::FailStatic;
    f.endpoints[2].backup = 1;
    let live = |f: &Fixture| slots(&f.plan()).iter().map(|n| *n > 0).collect::<Vec<_>>();
    f.gates = [(id(0), Gate::Open)].into();
    f.health(1, Health::Down);
    f.health(3, Health::Down);
    assert_eq!(live(&f), [false, false, true, false], "the backup stands in");
    f.gates.insert(id(2), Gate::Open);
    assert_eq!(live(&f), [true, false, false, false], "its breaker is open, but it lives");
    let held = f.plan();
    let member = &held.services[0].members[0];
    assert_eq!((member.standing, member.state, held.services[0].no_backends), (Standing::Broken, BackendState::Active, false));
    f.gates.insert(id(0), Gate::Full);
    assert_eq!(live(&f), [false, false, true, false], "a limit is no doubt");
    f.gates.insert(id(2), Gate::Full);
    assert_eq!(live(&f), [false, true, false, true], "the dead, for nobody else is left");
    f.endpoints[3].weight = Weight(0);
    assert_eq!(live(&f), [false, true, false, false]);
    f.spec.when_empty = WhenEmpty::Drop;
    assert!(f.plan().services[0].no_backends);
}

#[test]
fn who_is_suspected_is_spared_by_what_remembers_its_flows() {
    use BackendState::{Active, Draining, Soft};
    let steady = Fixture::new("web", &[1; 4]).plan();
    let rows = [
        (Mode::Nat, false, Soft, false),
        (Mode::Nat, true, Soft, false),
        (Mode::Dsr, false, Soft, true),
        (Mode::Dnat, false, Soft, true),
        (Mode::Tunnel, false, Soft, true),
        (Mode::Dsr, true, Draining, false),
        (Mode::Dnat, true, Draining, false),
        (Mode::Tunnel, true, Draining, false),
    ];
    for (mode, shared, state, keeps_slots) in rows {
        let mut f = Fixture::new("web", &[1; 4]);
        (f.spec.mode, f.shared) = (mode, shared);
        f.health(1, Health::Soft);
        let plan = f.plan();
        let member = &plan.services[0].members[1];
        assert_eq!((member.standing, member.state, member.takes_new()), (Standing::Suspected, state, false), "{mode:?} {shared}");
        assert_eq!(slots(&plan)[1] > 0, keeps_slots, "{mode:?} {shared}");
        assert_eq!(plan.services[0].table == steady.services[0].table, keeps_slots);
        assert_eq!(plan.services[0].members[0].state, Active);
        // A breaker takes the slots away as well, for that may last.
        f.health(1, Health::Up);
        f.gates.insert(id(1), Gate::Open);
        let plan = f.plan();
        assert_eq!((plan.services[0].members[1].state, slots(&plan)[1]), (state, 0), "{mode:?} {shared}");
    }
}

#[test]
fn backups_stand_in_by_priority() {
    let mut f = Fixture::new("web", &[1, 1, 1, 1, 2]);
    (f.endpoints[2].backup, f.endpoints[3].backup, f.endpoints[4].backup) = (1, 1, 2);
    let live = |f: &Fixture| slots(&f.plan()).iter().map(|n| *n > 0).collect::<Vec<_>>();
    let steady = f.plan();
    assert_eq!(live(&f), [true, true, false, false, false]);
    let standings: Vec<_> = steady.services[0].members.iter().map(|m| (m.standing, m.state)).collect();
    assert_eq!(standings[3], (Standing::Standby, BackendState::Active), "its old flows stay");
    assert!(steady.services[0].table.secondary.iter().all(|s| *s < 2), "no slot may fall to one that stands by");
    f.health(0, Health::Down);
    assert_eq!(live(&f), [false, true, false, false, false]);
    f.spec.backup_below = 60;
    assert_eq!(live(&f), [false, true, true, true, false], "half of the weight is less than 60 percent, with the first backups it is not");
    f.spec.backup_below = 0;
    f.gates.insert(id(1), Gate::Open);
    assert_eq!(live(&f), [false, false, true, true, false]);
    f.gates.insert(id(1), Gate::Trial(Factor::of(0.1)));
    assert_eq!(live(&f), [false, true, true, true, false], "on trial it gets its share, and the backups stay");
    f.health(2, Health::Down);
    f.admin(3, Admin::Drain);
    assert_eq!(live(&f), [false, true, false, false, true]);
    f.gates.clear();
    assert_eq!(live(&f), [false, true, false, false, false]);
    (0..5).for_each(|i| f.health(i, Health::Down));
    assert!(f.plan().services[0].no_backends);
}

#[test]
fn drain_moves_the_backends_own_slots_and_undrain_moves_them_back() {
    let mut f = Fixture::new("web", &[2, 1, 3, 1]);
    let before = f.plan();
    f.admin(2, Admin::Drain);
    let drained = f.plan();
    let change = changed(&before, &drained);
    assert_eq!((change.moved, change.slots, change.resized), (slots(&before)[2], 1024, None));
    assert_eq!(
        change.backends,
        [BackendChange { id: id(2), before: Some((Standing::Serving, Weight(3))), after: Some((Standing::Draining, Weight(3))) }]
    );
    f.intents.clear();
    assert_eq!(f.plan(), before);
    assert!(diff(&before, &f.plan()).is_empty());
}

#[test]
fn no_backends_is_a_value() {
    let mut f = Fixture::new("web", &[1, 1]);
    let before = f.plan();
    f.health(0, Health::Down);
    f.health(1, Health::Unknown);
    let after = f.plan();
    assert!(after.services[0].no_backends && after.services[0].table.is_vacant());
    assert_eq!(after.services[0].members.len(), 2);
    assert_eq!(changed(&before, &after).no_backends, Some(true));
    f.endpoints.clear();
    let empty = f.plan();
    assert!(empty.services[0].no_backends && empty.services[0].members.is_empty() && empty.services[0].table.owner.len() == 256);
}

#[test]
fn without_a_heartbeat_everyone_counts_as_up() {
    let mut f = Fixture::new("web", &[1, 1]);
    f.seen.clear();
    f.spec.checked = false;
    assert_eq!(slots(&f.plan()), [128, 128]);
}

#[test]
fn the_operators_weight_goes_first_and_removed_is_gone() {
    let mut f = Fixture::new("web", &[1, 1, 1]);
    f.intents.insert(id(0), Intent { admin: Admin::In, weight: Some(Weight(3)) });
    f.admin(1, Admin::Removed);
    let plan = f.plan();
    let members: Vec<_> = plan.services[0].members.iter().map(|m| (m.id, m.configured)).collect();
    assert_eq!(members, [(id(0), Weight(3)), (id(2), Weight(1))]);
    assert_eq!(slots(&plan), [384, 128]);
}

#[test]
fn a_returning_backend_climbs_step_by_step_to_the_very_table_it_had() {
    let mut f = Fixture::new("web", &[1; 4]);
    let whole = f.plan();
    let start = f.now;
    f.seen.insert(id(3), Seen { health: Health::Up, back_since: Some(start) });
    let (mut last, mut steps) = (0, 0);
    while let Some(at) = f.plan().replan_at {
        let plan = f.plan();
        assert_eq!(plan.services[0].members[3].state, BackendState::Recovering);
        assert!(slots(&plan)[3] > last, "{:?} after {last}", slots(&plan));
        last = slots(&plan)[3];
        assert!(at > f.now);
        f.now = at;
        steps += 1;
    }
    assert_eq!((steps, f.plan()), (9, whole));
    assert!(f.now - start <= Duration::from_secs(31));
}

#[test]
fn services_of_equal_members_share_one_table_and_the_cache_forgets_the_rest() {
    let mut cache = Cache::default();
    let (mut a, b, c) = (Fixture::new("a", &[1, 2]), Fixture::new("b", &[1, 2]), Fixture::new("c", &[2, 2]));
    let first = plan(&[c.input(), b.input(), a.input()], SEED, a.now, &mut cache);
    assert_eq!(first.services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(Arc::ptr_eq(&first.services[0].table, &first.services[1].table));
    assert_eq!(cache.len(), (2, 2));
    a.health(0, Health::Down);
    let second = plan(&[a.input(), b.input()], SEED, a.now, &mut cache);
    assert!(Arc::ptr_eq(&first.services[1].table, &second.services[1].table));
    assert!(!Arc::ptr_eq(&second.services[0].table, &second.services[1].table));
    let names: Vec<_> = diff(&first, &second).into_iter().map(|c| matches!(c, Change::Removed { .. })).collect();
    assert_eq!(names, [false, true]);
    drop(first);
    cache.sweep();
    assert_eq!(cache.len(), (1, 2));
}

#[test]
fn what_cannot_be_planned_as_asked_says_so() {
    let mut f = Fixture::new("web", &[1, 1]);
    f.spec.log2_slots = Some(40);
    let plan = f.plan();
    assert_eq!((plan.services[0].problem, plan.services[0].table.log2_slots), (Some(TableError::TooManySlots(40)), MAX_LOG2_SLOTS));
    let json = serde_json::to_value(&plan).unwrap();
    let service = &json["services"][0];
    assert_eq!((&service["vip"], &service["table"]["slots"]), (&"192.0.2.1:80/tcp".into(), &(1 << 20).into()));
    assert_eq!(service["members"][0]["state"], "active");
}

#[test]
fn a_resize_is_measured_over_the_hash_space() {
    let mut f = Fixture::new("web", &[1, 1]);
    let before = f.plan();
    f.spec.log2_slots = Some(10);
    let change = changed(&before, &f.plan());
    assert_eq!((change.slots, change.resized), (1024, Some((256, 1024))));
    assert!((0.3..0.7).contains(&change.moved_share()), "{change}");
}

#[test]
fn dynamic_factors_and_distance_shape_the_shares() {
    let mut f = Fixture::new("web", &[1; 4]);
    f.dynamic.insert(id(0), Factor(1024));
    assert_eq!(f.plan().services[0].members[0].parts.dynamic, Factor(1024));
    let counts = slots(&f.plan());
    assert!((140..=152).contains(&(counts[0] * 2)) && counts.iter().sum::<u32>() == 512, "{counts:?}");
    f.dynamic.insert(id(0), Factor::ZERO);
    assert_eq!((slots(&f.plan())[0], f.plan().services[0].members[0].state), (0, BackendState::Active));

    f.dynamic.clear();
    f.spec.locality = Some(Locality { distances: [("here".to_owned(), 1)].into(), elsewhere: 3 });
    f.endpoints.iter_mut().take(2).for_each(|e| e.zone = Some("here".to_owned()));
    let near: u32 = slots(&f.plan())[..2].iter().sum();
    assert!((374..=394).contains(&near), "three quarters of 512, but {near}");
    f.health(0, Health::Down);
    f.health(1, Health::Down);
    assert_eq!(slots(&f.plan())[..2], [0, 0]);
}

#[test]
fn a_scheduler_is_switched_and_back() {
    let mut f = Fixture::new("web", &[1, 2, 3]);
    let consistent = f.plan();
    let mut cache = Cache::default();
    for scheduler in [Scheduler::Maglev, Scheduler::Ring, Scheduler::Random, Scheduler::RoundRobin, Scheduler::Consistent] {
        f.spec.scheduler = scheduler;
        let plan = plan(&[f.input()], SEED, f.now, &mut cache);
        assert_eq!(plan == consistent, scheduler == Scheduler::Consistent);
        f.health(1, Health::Down);
        assert_eq!(slots(&f.plan())[1], 0, "{scheduler:?}");
        f.health(1, Health::Up);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was planned before, and in whatever order endpoints come: the same inputs make the same plan.
    #[test]
    fn plans_have_no_memory(weights in vec(0u16..20, 0..12), history in vec((0usize..12, 0u8..4), 0..8)) {
        let mut f = Fixture::new("web", &weights);
        let mut cache = Cache::default();
        for (i, what) in history {
            match what {
                0 => f.health(i, Health::Down),
                1 => f.health(i, Health::Up),
                2 => f.admin(i, Admin::Drain),
                _ => f.admin(i, Admin::Removed),
            }
            let kept = plan(&[f.input()], SEED, f.now, &mut cache);
            f.endpoints.reverse();
            prop_assert_eq!(kept, f.plan());
        }
    }
}
