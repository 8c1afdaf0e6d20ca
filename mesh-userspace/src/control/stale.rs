//! Which services have to be planned anew.

use std::collections::BTreeSet;

use crate::model::ServiceName;

/// Services that something has changed for since the last plan. Whoever changes what a plan is made from says so here; where in doubt, all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stale {
    Some(BTreeSet<ServiceName>),
    All,
}

impl Stale {
    pub fn service(&mut self, name: &ServiceName) {
        if let Self::Some(names) = self
            && !names.contains(name)
        {
            names.insert(name.clone());
        }
    }
}

impl Default for Stale {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}
