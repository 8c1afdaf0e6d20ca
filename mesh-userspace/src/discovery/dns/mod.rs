//! Endpoints from DNS: the addresses of a name, or its service records.
//!
//! That a name has no records is a fact, and is told as one. That nobody can say is none, and what was known stays.

mod answer;
mod exchange;
mod group;
mod system;

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use hickory_proto::{
    op::Message,
    rr::{Name, RecordType, rdata::SRV},
};

use self::{
    answer::{ALIASES, Answer, Found},
    group::Offer,
};
use super::{Failure, Fit, Outlet, Told, Update};
use crate::model::{BackendId, Endpoint};

pub use hickory_proto::rr::Name as DnsName;

/// What is asked for, and of whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsSpec {
    pub name: Name,
    /// Service records (SRV) instead of addresses.
    pub srv: bool,
    /// Empty = those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// For one answer of one server, more than zero.
    pub timeout: Duration,
    /// An answer is asked for again when its time to live ends, but not before, ...
    pub min_refresh: Duration,
    /// ... and not after this.
    pub max_refresh: Duration,
}

/// Questions for targets of service records that are under way at once.
const AT_ONCE: usize = 16;
/// Where an answer does not say how long it holds.
const UNTOLD: u32 = 5;

/// A name that is looked up again and again.
#[derive(Debug)]
pub struct DnsSource {
    spec: DnsSpec,
    fit: Fit,
    /// Last known addresses of the targets of service records: one that can't be asked for keeps them.
    targets: HashMap<Name, Vec<IpAddr>>,
    told: Option<Vec<Endpoint>>,
}

/// What a look-up came to.
struct Outcome {
    endpoints: Vec<Endpoint>,
    ttl: Option<u32>,
    problem: Option<String>,
}

impl DnsSource {
    pub fn new(spec: DnsSpec, fit: Fit) -> Self {
        Self { spec, fit, targets: HashMap::new(), told: None }
    }

    pub(super) async fn run(&mut self, outlet: &Outlet) -> Failure {
        loop {
            let outcome = match self.look_up().await {
                Ok(outcome) => outcome,
                Err(failure) => return failure,
            };
            let update = (self.told.as_ref() != Some(&outcome.endpoints)).then(|| Update::Reset(outcome.endpoints.clone()));
            outlet.good(update, outcome.problem).await;
            self.told = Some(outcome.endpoints);
            let ttl = Duration::from_secs(u64::from(outcome.ttl.unwrap_or(UNTOLD)));
            tokio::time::sleep(ttl.clamp(self.spec.min_refresh, self.spec.max_refresh)).await;
        }
    }

    async fn look_up(&mut self) -> Result<Outcome, Failure> {
        let servers = if self.spec.servers.is_empty() { system::servers().await? } else { self.spec.servers.clone() };
        let asker =
            Asker { servers, timeout: self.spec.timeout, kind: if self.fit.vip.addr.is_ipv4() { RecordType::A } else { RecordType::AAAA } };
        if self.spec.srv { self.services(&asker).await } else { self.addresses(&asker).await }
    }

    async fn addresses(&self, asker: &Asker) -> Result<Outcome, Failure> {
        let Found { records, ttl } = asker.addresses(&self.spec.name).await?;
        let told = records.into_iter().map(|addr| (SocketAddr::new(addr, self.fit.port), 1, None));
        Ok(self.outcome(told, ttl, Vec::new()))
    }

    async fn services(&mut self, asker: &Asker) -> Result<Outcome, Failure> {
        let (message, Found { records, ttl }) = asker.services(&self.spec.name).await?;
        // A target of "." says that the service is decidedly not there (RFC 2782).
        let records: Vec<SRV> = records.into_iter().filter(|srv| !srv.target.is_root()).collect();
        let mut names: Vec<Name> = records.iter().map(|srv| srv.target.clone()).collect();
        names.sort();
        names.dedup();
        let looked_up: Vec<_> = stream::iter(names)
            .map(|name| async {
                let came_along = answer::additional(&message, &name, asker.kind);
                let found = match came_along {
                    Some(found) => Ok(found),
                    None => asker.addresses(&name).await,
                };
                (name, found)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let (mut ttls, mut problems) = (vec![ttl], Vec::new());
        let mut known = HashMap::new();
        for (name, found) in looked_up {
            match found {
                Ok(Found { records, ttl }) => {
                    ttls.push(ttl);
                    known.insert(name, records);
                }
                Err(failure) => {
                    problems.push(format!("{name}: {failure}"));
                    let before = self.targets.remove(&name);
                    known.extend(before.map(|addrs| (name, addrs)));
                }
            }
        }
        // With nothing to go by, an empty list would say that nobody is there.
        if known.is_empty() && !problems.is_empty() {
            return Err(Failure::Unreachable(problems.join("; ")));
        }
        self.targets = known;
        let members = group::choose(records.iter().map(|srv| self.offer(srv)).collect());
        let told = members.into_iter().map(|(at, (weight, name))| (at, weight, Some(name)));
        Ok(self.outcome(told, ttls.into_iter().flatten().min(), problems))
    }

    fn offer(&self, srv: &SRV) -> Offer {
        let addrs = self.targets.get(&srv.target).map_or(&[][..], Vec::as_slice);
        Offer {
            priority: srv.priority,
            weight: srv.weight,
            name: srv.target.to_string().trim_end_matches('.').to_owned(),
            at: addrs.iter().map(|addr| SocketAddr::new(*addr, srv.port)).collect(),
        }
    }

    /// Endpoints that the service can have; the others are a problem that is told.
    fn outcome(
        &self,
        told: impl Iterator<Item = (SocketAddr, u16, Option<String>)>,
        ttl: Option<u32>,
        mut problems: Vec<String>,
    ) -> Outcome {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (at, weight, name) in told {
            let told = Told { address: at.to_string(), weight: Some(i64::from(weight)), name, ..Told::default() };
            match self.fit.endpoint(told) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => problems.push(error),
            }
        }
        // Servers turn the order round from answer to answer.
        endpoints.sort_by_key(|e| e.id);
        endpoints.dedup_by_key(|e: &mut Endpoint| -> BackendId { e.id });
        Outcome { endpoints, ttl, problem: (!problems.is_empty()).then(|| problems.join("; ")) }
    }
}

/// Who is asked, and for which family.
struct Asker {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    kind: RecordType,
}

impl Asker {
    async fn addresses(&self, name: &Name) -> Result<Found<IpAddr>, Failure> {
        let found = self.follow(name, self.kind, |message, name| answer::addresses(message, name, self.kind)).await?;
        Ok(found.1)
    }

    async fn services(&self, name: &Name) -> Result<(Message, Found<SRV>), Failure> {
        self.follow(name, RecordType::SRV, answer::services).await
    }

    /// Asks on where an answer ends in an alias.
    async fn follow<T>(
        &self,
        name: &Name,
        kind: RecordType,
        read: impl Fn(&Message, &Name) -> Answer<T>,
    ) -> Result<(Message, Found<T>), Failure> {
        let (mut name, mut least) = (name.clone(), None);
        for _ in 0..ALIASES {
            let message = exchange::ask(&self.servers, self.timeout, &name, kind).await?;
            match read(&message, &name) {
                Answer::Found(Found { records, ttl }) => {
                    return Ok((message, Found { records, ttl: ttl.into_iter().chain(least).min() }));
                }
                Answer::Alias(target, ttl) => (name, least) = (target, ttl.into_iter().chain(least).min()),
                Answer::Referral => {
                    return Err(Failure::Unreachable(format!(
                        "the server knows {name} only by hearsay: name one that resolves, or the zone's own"
                    )));
                }
            }
        }
        Err(Failure::Bad(format!("{name} is an alias of an alias, and so on")))
    }
}

impl fmt::Display for DnsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.to_string();
        write!(f, "dns {}{}", name.trim_end_matches('.'), if self.srv { " srv" } else { "" })
    }
}
