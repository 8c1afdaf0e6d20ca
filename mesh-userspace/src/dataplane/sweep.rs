//! What the data plane does every second or so: end what is over, count what lives, and give back places that nothing names any more.

use std::time::Instant;

use mesh_common::abi::BackendState;

use super::{Dataplane, DataplaneError, NatReport, OpenFlows, execute, ledger, nat, retire, schedules};

impl Dataplane {
    /// Removes translated flows that are over, and gives back the places of backends and services that nothing names any more. To be called
    /// every second or so; reads the whole flow map.
    pub fn sweep(&mut self, now: Instant) -> Result<NatReport, DataplaneError> {
        let image = &self.loaded.image;
        let ledger = ledger::sweep(image, &self.times, nat::tick());
        let carried = schedules::before(image, &self.layout);
        let mut swept = self.sweeper.sweep(image, &self.layout, &self.nat, nat::tick(), now);
        let remembered = schedules::sweep(image, &mut self.layout, nat::tick(), &carried, &mut swept.live, &mut self.response_times);
        // Flows of a backend that was cut off go on nowhere, though their entries are still there.
        let owner = |service: &u32, local: &u16| {
            let service = self.layout.services.get(service)?;
            let entry = service.entries.get(usize::from(*local))?.as_ref()?;
            let place = service.base as usize + usize::from(*local);
            let cut = BackendState::from_u8(image.backends.get(place).state) == BackendState::Maintenance;
            (!cut).then_some((service.vip, entry.id))
        };
        let backends = swept.live.flows.iter().filter_map(|((service, local), count)| {
            let (vip, id) = owner(service, local)?;
            Some((vip, id, *count))
        });
        let open = swept.live.open.iter().filter_map(|((service, local), (flows, quiet))| {
            Some((owner(service, local)?, OpenFlows { flows: *flows, quiet: nat::span(*quiet) }))
        });
        let mut report = NatReport {
            open: open.collect(),
            flows: swept.flows,
            capacity: image.nat_flows.len() as u64,
            half_open: swept.half_open,
            expired: swept.expired,
            backends: backends.collect(),
            notes: swept.notes,
            ledger,
            moving: self.layout.services.values().map(|s| s.moves.slots() as u64).sum(),
            remembered,
            ..NatReport::default()
        };
        for service in self.layout.services.values_mut() {
            let settled = service.moves.take_settled();
            self.settled.slots += settled.slots;
            self.settled.took += nat::span(u32::try_from(settled.took).unwrap_or(u32::MAX));
            self.settled.longest = self.settled.longest.max(nat::span(settled.longest));
        }
        report.settled = self.settled;
        let freed = retire::collect(image, &mut self.layout, &swept.live);
        report.freed = freed.backends.len();
        execute(image, &freed.ops);
        if !self.layout.lists.is_empty() {
            let used = self.layout.services.values().map(|s| s.list).collect();
            image.lists.remove(&self.layout.lists.collect(&used, now));
        }
        for (service, entry) in &freed.backends {
            self.loaded.stats.clear_backend(*service, entry.stats, &mut self.gone)?;
            schedules::forget(image, entry.stats);
        }
        for id in freed.services {
            self.loaded.stats.clear_service(id, &mut self.gone)?;
        }
        Ok(report)
    }
}
