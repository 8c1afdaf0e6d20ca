//! Translation as the daemon takes part in it: its limits, and the sweep of flows that are over.

use std::{
    ops::{Range, RangeInclusive},
    time::{Duration, Instant},
};

use mesh_common::{
    abi::{NatConfig, NatFlow, NatGauges, NatPorts, Proto},
    nat::{Life, Phase},
};

use super::{
    extents::GRACE,
    flow_watch::{FlowChange, FlowNote, FlowWatch},
    image::{Image, words_of},
    layout::Layout,
    load::Sizes,
    options::NatOptions,
    retire::Live,
    source_ports::Span,
};

/// Words of [`NatFlow`] by their place.
mod flow_word {
    pub const CLAIM: usize = 0;
    /// `service`, `began`, `ifindex`.
    pub const BEGAN: usize = 4;
    /// `seen`, `stage`, and what was seen of the flow's end.
    pub const LIFE: usize = 7;
}

const _: () = assert!(std::mem::offset_of!(NatFlow, service) == 32 && std::mem::offset_of!(NatFlow, began) == 34);
const _: () = assert!(std::mem::offset_of!(NatFlow, claim) == 0 && std::mem::offset_of!(NatFlow, seen) == 56);
const _: () = assert!(std::mem::offset_of!(NatGauges, half_open) == 0);

/// Sweeps after which the gauge has drifted, if it always had too much or too little.
const DRIFT_SWEEPS: usize = 3;

/// What the sweeps remember of each other.
#[derive(Debug, Default)]
pub struct Sweeper {
    /// How much too high the gauge was, lately.
    drift: Vec<i64>,
    /// Entries that were being written.
    busy: Vec<usize>,
    watch: FlowWatch,
}

/// What one sweep has found.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    pub live: Live,
    pub flows: u64,
    pub half_open: u64,
    pub expired: u64,
    /// Source ports that a flow has.
    pub ports: Span,
    /// Sampled flows that began or ended.
    pub notes: Vec<FlowNote>,
    /// Entries that are being written.
    busy: Vec<usize>,
    /// The lowest and the highest that the gauge was meanwhile.
    gauge: (i64, i64),
}

impl Sweeper {
    /// One that tells one flow in `sample` when it begins and ends; 0 = none.
    pub fn watching(sample: u32) -> Self {
        Self { watch: FlowWatch::new(sample), ..Self::default() }
    }

    /// Begins a sweep.
    pub fn begin(&mut self, image: &Image, now: Instant) -> Swept {
        self.watch.begin(now);
        let gauge = gauge(image);
        Swept { live: Live { since: now, ..Live::default() }, gauge: (gauge, gauge), ..Swept::default() }
    }

    /// Removes flows at these places that are over, by the rules that the kernel half goes by, and counts the others. `tick`: see [`tick`].
    pub fn sweep(&mut self, image: &Image, layout: &Layout, config: &NatConfig, tick: u32, places: Range<usize>, swept: &mut Swept) {
        for place in places {
            match image.nat_flows.word(place, flow_word::CLAIM) {
                0 => {}
                NatFlow::BUSY => swept.busy.push(place),
                claim => self.look_at(image, layout, config, tick, (place, claim), swept),
            }
        }
        let gauge = gauge(image);
        swept.gauge = (swept.gauge.0.min(gauge), swept.gauge.1.max(gauge));
    }

    /// Ends a sweep that has been everywhere.
    pub fn end(&mut self, image: &Image, swept: &mut Swept) {
        // Whoever writes an entry is done in microseconds, unless it was a daemon that was killed.
        for place in swept.busy.iter().filter(|place| self.busy.contains(place)) {
            image.nat_flows.exchange_word(*place, flow_word::CLAIM, NatFlow::BUSY, 0);
        }
        self.busy = std::mem::take(&mut swept.busy);
        swept.notes = self.watch.finish();
        self.correct(image, swept.gauge.0, swept.gauge.1, swept.half_open as i64);
    }

    fn look_at(&mut self, image: &Image, layout: &Layout, config: &NatConfig, tick: u32, (place, claim): (usize, u64), swept: &mut Swept) {
        let flow = image.nat_flows.get(place);
        let id = u32::from(flow.service);
        let service = layout.services.get(&id);
        let tcp = service.is_some_and(|s| s.vip.proto == Proto::Tcp);
        let life = Life::read(&flow);
        // A backend that is gone, or a service that no client reaches any more: nothing is left to wait for.
        let orphan = service.is_none_or(|s| {
            let gone = s.retired.is_some_and(|since| swept.live.since.saturating_duration_since(since) >= GRACE);
            gone || s.entries.get(usize::from(flow.backend)).is_none_or(Option::is_none)
        });
        if orphan || life.expired(tcp, tick, config) {
            let removed = remove(image, place, claim);
            swept.expired += u64::from(removed);
            if removed && self.watch.samples(claim) {
                self.watch.over(place, if orphan { FlowChange::Orphaned } else { FlowChange::Idle });
            }
            return;
        }
        if self.watch.samples(claim)
            && let Some(service) = service
            && let Some(Some(entry)) = service.entries.get(usize::from(flow.backend))
        {
            self.watch.lives(place, &flow, life.phase(tcp), (service.vip, entry.id));
        }
        swept.flows += 1;
        swept.half_open += u64::from(life.phase(tcp) == Phase::HalfOpen);
        if matches!(life.phase(tcp), Phase::HalfOpen | Phase::Established | Phase::Udp) {
            *swept.live.carried.entry((id, flow.backend)).or_default() += 1;
        }
        if life.phase(tcp) != Phase::Closed {
            let open = swept.live.open.entry((id, flow.backend)).or_default();
            open.flows += 1;
            // A packet may have come since the tick.
            open.quiet = open.quiet.max((tick.wrapping_sub(flow.seen) as i32).max(0) as u32);
            open.oldest = open.oldest.max(Some(age(image, place, &flow, tick)));
        }
        *swept.live.flows.entry((id, flow.backend)).or_default() += 1;
        swept.ports = swept.ports.with(u16::from_be_bytes(flow.nat_port));
        if let Some(used) = swept.live.sources.get_mut(usize::from(flow.nat_source)) {
            *used = true;
        }
    }

    /// The gauge is changed by atomic additions and stays right, unless a daemon was killed between two stores.
    fn correct(&mut self, image: &Image, lowest: i64, highest: i64, counted: i64) {
        let drift = if counted < lowest { lowest - counted } else { (highest - counted).min(0) };
        self.drift.push(drift);
        if self.drift.len() < DRIFT_SWEEPS {
            return;
        }
        let least = self.drift.iter().copied().min_by_key(|d| d.abs()).unwrap_or(0);
        if least != 0 && self.drift.iter().all(|d| d.signum() == least.signum()) {
            image.nat_gauges.add_word(0, 0, least.wrapping_neg() as u64);
        }
        self.drift.clear();
    }
}

/// Ends the flow at `place` as the kernel half would: by the claim, so that only one of both does. Tells whether it was us.
fn remove(image: &Image, place: usize, claim: u64) -> bool {
    if !image.nat_flows.exchange_word(place, flow_word::CLAIM, claim, NatFlow::BUSY) {
        return false;
    }
    loop {
        let life = image.nat_flows.word(place, flow_word::LIFE);
        if (life >> 32) as u8 == NatFlow::ESTABLISHED {
            break;
        }
        let ended = life & !(0xff << 32) | u64::from(NatFlow::ESTABLISHED) << 32;
        if image.nat_flows.exchange_word(place, flow_word::LIFE, life, ended) {
            image.nat_gauges.add_word(0, 0, u64::MAX);
            break;
        }
    }
    image.nat_flows.exchange_word(place, flow_word::CLAIM, NatFlow::BUSY, 0)
}

/// Ticks since a flow began. One that is older than can be told stays as old as can be told.
fn age(image: &Image, place: usize, flow: &NatFlow, tick: u32) -> u32 {
    const OLDEST: u32 = (1 << 15) << NatFlow::BEGAN_SHIFT;
    const LATE: u32 = 1 << NatFlow::BEGAN_SHIFT;
    let age = flow.age(tick);
    if age >= u32::from(u16::MAX) << NatFlow::BEGAN_SHIFT {
        // It has begun since the tick.
        return 0;
    }
    if age > OLDEST + LATE {
        let then = NatFlow { began: (tick.wrapping_sub(OLDEST) >> NatFlow::BEGAN_SHIFT) as u16, ..*flow };
        let [old, new] = [flow, &then].map(|flow| words_of(flow).nth(flow_word::BEGAN).unwrap_or_default());
        // Another flow in its place, or another interface, is another word.
        image.nat_flows.exchange_word(place, flow_word::BEGAN, old, new);
    }
    age.min(OLDEST)
}

fn gauge(image: &Image) -> i64 {
    image.nat_gauges.word(0, 0) as i64
}

/// Limits and times as the kernel half takes them; `ports`: ascending ranges without overlap.
pub fn config(options: &NatOptions, sizes: &Sizes, ports: &[RangeInclusive<u16>]) -> NatConfig {
    let span = Span::of(ports);
    let times = &options.timeouts;
    NatConfig {
        reply_first: span.first(),
        reply_count: span.count(),
        flows: sizes.nat_flows,
        bucket_mask: sizes.nat_buckets - 1,
        // A quarter of the flows, of which there are two for three entries.
        half_open_limit: options.half_open_limit.unwrap_or(sizes.nat_flows / 6),
        half_open_ticks: ticks(times.half_open),
        established_ticks: ticks(times.established),
        closed_ticks: ticks(times.closed),
        closing_ticks: ticks(times.closing),
        udp_ticks: ticks(times.udp),
        remembered_mask: sizes.flow_buckets - 1,
        ports: NatPorts::new(ports),
    }
}

/// A number of ticks as a span of time.
pub fn span(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) << NatConfig::TICK_SHIFT)
}

/// Now, by the clock that the kernel half reads.
pub fn tick() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    ((now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64) >> NatConfig::TICK_SHIFT) as u32
}

pub fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() >> NatConfig::TICK_SHIFT).unwrap_or(u32::MAX).clamp(1, i32::MAX as u32)
}

#[cfg(test)]
mod tests {
    use mesh_common::abi::{BackendState, Mode};

    use super::*;
    use crate::{
        dataplane::{layout::Entry, options::Limits, retire::Open},
        model::{BackendId, VipAddr},
    };

    fn flow(image: &Image, place: usize, service: u16, seen: u32, stage: u8) {
        let flow =
            NatFlow { claim: 2 | 0xabc << 8, service, began: (seen >> 4) as u16 - 3, seen, stage, nat_source: 3, ..NatFlow::default() };
        image.nat_flows.set(place, &flow);
        if stage != NatFlow::ESTABLISHED {
            image.nat_gauges.add_word(0, 0, 1);
        }
    }

    fn layout() -> Layout {
        let mut layout = Layout::new(&Limits::default());
        let vip = VipAddr { addr: "192.0.2.1".parse().unwrap(), port: 80, proto: Proto::Tcp };
        let id = layout.add(vip, Mode::Nat, 1, Instant::now()).unwrap();
        let entry = Entry { id: BackendId("10.0.0.1:80".parse().unwrap()), stats: 0, retired: None };
        layout.services.get_mut(&id).unwrap().put(0, entry);
        layout
    }

    /// In parts, as a daemon does it.
    fn whole(sweeper: &mut Sweeper, image: &Image, layout: &Layout, config: &NatConfig) -> Swept {
        let mut swept = sweeper.begin(image, Instant::now());
        let len = image.nat_flows.len();
        for places in [0..3, 3..len.min(5), len.min(5)..len] {
            sweeper.sweep(image, layout, config, 1000, places, &mut swept);
        }
        sweeper.end(image, &mut swept);
        swept
    }

    #[test]
    fn what_is_over_goes_and_what_lives_is_counted() {
        let image = Image::heap(32, 4, 64, 16, 64);
        let layout = layout();
        assert_eq!(BackendState::Absent as u8, 0);
        let config = NatConfig {
            half_open_ticks: 10,
            established_ticks: 100,
            closed_ticks: 1,
            closing_ticks: 5,
            udp_ticks: 20,
            ..NatConfig::default()
        };
        flow(&image, 1, 1, 1000, NatFlow::OPENED);
        flow(&image, 2, 1, 980, NatFlow::OPENED);
        flow(&image, 3, 1, 901, NatFlow::ESTABLISHED);
        flow(&image, 4, 1, 890, NatFlow::ESTABLISHED);
        flow(&image, 5, 2, 1000, NatFlow::REPLIED);
        image.nat_flows.set_word(6, 0, NatFlow::BUSY);
        let mut sweeper = Sweeper::default();
        let swept = whole(&mut sweeper, &image, &layout, &config);
        assert_eq!((swept.flows, swept.half_open, swept.expired), (2, 1, 3));
        assert_eq!(swept.live.flows.get(&(1, 0)), Some(&2));
        // In steps of 16 ticks 1000 is 62 and 901 is 56, and each began three before it was seen.
        assert_eq!(swept.live.open.get(&(1, 0)), Some(&Open { flows: 2, quiet: 99, oldest: Some(9 << 4) }));
        assert!(swept.live.sources[3] && !swept.live.sources[0]);
        assert_eq!(gauge(&image), 1);
        assert_eq!(image.nat_flows.get(2).claim, 0);
        assert_eq!(image.nat_flows.get(6).claim, NatFlow::BUSY);
        whole(&mut sweeper, &image, &layout, &config);
        assert_eq!(image.nat_flows.get(6).claim, 0, "left busy by somebody who is gone");
    }

    /// Two flows that are kept alive, and the daemon away for less than nineteen hours at a time.
    #[test]
    fn who_is_older_than_can_be_told_stays_so() {
        let (image, layout, config) =
            (Image::heap(32, 4, 64, 16, 64), layout(), NatConfig { established_ticks: 100, ..NatConfig::default() });
        let oldest = |tick: u32| {
            for (place, began) in [(1, 7), (2, 900_000)].into_iter().filter(|(_, began)| *began <= tick) {
                let known = image.nat_flows.get(place);
                let began = if known.claim == 0 { (began >> NatFlow::BEGAN_SHIFT) as u16 } else { known.began };
                image
                    .nat_flows
                    .set(place, &NatFlow { claim: 6, service: 1, began, seen: tick, stage: NatFlow::ESTABLISHED, ..NatFlow::default() });
            }
            let mut sweeper = Sweeper::default();
            let mut swept = sweeper.begin(&image, Instant::now());
            sweeper.sweep(&image, &layout, &config, tick, 0..image.nat_flows.len(), &mut swept);
            swept.live.open.get(&(1, 0)).and_then(|open| open.oldest).unwrap()
        };
        assert_eq!((oldest(7), oldest(31), oldest(300_000)), (0, 16, 300_000));
        for tick in (500_000..5_000_000).step_by(250_000) {
            let oldest = oldest(tick);
            assert!((tick.min(524_288) - 32..=524_288).contains(&oldest), "{oldest} at {tick}");
        }
    }

    #[test]
    fn a_gauge_that_drifted_is_put_right() {
        let image = Image::heap(32, 4, 64, 16, 64);
        let layout = layout();
        let config = NatConfig { half_open_ticks: 10, ..NatConfig::default() };
        flow(&image, 1, 1, 1000, NatFlow::OPENED);
        image.nat_gauges.add_word(0, 0, 5);
        let mut sweeper = Sweeper::default();
        for _ in 0..DRIFT_SWEEPS {
            assert_eq!(gauge(&image), 6);
            whole(&mut sweeper, &image, &layout, &config);
        }
        assert_eq!(gauge(&image), 1);
    }
}
