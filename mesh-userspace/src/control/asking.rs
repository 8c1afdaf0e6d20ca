//! What each backend is asked, and by which way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::{daemon::Daemon, merge::Merged};
use crate::{
    config::{self, Judgement},
    dataplane::{
        DataplaneError, ProbePlane,
        net::{Resolution, nexthop::Resolutions},
    },
    health::{
        Check, TargetKey,
        detector::{Detection, PhiRules, Pulse},
    },
    model::{BackendId, Endpoint, Head, Mode, Passage},
};

/// The check of one backend; the tags of its passage are not known yet.
pub fn target(merged: &Merged, check: &config::Check, endpoint: &Endpoint) -> Check {
    let id = endpoint.id;
    Check {
        kind: check.kind.clone(),
        address: SocketAddr::new(id.0.ip(), check.port.unwrap_or(id.0.port())),
        source: check.source,
        passage: passage(merged, check, id),
        tag: 0,
        interval: check.interval,
        jitter: check.jitter,
        timeout: check.timeout,
        rise: check.rise,
        fall: check.fall,
        detection: detection(check, id),
        weight: merged.weight(endpoint),
    }
}

/// The way of the service's packets, where checks are to take it and can: their own packets keep their family.
pub fn passage(merged: &Merged, check: &config::Check, id: BackendId) -> Option<Passage> {
    let (vip, backend, ways) = (merged.spec.vip.addr, id.0.ip(), &merged.spec.ways);
    let head = match merged.spec.mode {
        Mode::Nat | Mode::Dnat => return None,
        Mode::Dsr => Head::Mac,
        Mode::Tunnel => Head::Outer { gue: ways.gue, source: ways.source.filter(|s| s.is_ipv4() == backend.is_ipv4()) },
    };
    (check.through_vip && vip.is_ipv4() == backend.is_ipv4()).then_some(Passage { vip, backend, head })
}

fn detection(check: &config::Check, id: BackendId) -> Detection {
    let Judgement::Phi(rules) = check.judgement else { return Detection::RiseFall };
    // The port that is balanced, even where another one is checked.
    let pulse = |kind| Pulse { kind, address: id.0, source: check.source, tag: 0, interval: rules.pulse_interval };
    Detection::Phi(PhiRules { pulse: rules.pulse.map(pulse), passive: rules.passive, limits: rules.limits })
}

/// The passages of checks.
pub struct Passages {
    /// `Err`: why the kernel takes no passages, so that all checks ask directly.
    plane: Result<ProbePlane, String>,
    wanted: BTreeSet<Passage>,
    /// What was complained about last: once is enough.
    problem: String,
}

impl Passages {
    pub fn new(plane: Result<ProbePlane, DataplaneError>) -> Self {
        Self { plane: plane.map_err(|e| e.to_string()), wanted: BTreeSet::new(), problem: String::new() }
    }

    /// Opens the passages of these checks, and has the checks take them. One that can't be opened is asked directly, and the log says why.
    fn open(&mut self, checks: &mut BTreeMap<TargetKey, Check>) {
        let wanted: BTreeSet<Passage> = checks.values().filter_map(|check| check.passage).collect();
        if wanted.is_empty() && self.wanted.is_empty() {
            return;
        }
        let problem = match &mut self.plane {
            Err(why) => Some(format!("the kernel doesn't take them: {why}")),
            Ok(plane) => plane.set(&wanted).err().map(|e| e.to_string()),
        };
        self.complain(problem);
        if let Ok(plane) = &self.plane {
            for check in checks.values_mut() {
                if let Some((tag, of_pulses)) = check.passage.and_then(|p| plane.tags(&p)) {
                    check.take(tag, of_pulses);
                }
            }
        }
        self.wanted = wanted;
    }

    /// Looks at packets of the interfaces that passages lead through: those that the daemon was told of, and those of the next hops.
    fn follow(&mut self, told: &[config::Interface], next_hops: &Resolutions) {
        let Ok(plane) = &mut self.plane else { return };
        if self.wanted.is_empty() {
            return;
        }
        let hops = self.wanted.iter().filter_map(|passage| match next_hops.get(&passage.backend) {
            Some(Resolution::Ready(hop)) => Some(hop.ifname.as_str()),
            _ => None,
        });
        let names: BTreeSet<&str> = told.iter().map(|i| i.name.as_str()).chain(hops).collect();
        let problem = plane.attach(names).first().map(ToString::to_string);
        self.complain(problem);
    }

    fn complain(&mut self, problem: Option<String>) {
        let Some(problem) = problem.filter(|p| *p != self.problem) else { return };
        log::warn!("probes don't take the way of their service: {problem}");
        self.problem = problem;
    }

    /// Whether checks take this passage.
    pub fn is_open(&self, passage: &Passage) -> bool {
        self.plane.as_ref().is_ok_and(|plane| plane.tags(passage).is_some())
    }
}

impl Daemon {
    /// Tells the monitor what to ask.
    pub(super) fn set_checks(&mut self, mut checks: BTreeMap<TargetKey, Check>) {
        self.passages.open(&mut checks);
        self.follow_passages();
        self.monitor.set_targets(checks);
    }

    /// To be called where next hops are others.
    pub(super) fn follow_passages(&mut self) {
        self.passages.follow(&self.core.config().interfaces, &self.resolutions);
    }
}
