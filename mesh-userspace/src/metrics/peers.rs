//! What other nodes say, as metrics.

use super::{
    flag,
    page::{Labels, Page},
    seconds,
};
use crate::control::view::{FlowsState, PeersView};

pub(super) fn peers(page: &mut Page, peers: &PeersView) {
    for peer in &peers.nodes {
        let address = peer.address.to_string();
        let labels = Labels::of(&[("peer", &address)]);
        page.gauge("mesh_peer_fresh", &labels, flag(peer.fresh));
        if let Some(age) = peer.age_ms {
            page.gauge("mesh_peer_age_seconds", &labels, seconds(age, 1e3));
        }
        page.gauge("mesh_peer_doubts", &labels, f64::from(peer.doubts));
        let flows = &peer.flows;
        page.gauge("mesh_peer_counted", &labels, flag(matches!(flows.state, FlowsState::Here | FlowsState::Awaited | FlowsState::Joining)));
        page.gauge("mesh_peer_epoch", &labels, flows.epoch as f64);
        page.gauge("mesh_peer_epochs_behind", &labels, flows.behind as f64);
        page.gauge("mesh_peer_entries_waiting", &labels, flows.waiting as f64);
        page.counter("mesh_peer_entries_sent_total", &labels, flows.sent);
        page.counter("mesh_peer_entries_received_total", &labels, flows.received);
        page.counter("mesh_peer_messages_repeated_total", &labels, flows.again);
        page.counter("mesh_peer_messages_garbled_total", &labels, flows.garbled);
    }
    page.gauge("mesh_peers_joining", &Labels::default(), flag(peers.joining));
    page.counter("mesh_peers_entries_refused_total", &Labels::default(), peers.no_room);
    for (why, count) in [("forged", peers.forged), ("other", peers.refused)] {
        page.counter("mesh_peer_refused_datagrams_total", &Labels::of(&[("why", why)]), count);
    }
}
