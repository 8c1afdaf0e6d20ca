use bytemuck::{Pod, Zeroable};

/// Packets that ended with one reason at one service. Per CPU. Bytes are those of the frame.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct ReasonStats {
    pub packets: u64,
    pub bytes: u64,
}

/// Traffic of one backend of one service. Per CPU. Bytes are those of the frame as it came in.
///
/// A forwarded packet is counted here and nowhere else: the service's `forwarded` is the sum over its backends.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct BackendStats {
    /// To the backend, out of the interface that the packet came in by.
    pub tx: u64,
    /// To the backend, out of another interface.
    pub redirect: u64,
    pub bytes: u64,
    /// Replies that were translated (`nat`), likewise.
    pub reply_tx: u64,
    pub reply_redirect: u64,
    pub reply_bytes: u64,
    /// New flows: SYNs in `dsr`, created entries in `nat`.
    pub flows: u64,
    pub reserved: u64,
}

const _: () = assert!(size_of::<BackendStats>() == 64);
