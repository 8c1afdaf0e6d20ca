//! Which translated flows begin and end, told from one sweep of the flow map to the next.
//!
//! The packet path has no part in it and pays nothing: every flow of a `nat` service has an entry that outlives it, so a sweep a second misses none but those
//! of a client that closes and opens the same port within that second. Where flows have no entries (`dsr`, `dnat`, `tunnel`) the kernel half itself tells of those
//! that begin: [`super::flow_records`].

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use mesh_common::{
    abi::{Addr, Mode, NatFlow},
    flow_log,
    nat::Phase,
};

use crate::model::{BackendId, VipAddr};

/// One flow that began or ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowNote {
    pub change: FlowChange,
    pub vip: VipAddr,
    pub mode: Mode,
    pub backend: BackendId,
    pub client: SocketAddr,
    /// Port of the VIP that the client's packets go to.
    pub port: u16,
    /// Port that the translated flow comes from (`nat`).
    pub source_port: Option<u16>,
    /// For how long it has been so.
    pub ago: Duration,
    /// Of a flow that ended and whose beginning was seen: the time in between, to the sweep.
    pub lasted: Option<Duration>,
}

/// What became of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowChange {
    Opened,
    /// Both sides have closed.
    Closed,
    /// One side has reset it.
    Reset,
    /// Nothing came for longer than its timeout.
    Idle,
    /// Its backend or its service is gone.
    Orphaned,
}

/// One flow in `every`, by its hash: of a flow that is told, the beginning and the end are.
#[derive(Debug, Default)]
pub struct FlowWatch {
    /// As [`flow_log::sample`] says; 0 = none.
    sample: u32,
    /// Sampled flows by their place.
    known: HashMap<usize, Known>,
    /// Flows that the first sweep finds began at some other time.
    begun: bool,
    /// When this sweep began.
    now: Option<Instant>,
    notes: Vec<FlowNote>,
}

#[derive(Debug)]
struct Known {
    claim: u64,
    ended: bool,
    /// `None` = before anybody looked.
    since: Option<Instant>,
    note: FlowNote,
}

impl FlowWatch {
    pub fn new(every: u32) -> Self {
        Self { sample: flow_log::sample(every), ..Self::default() }
    }

    /// A sweep begins.
    pub fn begin(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// Whether the flow with this claim is one of those that are told. Says no at once where the watch is off.
    pub fn samples(&self, claim: u64) -> bool {
        // The claim is the flow's hash, whose lowest bits are a mark.
        flow_log::is_drawn(claim, self.sample)
    }

    /// A sampled flow that lives, or is over and waits to be forgotten.
    pub fn lives(&mut self, place: usize, flow: &NatFlow, phase: Phase, (vip, backend): (VipAddr, BackendId)) {
        if self.known.get(&place).is_some_and(|known| known.claim != flow.claim) {
            self.over(place, FlowChange::Closed);
        }
        let over = phase == Phase::Closed;
        // The same client with the same port, once more.
        if self.known.get(&place).is_some_and(|known| known.ended && !over) {
            self.known.remove(&place);
        }
        if !self.known.contains_key(&place) {
            let port = u16::from_be_bytes(flow.vip_port);
            // A service of several ports, and its backends, have none of their own.
            let (port, backend) =
                if vip.port == 0 { (port, BackendId(SocketAddr::new(backend.0.ip(), port))) } else { (vip.port, backend) };
            let note = FlowNote {
                change: FlowChange::Opened,
                vip,
                mode: Mode::Nat,
                backend,
                client: client(flow, vip.addr),
                port,
                source_port: Some(u16::from_be_bytes(flow.nat_port)),
                ago: Duration::ZERO,
                lasted: None,
            };
            let since = self.now.filter(|_| self.begun);
            if self.begun {
                self.notes.push(note.clone());
            }
            self.known.insert(place, Known { claim: flow.claim, ended: false, since, note });
        }
        if over {
            self.end(place, if flow.reset != 0 { FlowChange::Reset } else { FlowChange::Closed });
        }
    }

    /// A flow that is forgotten now.
    pub fn over(&mut self, place: usize, change: FlowChange) {
        self.end(place, change);
        self.known.remove(&place);
    }

    fn end(&mut self, place: usize, change: FlowChange) {
        if let Some(known) = self.known.get_mut(&place).filter(|known| !known.ended) {
            known.ended = true;
            let lasted = known.since.zip(self.now).map(|(since, now)| now.saturating_duration_since(since));
            self.notes.push(FlowNote { change, lasted, ..known.note.clone() });
        }
    }

    /// What this sweep has found.
    pub fn finish(&mut self) -> Vec<FlowNote> {
        self.begun = true;
        std::mem::take(&mut self.notes)
    }
}

impl FlowChange {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::Orphaned => "orphaned",
        }
    }
}

fn client(flow: &NatFlow, vip: IpAddr) -> SocketAddr {
    let Addr(bytes) = flow.client;
    let addr = if vip.is_ipv4() { IpAddr::V4(Ipv4Addr::from(flow.client.v4_octets())) } else { IpAddr::V6(Ipv6Addr::from(bytes)) };
    SocketAddr::new(addr, u16::from_be_bytes(flow.client_port))
}

#[cfg(test)]
mod tests {
    use mesh_common::abi::Proto;

    use super::*;

    fn flow(claim: u64, port: u16) -> NatFlow {
        NatFlow {
            claim,
            client: Addr::v4([10, 0, 0, 9]),
            client_port: port.to_be_bytes(),
            nat_port: 3000_u16.to_be_bytes(),
            ..NatFlow::default()
        }
    }

    fn whose() -> (VipAddr, BackendId) {
        (VipAddr { addr: [192, 0, 2, 1].into(), port: 80, proto: Proto::Tcp }, BackendId(([10, 0, 0, 1], 8080).into()))
    }

    fn told(watch: &mut FlowWatch) -> Vec<(&'static str, u16)> {
        watch.finish().iter().map(|note| (note.change.name(), note.client.port())).collect()
    }

    #[test]
    fn a_flow_begins_once_and_ends_once() {
        let mut watch = FlowWatch::new(1);
        watch.lives(1, &flow(2, 1), Phase::Established, whose());
        assert_eq!(told(&mut watch), [], "what was there before is not new");
        watch.lives(1, &flow(2, 1), Phase::Established, whose());
        watch.lives(2, &flow(6, 2), Phase::HalfOpen, whose());
        assert_eq!(told(&mut watch), [("opened", 2)]);
        watch.lives(1, &flow(2, 1), Phase::Closed, whose());
        watch.over(2, FlowChange::Idle);
        assert_eq!(told(&mut watch), [("closed", 1), ("idle", 2)]);
        watch.lives(1, &flow(2, 1), Phase::Closed, whose());
        watch.over(1, FlowChange::Idle);
        assert_eq!(told(&mut watch), []);
    }

    #[test]
    fn another_flow_in_the_same_place_is_another_flow() {
        let mut watch = FlowWatch::new(1);
        watch.finish();
        watch.lives(1, &flow(2, 1), Phase::Established, whose());
        watch.lives(1, &flow(6, 2), Phase::Established, whose());
        assert_eq!(told(&mut watch), [("opened", 1), ("closed", 1), ("opened", 2)]);
        watch.lives(1, &NatFlow { reset: 1, ..flow(6, 2) }, Phase::Closed, whose());
        watch.lives(1, &flow(6, 2), Phase::HalfOpen, whose());
        assert_eq!(told(&mut watch), [("reset", 2), ("opened", 2)]);
    }

    #[test]
    fn a_flow_whose_beginning_was_seen_ends_with_how_long_it_lasted() {
        let (mut watch, start) = (FlowWatch::new(1), Instant::now());
        watch.begin(start);
        watch.lives(1, &flow(2, 1), Phase::Established, whose());
        watch.finish();
        watch.begin(start + Duration::from_secs(1));
        watch.lives(2, &flow(6, 2), Phase::Established, whose());
        assert_eq!(watch.finish()[0].lasted, None);
        watch.begin(start + Duration::from_secs(5));
        watch.over(1, FlowChange::Closed);
        watch.over(2, FlowChange::Closed);
        let lasted: Vec<_> = watch.finish().iter().map(|note| note.lasted).collect();
        assert_eq!(lasted, [None, Some(Duration::from_secs(4))]);
    }

    #[test]
    fn one_in_so_many_is_told_and_none_where_it_is_off() {
        let claims = (0..64_000_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !3) | 2);
        let sampled = |every| claims.clone().filter(|claim| FlowWatch::new(every).samples(*claim)).count();
        assert_eq!((sampled(0), sampled(1)), (0, 64_000));
        assert!((600..1400).contains(&sampled(64)), "{}", sampled(64));
    }
}
