use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::wire::{Answer, Said};
use crate::health::{
    detector::{Pulse, PulseKind},
    judge::Beat,
    watch::TargetId,
};

/// A pulse is given up after so long at least, ...
const PATIENCE: Duration = Duration::from_millis(20);
/// ... and after this at most, be the way however long; in between after four round trips.
const LONGEST: Duration = Duration::from_secs(1);
/// A refusal is worth asking again at once.
const AGAIN: Duration = Duration::from_millis(1);
/// An answer that has not come after this, or after four round trips, is asked for again, ...
const OVERDUE: Duration = Duration::from_millis(5);
/// ... out of turn so many times until there is one.
const HURRIES: u8 = 3;

/// Who is asked when, and who owes an answer. Pure but for the numbers it draws.
#[derive(Default)]
pub struct Rounds {
    targets: BTreeMap<Pulse, Target>,
    due: BinaryHeap<Reverse<(Instant, Pulse)>>,
    /// Pulses that were not answered yet, oldest first where patience is equal; looked at when they may be due.
    waiting: BinaryHeap<Reverse<(Instant, Pulse)>>,
    /// When answers are late that usually are quick.
    overdue: BinaryHeap<Reverse<(Instant, Pulse)>>,
    by_host: HashMap<IpAddr, Vec<Pulse>>,
    results: Vec<(TargetId, Beat, Option<Duration>)>,
    numbers: RandomState,
    count: u64,
}

struct Target {
    ids: Vec<TargetId>,
    /// Number and time of each pulse that has no answer yet.
    open: VecDeque<(u32, Instant)>,
    rtt: Option<Duration>,
    next: Instant,
    /// Times that it was asked out of turn since its last answer.
    hurried: u8,
}

/// A pulse to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    pub pulse: Pulse,
    /// By which the answer is known.
    pub number: u32,
}

impl Rounds {
    /// Makes these the targets; who stays goes on.
    pub fn set(&mut self, wanted: BTreeMap<Pulse, Vec<TargetId>>, now: Instant) {
        self.targets.retain(|pulse, _| wanted.contains_key(pulse));
        let count = wanted.len() as u32;
        for (i, (pulse, ids)) in wanted.into_iter().enumerate() {
            let due = &mut self.due;
            let target = self.targets.entry(pulse).or_insert_with(|| {
                // Spread over the interval, so that targets that came together are not asked together.
                let next = now + pulse.interval * (i as u32) / count.max(1);
                due.push(Reverse((next, pulse)));
                Target { ids: Vec::new(), open: VecDeque::new(), rtt: None, next, hurried: 0 }
            });
            target.ids = ids;
        }
        self.by_host.clear();
        for pulse in self.targets.keys() {
            self.by_host.entry(pulse.address.ip()).or_default().push(*pulse);
        }
    }

    /// When there is something to do next.
    pub fn next_wake(&self) -> Instant {
        let first = |heap: &BinaryHeap<Reverse<(Instant, Pulse)>>| heap.peek().map(|Reverse((at, _))| *at);
        // With targets there is always a turn; without, somebody else wakes us.
        [&self.due, &self.waiting, &self.overdue].into_iter().filter_map(first).min().unwrap_or_else(|| Instant::now() + LONGEST)
    }

    /// Takes in an answer.
    pub fn heard(&mut self, answer: &Answer, now: Instant) {
        for pulse in self.by_host.get(&answer.host).into_iter().flatten() {
            let kind = answer.port.map_or(PulseKind::Echo, |_| PulseKind::Syn);
            if pulse.kind != kind || answer.port.is_some_and(|port| port != pulse.address.port()) {
                continue;
            }
            let Some(target) = self.targets.get_mut(pulse) else { continue };
            let Some(at) = target.open.iter().position(|(number, _)| *number == answer.number) else { continue };
            let sent = target.open[at].1;
            let rtt = now.saturating_duration_since(sent);
            let beat = match answer.said {
                Said::Yes => Beat::Answered,
                Said::Refused => Beat::Refused,
                Said::Unreachable => Beat::Unreachable,
            };
            match beat {
                // Who answers a later one is not silent.
                Beat::Answered => {
                    target.open.drain(..=at);
                    target.hurried = 0;
                    target.rtt = Some(target.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
                }
                _ => {
                    target.open.remove(at);
                    if now + AGAIN < target.next {
                        target.next = now + AGAIN;
                        self.due.push(Reverse((target.next, *pulse)));
                    }
                }
            }
            let rtt = (beat == Beat::Answered).then_some(rtt);
            self.results.extend(target.ids.iter().map(|id| (*id, beat, rtt)));
        }
    }

    /// Gives up on who is overdue, and says whom to ask now. `spacing`: between any two pulses, on average.
    pub fn turn(&mut self, now: Instant, spacing: Duration) -> Vec<Question> {
        self.give_up(now);
        self.hurry(now);
        let crowd = spacing * u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        let mut questions = Vec::new();
        while let Some(Reverse((at, pulse))) = self.due.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.due.pop();
            // A turn that was moved, or whose target is gone, is void.
            let Some(target) = self.targets.get_mut(&pulse).filter(|t| t.next == at) else { continue };
            self.count += 1;
            let number = self.numbers.hash_one(self.count) as u32;
            target.open.push_back((number, now));
            self.waiting.push(Reverse((now + patience(target.rtt), pulse)));
            if let Some(late) = overdue(target.rtt) {
                self.overdue.push(Reverse((now + late, pulse)));
            }
            // A turn that was missed is not made up for.
            let interval = pulse.interval.max(crowd);
            target.next = (at + interval).max(now + interval / 2);
            self.due.push(Reverse((target.next, pulse)));
            questions.push(Question { pulse, number });
        }
        questions
    }

    /// It could not be sent; `no_way`: because this host has no way there.
    pub fn unsent(&mut self, question: &Question, no_way: bool) {
        if let Some(target) = self.targets.get_mut(&question.pulse) {
            target.open.retain(|(number, _)| *number != question.number);
            if no_way {
                self.results.extend(target.ids.iter().map(|id| (*id, Beat::Unsent, None)));
            }
        }
    }

    /// What became of pulses, since the last time.
    pub fn take_results(&mut self) -> Vec<(TargetId, Beat, Option<Duration>)> {
        std::mem::take(&mut self.results)
    }

    /// Has those asked at once whose answers are late: several pulses are known to be lost sooner than their turns would have it.
    fn hurry(&mut self, now: Instant) {
        while let Some(Reverse((_, pulse))) = self.overdue.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.overdue.pop();
            let Some(target) = self.targets.get_mut(&pulse) else { continue };
            let late = overdue(target.rtt).is_some_and(|late| target.open.front().is_some_and(|(_, sent)| *sent + late <= now));
            if late && target.hurried < HURRIES && now < target.next {
                target.hurried += 1;
                target.next = now;
                self.due.push(Reverse((now, pulse)));
            }
        }
    }

    fn give_up(&mut self, now: Instant) {
        while let Some(Reverse((_, pulse))) = self.waiting.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.waiting.pop();
            let Some(target) = self.targets.get_mut(&pulse) else { continue };
            let patience = patience(target.rtt);
            while target.open.front().is_some_and(|(_, sent)| *sent + patience <= now) {
                target.open.pop_front();
                self.results.extend(target.ids.iter().map(|id| (*id, Beat::Lost, None)));
            }
            // Patience may have grown meanwhile.
            if let Some((_, sent)) = target.open.front() {
                self.waiting.push(Reverse((*sent + patience, pulse)));
            }
        }
    }
}

fn patience(rtt: Option<Duration>) -> Duration {
    rtt.map_or(PATIENCE, |rtt| (rtt * 4).clamp(PATIENCE, LONGEST))
}

/// `None`: nobody knows how quick it is, or it never is quicker than it may be at most.
fn overdue(rtt: Option<Duration>) -> Option<Duration> {
    rtt.map(|rtt| OVERDUE.max(rtt * 4)).filter(|late| *late < PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const NONE: Duration = Duration::ZERO;

    fn pulse(port: u16) -> Pulse {
        Pulse { kind: PulseKind::Syn, address: ([10, 0, 0, 1], port).into(), source: None, tag: 0, interval: 10 * MS }
    }

    fn answer(question: &Question, said: Said) -> Answer {
        Answer { host: question.pulse.address.ip(), port: Some(question.pulse.address.port()), number: question.number, said }
    }

    fn beats(rounds: &mut Rounds) -> Vec<(TargetId, Beat)> {
        rounds.take_results().into_iter().map(|(id, beat, _)| (id, beat)).collect()
    }

    #[test]
    fn each_pulse_ends_once() {
        let (mut r, t0) = (Rounds::default(), Instant::now());
        r.set([(pulse(80), vec![7, 8])].into(), t0);
        let first = r.turn(t0, NONE);
        assert_eq!(first.len(), 1);
        assert!(r.turn(t0 + 5 * MS, NONE).is_empty());
        r.heard(&answer(&first[0], Said::Yes), t0 + MS);
        r.heard(&answer(&first[0], Said::Yes), t0 + 2 * MS);
        assert_eq!(beats(&mut r), [(7, Beat::Answered), (8, Beat::Answered)], "a second answer is none");
        let (second, third) = (r.turn(t0 + 10 * MS, NONE), r.turn(t0 + 20 * MS, NONE));
        assert_eq!((second.len(), third.len()), (1, 1), "an unanswered one does not hold up the next");
        r.turn(t0 + 29 * MS, NONE);
        assert_eq!(beats(&mut r), []);
        r.turn(t0 + 30 * MS, NONE);
        assert_eq!(beats(&mut r), [(7, Beat::Lost), (8, Beat::Lost)]);
        r.heard(&answer(&second[0], Said::Yes), t0 + 31 * MS);
        assert_eq!(beats(&mut r), [], "too late");
    }

    #[test]
    fn a_later_answer_forgives_earlier_silence() {
        let (mut r, t0) = (Rounds::default(), Instant::now());
        r.set([(pulse(80), vec![1])].into(), t0);
        r.turn(t0, NONE);
        let second = r.turn(t0 + 10 * MS, NONE);
        r.heard(&answer(&second[0], Said::Yes), t0 + 11 * MS);
        r.turn(t0 + 20 * MS, NONE);
        r.turn(t0 + 25 * MS, NONE);
        assert_eq!(beats(&mut r), [(1, Beat::Answered)]);
    }

    #[test]
    fn a_refusal_is_asked_again_at_once() {
        let (mut r, t0) = (Rounds::default(), Instant::now());
        r.set([(pulse(80), vec![1])].into(), t0);
        let first = r.turn(t0, NONE);
        r.heard(&answer(&first[0], Said::Refused), t0);
        assert_eq!(beats(&mut r), [(1, Beat::Refused)]);
        assert_eq!(r.turn(t0 + MS, NONE).len(), 1);
        assert!(r.turn(t0 + 10 * MS, NONE).is_empty(), "in place of the regular turn");
        assert_eq!(r.turn(t0 + 11 * MS, NONE).len(), 1);
    }

    #[test]
    fn a_late_answer_is_asked_for_again_out_of_turn() {
        let (mut r, t0) = (Rounds::default(), Instant::now());
        r.set([(pulse(80), vec![1])].into(), t0);
        let first = r.turn(t0, NONE);
        r.heard(&answer(&first[0], Said::Yes), t0 + MS);
        let mut asked = Vec::new();
        let mut lost = Vec::new();
        for ms in 1..=60 {
            let questions = r.turn(t0 + MS * ms, NONE);
            asked.extend(questions.iter().map(|_| ms));
            lost.extend(beats(&mut r).iter().filter(|(_, beat)| *beat == Beat::Lost).map(|_| ms));
        }
        assert_eq!(asked, [10, 15, 20, 25, 35, 45, 55], "three times out of turn");
        assert_eq!(lost, [30, 35, 40, 45, 55]);
        let last = r.turn(t0 + MS * 65, NONE);
        r.heard(&answer(&last[0], Said::Yes), t0 + MS * 66);
        assert!(r.turn(t0 + MS * 70, NONE).is_empty(), "an answer ends it");
    }

    #[test]
    fn strangers_and_other_ports_are_not_heard() {
        let (mut r, t0) = (Rounds::default(), Instant::now());
        r.set([(pulse(80), vec![1]), (pulse(81), vec![2])].into(), t0);
        let questions = r.turn(t0 + 10 * MS, NONE);
        assert_eq!(questions.len(), 2);
        let good = answer(&questions[0], Said::Yes);
        for bad in [
            Answer { host: [10, 0, 0, 2].into(), ..good },
            Answer { port: Some(82), ..good },
            Answer { port: None, ..good },
            Answer { number: good.number ^ 1, ..good },
        ] {
            r.heard(&bad, t0 + 11 * MS);
        }
        assert_eq!(beats(&mut r), []);
        r.heard(&good, t0 + 11 * MS);
        assert_eq!(beats(&mut r).len(), 1);
    }

    #[test]
    fn many_targets_are_asked_less_often_and_gone_ones_not_at_all() {
        let (mut r, t0) = (Rounds::default(), Instant::now());
        r.set((1..=100).map(|port| (pulse(port), vec![u64::from(port)])).collect(), t0);
        let mut asked = 0;
        for ms in 0..1000 {
            let questions = r.turn(t0 + MS * ms, MS);
            asked += questions.len();
            questions.iter().for_each(|q| r.heard(&answer(q, Said::Yes), t0 + MS * ms));
        }
        assert!((900..=1100).contains(&asked), "a hundred at 1 ms each: {asked}");
        r.set([(pulse(1), vec![1])].into(), t0 + MS * 1000);
        r.take_results();
        let questions: Vec<_> = (1000..1500).flat_map(|ms| r.turn(t0 + MS * ms, NONE)).collect();
        assert!(questions.len() >= 40 && questions.iter().all(|q| q.pulse == pulse(1)));
    }

    #[test]
    fn far_targets_have_more_time_and_what_was_not_sent_is_no_silence() {
        let (mut r, t0) = (Rounds::default(), Instant::now());
        r.set([(pulse(80), vec![1])].into(), t0);
        let first = r.turn(t0, NONE);
        r.heard(&answer(&first[0], Said::Yes), t0 + 10 * MS);
        r.take_results();
        r.turn(t0 + 10 * MS, NONE);
        r.turn(t0 + 49 * MS, NONE).iter().for_each(|q| r.unsent(q, false));
        assert_eq!(beats(&mut r), []);
        r.turn(t0 + 50 * MS, NONE);
        assert_eq!(beats(&mut r), [(1, Beat::Lost)]);
        r.turn(t0 + 60 * MS, NONE).iter().for_each(|q| r.unsent(q, true));
        assert_eq!(beats(&mut r), [(1, Beat::Unsent)], "that there is no way is known at once");
    }
}
