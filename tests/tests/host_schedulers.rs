//! How schedulers spread new flows, by the engine that the kernel runs. Hashes and draws come of fixed keys, so that each run is the same.

use mesh_common::abi::{BackendLoad, Mode, Proto, Schedule, Scheduler, ServiceFlags, SlotWord};
use mesh_tests::fixture::{
    Engine, Host, Member, Service, Sizes, World,
    cases::Setting,
    tcp::{ACK, FIN, SYN},
};

const SETTING: Setting = Setting { mode: Mode::Dsr, v6: false, proto: Proto::Tcp, outer_v6: false, gue: false, several: false };
/// Nearly every flow finds room.
const SIZES: Sizes = Sizes { remembered: 1 << 13, backends: 256, backend_stats: 256, ..Sizes::SMALL };
const WEIGHT: u32 = 1000;

/// A service of so many backends, and the balancer in front of it.
struct Spread {
    host: Host,
    world: World,
    /// Flows that each backend has been given.
    given: Vec<usize>,
    next: u16,
}

impl Spread {
    fn new(scheduler: Scheduler, loads: &[BackendLoad], slots: Vec<SlotWord>) -> Self {
        let members = (0..).zip(loads).map(|(n, load)| Member::new(n, SETTING.backend(n)).with(|m| m.load = *load)).collect();
        let schedule = Schedule {
            scheduler: scheduler as u8,
            members: loads.len() as u32,
            weight: loads.iter().map(|l| l.weight).sum(),
            ..Schedule::default()
        };
        let service = Service::new(SETTING.vip(), SETTING.proto, SETTING.mode, members);
        let world = World::new(vec![Service { slots, flags: ServiceFlags::CHOOSES, schedule, ..service }]);
        let mut host = Host::new(SIZES);
        host.reset(&mut |maps| world.publish(maps));
        Self { host, world, given: vec![0; loads.len()], next: 0 }
    }

    /// Begins a flow: number of its backend.
    fn begin(&mut self) -> usize {
        self.next += 1;
        let owner = self.send(self.next, SYN);
        self.given[owner] += 1;
        owner
    }

    fn run(&mut self, flows: usize) {
        (0..flows).for_each(|_| {
            self.begin();
        });
    }

    /// Sends a packet of this flow, and tells where it went.
    fn send(&mut self, flow: u16, flags: u8) -> usize {
        let packet = SETTING.packet(flags).with(|f| f.set_ports(flow, 80));
        let out = self.host.send(&packet.bytes());
        assert!(out.verdict.is_forward(), "{:?}", out.verdict);
        // The last byte of the destination's MAC.
        usize::from(out.bytes[5])
    }

    /// Tells the packet path how many flows all have together, as a sweep does.
    fn sweep(&mut self) {
        self.host
            .edit(&mut |maps| maps.schedules[World::service_id(0) as usize].live = maps.loads.iter().map(|l| l.live.max(0) as u64).sum());
    }

    fn live(&mut self, backend: usize) -> i64 {
        let (at, mut live) = (self.world.stats_index(0, backend) as usize, 0);
        self.host.edit(&mut |maps| live = maps.loads[at].live);
        live
    }

    fn gap(&self) -> usize {
        self.given.iter().max().unwrap_or(&0) - self.given.iter().min().unwrap_or(&0)
    }
}

const fn load(weight: u32, latency: u32) -> BackendLoad {
    BackendLoad { live: 0, turns: 0, weight, latency, reserved: 0 }
}

/// All backends have as many slots.
fn even(backends: u16) -> Vec<SlotWord> {
    (0..256).map(|slot| SlotWord::steady(slot % backends, (slot + 1) % backends)).collect()
}

#[test]
fn least_response_time_gives_flows_by_the_time_and_the_weight() {
    // Live flows times latency over weight become equal: shares of 4, 2, 1 and 2 by the weight of the last.
    let loads = [load(WEIGHT, 99), load(WEIGHT, 199), load(WEIGHT, 399), load(2 * WEIGHT, 399)];
    let mut spread = Spread::new(Scheduler::LeastResponseTime, &loads, even(4));
    spread.run(900);
    for (given, wanted) in spread.given.iter().zip([400, 200, 100, 200]) {
        assert!(given.abs_diff(wanted) <= 4, "{:?}", spread.given);
    }
    // Who was slow answers at once.
    let at = spread.world.stats_index(0, 2) as usize;
    spread.host.edit(&mut |maps| maps.loads[at].latency = 0);
    assert!((0..200).all(|_| spread.begin() == 2), "{:?}", spread.given);
}

#[test]
fn whose_flows_end_gets_the_next_ones() {
    let mut spread = Spread::new(Scheduler::LeastConnections, &[load(WEIGHT, 0); 3], even(3));
    let owners: Vec<(u16, usize)> = (1..=90).map(|flow| (flow, spread.begin())).collect();
    assert_eq!(spread.given, [30, 30, 30]);
    let ended = owners.iter().filter(|(_, owner)| *owner == 1).take(12).map(|(flow, _)| *flow);
    for flow in ended {
        assert_eq!((spread.send(flow, ACK), spread.send(flow, FIN | ACK), spread.send(flow, ACK)), (1, 1, 1));
    }
    assert_eq!(spread.live(1), 18);
    assert!((0..12).all(|_| spread.begin() == 1), "{:?}", spread.given);
    assert_eq!([0, 1, 2].map(|b| spread.live(b)), [30; 3]);
}

#[test]
fn two_choices_keep_backends_level() {
    let flows = 1600;
    let run = |scheduler| {
        let mut spread = Spread::new(scheduler, &[load(WEIGHT, 0); 16], even(16));
        spread.run(flows);
        spread
    };
    let (two, one) = (run(Scheduler::TwoChoices), run(Scheduler::Random));
    // One draw scatters by the root of what each has, 10 here; the better of two by no more than the logarithm's logarithm.
    assert!(two.gap() <= 8, "{:?}", two.given);
    assert!((20..80).contains(&one.gap()), "{:?}", one.given);
}

#[test]
fn two_choices_know_weights() {
    let loads: Vec<_> = (0..12).map(|n| load(if n % 3 == 0 { 2 * WEIGHT } else { WEIGHT }, 0)).collect();
    // Of four slots two are the heavy one's: draws come by weight as well.
    let owner = |slot: u16| slot / 4 % 4 * 3 + [0, 1, 2, 0][usize::from(slot % 4)];
    let mut spread = Spread::new(Scheduler::TwoChoices, &loads, (0..256).map(|slot| SlotWord::steady(owner(slot), 0)).collect());
    spread.run(1600);
    for (n, given) in spread.given.iter().enumerate() {
        let wanted = if n % 3 == 0 { 200 } else { 100 };
        assert!(given.abs_diff(wanted) <= 8, "{:?}", spread.given);
    }
}

/// The first has half of all slots, and by its weight a sixteenth of the flows.
#[test]
fn what_is_crowded_gives_way_and_all_else_goes_by_the_hash() {
    let owner = |slot: u16| if slot.is_multiple_of(2) { 0 } else { 1 + slot / 2 % 15 };
    let slots: Vec<_> = (0..256).map(|slot| SlotWord::steady(owner(slot), 1 + (slot / 2 + 7) % 15)).collect();
    let loads = [load(WEIGHT, 0); 16];
    let (mut hashed, mut spread) =
        (Spread::new(Scheduler::Hash, &loads, slots.clone()), Spread::new(Scheduler::HashUnlessCrowded, &loads, slots));
    for flow in 0..3200 {
        let (target, owner) = (hashed.begin(), spread.begin());
        // While there are few flows, chance makes crowds.
        assert!(owner == target || target == 0 || flow < 1600, "{owner} for {target}, who is not crowded");
        if flow % 16 == 15 {
            spread.sweep();
        }
    }
    assert!((1500..1700).contains(&hashed.given[0]), "{:?}", hashed.given);
    // Half as many again as all have on average, 200.
    assert!(spread.given[0].abs_diff(300) <= 4, "{:?}", spread.given);
}

/// More backends than are compared: the best of some that are drawn.
#[test]
fn of_many_backends_some_are_compared() {
    let slots = (0..512).map(|slot| SlotWord::steady(slot % 128, 0)).collect();
    let mut spread = Spread::new(Scheduler::LeastConnections, &[load(WEIGHT, 0); 60], even(60));
    spread.run(600);
    assert_eq!(spread.gap(), 0, "all are compared: {:?}", spread.given);
    let mut many = Spread::new(Scheduler::LeastConnections, &[load(WEIGHT, 0); 128], slots);
    many.run(1280);
    assert!(many.gap() <= 6, "{:?}", many.given);
}
