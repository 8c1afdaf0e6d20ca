//! What the maps have to say of a service when its publication is done.

use mesh_common::abi::{Backend, BackendState, Config, Mode, ServiceFlags, SlotFlags, SlotWord, Vip, quic_key, quic_length, quic_service};
use proptest::prelude::*;

use super::world::World;
use crate::{
    dataplane::{
        image::words_of,
        layout::{addr_of, socket_of, vip_key},
        reconcile::Hops,
    },
    plan::ServicePlan,
};

impl World {
    /// Local indices that connection ids lead to, by their keys.
    pub fn named(&self, vip: &Vip) -> Vec<(u64, u16)> {
        let length = (vip.flags & ServiceFlags::QUIC) >> ServiceFlags::QUIC_SHIFT;
        let all = self.image.ids.all().unwrap_or_default().into_iter();
        let asked = all.filter(|(key, _)| length > 0 && quic_service(*key) == vip.service && quic_length(*key) == length as u8);
        asked.map(|(key, local)| (key, local as u16)).collect()
    }

    pub fn check_published(&self, plan: &ServicePlan) -> Result<(), TestCaseError> {
        let vip = self.find(&vip_key(&plan.vip)).ok_or_else(|| TestCaseError::fail(format!("{} is not found", plan.vip)))?;
        let nat = plan.mode == Mode::Nat;
        // Where nobody translates, a table that was larger stays so: each planned slot is several.
        let more = vip.table.log2_slots().checked_sub(u32::from(plan.table.log2_slots));
        prop_assert_eq!((vip.mode, more.is_some_and(|more| !nat || more == 0)), (plan.mode as u8, true));
        let info = self.image.services.get(vip.service as usize);
        prop_assert_eq!((info.addr, info.port, info.backend_base), (vip.addr, vip.port, vip.backend_base));
        let at = |local: u16| self.image.backends.get((vip.backend_base + u32::from(local)) as usize);
        for (i, word) in self.image.slots.table(vip.table.base(), 1 << vip.table.log2_slots()).enumerate() {
            let i = i >> more.unwrap_or(0);
            let alive = |member: u16| plan.members.get(usize::from(member)).is_some_and(|m| m.state.keeps_old());
            if !nat && !alive(plan.table.owner[i]) {
                continue;
            }
            prop_assert_eq!((word.target(), word.flags()), (word.default(), SlotFlags::STEADY));
            for (local, member) in [(word.target(), plan.table.owner[i]), (word.secondary(), plan.table.secondary[i])] {
                let planned = plan.members.get(usize::from(member)).map(|m| m.id.0);
                let found = Some(local).filter(|l| *l != SlotWord::NONE).and_then(|l| socket_of(at(l).addr, vip.family, at(l).port));
                prop_assert_eq!(found, planned);
            }
        }
        let service = &self.layout.services[&vip.service];
        let named = self.named(&vip);
        prop_assert!(plan.ways.quic.is_some() || named.is_empty() && service.ids.is_empty());
        for (member, id) in plan.members.iter().filter_map(|m| Some((m, m.quic?))) {
            let key = quic_key(service.id, plan.ways.quic.unwrap_or_default(), id);
            prop_assert_eq!(named.iter().find(|(found, _)| *found == key).map(|(_, local)| *local), service.local(&member.id));
        }
        for member in &plan.members {
            let entry = at(service.local(&member.id).unwrap());
            // Who is drained and nobody stands in for goes on.
            let state = BackendState::from_u8(entry.state);
            let goes_on = !nat && member.state == BackendState::Draining && state.takes_new();
            prop_assert_eq!((entry.addr, state), (addr_of(member.id.0.ip()).0, if goes_on { state } else { member.state }));
            prop_assert!(service.present().filter(|(_, e)| e.stats == entry.stats).count() == 1);
            match self.hops.hop(member.id.0.ip()) {
                None => prop_assert_eq!(entry.flags & Backend::READY, 0),
                Some(hop) => {
                    prop_assert_eq!(
                        (entry.flags, entry.ifindex, entry.dst_mac, entry.src_mac),
                        (Backend::READY | if member.id.0.is_ipv6() { Backend::V6 } else { 0 }, hop.ifindex, hop.dst_mac, hop.src_mac)
                    );
                    if plan.mode == Mode::Nat {
                        let at = std::mem::offset_of!(Config, sources) / 8 + 3 * usize::from(entry.nat_source);
                        let source: Vec<u64> = self.image.config.run(0, at, 2).collect();
                        prop_assert_eq!(source, words_of(&addr_of(hop.source).0).collect::<Vec<_>>());
                    }
                }
            }
        }
        Ok(())
    }
}
