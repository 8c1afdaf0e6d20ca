//! Neighbours in use are kept alive by the kernel itself (NTF_EXT_MANAGED, Linux 5.16): it asks again before they expire.

use std::collections::{BTreeMap, BTreeSet};

use rtnetlink::{
    Handle,
    packet_route::{
        neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourState},
        route::RouteProtocol,
    },
};

use super::{
    super::{NetError, OWNER, answers, connect, order},
    resolve::{Key, Neighbour, NeighbourUse, Observed},
};

/// One order about a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Have the kernel resolve it and keep it alive.
    Manage(Key),
    /// It is known: let it age like any other, for the host may use it.
    HandBack(Key),
    /// It never answered: take it away.
    Delete(Key),
}

/// Which neighbours this life of the daemon answers for.
#[derive(Default, Debug)]
pub struct Keepalive {
    ours: BTreeSet<Key>,
}

impl Keepalive {
    /// What has to be done so that exactly `wanted` is kept alive. The steps count as done: what fails is tried again after [`Self::recheck`].
    pub fn plan(&mut self, wanted: &BTreeSet<Key>, seen: &BTreeMap<Key, Neighbour>) -> Vec<Step> {
        let mut steps: Vec<Step> = wanted.iter().filter(|key| self.must_manage(key, seen)).map(|key| Step::Manage(*key)).collect();
        steps.extend(self.ours.difference(wanted).filter_map(|key| release(*key, seen.get(key)?)));
        self.ours.retain(|key| wanted.contains(key));
        self.ours.extend(steps.iter().filter_map(|step| if let Step::Manage(key) = step { Some(*key) } else { None }));
        steps
    }

    fn must_manage(&self, key: &Key, seen: &BTreeMap<Key, Neighbour>) -> bool {
        // The kernel clears NUD_PERMANENT of an entry that becomes managed: those of others are left alone.
        let untouchable = |n: &Neighbour| n.managed || n.state == NeighbourUse::Fixed;
        !self.ours.contains(key) && !seen.get(key).is_some_and(untouchable)
    }

    /// Takes over what an earlier life of the daemon has left.
    pub fn adopt(&mut self, seen: &BTreeMap<Key, Neighbour>) {
        self.ours.extend(seen.iter().filter(|(_, n)| n.managed && n.ours).map(|(key, _)| *key));
    }

    /// The kernel has dropped `key` (link down, flush): it may be asked for again.
    pub fn forgot(&mut self, key: Key) {
        self.ours.remove(&key);
    }

    /// After a full read: what is not managed by now has been refused or changed by others.
    pub fn recheck(&mut self, seen: &BTreeMap<Key, Neighbour>) {
        self.ours.retain(|key| seen.get(key).is_some_and(|n| n.managed));
    }
}

fn release(key: Key, neighbour: &Neighbour) -> Option<Step> {
    match (neighbour.managed && neighbour.ours, neighbour.state) {
        (false, _) | (_, NeighbourUse::Fixed) => None,
        (true, NeighbourUse::Valid) => Some(Step::HandBack(key)),
        (true, NeighbourUse::Incomplete | NeighbourUse::Failed) => Some(Step::Delete(key)),
    }
}

/// Carries one step out.
pub async fn execute(handle: &Handle, step: Step) -> Result<(), NetError> {
    match step {
        Step::Manage(key) => {
            let what = format!("have the kernel keep neighbour {} alive", key.1);
            let mut request = handle.neighbours().add(key.0, key.1).state(NeighbourState::None).replace();
            let attributes = &mut request.message_mut().attributes;
            attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
            attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(OWNER)));
            order(&what, request.execute()).await
        }
        Step::HandBack((ifindex, address)) => {
            let what = format!("let neighbour {address} age");
            order(&what, handle.neighbours().add(ifindex, address).state(NeighbourState::Stale).replace().execute()).await
        }
        Step::Delete(key) => delete(handle, key).await,
    }
}

async fn delete(handle: &Handle, (ifindex, address): Key) -> Result<(), NetError> {
    let what = format!("take neighbour {address} away");
    let message = handle.neighbours().add(ifindex, address).message_mut().clone();
    match order(&what, handle.neighbours().del(message).execute()).await {
        Err(e) if e.errno() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Lets go of every neighbour that a daemon of this project keeps alive in this network namespace, and says how many there were: for `detach`,
/// when nothing is forwarded any more.
pub async fn release_all() -> Result<usize, NetError> {
    let handle = connect()?;
    let mut observed = Observed::default();
    for message in answers("list the neighbours", handle.neighbours().get().execute()).await? {
        observed.new_neighbour(&message);
    }
    let mut keepalive = Keepalive::default();
    keepalive.adopt(&observed.neighbours);
    let steps = keepalive.plan(&BTreeSet::new(), &observed.neighbours);
    for step in &steps {
        execute(&handle, *step).await?;
    }
    Ok(steps.len())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const KEY: Key = (3, IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

    fn seen(state: NeighbourUse, managed: bool, ours: bool) -> BTreeMap<Key, Neighbour> {
        [(KEY, Neighbour { state, mac: Some([2; 6]), managed, ours })].into()
    }

    #[test]
    fn asks_once_and_again_only_if_it_got_lost() {
        let (mut keepalive, wanted, nothing) = (Keepalive::default(), BTreeSet::from([KEY]), BTreeMap::new());
        assert_eq!(keepalive.plan(&wanted, &nothing), [Step::Manage(KEY)]);
        assert_eq!(keepalive.plan(&wanted, &nothing), []);
        keepalive.forgot(KEY);
        assert_eq!(keepalive.plan(&wanted, &nothing), [Step::Manage(KEY)]);
        keepalive.recheck(&seen(NeighbourUse::Valid, true, true));
        assert_eq!(keepalive.plan(&wanted, &seen(NeighbourUse::Valid, true, true)), []);
        keepalive.recheck(&seen(NeighbourUse::Valid, false, false));
        assert_eq!(keepalive.plan(&wanted, &seen(NeighbourUse::Valid, false, false)), [Step::Manage(KEY)]);
    }

    #[test]
    fn entries_of_others_are_never_touched() {
        let wanted = BTreeSet::from([KEY]);
        for table in [seen(NeighbourUse::Fixed, false, false), seen(NeighbourUse::Valid, true, false)] {
            let mut keepalive = Keepalive::default();
            keepalive.adopt(&table);
            assert_eq!(keepalive.plan(&wanted, &table), []);
            assert_eq!(keepalive.plan(&BTreeSet::new(), &table), []);
        }
    }

    #[test]
    fn lets_go_of_what_is_no_longer_used() {
        let rows = [
            (seen(NeighbourUse::Valid, true, true), vec![Step::HandBack(KEY)]),
            (seen(NeighbourUse::Failed, true, true), vec![Step::Delete(KEY)]),
            (seen(NeighbourUse::Fixed, false, true), vec![]),
            (seen(NeighbourUse::Valid, false, true), vec![]),
            (BTreeMap::new(), vec![]),
        ];
        for (table, steps) in rows {
            let mut keepalive = Keepalive::default();
            keepalive.plan(&BTreeSet::from([KEY]), &BTreeMap::new());
            assert_eq!(keepalive.plan(&BTreeSet::new(), &table), steps);
            assert_eq!(keepalive.plan(&BTreeSet::new(), &table), []);
        }
    }

    #[test]
    fn a_restarted_daemon_answers_for_what_it_left() {
        let table = seen(NeighbourUse::Valid, true, true);
        let mut keepalive = Keepalive::default();
        keepalive.adopt(&table);
        assert_eq!(keepalive.plan(&BTreeSet::from([KEY]), &table), []);
        assert_eq!(keepalive.plan(&BTreeSet::new(), &table), [Step::HandBack(KEY)]);
    }
}
