//! The world as a search goes through it.

use crate::{
    event::{Broken, Event},
    search,
    world::World,
};

impl<const FLOWS: usize> search::World for World<FLOWS> {
    type Event = Event;
    type Broken = Broken;

    fn canonical(self) -> Self {
        Self::canonical(Self { full: false, ..self })
    }

    /// What may have to be remembered, with room and without.
    fn events(&self) -> Vec<(Event, bool)> {
        let events = Self::events(self);
        let without: Vec<Event> = events.iter().copied().filter(|event| self.may_remember(*event)).collect();
        events.into_iter().map(|event| (event, true)).chain(without.into_iter().map(|event| (event, false))).collect()
    }

    fn after(self, event: Event, room: bool) -> Result<Self, Broken> {
        Self { full: !room, ..self }.after(event)
    }
}
