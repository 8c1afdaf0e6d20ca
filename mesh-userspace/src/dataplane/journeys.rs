//! Slots on their way to another owner, as the daemon asks for them.

use std::time::Duration;

use super::{
    Dataplane, Journey, layout, nat,
    reconcile::{
        moves::{self, Moves},
        standings::Standings,
    },
};

impl Dataplane {
    /// Slots of services that nobody translates which are on their way to another owner, and whether anything of that kind is left to do: until it is
    /// done, a plan is to be applied again every [`Dataplane::STEP`].
    pub fn moving(&self) -> (usize, bool) {
        let services = || self.layout.stirring().map(|s| &s.moves);
        (services().map(Moves::slots).sum(), services().any(|moves| !moves.at_rest()))
    }

    /// Slots on their way to another owner, by service, owners and stage.
    pub fn journeys(&self) -> Vec<Journey> {
        let of = |service: &layout::Service| {
            let standings = Standings { image: &self.loaded.image, table: service.table, base: service.base };
            let id = |local: u16| Some(service.entries.get(usize::from(local))?.as_ref()?.id);
            let journey = |j: &moves::Journey| Journey {
                vip: service.vip,
                from: id(j.from),
                to: id(j.to),
                flags: j.flags,
                slots: j.slots,
                longest: nat::span(j.longest),
            };
            service.moves.journeys(&standings, nat::tick()).iter().map(journey).collect::<Vec<_>>()
        };
        self.layout.stirring().filter(|s| s.moves.slots() > 0).flat_map(of).collect()
    }

    /// How often slots on their way are looked at: a tick of the kernel half's clock.
    pub const STEP: Duration = Duration::from_millis(134);
}
