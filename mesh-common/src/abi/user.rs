//! Leave for aya's typed maps to carry the types of the contract.

use super::{
    Addr, AgentLink, AgentStats, AgentVip, Backend, BackendSignals, BackendStats, Config, Explained, FlowLogStats, LedgerBucket,
    LedgerStats, NatBucket, NatFlow, NatGauges, ReasonStats, ServiceInfo, SlotMemo, SlotWord, Vip, probe::ProbeWay,
};

macro_rules! pod {
    ($($t:ty),+) => {
        $(
            // SAFETY: the type is `bytemuck::Pod`: any bytes are a value of it, and it has no padding.
            unsafe impl aya::Pod for $t {}
        )+
    };
}

pod!(
    Addr,
    AgentLink,
    AgentStats,
    AgentVip,
    Backend,
    BackendSignals,
    BackendStats,
    Config,
    Explained,
    FlowLogStats,
    LedgerBucket,
    LedgerStats,
    NatBucket,
    NatFlow,
    NatGauges,
    ProbeWay,
    ReasonStats,
    ServiceInfo,
    SlotMemo,
    SlotWord,
    Vip
);
