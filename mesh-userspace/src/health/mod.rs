//! Whether each backend answers: a machine that judges (pure), probes that ask, a driver that asks on time and a watch to look at.
//!
//! ```text
//! control -set_targets-> watch -arrivals-> driver -> probe -> Sample -> machine -Transition-> HealthEvent -> control
//!                          ^------------- status of every target ------------'
//! ```

mod alarm;
mod ballot;
pub mod breaker;
mod check;
pub mod detector;
mod driver;
mod judge;
mod machine;
mod probe;
mod pulse;
mod stall;
mod watch;

pub use ballot::{Peer, Verdict, Votes, Word};
pub use check::{BadCheck, Check, CheckKind, ExecCheck, HttpCheck, Part, Reported, StatusSet, TargetKey, TlsCheck, TlsSettings, UdpCheck};
pub use driver::{Monitor, Options};
pub use machine::{Evidence, Health, Machine, Sample, Thresholds, Transition};
pub use probe::{Fault, Outcome, ProbeError, probe};
pub use pulse::PulseSockets;
pub use watch::{HealthEvent, MonitorHandle, PeerDesk, Suspicion, TargetStatus, Traffic, Waited};
