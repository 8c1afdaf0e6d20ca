//! Leave for aya's typed maps to carry the types of the contract.

use super::{
    Addr, AgentLink, AgentStats, AgentVip, Backend, BackendLoad, BackendSignals, BackendStats, Config, Explained, FlowBucket, FlowLogStats,
    LedgerBucket, LedgerCrowd, LedgerStats, LedgerTags, NatBucket, NatFlow, NatGauges, ReasonStats, Schedule, ScheduleStats, ServiceInfo,
    SlotWord, SlotsRefused, SlotsSeen, Vip, clock::ClockReading, probe::ProbeWay,
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
    BackendLoad,
    BackendSignals,
    BackendStats,
    ClockReading,
    Config,
    Explained,
    FlowBucket,
    FlowLogStats,
    LedgerBucket,
    LedgerCrowd,
    LedgerStats,
    LedgerTags,
    NatBucket,
    NatFlow,
    NatGauges,
    ProbeWay,
    ReasonStats,
    Schedule,
    ScheduleStats,
    ServiceInfo,
    SlotWord,
    SlotsRefused,
    SlotsSeen,
    Vip
);
