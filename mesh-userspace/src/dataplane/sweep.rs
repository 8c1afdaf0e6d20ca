//! What the data plane does every second or so: end what is over, count what lives, and give back places that nothing names any more.
//!
//! In parts, because to look at a million flows takes longer than anything that is urgent may wait.

use std::{
    collections::HashMap,
    ops::Range,
    time::{Duration, Instant},
};

use mesh_common::abi::BackendState;

use super::{
    Dataplane, DataplaneError, NatReport, OpenFlows, Remembered, execute,
    ledger::{self, Entries},
    nat::{self, Swept},
    retire, schedules, source_ports,
};

/// One part takes about so long, ...
const PART: Duration = Duration::from_micros(300);
/// ... looked at after so many places.
const PLACES: usize = 1024;

/// A sweep under way: where it is in the ledger, in the flows that are translated, and in those that a scheduler chose for.
pub(super) struct Sweeping {
    at: [usize; 3],
    ledger: Entries,
    flows: Swept,
    remembered: Remembered,
    /// Flows that lived when it began.
    carried: HashMap<u32, i64>,
}

impl Dataplane {
    /// Removes flows that are over, and gives back the places of backends and services that nothing names any more. To be called every second or so; reads
    /// all flow maps.
    pub fn sweep(&mut self, now: Instant) -> Result<NatReport, DataplaneError> {
        loop {
            if let Some(report) = self.sweep_on(now)? {
                return Ok(report);
            }
        }
    }

    /// The same for a moment only: begins a sweep, or goes on with the one that is under way. Tells what it found once it is over.
    pub fn sweep_on(&mut self, now: Instant) -> Result<Option<NatReport>, DataplaneError> {
        let began = Instant::now();
        let mut sweeping = self.sweeping.take().unwrap_or_else(|| self.begin_sweep(now));
        while self.sweep_places(&mut sweeping) {
            if began.elapsed() >= PART {
                self.sweeping = Some(sweeping);
                return Ok(None);
            }
        }
        self.end_sweep(sweeping, now).map(Some)
    }

    fn begin_sweep(&mut self, now: Instant) -> Sweeping {
        let image = &self.loaded.image;
        Sweeping {
            at: [0; 3],
            ledger: Entries::default(),
            carried: schedules::before(image, &self.layout),
            flows: self.sweeper.begin(image, now),
            remembered: Remembered::default(),
        }
    }

    /// Looks at some places. False where there are none left.
    fn sweep_places(&mut self, sweeping: &mut Sweeping) -> bool {
        let (image, layout, tick) = (&self.loaded.image, &self.layout, nat::tick());
        let [ledger, flows, remembered] = &mut sweeping.at;
        if let Some(part) = next(ledger, image.ledger.len()) {
            ledger::sweep(image, &self.times, tick, part, &mut sweeping.ledger);
        } else if let Some(part) = next(flows, image.nat_flows.len()) {
            self.sweeper.sweep(image, layout, &self.nat, tick, part, &mut sweeping.flows);
        } else if let Some(part) = next(remembered, schedules::buckets(image, layout)) {
            schedules::sweep(image, layout, tick, part, &mut sweeping.remembered, &mut sweeping.flows.live);
        } else {
            return false;
        }
        true
    }

    fn end_sweep(&mut self, sweeping: Sweeping, now: Instant) -> Result<NatReport, DataplaneError> {
        let Sweeping { ledger, flows: mut swept, mut remembered, carried, .. } = sweeping;
        let image = &self.loaded.image;
        self.sweeper.end(image, &mut swept);
        source_ports::narrow(image, &self.nat, swept.ports);
        schedules::end(image, &mut self.layout, &carried, &swept.live, &mut self.response_times);
        remembered.capacity = schedules::capacity(image);
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
        let open = swept.live.open.iter().filter_map(|((service, local), open)| {
            let (quiet, oldest) = (nat::span(open.quiet), open.oldest.map(nat::span));
            Some((owner(service, local)?, OpenFlows { flows: open.flows, quiet, oldest }))
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
            moving: self.layout.stirring().map(|s| s.moves.slots() as u64).sum(),
            remembered,
            ..NatReport::default()
        };
        let astir: Vec<u32> = self.layout.astir.iter().copied().collect();
        for id in &astir {
            let Some(service) = self.layout.services.get_mut(id) else { continue };
            let settled = service.moves.take_settled();
            self.settled.slots += settled.slots;
            self.settled.took += nat::span(u32::try_from(settled.took).unwrap_or(u32::MAX));
            self.settled.longest = self.settled.longest.max(nat::span(settled.longest));
        }
        report.settled = self.settled;
        let (stats, idle) = (&self.loaded.stats, nat::span(self.times.idle));
        self.leaving.count(&self.layout, &mut swept.live, idle, |backend| stats.sent_to(backend))?;
        let freed = retire::collect(image, &mut self.layout, &swept.live);
        astir.into_iter().for_each(|id| self.layout.note(id));
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

/// The next places of so many, and steps over them.
fn next(at: &mut usize, len: usize) -> Option<Range<usize>> {
    let part = *at..(*at + PLACES).min(len);
    *at = part.end.max(*at);
    (!part.is_empty()).then_some(part)
}
