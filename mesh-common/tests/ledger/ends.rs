//! Connections that end by a FIN or a RST, and the ones that use their tuple after them: their sequence numbers, and what comes late.
//!
//! Of the numbers all that counts is which one is beyond which: they are ranks, a few apart, so that there is room for further ones between them.

use mesh_common::{abi::SlotFlags, ledger::rules::Sent};

use crate::{
    event::{Broken, Event, Old, Order},
    world::{BACKENDS, Flow, Health, LATER, Remembered, World, isn},
};

/// From one rank to the next.
const APART: u8 = 3;

/// Where the tuple's present connection ends, and where the one before it began and ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Course {
    pub fin: u8,
    past: [u8; 2],
}

impl<const FLOWS: usize> World<FLOWS> {
    /// What can happen to a flow whose tuple's connections have numbers.
    pub fn events_of_numbered(&self, flow: usize, events: &mut Vec<Event>) {
        let late = |old: &[Old]| old.iter().map(|old| Event::Late(flow, *old)).collect::<Vec<_>>();
        let past = if self.is_past_under_way(flow) { late(&[Old::PastSyn, Old::PastFin, Old::PastReset]) } else { Vec::new() };
        match self.flows[flow] {
            Flow::None => {
                events.extend([Order::Beyond, Order::Before, Order::Around, Order::Within].map(|order| Event::Anew(flow, order)));
                events.extend(late(&[Old::Syn, Old::Data, Old::Fin]));
            }
            Flow::Opening { reached, .. } => {
                let soon = |b: u8| u32::from(reached[usize::from(b)]) <= self.setup.times().handshake;
                let can = |b: &u8| soon(*b) && self.health[usize::from(*b)] != Health::Dead;
                events.extend((0..BACKENDS as u8).any(soon).then_some(Event::Again(flow)));
                events.extend((0..BACKENDS as u8).filter(can).map(|backend| Event::Ack(flow, backend)));
                events.push(Event::Close(flow));
                events.extend(past);
                events.extend(self.setup.strays.then_some([Event::Forged(flow, false), Event::Forged(flow, true)]).into_iter().flatten());
            }
            Flow::Open { closing, .. } => {
                events.extend([Event::Data(flow), Event::Close(flow), Event::Fin(flow), Event::Reset(flow), Event::Late(flow, Old::Syn)]);
                events.extend(closing.then_some(Event::Late(flow, Old::Data)));
                events.extend(past);
                // Who has ended is not told from one who begins anew beyond that, if the latter is forged.
                let forged = [(false, true), (true, !closing)].into_iter().filter(|(_, can)| self.setup.strays && *can);
                events.extend(forged.map(|(beyond, _)| Event::Forged(flow, beyond)));
            }
        }
    }

    pub fn numbered(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Anew(flow, order) => {
                self.renumber(flow, order);
                self.flows[flow] = Flow::Opening { reached: [self.setup.old(); BACKENDS], disturbed: false };
                self.syn(flow);
            }
            Event::Fin(flow) => {
                self.goes_on(flow, Sent::Fin { seq: isn(self.courses[flow].fin) })?;
                if let Flow::Open { closing, .. } = &mut self.flows[flow] {
                    *closing = true;
                }
            }
            Event::Reset(flow) => {
                self.deliver(flow, Sent::Reset { seq: isn(self.courses[flow].fin) });
                self.flows[flow] = Flow::None;
            }
            Event::Late(flow, old) => {
                let Course { fin, past: [past_isn, past_fin] } = self.courses[flow];
                let sent = match old {
                    Old::Syn => Sent::Syn { isn: isn(self.attempts[flow]) },
                    Old::Data => Sent::Segment { seq: isn(self.attempts[flow]).wrapping_add(LATER) },
                    Old::Fin => Sent::Fin { seq: isn(fin) },
                    Old::PastSyn => Sent::Syn { isn: isn(past_isn) },
                    Old::PastFin => Sent::Fin { seq: isn(past_fin) },
                    Old::PastReset => Sent::Reset { seq: isn(past_fin) },
                };
                self.deliver(flow, sent);
            }
            Event::Forged(flow, beyond) => {
                let number = if beyond { self.greatest(flow) + APART } else { 0 };
                self.deliver(flow, Sent::Syn { isn: isn(number) });
            }
            _ => {}
        }
        Ok(())
    }

    /// A packet of the flow that is not to miss its backend.
    pub fn goes_on(&mut self, flow: usize, sent: Sent) -> Result<(), Broken> {
        let went = self.deliver(flow, sent);
        match (self.flows[flow], went) {
            // Dropped rather than led astray: it is sent again.
            (Flow::Open { .. }, None) if self.word.flags().has(SlotFlags::STRICT) => {}
            (Flow::Open { owner, .. }, _) if went != Some(u16::from(owner)) => return Err(Broken { flow, owner, went }),
            (Flow::Open { owner, closing, .. }, _) => self.flows[flow] = Flow::Open { owner, idle: 0, closing },
            (_, Some(to)) => self.flows[flow] = Flow::Open { owner: to as u8, idle: 0, closing: false },
            _ => {}
        }
        Ok(())
    }

    /// The number of what the client of an open flow sends.
    pub fn sequence(&self, flow: usize) -> u32 {
        match self.flows[flow] {
            Flow::Open { closing: true, .. } => isn(self.courses[flow].fin).wrapping_add(1),
            _ => isn(self.attempts[flow]).wrapping_add(LATER),
        }
    }

    /// Another connection begins.
    fn renumber(&mut self, flow: usize, order: Order) {
        let greatest = self.greatest(flow);
        let past = [self.attempts[flow], self.courses[flow].fin];
        let (isn, fin) = match order {
            Order::Beyond => (greatest + 1, greatest + 2),
            Order::Before => (1, 2),
            Order::Around => (1, greatest + 1),
            Order::Within => (greatest - 1, greatest + 1),
        };
        self.attempts[flow] = isn;
        self.courses[flow] = Course { fin, past };
    }

    fn greatest(&self, flow: usize) -> u8 {
        self.ranks(flow).into_iter().fold(0, u8::max)
    }

    /// All numbers that anything tells of.
    fn ranks(&self, flow: usize) -> Vec<u8> {
        let Course { fin, past } = self.courses[flow];
        let entry = self.entries[flow].map(|entry| entry.pending.unwrap_or(entry.number));
        [self.attempts[flow], fin].into_iter().chain(past).chain(entry).collect()
    }

    /// Something of the connection before may still come. One that does not begin beyond its end begins when nothing does: for this there is TIME-WAIT.
    fn is_past_under_way(&self, flow: usize) -> bool {
        self.flows[flow] != Flow::None && self.courses[flow].past[1] < self.attempts[flow]
    }

    /// Numbers are told by their order.
    pub fn rank(&mut self, flow: usize) {
        if !self.is_past_under_way(flow) {
            self.courses[flow].past = [self.attempts[flow]; 2];
        }
        let mut ranks = self.ranks(flow);
        ranks.sort_unstable();
        ranks.dedup();
        let rank = |number: &mut u8| {
            let at = ranks.iter().position(|rank| rank == number).unwrap_or_default() as u8;
            *number = (at + 1) * APART;
        };
        let Self { attempts, courses, entries, .. } = self;
        rank(&mut attempts[flow]);
        rank(&mut courses[flow].fin);
        courses[flow].past.iter_mut().for_each(rank);
        if let Some(Remembered { pending, number, .. }) = &mut entries[flow] {
            rank(pending.as_mut().unwrap_or(number));
        }
    }
}

/// The greatest one that is not beyond this number.
pub fn attempt(number: u32) -> u8 {
    (number >> 26) as u8
}
