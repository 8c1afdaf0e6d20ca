//! Who else may have the flow, told by TC's helpers.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use mesh_common::{
    flow::Address,
    gue,
    rewrite::{Encap, Outer},
};

use super::Skb;

impl Skb {
    /// GUE's list of who else may have the flow, at `offset`.
    #[inline(always)]
    pub(super) fn list(&mut self, encap: &Encap, offset: usize) -> Option<()> {
        let (head, hop) = match encap.outer {
            Outer::V4 { hop: Some(hop), .. } => (gue::head(encap.inner, false), hop.words()),
            Outer::V6 { hop: Some(hop), .. } => (gue::head(encap.inner, true), hop.words()),
            _ => return Some(()),
        };
        self.store(offset, head.to_ne_bytes(), BPF_F_RECOMPUTE_CSUM as u64)?;
        if let Outer::V4 { .. } = encap.outer {
            return self.store(offset + 8, (hop[0] as u32).to_ne_bytes(), BPF_F_RECOMPUTE_CSUM as u64);
        }
        self.store(offset + 8, hop[0].to_ne_bytes(), BPF_F_RECOMPUTE_CSUM as u64)?;
        self.store(offset + 16, hop[1].to_ne_bytes(), BPF_F_RECOMPUTE_CSUM as u64)
    }
}
