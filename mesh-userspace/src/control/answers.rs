//! Answers to questions and orders.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime},
};

use tokio::sync::oneshot;

use super::{
    daemon::{Daemon, PeerRoom},
    error::ControlError,
    handle::Command,
    merge::Merged,
    publishing::table_seed,
    report::Facts,
    view::{BackendView, FlowsView, InterfaceView, PeerView, PeersView, ServiceView, Snapshot, SourceStateWord, Status, Traffic},
    weighing::Words,
};
use crate::{
    dataplane::{AttachedIface, Counters},
    events::unix_ms,
    health::{Peer, TargetKey, TargetStatus},
    model::{BackendId, ServiceName},
};

type Answer<T> = oneshot::Sender<Result<T, ControlError>>;

impl Daemon {
    /// Answers one command. Whoever asked may have gone: an answer that nobody takes is dropped.
    pub(super) fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Status(answer) => drop(answer.send(self.ask(now, |d, f| d.status(f)))),
            Command::Ready(answer) => drop(answer.send(Ok(self.readiness()))),
            Command::Snapshot(answer) => drop(answer.send(self.ask(now, |d, f| d.snapshot(f)))),
            Command::Services(answer) => drop(answer.send(self.ask(now, |_, f| f.services()))),
            Command::Service(name, answer) => drop(answer.send(self.service_view(&name, now))),
            Command::Backends(service, answer) => drop(answer.send(self.backend_views(service.as_ref(), now))),
            Command::Sources(answer) => drop(answer.send(Ok(self.source_views()))),
            Command::Events(seq, answer) => drop(answer.send(Ok(self.ring.since(seq)))),
            Command::Reload(answer) => drop(answer.send(self.reload(now).map_err(ControlError::Invalid))),
            Command::Plan(intention, answer) => {
                let seed = table_seed(self.plane.hash_key());
                drop(answer.send(self.core.what_if(*intention, seed, now)));
            }
            Command::Moving(answer) => drop(answer.send(Ok(self.moving()))),
            Command::Explain(packet, answer) => drop(answer.send(self.explain(*packet))),
            Command::Beat(service, id, beat, answer) => {
                let done = self.core.beat(&service, id, &beat, now);
                if let Some(beaten) = done.as_ref().ok().filter(|beaten| beaten.changed) {
                    self.beaten(*beaten, now);
                    self.publish_order(now);
                }
                drop(answer.send(done.and_then(|_| self.backend_view(&service, id, now))));
            }
            Command::Leave(service, id, answer) => {
                let done = self.core.leave(&service, id);
                if let Ok(beaten) = done {
                    self.beaten(beaten, now);
                }
                drop(answer.send(done.map(|_| ())));
            }
            Command::AddService(spec, answer) => {
                let done = self.core.add_service(*spec);
                let done = done.and_then(|name| self.published_or_removed(name, now));
                self.finish(done, now, answer, |d, name| d.service_view(&name, now));
            }
            Command::RemoveService(name, answer) => {
                let done = self.core.remove_service(&name);
                // Another may come in its place.
                self.read_new_files();
                self.finish(done, now, answer, |_, ()| Ok(()));
            }
            Command::AddBackend(service, spec, answer) => {
                let done = self.core.add_backend(&service, &spec);
                self.finish(done, now, answer, |d, id| d.backend_view(&service, id, now));
            }
            Command::RemoveBackend(service, id, answer) => {
                let done = self.core.remove_backend(&service, id);
                self.finish(done, now, answer, |_, ()| Ok(()));
            }
            Command::SetAdmin(service, id, admin, answer) => {
                let done = self.core.set_admin(&service, id, admin);
                let done = done.map(|event| event.into_iter().for_each(|e| self.tell(e)));
                self.finish(done, now, answer, |d, ()| d.backend_view(&service, id, now));
            }
            Command::Drain(service, id, spec, answer) => {
                let done = self.core.drain(&service, id, spec.order(SystemTime::now()));
                let done = done.map(|event| event.into_iter().for_each(|e| self.tell(e)));
                self.finish(done, now, answer, |d, ()| d.backend_view(&service, id, now));
                self.watch_drains(now);
            }
            Command::Drains(answer) => drop(answer.send(Ok(self.drain_views(now)))),
            Command::SetWeight(service, id, weight, answer) => {
                let done = self.core.set_weight(&service, id, weight);
                self.finish(done, now, answer, |d, ()| d.backend_view(&service, id, now));
            }
        }
    }

    /// Publishes a service that was just added; one that there is no room for is not kept.
    fn published_or_removed(&mut self, name: ServiceName, now: Instant) -> Result<ServiceName, ControlError> {
        self.read_new_files();
        self.publish_order(now);
        let Some(refused) = self.refused.get(&name) else { return Ok(name) };
        let error = ControlError::Unavailable(format!("service `{name}` can't be published: {refused}"));
        self.core.remove_service(&name)?;
        self.publish_order(now);
        Err(error)
    }

    /// Publishes what an order has changed, and answers once the state is saved.
    fn finish<O, T: Send + 'static>(
        &mut self,
        done: Result<O, ControlError>,
        now: Instant,
        answer: Answer<T>,
        view: impl FnOnce(&Self, O) -> Result<T, ControlError>,
    ) {
        let outcome = match done {
            Ok(outcome) => outcome,
            Err(error) => return drop(answer.send(Err(error))),
        };
        // Packets first; who else has to be told has time.
        self.publish_order(now);
        self.act();
        let view = view(self, outcome);
        self.save(Box::new(move |saved| {
            let unsaved = |error| ControlError::Internal(format!("it is done, but will be forgotten at the next start: {error}"));
            drop(answer.send(saved.map_err(unsaved).and(view)));
        }));
    }

    fn service_view(&self, name: &ServiceName, now: Instant) -> Result<ServiceView, ControlError> {
        let view = self.ask_about(self.core.find(name)?, now, |facts| facts.service_named(name))?;
        view.ok_or_else(|| ControlError::Unavailable(format!("service `{name}` is not published yet")))
    }

    fn backend_view(&self, service: &ServiceName, id: BackendId, now: Instant) -> Result<BackendView, ControlError> {
        let all = self.ask_about(self.core.find_backend(service, id)?, now, |facts| facts.backends(Some(service)))?;
        all.into_iter().find(|b| b.id == id).ok_or_else(|| ControlError::Unavailable(format!("backend {id} is not published yet")))
    }

    fn backend_views(&self, service: Option<&ServiceName>, now: Instant) -> Result<Vec<BackendView>, ControlError> {
        match service {
            Some(name) => self.ask_about(self.core.find(name)?, now, |facts| facts.backends(Some(name))),
            None => self.ask(now, |_, facts| facts.backends(None)),
        }
    }

    /// Gathers what is known, and answers from it.
    fn ask<T>(&self, now: Instant, answer: impl FnOnce(&Self, &Facts<'_>) -> T) -> Result<T, ControlError> {
        let counters = self.plane.counters().map_err(|e| ControlError::Internal(e.to_string()))?;
        Ok(answer(self, &self.facts(&counters, &self.monitor.snapshot(), &self.agent_words(), now)))
    }

    /// The same of one service alone: what there is beside it costs nothing.
    fn ask_about<T>(&self, merged: &Merged, now: Instant, answer: impl FnOnce(&Facts<'_>) -> T) -> Result<T, ControlError> {
        let counted = self.plane.service_counters(merged.spec.vip).map_err(|e| ControlError::Internal(e.to_string()))?;
        let counters = Counters { services: counted.into_iter().collect(), ..Counters::default() };
        let keys = merged.origins.keys().map(|id| TargetKey { service: merged.spec.name.clone(), backend: *id });
        let targets = keys.filter_map(|key| Some((key.clone(), self.monitor.status(&key)?))).collect();
        Ok(answer(&self.facts(&counters, &targets, &self.agent_words(), now)))
    }

    fn facts<'a>(
        &'a self,
        counters: &'a Counters,
        targets: &'a BTreeMap<TargetKey, TargetStatus>,
        words: &'a Words,
        now: Instant,
    ) -> Facts<'a> {
        Facts {
            core: &self.core,
            counters,
            by_vip: counters.services.iter().map(|s| (s.vip, s)).collect(),
            nat: &self.nat,
            targets,
            next_hops: &self.resolutions,
            passages: &self.passages,
            refused: &self.refused,
            weighing: Box::new(move |plan, member| self.weight_view(words, plan, member)),
            guarding: Box::new(move |service, id| (self.breaker_view(service, id, now), self.limit_view(service, id))),
            now,
            clock: SystemTime::now(),
        }
    }

    fn status(&self, facts: &Facts<'_>) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.core.config().instance.to_string(),
            pid: std::process::id(),
            started_ms: unix_ms(self.started),
            epoch: self.plane.epoch(),
            readiness: self.readiness(),
            config: self.config.clone(),
            pins: self.plane.pin_dir().to_owned(),
            interfaces: self.interface_views(),
            rx: Traffic { packets: facts.counters.rx.packets, bytes: facts.counters.rx.bytes },
            reasons: facts.reasons(),
            nat: facts.nat(),
            ledger: facts.ledger(),
            scheduling: facts.scheduling(),
            peers: self.peers_view(facts.now),
            services: self.core.plan().services.len() as u32,
            backends: facts.backend_states(),
            slots: facts.slots(),
            maps: facts.maps(),
            stale: self.source_views().into_iter().filter(|source| source.state == SourceStateWord::Stale).collect(),
        }
    }

    fn peers_view(&self, now: Instant) -> Option<PeersView> {
        let PeerRoom { quorum, refused, link } = self.peers.as_ref()?;
        let (forged, refused) = refused.refused();
        let (epoch, no_room) = link.own();
        let flows = link.peers();
        let node = |peer: Peer| {
            let view = flows.iter().find(|(address, _)| *address == peer.address).map(|(_, view)| FlowsView::of(view, epoch));
            PeerView { flows: view.unwrap_or_default(), ..peer.into() }
        };
        let nodes = self.monitor.peers(now).into_iter().map(node).collect();
        Some(PeersView { quorum: *quorum, nodes, forged, refused, epoch, joining: link.is_joining(), no_room })
    }

    fn interface_views(&self) -> Vec<InterfaceView> {
        let one = |i: &AttachedIface| InterfaceView {
            name: i.name.clone(),
            ifindex: i.ifindex,
            hook: i.hook.name().to_owned(),
            problem: i.note.clone(),
        };
        self.plane.interfaces().iter().map(one).collect()
    }

    fn snapshot(&self, facts: &Facts<'_>) -> Snapshot {
        Snapshot {
            status: self.status(facts),
            services: facts.services(),
            backends: facts.backends(None),
            sources: self.source_views(),
            publications: self.publications_now(),
        }
    }
}
