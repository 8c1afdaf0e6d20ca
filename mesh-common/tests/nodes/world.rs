//! Two balancers of one slot, flows whose packets reach now this one and now the other, and what the two say to each other: each report and each entry
//! arrives at any moment within its time, or is overtaken by a newer one, as is one that was lost and is sent again.

use mesh_common::ledger::rules::Sent;

use crate::{
    node::{Node, Told},
    search,
    setup::{OLD, Setup},
};

pub const BACKENDS: usize = 3;

/// A connection as its client and its backend know it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Flow {
    None,
    /// SYNs were sent. For each backend, how long ago the last one reached it; [`OLD`] = never. `disturbed`: a backend has died since, so that the
    /// handshake may fail.
    Opening {
        reached: [u8; BACKENDS],
        disturbed: bool,
        /// The node that could not remember its SYN: a handshake that nobody is told of does not change its balancer.
        by: Option<u8>,
    },
    Open {
        owner: u8,
        idle: u8,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct World<const FLOWS: usize> {
    pub nodes: [Node<FLOWS>; 2],
    pub flows: [Flow; FLOWS],
    /// Flows that only this node can know the backend of.
    pub bound: [Option<u8>; FLOWS],
    pub dead: [bool; BACKENDS],
    pub wanted: u8,
    pub setup: Setup,
}

/// Something that happens; the last number is the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Tick,
    Syn(usize, usize),
    Again(usize, usize),
    /// A SYN that is late (`true`) or forged.
    Stray(usize, bool, usize),
    /// The client takes this backend's SYN-ACK, and its ACK goes by the node.
    Ack(usize, u8, usize),
    Data(usize, usize),
    Close(usize),
    /// The operator wants this target, ...
    Wish(u8),
    /// ... and the node's plan too, from now on.
    Follow(usize),
    /// The daemon looks at its slot, takes a step, and tells the other.
    Look(usize),
    /// The other hears the node's report.
    Report(usize),
    /// The other hears what the node remembers of the flow.
    Entry(usize, usize),
    /// Another flow's packet goes to somebody who is not the target, or can't be remembered.
    Elsewhere(usize),
    Refused(usize),
    Dies(u8),
    /// The node finds it out.
    Finds(u8, usize),
}

/// A flow that should have found its backend and did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    pub flow: usize,
    pub owner: u8,
    pub went: Option<u8>,
}

impl<const FLOWS: usize> World<FLOWS> {
    /// All is at rest with backend 0; where nodes have begun apart, with 1 on the second.
    pub fn new(setup: Setup) -> Self {
        let nodes = [0, u8::from(setup.parted)].map(|owner| Node::new(owner, &setup));
        Self { nodes, flows: [Flow::None; FLOWS], bound: [None; FLOWS], dead: [false; BACKENDS], wanted: 0, setup }
    }

    /// The same, where this is wanted from the beginning.
    pub fn wanting(self, wanted: u8) -> Self {
        Self { wanted, ..self }
    }

    /// All that can happen next, and whether there is room for an entry.
    pub fn events(&self) -> Vec<(Event, bool)> {
        let mut events = Vec::new();
        if self.may_tick() {
            events.push((Event::Tick, true));
        }
        // Daemons look at the beginning of a tick, in any order.
        let looked = self.nodes.iter().all(|node| node.looked);
        for flow in (0..FLOWS).filter(|_| looked) {
            if self.flows[flow] != Flow::None {
                events.push((Event::Close(flow), true));
            }
            for node in (0..2).filter(|node| self.may_go_by(flow, *node)) {
                let packets = self.packets(flow, node);
                let full = self.setup.full && !self.nodes[node].is_steady();
                events.extend(packets.iter().filter(|_| full).map(|packet| (*packet, false)));
                events.extend(packets.into_iter().map(|packet| (packet, true)));
            }
        }
        for node in 0..2 {
            let all = self.events_of(node);
            let cramped = all.iter().filter(|event| matches!(event, Event::Entry(flow, n) if self.may_refuse(*flow, *n)));
            events.extend(cramped.map(|event| (*event, false)));
            events.extend(all.into_iter().map(|event| (event, true)));
        }
        if self.setup.wishes > 0 && !looked {
            let others = (0..BACKENDS as u8).filter(|target| *target != self.wanted);
            events.extend(others.map(|target| (Event::Wish(target), true)));
        }
        if self.setup.deaths > 0 && self.dead == [false; BACKENDS] {
            events.extend((0..BACKENDS as u8).map(|backend| (Event::Dies(backend), true)));
        }
        events
    }

    /// A flow does not change its balancer before the others can have been told of it, nor is its tuple used again within that moment.
    fn may_go_by(&self, flow: usize, node: usize) -> bool {
        let elsewhere = matches!(self.flows[flow], Flow::Opening { by: Some(by), .. } if usize::from(by) != node);
        let elsewhere = elsewhere || self.bound[flow].is_some_and(|bound| usize::from(bound) != node);
        let over = self.flows[flow] == Flow::None;
        // Nor by a node that goes by no entries yet where the other has told of one: it is to hear why within that moment.
        let elsewhere = elsewhere || self.setup.parted && over && self.nodes[node].is_steady() && self.nodes[node].entries[flow].is_some();
        !elsewhere && self.nodes[1 - node].entries[flow].is_none_or(|entry| !(entry.begins() || over && entry.is_owed()))
    }

    /// Whoever is told within a time is told before it is over, but for what there is no room for, and what is said after that.
    fn may_tick(&self) -> bool {
        let told = |node: &Node<FLOWS>| node.entries.iter().flatten().all(|entry| !entry.is_overdue(self.setup.lag));
        (0..2).all(|n| {
            let node = &self.nodes[n];
            let held_up = node.entries.iter().flatten().any(|entry| entry.refused);
            told(node) && node.looked && (held_up || node.behind < self.setup.lag || !self.has_to_say(n))
        })
    }

    /// The other has no room for what the node tells of the flow.
    fn may_refuse(&self, flow: usize, n: usize) -> bool {
        let known = self.nodes[1 - n].entries[flow].is_some();
        self.setup.cramped > 0 && !known && self.nodes[n].entries[flow].is_some_and(|entry| !entry.refused)
    }

    /// The other has not heard what the node says now.
    fn has_to_say(&self, n: usize) -> bool {
        let (node, other) = (&self.nodes[n], &self.nodes[1 - n]);
        other.view != node.said || other.heard != node.considered || !other.informed
    }

    fn packets(&self, flow: usize, node: usize) -> Vec<Event> {
        let mut events = Vec::new();
        match self.flows[flow] {
            Flow::None if self.setup.handshakes => events.push(Event::Syn(flow, node)),
            // A flow without handshake is its first packet's backend's.
            Flow::None => events.push(Event::Data(flow, node)),
            Flow::Opening { reached, .. } => {
                events.push(Event::Again(flow, node));
                if self.setup.strays {
                    events.push(Event::Stray(flow, false, node));
                }
                let can = |b: &u8| u32::from(reached[usize::from(*b)]) <= self.setup.times().handshake && !self.dead[usize::from(*b)];
                events.extend((0..BACKENDS as u8).filter(can).map(|backend| Event::Ack(flow, backend, node)));
            }
            Flow::Open { .. } => {
                events.push(Event::Data(flow, node));
                if self.setup.handshakes && self.setup.strays {
                    events.extend([Event::Stray(flow, true, node), Event::Stray(flow, false, node)]);
                }
            }
        }
        events
    }

    fn events_of(&self, n: usize) -> Vec<Event> {
        let (node, other) = (&self.nodes[n], &self.nodes[1 - n]);
        let mut events = Vec::new();
        if !node.looked {
            events.push(Event::Look(n));
        }
        if node.wish != self.wanted && !node.looked {
            events.push(Event::Follow(n));
        }
        let all_told = node.entries.iter().flatten().all(|entry| !entry.goes_before());
        if all_told && self.has_to_say(n) {
            events.push(Event::Report(n));
        }
        let owed = (0..FLOWS).filter(|flow| node.entries[*flow].is_some_and(|entry| entry.is_owed()));
        events.extend(owed.map(|flow| Event::Entry(flow, n)));
        if self.setup.others && node.looked && other.looked && !node.is_steady() {
            events.push(Event::Elsewhere(n));
            events.extend(self.setup.full.then_some(Event::Refused(n)));
        }
        let unknown = (0..BACKENDS).filter(|backend| self.dead[*backend] && !node.knows_dead[*backend]);
        events.extend(unknown.map(|backend| Event::Finds(backend as u8, n)));
        events
    }

    /// The world after the event.
    pub fn after(self, event: Event, room: bool) -> Result<Self, Broken> {
        let mut world = self.told_on(event, room)?;
        if self.setup.parted {
            world.bind(event, &self.flows);
        }
        Ok(world)
    }

    fn told_on(mut self, event: Event, room: bool) -> Result<Self, Broken> {
        let setup = self.setup;
        match event {
            Event::Tick => self.tick(),
            Event::Syn(flow, node) => {
                self.nodes.iter_mut().for_each(|node| node.attempt_is_old(flow));
                self.flows[flow] = Flow::Opening { reached: [OLD; BACKENDS], disturbed: false, by: None };
                self.syn(flow, node, room);
            }
            Event::Again(flow, node) => self.syn(flow, node, room),
            Event::Stray(flow, late, node) => {
                self.nodes[node].packet(flow, Sent::Syn { isn: isn(if late { 0 } else { 2 }) }, room, &setup);
            }
            Event::Ack(flow, backend, node) => self.ack(flow, backend, node, room)?,
            Event::Data(flow, node) => self.data(flow, node, room)?,
            Event::Close(flow) => self.flows[flow] = Flow::None,
            Event::Wish(target) => {
                self.wanted = target;
                self.setup.wishes -= 1;
            }
            Event::Follow(node) => self.nodes[node].wish = self.wanted,
            Event::Look(n) => {
                let wrote = self.nodes[n].look(&setup);
                if wrote {
                    // What the other has said was said before it could hear of this, and so is what it says until it has.
                    self.nodes[1 - n].informed = self.nodes[n].is_steady();
                    self.nodes[1 - n].considered = self.nodes[n].is_steady();
                }
            }
            Event::Report(n) => {
                let Node { said, considered, .. } = self.nodes[n];
                let other = &mut self.nodes[1 - n];
                (other.view, other.informed, other.heard) = (said, true, considered);
                self.nodes[n].behind = 0;
            }
            Event::Entry(flow, n) if !room => {
                self.nodes[n].is_refused(flow, &setup);
                self.setup.cramped -= u8::from(setup.cramped < u8::MAX);
            }
            Event::Entry(flow, n) => {
                if let Some(told) = self.nodes[n].tell(flow) {
                    self.nodes[1 - n].take(flow, told);
                }
            }
            Event::Elsewhere(node) => self.nodes[node].seen = 0,
            Event::Refused(node) => self.nodes[node].refused = 0,
            Event::Dies(backend) => self.dies(backend),
            Event::Finds(backend, node) => {
                self.nodes[node].knows_dead[usize::from(backend)] = true;
                self.disturb();
            }
        }
        Ok(self)
    }

    fn tick(&mut self) {
        let (setup, times) = (self.setup, self.setup.times());
        for n in 0..2 {
            self.nodes[n].behind = if self.has_to_say(n) { (self.nodes[n].behind + 1).min(self.setup.lag) } else { 0 };
        }
        self.nodes.iter_mut().for_each(|node| node.tick(&setup));
        for flow in &mut self.flows {
            match flow {
                Flow::None => {}
                Flow::Opening { reached, .. } => reached.iter_mut().for_each(|age| *age = (*age + 1).min(OLD)),
                Flow::Open { idle, .. } => *idle = setup.older(*idle),
            }
            // Nothing is promised to who is silent for longer.
            if matches!(flow, Flow::Open { idle, .. } if u32::from(*idle) > times.idle)
                || matches!(flow, Flow::Opening { reached, .. } if reached.iter().all(|age| u32::from(*age) > times.handshake))
            {
                *flow = Flow::None;
            }
        }
    }

    fn syn(&mut self, flow: usize, node: usize, room: bool) {
        let setup = self.setup;
        let (to, refused) = self.nodes[node].carry(flow, Sent::Syn { isn: isn(0) }, room, &setup);
        if let (Some(to), Flow::Opening { reached, by, .. }) = (to, &mut self.flows[flow])
            && !self.dead[usize::from(to)]
        {
            reached[usize::from(to)] = 0;
            *by = if refused { Some(node as u8) } else { *by };
            if refused && setup.parted {
                self.bound[flow] = Some(node as u8);
            }
        }
    }

    fn ack(&mut self, flow: usize, backend: u8, node: usize, room: bool) -> Result<(), Broken> {
        let Flow::Opening { disturbed, .. } = self.flows[flow] else { return Ok(()) };
        let setup = self.setup;
        let went = self.nodes[node].packet(flow, Sent::Segment { seq: isn(0).wrapping_add(1) }, room, &setup);
        if went == Some(backend) {
            self.flows[flow] = Flow::Open { owner: backend, idle: 0 };
            return Ok(());
        }
        if disturbed && !self.is_lost(node, went) {
            self.flows[flow] = Flow::None;
        }
        if disturbed || self.is_lost(node, went) { Ok(()) } else { Err(Broken { flow, owner: backend, went }) }
    }

    fn data(&mut self, flow: usize, node: usize, room: bool) -> Result<(), Broken> {
        let setup = self.setup;
        let sent = if setup.handshakes { Sent::Segment { seq: isn(0).wrapping_add(1 << 20) } } else { Sent::Datagram };
        let went = self.nodes[node].packet(flow, sent, room, &setup);
        match (self.flows[flow], went) {
            (Flow::Open { owner, .. }, _) if went == Some(owner) => self.flows[flow] = Flow::Open { owner, idle: 0 },
            _ if self.is_lost(node, went) => {}
            (Flow::Open { owner, .. }, _) => return Err(Broken { flow, owner, went }),
            (_, Some(owner)) => {
                self.flows[flow] = Flow::Open { owner, idle: 0 };
                self.nodes[node].begins(flow);
            }
            _ => {}
        }
        Ok(())
    }

    /// It reaches nobody, and is sent again: it was dropped rather than led astray, or nobody is there any more.
    fn is_lost(&self, node: usize, went: Option<u8>) -> bool {
        went.map_or_else(|| self.nodes[node].is_strict(), |to| self.dead[usize::from(to)])
    }

    fn dies(&mut self, backend: u8) {
        self.dead[usize::from(backend)] = true;
        self.setup.deaths -= 1;
        self.disturb();
        for flow in &mut self.flows {
            if matches!(flow, Flow::Open { owner, .. } if *owner == backend) {
                *flow = Flow::None;
            }
        }
    }

    fn disturb(&mut self) {
        for flow in &mut self.flows {
            if let Flow::Opening { disturbed, .. } = flow {
                *disturbed = true;
            }
        }
    }
}

impl<const FLOWS: usize> search::World for World<FLOWS> {
    type Event = Event;
    type Broken = Broken;

    fn canonical(self) -> Self {
        Self::canonical(self)
    }

    fn events(&self) -> Vec<(Event, bool)> {
        Self::events(self)
    }

    fn after(self, event: Event, room: bool) -> Result<Self, Broken> {
        Self::after(self, event, room)
    }
}

/// Attempts' sequence numbers are far from each other: 0 is the flow's present one, 1 one of before, 2 a forged one.
pub fn isn(attempt: u8) -> u32 {
    u32::from(attempt) << 28
}

/// What is said of a slot at rest.
pub const REST: Option<Told> = None;
