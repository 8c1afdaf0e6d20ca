//! Schedulers as the daemon takes part in them: weights and times that the kernel half chooses by, and the sweep of what it has chosen.

use std::{collections::HashMap, ops::Range, sync::Arc};

use mesh_common::abi::{BackendLoad, BackendSignals, FLOW_WAYS, FlowEntry, FlowWord, Schedule, Scheduler, ServiceFlags};

use super::{
    entry,
    image::{Image, words_of},
    layout::{Layout, Service, vip_key},
    nat::ticks,
    op::vip_word,
    retire::Live,
};
use crate::{
    model::{Choosing, Mode},
    plan::ServicePlan,
};

/// Words of [`BackendLoad`] by their place.
mod load_word {
    pub const LIVE: usize = 0;
    pub const TURNS: usize = 1;
    /// `weight`, `latency`.
    pub const WEIGHT: usize = 2;
}

/// Words of [`Schedule`] by their place.
mod schedule_word {
    /// `scheduler`, `members`.
    pub const SCHEDULER: usize = 0;
    /// `affinity_ticks`, `weight`.
    pub const AFFINITY: usize = 1;
    pub const LIVE: usize = 2;
}

/// Ticks more than an entry lives, so that no packet is under way that has found it alive.
const LATE: i32 = 2;
/// Part of a new mean in what is published.
const NEW: f64 = 0.3;
/// Part of the others' mean in what is published of a backend that nobody measured: who was slow is tried again.
const FORGET: f64 = 0.1;

/// What is remembered of flows and sources where a scheduler chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remembered {
    pub flows: u64,
    pub sources: u64,
    pub capacity: u64,
}

/// What the sweeps remember of each other: by the index of a backend's counters, handshakes that were timed, their time, and its mean.
#[derive(Debug, Default)]
pub struct Times(HashMap<u32, (u64, u64, f64)>);

/// Publishes how services choose that are not as they were `before`.
pub fn publish(image: &Image, layout: &Layout, before: &[Arc<ServicePlan>], plan: &[Arc<ServicePlan>]) {
    for (_, wanted) in plan.iter().enumerate().filter(|(i, new)| before.get(*i).is_none_or(|old| !Arc::ptr_eq(old, new))) {
        let service = layout.find(&vip_key(&wanted.vip)).and_then(|id| layout.services.get(&id));
        let Some(service) = service.filter(|s| s.flags & ServiceFlags::CHOOSES != 0) else { continue };
        let weight = weights(image, service, wanted);
        let members = service.entries.iter().rposition(Option::is_some).map_or(0, |last| last as u64 + 1);
        let Choosing { scheduler, affinity } = wanted.ways.choosing;
        let affinity = affinity.map_or(0, |time| ticks(time).min(FlowWord::LONGEST));
        let words = [
            (schedule_word::SCHEDULER, scheduler as u64 | members << 32),
            (schedule_word::AFFINITY, u64::from(affinity) | u64::from(weight) << 32),
        ];
        for (word, value) in words {
            if image.schedules.word(service.id as usize, word) != value {
                image.schedules.set_word(service.id as usize, word, value);
            }
        }
    }
}

/// Publishes what each of a service's backends takes, and tells the sum. Where it is another than before, turns begin anew.
fn weights(image: &Image, service: &Service, wanted: &ServicePlan) -> u32 {
    let most = wanted.members.iter().map(|m| m.effective).max().unwrap_or(0).max(1);
    let scaled = |effective: u32| {
        let scaled = u64::from(effective) * u64::from(BackendLoad::MOST) / u64::from(most);
        if effective == 0 { 0 } else { (scaled as u32).max(1) }
    };
    let effective: HashMap<_, _> = wanted.members.iter().map(|m| (m.id, m.effective)).collect();
    let (mut changed, mut sum) = (false, 0u32);
    for (_, backend) in service.present() {
        let weight = scaled(effective.get(&backend.id).copied().unwrap_or(0));
        let word = image.loads.word(backend.stats as usize, load_word::WEIGHT);
        if word as u32 != weight {
            changed = true;
            image.loads.set_word(backend.stats as usize, load_word::WEIGHT, word >> 32 << 32 | u64::from(weight));
        }
        sum = sum.saturating_add(weight);
    }
    if changed {
        service.present().for_each(|(_, backend)| image.loads.set_word(backend.stats as usize, load_word::TURNS, 0));
    }
    sum
}

/// Flows that live, before what is remembered is counted.
pub fn before(image: &Image, layout: &Layout) -> HashMap<u32, i64> {
    let all = layout.stirring().filter(|s| s.flags & ServiceFlags::CHOOSES != 0).flat_map(Service::present);
    all.map(|(_, backend)| (backend.stats, live(image, backend.stats))).collect()
}

fn live(image: &Image, stats: u32) -> i64 {
    image.loads.word(stats as usize, load_word::LIVE) as i64
}

/// Flows and sources that there is room for.
pub fn capacity(image: &Image) -> u64 {
    (image.remembered.len() * FLOW_WAYS) as u64
}

/// How many buckets there are to be looked at.
pub fn buckets(image: &Image, layout: &Layout) -> usize {
    let any = layout.stirring().any(|s| s.flags & ServiceFlags::CHOOSES != 0);
    if any { image.remembered.len() } else { 0 }
}

/// Puts live flows right by all that was `found`, and lets services go that have nothing left. `before`: what [`before`] has told.
pub fn end(image: &Image, layout: &mut Layout, before: &HashMap<u32, i64>, found: &Live, times: &mut Times) {
    correct(image, layout, before, found, times);
    release(image, layout, found);
}

/// Removes entries of these buckets that have expired or name nobody, and adds those of flows to `found`.
pub fn sweep(image: &Image, layout: &Layout, now: u32, buckets: Range<usize>, remembered: &mut Remembered, found: &mut Live) {
    let config = image.config.get(0).nat;
    for bucket in buckets {
        for way in 0..FLOW_WAYS {
            let at = way * (size_of::<FlowEntry>() / 8);
            let claim = image.remembered.word(bucket, at);
            if claim == 0 || claim == FlowEntry::BUSY {
                continue;
            }
            let word = FlowWord(image.remembered.word(bucket, at + 1));
            let owner = layout.services.get(&word.service()).and_then(|s| s.entries.get(usize::from(word.backend()))?.as_ref());
            if owner.is_none() || word.left(now) < -LATE {
                image.remembered.exchange_word(bucket, at, claim, 0);
                continue;
            }
            let key = (word.service(), word.backend());
            if word.kind() & FlowWord::SOURCE != 0 {
                remembered.sources += 1;
                continue;
            }
            remembered.flows += 1;
            *found.flows.entry(key).or_default() += 1;
            if word.kind() & FlowWord::ENDING != 0 {
                continue;
            }
            *found.carried.entry(key).or_default() += 1;
            let open = found.open.entry(key).or_default();
            let lives = if word.kind() & FlowWord::PENDING != 0 { config.half_open_ticks } else { config.established_ticks };
            open.flows += 1;
            open.quiet = open.quiet.max(lives.saturating_sub(word.left(now).max(0) as u32));
        }
    }
}

/// Puts live flows right by what was counted, and publishes sums and times to answer.
fn correct(image: &Image, layout: &Layout, before: &HashMap<u32, i64>, found: &Live, times: &mut Times) {
    times.0.retain(|stats, _| before.contains_key(stats));
    for service in layout.stirring().filter(|s| s.flags & ServiceFlags::CHOOSES != 0) {
        let mut sum = 0u64;
        for (local, backend) in service.present() {
            let counted = found.carried.get(&(service.id, local)).copied().unwrap_or(0) as i64;
            let now = live(image, backend.stats);
            let then = before.get(&backend.stats).copied().unwrap_or(now);
            // What has changed meanwhile is no error.
            let delta = if counted < now.min(then) { counted - now.min(then) } else { (counted - now.max(then)).max(0) };
            if delta != 0 {
                image.loads.add_word(backend.stats as usize, load_word::LIVE, delta as u64);
            }
            sum += counted as u64;
        }
        image.schedules.set_word(service.id as usize, schedule_word::LIVE, sum);
        let scheduler = image.schedules.word(service.id as usize, schedule_word::SCHEDULER) as u8;
        if Scheduler::from_u8(scheduler) == Scheduler::LeastResponseTime {
            publish_times(image, service, times);
        }
    }
}

/// The time of each backend's handshakes since the last sweep, averaged with those before.
fn publish_times(image: &Image, service: &Service, times: &mut Times) {
    let mut known = Vec::new();
    for (_, backend) in service.present() {
        let (count, time) = timed(&image.signals.get(backend.stats as usize), service.mode);
        let (last_count, last_time, mean) = times.0.entry(backend.stats).or_insert((count, time, 0.0));
        let (new, took) = (count.saturating_sub(*last_count), time.saturating_sub(*last_time));
        let measured = new > 0;
        if measured {
            let recent = took as f64 / new as f64;
            *mean = if *mean == 0.0 { recent } else { *mean + NEW * (recent - *mean) };
        }
        (*last_count, *last_time) = (count, time);
        known.push((backend.stats, measured, *mean));
    }
    let told: Vec<f64> = known.iter().map(|k| k.2).filter(|mean| *mean > 0.0).collect();
    let all = told.iter().sum::<f64>() / told.len().max(1) as f64;
    for (stats, measured, mean) in known {
        let mean = match (measured, mean > 0.0) {
            (true, _) => mean,
            (false, true) => mean + FORGET * (all - mean).min(0.0),
            (false, false) => all,
        };
        if let Some((_, _, last)) = times.0.get_mut(&stats) {
            *last = mean;
        }
        let word = image.loads.word(stats as usize, load_word::WEIGHT);
        image.loads.set_word(stats as usize, load_word::WEIGHT, u64::from(word as u32) | (mean as u64).min(u64::from(u32::MAX)) << 32);
    }
}

/// Handshakes that were timed, and their time: up to the backend's answer where that comes by us, else up to the client's.
fn timed(signals: &BackendSignals, mode: Mode) -> (u64, u64) {
    let (answers, accepts) = signals.handshakes();
    if mode == Mode::Nat { (answers, signals.answer_time) } else { (accepts, signals.accept_time) }
}

/// Takes the flag from services that have no scheduler any more, once nothing that one has chosen is left.
fn release(image: &Image, layout: &mut Layout, found: &Live) {
    for id in &layout.astir {
        let Some(service) = layout.services.get_mut(id).filter(|s| s.flags & ServiceFlags::CHOOSES != 0 && !s.chooses) else { continue };
        let remembered = service.mode != Mode::Nat && found.flows.keys().any(|(id, _)| *id == service.id);
        if remembered || service.retired.is_some() || service.name.is_none() {
            continue;
        }
        service.flags &= !ServiceFlags::CHOOSES;
        if let Some(at) = service.position {
            let value = words_of(&entry::vip(service)).nth(usize::from(vip_word::BASE)).unwrap_or_default();
            image.vips.set_word(at as usize, usize::from(vip_word::BASE), value);
        }
    }
}

/// A backend's counters are somebody else's from now on.
pub fn forget(image: &Image, stats: u32) {
    image.signals.set(stats as usize, &BackendSignals::default());
    image.loads.set(stats as usize, &BackendLoad::default());
}

const _: () = assert!(std::mem::offset_of!(BackendLoad, live) == 0 && std::mem::offset_of!(BackendLoad, weight) == 16);
const _: () = assert!(std::mem::offset_of!(Schedule, affinity_ticks) == 8 && std::mem::offset_of!(Schedule, live) == 16);
const _: () = assert!(std::mem::offset_of!(FlowEntry, claim) == 0 && std::mem::offset_of!(FlowEntry, word) == 8);
