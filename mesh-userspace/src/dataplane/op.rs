//! One step of a publication, and its execution by plain stores.

use mesh_common::abi::{Backend, Config, NAT_SOURCES, NatSource, ServiceInfo, SlotWord, SourcePrefix};

use super::{
    image::{Image, words_of},
    vip_index::VipTable,
};

/// A step. Every prefix of a batch of steps leaves tables that packets may be forwarded by.
#[derive(Clone, Debug)]
pub enum Op {
    /// A source address of translated flows.
    Source { index: u16, value: NatSource },
    /// Which source addresses flows of a family share, see [`Config::shares`].
    Shares { v6: bool, value: [u8; NAT_SOURCES] },
    /// Entries of the backend map that no slot names.
    Backends { base: u32, entries: Vec<Backend> },
    /// One word of a backend's entry that slots may name.
    BackendWord { at: u32, word: u8, value: u64 },
    /// What replies need of a service.
    Service { id: u32, value: ServiceInfo },
    /// One word of it.
    ServiceWord { id: u32, word: u8, value: u64 },
    /// A list of sources that no VIP leads to.
    List { prefixes: Vec<SourcePrefix> },
    /// Whom a server id names, by [`mesh_common::abi::quic_key`]; `None` = nobody.
    QuicId { key: u64, local: Option<u16> },
    /// A table in an extent that no VIP leads to.
    Table { base: u32, slots: Vec<SlotWord> },
    /// Slots of a table in use, each a store of its own: (place in the arena, word).
    Slots { changes: Vec<(u32, SlotWord)> },
    /// One word of a VIP in use: the flip of its table, or of its extent of backends.
    VipWord { at: u32, word: u8, value: u64 },
    /// The half of the VIP map that is not searched.
    Index(Box<VipTable>),
    /// The flip of the halves, with the flags of [`Config`] that tell what the new one holds.
    Active { half: u32, flags: u32 },
    /// Wait until no packet is under way that can have read what stood before.
    Grace,
}

/// Words of [`Backend`] by their place.
pub mod backend_word {
    /// `dst_mac`, `port`.
    pub const DST: u8 = 2;
    /// `src_mac`, `mtu`.
    pub const SRC: u8 = 3;
    /// `ifindex`, `state`, `flags`, `nat_source`.
    pub const STATE: u8 = 4;
    /// `stats`, `dnat_csum`, `addr_csum`.
    pub const SUMS: u8 = 5;
    /// `source`, two words.
    pub const SOURCE: u8 = 6;
}

/// Words of [`mesh_common::abi::Vip`] by their place.
pub mod vip_word {
    /// `table`.
    pub const TABLE: u8 = 3;
    /// `backend_base`, `mode`, `kind`, `flags`.
    pub const BASE: u8 = 4;
    /// `ports`, `source_limit`.
    pub const PORTS: u8 = 6;
    /// `service_limit`, `list`.
    pub const LIMIT: u8 = 7;
}

/// Words of [`ServiceInfo`] by their place.
pub mod service_word {
    /// `port`, `proto`, `family`, `backend_base`.
    pub const BASE: u8 = 2;
    /// `backend_capacity`, `flags`.
    pub const CAPACITY: u8 = 3;
}

impl Op {
    /// Slots that this step writes.
    pub fn slots_written(&self) -> usize {
        match self {
            Self::Table { slots, .. } => slots.len(),
            Self::Slots { changes } => changes.len(),
            _ => 0,
        }
    }

    /// Executes the step; `grace` is how to wait.
    pub fn apply(&self, image: &Image, grace: &mut impl FnMut()) {
        match self {
            Self::Source { index, value } => {
                let at = std::mem::offset_of!(Config, sources) / 8 + usize::from(*index) * (size_of::<NatSource>() / 8);
                image.config.set_run(0, at, words_of(value));
            }
            Self::Shares { v6, value } => {
                let at = (std::mem::offset_of!(Config, shares) + if *v6 { NAT_SOURCES } else { 0 }) / 8;
                image.config.set_run(0, at, words_of(value));
            }
            Self::Backends { base, entries } => {
                for (at, entry) in (*base as usize..).zip(entries) {
                    image.backends.set(at, entry);
                }
            }
            Self::BackendWord { at, word, value } => image.backends.set_word(*at as usize, usize::from(*word), *value),
            Self::Service { id, value } => image.services.set(*id as usize, value),
            Self::ServiceWord { id, word, value } => image.services.set_word(*id as usize, usize::from(*word), *value),
            Self::List { prefixes } => image.lists.put(prefixes),
            Self::QuicId { key, local } => image.ids.put(*key, *local),
            Self::Table { base, slots } => image.slots.set_table(*base, slots),
            Self::Slots { changes } => {
                for (at, slot) in changes {
                    image.slots.set_word(*at as usize, 0, slot.0);
                }
            }
            Self::VipWord { at, word, value } => image.vips.set_word(*at as usize, usize::from(*word), *value),
            Self::Index(table) => table.write(image),
            Self::Active { half, flags } => {
                const OURS: u32 = Config::NAT | Config::DNAT | Config::RANGES | Config::TUNNEL;
                let others = (image.config.word(0, 0) >> 32) as u32 & !OURS;
                image.config.set_word(0, 0, u64::from(others | flags) << 32 | u64::from(Config::active(*half)));
            }
            Self::Grace => grace(),
        }
    }
}
