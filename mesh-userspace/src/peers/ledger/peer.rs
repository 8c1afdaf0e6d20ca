//! What a node knows of one of its peers, and has to tell it.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Report,
    wire::{Header, read_report},
};

/// Messages of entries that wait to be acknowledged. If there are more, the peer will have to be told everything.
const OUTBOX: usize = 8192;

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// The start by which it is known; 0 = it was not heard.
    pub start: u64,
    pub heard_at: Option<u64>,
    /// It has another key.
    pub stranger: bool,
    /// It says that it does not know yet what others know, since when.
    pub joining: Option<u64>,
    /// It was counted on when it started anew.
    pub held: bool,
    /// It says that about us.
    pub holds_us: bool,
    /// Our report that it has taken in, ...
    pub heard: u64,
    /// ... and the one that it knew when it said what we know of it.
    pub weighed: u64,
    /// Its report that was looked at last, and the one that was when ours was made.
    pub looked_at: u64,
    pub weighs: u64,
    /// Its report.
    pub report: Arc<Report>,
    pub version: u64,
    pub full: bool,
    collecting: Option<Collecting>,
    /// Numbers of its messages of entries: all up to this one were taken in, and these beyond.
    pub got: u64,
    beyond: Vec<u64>,
    /// Its messages up to this one were given up: what it said with them or before them does not count.
    void: u64,
    /// Its message by which we know all its entries.
    pub all: u64,
    pub outbox: VecDeque<Message>,
    pub number: u64,
    /// Our message by which it knows all our entries; `None`: they are still to be told.
    pub told_all: Option<u64>,
    /// When our report was sent to it, and which.
    pub report_sent: Option<(u64, u64, bool)>,
    pub header_sent: Option<u64>,
    /// It waits for an acknowledgement.
    pub owed: bool,
    pub counts: Counts,
}

/// What went to and fro.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Entries that it acknowledged, and ...
    pub sent: u64,
    /// ... those that were taken in from it.
    pub received: u64,
    /// Messages that were sent once more.
    pub again: u64,
    /// Messages of it that are not understood.
    pub garbled: u64,
    /// How often it did not take in for too long what it was told, as if it had no room.
    pub given_up: u64,
}

#[derive(Debug)]
pub(super) struct Message {
    pub number: u64,
    pub body: Arc<Vec<u8>>,
    pub entries: u64,
    pub sent_at: Option<u64>,
    pub first_sent_at: Option<u64>,
}

/// A report that has not come whole yet, or whose entries have not.
#[derive(Debug)]
struct Collecting {
    version: u64,
    full: bool,
    parts: Vec<bool>,
    report: Report,
    after: u64,
}

impl Peer {
    /// It has begun anew, and knows nothing of what it was told.
    pub fn restarts(&mut self, start: u64, held: bool) {
        // Until it has told anew what its slots are, they are as they were.
        let report = if held { Arc::clone(&self.report) } else { Arc::default() };
        *self = Self { start, held, report, counts: self.counts, ..Self::default() };
    }

    pub fn post(&mut self, body: &Arc<Vec<u8>>, entries: u64) {
        if self.outbox.len() >= OUTBOX {
            // Numbers go on, so that what was lost is known to be.
            self.outbox.clear();
            self.told_all = None;
        }
        self.number += 1;
        self.outbox.push_back(Message { number: self.number, body: Arc::clone(body), entries, sent_at: None, first_sent_at: None });
    }

    /// It is there, and has not taken in what it was told for twice the time after which it would be `lost`: it is told all anew, for entries are older by now.
    pub fn gives_up(&mut self, now: u64, lost: u64) {
        let here = self.heard_at.is_some_and(|at| now <= at + lost);
        let stale = |message: &Message| message.first_sent_at.is_some_and(|at| now > at + 2 * lost);
        if here && self.outbox.front().is_some_and(stale) {
            self.outbox.clear();
            self.told_all = None;
            self.counts.given_up += 1;
            // The next report is of after this number.
            self.post(&Arc::default(), 0);
        }
    }

    /// It has taken in all messages up to this one.
    pub fn acknowledges(&mut self, got: u64) {
        while let Some(message) = self.outbox.pop_front_if(|message| message.number <= got) {
            self.counts.sent += message.entries;
        }
    }

    /// Messages up to this one are not sent any more: it has taken them in, or they were given up, and all entries are told after them.
    pub fn gone(&self) -> u64 {
        self.outbox.front().map_or(self.number, |message| message.number - 1)
    }

    pub fn is_new(&self, number: u64) -> bool {
        number > self.got && !self.beyond.contains(&number)
    }

    /// A message of entries was taken in.
    pub fn takes(&mut self, number: u64) {
        self.beyond.push(number);
        self.close_up();
    }

    /// What lies before this number does not come any more.
    pub fn skip_to(&mut self, number: u64) {
        if number > self.got {
            (self.got, self.void) = (number, number);
            self.collecting = None;
            if self.all <= number {
                self.all = 0;
            }
        }
        self.close_up();
    }

    fn close_up(&mut self) {
        self.beyond.sort_unstable();
        let mut got = self.got;
        self.beyond.retain(|number| {
            if *number == got + 1 {
                got += 1;
            }
            *number > got
        });
        self.got = got;
        self.count_report();
    }

    /// A part of its report. Whether that could be read.
    pub fn collects(&mut self, header: &Header, body: &[u8]) -> bool {
        let stale = header.version < self.version || header.version == self.version && (self.full || !header.full);
        let void = self.void > 0 && header.number <= self.void;
        if header.parts == 0 || header.part >= header.parts || (self.version > 0 && stale) || void {
            return true;
        }
        let same = |c: &Collecting| c.version == header.version && c.full == header.full && c.parts.len() == usize::from(header.parts);
        if self.collecting.as_ref().is_some_and(|c| (c.version, c.full) > (header.version, header.full)) {
            return true;
        }
        if !self.collecting.as_ref().is_some_and(same) {
            let parts = vec![false; usize::from(header.parts)];
            self.collecting =
                Some(Collecting { version: header.version, full: header.full, parts, report: Report::new(), after: header.number });
        }
        let Some(collecting) = &mut self.collecting else { return true };
        collecting.after = collecting.after.min(header.number);
        if let Some(part) = collecting.parts.get_mut(usize::from(header.part)).filter(|part| !**part) {
            if read_report(body, &mut collecting.report).is_none() {
                return false;
            }
            *part = true;
        }
        self.count_report();
        true
    }

    /// A report counts once it is there with all entries that were made before it.
    fn count_report(&mut self) {
        let got = self.got;
        if let Some(collecting) = self.collecting.take_if(|c| c.parts.iter().all(|part| *part) && c.after <= got) {
            (self.version, self.full) = (collecting.version, collecting.full);
            self.report = Arc::new(collecting.report);
            self.owed = true;
        }
    }

    /// We know its slots, those at rest too, and all its flows.
    pub fn is_known(&self) -> bool {
        self.full && self.all > 0 && self.got >= self.all
    }
}
