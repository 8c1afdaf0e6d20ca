//! Services that the daemon's loop has to do with all the time. Ten thousand others cost it nothing: to look at each takes milliseconds, and what is
//! urgent would wait for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{breaking::guarded, merge::Merged, observing::observed, weighing::is_weighed};
use crate::model::ServiceName;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roll {
    /// What their backends' traffic does counts for their health, ...
    pub observed: BTreeSet<ServiceName>,
    /// ... their breakers and limits, ...
    pub guarded: BTreeSet<ServiceName>,
    /// ... or their weights; or an agent says those.
    pub weighed: BTreeSet<ServiceName>,
}

impl Roll {
    pub fn of(services: &BTreeMap<ServiceName, Merged>) -> Self {
        let which = |is: fn(&Merged) -> bool| services.iter().filter(|(_, merged)| is(merged)).map(|(name, _)| name.clone()).collect();
        Self { observed: which(observed), guarded: which(guarded), weighed: which(is_weighed) }
    }

    /// A service is another one, or new.
    pub fn enter(&mut self, name: &ServiceName, merged: &Merged) {
        put(&mut self.observed, name, observed(merged));
        put(&mut self.guarded, name, guarded(merged));
        put(&mut self.weighed, name, is_weighed(merged));
    }
}

fn put(list: &mut BTreeSet<ServiceName>, name: &ServiceName, is: bool) {
    if !is {
        list.remove(name);
    } else if !list.contains(name) {
        list.insert(name.clone());
    }
}
