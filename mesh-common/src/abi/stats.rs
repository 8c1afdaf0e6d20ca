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
    /// RSTs that clients sent, and that the backend sent (where its answers come by). They count on from 0 after `u32::MAX`.
    pub client_resets: u32,
    pub backend_resets: u32,
}

const _: () = assert!(size_of::<BackendStats>() == 64);

/// Steps of a histogram of times.
pub const TIME_STEPS: usize = 32;

/// How TCP handshakes with one backend went, and for how long connections stayed, of flows drawn at random (see [`super::Config::sample_mask`]). All CPUs add to it.
///
/// Times are in units of 1024 ns, from the first SYN on; step `i` of a histogram counts those from 2^i on and below 2^(i+1), step 0 also those of 0.
/// Flows whose SYN came more than once have no times: nobody knows which of them was answered.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct BackendSignals {
    /// Flows that were drawn.
    pub sampled: u64,
    /// SYNs of theirs that came again before the handshake was over.
    pub syn_retransmits: u64,
    /// Sum of the times to the SYN-ACK, where answers come by.
    pub answer_time: u64,
    /// Sum of the times to the client's first ACK.
    pub accept_time: u64,
    pub answers: [u32; TIME_STEPS],
    pub accepts: [u32; TIME_STEPS],
    /// Flows whose first FIN came by, and the sum of the times to it. SYNs that came again count.
    pub stays: u64,
    pub stay_time: u64,
    /// Flows that ended by a RST after their handshake.
    pub aborted: u64,
    pub reserved: u64,
}

const _: () = assert!(size_of::<BackendSignals>() == 320);

impl BackendSignals {
    /// Nanoseconds to the unit of times, as a shift.
    pub const TIME_SHIFT: u32 = 10;

    /// Flows that the backend answered, and that the client then acknowledged.
    pub fn handshakes(&self) -> (u64, u64) {
        let count = |steps: &[u32]| steps.iter().map(|n| u64::from(*n)).sum();
        (count(&self.answers), count(&self.accepts))
    }
}
