//! Keeps the wanted VIPs on their interfaces, beside the loop: netlink may take its time, and an interface may come later.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tokio::sync::{mpsc, watch};

use crate::{
    dataplane::net::{Announced, Announcer, NetError},
    events::What,
};

/// An address and its interface.
pub type Place = (IpAddr, String);

/// What happened to the announcements.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Addresses that the daemon has put somewhere, now.
    pub ours: BTreeSet<Place>,
    pub events: Vec<What>,
}

/// How often the addresses are looked after: somebody may have taken one away, or an interface may have come.
const EVERY: Duration = Duration::from_secs(5);

/// Runs until `wanted` is closed. `ours`: what an earlier life of the daemon has put somewhere.
pub async fn run(
    announcer: Announcer,
    mut ours: BTreeSet<Place>,
    mut wanted: watch::Receiver<BTreeSet<Place>>,
    reports: mpsc::Sender<Report>,
) {
    // Failures that were told already: the same one is not told every few seconds.
    let mut told: BTreeSet<(Place, String)> = BTreeSet::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        let before = ours.clone();
        let mut events = Vec::new();
        for place in before.difference(&now) {
            match announcer.remove(place.0, &place.1).await {
                // With the interface its addresses are gone as well.
                Ok(_) | Err(NetError::NoSuchInterface(_)) => {
                    ours.remove(place);
                }
                Err(e) => failed(place, e.to_string(), &mut told, &mut events),
            }
        }
        for place in &now {
            match announcer.add(place.0, &place.1).await {
                Ok(how) => {
                    told.retain(|(p, _)| p != place);
                    if how == Announced::Foreign {
                        ours.remove(place);
                    } else {
                        ours.insert(place.clone());
                    }
                    if how == Announced::Added {
                        events.push(What::Announced { address: place.0, interface: place.1.clone() });
                    }
                }
                Err(e) => failed(place, e.to_string(), &mut told, &mut events),
            }
        }
        if (ours != before || !events.is_empty()) && reports.send(Report { ours: ours.clone(), events }).await.is_err() {
            return;
        }
        // Nothing is lost when a branch loses: the wish is a value that is looked at anew.
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

fn failed(place: &Place, error: String, told: &mut BTreeSet<(Place, String)>, events: &mut Vec<What>) {
    if told.insert((place.clone(), error.clone())) {
        events.push(What::AnnounceFailed { address: place.0, interface: place.1.clone(), error });
    }
}
