//! Services that a cluster asks for. Pure.

use std::collections::BTreeMap;

use super::core::{Core, resolve_spec};
use crate::config::written;

impl Core {
    /// Takes in the services that a cluster asks for. True if that changes something; and what of it can't be.
    pub fn cluster(&mut self, services: Vec<written::Service>) -> (bool, Vec<String>) {
        if self.config.kubernetes.is_none() {
            return (false, Vec::new());
        }
        let (mut derived, mut problems) = (BTreeMap::new(), Vec::new());
        for spec in &services {
            match resolve_spec(spec) {
                Ok(service) => drop(derived.insert(service.name.clone(), service)),
                Err(error) => {
                    problems.push(format!("{}: {error}", spec.name));
                    // What it was before holds.
                    let before = spec.name.value.parse().ok().and_then(|name| self.derived.remove(&name));
                    derived.extend(before.map(|service| (service.name.clone(), service)));
                }
            }
        }
        let changed = derived != self.derived || self.told.is_empty() != services.is_empty();
        (self.derived, self.told) = (derived, services);
        let shadowed = self.merge();
        self.adopt_known();
        let of_cluster = shadowed.into_iter().filter(|(name, _)| self.derived.contains_key(name));
        problems.extend(of_cluster.map(|(name, why)| format!("{name}: {why}")));
        (changed, problems)
    }

    /// What a cluster asked for last.
    pub fn cluster_services(&self) -> &[written::Service] {
        &self.told
    }
}
