//! Endpoints of a registry that has one key for each.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fit, Outlet, Update, entry};
use crate::model::{BackendId, Endpoint};

/// What the keys say, and what of it was told.
#[derive(Debug)]
pub(super) struct Keyed {
    fit: Fit,
    keys: BTreeMap<String, Endpoint>,
    /// Keys whose content is no endpoint; what they said before holds.
    problems: BTreeMap<String, String>,
    told: Option<BTreeMap<BackendId, Endpoint>>,
}

/// Problems that are told in full.
const SHOWN: usize = 3;

impl Keyed {
    pub fn new(fit: Fit) -> Self {
        Self { fit, keys: BTreeMap::new(), problems: BTreeMap::new(), told: None }
    }

    pub fn put(&mut self, key: &str, content: &[u8]) {
        match entry::from_node(key, content).and_then(|told| self.fit.endpoint(told)) {
            Ok(endpoint) => {
                self.problems.remove(key);
                self.keys.insert(key.to_owned(), endpoint);
            }
            Err(problem) => {
                self.problems.insert(key.to_owned(), problem);
            }
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.keys.remove(key);
        self.problems.remove(key);
    }

    /// Only these keys are there.
    pub fn retain(&mut self, there: &BTreeSet<String>) {
        self.keys.retain(|key, _| there.contains(key));
        self.problems.retain(|key, _| there.contains(key));
    }

    /// The next update says all.
    pub fn tell_all(&mut self) {
        self.told = None;
    }

    /// Tells what has changed, or at least that the registry answers.
    pub async fn tell(&mut self, outlet: &Outlet) {
        let problem = self.problem();
        let updates = self.updates();
        if updates.is_empty() {
            outlet.good(None, problem.clone()).await;
        }
        for update in updates {
            outlet.good(Some(update), problem.clone()).await;
        }
    }

    /// What has changed since it was told last.
    pub fn updates(&mut self) -> Vec<Update> {
        // A backend at two keys is there as long as one of them is.
        let now: BTreeMap<BackendId, Endpoint> = self.keys.values().rev().map(|e| (e.id, e.clone())).collect();
        let Some(before) = self.told.replace(now.clone()) else { return vec![Update::Reset(now.into_values().collect())] };
        let removed: Vec<BackendId> = before.keys().filter(|id| !now.contains_key(id)).copied().collect();
        let added: Vec<Endpoint> = now.into_values().filter(|e| before.get(&e.id) != Some(e)).collect();
        let add = (!added.is_empty()).then_some(Update::Add(added));
        add.into_iter().chain((!removed.is_empty()).then_some(Update::Remove(removed))).collect()
    }

    /// What is wrong, in words.
    fn problem(&self) -> Option<String> {
        let shown: Vec<_> = self.problems.iter().take(SHOWN).map(|(key, why)| format!("{key}: {why}")).collect();
        let more = self.problems.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        (!shown.is_empty()).then(|| format!("{}{more}", shown.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mode, Proto, VipAddr};

    fn keyed() -> Keyed {
        let vip = VipAddr { addr: [192, 0, 2, 10].into(), port: 80, proto: Proto::Tcp };
        Keyed::new(Fit { vip, mode: Mode::Nat, port: 80 })
    }

    fn shown(updates: Vec<Update>) -> Vec<String> {
        let at = |es: Vec<Endpoint>| es.iter().map(|e| format!("{}*{}", e.id, e.weight.0)).collect::<Vec<_>>().join(" ");
        let one = |update| match update {
            Update::Reset(es) => format!("= {}", at(es)),
            Update::Add(es) => format!("+ {}", at(es)),
            Update::Remove(ids) => format!("- {}", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
            Update::Gone => "gone".to_owned(),
        };
        updates.into_iter().map(one).collect()
    }

    #[test]
    fn only_differences_are_told() {
        let mut keyed = keyed();
        keyed.put("a", b"10.0.0.1");
        assert_eq!(shown(keyed.updates()), ["= 10.0.0.1:80*1"]);
        keyed.put("b", br#"{"address": "10.0.0.2", "weight": 3}"#);
        keyed.put("c", b"10.0.0.1");
        assert_eq!(shown(keyed.updates()), ["+ 10.0.0.2:80*3"].map(str::to_owned).into_iter().collect::<Vec<_>>());
        keyed.remove("a");
        assert_eq!(shown(keyed.updates()), ["+ 10.0.0.1:80*1"], "the name is that of the other key");
        keyed.retain(&BTreeSet::from(["b".to_owned()]));
        assert_eq!(shown(keyed.updates()), ["- 10.0.0.1:80"]);
        keyed.tell_all();
        assert_eq!(shown(keyed.updates()), ["= 10.0.0.2:80*3"]);
        assert_eq!(keyed.problem(), None);
    }

    #[test]
    fn a_bad_value_keeps_the_good_one_and_is_told() {
        let mut keyed = keyed();
        keyed.put("a", b"10.0.0.1");
        keyed.updates();
        keyed.put("a", b"{");
        keyed.put("b", b"127.0.0.1");
        assert_eq!(shown(keyed.updates()), Vec::<String>::new());
        let problem = keyed.problem().unwrap();
        assert!(problem.contains("a: EOF") && problem.contains("b: 127.0.0.1 is a loopback address"), "{problem}");
        keyed.put("a", b"10.0.0.3");
        keyed.remove("b");
        assert_eq!(shown(keyed.updates()), ["+ 10.0.0.3:80*1", "- 10.0.0.1:80"]);
        assert_eq!(keyed.problem(), None);
    }
}
