//! One service's way from what the maps say to what the plan says.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use mesh_common::abi::{Backend, BackendState, Mode, NAT_SOURCES, NatSource, Proto, ServiceFlags, SlotWord};

use super::{
    Hops, Phases, Translation, drain,
    moves::{Moves, Which, Wished, spread},
    nodes::{About, Nodes},
    places::Places,
    standings::{Clock, Standings},
};
use crate::{
    dataplane::{
        entry,
        image::{Image, words_of},
        layout::{Layout, LayoutError, Service, source_of, vip_key},
        op::{Op, backend_word, service_word, vip_word},
        quic,
    },
    model::{Answers, BackendId, WhenEmpty},
    plan::ServicePlan,
};
/// One service's way through the phases.
pub(super) struct Step<'a, H> {
    pub image: &'a Image,
    pub hops: &'a H,
    pub translation: &'a Translation<'a>,
    pub clock: Clock,
    pub phases: &'a mut Phases,
}

impl<H: Hops> Step<'_, H> {
    /// Adds the steps of one service to the phases, and tells its id. Does nothing if it fails.
    pub fn service(&mut self, layout: &mut Layout, wanted: &ServicePlan) -> Result<u32, LayoutError> {
        let one_family = wanted.mode != Mode::Tunnel;
        if let Some(member) = wanted.members.iter().find(|m| one_family && m.id.0.is_ipv4() != wanted.vip.addr.is_ipv4()) {
            return Err(LayoutError::Family { vip: wanted.vip, backend: member.id });
        }
        if wanted.mode == Mode::Nat && !self.translation.ports {
            return Err(LayoutError::Ports);
        }
        if wanted.mode == Mode::Dnat {
            unambiguous(layout, wanted)?;
            layout.own.extend(wanted.members.iter().filter_map(|m| self.hops.hop(m.id.0.ip())).map(|hop| hop.source));
            layout.own.extend(self.translation.sources);
        }
        let known = layout.find(&vip_key(&wanted.vip));
        let id = match known {
            Some(id) => id,
            None => layout.add(wanted.vip, wanted.mode, wanted.members.len(), self.clock.instant)?,
        };
        if wanted.mode == Mode::Dnat && wanted.vip.port == 0 && u16::try_from(id).is_err() {
            return Err(LayoutError::RangeId { id });
        }
        let Some(mut service) = layout.services.remove(&id) else { return Err(LayoutError::Index) };
        // So long its backends are found well one by one.
        service.coming = service.coming.filter(|since| self.clock.instant.saturating_duration_since(*since) <= self.clock.handshake());
        let done = self.nat_sources(layout, wanted).and_then(|sources| {
            let (list, prefixes) = layout.lists.number(&wanted.ways.protect.sources)?;
            if !prefixes.is_empty() {
                self.phases.prepare.push(Op::List { prefixes });
            }
            let places = self.places(layout, &mut service, wanted)?;
            // Nothing fails from here on.
            service.list = list;
            let states = self.states(&mut service, wanted, &places);
            let ids = quic::step(&mut service, wanted, &places.locals);
            self.phases.retire.extend(ids.gone);
            self.backends(&mut service, wanted, &sources, &places, &states);
            self.phases.switch.extend(ids.new);
            self.table(layout, &mut service, wanted, &places, &states);
            self.retire_backends(&mut service, wanted, places.grown);
            service.name = Some(wanted.name.clone());
            service.retired = None;
            Ok(id)
        });
        layout.put(service);
        if done.is_err() && known.is_none() {
            layout.undo(id);
        }
        done
    }

    /// Index of the source address of each member.
    fn nat_sources(&mut self, layout: &mut Layout, wanted: &ServicePlan) -> Result<Vec<u16>, LayoutError> {
        if wanted.mode != Mode::Nat {
            return Ok(vec![0; wanted.members.len()]);
        }
        if let Some(any) = self.shared_source(layout, wanted.vip.addr.is_ipv6())? {
            return Ok(vec![any; wanted.members.len()]);
        }
        let hops = self.hops;
        let own = |id: &BackendId| hops.hop(id.0.ip()).map(|hop| hop.source);
        wanted.members.iter().map(|m| own(&m.id).map_or(Ok(0), |addr| self.source_index(layout, addr))).collect()
    }

    fn source_index(&mut self, layout: &mut Layout, addr: IpAddr) -> Result<u16, LayoutError> {
        let (index, new) = layout.sources.index(addr).ok_or(LayoutError::Sources)?;
        if new {
            self.phases.sources.push(Op::Source { index, value: source_of(addr) });
        }
        Ok(index)
    }

    /// What flows to all backends of a family come from, if the configuration says: its one address, or each flow from one of them.
    fn shared_source(&mut self, layout: &mut Layout, v6: bool) -> Result<Option<u16>, LayoutError> {
        let fitting = self.translation.sources.iter().filter(|source| source.is_ipv6() == v6);
        let indices = fitting.map(|addr| self.source_index(layout, *addr)).collect::<Result<Vec<u16>, _>>()?;
        if indices.len() < 2 {
            return Ok(indices.first().copied());
        }
        let mut value = [0; NAT_SOURCES];
        for (share, index) in value.iter_mut().zip(indices.iter().cycle()) {
            *share = *index as u8;
        }
        let known = &mut layout.shares[usize::from(v6)];
        if *known != value {
            *known = value;
            self.phases.sources.push(Op::Shares { v6, value });
        }
        Ok(Some(NatSource::ANY))
    }

    /// Entries of the members: whole ones where no slot names them, single words where slots may.
    fn backends(&mut self, service: &mut Service, wanted: &ServicePlan, sources: &[u16], places: &Places, states: &[(u16, BackendState)]) {
        service.mode = wanted.mode;
        service.chooses = wanted.ways.choosing.is_any();
        service.flags = entry::flags(wanted) | service.flags & ServiceFlags::CHOOSES;
        let mut entries = BTreeMap::new();
        let back = wanted.ways.reply_via.and_then(|router| self.hops.hop(router));
        for ((member, (local, state)), source) in wanted.members.iter().zip(states).zip(sources) {
            let Some(Some(place)) = service.entries.get_mut(usize::from(*local)) else { continue };
            place.retired = None;
            let hop = self.hops.hop(member.id.0.ip());
            let ways = entry::Ways { forth: hop.as_ref(), back: back.as_ref() };
            entries.insert(*local, entry::backend(wanted, member.id, *state, ways, *source, place.stats));
        }
        let whole = service.table.is_none() && service.position.is_none() && service.name.is_none() && service.retired.is_none();
        match places.grown {
            Some(old) => {
                let all = self.extent(service, &entries, Some(old));
                self.phases.prepare.push(Op::Backends { base: service.base, entries: all });
                self.phases.prepare.push(Op::ServiceWord {
                    id: service.id,
                    word: service_word::BASE,
                    value: info_word(service, service_word::BASE),
                });
                self.phases.prepare.push(Op::ServiceWord {
                    id: service.id,
                    word: service_word::CAPACITY,
                    value: info_word(service, service_word::CAPACITY),
                });
            }
            None if whole => {
                let all = self.extent(service, &entries, None);
                self.phases.prepare.push(Op::Backends { base: service.base, entries: all });
                self.phases.prepare.push(Op::Service { id: service.id, value: entry::service_info(service) });
            }
            None => {
                let (id, word) = (service.id, service_word::CAPACITY);
                let value = info_word(service, word);
                if self.image.services.word(id as usize, usize::from(word)) != value {
                    self.phases.prepare.push(Op::ServiceWord { id, word, value });
                }
                for (local, entry) in entries {
                    self.entry(service.base + u32::from(local), &entry, places.new.contains(&local));
                }
            }
        }
        service.ports = wanted.ways.ports.unwrap_or_default();
        let protect = &wanted.ways.protect;
        service.limits = (protect.source_limit, protect.service_limit);
        if let Some(at) = service.position {
            for word in [vip_word::PORTS, vip_word::LIMIT] {
                let value = words_of(&entry::vip(service)).nth(usize::from(word)).unwrap_or_default();
                if value != self.image.vips.word(at as usize, usize::from(word)) {
                    self.phases.switch.push(Op::VipWord { at, word, value });
                }
            }
            let (value, now) = (vip_base_word(service), self.image.vips.word(at as usize, usize::from(vip_word::BASE)));
            if value != now {
                self.phases.prepare.push(Op::VipWord { at, word: vip_word::BASE, value });
                self.phases.outgrown |= places.grown.is_some();
            }
        }
    }

    /// All entries of a new extent: the members', what else stood in the old one, and nothing.
    fn extent(&self, service: &Service, entries: &BTreeMap<u16, Backend>, old: Option<u32>) -> Vec<Backend> {
        let kept = |local: u16| {
            old.filter(|_| service.entries[usize::from(local)].is_some())
                .map(|old| self.image.backends.get((old + u32::from(local)) as usize))
        };
        (0..service.entries.len() as u16).map(|local| entries.get(&local).copied().or_else(|| kept(local)).unwrap_or_default()).collect()
    }

    /// Changes of one entry.
    fn entry(&mut self, at: u32, entry: &Backend, new: bool) {
        if new {
            self.phases.prepare.push(Op::Backends { base: at, entries: vec![*entry] });
            return;
        }
        let mut changed = |word: u8| {
            let value = words_of(entry).nth(usize::from(word)).unwrap_or_default();
            if self.image.backends.word(at as usize, usize::from(word)) != value {
                self.phases.states.push(Op::BackendWord { at, word, value });
            }
        };
        // Who loses its next hop is told so first; who has got one has its addresses first.
        let ready = entry.flags & Backend::READY != 0;
        let order = if ready {
            [backend_word::SOURCE, backend_word::SOURCE + 1, backend_word::SUMS, backend_word::DST, backend_word::SRC, backend_word::STATE]
        } else {
            [backend_word::STATE, backend_word::DST, backend_word::SRC, backend_word::SUMS, backend_word::SOURCE, backend_word::SOURCE + 1]
        };
        order.into_iter().for_each(&mut changed);
    }

    /// The table: changed slots in place, or a whole table in an extent of its own and the flip to it.
    fn table(&mut self, layout: &mut Layout, service: &mut Service, wanted: &ServicePlan, places: &Places, states: &[(u16, BackendState)]) {
        let len = 1usize << wanted.table.log2_slots;
        if let Some(table) = places.new_table {
            let slots: Vec<SlotWord> = match service.table.filter(|_| service.retired.is_none() && by_ledger(service, wanted)) {
                // The flows of a slot are those of the slots that it becomes.
                Some(old) => spread(&self.image.slots.table(old.base(), 1 << old.log2_slots()).collect::<Vec<_>>(), len),
                None => (0..len).map(|i| entry::slot(&wanted.table, i, &places.locals)).collect(),
            };
            service.moves.moved(&slots, self.clock.now);
            service.written = Some(self.clock.instant);
            self.phases.prepare.push(Op::Table { base: table.base(), slots });
            if let Some(at) = service.position {
                self.phases.switch.push(Op::VipWord { at, word: vip_word::TABLE, value: table.0 });
            }
            if let Some(old) = service.table.replace(table) {
                layout.give_back_table(old, self.clock.instant);
            }
        } else if by_ledger(service, wanted) {
            self.slots_by_ledger(layout.nodes.clone().as_deref(), service, wanted, places, states);
        } else if let Some(table) = service.table.filter(|_| !is_applied(service, wanted, places)) {
            let now = self.image.slots.table(table.base(), len);
            let changes: Vec<_> = (table.base()..)
                .zip(now)
                .enumerate()
                .filter_map(|(i, (at, now))| {
                    let then = entry::slot(&wanted.table, i, &places.locals);
                    (then != now).then_some((at, then))
                })
                .collect();
            if !changes.is_empty() {
                service.written = Some(self.clock.instant);
                self.phases.switch.push(Op::Slots { changes });
            }
        }
        service.applied = Some((Arc::clone(&wanted.table), places.locals.clone()));
    }

    /// What is published of the members' states: what is wanted, unless flows that nobody translates depend on what is.
    fn states(&self, service: &mut Service, wanted: &ServicePlan, places: &Places) -> Vec<(u16, BackendState)> {
        let states: Vec<_> = places.locals.iter().copied().zip(wanted.members.iter().map(|m| m.state)).collect();
        if !by_ledger(service, wanted) {
            service.moves = Moves::default();
            return states;
        }
        let table = service.table.filter(|_| service.retired.is_none());
        let standings = Standings { image: self.image, table, base: places.grown.unwrap_or(service.base) };
        service.moves.states(&standings, &states, &self.clock)
    }

    /// Slots of a table in use whose flows nobody translates.
    fn slots_by_ledger(
        &mut self,
        nodes: Option<&Nodes>,
        service: &mut Service,
        wanted: &ServicePlan,
        places: &Places,
        states: &[(u16, BackendState)],
    ) {
        let Some(table) = service.table else { return };
        let standings = Standings { image: self.image, table: Some(table), base: places.grown.unwrap_or(service.base) };
        let published = |(local, state): &(u16, BackendState)| {
            BackendState::from_u8(self.image.backends.get(standings.base as usize + usize::from(*local)).state) == *state
        };
        let same = is_applied(service, wanted, places) && states.iter().all(published) && !service.moves.is_behind();
        let which = if same { Which::Moving } else { Which::All };
        let states = states.iter().copied().collect();
        let (handshakes, host) = (wanted.vip.proto == Proto::Tcp, wanted.when_empty == WhenEmpty::Pass);
        let mut moves = std::mem::take(&mut service.moves);
        let local = |id: &BackendId| service.local(id);
        let about = nodes.map(|nodes| About { nodes, vip: service.vip, table, local: &local });
        let wish = Wished { table: &wanted.table, locals: &places.locals, states: &states, handshakes, host, about };
        let changes = moves.slots_to(&standings, &wish, which, &self.clock);
        service.moves = moves;
        if !changes.is_empty() {
            service.written = Some(self.clock.instant);
            let changes = changes.into_iter().map(|(slot, word)| (table.base() + slot, word)).collect();
            self.phases.switch.push(Op::Slots { changes });
        }
    }

    /// Backends that no slot names any more keep the flows that they have.
    fn retire_backends(&mut self, service: &mut Service, wanted: &ServicePlan, old: Option<u32>) {
        let service_by_ledger = by_ledger(service, wanted);
        let wanted: BTreeSet<_> = wanted.members.iter().map(|m| m.id).collect();
        for (local, entry) in service.entries.iter_mut().enumerate() {
            let Some(entry) = entry.as_mut().filter(|e| e.retired.is_none() && !wanted.contains(&e.id)) else { continue };
            entry.retired = Some(self.clock.instant);
            if service_by_ledger {
                // Its slots lead elsewhere one by one.
                continue;
            }
            let now = self.image.backends.get((old.unwrap_or(service.base) + local as u32) as usize);
            self.phases.retire.extend(drain(now, service.base + local as u32));
        }
    }
}

/// No other `dnat` service has the same ports of one of these backends: an answer from there could be of either.
fn unambiguous(layout: &Layout, wanted: &ServicePlan) -> Result<(), LayoutError> {
    let key = vip_key(&wanted.vip);
    let others =
        layout.services.values().filter(|s| s.mode == Mode::Dnat && s.key != key && s.key.proto == key.proto && s.retired.is_none());
    let mut ours: HashMap<IpAddr, (Vec<Answers>, usize)> = HashMap::new();
    for member in &wanted.members {
        ours.entry(member.id.0.ip()).or_default().0.push(Answers::of(wanted.vip, wanted.ways.ports, member.id));
    }
    for other in others {
        for entry in other.present().map(|(_, entry)| entry).filter(|entry| entry.retired.is_none()) {
            let Some((ours, ranges)) = ours.get_mut(&entry.id.0.ip()) else { continue };
            let theirs = Answers::of(other.vip, (other.vip.port == 0).then_some(other.ports), entry.id);
            if ours.iter().any(|answers| answers.collide(&theirs)) {
                return Err(LayoutError::Ambiguous { backend: entry.id, vip: other.vip });
            }
            *ranges += usize::from(theirs.are_several());
            if *ranges >= Answers::RANGES && wanted.vip.port == 0 {
                return Err(LayoutError::Ranges { backend: entry.id });
            }
        }
    }
    Ok(())
}

/// Nothing but slots and ledger tells where the service's packets go.
pub(super) fn by_ledger(service: &Service, wanted: &ServicePlan) -> bool {
    wanted.mode != Mode::Nat && service.coming.is_none()
}

/// The slots say this table already.
fn is_applied(service: &Service, wanted: &ServicePlan, places: &Places) -> bool {
    service.applied.as_ref().is_some_and(|(table, locals)| Arc::ptr_eq(table, &wanted.table) && *locals == places.locals)
}

fn vip_base_word(service: &Service) -> u64 {
    words_of(&entry::vip(service)).nth(usize::from(vip_word::BASE)).unwrap_or_default()
}

fn info_word(service: &Service, word: u8) -> u64 {
    words_of(&entry::service_info(service)).nth(usize::from(word)).unwrap_or_default()
}
