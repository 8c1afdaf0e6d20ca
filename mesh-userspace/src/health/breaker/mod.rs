//! The circuit breaker: what clients' flows say of a backend, and how much of them it is let have. Pure; takes `now`.
//!
//! ```text
//! counters of the kernel half -> Meter -> Reading -> Breaker (closed, open, half-open) -> Gate -> the plan
//! flows open and begun -----------------------------> Limiter (full or not) -----------/
//! ```

mod limits;
mod machine;
mod meter;
#[cfg(test)]
mod tests;
mod ward;

use serde::{Deserialize, Serialize};

pub use limits::{Full, Limiter};
pub use machine::{Breaker, Cause, Change, Circuit, Permit, Reading, Rules};
pub use meter::{Counted, Course, Meter, excess};
pub use ward::{Case, News, Row, Ward};

use crate::weights::Factor;

/// What of a backend's new flows is let through.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// All of them.
    #[default]
    Free,
    /// A share, to see how it does.
    Trial(Factor),
    /// None: it has as many as it may have.
    Full,
    /// None: too much goes wrong there.
    Open,
}
