//! The detector of suspicion: how strongly several channels say that a backend is gone, and what follows. Pure; takes `now`.
//!
//! Suspicion is phi = -log10(P(a live backend looks like this)), so that channels add up like independent evidence.

mod budget;
mod damping;
mod guard;
mod phi;
mod rules;
mod silence;
mod states;
#[cfg(test)]
mod tests;

pub use budget::{Budget, Limits};
pub use damping::Damping;
pub use guard::Guard;
pub use phi::{Gaps, Logistic, PROBE_CAP, Unanswered, fleet_silence};
pub use rules::{Detection, PhiRules, Pulse, PulseKind};
pub use silence::Silence;
pub use states::{App, Change, Detector, Permit, Phase, Signals};
