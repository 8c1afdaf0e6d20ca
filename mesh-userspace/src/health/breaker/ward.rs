use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    Gate,
    limits::{Full, Limiter},
    machine::{Breaker, Change, Circuit, Permit, Reading, Rules},
    meter::{Counted, Course, Meter, excess},
};
use crate::model::{BackendId, ConnectionLimits};

/// Where only limits count, the window that nobody reads.
const NO_WINDOW: Duration = Duration::from_secs(1);

/// What is known of one backend at one moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Row {
    pub id: BackendId,
    pub counted: Counted,
    /// Flows that it has, where they are counted.
    pub open: Option<u64>,
    pub limits: ConnectionLimits,
    /// Of a check that has just passed, seconds.
    pub latency: Option<f64>,
    /// Configured.
    pub weight: u64,
    /// It is given flows, but for what is decided here.
    pub serves: bool,
}

/// What has changed for one backend.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum News {
    Circuit(Change),
    /// The limit that it has reached; `None` = there is room again.
    Full(Option<Full>),
}

/// The breakers and limits of one service.
#[derive(Clone, Debug, Default)]
pub struct Ward {
    rules: Option<Rules>,
    /// Silence is the backend's own: its answers come by us, and no flood of clients' can look like it.
    answers: bool,
    backends: BTreeMap<BackendId, Case>,
}

/// One backend.
#[derive(Clone, Debug)]
pub struct Case {
    meter: Meter,
    breaker: Breaker,
    limiter: Limiter,
    reading: Reading,
    open: Option<u64>,
    weight: u64,
}

impl Case {
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    pub fn full(&self) -> Option<Full> {
        self.limiter.full()
    }

    /// Flows that it has, as counted last.
    pub fn open(&self) -> Option<u64> {
        self.open
    }

    fn gate(&self, rules: Option<&Rules>) -> Gate {
        match self.breaker.circuit() {
            Circuit::Open => Gate::Open,
            _ if self.limiter.full().is_some() => Gate::Full,
            Circuit::HalfOpen => rules.map_or(Gate::Free, |r| Gate::Trial(r.factor())),
            Circuit::Closed => Gate::Free,
        }
    }
}

impl Ward {
    /// Goes by these rules from now on; without, only limits count. `answers`: answers of backends come by us.
    pub fn rule(&mut self, rules: Option<Rules>, answers: bool) {
        if self.rules != rules {
            // What other rules have opened is closed, and what was seen begins anew.
            self.backends.values_mut().for_each(|case| {
                (case.breaker, case.reading) = (Breaker::default(), Reading::default());
                case.meter = Meter::new(rules.map_or(NO_WINDOW, |r| r.window));
            });
        }
        (self.rules, self.answers) = (rules, answers);
    }

    /// Takes in all backends of the service.
    pub fn step(&mut self, now: Instant, rows: &[Row]) -> Vec<(BackendId, News)> {
        let window = self.rules.map_or(NO_WINDOW, |r| r.window);
        let there: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
        self.backends.retain(|id, _| there.contains(id));
        let mut news = Vec::new();
        for row in rows {
            let case = self.backends.entry(row.id).or_insert_with(|| Case::new(window));
            (case.open, case.weight) = (row.open, row.weight);
            let before = case.limiter.full();
            let full = case.limiter.step(now, row.limits, row.open, row.counted.flows);
            if full.is_some() != before.is_some() {
                news.push((row.id, News::Full(full)));
            }
            case.meter.count(now, row.counted);
            if let Some(latency) = row.latency {
                case.meter.latency(now, latency);
            }
        }
        if let Some(rules) = self.rules {
            news.extend(self.judge(now, rows, &rules));
        }
        news
    }

    /// What is let through to each backend that is not let have all.
    pub fn gates(&self) -> BTreeMap<BackendId, Gate> {
        let gates = self.backends.iter().map(|(id, case)| (*id, case.gate(self.rules.as_ref())));
        gates.filter(|(_, gate)| *gate != Gate::Free).collect()
    }

    pub fn rules(&self) -> Option<&Rules> {
        self.rules.as_ref()
    }

    pub fn case(&self, id: &BackendId) -> Option<&Case> {
        self.backends.get(id)
    }

    fn judge(&mut self, now: Instant, rows: &[Row], rules: &Rules) -> Vec<(BackendId, News)> {
        let seen: Vec<_> =
            rows.iter().map(|row| self.backends.get_mut(&row.id).map(|c| (c.meter.course(now), c.meter.inflation(now)))).collect();
        let all = seen.iter().flatten().fold(Course::default(), |sum, (course, _)| sum.and(course));
        let mut inflations: Vec<f64> = seen.iter().flatten().filter_map(|(_, inflation)| *inflation).collect();
        inflations.sort_by(f64::total_cmp);
        let mut budget = self.budget(rows, rules);
        let mut news = Vec::new();
        for (row, seen) in rows.iter().zip(seen) {
            let (Some(case), Some((course, inflation))) = (self.backends.get_mut(&row.id), seen) else { continue };
            let volume = rules.volume(case.breaker.circuit());
            case.reading = Reading {
                flows: course.flows,
                failures: failures(&course, &all.without(&course), volume, self.answers),
                in_row: case.meter.failed_in_row(now),
                latency: inflation.map(|own| own / others_inflation(&inflations, own)),
            };
            // Who is given nothing can't be judged, but its time goes on.
            let reading = if row.serves { case.reading } else { Reading::default() };
            let Some(change) = case.breaker.step(now, &reading, rules, Permit { open: budget.allows(row.weight) }) else { continue };
            match (change.from, change.to) {
                (_, Circuit::Open) => budget.take(row.weight),
                (Circuit::Open, _) => budget.give_back(row.weight),
                _ => {}
            }
            if change.to != Circuit::Open {
                case.meter.restart();
            }
            news.push((row.id, News::Circuit(change)));
        }
        news
    }

    fn budget(&self, rows: &[Row], rules: &Rules) -> Budget {
        let open = self.backends.values().filter(|c| c.breaker.circuit() == Circuit::Open);
        let (taken, count) = open.fold((0, 0), |(sum, n), c| (sum + c.weight, n + 1));
        Budget { most: rules.most_open * rows.iter().map(|r| r.weight).sum::<u64>() as f64, taken, count, alone: rows.len() < 2 }
    }
}

/// What breakers have taken out of a service, and may.
struct Budget {
    most: f64,
    taken: u64,
    count: usize,
    alone: bool,
}

impl Budget {
    /// Whether one more may be opened: the first always may, if there is another.
    fn allows(&self, weight: u64) -> bool {
        (self.taken + weight) as f64 <= self.most || self.count == 0 && !self.alone
    }

    fn take(&mut self, weight: u64) {
        (self.taken, self.count) = (self.taken + weight, self.count + 1);
    }

    fn give_back(&mut self, weight: u64) {
        (self.taken, self.count) = (self.taken.saturating_sub(weight), self.count.saturating_sub(1));
    }
}

impl Case {
    fn new(window: Duration) -> Self {
        Self {
            meter: Meter::new(window),
            breaker: Breaker::default(),
            limiter: Limiter::default(),
            reading: Reading::default(),
            open: None,
            weight: 0,
        }
    }
}

/// The share of flows that failed. Handshakes: where answers come by, as they are; else, and RSTs always, beyond what others have, for those clients can
/// bring about.
fn failures(own: &Course, others: &Course, volume: u64, answers: bool) -> Option<f64> {
    // One handshake of sixteen is drawn.
    let drawn = (volume / 4).max(3);
    let lost = own.lost_share(drawn).map(|lost| if answers { lost } else { excess(lost, others.lost_share(drawn).unwrap_or(0.0)) });
    let resets = own.reset_share(volume).zip(others.reset_share(volume)).map(|(own, others)| excess(own, others));
    match (lost, resets) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// The median of the others', at least 1. `all`: sorted, with the own one among them.
fn others_inflation(all: &[f64], own: f64) -> f64 {
    let (middle, at) = (all.len().saturating_sub(1) / 2, all.partition_point(|other| *other < own));
    let median = if at <= middle { all.get(middle + 1) } else { all.get(middle) };
    median.copied().unwrap_or(1.0).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::rules, *};

    const MS: Duration = Duration::from_millis(1);

    fn id(i: u8) -> BackendId {
        BackendId(([10, 0, 0, i], 80).into())
    }

    /// A service whose backends have a hundred flows a second each.
    struct World {
        ward: Ward,
        now: Instant,
        rows: Vec<Row>,
    }

    impl World {
        fn new(n: u8, rules: Rules, answers: bool) -> Self {
            let row = |i| Row {
                id: id(i),
                counted: Counted::default(),
                open: None,
                limits: ConnectionLimits::default(),
                latency: None,
                weight: 1,
                serves: true,
            };
            let mut ward = Ward::default();
            ward.rule(Some(rules), answers);
            Self { ward, now: Instant::now(), rows: (0..n).map(row).collect() }
        }

        /// Runs on for so long: how many of ten handshakes end well with each backend, and whether the others are refused.
        fn run(&mut self, ms: u32, done_of_ten: &[u64], refuses: bool) -> Vec<(BackendId, Gate)> {
            let mut tick = 0u64;
            for _ in 0..ms / 100 {
                self.now += 100 * MS;
                tick += 1;
                for (row, done) in self.rows.iter_mut().zip(done_of_ten) {
                    let (c, ok) = (&mut row.counted, tick % 10 < *done);
                    (c.flows, c.drawn) = (c.flows + 10, c.drawn + 1);
                    (c.replies, c.done) = if ok { (c.replies + 50, c.done + 1) } else { (c.replies + 10 * u64::from(refuses), c.done) };
                    c.resets = c.resets.wrapping_add(if !ok && refuses { 10 } else { 0 });
                }
                self.ward.step(self.now, &self.rows);
            }
            self.ward.gates().into_iter().collect()
        }
    }

    #[test]
    fn the_one_that_fails_is_opened_tried_and_closed() {
        let mut w = World::new(3, rules(), true);
        assert_eq!(w.run(5000, &[10, 10, 10], false), []);
        assert_eq!(w.run(200, &[10, 0, 10], true), [(id(1), Gate::Open)], "refusals in a row");
        assert_eq!(w.run(1000, &[10, 10, 10], true), [(id(1), Gate::Trial(rules().factor()))]);
        assert_eq!(w.run(200, &[10, 0, 10], true), [(id(1), Gate::Open)], "the trial fails");
        assert_eq!(w.run(1800, &[10, 10, 10], true), [(id(1), Gate::Open)], "for twice as long");
        assert_eq!(w.run(300, &[10, 10, 10], true), [(id(1), Gate::Trial(rules().factor()))]);
        assert_eq!(w.run(2500, &[10, 10, 10], true), []);
    }

    #[test]
    fn where_answers_do_not_come_by_a_flood_opens_nobody() {
        let r = Rules { consecutive: None, ..rules() };
        let mut w = World::new(3, r, false);
        assert_eq!(w.run(20_000, &[2, 2, 2], false), [], "eight of ten never end well, with everybody");
        let mut w = World::new(3, r, false);
        assert_eq!(w.run(20_000, &[9, 2, 9], false).len(), 1);
        let mut w = World::new(3, r, true);
        assert_eq!(w.run(3000, &[0, 0, 0], false).len(), 3, "answers that do come by are no client's doing");
    }

    #[test]
    fn no_more_are_opened_than_may_be() {
        let r = Rules { most_open: 0.5, ..rules() };
        let mut w = World::new(4, r, true);
        assert_eq!(w.run(900, &[0, 0, 0, 10], true).len(), 2);
        let mut alone = World::new(1, r, true);
        assert_eq!(alone.run(900, &[0], true), []);
    }

    #[test]
    fn who_has_become_slow_is_opened_unless_all_have() {
        let r = Rules { window: Duration::from_secs(1), ..rules() };
        let run = |slow: &[bool]| {
            let mut w = World::new(3, r, true);
            for i in 0..40 {
                for (row, slow) in w.rows.iter_mut().zip(slow) {
                    row.latency = Some(if *slow && i > 20 { 0.1 } else { 0.01 });
                }
                w.run(100, &[10, 10, 10], false);
            }
            w.ward.gates().len()
        };
        assert_eq!((run(&[false, true, false]), run(&[true, true, true]), run(&[false; 3])), (1, 0, 0));
    }

    #[test]
    fn limits_count_without_rules_and_are_news_once() {
        let mut w = World::new(2, rules(), true);
        w.ward.rule(None, true);
        w.rows[0].limits.connections = Some(10);
        let mut news = |open: u64, ms: u32| {
            w.rows[0].open = Some(open);
            w.now += ms * MS;
            (w.ward.step(w.now, &w.rows), w.ward.gates().into_iter().collect::<Vec<_>>())
        };
        assert_eq!(news(9, 10), (vec![], vec![]));
        let full = Some(Full::Connections { open: 10, limit: 10 });
        assert_eq!(news(10, 10), (vec![(id(0), News::Full(full))], vec![(id(0), Gate::Full)]));
        assert_eq!(news(12, 10), (vec![], vec![(id(0), Gate::Full)]));
        assert_eq!(news(5, 600), (vec![(id(0), News::Full(None))], vec![]));
    }

    #[test]
    fn other_rules_begin_anew_and_who_is_gone_is_forgotten() {
        let mut w = World::new(2, rules(), true);
        assert_eq!(w.run(900, &[0, 10], true).len(), 1);
        w.ward.rule(Some(Rules { volume: 30, ..rules() }), true);
        assert!(w.ward.gates().is_empty());
        w.run(900, &[0, 10], true);
        w.rows.remove(0);
        w.ward.step(w.now, &w.rows);
        assert!(w.ward.gates().is_empty() && w.ward.case(&id(0)).is_none());
    }
}
