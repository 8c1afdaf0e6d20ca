//! Nodes that begin with defaults of their own, as after a start: what may be asked of flows until they have come to the same one.

use mesh_common::abi::SlotFlags;

use crate::{
    node::{NEVER, Node, Remembered},
    world::{Event, Flow, World},
};

impl<const FLOWS: usize> World<FLOWS> {
    /// While nodes have defaults that no change has brought about, a flow that begins before both remember what begins is its node's until both know it. When they have come to the same default, they know each other's flows by it or by entries.
    pub fn bind(&mut self, event: Event, before: &[Flow; FLOWS]) {
        self.setup.parted = self.nodes[0].default() != self.nodes[1].default();
        let unheard = !self.nodes.iter().all(if self.setup.handshakes { Node::records } else { Node::learns });
        if let Event::Syn(flow, node) | Event::Data(flow, node) = event
            && before[flow] == Flow::None
            && unheard
        {
            self.bound[flow] = Some(node as u8);
        }
        for flow in 0..FLOWS {
            if !self.setup.parted || self.flows[flow] == Flow::None || self.is_known_to_both(flow) {
                self.bound[flow] = None;
            }
        }
    }

    /// Both know the flow by an entry of its own, and go by it.
    fn is_known_to_both(&self, flow: usize) -> bool {
        let opening = matches!(self.flows[flow], Flow::Opening { .. });
        let own = |entry: &Remembered| entry.pending.is_none_or(|attempt| opening && attempt == 0);
        let backend = |node: &Node<FLOWS>| node.entries[flow].filter(|entry| !node.is_steady() && own(entry)).map(|entry| entry.backend);
        let [first, second] = [0, 1].map(|n| backend(&self.nodes[n]));
        first.is_some() && first == second
    }
}

impl<const FLOWS: usize> Node<FLOWS> {
    pub fn default(&self) -> u8 {
        self.word[1]
    }

    /// It remembers every SYN.
    pub fn records(&self) -> bool {
        self.recording != NEVER
    }

    /// It remembers whatever has no entry.
    pub fn learns(&self) -> bool {
        self.flags().has(SlotFlags::LEARN)
    }

    /// It remembers SYNs for others alone.
    pub fn only_prepares(&self) -> bool {
        self.flags().has(SlotFlags::PREPARE) && self.wish == self.word[0] && self.wish == self.default()
    }
}
