use std::fmt;

use serde::{Deserialize, Serialize};

use super::Admin;
use crate::{
    health::Health,
    model::{BackendState, Weight},
    weights::Factor,
};

/// Why a backend has the state that it has. Where several reasons hold, the first of this list counts: who is not to be reached at all comes before
/// who is only to be spared new flows, because a dead backend's old flows are not saved by the wish to drain it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The operator took it out.
    Maintenance,
    /// Its heartbeat failed.
    Unhealthy,
    /// Never checked so far: gets nothing.
    Unchecked,
    /// The operator drains it.
    Draining,
    /// It is suspected: new flows elsewhere until that is cleared up, old ones stay.
    Suspected,
    /// Its weight is 0: no new flows; old ones stay, but as those of a live backend.
    Weightless,
    /// Came back a while ago; its share grows.
    Recovering,
    /// Takes its full share.
    Serving,
}

impl Standing {
    /// `ramp`: factor of the slow start.
    pub fn of(admin: Admin, health: Health, weight: Weight, ramp: Factor) -> Self {
        match (admin, health) {
            (Admin::Maintenance | Admin::Removed, _) => Self::Maintenance,
            (_, Health::Down) => Self::Unhealthy,
            (_, Health::Unknown) => Self::Unchecked,
            (Admin::Drain, Health::Up | Health::Soft) => Self::Draining,
            (Admin::In, Health::Soft) => Self::Suspected,
            (Admin::In, Health::Up) if weight.0 == 0 => Self::Weightless,
            (Admin::In, Health::Up) if ramp < Factor::ONE => Self::Recovering,
            (Admin::In, Health::Up) => Self::Serving,
        }
    }

    /// What is published.
    pub fn state(self) -> BackendState {
        match self {
            Self::Maintenance => BackendState::Maintenance,
            Self::Unhealthy | Self::Unchecked => BackendState::Down,
            Self::Draining => BackendState::Draining,
            Self::Suspected => BackendState::Soft,
            Self::Recovering => BackendState::Recovering,
            Self::Weightless | Self::Serving => BackendState::Active,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Maintenance => "in maintenance",
            Self::Unhealthy => "heartbeat failed",
            Self::Unchecked => "not checked yet",
            Self::Draining => "drained by the operator",
            Self::Suspected => "suspected",
            Self::Weightless => "weight 0",
            Self::Recovering => "coming back",
            Self::Serving => "in service",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination() {
        use {Admin::*, BackendState as S, Health::*};
        let one = (Weight::ONE, Factor::ONE);
        let rows = [
            (Maintenance, Up, one, Standing::Maintenance, S::Maintenance),
            (Maintenance, Down, one, Standing::Maintenance, S::Maintenance),
            (Maintenance, Unknown, one, Standing::Maintenance, S::Maintenance),
            (Removed, Up, one, Standing::Maintenance, S::Maintenance),
            (Drain, Up, one, Standing::Draining, S::Draining),
            (Maintenance, Soft, one, Standing::Maintenance, S::Maintenance),
            (Drain, Soft, one, Standing::Draining, S::Draining),
            (In, Soft, one, Standing::Suspected, S::Soft),
            (In, Soft, (Weight(0), Factor(204)), Standing::Suspected, S::Soft),
            (Drain, Down, one, Standing::Unhealthy, S::Down),
            (Drain, Unknown, one, Standing::Unchecked, S::Down),
            (Drain, Up, (Weight(0), Factor(1)), Standing::Draining, S::Draining),
            (In, Down, one, Standing::Unhealthy, S::Down),
            (In, Unknown, one, Standing::Unchecked, S::Down),
            (In, Up, (Weight(0), Factor(1)), Standing::Weightless, S::Active),
            (In, Up, (Weight(9), Factor(204)), Standing::Recovering, S::Recovering),
            (In, Up, one, Standing::Serving, S::Active),
        ];
        for (admin, health, (weight, ramp), standing, state) in rows {
            let got = Standing::of(admin, health, weight, ramp);
            assert_eq!((got, got.state()), (standing, state), "{admin:?} {health:?} {weight:?} {ramp:?}");
        }
    }
}
