//! Endpoints from Consul: the health of a service's instances, by blocking queries.

use std::{fmt, time::Duration};

use hyper::header::{AUTHORIZATION, HeaderName};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Failure, Fit, Outlet, Told, Update,
    web::{HttpUrl, Login, Reply, encode},
};
use crate::model::Endpoint;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsulSpec {
    pub url: HttpUrl,
    pub service: String,
    /// Instances have all of these.
    pub tags: Vec<String>,
    pub datacenter: Option<String>,
    /// For an answer that need not be waited for.
    pub timeout: Duration,
    /// The server keeps a question so long until something changes.
    pub wait: Duration,
}

/// From the begin of one question to that of the next, so that a burst of changes comes in few answers. After one that the server kept for longer the
/// next follows at once.
const GAP: Duration = Duration::from_millis(20);

/// A service that is followed.
#[derive(Debug)]
pub struct ConsulSource {
    spec: ConsulSpec,
    fit: Fit,
    told: Option<Vec<Endpoint>>,
}

/// One instance, as `/v1/health/service/NAME` has it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u16,
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
    warning: i64,
}

#[derive(Deserialize)]
struct Check {
    #[serde(rename = "CheckID")]
    id: String,
    #[serde(rename = "Status")]
    status: String,
}

impl ConsulSource {
    pub fn new(spec: ConsulSpec, fit: Fit) -> Self {
        Self { spec, fit, told: None }
    }

    pub(super) async fn run(&mut self, outlet: &Outlet) -> Failure {
        let mut index = None;
        loop {
            let asked = Instant::now();
            let (endpoints, problem, next) = match self.ask(index).await {
                Ok(answer) => answer,
                Err(failure) => return failure,
            };
            let changed = self.told.as_ref() != Some(&endpoints);
            outlet.good(changed.then(|| Update::Reset(endpoints.clone())), problem).await;
            self.told = Some(endpoints);
            index = next_index(index, next);
            tokio::time::sleep(GAP.saturating_sub(asked.elapsed())).await;
        }
    }

    async fn ask(&self, index: Option<u64>) -> Result<(Vec<Endpoint>, Option<String>, Option<u64>), Failure> {
        let (at, wait) = (index.map(|i| i.to_string()), format!("{}s", self.spec.wait.as_secs()));
        let mut query: Vec<(&str, &str)> = self.spec.tags.iter().map(|tag| ("tag", tag.as_str())).collect();
        query.extend(self.spec.datacenter.as_deref().map(|dc| ("dc", dc)));
        query.extend(at.as_deref().map(|at| ("index", at)));
        query.extend(index.map(|_| ("wait", wait.as_str())));
        let path = self.spec.url.with(&format!("/v1/health/service/{}", encode(&self.spec.service)), &query);
        // Servers add up to a sixteenth to the wait, so that not all questions end at once.
        let waits = index.map_or(Duration::ZERO, |_| self.spec.wait + self.spec.wait / 16);
        let reply = self.spec.url.get(&path, &self.headers()?, self.spec.timeout + waits).await?;
        let (endpoints, problem) = self.read(&reply)?;
        Ok((endpoints, problem, reply.header("x-consul-index").and_then(|i| i.parse().ok())))
    }

    /// A token goes in Consul's own header, a password in that of proxies before it.
    fn headers(&self) -> Result<Vec<(HeaderName, String)>, Failure> {
        let access = self.spec.url.access();
        let name = if matches!(access.login, Some(Login::Token(_))) { HeaderName::from_static("x-consul-token") } else { AUTHORIZATION };
        Ok(access.authorization("")?.map(|login| (name, login)).into_iter().collect())
    }

    /// The endpoints, and what is wrong with instances that can't be.
    fn read(&self, reply: &Reply) -> Result<(Vec<Endpoint>, Option<String>), Failure> {
        let instances: Vec<Instance> = serde_json::from_slice(reply.success()?).map_err(|e| Failure::Bad(e.to_string()))?;
        let total = instances.len();
        let (mut endpoints, mut problems): (Vec<Endpoint>, Vec<String>) = (Vec::new(), Vec::new());
        for told in instances.into_iter().filter_map(told) {
            let name = told.name.clone().unwrap_or_default();
            match self.fit.endpoint(told) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => problems.push(format!("{name}: {error}")),
            }
        }
        if endpoints.is_empty() && !problems.is_empty() {
            return Err(Failure::Bad(format!("none of {total} instances can be used: {}", problems.join("; "))));
        }
        endpoints.sort_by_key(|e| e.id);
        endpoints.dedup_by_key(|e| e.id);
        Ok((endpoints, (!problems.is_empty()).then(|| problems.join("; "))))
    }
}

/// `None` = the instance is out. Who is in maintenance keeps the flows that it has.
fn told(instance: Instance) -> Option<Told> {
    let Instance { node, service, checks } = instance;
    let maintenance = |check: &&Check| check.id == "_node_maintenance" || check.id.starts_with("_service_maintenance:");
    let drain = checks.iter().any(|check| maintenance(&check));
    let worst = |status: &str| checks.iter().filter(|c| !maintenance(c)).any(|c| c.status == status);
    if worst("critical") && !drain {
        return None;
    }
    let weights = service.weights.unwrap_or(Weights { passing: 1, warning: 1 });
    Some(Told {
        address: if service.address.is_empty() { node.address } else { service.address },
        port: Some(service.port).filter(|port| *port != 0),
        weight: Some(if worst("warning") { weights.warning } else { weights.passing }),
        name: Some(service.id),
        drain,
        ..Told::default()
    })
}

/// An index that goes back, as after the servers' state was restored, and one of zero begin anew.
fn next_index(before: Option<u64>, answered: Option<u64>) -> Option<u64> {
    answered.filter(|index| *index > 0 && before.is_none_or(|before| *index >= before))
}

impl fmt::Display for ConsulSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consul {}", self.service)?;
        for tag in &self.tags {
            write!(f, " #{tag}")?;
        }
        self.datacenter.as_ref().map_or(Ok(()), |dc| write!(f, " @{dc}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(checks: &str, weights: &str) -> Instance {
        let json = format!(
            r#"{{"Node": {{"Node": "n", "Address": "10.0.0.9"}}, "Service": {{"ID": "web-1", "Service": "web", "Tags": null, "Address": "",
            "Port": 80 {weights}}}, "Checks": [{checks}]}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn health_decides_who_is_in_and_with_what_weight() {
        let weights = r#", "Weights": {"Passing": 10, "Warning": 2}"#;
        let check = |id: &str, status: &str| format!(r#"{{"CheckID": "{id}", "Status": "{status}"}}"#);
        let look = |checks: &[String]| told(instance(&checks.join(","), weights)).map(|t| (t.weight, t.drain));
        assert_eq!(look(&[]), Some((Some(10), false)));
        assert_eq!(look(&[check("a", "passing"), check("b", "warning")]), Some((Some(2), false)));
        assert_eq!(look(&[check("a", "critical"), check("b", "warning")]), None);
        assert_eq!(look(&[check("_node_maintenance", "critical")]), Some((Some(10), true)));
        assert_eq!(look(&[check("_service_maintenance:web-1", "critical"), check("a", "critical")]), Some((Some(10), true)));
        let plain = told(instance("", "")).unwrap();
        assert_eq!((plain.address.as_str(), plain.port, plain.weight), ("10.0.0.9", Some(80), Some(1)));
    }

    #[test]
    fn an_index_that_goes_back_begins_anew() {
        assert_eq!(next_index(None, Some(7)), Some(7));
        assert_eq!(next_index(Some(7), Some(9)), Some(9));
        assert_eq!(next_index(Some(7), Some(3)), None);
        assert_eq!(next_index(Some(7), Some(0)), None);
        assert_eq!(next_index(Some(7), None), None);
    }
}
