//! Other balancers of the same services: what they say of slots goes into each step, and what is done here is told them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::IpAddr,
    sync::Arc,
};

use mesh_common::abi::{Mode, TableRef};

use super::{
    Dataplane, execute,
    layout::Service,
    op::Op,
    reconcile::{
        nodes::{About, Nodes, key},
        standings::{Clock, Standings},
    },
    replica::Replica,
};
use crate::{
    config,
    model::{BackendId, VipAddr},
    peers::ledger::{
        Report, Words,
        link::{Line, Link, Place},
    },
};

/// A VIP as [`key`] has it.
type Key = (IpAddr, u16, u8);

impl Dataplane {
    /// Tells these nodes of slots on their way and of their flows from now on, and goes by what they tell.
    pub fn speak(&mut self, line: Line, peers: &config::Peers) -> io::Result<Arc<Link>> {
        let image = &self.loaded.image;
        let replica = Replica::new(Arc::clone(&image.ledger), Arc::clone(&image.ledger_tags), self.times);
        let link = Link::start(line, peers, tag(self.hash_key()), replica)?;
        self.peers = Some(Arc::clone(&link));
        self.hear_peers();
        Ok(link)
    }

    /// Takes in what others say, before anything is decided.
    pub(super) fn hear_peers(&mut self) {
        let Some(link) = &self.peers else { return };
        let (views, joining) = (link.look(), link.is_joining());
        let given_up = views.iter().map(|(_, view)| view.counts.given_up).sum();
        let nodes = Nodes::new(views, joining);
        if self.layout.nodes.as_ref().is_some_and(|before| nodes.have_lost(before)) {
            self.count_anew();
        }
        self.layout.nodes = Some(Arc::new(nodes));
        if std::mem::replace(&mut self.given_up, given_up) < given_up {
            self.hold();
        }
    }

    /// Somebody has no room for flows of slots on their way.
    fn hold(&self) {
        let now = super::nat::tick();
        for service in self.layout.services.values() {
            service.moves.hold(&Standings { image: &self.loaded.image, table: service.table, base: service.base }, now);
        }
    }

    /// Somebody is lost, and with it what it alone knew.
    fn count_anew(&mut self) {
        let now = super::nat::tick();
        for service in self.layout.services.values_mut() {
            let mut moves = std::mem::take(&mut service.moves);
            moves.count_anew(&Standings { image: &self.loaded.image, table: service.table, base: service.base }, now);
            service.moves = moves;
        }
        self.note_all();
    }

    fn note_all(&mut self) {
        let ids: Vec<u32> = self.layout.services.keys().copied().collect();
        ids.into_iter().for_each(|id| self.layout.note(id));
    }

    /// Services of which others have slots on their way.
    pub(super) fn asked(&self) -> BTreeSet<Key> {
        self.layout.nodes.as_ref().map(|nodes| nodes.vips()).unwrap_or_default()
    }

    /// Tells others what there is now, after it was done.
    pub(super) fn tell_peers(&mut self) {
        let (Some(link), Some(nodes)) = (self.peers.clone(), self.layout.nodes.clone()) else { return };
        let clock = self.clock();
        let missing = link.missing();
        let asked: BTreeSet<Key> = self.asked().into_iter().chain(missing.iter().map(key)).collect();
        let (mut report, mut directory) = (Report::new(), HashMap::new());
        for service in self.layout.services.values().filter(|service| serves(service)) {
            let Some(table) = service.table else { continue };
            if service.moves.slots() > 0 {
                report.insert(service.vip, self.words(service, table, &nodes, false, clock));
            } else if !asked.contains(&key(&service.vip)) {
                continue;
            }
            let backends = service.entries.iter().map(|entry| entry.as_ref().map(|entry| entry.id)).collect();
            directory.insert(service.vip, Place { service: service.id as u16, backends });
        }
        let foreign = self.foreign(&nodes, &missing, &asked);
        report.extend(foreign.iter().map(|vip| (*vip, Words { foreign: true, ..Words::default() })));
        let version = link.say(&report, directory, foreign);
        self.layout.services.values_mut().for_each(|service| service.moves.were_told(version));
        if link.wants_full() {
            link.say_full(&self.full(&nodes, clock));
        }
    }

    /// VIPs that others ask about, and that are not served here, or not so that flows depend on slots.
    fn foreign(&self, nodes: &Nodes, missing: &[VipAddr], asked: &BTreeSet<Key>) -> HashSet<VipAddr> {
        let ours: BTreeSet<Key> =
            self.layout.services.values().filter(|service| serves(service)).map(|service| key(&service.vip)).collect();
        nodes.told_of().chain(missing).filter(|vip| asked.contains(&key(vip)) && !ours.contains(&key(vip))).copied().collect()
    }

    /// What there is, slots at rest too.
    fn full(&self, nodes: &Nodes, clock: Clock) -> Report {
        let services = self.layout.services.values().filter(|service| serves(service));
        services.filter_map(|service| Some((service.vip, self.words(service, service.table?, nodes, true, clock)))).collect()
    }

    fn words(&self, service: &Service, table: TableRef, nodes: &Nodes, all: bool, clock: Clock) -> Words {
        let standings = Standings { image: &self.loaded.image, table: Some(table), base: service.base };
        let local = |id: &BackendId| service.local(id);
        let about = About { nodes, vip: service.vip, table, local: &local };
        let id = |local: u16| Some(service.entries.get(usize::from(local))?.as_ref()?.id);
        service.moves.words(&standings, &about, id, all, &clock)
    }

    /// Whether others do not count on this node yet, for it does not know what they know.
    pub fn is_joining(&self) -> bool {
        self.peers.as_ref().is_some_and(|link| link.is_joining())
    }

    /// Others have slots of backends that discovery has not found here, and may soon: what is taken from them is better taken whole.
    fn may_find_more(&self, link: &Link, nodes: &Nodes) -> bool {
        let unknown = |service: &Service| {
            let local = |id: &BackendId| service.local(id);
            service.table.map(|table| About { nodes, vip: service.vip, table, local: &local }.unknown()).unwrap_or_default()
        };
        let served = self.layout.services.values().filter(|service| serves(service));
        // All of them are asked about.
        let awaited = served.map(|service| link.await_all(service.vip, &unknown(service))).filter(|awaited| *awaited).count();
        awaited > 0
    }

    /// Goes by what others have told of their slots and flows, if they have told all. Tells whether others count on this node now.
    pub fn join(&mut self) -> bool {
        let Some(link) = self.peers.clone().filter(|link| link.is_joining()) else { return true };
        if !link.may_join() {
            return false;
        }
        self.hear_peers();
        let Some(nodes) = self.layout.nodes.clone() else { return true };
        if self.may_find_more(&link, &nodes) {
            return false;
        }
        let (image, now, instant) = (&self.loaded.image, super::nat::tick(), std::time::Instant::now());
        let mut ops = Vec::new();
        for service in self.layout.services.values_mut().filter(|service| serves(service)) {
            let Some(table) = service.table else { continue };
            let mut moves = std::mem::take(&mut service.moves);
            let local = |id: &BackendId| service.local(id);
            let about = About { nodes: &nodes, vip: service.vip, table, local: &local };
            let changes = moves.join(&Standings { image, table: Some(table), base: service.base }, &about, now);
            service.moves = moves;
            // From now on something is promised to its flows.
            service.coming = None;
            if !changes.is_empty() {
                service.written = Some(instant);
                ops.push(Op::Slots { changes: changes.into_iter().map(|(slot, word)| (table.base() + slot, word)).collect() });
            }
        }
        execute(image, &ops);
        self.note_all();
        link.join();
        self.hear_peers();
        self.tell_peers();
        true
    }
}

/// Its flows depend on slots.
fn serves(service: &Service) -> bool {
    service.mode != Mode::Nat && service.retired.is_none()
}

/// What two nodes have in common that find the same slot for a flow. Tells nothing of the key.
fn tag([first, second]: [u64; 2]) -> u64 {
    let bytes = [&b"mesh flows"[..], &first.to_be_bytes(), &second.to_be_bytes()].concat();
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    digest.as_ref().iter().take(8).fold(0, |tag, byte| tag << 8 | u64::from(*byte))
}
