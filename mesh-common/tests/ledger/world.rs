//! One slot, the flows on it, and all that can happen to them: what the search goes through.
//!
//! Times are kept as ages and end at a bound beyond which nothing changes any more, so that there are finitely many worlds.

use mesh_common::{
    abi::{SlotFlags, SlotWord},
    ledger::{
        change::{Held, Seen, SlotMemo, Times, Wish, next},
        rules::{Sent, Standing, owner},
    },
};

use crate::{
    ends::Course,
    event::{Broken, Event},
    recall::Recall,
    setup::{Fault, Setup},
};

pub const BACKENDS: usize = 3;
/// Wished where nobody is to take new flows; what [`SlotWord::NONE`] is in a byte.
pub const NOBODY: u8 = u8::MAX;
/// The present, as the code under test sees it.
const NOW: u32 = 1000;
/// Segments that are no longer of the first flight begin here.
pub const LATER: u32 = 1 << 20;

/// How a backend stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Health {
    /// At rest: its slots without flags ask no memory.
    Up,
    /// Takes what comes, and flows of its slots may be elsewhere.
    Settling,
    Keeps,
    Dead,
}

impl Health {
    fn standing(self) -> Standing {
        match self {
            Self::Up | Self::Settling => Standing::Takes,
            Self::Keeps => Standing::Keeps,
            Self::Dead => Standing::Dead,
        }
    }
}

/// A connection as its client and its backend know it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Flow {
    None,
    /// SYNs were sent. For each backend, how long ago the last one reached it; [`Setup::old`] = never. `disturbed`: a backend's health has changed since,
    /// so that the handshake may fail.
    Opening {
        reached: [u8; BACKENDS],
        disturbed: bool,
    },
    /// `closing`: the client has ended, and the backend perhaps not.
    Open {
        owner: u8,
        idle: u8,
        closing: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Remembered {
    pub backend: u8,
    /// `None`: a flow; else the attempt.
    pub pending: Option<u8>,
    pub age: u8,
    /// Of a flow: see [`Kind::Flow`](mesh_common::ledger::rules::Kind::Flow).
    pub number: u8,
    pub ended: bool,
}

/// What the daemon has decided and not yet written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Intent {
    pub word: SlotWord,
    age: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct World<const FLOWS: usize> {
    pub word: SlotWord,
    pub since: u8,
    pub seen: u8,
    pub refused: u8,
    pub health: [Health; BACKENDS],
    /// For each backend: since when it is not suspected any more.
    pub cleared: [u8; BACKENDS],
    pub wish: [u8; 2],
    pub intent: Option<Intent>,
    /// The flow's bucket has no room.
    pub full: bool,
    pub flows: [Flow; FLOWS],
    pub attempts: [u8; FLOWS],
    pub courses: [Course; FLOWS],
    pub entries: [Option<Remembered>; FLOWS],
    pub setup: Setup,
}

impl<const FLOWS: usize> World<FLOWS> {
    /// All is at rest with backend 0, whose secondary is 1.
    pub fn new(setup: Setup) -> Self {
        let old = setup.old();
        Self {
            word: SlotWord::steady(0, 1),
            since: old,
            seen: old,
            refused: old,
            health: [Health::Up; BACKENDS],
            cleared: [old; BACKENDS],
            wish: [0, 1],
            intent: None,
            full: false,
            flows: [Flow::None; FLOWS],
            attempts: [0; FLOWS],
            courses: [Course::default(); FLOWS],
            entries: [None; FLOWS],
            setup,
        }
    }

    /// All that can happen next.
    pub fn events(&self) -> Vec<Event> {
        let mut events = vec![Event::Tick];
        for flow in 0..FLOWS {
            self.events_of(flow, &mut events);
        }
        if self.intent.is_some() {
            events.push(Event::Write);
        } else {
            self.looks(&mut events);
        }
        if self.setup.health && self.setup.failures.some() {
            for backend in 0..BACKENDS as u8 {
                events.extend(self.changes_of(backend).into_iter().map(|to| Event::Health(backend, to)));
            }
        }
        // Of a slot at rest nothing is noted.
        if self.setup.others && !self.at_rest() {
            events.extend([Event::Elsewhere, Event::Refused]);
        }
        events
    }

    /// The daemon looks while this is wished, or anything else: what is wished changes at any moment.
    fn looks(&self, events: &mut Vec<Event>) {
        let [target, secondary] = self.wish;
        events.push(Event::Look(target, secondary));
        if self.setup.changes.some() {
            for target in 0..BACKENDS as u8 {
                let all = (0..BACKENDS as u8).filter(|other| *other != target).map(|other| Event::Look(target, other));
                events.extend(all.filter(|look| *look != Event::Look(self.wish[0], self.wish[1])));
            }
            events.extend((self.wish[0] != NOBODY).then_some(Event::Look(NOBODY, NOBODY)));
        }
    }

    fn events_of(&self, flow: usize, events: &mut Vec<Event>) {
        let handshake = self.setup.times().handshake;
        match self.flows[flow] {
            _ if self.setup.ends => self.events_of_numbered(flow, events),
            Flow::None if self.setup.handshakes => events.push(Event::Syn(flow)),
            // A flow without handshake is its first packet's backend's.
            Flow::None => events.push(Event::Data(flow)),
            Flow::Opening { reached, .. } => {
                if reached.iter().any(|age| u32::from(*age) <= handshake) {
                    events.push(Event::Again(flow));
                }
                events.push(Event::Close(flow));
                if self.setup.strays {
                    events.push(Event::Stray(flow, false));
                }
                let can = |b: &u8| u32::from(reached[usize::from(*b)]) <= handshake && self.health[usize::from(*b)] != Health::Dead;
                events.extend((0..BACKENDS as u8).filter(can).map(|backend| Event::Ack(flow, backend)));
            }
            Flow::Open { .. } => {
                events.extend([Event::Data(flow), Event::Close(flow)]);
                if self.setup.handshakes && self.setup.strays {
                    events.extend([Event::Stray(flow, true), Event::Stray(flow, false)]);
                }
            }
        }
    }

    /// The packet path asks for no memory.
    fn at_rest(&self) -> bool {
        self.word.flags() == SlotFlags::STEADY && self.health.get(usize::from(self.word.target())) == Some(&Health::Up)
    }

    /// What a backend's health may become: back from the dead only where nobody is led to it, at rest only when its exceptions have ended.
    fn changes_of(&self, backend: u8) -> Vec<Health> {
        let owns = [self.word.target(), self.word.default()].contains(&u16::from(backend))
            || self.intent.is_some_and(|i| [i.word.target(), i.word.default()].contains(&u16::from(backend)));
        let idle = self.setup.times().idle;
        let quiet = u32::from(self.seen) > idle && u32::from(self.cleared[usize::from(backend)]) > idle;
        match self.health[usize::from(backend)] {
            Health::Up => vec![Health::Keeps, Health::Dead],
            Health::Settling if quiet || self.word.target() != u16::from(backend) => vec![Health::Up, Health::Keeps, Health::Dead],
            Health::Settling => vec![Health::Keeps, Health::Dead],
            Health::Keeps => vec![Health::Settling, Health::Dead],
            Health::Dead if owns => vec![],
            Health::Dead => vec![Health::Up],
        }
    }

    /// The event sends a packet that may have to be remembered.
    pub fn may_remember(&self, event: Event) -> bool {
        let packet = matches!(event, Event::Syn(_) | Event::Anew(..) | Event::Again(_) | Event::Stray(..) | Event::Forged(..))
            || matches!(event, Event::Ack(..) | Event::Data(_) | Event::Fin(_) | Event::Late(..));
        packet && !self.at_rest()
    }

    /// The world after the event.
    pub fn after(mut self, event: Event) -> Result<Self, Broken> {
        match event {
            Event::Tick => self.tick(),
            Event::Syn(flow) => {
                self.attempts[flow] = self.unused_attempt(flow);
                self.flows[flow] = Flow::Opening { reached: [self.setup.old(); BACKENDS], disturbed: false };
                self.syn(flow);
            }
            Event::Anew(..) | Event::Fin(_) | Event::Reset(_) | Event::Late(..) | Event::Forged(..) => self.numbered(event)?,
            Event::Again(flow) => self.syn(flow),
            Event::Stray(flow, late) => {
                let attempt = if late { self.attempts[flow] } else { 3 };
                self.deliver(flow, Sent::Syn { isn: isn(attempt) });
            }
            Event::Ack(flow, backend) => self.ack(flow, backend)?,
            Event::Data(flow) => self.data(flow)?,
            Event::Close(flow) => self.flows[flow] = Flow::None,
            Event::Wish(target, secondary) => self.wish = [target, secondary],
            Event::Look(target, secondary) => {
                if self.wish != [target, secondary] {
                    self.setup.changes = self.setup.changes.fewer();
                }
                self.wish = [target, secondary];
                self.look();
            }
            Event::Write => self.write(),
            Event::Health(backend, to) => self.turn(backend, to),
            Event::Fill => self.full = !self.full,
            Event::Elsewhere => self.seen = 0,
            Event::Refused if self.setup.fault == Some(Fault::Evicts) => self.entries = [None; FLOWS],
            Event::Refused => self.refused = 0,
        }
        Ok(self)
    }

    fn tick(&mut self) {
        // The daemon writes before a tick is over, or not at all.
        if self.intent.is_some_and(|intent| intent.age > 0) {
            self.intent = None;
        }
        if let Some(intent) = &mut self.intent {
            intent.age = 1;
        }
        let setup = self.setup;
        for age in [&mut self.since, &mut self.seen, &mut self.refused].into_iter().chain(&mut self.cleared) {
            *age = setup.older(*age);
        }
        for flow in &mut self.flows {
            match flow {
                Flow::None => {}
                Flow::Opening { reached, .. } => reached.iter_mut().for_each(|age| *age = setup.older(*age)),
                Flow::Open { idle, .. } => *idle = setup.older(*idle),
            }
            // Nothing is promised to who is silent for longer.
            if matches!(flow, Flow::Open { idle, .. } if u32::from(*idle) > setup.times().idle)
                || matches!(flow, Flow::Opening { reached, .. } if reached.iter().all(|age| *age == setup.old()))
            {
                *flow = Flow::None;
            }
        }
        for place in &mut self.entries {
            if let Some(entry) = place {
                entry.age = setup.older(entry.age);
                if !entry.live(&setup.times()) {
                    *place = None;
                }
            }
        }
    }

    /// An attempt's number that no entry of the flow has.
    fn unused_attempt(&self, flow: usize) -> u8 {
        let taken = self.entries[flow].and_then(|entry| entry.pending);
        (0..3).find(|attempt| Some(*attempt) != taken && *attempt != self.attempts[flow]).unwrap_or(0)
    }

    pub fn syn(&mut self, flow: usize) {
        let to = self.deliver(flow, Sent::Syn { isn: isn(self.attempts[flow]) });
        if let (Some(to), Flow::Opening { reached, .. }) = (to, &mut self.flows[flow]) {
            reached[usize::from(to)] = 0;
        }
    }

    fn ack(&mut self, flow: usize, backend: u8) -> Result<(), Broken> {
        let Flow::Opening { disturbed, .. } = self.flows[flow] else { return Ok(()) };
        let went = self.deliver(flow, Sent::Segment { seq: isn(self.attempts[flow]).wrapping_add(1) });
        if went == Some(u16::from(backend)) {
            self.flows[flow] = Flow::Open { owner: backend, idle: 0, closing: false };
        } else if went.is_none() && self.word.flags().has(SlotFlags::STRICT) {
            // Dropped rather than led astray: it is sent again.
        } else if disturbed {
            self.flows[flow] = Flow::None;
        } else {
            return Err(Broken { flow, owner: backend, went });
        }
        Ok(())
    }

    fn data(&mut self, flow: usize) -> Result<(), Broken> {
        let sent = if self.setup.handshakes { Sent::Segment { seq: self.sequence(flow) } } else { Sent::Datagram };
        self.goes_on(flow, sent)
    }

    fn look(&mut self) {
        let seen = Seen {
            held: Held { word: self.word, since: NOW - u32::from(self.since) },
            memo: SlotMemo { seen: self.moment(self.seen), refused: self.moment(self.refused) },
            now: NOW,
            handshakes: self.setup.handshakes,
        };
        let [target, secondary] = self.wish.map(|wished| if wished == NOBODY { SlotWord::NONE } else { u16::from(wished) });
        let wish = Wish { target, secondary, host: true };
        self.intent = next(&seen, wish, &self.setup.times(), |b| standing(&self.health, b)).map(|word| Intent { word, age: 0 });
    }

    fn write(&mut self) {
        let Some(intent) = self.intent.take() else { return };
        let closes = intent.word.target() == SlotWord::NONE;
        let unplanned =
            closes || [self.word.target(), self.word.default()].map(|owner| standing(&self.health, owner)) != [Standing::Takes; 2];
        self.word = intent.word;
        self.since = 0;
        if unplanned {
            self.disturb();
        }
    }

    fn disturb(&mut self) {
        for flow in &mut self.flows {
            if let Flow::Opening { disturbed, .. } = flow {
                *disturbed = true;
            }
        }
    }

    fn turn(&mut self, backend: u8, to: Health) {
        self.health[usize::from(backend)] = to;
        self.cleared[usize::from(backend)] = if to == Health::Settling { 0 } else { self.setup.old() };
        self.setup.failures = self.setup.failures.fewer();
        // The daemon is one: what it has decided by the old state it does not write.
        self.intent = None;
        self.disturb();
        for flow in &mut self.flows {
            if matches!(flow, Flow::Open { owner, .. } if *owner == backend) && to == Health::Dead {
                *flow = Flow::None;
            }
        }
    }

    fn moment(&self, age: u8) -> u32 {
        if age == self.setup.old() { 0 } else { NOW - u32::from(age) }
    }

    /// What the kernel half does with a packet.
    pub fn deliver(&mut self, flow: usize, sent: Sent) -> Option<u16> {
        let word = self.word;
        if self.at_rest() {
            return Some(word.target());
        }
        let health = self.health;
        owner(word, sent, |backend| standing(&health, backend), &mut Recall { world: self, flow }).filter(|to| *to != SlotWord::NONE)
    }
}

fn standing(health: &[Health; BACKENDS], backend: u16) -> Standing {
    health.get(usize::from(backend)).map_or(Standing::Dead, |health| health.standing())
}

/// Attempts' sequence numbers are far from each other.
pub fn isn(attempt: u8) -> u32 {
    u32::from(attempt) << 26
}

impl Remembered {
    fn live(&self, times: &Times) -> bool {
        u32::from(self.age) <= if self.pending.is_some() { times.handshake } else { times.idle }
    }
}
