//! Connections that break while backends are drained, added, weighed, lost and come back, nodes of the balancer come and go, and SYNs flood in: by
//! who keeps them. Packets and what nodes tell each other take no time.

use std::net::Ipv4Addr;

use mesh::{
    model::{BackendId, Weight},
    table::{BaseTable, Member, Scheduler, Table, overlay, scheduled},
};
use mesh_common::ledger::change::Times;

use super::{
    keepers::{Chain, Full, Keeper, Ledger, Packet, Recent, Stateless},
    random::Random,
};

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The course of events is spread over so many seconds.
    pub seconds: u32,
    /// New flows a second.
    pub rate: f64,
    /// SYNs a second during a twentieth of the time.
    pub flood: f64,
    /// Entries that each node's ledger has room for.
    pub room: usize,
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    pub keeper: String,
    pub flows: u64,
    /// Flows of which a packet came to another backend, or to none, though theirs lived.
    pub broken: u64,
    /// Flows that ended with their backend.
    pub lost: u64,
    /// The most flows that were remembered at once.
    pub entries: usize,
}

const BACKENDS: usize = 50;
const LOG2_SLOTS: u8 = 12;
const NODES: usize = 4;
/// Seconds of a tick.
const TICK: f64 = 0.134;
/// Flows are never silent for longer, in seconds, and the ledger promises a little more.
const SILENCE: f64 = 120.0;
const UNIT: u32 = 2048;
/// Beyond so many times the usual rate of new flows a node with a gate remembers none of them.
const GATE: f64 = 10.0;

/// Every way to keep flows.
pub fn all(case: &Case) -> Vec<Outcome> {
    let ticks = |seconds: f64| (seconds / TICK) as u32;
    let times = Times { handshake: ticks(3.0), idle: ticks(SILENCE + 5.0), patience: ticks(60.0), lag: 16 };
    let ledger = |shared, full| Box::new(Ledger::new(NODES, shared, case.room, full, times)) as Box<dyn Keeper>;
    let recent = |gate: f64| Box::new(Recent::new(NODES, gate as u64)) as Box<dyn Keeper>;
    let gate = GATE * case.rate * TICK / NODES as f64;
    let stateless = || Box::new(Stateless::default()) as Box<dyn Keeper>;
    let keepers = [
        ("no memory, maglev", Scheduler::Maglev, stateless()),
        ("no memory, consistent-hash", Scheduler::Consistent, stateless()),
        ("flow table per node, maglev", Scheduler::Maglev, recent(f64::INFINITY)),
        ("the same with a gate by rate", Scheduler::Maglev, recent(gate)),
        ("chain of one, maglev", Scheduler::Maglev, Box::new(Chain::default()) as Box<dyn Keeper>),
        ("slot ledger, each node alone", Scheduler::Consistent, ledger(false, Full::Refused)),
        ("slot ledger, the oldest gives way", Scheduler::Consistent, ledger(true, Full::Ousts)),
        ("slot ledger, told to all nodes", Scheduler::Consistent, ledger(true, Full::Refused)),
    ];
    keepers.into_iter().map(|(name, kind, keeper)| World::new(case, kind, keeper).run(name)).collect()
}

struct Flow {
    hash: u64,
    with: u16,
    /// The time at which it began.
    began: u32,
    /// Seconds.
    ends: f64,
    gap: f64,
}

struct World<'a> {
    case: &'a Case,
    kind: Scheduler,
    keeper: Box<dyn Keeper>,
    random: Random,
    weights: Vec<u16>,
    /// What each can take of its weight.
    factor: Vec<f64>,
    drained: Vec<bool>,
    dead: Vec<bool>,
    /// When each died last; 0 = never.
    died: Vec<u32>,
    waiting: Option<u16>,
    nodes: usize,
    /// Flows by the tick of their next packet.
    due: Vec<Vec<Flow>>,
    outcome: Outcome,
}

impl<'a> World<'a> {
    fn new(case: &'a Case, kind: Scheduler, keeper: Box<dyn Keeper>) -> Self {
        let outcome = Outcome { keeper: String::new(), flows: 0, broken: 0, lost: 0, entries: 0 };
        Self {
            case,
            kind,
            keeper,
            random: Random::new(case.seed),
            weights: vec![100; BACKENDS],
            factor: vec![1.0; BACKENDS + 1],
            drained: vec![false; BACKENDS + 1],
            dead: vec![false; BACKENDS + 1],
            died: vec![0; BACKENDS + 1],
            waiting: None,
            nodes: NODES,
            due: (0..=(f64::from(case.seconds) / TICK) as usize + 1).map(|_| Vec::new()).collect(),
            outcome,
        }
    }

    fn run(mut self, name: &str) -> Outcome {
        self.publish(1);
        let last = self.due.len() - 1;
        let mut flows = 0.0;
        for tick in 0..last {
            // A tick of 0 means never.
            let now = tick as u32 + 1;
            let part = tick as f64 / last as f64;
            self.act(part, 1.0 / last as f64, now);
            self.keeper.step(now);
            if let Some(backend) = self.waiting.filter(|b| self.keeper.is_free_of(*b)) {
                (self.dead[usize::from(backend)], self.waiting) = (false, None);
                self.publish(now);
            }
            flows += self.case.rate * TICK;
            while flows >= 1.0 {
                flows -= 1.0;
                self.begin(tick, now);
            }
            if (0.45..0.5).contains(&part) {
                (0..(self.case.flood * TICK) as u64).for_each(|_| self.flood(now));
            }
            for flow in std::mem::take(&mut self.due[tick]) {
                self.go_on(flow, tick, now);
            }
            self.outcome.entries = self.outcome.entries.max(self.keeper.entries());
        }
        Outcome { keeper: name.to_owned(), ..self.outcome }
    }

    /// What happens in the `step` that begins at this part of the time.
    fn act(&mut self, part: f64, step: f64, now: u32) {
        let due = |at: f64| (part..part + step).contains(&at);
        let mut changed = true;
        match () {
            () if due(0.08) => self.drained[3] = true,
            () if due(0.16) => self.weights.push(100),
            () if due(0.24) => [5, 14, 23, 32, 41].into_iter().for_each(|i| self.weights[i] = 50),
            () if due(0.34) => (self.nodes, changed) = (NODES - 1, false),
            () if due(0.46) => [8, 18].into_iter().for_each(|i| self.weights[i] = 60),
            () if due(0.48) => (self.nodes, changed) = (NODES, false),
            () if due(0.55) => self.drained[11] = true,
            () if due(0.555) => self.drained[12] = true,
            () if due(0.63) => (self.dead[20], self.died[20]) = (true, now),
            () if due(0.68) => (self.waiting, changed) = (Some(20), false),
            () if (0..20).any(|i| due(0.72 + 0.01 * f64::from(i))) => {
                for _ in 0..BACKENDS / 10 {
                    let i = (self.random.word() % BACKENDS as u64) as usize;
                    self.factor[i] = (self.factor[i] * (0.1 * self.random.normal()).exp()).clamp(0.2, 5.0);
                }
            }
            () => changed = false,
        }
        if changed {
            self.publish(now);
        }
    }

    fn publish(&mut self, now: u32) {
        let member = |(i, weight): (usize, &u16)| Member { id: id(i), weight: Weight(*weight) };
        let members: Vec<_> = self.weights.iter().enumerate().map(member).collect();
        let Ok(base) = BaseTable::build(&members, LOG2_SLOTS, 7) else { return };
        let effective = |(i, weight): (usize, &u16)| {
            let out = self.drained[i] || self.dead[i];
            if out { 0 } else { (f64::from(*weight) * self.factor[i] * f64::from(UNIT)) as u32 }
        };
        let effective: Vec<u32> = self.weights.iter().enumerate().map(effective).collect();
        let table: Table =
            if self.kind == Scheduler::Consistent { overlay(&base, &effective) } else { scheduled(&base, self.kind, &effective) };
        self.keeper.wish(&table, &self.dead, now);
    }

    fn packet(&self, hash: u64, with: Option<u16>) -> Packet {
        Packet { hash, slot: (hash >> (64 - LOG2_SLOTS)) as usize, node: (hash % self.nodes as u64) as usize, opens: with.is_none(), with }
    }

    fn begin(&mut self, tick: usize, now: u32) {
        let hash = self.random.word();
        let Some(with) = self.keeper.lead(&self.packet(hash, None), now) else { return };
        self.outcome.flows += 1;
        let (mean, gap) = match self.random.unit() {
            short if short < 0.9 => (5.0, 2.0),
            longer if longer < 0.99 => (60.0, 10.0),
            _ => (600.0, 40.0),
        };
        let ends = tick as f64 * TICK + mean * self.random.exponential();
        self.wait(Flow { hash, with, began: now, ends, gap }, tick, TICK);
    }

    /// A SYN that nothing follows.
    fn flood(&mut self, now: u32) {
        let hash = self.random.word();
        self.keeper.lead(&self.packet(hash, None), now);
    }

    fn go_on(&mut self, flow: Flow, tick: usize, now: u32) {
        // One that was silent while its backend died and came back has ended with it too.
        if flow.began <= self.died[usize::from(flow.with)] {
            self.outcome.lost += 1;
        } else if self.keeper.lead(&self.packet(flow.hash, Some(flow.with)), now) != Some(flow.with) {
            self.outcome.broken += 1;
        } else {
            let pause = (flow.gap * self.random.exponential()).min(SILENCE);
            self.wait(flow, tick, pause);
        }
    }

    /// The flow's next packet is due after `pause` seconds, unless it ends before.
    fn wait(&mut self, flow: Flow, tick: usize, pause: f64) {
        let at = tick + ((pause / TICK) as usize).max(1);
        if at as f64 * TICK <= flow.ends
            && let Some(due) = self.due.get_mut(at)
        {
            due.push(flow);
        }
    }
}

fn id(i: usize) -> BackendId {
    BackendId((Ipv4Addr::from_bits(0x0a00_0001 + i as u32), 8080).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_breaks_nothing_that_others_break() {
        let case = Case { seconds: 600, rate: 60.0, flood: 600.0, room: 65_536, seed: 1 };
        let all = all(&case);
        let broken = |name: &str| all.iter().find(|o| o.keeper.contains(name)).map(|o| o.broken);
        assert_eq!(broken("told to all"), Some(0), "{all:?}");
        assert!(broken("no memory, maglev") > broken("no memory, consistent-hash"), "{all:?}");
        assert!(broken("chain") > Some(0) && broken("consistent-hash") > Some(20), "{all:?}");
        assert!(all.iter().all(|o| o.flows > 30_000), "{all:?}");
    }
}
