//! A node among its peers. Times are in milliseconds since any moment, which is the same for all calls.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::{
    Entry, Report,
    peer::{Counts, Peer},
    wire::{Header, entry_parts, read_entries, report_parts},
};

/// What was not acknowledged is sent again after this time.
const AGAIN: u64 = 30;
/// Messages of entries that are on their way to a peer at a time.
const FLIGHT: usize = 128;

/// What a node is told of itself.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Larger at each start of this node, never 0.
    pub start: u64,
    /// The same on all nodes that agree on the hash of every flow.
    pub tag: u64,
    /// Who was not heard for so long does not count.
    pub lost: u64,
    /// From one sign of life to the next.
    pub interval: u64,
}

/// A node among its peers.
#[derive(Debug)]
pub struct Machine {
    options: Options,
    began: u64,
    joining: bool,
    /// When it was asked first whether it may join.
    asked: Option<u64>,
    version: u64,
    report: Report,
    parts: Vec<Vec<u8>>,
    /// The report with slots at rest, of the same version.
    full: Option<Vec<Vec<u8>>>,
    peers: BTreeMap<SocketAddr, Peer>,
}

/// How a peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It counts.
    Here,
    /// It was not heard yet, and may come.
    Awaited,
    /// It is being told what others know.
    Joining,
    /// It was not heard for too long, or takes too long to join: nobody waits for it.
    Lost,
    /// It has another hash key, so that it finds other slots for the same flows.
    Stranger,
}

/// What is known of a peer.
#[derive(Clone, Debug)]
pub struct View {
    pub standing: Standing,
    /// Our report that it knew when it made its own.
    pub heard: u64,
    pub report: Arc<Report>,
    /// Its report's version.
    pub version: u64,
    /// It does not know yet what others know, or we don't know it.
    pub unsure: bool,
    /// It has never stopped counting on us.
    pub holds_us: bool,
    /// Entries on their way to it.
    pub waiting: u64,
    pub counts: Counts,
}

impl Machine {
    pub fn new(options: Options, peers: impl IntoIterator<Item = SocketAddr>, now: u64) -> Self {
        let peers = peers.into_iter().map(|address| (address, Peer::default())).collect();
        let parts = report_parts(&Report::new());
        Self { options, began: now, joining: true, asked: None, version: 1, report: Report::new(), parts, full: None, peers }
    }

    /// What this node says of its slots from now on, having looked at what others say; its version.
    pub fn say(&mut self, report: &Report) -> u64 {
        self.peers.values_mut().for_each(|peer| peer.weighs = peer.looked_at);
        if *report != self.report {
            self.version += 1;
            self.parts = report_parts(report);
            self.report.clone_from(report);
            self.full = None;
        }
        self.version
    }

    /// Somebody has to be told of slots at rest as well.
    pub fn wants_full(&self) -> bool {
        self.full.is_none() && self.peers.values().any(|peer| peer.joining.is_some())
    }

    /// The report in use, with slots at rest.
    pub fn say_full(&mut self, report: &Report) {
        self.full = Some(report_parts(report));
    }

    /// Entries that are new or others now.
    pub fn offer(&mut self, entries: &[Entry]) {
        let Some(messages) = self.messages(entries, |_| true) else { return };
        for peer in self.peers.values_mut().filter(|peer| peer.start > 0 && !peer.stranger) {
            messages.iter().for_each(|(body, count)| peer.post(body, *count));
        }
    }

    /// Somebody has to be told of all entries.
    pub fn wants_all(&self) -> bool {
        self.peers.values().any(Peer::wants_all)
    }

    /// All entries there are, for those who have to be told.
    pub fn offer_all(&mut self, entries: &[Entry]) {
        let messages = self.messages(entries, |peer| peer.wants_all()).unwrap_or_default();
        for peer in self.peers.values_mut().filter(|peer| peer.wants_all()) {
            messages.iter().for_each(|(body, count)| peer.post(body, *count));
            // There is a number even where there are no entries.
            if peer.number == 0 {
                peer.post(&Arc::default(), 0);
            }
            peer.told_all = Some(peer.number);
        }
    }

    fn messages(&self, entries: &[Entry], whom: impl Fn(&Peer) -> bool) -> Option<Vec<(Arc<Vec<u8>>, u64)>> {
        if entries.is_empty() || !self.peers.values().any(whom) {
            return None;
        }
        let count = |body: &[u8]| read_entries(body).map_or(0, |entries| entries.len() as u64);
        Some(entry_parts(entries).into_iter().map(|body| (count(&body), body)).map(|(count, body)| (Arc::new(body), count)).collect())
    }

    /// A message has come from `from`. `take` takes an entry in, or says that it can't yet: then the message is not acknowledged, nothing that is said after it
    /// counts as heard, and it comes again. Whether reports or standings may be others now.
    pub fn hear(&mut self, from: SocketAddr, message: &[u8], now: u64, mut take: impl FnMut(&Entry) -> bool) -> bool {
        let lost = self.options.lost;
        let Some(peer) = self.peers.get_mut(&from) else { return false };
        let Some((header, body)) = Header::read(message) else {
            peer.counts.garbled += 1;
            return false;
        };
        if header.from < peer.start || header.from == 0 {
            return false;
        }
        let before = (peer.version, peer.weighed, peer.full, peer.heard_at.is_some());
        if header.from > peer.start {
            let held = peer.joining.is_none() && peer.heard_at.is_some_and(|at| now.saturating_sub(at) <= lost);
            peer.restarts(header.from, held);
        }
        peer.heard_at = Some(now);
        peer.stranger = header.tag != self.options.tag;
        if peer.stranger {
            return true;
        }
        peer.joining = if header.joining { peer.joining.or(Some(now)) } else { None };
        if header.to != self.options.start {
            // It has spoken to an earlier life of ours, or does not know us.
            peer.owed = true;
            return true;
        }
        peer.holds_us = header.held;
        peer.heard = peer.heard.max(header.heard);
        peer.acknowledges(header.got);
        if header.entries {
            peer.owed = true;
            match read_entries(body) {
                None => peer.counts.garbled += 1,
                Some(entries) if peer.is_new(header.number) => {
                    // Each of them is tried: what there is room for is known from now on.
                    if entries.iter().filter(|entry| !take(entry)).count() == 0 {
                        peer.counts.received += entries.len() as u64;
                        peer.takes(header.number);
                    }
                }
                Some(_) => {}
            }
        } else {
            peer.all = peer.all.max(header.all);
            if !peer.collects(&header, body) {
                peer.counts.garbled += 1;
            }
        }
        peer.skip_to(header.gone);
        // What it says now may be another thing than what we know of it.
        if header.version <= peer.version {
            peer.weighed = peer.weighed.max(header.weighed);
        }
        before != (peer.version, peer.weighed, peer.full, true)
    }

    /// Messages that are to be sent now.
    pub fn due(&mut self, now: u64) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut messages = Vec::new();
        let (options, joining, version) = (self.options, self.joining, self.version);
        for (address, peer) in &mut self.peers {
            peer.gives_up(now, options.lost);
            let header = Header {
                joining,
                held: peer.held,
                tag: options.tag,
                from: options.start,
                to: peer.start,
                version,
                heard: peer.version,
                weighed: peer.weighs,
                number: peer.number,
                all: peer.told_all.unwrap_or(0),
                got: peer.got,
                gone: peer.gone(),
                ..Header::default()
            };
            let mut sent = false;
            if peer.start > 0 && !peer.stranger && peer.told_all.is_some() {
                let full = self.full.as_ref().filter(|_| peer.joining.is_some());
                let needs = peer.heard < version || full.is_some();
                let last = peer.report_sent.is_some_and(|(at, v, f)| v == version && f == full.is_some() && now < at + AGAIN);
                if needs && !last {
                    let parts = full.unwrap_or(&self.parts);
                    let all = u16::try_from(parts.len()).unwrap_or(0);
                    for (part, body) in (0..all).zip(parts) {
                        let header = Header { part, parts: all, full: full.is_some(), ..header };
                        messages.push((*address, [&header.write()[..], body].concat()));
                    }
                    peer.report_sent = Some((now, version, full.is_some()));
                    sent = true;
                }
                for message in peer.outbox.iter_mut().take(FLIGHT) {
                    if message.sent_at.is_some_and(|at| now < at + AGAIN) {
                        continue;
                    }
                    peer.counts.again += u64::from(message.sent_at.is_some());
                    message.sent_at = Some(now);
                    message.first_sent_at.get_or_insert(now);
                    let header = Header { entries: true, number: message.number, ..header };
                    messages.push((*address, [&header.write()[..], &message.body].concat()));
                    sent = true;
                }
            }
            if !sent && (peer.owed || peer.header_sent.is_none_or(|at| now >= at + options.interval)) {
                messages.push((*address, header.write()));
                sent = true;
            }
            if sent {
                (peer.header_sent, peer.owed) = (Some(now), false);
            }
        }
        messages
    }

    /// Version of what this node says.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Something waits to be acknowledged.
    pub fn is_busy(&self) -> bool {
        self.wants_all() || self.peers.values().any(|peer| peer.start > 0 && (peer.heard < self.version || !peer.outbox.is_empty()))
    }

    /// Whether others do not count on this node yet.
    pub fn is_joining(&self) -> bool {
        self.joining
    }

    /// Whether this node knows what others know, or nobody is there who could tell. The first question begins the wait: before it, there may have been no slots
    /// here that anything could be told of. Who is there and speaks is waited for longer.
    pub fn may_join(&mut self, now: u64) -> bool {
        let asked = *self.asked.get_or_insert(now);
        let knows = |peer: &Peer| peer.is_known() || peer.joining.is_some() && peer.all > 0 && peer.got >= peer.all;
        let waits = |peer: &Peer| match self.standing(peer, now) {
            Standing::Here | Standing::Joining => 10 * self.options.lost,
            Standing::Awaited => 2 * self.options.lost,
            Standing::Lost | Standing::Stranger => 0,
        };
        self.peers.values().all(|peer| knows(peer) || now >= asked + waits(peer))
    }

    /// From now on others count on this node.
    pub fn join(&mut self) {
        self.joining = false;
    }

    fn standing(&self, peer: &Peer, now: u64) -> Standing {
        let lost = self.options.lost;
        match peer.heard_at {
            _ if peer.stranger => Standing::Stranger,
            None if now < self.began + lost => Standing::Awaited,
            Some(at) if now <= at + lost => match peer.joining {
                None => Standing::Here,
                Some(since) if now <= since + lost => Standing::Joining,
                Some(_) => Standing::Lost,
            },
            _ => Standing::Lost,
        }
    }

    /// All peers, by address. What is said from now on is said knowing what they say.
    pub fn look(&mut self, now: u64) -> Vec<(SocketAddr, View)> {
        self.peers.values_mut().for_each(|peer| peer.looked_at = peer.version);
        self.peers(now)
    }

    /// All peers, by address.
    pub fn peers(&self, now: u64) -> Vec<(SocketAddr, View)> {
        let view = |peer: &Peer| View {
            standing: self.standing(peer, now),
            heard: peer.weighed,
            report: Arc::clone(&peer.report),
            version: peer.version,
            unsure: peer.joining.is_some() || !peer.full && self.joining,
            holds_us: peer.holds_us,
            waiting: peer.outbox.iter().map(|message| message.entries).sum(),
            counts: peer.counts,
        };
        self.peers.iter().map(|(address, peer)| (*address, view(peer))).collect()
    }
}

impl Peer {
    fn wants_all(&self) -> bool {
        self.start > 0 && !self.stranger && self.told_all.is_none()
    }
}
